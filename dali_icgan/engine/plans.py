"""The plans that a model keeps, and who may use one."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch

from dali_icgan.engine.placement import undisturbed
from dali_icgan.engine.plan import Plan

_KEPT = 3  # of a loader's microbatch, and of what a user tries beside it
P = TypeVar("P", bound=Plan)


class Plans(Generic[P]):
    """The last few plans of one model, by number of rows; each owns its buffers, and one caller uses them at a time.

    Args:
        device: where they run.
        make: a plan for so many rows; pickled and copied with the rest, plans are not.
    """

    def __init__(self, device: torch.device, make: Callable[[int], P]) -> None:
        self._device, self._make = device, make
        self._kept: dict[int, P] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_device": self._device, "_make": self._make}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_device"], state["_make"])  # type: ignore[misc]

    @contextlib.contextmanager
    def taken(self, n: int) -> Iterator[P]:
        """The plan of ``n`` rows for the caller alone, undisturbed by what torch is set to; made if it is not there."""
        with self._lock, undisturbed(self._device):
            plan = self._kept.pop(n, None) or self._make(n)
            self._kept[n] = plan
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
            yield plan

    def prepare(self, n: int) -> P:
        """The plan of ``n`` rows, to look at.

        Raises:
            ValueError: ``n`` is no positive integer.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n must be a positive integer, got {n!r}")
        with self.taken(n) as plan:
            return plan
