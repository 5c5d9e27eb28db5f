"""Generations in the background: rows of several batches share the fixed microbatch, in the order in which they were asked for."""

import collections
import contextlib
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.augment.operator import DAICGAN
from dali_icgan.augment.plan import RowKeys
from dali_icgan.data.workers import Background, join
from dali_icgan.spans import span


class Job:
    """Rows of one view of one batch that are to be generated.

    Args:
        keys: of the rows.
        y: int64 ``[n]``, the generator's classes; None for a plain generator.
        bank_rows: int64 ``[n]``, whose features to use where there is a bank.
        images: uint8 HWC, one a row, to take features of where there is none.
        images_ready: on CUDA, when the images are.
        batch: which batch of the pass they are of; -1 for a replay.
    """

    def __init__(
        self,
        keys: RowKeys,
        y: npt.NDArray[np.int64] | None,
        bank_rows: npt.NDArray[np.int64],
        images: Sequence[torch.Tensor],
        images_ready: torch.cuda.Event | None = None,
        batch: int = -1,
    ) -> None:
        self.keys = keys
        self.y = y
        self.bank_rows = bank_rows
        self.images = images
        self.images_ready = images_ready
        self.batch = batch
        self.made: torch.Tensor | None = None
        self.event: torch.cuda.Event | None = None
        self.left = len(keys)
        self.wanted = False


class Generation(Background):
    """One thread that makes the generations of many jobs, ``augment.microbatch`` rows a call.

    A call is padded only when somebody waits for its rows and the look-ahead has no more to offer: rows planned for later batches
    fill it otherwise, also those whose images are still being decoded. A row's pixels do not depend on who shares its call.

    Stream: on CUDA one of its own, of the lowest priority; finished batches go through the loader's, which is served first.
    """

    def __init__(self, augment: DAICGAN) -> None:
        self._augment = augment
        self._jobs: collections.deque[tuple[Job, int]] = collections.deque()  # (job, its first row not yet begun)
        self._changed = threading.Condition()
        self._full = False
        self._coming = 0  # batches that are planned and have not submitted all of their jobs
        self._cut_off = False
        self._closed = False
        self._error: BaseException | None = None
        device = augment.device
        # Buffers and, on CUDA, the graph's capture, before anything runs beside them.
        if augment.generator is not None:
            augment.generator.prepare(augment.microbatch, embedded=augment.embed_bank)
        if augment.extractor is not None and augment.needs_own_image:
            augment.extractor.prepare(augment.microbatch)
        # 0 is the lowest priority there is, and the default stream's, on which training steps usually run; the loader's own is higher.
        self._stream = torch.cuda.Stream(device, priority=0) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._serve, name="dali_icgan-generate", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job:
        """Queue a job; it may be begun before anybody waits for it."""
        if job.left:
            with self._changed:
                self._jobs.append((job, 0))
                self._changed.notify_all()
        return job

    def look_ahead_is_full(self, full: bool) -> None:
        """Tell whether more rows can come before a batch is taken."""
        with self._changed:
            self._full = full
            self._changed.notify_all()

    def expect(self) -> None:
        """A batch is planned: jobs may come of it until :meth:`arrived`."""
        with self._changed:
            self._coming += 1

    def arrived(self) -> None:
        """A batch has submitted its jobs."""
        with self._changed:
            self._coming -= 1
            self._changed.notify_all()

    def cut_off(self) -> None:
        """Batches that were expected will not arrive: one of them failed."""
        with self._changed:
            self._cut_off = True
            self._changed.notify_all()

    def wait(self, job: Job) -> torch.Tensor | None:
        """The job's generations ``[n, 3, r, r]``, in [-1, 1]; on CUDA ordered on the caller's current stream. None for no rows.

        Raises:
            Whatever went wrong while generating.
        """
        with self._changed:
            job.wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: job.left == 0 or self._error is not None or self._closed)
            if job.left and self._error is not None:
                raise self._error
            if job.left:
                raise RuntimeError("the loader was closed")
        if job.made is not None and job.event is not None:
            stream = torch.cuda.current_stream(job.made.device)
            stream.wait_event(job.event)
            job.made.record_stream(stream)
        return job.made

    def end(self) -> None:
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()

    def join(self, deadline: float) -> None:
        join([self._thread], deadline)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._may_begin())
                if self._closed:
                    return
                pieces = self._take()
            try:
                self._make(pieces)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _may_begin(self) -> bool:
        waiting = sum(len(job.keys) - first for job, first in self._jobs)
        if waiting >= self._augment.microbatch:
            return True
        more_to_come = not self._full or (self._coming > 0 and not self._cut_off)
        return bool(waiting) and not more_to_come and any(job.wanted for job, _ in self._jobs)

    def _take(self) -> list[tuple[Job, npt.NDArray[np.int64]]]:
        pieces = []
        room = self._augment.microbatch
        while room and self._jobs:
            job, first = self._jobs.popleft()
            rows = np.arange(first, min(first + room, len(job.keys)))
            room -= len(rows)
            pieces.append((job, rows))
            if rows[-1] + 1 < len(job.keys):
                self._jobs.appendleft((job, int(rows[-1]) + 1))
        return pieces

    def _make(self, pieces: list[tuple[Job, npt.NDArray[np.int64]]]) -> None:
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            for job, _ in pieces:
                if self._stream is not None and job.images_ready is not None:
                    self._stream.wait_event(job.images_ready)
            made = generate_rows(self._augment, pieces)
            begin = 0
            for job, rows in pieces:
                part = made[begin : begin + len(rows)]
                begin += len(rows)
                if len(rows) == len(job.keys):
                    job.made = part
                else:
                    if job.made is None:
                        shape = (len(job.keys), *part.shape[1:])
                        job.made = torch.empty(
                            shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last
                        )
                    job.made[int(rows[0]) : int(rows[-1]) + 1] = part
                if self._stream is not None:
                    job.event = self._stream.record_event()
        with self._changed:
            for job, rows in pieces:
                job.left -= len(rows)
            self._changed.notify_all()


@torch.no_grad()
def generate_rows(augment: DAICGAN, pieces: Sequence[tuple[Job, npt.NDArray[np.int64]]]) -> torch.Tensor:
    """The generations of the given rows of jobs, one after the other: ``[n, 3, r, r]``."""
    first = pieces[0][0]
    with span("generate", first.keys.epoch, first.batch) as taken:
        taken.images = sum(len(rows) for _, rows in pieces)
        z = torch.cat([augment.noise(job.keys.take(rows)) for job, rows in pieces])
        if augment.bank is not None:
            h = augment.gather(np.concatenate([job.bank_rows[rows] for job, rows in pieces]))
        else:
            h = augment.features([job.images[i] for job, rows in pieces for i in rows])
        y = None if first.y is None else np.concatenate([job.y[rows] for job, rows in pieces if job.y is not None])
        return augment.generate(z, h, y)
