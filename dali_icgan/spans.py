"""Where a loader's time goes: spans of its stages, kept for a timeline, or shown to NVIDIA's Nsight Systems.

Stages are "read", "decode", "generate", "assemble" and "wait": of the thread that calls ``next()`` for a batch, and of the last stage for
generations. ``DALI_ICGAN_NVTX=1`` in the environment shows them as NVTX ranges, so that a training script need not change:
``DALI_ICGAN_NVTX=1 nsys profile python train.py``. What is off costs one look at a flag a span, of which a batch has four.

A span is the host's time. On CUDA a stage queues its work and goes on, and nothing here waits for it: how long the device takes is what
Nsight Systems shows of the kernels under a range.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

NVTX = "DALI_ICGAN_NVTX"


@dataclass(frozen=True)
class Span:
    """One stage's work on one batch.

    Attributes:
        stage: its name.
        thread, tid: whose time it was: the thread's name, and the system's number of it.
        begin, end: in seconds of ``time.perf_counter``.
        cpu: seconds of CPU that the whole process, all of its threads, used meanwhile.
        epoch, batch: which batch, counted from the pass's first; -1: of a replay. Generations of several batches are the first one's.
        images: how many the stage handled; 0: it does not say.
    """

    stage: str
    thread: str
    tid: int
    begin: float
    end: float
    cpu: float
    epoch: int
    batch: int
    images: int


class _Off:
    images = 0

    def __enter__(self) -> "_Off":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Open:
    def __init__(self, stage: str, epoch: int, batch: int, kept: list[Span] | None) -> None:
        self.images = 0
        self._stage, self._epoch, self._batch = stage, epoch, batch
        self._kept = kept

    def __enter__(self) -> "_Open":
        if _nvtx:
            from torch.cuda import nvtx

            nvtx.range_push(f"{self._stage} {self._epoch}/{self._batch}")
        self._cpu, self._begin = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        end, cpu = time.perf_counter(), time.process_time() - self._cpu
        if self._kept is not None:
            thread, tid = threading.current_thread().name, threading.get_native_id()
            of = self._epoch, self._batch, self.images
            self._kept.append(Span(self._stage, thread, tid, self._begin, end, cpu, *of))
        if _nvtx:
            from torch.cuda import nvtx

            nvtx.range_pop()


_OFF = _Off()
_kept: list[Span] | None = None
_nvtx = os.environ.get(NVTX, "0") not in ("", "0")
_on = _nvtx


def span(stage: str, epoch: int, batch: int) -> _Off | _Open:
    """A context manager around a stage's work; whoever is within may set its ``images``."""
    return _Open(stage, epoch, batch, _kept) if _on else _OFF


@contextlib.contextmanager
def recording() -> Iterator[list[Span]]:
    """Within it the spans of all loaders of the process are kept, in the list that it gives, in the order in which they end.

    Raises:
        RuntimeError: another recording is under way.
    """
    global _kept, _on
    if _kept is not None:
        raise RuntimeError("spans are recorded once at a time: another recording is under way")
    kept: list[Span] = []
    _kept = kept
    _on = True
    try:
        yield kept
    finally:
        _kept, _on = None, _nvtx


def chrome_trace(spans: Iterable[Span]) -> dict[str, Any]:
    """A timeline in Chrome's trace event format, a row a thread: write it as JSON and open it at ui.perfetto.dev, in Chrome's
    about:tracing, or in any other viewer. Times are microseconds from the first span's begin.

    Source: Trace Event Format, of the Chromium project's Catapult.
    """
    spans = sorted(spans, key=lambda span: span.begin)
    pid, start = os.getpid(), spans[0].begin if spans else 0.0
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": "dali_icgan"}}
    ]
    for place, (tid, thread) in enumerate(dict.fromkeys((span.tid, span.thread) for span in spans)):
        row = {"ph": "M", "pid": pid, "tid": tid}
        events += [
            {**row, "name": "thread_name", "args": {"name": thread}},
            {**row, "name": "thread_sort_index", "args": {"sort_index": place}},
        ]
    for span in spans:
        args: dict[str, Any] = {"epoch": span.epoch, "batch": span.batch, "images": span.images}
        args["process_cpu_ms"] = round(1e3 * span.cpu, 3)
        begin, took = round(1e6 * (span.begin - start), 3), round(1e6 * (span.end - span.begin), 3)
        what = {"ph": "X", "name": span.stage, "cat": "dali_icgan", "pid": pid, "tid": span.tid}
        events.append({**what, "ts": begin, "dur": took, "args": args})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
