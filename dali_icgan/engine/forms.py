"""Which form each layer takes on the CPU: a table, not a measurement, so that ranks and resumed runs agree to the bit."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from dali_icgan.documents import read_json, shown
from dali_icgan.ops.instructions import BFLOAT16, instruction_sets
from dali_icgan.ops.winograd import TILES

_log = logging.getLogger("dali_icgan")

SHIPPED = Path(__file__).with_name("forms.json")
INSTRUCTIONS = "DALI_ICGAN_INSTRUCTIONS"

# Tiles of convolutions (their keys are key()'s), by the instruction set and dtype that they are for, as in "avx2 float32".
Table = Mapping[str, Mapping[str, int]]


def asked_instructions() -> str | None:
    """What the environment variable ``DALI_ICGAN_INSTRUCTIONS`` names, or None.

    Raises:
        ValueError: this processor does not have them.
    """
    asked = os.environ.get(INSTRUCTIONS)
    have = tuple(dict.fromkeys((*instruction_sets(torch.bfloat16), *instruction_sets())))
    if asked and asked not in have:
        raise ValueError(f"{INSTRUCTIONS} must be one of {', '.join(have)} here, got {asked!r}")
    return asked or None


def bfloat16_instructions() -> str | None:
    """In which instructions a plan of bfloat16 runs on this CPU: the fastest that it has, or those that ``DALI_ICGAN_INSTRUCTIONS`` names;
    None where there are no kernels for them, and float32 is what computes."""
    have, asked = instruction_sets(torch.bfloat16), asked_instructions()
    if asked:
        return asked if asked in have else None
    return have[0] if have else None


class Forms:
    """Tiles of convolutions.

    Args:
        instructions: one of ``ops.instruction_sets()``.
        dtype: float32, float64 or bfloat16.
        tiles: by ``key``; a convolution that is not there gets ``rule``'s.

    Attributes:
        instructions, dtype: as given.
        used: the tile of each convolution that was asked for, by ``key``.
    """

    def __init__(self, instructions: str, dtype: torch.dtype, tiles: Mapping[str, int] | None = None) -> None:
        self.instructions, self.dtype = instructions, dtype
        self._tiles = dict(tiles or {})
        self.used: dict[str, int] = {}

    @classmethod
    def of(cls, dtype: torch.dtype, table: "Table | str | Path | None" = None) -> "Forms":
        """Those for this processor: of ``table``, and where it says nothing those that come with the package.

        Args:
            dtype: float32, float64 or bfloat16.
            table: what ``dali-icgan tune`` wrote, or a loader's state holds; None for the package's alone.

        The instruction set is what ``DALI_ICGAN_INSTRUCTIONS`` says, so that unlike processors agree to the bit, else the widest here.

        Raises:
            ValueError: this processor does not have the instruction set, or the table is none.
            FileNotFoundError: there is no such file.
        """
        if dtype == torch.bfloat16:
            instructions = bfloat16_instructions() or ""
            if not instructions:
                raise ValueError(
                    f"dtype must be float32 or float64 without kernels of bfloat16 ({', '.join(BFLOAT16)}), got {dtype}"
                )
        else:
            instructions = _beside_bfloat16(asked_instructions() or instruction_sets(dtype)[0])
        name = table_name(instructions, dtype)
        given = {name: {}} if table is None else read_table(table)
        if name not in given:
            _log.warning("forms has nothing for %s, what computes here: the package's are taken", name)
        return cls(instructions, dtype, {**read_table(SHIPPED).get(name, {}), **given.get(name, {})})

    def instructions_of(self, dtype: torch.dtype) -> str:
        """Those of what is computed in ``dtype``: a plan of bfloat16 has float32 as well."""
        return self.instructions if dtype == self.dtype else _beside_bfloat16(self.instructions)

    def tile(self, r: int, inputs: int, outputs: int, size: int) -> int:
        """The tile of a convolution of r x r taps, from ``inputs`` to ``outputs`` channels, over ``size`` x ``size`` pixels."""
        name = key(r, inputs, outputs, size)
        self.used[name] = self._tiles.get(name) or rule(r, size, self.dtype)
        return self.used[name]

    def table(self) -> dict[str, dict[str, int]]:
        """What was used, as a table."""
        return {table_name(self.instructions, self.dtype): dict(self.used)}


def table_name(instructions: str, dtype: torch.dtype) -> str:
    """How a table names what its tiles are for."""
    return f"{instructions} {str(dtype).removeprefix('torch.')}"


def key(r: int, inputs: int, outputs: int, size: int) -> str:
    """How a table names a convolution."""
    return f"{r}x{r} {inputs}->{outputs} @{size}"


def rule(r: int, size: int, dtype: torch.dtype = torch.float32) -> int:
    """Large tiles multiply least; on a map hardly larger than one they would compute what nobody reads.

    Behind an upsampling (r = 2) no tile multiplies less than the taps one by one on maps up to 16 pixels wide, and none has as few
    weights. In bfloat16 large tiles round four times as much as a convolution without a transform, so the early blocks, whose errors all
    others carry on, do without: a generator's error was then 0.5 to 1.1 times that of the network as published, run in bfloat16.
    """
    if r == 2:
        return 1 if size <= 16 else 5
    largest = TILES[r][-1]
    least = 32 if dtype == torch.bfloat16 else 2 * largest
    return largest if size >= least else TILES[r][-2] if r > 1 else 1


def read_table(source: Table | str | Path, name: str = "forms") -> Table:
    """A table, checked; ``name`` is for messages, where it is no file.

    Raises:
        ValueError: it is none; the message names the entry.
        FileNotFoundError: there is no such file.
    """
    table = source
    if isinstance(source, (str, Path)):
        name = str(source)
        try:
            table = read_json(source, "a table of forms")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"forms must name a table of forms, there is no {name}") from error
    if not isinstance(table, Mapping):
        raise ValueError(f"{name} must be an object of objects, as 'dali-icgan tune' writes it, got {shown(table)}")
    for what, tiles in table.items():
        if not re.fullmatch(r"(avx512_bf16|avx512|avx2|generic) (float32|float64|bfloat16)", str(what)):
            raise ValueError(f"{name} must name what its tiles are for as 'avx512 float32', got {shown(what)}")
        if not isinstance(tiles, Mapping):
            raise ValueError(f"{name} must hold the tiles of {shown(what)} in an object, got {shown(tiles)}")
        for convolution, tile in tiles.items():
            found = re.fullmatch(r"([23])x\1 \d+->\d+ @\d+", str(convolution))
            if found is None:
                raise ValueError(f"{name} must name convolutions as '3x3 64->64 @32', got {shown(convolution)}")
            allowed = TILES[int(found[1])]
            if type(tile) is not int or tile not in allowed:
                raise ValueError(
                    f"{name} must give {convolution!r} one of the tiles {', '.join(map(str, allowed))}, got {shown(tile)}"
                )
    return table


def _beside_bfloat16(instructions: str) -> str:
    """What computes the float32 of a plan of bfloat16."""
    return "avx512" if instructions in BFLOAT16 else instructions
