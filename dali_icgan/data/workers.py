"""A few threads for work that may hang, such as reading from a storage that is gone: nothing ever waits for one that does."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds that closing waits for threads to finish what they are in. Less than what a user waits after Ctrl-C.
PATIENCE = 2.0
# For a thread that reads: it holds nothing that the process's end would harm.
READING_PATIENCE = 0.5


class Background:
    """Something with daemon threads of its own, that ends without waiting for ever for what they are in."""

    def end(self) -> None:
        """Tell the threads to end and wake whoever waits for them; does not wait."""
        raise NotImplementedError

    def join(self, deadline: float) -> None:
        """Wait for the threads' ends, until ``time.monotonic()`` is ``deadline`` at most."""
        raise NotImplementedError

    def close(self) -> None:
        """Both, with :data:`PATIENCE`."""
        self.end()
        self.join(time.monotonic() + PATIENCE)


class Workers(Background):
    """Daemon threads that apply functions to items.

    Not an executor of ``concurrent.futures``: the interpreter waits for the threads of those before it ends.

    Args:
        count: how many threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: set[queue.SimpleQueue[Any]] = set()
        self._threads = [
            threading.Thread(target=_serve, args=(self._tasks,), name=name, daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of every item, in order, several at once.

        Raises:
            RuntimeError: closed, before or meanwhile.
            Whatever the function raised, of the first item to fail.
        """
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            self._waiting.add(done)
            if self._closed:
                done.put(None)
            for number, item in enumerate(items):
                self._tasks.put((function, number, item, done))
        results: dict[int, Result] = {}
        try:
            while len(results) < len(items):
                answer = done.get()
                if answer is None:
                    raise RuntimeError("the threads were closed")
                number, result, error = answer
                if error is not None:
                    raise error
                results[number] = result
        finally:
            with self._lock:
                self._waiting.discard(done)
        return [results[number] for number in range(len(items))]

    def end(self) -> None:
        with self._lock:
            self._closed = True
            for done in self._waiting:
                done.put(None)
            for _ in self._threads:
                self._tasks.put(None)

    def join(self, deadline: float) -> None:
        join(self._threads, min(deadline, time.monotonic() + READING_PATIENCE))


def join(threads: Sequence[threading.Thread], deadline: float) -> None:
    """Wait for threads that were told to end, until ``time.monotonic()`` is ``deadline``; they are daemons and may be left behind."""
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(deadline - time.monotonic(), 0))


def _serve(tasks: "queue.SimpleQueue[Any]") -> None:
    while (task := tasks.get()) is not None:
        function, number, item, done = task
        try:
            done.put((number, function(item), None))
        except BaseException as error:
            done.put((number, None, error))
        del task, function, item, done  # while it waits for the next
