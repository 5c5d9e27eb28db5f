"""Paths of many files in few folders, as arrays."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 16  # entries that are Python objects at a time, where all are asked for


class Paths(Sequence[str]):
    """Paths that are made when they are asked for: of 1.28 million each takes its name and 16 bytes.

    Args:
        folders: with a slash at their ends.
        folder: int32 ``[n]``, which of them a file lies in.
        names: of the files, UTF-8.
        begin: int64 ``[n]``, where a file's name begins in ``names``.
        size: int32 ``[n]``, how many bytes it has.
    """

    def __init__(
        self,
        folders: list[str],
        folder: npt.NDArray[np.int32],
        names: bytes,
        begin: npt.NDArray[np.int64],
        size: npt.NDArray[np.int32],
    ) -> None:
        self.folders = folders
        self._folder = folder
        self._names = names
        self._begin = begin
        self._size = size

    @staticmethod
    def of(folders: list[str], counts: Sequence[int], names: bytes) -> "Paths":
        """All files of some folders, in the order of ``names``, which have a NUL behind each: so many are in the first folder, and so on."""
        ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0)
        size = np.diff(ends, prepend=-1).astype(np.int32) - 1
        return Paths(folders, np.repeat(np.arange(len(folders), dtype=np.int32), counts), names, ends - size, size)

    def __len__(self) -> int:
        return len(self._begin)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: int | slice) -> "str | Paths":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._path(int(self._folder[index]), int(self._begin[index]), int(self._size[index]))

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _CHUNK):
            here = slice(first, first + _CHUNK)
            columns = (column[here].tolist() for column in (self._folder, self._begin, self._size))
            yield from map(self._path, *columns)

    def take(self, indices: npt.NDArray[np.int64]) -> "Paths":
        """Some of them, in another order."""
        return Paths(self.folders, self._folder[indices], self._names, self._begin[indices], self._size[indices])

    def within(self, folders: list[str]) -> "Paths":
        """The same files, seen as those of other folders."""
        return Paths(folders, self._folder, self._names, self._begin, self._size)

    def _path(self, folder: int, begin: int, size: int) -> str:
        return self.folders[folder] + self._names[begin : begin + size].decode("utf-8", "surrogateescape")
