"""What each stage of the loader takes of an image that goes through it, while no other is at work."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_icgan.augment.operator import DAICGAN, Transform
from dali_icgan.batches import Engine
from dali_icgan.bench.measure import wait_for
from dali_icgan.bench.profile import STEP, Consumer, shares
from dali_icgan.data import Samples
from dali_icgan.data.read import MAX_PIXELS
from dali_icgan.spans import recording, span


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
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with closing(_Serial(samples, transform, None, batch_size, threads, device)) as serial:
            found: list[tuple[str, str | None, dict[str, Any]]] = [
                (name, None, each) for name, each in _measured(serial, seconds, rounds).items()
            ]
            sizes, (images, labels) = serial.mean_bytes(), serial.batch()
        if augment is not None:
            with closing(_Serial(samples, transform, augment, batch_size, threads, device)) as serial:
                made = _measured(serial, seconds, rounds)
            found += [(name, case, made[name]) for name in ("generate", "assemble")]
        if step is not None:
            found.append((STEP, None, _measured(lambda: _one_step(step, images, labels), seconds, rounds)[STEP]))
    finally:
        torch.set_num_threads(before)
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
        wait_for(self._device)
        return delivery.images[0], delivery.labels

    def close(self) -> None:
        """End its threads."""
        self._engine.close()

    def mean_bytes(self) -> float:
        """Of files all over the dataset."""
        index = np.unique(np.linspace(0, len(self._samples) - 1, 1000).astype(np.int64))
        return statistics.fmean(len(self._samples.read(int(i))) for i in index)


def _one_step(step: Consumer, images: Tensor, labels: Tensor) -> None:
    with span(STEP, 0, -1) as taken:
        taken.images = len(images)
        step(images, labels)
        wait_for(images.device)


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


def arithmetic(records: Sequence[dict[str, Any]], p: float, cores: int) -> float:
    """Seconds that the loader's stages compute for one row at p, shared out to all cores: generation from a bank, decoding of the rest.

    Args:
        records: of :func:`stage_rates` on one thread, of one size and at most one generator.
    """

    def of(stage: str, made: bool) -> float:
        found = [each for each in records if each["stage"] == stage and (each["case"] is not None) == made]
        return float(found[0]["seconds_per_image"])

    seconds = 0.0
    if p < 1:
        seconds += (1 - p) * sum(of(stage, False) for stage in ("read", "decode", "assemble"))
    if p > 0:
        seconds += p * sum(of(stage, True) for stage in ("generate", "assemble"))
    return seconds / cores
