"""A folder of tar shards as a sequence of images, each read from where it lies in its tar."""

import errno
import functools
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dali_icgan.data.files import read_at
from dali_icgan.data.paths import Paths
from dali_icgan.data.shard_index import INDEX, ShardIndex, open_index, tars_in
from dali_icgan.data.tar import BLOCK

_OPEN_TARS = 64


def is_shard_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of tar shards: it holds our index, or .tar files and no folders but hidden ones."""
    path = Path(folder)
    if not path.is_dir():
        return False
    if (path / INDEX).is_file():
        return True
    with os.scandir(path) as entries:  # closed also where not all are looked at
        classes = any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    return not classes and bool(tars_in(path))


class _OpenTar:
    """A descriptor that is closed when its last user lets go of it."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Shards:
    """The images in a folder's tars, by row. Any number of threads may read; so may a forked process, since reading moves no position.

    Args:
        folder: absolute.
        index: of its tars.
    """

    def __init__(self, folder: str, index: ShardIndex) -> None:
        self.folder = folder
        self.index = index
        self._starts = np.cumsum([0, *(shard.samples for shard in index.shards)]).tolist()
        self._open = functools.lru_cache(_OPEN_TARS)(_OpenTar)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.index)

    def __len__(self) -> int:
        return len(self.index.rows)

    def name(self, row: int) -> str:
        """The relative path, as it would be in a folder."""
        return self.index.rows.name(row).decode("utf-8", "surrogateescape")

    def tar(self, row: int) -> str:
        """The path of the tar that a row lies in."""
        return f"{self.folder}/{self.index.shards[bisect_right(self._starts, row) - 1].name}"

    def read(self, row: int) -> bytes:
        """The encoded image.

        Raises:
            OSError: its tar is gone or cannot be read, or is not as it was indexed.
        """
        rows = self.index.rows
        begin, size = int(rows.offset[row]) - BLOCK, int(rows.size[row]) + BLOCK
        opened = self._open(self.tar(row))  # held while it is read: another thread may put it out of the cache
        data = read_at(opened.descriptor, begin, size)
        if len(data) < size:
            raise OSError(
                errno.EIO, f"its tar was cut off after it was indexed, {size - len(data)} bytes before its end"
            )
        if zlib.crc32(memoryview(data)[:BLOCK]) != rows.header[row]:
            raise OSError(errno.EIO, "its tar was changed after it was indexed")
        return data[BLOCK:]

    def rows_of_names(self) -> dict[str, int]:
        """The row of each relative path."""
        return {self.name(row): row for row in range(len(self))}


@dataclass(frozen=True, slots=True)
class ShardMember:
    """An image in a tar; as text, "tar: relative path"."""

    shards: Shards
    row: int

    def __str__(self) -> str:
        return f"{self.shards.tar(self.row)}: {self.shards.name(self.row)}"

    @property
    def path(self) -> str:
        """Where the file would be, were the tars unpacked in their folder."""
        return f"{self.shards.folder}/{self.shards.name(self.row)}"

    def read(self) -> bytes:
        """The encoded image; errors as of :meth:`Shards.read`."""
        return self.shards.read(self.row)


class ShardMembers(Sequence[ShardMember]):
    """Rows of shards in some order, made when they are asked for: 1.28 million of them are arrays, not objects.

    Args:
        shards: where from.
        rows: int64 ``[m]``; None: all.
    """

    def __init__(self, shards: Shards, rows: npt.NDArray[np.int64] | None = None) -> None:
        self.shards = shards
        self._rows = np.arange(len(shards)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ShardMember: ...
    @overload
    def __getitem__(self, index: slice) -> "ShardMembers": ...
    def __getitem__(self, index: int | slice) -> "ShardMember | ShardMembers":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return ShardMember(self.shards, int(self._rows[index]))

    def __iter__(self) -> Iterator[ShardMember]:
        return (ShardMember(self.shards, row) for row in self._rows.tolist())

    @property
    def paths(self) -> Paths:
        """:attr:`ShardMember.path` of each."""
        rows = self.shards.index.rows
        begin = np.concatenate([[0], rows.end[:-1]])[self._rows]
        size = (rows.end[self._rows] - begin).astype(np.int32)
        return Paths([f"{self.shards.folder}/"], np.zeros(len(self), np.int32), rows.names, begin, size)

    def take(self, indices: npt.NDArray[np.int64]) -> "ShardMembers":
        """Some of them, in another order."""
        return ShardMembers(self.shards, self._rows[indices])


def open_shards(folder: str | os.PathLike[str]) -> Shards:
    """The images in a folder's tars; errors as of :func:`open_index`."""
    path = Path(os.path.abspath(folder))
    return Shards(str(path), open_index(path))
