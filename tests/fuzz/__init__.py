"""Hostile files: mutants of every file that the product reads, each checked in a child process. ``python -m tests.fuzz --help``.

A mutant must load as something valid, or be refused with an error of a few expected types that names the file. It must not crash, hang,
execute anything, take memory far beyond its size, or give a wrong label.

One module a domain: what it reads. Each has

* ``MUTANTS``: how many the long form takes;
* ``seeds()``: sound files, which must load;
* ``mutant(random)``: a damaged file, a function of the random numbers alone;
* ``check(data, folder)``: write it, have the product read it, and say what came of it in a word; an AssertionError is a finding;
* ``warm()``, where there is need: files after which a library has imported whatever it imports late;
* ``NAMED``: what the message of a refusal must contain.
"""

import os

# Domains of elsewhere, for tests of the runner.
__path__ = [*__path__, *filter(None, [os.environ.get("DALI_ICGAN_FUZZ_DOMAINS")])]

# The header parser has a program of its own, under sanitizers (image_header.py).
DOMAINS: tuple[str, ...] = (
    "forms",
    "class_map",
    "settings",
    "bank",
    "checkpoint",
    "safetensors",
    "instances",
    "loader",
    "state",
    "run_folder",
    "shard_tar",
    "shard_index",
    "folder_cache",
)
