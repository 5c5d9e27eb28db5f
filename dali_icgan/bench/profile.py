"""Where a loader's time goes beside its consumer, and what each stage takes of an image by itself."""

import itertools
import statistics
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.augment.operator import DAICGAN, Transform
from dali_icgan.batches import Engine
from dali_icgan.data import Samples
from dali_icgan.data.read import MAX_PIXELS
from dali_icgan.loader import DataLoader
from dali_icgan.spans import Span, recording, span

Consumer = Callable[[Tensor, Tensor], None]
WAIT, STEP = "wait", "step"
_ORDER = ("read", "decode", "generate", "assemble", WAIT, STEP)


class Training:
    """Steps of SGD of torchvision's ResNet-18, on CUDA of its ResNet-50 under autocast to bfloat16, channels last.

    Raises:
        ImportError: no torchvision.
    """

    def __init__(self, device: torch.device, classes: int) -> None:
        try:
            from torchvision import models
        except ImportError as error:
            raise ImportError("a training step needs torchvision: pip install torchvision") from error
        on_cuda = device.type == "cuda"
        build = models.resnet50 if on_cuda else models.resnet18
        self.name = "ResNet-50" if on_cuda else "ResNet-18"
        self._device = device
        self._model = build(num_classes=classes).to(device, memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.SGD(self._model.parameters(), 0.01, momentum=0.9)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            loss = F.cross_entropy(self._model(images.contiguous(memory_format=torch.channels_last)), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


# ---------------------------------------------------------------------- beside a consumer


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
                _wait_for(loader.device)
                begin, cpu = perf_counter(), process_time()
            epoch, place, batch, labels = next(given)
            images += len(labels) if number >= warm_up else 0
            if step is not None:
                with span(STEP, epoch, place) as taken:
                    taken.images = len(labels)
                    step(batch, labels)
        _wait_for(loader.device)
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


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


# ---------------------------------------------------------------------- each stage by itself


def stage_rates(
    samples: Samples,
    transform: Transform,
    *,
    augment: DAICGAN | None = None,
    case: str | None = None,
    batch_size: int = 64,
    threads: int = 1,
    device: torch.device | str = "cpu",
    step: Consumer | None = None,
    seconds: float = 0.5,
    rounds: int = 5,
) -> list[dict[str, Any]]:
    """What each stage takes of an image that goes through it, while no other stage is at work.

    Args:
        samples, transform: whose images, cropped how.
        augment: what makes generations, with p = 1 and a bank; None: no generations are measured.
        case: the generator's name, for the records.
        threads: of DALI, of our kernels and of torch.
        step: a training step, measured on one batch again and again.
        seconds, rounds: a window's least length, and how many there are.

    Returns:
        records of kind "stage": "read", "decode", "assemble" (of a photograph), and with ``augment`` "generate" and "assemble" with the
        generator's case (of a generation), and "step". ``seconds_per_image`` is the median of ``windows``; ``cpu_s_per_image``, the
        CPU time of all threads, that of ``cpu_windows``. ``bytes_per_image`` is the mean size of a file, of what "read" reads.

    Raises:
        ValueError: ``augment`` has another p than 1, or no bank.
    """
    if augment is not None and (augment.p != 1 or augment.bank is None):
        raise ValueError(f"augment must have p = 1 and a bank to be measured, got p = {augment.p}, bank={augment.bank}")
    device = torch.device(device)
    serial = _Serial(samples, transform, None, batch_size, threads, device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found: list[tuple[str, str | None, dict[str, Any]]] = [
            (name, None, each) for name, each in _measured(serial, seconds, rounds).items()
        ]
        if augment is not None:
            made = _measured(_Serial(samples, transform, augment, batch_size, threads, device), seconds, rounds)
            found += [(name, case, made[name]) for name in ("generate", "assemble")]
        if step is not None:
            images, labels = serial.batch()
            found += [(STEP, None, _measured(lambda: _one_step(step, images, labels), seconds, rounds)[STEP])]
    finally:
        torch.set_num_threads(before)
    sizes = serial.mean_bytes()
    base = {"size": transform.output_size, "batch_size": batch_size, "threads": threads, "device": str(device)}
    return [
        {
            "kind": "stage",
            "stage": name,
            "case": case_of,
            **base,
            **figures,
            "bytes_per_image": sizes if name == "read" else None,
        }
        for name, case_of, figures in found
    ]


class _Serial:
    """Batches of a dataset, one after the other, each stage of each to its end before the next begins."""

    def __init__(
        self,
        samples: Samples,
        transform: Transform,
        augment: DAICGAN | None,
        batch_size: int,
        threads: int,
        device: torch.device,
    ) -> None:
        self._samples, self._batch_size, self._device = samples, batch_size, device
        self._engine = Engine(
            samples,
            augment=augment,
            transforms=[transform],
            device=device,
            dtype=torch.float16 if device.type == "cuda" else torch.float32,
            memory_format=torch.contiguous_format,
            seed=0,
            threads=threads,
            on_error="raise",
            max_pixels=MAX_PIXELS,
            exif=False,
            keep=2,
        )
        self._next = 0

    def __call__(self) -> None:
        self.batch()

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next images, and their labels.

        Raises:
            DecodeError: one of them cannot be read.
        """
        index = (self._next + np.arange(self._batch_size)) % len(self._samples)
        self._next = int(index[-1]) + 1
        delivery = self._engine.replay(0, index, np.zeros_like(index), 0)
        _wait_for(self._device)
        return delivery.images[0], delivery.labels

    def mean_bytes(self) -> float:
        """Of files all over the dataset."""
        index = np.unique(np.linspace(0, len(self._samples) - 1, 1000).astype(np.int64))
        return statistics.fmean(len(self._samples.read(int(i))) for i in index)


def _one_step(step: Consumer, images: Tensor, labels: Tensor) -> None:
    with span(STEP, 0, -1) as taken:
        taken.images = len(images)
        step(images, labels)
        _wait_for(images.device)


def _measured(work: Callable[[], None], seconds: float, rounds: int) -> dict[str, dict[str, Any]]:
    """What each stage within some work takes of an image, in ``rounds`` windows of ``seconds`` at least."""
    work()  # DALI builds its pipeline, kernels are loaded
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(rounds):
        begin = perf_counter()
        with recording() as spans:
            while not spans or perf_counter() - begin < seconds:
                work()
        for each in shares(spans, begin, perf_counter()):
            if each.images:
                wall.setdefault(each.stage, []).append(each.seconds / each.images)
                cpu.setdefault(each.stage, []).append(each.cpu / each.images)
    return {
        stage: {
            "seconds_per_image": statistics.median(values),
            "windows": values,
            "cpu_s_per_image": statistics.median(cpu[stage]),
            "cpu_windows": cpu[stage],
        }
        for stage, values in wall.items()
    }
