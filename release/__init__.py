"""Makes the wheel for cluster nodes and what is needed to install it there: ``python -m release --help``, docs/cluster.md.

Not a part of the package. ``toolkit`` (a CUDA 12 compiler; ``debian`` fetches a part of it), ``glibc`` (a link for older systems), ``wheel`` (sdist, wheel, tag),
``contents`` (what is in it, and whether that is right), ``wheelhouse`` (it and all that it needs, for machines without a network),
``trial`` (installs it somewhere empty and runs ``smoke``), ``record`` (what was seen, and the page's table).
"""
