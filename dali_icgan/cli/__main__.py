"""``python -m dali_icgan.cli``, which torchrun starts."""

from dali_icgan.cli import main

main()
