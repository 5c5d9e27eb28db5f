"""Paths of many files in few folders, as arrays."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 16  # entries that are Python objects at a time, where all are asked for


class Paths(Sequence[str]):
    """Paths that are made when they are asked for: of 1.28 million each takes its name and some 12 bytes.

    Args:
        folders: with a slash at their ends.
        folder: int32 ``[n]``, which of them a file lies in.
        names: the files' names, UTF-8, a NUL behind each.
        begin: int64 ``[n]``, where a file's name begins.
    """

    def __init__(
        self, folders: list[str], folder: npt.NDArray[np.int32], names: bytes, begin: npt.NDArray[np.int64]
    ) -> None:
        self._folders = folders
        self._folder = folder
        self._names = names
        self._begin = begin

    @staticmethod
    def of(folders: list[str], counts: Sequence[int], names: bytes) -> "Paths":
        """All files of some folders, in the order of ``names``: so many in the first folder, so many in the next one."""
        ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0)
        begin = np.concatenate([[0], ends[:-1] + 1])[: len(ends)].astype(np.int64)
        return Paths(folders, np.repeat(np.arange(len(folders), dtype=np.int32), counts), names, begin)

    def __len__(self) -> int:
        return len(self._begin)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: int | slice) -> "str | Paths":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._path(int(self._folder[index]), int(self._begin[index]))

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _CHUNK):
            here = slice(first, first + _CHUNK)
            yield from map(self._path, self._folder[here].tolist(), self._begin[here].tolist())

    def take(self, indices: npt.NDArray[np.int64]) -> "Paths":
        """Some of them, in another order."""
        return Paths(self._folders, self._folder[indices], self._names, self._begin[indices])

    def _path(self, folder: int, begin: int) -> str:
        name = self._names[begin : self._names.index(0, begin)]
        return self._folders[folder] + name.decode("utf-8", "surrogateescape")
