"""Which instruction sets the kernels that are built for several find here."""

from dali_icgan._native import native


def instruction_sets() -> tuple[str, ...]:
    """What this processor has of "avx512", "avx2" and "generic", the widest first."""
    return tuple(native().instruction_sets())
