"""Where a loader's time goes beside its consumer."""

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

from torch import Tensor

from dali_icgan.bench.measure import wait_for
from dali_icgan.loader import DataLoader
from dali_icgan.spans import Span, recording, span

Consumer = Callable[[Tensor, Tensor], None]
WAIT, STEP = "wait", "step"
_ORDER = ("read", "decode", "generate", "assemble", WAIT, STEP)


@dataclass(frozen=True)
class Timeline:
    """Some batches of a loader, once its stages are all at work.

    Attributes:
        spans: of all that was seen, the loader's start included.
        begin, end: when the batches that count were asked for and consumed, in seconds of ``perf_counter``.
        images: in those batches.
        cpu: seconds of CPU that the process used from begin to end.
        consumer: the name of the thread that consumed them.
    """

    spans: list[Span]
    begin: float
    end: float
    images: int
    cpu: float
    consumer: str

    @property
    def images_per_s(self) -> float:
        return self.images / (self.end - self.begin)


@dataclass(frozen=True)
class Share:
    """What one stage took in one thread.

    Attributes:
        seconds: its own, without spans within its spans.
        cpu: seconds of CPU that the process used in these, whatever else it did.
        busy: ``seconds`` as a share of the time from begin to end.
    """

    stage: str
    thread: str
    calls: int
    images: int
    seconds: float
    cpu: float
    busy: float


def timeline(loader: DataLoader, batches: int, step: Consumer | None = None) -> Timeline:
    """Consume ``batches`` of a loader, by ``step`` or by nothing, after those that it takes to get going.

    Args:
        loader: of one view, without ``return_info``; its passes are of epoch 0, 1, ...

    Raises:
        ValueError: the loader has no batch.
    """
    warm_up = loader.prefetch_factor + 3  # more than are ready ahead
    images = 0
    with recording() as spans:
        given = _endless(loader)
        for number in range(warm_up + batches):
            if number == warm_up:
                wait_for(loader.device)
                begin, cpu = perf_counter(), process_time()
            epoch, place, batch, labels = next(given)
            images += len(labels) if number >= warm_up else 0
            if step is not None:
                with span(STEP, epoch, place) as taken:
                    taken.images = len(labels)
                    step(batch, labels)
        wait_for(loader.device)
        end, cpu = perf_counter(), process_time() - cpu
        given.close()
    return Timeline(spans, begin, end, images, cpu, threading.current_thread().name)


def _endless(loader: DataLoader) -> Generator[tuple[int, int, Tensor, Tensor], None, None]:
    """(epoch, number of the batch, images, labels), pass after pass."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        number = -1
        for number, (images, labels) in enumerate(loader):
            yield epoch, number, images, labels
        if number < 0:
            raise ValueError("the loader must have a batch, got none")


def shares(spans: Iterable[Span], begin: float, end: float) -> list[Share]:
    """What each stage took from ``begin`` to ``end``, thread by thread, in the order of a batch's way."""
    found: dict[tuple[str, str], list[tuple[Span, float, float]]] = {}
    for each, seconds, cpu in own_times(spans, begin, end):
        found.setdefault((each.stage, each.thread), []).append((each, seconds, cpu))
    rows = []
    for (stage, thread), parts in found.items():
        images = sum(each.images for each, _, _ in parts)
        seconds, cpu = sum(part[1] for part in parts), sum(part[2] for part in parts)
        rows.append(Share(stage, thread, len(parts), images, seconds, cpu, seconds / (end - begin)))
    return sorted(rows, key=lambda row: _ORDER.index(row.stage) if row.stage in _ORDER else len(_ORDER))


def own_times(spans: Iterable[Span], begin: float, end: float) -> list[tuple[Span, float, float]]:
    """Each span that reaches into [begin, end], by their begin, with the seconds and the CPU seconds of it that no span within it has.

    Of a span that reaches beyond, the part inside counts, and as much of its CPU time.
    """
    inside = [each for each in spans if each.begin < end and each.end > begin]
    inside.sort(key=lambda each: (each.begin, -each.end))
    own: list[list[float]] = []
    open_spans: dict[int, list[int]] = {}  # of each thread those that are not over yet
    for number, each in enumerate(inside):
        above = open_spans.setdefault(each.tid, [])
        while above and inside[above[-1]].end <= each.begin:
            above.pop()
        took = min(each.end, end) - max(each.begin, begin)
        own.append([took, each.cpu * took / (each.end - each.begin)])
        if above:
            own[above[-1]] = [mine - its for mine, its in zip(own[above[-1]], own[number], strict=True)]
        above.append(number)
    return [(each, seconds, cpu) for each, (seconds, cpu) in zip(inside, own, strict=True)]


def pace(found: Sequence[Share]) -> Share:
    """The stage, or the consumer's step, that is busy most: whatever else became faster, images would not come sooner.

    Raises:
        ValueError: no stage was at work.
    """
    working = [each for each in found if each.stage != WAIT]
    if not working:
        raise ValueError("spans must hold a stage's work, got none")
    return max(working, key=lambda each: each.busy)
