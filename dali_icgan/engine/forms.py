"""Which form each layer takes on the CPU: a table, not a measurement, so that ranks and resumed runs agree to the bit."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dali_icgan.ops.winograd import TILES, instruction_sets

SHIPPED = Path(__file__).with_name("forms.json")


@dataclass(frozen=True)
class Forms:
    """Tiles of convolutions.

    Args:
        instructions: one of ``ops.winograd.instruction_sets()``.
        dtype: float32 or float64.
        tiles: of a layer's ``key``; a layer that is not there gets ``rule``'s.
    """

    instructions: str
    dtype: torch.dtype
    tiles: dict[str, int] = field(default_factory=dict)

    @classmethod
    def shipped(cls, dtype: torch.dtype, instructions: str | None = None) -> "Forms":
        """Those that come with the package.

        Args:
            dtype: float32 or float64.
            instructions: None: what ``DALI_ICGAN_INSTRUCTIONS`` says, so that unlike processors agree to the bit, else the widest here.

        Raises:
            ValueError: this processor does not have them.
        """
        have = instruction_sets()
        instructions = instructions or os.environ.get("DALI_ICGAN_INSTRUCTIONS") or have[0]
        if instructions not in have:
            raise ValueError(f"DALI_ICGAN_INSTRUCTIONS must be one of {', '.join(have)} here, got {instructions!r}")
        table = json.loads(SHIPPED.read_text())
        return cls(instructions, dtype, table.get(f"{instructions} {_name(dtype)}", {}))

    def tile(self, r: int, inputs: int, outputs: int, size: int) -> int:
        """The tile of a convolution of r x r taps, from ``inputs`` to ``outputs`` channels, over ``size`` x ``size`` pixels."""
        return self.tiles.get(key(r, inputs, outputs, size)) or rule(r, size)


def key(r: int, inputs: int, outputs: int, size: int) -> str:
    """How the table names a convolution."""
    return f"{r}x{r} {inputs}->{outputs} @{size}"


def rule(r: int, size: int) -> int:
    """Large tiles multiply least; on a map hardly larger than one they would compute what nobody reads."""
    largest = TILES[r][-1]
    return largest if size >= 2 * largest else TILES[r][-2] if r > 1 else 1


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
