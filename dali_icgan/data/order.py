"""Which sample stands where in an epoch: a pure function of (seed, epoch) for our own order, a list for torch's samplers.

Position p of an epoch holds (index, repeat); repeat counts the earlier occurrences of the index in this rank's epoch.
"""

import hashlib
import itertools
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.ops.permutation import permutation

Indices = npt.NDArray[np.int64]
REMAINDERS = ("pad", "uneven", "drop")


class EpochOrder(Protocol):
    """One epoch of one rank."""

    def batch(self, number: int) -> tuple[Indices, Indices, Indices] | None:
        """(position, index, repeat) of batch ``number``; None once the epoch is over."""
        ...

    def substitute(self, position: int, distance: int) -> tuple[int, int] | None:
        """The (index, repeat) that stands in for ``position`` when it and the ``distance - 1`` after it cannot be read: the sample
        ``distance`` positions on, wrapping, with a repeat that no regular occurrence of it has. None when all have been tried."""
        ...


@dataclass(frozen=True)
class ShardedOrder:
    """Our own order: rank r of w takes the positions r, r + w, r + 2w, ... of the epoch that begins at ``start``.

    Attributes:
        n: samples in the dataset.
        shuffle: whether position p holds ``permutation(seed, epoch, n, p)`` or p itself.
        start: position in the whole epoch, over all ranks, that this run of it begins at: a resumed epoch on another number of ranks
            goes on with exactly the rest.
        remainder: "pad" (ranks are filled up from the epoch's beginning), "uneven" (counts differ by one), "drop".
    """

    n: int
    batch_size: int
    drop_last: bool
    shuffle: bool
    seed: int
    epoch: int
    rank: int = 0
    world: int = 1
    start: int = 0
    remainder: str = "uneven"

    @property
    def samples(self) -> int:
        """How many samples this rank gets."""
        left = self.n - self.start
        if self.remainder == "uneven":
            return max(0, -(-(left - self.rank) // self.world))
        return -(-left // self.world) if self.remainder == "pad" else left // self.world

    @property
    def batches(self) -> int:
        """How many batches this rank gets."""
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def batch(self, number: int) -> tuple[Indices, Indices, Indices] | None:
        if not 0 <= number < self.batches:
            return None
        first = number * self.batch_size
        position = np.arange(first, min(first + self.batch_size, self.samples), dtype=np.int64)
        return position, self.indices(position), np.zeros_like(position)

    def position(self, batches: int) -> int:
        """How many samples of the whole epoch all ranks together have got, once each has had ``batches`` batches, or all of its own."""
        return min(self.start + batches * self.batch_size * self.world, self.n)

    def substitute(self, position: int, distance: int) -> tuple[int, int] | None:
        # Wraps over this rank's whole epoch, so that a resumed epoch finds the same substitute as an unbroken one.
        before = self.start // self.world
        whole = before + self.samples
        if distance >= whole:
            return None
        other = (before + position + distance) % whole - before
        return int(self.indices(np.array([other], np.int64))[0]), distance

    def indices(self, position: Indices) -> Indices:
        """Of the samples at these positions of this rank's order."""
        places = (self.start + self.rank + self.world * position) % self.n
        return permutation(self.seed, self.epoch, self.n, places) if self.shuffle else places


class OrderSampler:
    """A loader's own order, as code sees it that asks a DataLoader for its sampler.

    Args:
        shuffle: whether the order changes from epoch to epoch.
        order: this rank's order of the epoch that comes next.
        set_epoch: names the epoch that comes next.
    """

    def __init__(self, shuffle: bool, order: Callable[[], ShardedOrder], set_epoch: Callable[[int], None]) -> None:
        self.shuffle = shuffle
        self._order = order
        self.set_epoch = set_epoch

    def __len__(self) -> int:
        """Samples that this rank gets in an epoch."""
        return self._order().samples

    def __iter__(self) -> Iterator[int]:
        """Their indices in the epoch that comes next."""
        order = self._order()
        return (int(i) for i in order.indices(np.arange(order.samples, dtype=np.int64)))


class ListedOrder:
    """The order that a torch sampler or batch sampler gives, listed once; an endless sampler is listed as far as it is used.

    Args:
        entries: indices, or (index, repeat) pairs of a sampler that spreads repeats over ranks.
        n: samples in the dataset, to check indices against.
        batches: whether entries are lists of such, one a batch.
        start: entries that a resumed epoch has had already, at any batch size; of a batch that they end in, the rest is the first.
    """

    def __init__(
        self,
        entries: Iterable[Any],
        n: int,
        batch_size: int,
        drop_last: bool,
        *,
        batches: bool,
        endless: bool,
        start: int = 0,
    ) -> None:
        self._n = n
        self._index: list[int] = []
        self._repeat: list[int] = []
        self._seen: dict[int, int] = {}
        self._ends: list[int] = []
        self._checksum = (0, 0)  # of how many entries, and what it is
        self._finished = False
        self._lock = threading.Lock()  # an endless sampler goes on in the background while the user asks for the state
        if batches:
            self._groups = self._after(iter(entries), start)
        else:
            rest = iter(entries)
            for entry in itertools.islice(rest, start):
                self._add(entry)
            self._groups = _grouped(rest, batch_size, drop_last)
        self.start = len(self._index)
        if not endless:
            self._list(None)

    @property
    def batches(self) -> int:
        """How many batches are listed so far."""
        return len(self._ends)

    def position(self, batches: int) -> int:
        """How many entries this rank has got with its first ``batches`` batches."""
        return self._ends[batches - 1] if batches else self.start

    def checksum(self, entries: int) -> int:
        """Of the first ``entries`` entries: a resumed epoch must list them again."""
        known, sum_ = self._checksum if self._checksum[0] <= entries else (0, 0)
        more = np.array([self._index[known:entries], self._repeat[known:entries]], np.int64).T
        self._checksum = entries, zlib.crc32(more.tobytes(), sum_)
        return self._checksum[1]

    def batch(self, number: int) -> tuple[Indices, Indices, Indices] | None:
        self._list(number + 1)
        if number >= len(self._ends):
            return None
        begin, end = self.position(number), self._ends[number]
        return (
            np.arange(begin, end, dtype=np.int64),
            np.array(self._index[begin:end], np.int64),
            np.array(self._repeat[begin:end], np.int64),
        )

    def substitute(self, position: int, distance: int) -> tuple[int, int] | None:
        while not self._finished and position + distance >= len(self._index):
            self._list(len(self._ends) + 1)
        if distance >= len(self._index):
            return None
        index = self._index[(position + distance) % len(self._index)]
        return index, self._seen[index] - 1 + distance

    def _after(self, groups: Iterator[Any], start: int) -> Iterator[Any]:
        """What is left of groups behind ``start`` entries, which are noted."""
        while (left := start - len(self._index)) > 0 and (group := next(groups, None)) is not None:
            entries = list(group)
            for entry in entries[:left]:
                self._add(entry)
            if entries[left:]:
                return itertools.chain([entries[left:]], groups)
        return groups

    def _list(self, batches: int | None) -> None:
        with self._lock:
            while not self._finished and (batches is None or len(self._ends) < batches):
                group = next(self._groups, None)
                if group is None:
                    self._finished = True
                    return
                for entry in group:
                    self._add(entry)
                self._ends.append(len(self._index))

    def _add(self, entry: Any) -> None:
        index, repeat = entry if isinstance(entry, (tuple, list)) else (entry, None)
        index = int(index)
        if not 0 <= index < self._n:
            raise IndexError(f"the sampler must give indices in 0..{self._n - 1}, got {index}")
        occurrence = self._seen.get(index, 0) if repeat is None else int(repeat)
        self._seen[index] = max(self._seen.get(index, 0), occurrence + 1)
        self._index.append(index)
        self._repeat.append(occurrence)


def _grouped(entries: Iterator[Any], size: int, drop_last: bool) -> Iterator[list[Any]]:
    while group := list(itertools.islice(entries, size)):
        if len(group) == size or not drop_last:
            yield group


def listed(sampler: Any, seed: int, epoch: int) -> list[Any]:
    """List a torch sampler so that what it draws from torch's global generator depends on (seed, epoch) alone, and leave that generator
    as it was. Only for samplers with an end."""
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        return list(sampler)
