"""What the trainer asks of a task, and what tasks share."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from dali_icgan.loader import DataLoader
from dali_icgan.ranks import Ranks

Autocast = Callable[[], AbstractContextManager[Any]]


class Task(Protocol):
    """A network, what it is trained for, and how it is judged; see :class:`dali_icgan.recipes.supervised.Classification`."""

    raw: bool
    metric: str

    @property
    def network(self) -> nn.Module: ...

    def train(self) -> None: ...

    def loss(self, network: nn.Module, batch: tuple[Any, ...], step: int, autocast: Autocast) -> Tensor: ...

    def after_backward(self, step: int) -> None: ...

    def validate(
        self, network: nn.Module, loader: DataLoader, autocast: Autocast, ranks: Ranks, limit: int | None
    ) -> dict[str, float]: ...

    def export(self, network: nn.Module) -> dict[str, Tensor]: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


def first_batches(loader: DataLoader, limit: int | None) -> Iterator[Any]:
    """One whole pass, or its first batches."""
    loader.set_epoch(0)
    return itertools.islice(iter(loader), limit)


def summed(counts: Tensor, ranks: Ranks) -> Tensor:
    """The sum over ranks, in place."""
    if ranks.world > 1:
        with ranks.missing("counting what was right"):
            distributed.all_reduce(counts)
    return counts


def gathered(rows: Tensor, ranks: Ranks) -> Tensor:
    """The rows of all ranks, one rank after the other; they may have different numbers of them."""
    if ranks.world == 1:
        return rows
    with ranks.missing("gathering features"):
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(ranks.world)]
        distributed.all_gather(counts, counts[0].new_tensor([len(rows)]))
        most = max(int(count) for count in counts)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(ranks.world)]
        distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
