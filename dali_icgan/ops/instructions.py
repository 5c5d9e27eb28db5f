"""Which instruction sets the kernels that are built for several find here."""

import torch

from dali_icgan._native import native

# Those with kernels of bfloat16: as numbers of their own, or as floats that are half as wide in memory.
BFLOAT16 = ("avx512_bf16", "avx512")


def instruction_sets(dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """Those of this processor that there are kernels of ``dtype`` for, the fastest first.

    Returns:
        Of float32 and float64: "avx512", "avx2" and "generic". Of bfloat16: "avx512_bf16" (AVX-512 with BF16, which multiplies pairs of
        them) and "avx512" (which widens them to floats first), or none. ("generic" kernels of bfloat16 exist as well, to test by, and
        are chosen by name alone.)
    """
    names = tuple(native().instruction_sets())
    if dtype != torch.bfloat16:
        return tuple(name for name in names if name != BFLOAT16[0])
    found = tuple(name for name in BFLOAT16 if name in names)
    return found if bfloat16_is_faster() else found[::-1]


def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32: one of AMD's with "avx512_bf16" (Zen 4 and later document twice the
    rate; Intel's with AVX512_BF16 have half of it). A property, not a measurement: it is the same in every process."""
    return bool(native().processor_multiplies_bfloat16_faster())


def widest_instructions(dtype: torch.dtype) -> str:
    """The first of :func:`instruction_sets`.

    Raises:
        ValueError: there is none.
    """
    have = instruction_sets(dtype)
    if not have:
        raise ValueError(f"dtype must be float32 or float64 on a processor without {BFLOAT16[-1]}, got {dtype}")
    return have[0]
