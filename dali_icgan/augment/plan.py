"""Who is replaced: decisions that depend on a row's key and on nothing else."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_icgan._native import native
from dali_icgan.ops.uniform import Stream, integer_array, key_fields, uniform

__all__ = ["RowKeys", "Stream", "replaced", "resolve_p"]


@dataclass(frozen=True, eq=False)
class RowKeys:
    """What every random draw of a batch's rows depends on.

    Attributes:
        seed: any 64-bit integer, of either sign.
        epoch: 0 to 2^32 - 1.
        index: int64 ``[n]``, the sample in its dataset, 0 to 2^48 - 1.
        repeat: int64 ``[n]``, how often it came before in this epoch, 0 to 2^32 - 1.
        view: 0 to 255.

    Raises:
        ValueError, TypeError: a field is not as above; the message names it.
    """

    seed: int
    epoch: int
    index: npt.NDArray[np.int64]
    repeat: npt.NDArray[np.int64]
    view: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", integer_array("index", self.index))
        object.__setattr__(self, "repeat", integer_array("repeat", self.repeat))
        key_fields(self)
        native().check_row_keys(self.index, self.repeat)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "RowKeys":
        return self.take(rows)

    def take(self, rows: slice | npt.NDArray[Any]) -> "RowKeys":
        """The keys of some rows: a slice, indices or a mask."""
        return replace(self, index=self.index[rows], repeat=self.repeat[rows])


def replaced(keys: RowKeys, p: float) -> npt.NDArray[np.bool_]:
    """Which rows are generated: ``u < p``, u uniform per row, so sets nest as p grows.

    Args:
        keys: n rows; draws from :attr:`Stream.REPLACE`.
        p: probability in [0, 1]; 0 replaces none, 1 all.

    Returns:
        bool ``[n]``.

    Raises:
        ValueError, TypeError: p is not a number in [0, 1].
    """
    return uniform(keys, Stream.REPLACE)[:, 0] < resolve_p(p, keys.epoch)


def resolve_p(p: float | Callable[[int], float], epoch: int) -> float:
    """The probability of an epoch.

    Args:
        p: a number in [0, 1], or a pure function of the epoch that returns one.
        epoch: which.

    Raises:
        ValueError, TypeError: p, or what it returns, is not a number in [0, 1].
    """
    try:
        name, value = ("p", p) if not callable(p) else (f"p({epoch})", p(epoch))
    except TypeError as error:
        raise TypeError(f"p must be a number, or a function of the epoch alone: {error}") from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}") from None
    if math.isnan(number) or not 0 <= number <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return number
