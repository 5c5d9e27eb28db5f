"""Work in stages, one thread a stage, in order, with a bounded look-ahead; errors travel to whoever asks for the next item."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dali_icgan.data.workers import Background, join

_END = object()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class Stages(Background):
    """Sends the items of ``source`` through ``steps`` and gives the results in order.

    Args:
        source: makes the items; runs in the first thread.
        steps: each takes what the one before returned; each runs in a thread of its own.
        look_ahead: items begun and not yet taken, at most.
        name: of the threads.
        on_full: called with True when that many are under way or the source has ended, so that nothing more will come until one is
            taken, and with False when it goes on.
    """

    def __init__(
        self,
        source: Iterator[Any],
        steps: list[Callable[[Any], Any]],
        look_ahead: int,
        name: str,
        on_full: Callable[[bool], None],
    ) -> None:
        self._tickets = threading.Semaphore(look_ahead)
        self._queues: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(len(steps) + 1)]
        self._closed = threading.Event()
        self._ended = False
        # The threads hold the pieces, never this object: dropping it ends them.
        first = (source, self._tickets, self._queues[0], self._closed, on_full)
        self._threads = [threading.Thread(target=_begin, args=first, name=f"{name}-plan", daemon=True)]
        self._threads += [
            threading.Thread(
                target=_work, args=(step, i, self._queues, self._closed), name=f"{name}-{step.__name__}", daemon=True
            )
            for i, step in enumerate(steps)
        ]
        for thread in self._threads:
            thread.start()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises:
            StopIteration: the source has ended.
            TimeoutError: none came within ``timeout`` seconds.
            Whatever the source or a step raised for this item.
        """
        if self._ended:
            raise StopIteration
        try:
            item = self._queues[-1].get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no batch within {timeout} s") from None
        if item is _END:
            self._ended = True
            raise StopIteration
        if isinstance(item, _Failed):
            self.end()
            raise item.error
        self._tickets.release()
        return item

    def end(self) -> None:
        self._ended = True
        self._closed.set()
        self._tickets.release()
        for waiting in self._queues[:-1]:
            waiting.put(_END)

    def join(self, deadline: float) -> None:
        join(self._threads, deadline)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


def _begin(
    source: Iterator[Any],
    tickets: threading.Semaphore,
    out: "queue.SimpleQueue[Any]",
    closed: threading.Event,
    on_full: Callable[[bool], None],
) -> None:
    try:
        while not closed.is_set():
            if not tickets.acquire(blocking=False):
                on_full(True)
                tickets.acquire()
                on_full(False)
            if closed.is_set():
                break
            try:
                item = next(source)
            except StopIteration:
                break
            out.put(item)
    except BaseException as error:
        out.put(_Failed(error))
    on_full(True)
    out.put(_END)


def _work(
    step: Callable[[Any], Any], number: int, queues: list["queue.SimpleQueue[Any]"], closed: threading.Event
) -> None:
    inbox, out = queues[number], queues[number + 1]
    while True:
        item = inbox.get()
        if item is _END or closed.is_set():
            break
        if not isinstance(item, _Failed):
            try:
                item = step(item)
            except BaseException as error:
                item = _Failed(error)
        out.put(item)
        if isinstance(item, _Failed):
            break
    out.put(_END)
