"""A contest: every contestant is verified, watched in a pass of its own, then timed in windows that alternate with the others'."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_icgan.bench.peers.peer import Opened
from dali_icgan.bench.record import give_memory_back, rounded, windows
from dali_icgan.bench.scene import Plan

# How far batches may differ from the baseline's, in levels of 255. At most, where decoder and resize are Pillow's or as exact: it rounds to
# 8 bits after the resize. On average, where decoder or filter are others.
LARGEST, MEAN = 2.5, 1.5
_TICK = 0.05  # seconds between two looks at memory
_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass
class Contestant:
    """One line of a contest.

    Attributes:
        peer: its id.
        open: makes it ready.
        facts: its part of the record.
    """

    peer: str
    open: Callable[[], Opened]
    facts: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------------- the contract


@dataclass(frozen=True)
class Pixels:
    """A pass, row by row, in levels of 255."""

    images: Tensor
    labels: Tensor


def pixels_of(opened: Opened, plan: Plan) -> Pixels:
    """A whole pass, in the plan's order.

    Raises:
        ValueError: a row is missing or comes twice.
    """
    images = torch.full((len(plan), 3, plan.transform.size, plan.transform.size), float("nan"))
    labels, seen = torch.full((len(plan),), -1), np.zeros(len(plan), int)
    for batch in opened:
        row = torch.from_numpy(np.asarray(batch.row))
        images[row] = levels(batch.images.cpu().float(), plan)
        labels[row] = batch.labels.cpu()
        np.add.at(seen, np.asarray(batch.row), 1)
    if (seen != 1).any():
        bad = int(np.flatnonzero(seen != 1)[0])
        raise ValueError(f"every row must come once a pass, row {bad} came {seen[bad]} times")
    return Pixels(images, labels)


def levels(images: Tensor, plan: Plan) -> Tensor:
    """Normalised pixels in levels of 255, but for the mean, which falls out of differences."""
    return 255 * images * torch.tensor(plan.transform.std)[:, None, None]


def contract(got: Pixels, wanted: Pixels, exact: bool, own: Tensor | None = None) -> dict[str, Any]:
    """How a contestant's batches differ from the baseline's.

    Args:
        exact: whether every pixel is bounded; else the mean of each image is.
        own: what a contestant with another filter must deliver, normalised; by that its boxes are judged.
    """
    apart = (got.images - wanted.images).abs()
    by_row = apart.mean((1, 2, 3)) if own is None else (got.images - own).abs().mean((1, 2, 3))
    largest, labels = float(apart.max()), bool(torch.equal(got.labels, wanted.labels))
    # Another crop shows in its own image however many others there are; another decoder in all alike.
    same_boxes = bool(by_row.max() < 4 * MEAN)
    accepted = labels and same_boxes and (largest < LARGEST if exact else bool(by_row.mean() < MEAN))
    return {
        "images": len(apart),
        "largest_levels": rounded(largest),
        "mean_levels": rounded(float(apart.mean())),
        "same_boxes": same_boxes,
        "accepted": bool(accepted),
        "note": None if labels else "labels differ",
    }


# ---------------------------------------------------------------------- what it costs


def _descendants(pid: int | str = "self") -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def cpu_seconds() -> float:
    """Of this process and of all that it started, ended or not."""
    total = sum(os.times()[:4])
    for child in _descendants():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / _CLOCK
    return total


def memory_mb() -> float:
    """Of this process and of all that it started; pages that they share count once."""
    total = 0
    for pid in ("self", *_descendants()):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """Afterwards says by how many MB memory rose at most."""
    give_memory_back()
    before = peak = memory_mb()
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(_TICK):
            peak = max(peak, memory_mb())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield lambda: peak - before
    finally:
        done.set()
        watcher.join()


def joules() -> float | None:
    """A counter of the energy that processors and GPUs have taken, where the machine tells."""
    total, told = 0.0, False
    for zone in Path("/sys/class/powercap").glob("intel-rapl:*"):
        if zone.name.count(":") == 1:
            with contextlib.suppress(OSError):
                total, told = total + int((zone / "energy_uj").read_text()) / 1e6, True
    if torch.cuda.is_available():
        with contextlib.suppress(Exception):  # NVML's own kinds; without it there is no figure
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
            total, told = total + pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, True
    return total if told else None


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def counted(opened: Opened, device: torch.device) -> int:
    """Rows of a pass, once the device is done with it."""
    rows = sum(len(batch.images) for batch in opened)
    wait_for(device)
    return rows


def watched(open_it: Callable[[], Opened], device: torch.device) -> tuple[Opened, dict[str, Any]]:
    """Open a contestant and watch two passes: time to its first batch and memory in the first, processor time and energy in the second."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        on_gpu = torch.cuda.memory_allocated(device)
    with peak_memory() as risen:
        begun, first = time.perf_counter(), None
        opened = open_it()
        for _ in opened:
            if first is None:
                wait_for(device)
                first = time.perf_counter() - begun
    before, energy = cpu_seconds(), joules()
    rows = counted(opened, device)
    thousands, energy_after = rows / 1000, joules()
    return opened, {
        "cpu_s_per_1000": rounded((cpu_seconds() - before) / thousands),
        "peak_rss_mb": rounded(risen()),
        "gpu_memory_mb": rounded((torch.cuda.max_memory_allocated(device) - on_gpu) / 2**20)
        if device.type == "cuda"
        else None,
        "joules_per_1000": None
        if energy is None or energy_after is None
        else rounded((energy_after - energy) / thousands),
        "first_batch_s": rounded(first),
        "one_off_s": rounded(opened.one_off_s),
        "one_off_images": rows if opened.one_off_s is not None else None,
    }


def contest(
    contestants: Sequence[Contestant],
    device: torch.device,
    seconds: float,
    rounds: int,
    told: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """A "throughput" record of each contestant, but for what the caller knows of all of them."""
    opened: list[Opened] = []
    records: list[dict[str, Any]] = []
    try:
        for each in contestants:
            told(str(each.facts.get("title", each.peer)))
            ready, figures = watched(each.open, device)
            opened.append(ready)
            records.append({"kind": "throughput", "peer": each.peer, **figures, **each.facts})
        told("windows")
        calls: dict[str, Callable[[], int]] = {str(i): partial(counted, o, device) for i, o in enumerate(opened)}
        for i, rates in windows(calls, seconds, rounds).items():
            records[int(i)]["images_per_s"] = [rounded(rate) for rate in rates]
    finally:
        for ready in opened:
            ready.close()
    return records
