"""What a loader costs a training step: images a second of a torchvision ResNet, fed by a constant batch and by each contestant.

On the CPU ResNet-18 in float32; on CUDA ResNet-50 under autocast to bfloat16; both channels-last. "kept" is the speed beside the constant
batch, which costs nothing to fetch; "waiting" the share of the time between the end of a step and the arrival of the next batch: on CUDA as
the training stream sees it, by events, so that nothing waits for the sake of the measurement. What a loader computes beside the step slows
the step down: that is in "kept", not in "waiting". Each window is a pass of its own, whose first steps are not counted: batches that were
ready before would be a gift.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.bench.peers.peer import Opened
from dali_icgan.bench.record import back_and_forth, rounded

WARM_UP = 6  # steps, more than any of them looks ahead
CONSTANT = "constant batch"


class Training:
    """Steps of SGD on batches; the device is never waited for but one step behind, so that the host does not run away."""

    def __init__(self, device: torch.device, classes: int) -> None:
        try:
            import torchvision
        except ImportError as error:
            raise ImportError("a training step needs torchvision: pip install torchvision") from error
        self.device = device
        torch.manual_seed(0)
        on_cpu = device.type == "cpu"
        self.network = "ResNet-18" if on_cpu else "ResNet-50"
        build = torchvision.models.resnet18 if on_cpu else torchvision.models.resnet50
        self.model = build(num_classes=classes).to(device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = F.cross_entropy(self.model(images.contiguous(memory_format=torch.channels_last)), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def window(self, batches: Iterator[tuple[Tensor, Tensor]], seconds: float) -> tuple[float, float]:
        """Images a second, and the share of the time that steps waited for a batch."""
        for _ in range(WARM_UP):
            self(*next(batches))
        return (self._on_cuda if self.device.type == "cuda" else self._on_cpu)(batches, seconds)

    def _on_cpu(self, batches: Iterator[tuple[Tensor, Tensor]], seconds: float) -> tuple[float, float]:
        rows, waited, begun = 0, 0.0, time.perf_counter()
        while (ended := time.perf_counter()) - begun < seconds:
            images, labels = next(batches)
            waited += time.perf_counter() - ended
            self(images, labels)
            rows += len(images)
        took = time.perf_counter() - begun
        return rows / took, waited / took

    def _on_cuda(self, batches: Iterator[tuple[Tensor, Tensor]], seconds: float) -> tuple[float, float]:
        def mark() -> torch.cuda.Event:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        torch.cuda.current_stream().synchronize()
        ends, arrivals, rows, begun = [mark()], [], 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            images, labels = next(batches)
            arrivals.append(mark())
            self(images, labels)
            rows += len(images)
            ends.append(mark())
            ends[-2].synchronize()
        ends[-1].synchronize()
        took = ends[0].elapsed_time(ends[-1])
        waited = sum(end.elapsed_time(arrival) for end, arrival in zip(ends, arrivals, strict=False))
        return 1000 * rows / took, waited / took


def endless(opened: Opened) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass after pass."""
    while True:
        for batch in opened:
            yield batch.images, batch.labels


def train(
    training: Training,
    contestants: dict[str, tuple[Opened, dict[str, Any]]],
    seconds: float,
    rounds: int,
    told: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """A "training" record of each contestant, but for what the caller knows of all of them.

    Args:
        contestants: by name: opened, and its part of the record.
    """
    first = next(iter(next(iter(contestants.values()))[0]))
    constant = first.images.clone(), first.labels.clone()

    def same() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield constant

    sources: dict[str, Callable[[], Iterator[tuple[Tensor, Tensor]]]] = {CONSTANT: same}
    sources |= {name: partial(endless, opened) for name, (opened, _) in contestants.items()}
    rates: dict[str, list[float]] = {name: [] for name in sources}
    waiting: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(rounds):
        for name in back_and_forth(list(sources), turn):
            told(f"round {turn + 1}: {name}")
            batches: Any = sources[name]()
            rate, share = training.window(batches, seconds)
            batches.close()
            rates[name].append(rate)
            waiting[name].append(share)
    records = []
    for name, (_, facts) in contestants.items():
        kept = statistics.median(fed / best for fed, best in zip(rates[name], rates[CONSTANT], strict=True))
        records.append(
            {
                "kind": "training",
                "network": training.network,
                **facts,
                "images_per_s": [rounded(rate) for rate in rates[name]],
                "constant_images_per_s": [rounded(rate) for rate in rates[CONSTANT]],
                "kept": rounded(kept),
                "waiting": rounded(statistics.median(waiting[name])),
            }
        )
    return records
