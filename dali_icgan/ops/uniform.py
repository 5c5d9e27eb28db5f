"""Uniform random numbers of a row: a pure function of (seed, epoch, index, repeat, view) and of what they are for."""

import operator
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dali_icgan._native import native

Rows = npt.NDArray[np.int64]


class Stream(IntEnum):
    """What random numbers are for: each purpose draws from its own stream. Saved states rely on the numbers; never renumber."""

    REPLACE = 1
    NOISE = 2
    NEIGHBOUR = 3
    CROP = 4
    FLIP = 5
    LABEL = 6
    CONDITION = 7
    ORDER = 8


class Keys(Protocol):
    """The rows' keys: :class:`dali_icgan.augment.plan.RowKeys` or anything with its fields."""

    @property
    def seed(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def index(self) -> Rows: ...
    @property
    def repeat(self) -> Rows: ...
    @property
    def view(self) -> int: ...


def uniform(keys: Keys, stream: int, count: int = 1) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) per row: multiples of 2^-53, each the upper 53 of 64 random bits.

    Args:
        keys: n rows.
        stream: what for, see :class:`Stream`.
        count: numbers per row, below 2^32. A row's first numbers do not depend on it.

    Returns:
        float64 ``[n, count]``.

    Raises:
        ValueError: a key, the stream or the count is out of range; the message names it.

    Numerics: exact and deterministic; a row depends on nothing but its key.
    Source: Philox4x32-10, Salmon et al., SC 2011; the counter's layout is in csrc/core/philox.h.
    """
    check_range("count", count, 32)
    return native().uniform(*key_fields(keys), check_range("stream", stream, 8), count)


def randint(keys: Keys, stream: int, high: int | Rows) -> Rows:
    """One unbiased random integer per row, in [0, high).

    Args:
        keys: n rows.
        stream: what for. Shares its bits with :func:`uniform`, so a stream serves one of the two.
        high: int64 ``[n]`` or one number for all, 1 to 2^63 - 1.

    Returns:
        int64 ``[n]``.

    Raises:
        ValueError: a key, the stream or ``high`` is out of range; the message names it.

    Numerics: exact, deterministic; every value has the same probability.
    Source: Lemire, ACM TOMACS 2019, algorithm 5, on the row's Philox bits.
    """
    fields = key_fields(keys)
    if np.ndim(high) == 0:
        high = np.full(len(keys.index), check_range("high", high, 63))  # type: ignore[arg-type]
    return native().randint(*fields, check_range("stream", stream, 8), integer_array("high", high))


def key_fields(keys: Keys) -> tuple[int, int, Rows, Rows, int]:
    """The keys as the compiled ops take them; they check the arrays."""
    return (
        seed_bits(keys.seed),
        check_range("epoch", keys.epoch, 32),
        keys.index,
        keys.repeat,
        check_range("view", keys.view, 8),
    )


def seed_bits(seed: int) -> int:
    """A seed as an unsigned 64-bit number; torch's may have either sign."""
    seed = _integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be in [-2^63, 2^64), got {seed}")
    return seed % 2**64


def check_range(name: str, value: int, bits: int) -> int:
    """``value`` as an int, if it is in [0, 2^bits)."""
    value = _integer(name, value)
    if not 0 <= value < 2**bits:
        raise ValueError(f"{name} must be in [0, 2^{bits}), got {value}")
    return value


def integer_array(name: str, values: Any) -> Rows:
    """``values`` as a contiguous int64 array; refuses what would have to be rounded."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return np.asarray(array, np.int64, order="C")


def _integer(name: str, value: Any) -> int:
    """``value`` as an int; refuses what is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def uniform_reference(keys: Keys, stream: int, count: int = 1) -> npt.NDArray[np.float64]:
    """The same in plain NumPy."""
    return (bits_reference(keys, stream, count) >> np.uint64(11)) * 2.0**-53


def bits_reference(keys: Keys, stream: int, count: int) -> npt.NDArray[np.uint64]:
    """The row's first ``count`` draws of 64 bits, uint64 ``[n, count]``, in plain NumPy."""
    epoch_key = philox_reference(np.array([keys.epoch, 0, 0, 0x65706F63]), keys.seed % 2**64)
    block, index, repeat = np.broadcast_arrays(np.arange((count + 1) // 2), keys.index[:, None], keys.repeat[:, None])
    lane = stream << 24 | keys.view << 16 | index >> 32
    words = philox_reference(
        np.stack([block, index, repeat, lane], -1), int(epoch_key[0] | epoch_key[1] << np.uint64(32))
    )
    halves = words[..., 0::2] | words[..., 1::2] << np.uint64(32)
    return halves.reshape(len(keys.index), 2 * block.shape[1])[:, :count]


def philox_reference(counter: npt.NDArray[Any], key: int) -> npt.NDArray[np.uint64]:
    """Philox4x32-10 of counters ``[..., 4]`` in plain NumPy; 32-bit words in uint64."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = np.moveaxis(counter.astype(np.uint64) & low, -1, 0)
    for r in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        k0, k1 = np.uint64((key + r * 0x9E3779B9) % 2**32), np.uint64(((key >> 32) + r * 0xBB67AE85) % 2**32)
        a, b, c, d = q >> half ^ b ^ k0, q & low, p >> half ^ d ^ k1, p & low
    return np.stack([a, b, c, d], -1)
