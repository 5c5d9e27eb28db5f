"""Several processes at one job: who this one is, which share is its own, and waiting for the others, but not for ever.

Everything here is collective: every rank calls it, in the same order. Whoever fails tells the others, whoever has ended is missed by them
(at once, or after the process group's timeout where a machine is silent), and then all end with an error that says what was going on.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from dali_icgan.errors import RankError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that share a job; one alone is rank 0 of 1, for which nothing here waits or talks.

    Attributes:
        rank: 0..world - 1; 0 writes.
        world: how many.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls, shard: bool | None = None) -> "Ranks":
        """torch.distributed's, where it is initialised; with ``shard=False`` this process alone.

        Raises:
            ValueError: shard is something else.
        """
        if shard is not None and not isinstance(shard, bool):
            raise ValueError(f"shard must be None or False, got {shard!r}")
        if shard is False or not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, n: int) -> range:
        """This rank's part of 0..n - 1: over all ranks each number comes exactly once, and shares differ by one at most."""
        return range(self.rank, n, self.world)

    def barrier(self, doing: str) -> None:
        """Go on when every rank has come here.

        Raises:
            RankError: another rank has failed, has ended, or does not come within the process group's timeout.
        """
        self._agree(doing, None)

    def gather(self, mine: T, doing: str) -> list[T] | None:
        """On rank 0 what every rank gave, by rank; None on the others. Anything that can be pickled; errors as of :meth:`barrier`."""
        if self.world == 1:
            return [mine]
        self._agree(doing, None)
        found: list[Any] | None = [None] * self.world if self.rank == 0 else None
        with self.missing(doing):
            distributed.gather_object(mine, found)
        return found

    def gather_share(self, mine: list[T], doing: str) -> list[T] | None:
        """On rank 0 the results for 0..n - 1 in order, of which every rank gives those of its :meth:`share`; None on the others."""
        shares = self.gather(mine, doing)
        if shares is None:
            return None
        return [shares[i % self.world][i // self.world] for i in range(sum(map(len, shares)))]

    def from_first(self, doing: str, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, the only one that calls it; the others wait and get a copy.

        Raises:
            RankError: as of :meth:`barrier`; on the others also where ``make`` raised, which rank 0 raises itself.
        """
        made: list[Any] = [None]
        with self.together(doing):
            if self.rank == 0:
                made[0] = make()
            self._agree(doing, None)
        if self.world > 1:
            with self.missing(doing):
                distributed.broadcast_object_list(made)
        result: T = made[0]
        return result

    @contextlib.contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """An error within it, of this rank alone, ends the others' next call of one of these methods too, with its message."""
        try:
            yield
        except RankError:
            raise
        except Exception as error:
            if not getattr(error, "ranks_know", False):  # of such a block within this one
                error.ranks_know = True  # type: ignore[attr-defined]
                with contextlib.suppress(RankError):  # the error itself is the better news
                    self._agree(doing, f"{type(error).__name__}: {error}")
            raise

    def _agree(self, doing: str, failure: str | None) -> None:
        if self.world == 1:
            return
        said: list[Any] = [None] * self.world
        with self.missing(doing):
            distributed.all_gather_object(said, failure)
        failed = [(rank, reason) for rank, reason in enumerate(said) if reason is not None]
        if failed and failure is None:
            rank, reason = failed[0]
            raise RankError(f"rank {rank} of {self.world} failed in {doing}: {reason}")

    @contextlib.contextmanager
    def missing(self, doing: str) -> Iterator[None]:
        """Within it torch's errors about a lost connection, which name sockets, become a RankError that says who waited in what; for
        collectives of torch.distributed's own."""
        try:
            yield
        except RuntimeError as error:
            # Gloo's have no class of their own; any other error is not about a rank.
            if self.world == 1 or not (isinstance(error, distributed.DistError) or "/gloo/" in str(error)):
                raise
            said = re.sub(r"^\[\S+\] ", "", str(error).strip().split("\n")[0]).split(". ")[0]
            raise RankError(
                f"rank {self.rank} of {self.world} waited in vain for the others in {doing}: one has ended, hangs, or does something else "
                f"({said})"
            ) from error


@contextlib.contextmanager
def joined(device: str | None, timeout: timedelta | None = None) -> Iterator[str | None]:
    """Within it the processes that torchrun started are a group; a process that something else started stays alone.

    Args:
        device: as asked for; None is CUDA where there is one.
        timeout: how long one waits for another that gives no sign of life; None: torch's.

    Yields:
        the device of this rank.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        yield device
        return
    if torch.cuda.is_available() and device in (None, "cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    mine = torch.device(device or "cpu")
    if mine.type == "cuda":
        torch.cuda.set_device(mine)  # where collectives of this rank run
    distributed.init_process_group(
        "nccl" if mine.type == "cuda" else "gloo", timeout=timeout, device_id=mine if mine.type == "cuda" else None
    )
    try:
        yield device
    finally:
        distributed.destroy_process_group()
