"""What the loader costs a training step: steps a second of a torchvision ResNet, fed by a constant batch, by us and by the peer.

    python benchmarks/training_share.py --data FOLDER --out benchmarks/results/training_share.jsonl

On the CPU ResNet-18 in float32; on CUDA ResNet-50 under autocast to bfloat16; both channels-last. "kept" is the speed beside the constant batch, which
costs nothing to fetch; "waiting" the share of the time between the end of a step and the arrival of the next batch: on CUDA as the
training stream sees it, by events, so that nothing waits for the sake of the measurement. What a loader computes beside the step slows
the step down: that is in "kept", not in "waiting". Each window is a pass of its own, whose first steps are not counted: batches that
were ready before would be a gift. One JSON object a line.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from common import emit, environment, raise_allocator_thresholds, summary
from engine import CASES
from loader import augment_of
from scene import SEED, Models, Peer, bank_of, instructions, load_models, photographs, plan_of
from torch import Tensor
from torch.nn import functional as F

import dali_icgan as di

P = 0.5
CONSTANT = "constant batch"
WARM_UP = 6  # steps, more than any of them looks ahead


class Training:
    """Steps of SGD on batches; the device is never waited for but one step behind, so that the host does not run away."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.manual_seed(0)
        on_cpu = device.type == "cpu"
        self.name = "ResNet-18" if on_cpu else "ResNet-50"
        build = torchvision.models.resnet18 if on_cpu else torchvision.models.resnet50
        self.model = build(num_classes=10).to(device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)

    def step(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = F.cross_entropy(self.model(images.contiguous(memory_format=torch.channels_last)), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def window(self, batches: Iterator[Any], seconds: float) -> tuple[float, float]:
        """Steps a second, and the share of the time that they waited for a batch."""
        for _ in range(WARM_UP):
            self.step(*next(batches))
        return (self._on_cuda if self.device.type == "cuda" else self._on_cpu)(batches, seconds)

    def _on_cpu(self, batches: Iterator[Any], seconds: float) -> tuple[float, float]:
        steps, waited, begun = 0, 0.0, time.perf_counter()
        while (ended := time.perf_counter()) - begun < seconds:
            images, labels = next(batches)
            waited += time.perf_counter() - ended
            self.step(images, labels)
            steps += 1
        took = time.perf_counter() - begun
        return steps / took, waited / took

    def _on_cuda(self, batches: Iterator[Any], seconds: float) -> tuple[float, float]:
        def mark() -> torch.cuda.Event:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        torch.cuda.current_stream().synchronize()
        ends, arrivals, begun = [mark()], [], time.perf_counter()
        while time.perf_counter() - begun < seconds:
            images, labels = next(batches)
            arrivals.append(mark())
            self.step(images, labels)
            ends.append(mark())
            ends[-2].synchronize()
        ends[-1].synchronize()
        took = ends[0].elapsed_time(ends[-1])
        waited = sum(end.elapsed_time(arrival) for end, arrival in zip(ends, arrivals, strict=False))
        return 1000 * len(arrivals) / took, waited / took


def endless(batches: Iterable[Any], epoch: Callable[[int], None] | None = None) -> Iterator[Any]:
    """Passes over ``batches``, each in epoch 0."""
    while True:
        if epoch is not None:
            epoch(0)
        yield from batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of images; none: made from scikit-image's photographs")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", choices=list(CASES), help='default: embedded; on CUDA "256 px, channels 64"')
    parser.add_argument("--batch-size", type=int, help="default: 32; on CUDA 256")
    parser.add_argument("--size", type=int, help="of the crops; default: 64; on CUDA 224")
    parser.add_argument("--images", type=int, help="default: 64 batches; files are repeated where there are fewer")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a window, at least")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    given.device = torch.device(given.device)
    on_cpu = given.device.type == "cpu"
    given.case = given.case or ("embedded" if on_cpu else "256 px, channels 64")
    given.batch_size = given.batch_size or (32 if on_cpu else 256)
    given.size = given.size or (64 if on_cpu else 224)
    given.images = given.images or 64 * given.batch_size
    given.threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        run(photographs(given.data, Path(scratch) / "photographs", given.images), Path(scratch), given)


def run(pairs: list[tuple[str, int]], scratch: Path, given: argparse.Namespace) -> None:
    models, training = load_models(given.case, given.device), Training(given.device)
    bank = bank_of(pairs, models.extractor, scratch / "bank")
    for allocator in ("stock", "raised thresholds") if given.device.type == "cpu" else ("torch",):
        if allocator == "raised thresholds":
            raise_allocator_thresholds()
        record = measure(pairs, models, bank, training, given)
        base = {
            "model": training.name,
            "p": P,
            "source": "bank",
            "generator": models.name,
            "batch_size": given.batch_size,
            "size": given.size,
            "images": len(pairs),
            "files": len(set(pairs)),
            "data": "given" if given.data else "scikit-image",
            "cores": given.threads,
            "instructions": instructions(given.device),
        }
        emit({**environment(), "benchmark": "training_share", **base, **record, "allocator": allocator}, given.out)


def measure(
    pairs: list[tuple[str, int]], models: Models, bank: di.FeatureBank, training: Training, given: argparse.Namespace
) -> dict[str, Any]:
    transform, device = di.TrainTransform(given.size), given.device
    augment = augment_of(models, bank, P, "bank")
    last = {"memory_format": torch.channels_last}
    loaders = {
        f"dali_icgan, p = {p:g}": di.DataLoader(
            pairs,
            given.batch_size,
            augment=augment if p else None,
            transform=transform,
            num_workers=given.threads,
            device=device,
            seed=SEED,
            drop_last=True,
            **last,
        )
        for p in (0, P)
    }
    workers = given.threads if given.threads > 1 else 0
    plan = plan_of(pairs, augment, transform)
    # Without its workers between windows, in which others are timed.
    peer = Peer(plan, transform, models, given.batch_size, workers=workers, device=device, lasting=False, **last)
    constant = next(iter(loaders["dali_icgan, p = 0"]))
    sources: dict[str, Callable[[], Iterator[Any]]] = {CONSTANT: lambda: endless([constant])}
    sources |= {name: lambda loader=loader: endless(loader, loader.set_epoch) for name, loader in loaders.items()}
    sources[f"DataLoader + PIL + eager generator, p = {P:g}"] = lambda: endless(peer)
    steps: dict[str, list[float]] = {name: [] for name in sources}
    waiting: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(given.rounds):
        # Back and forth, as in common.windows.
        for name in list(sources)[:: 1 if turn % 2 == 0 else -1]:
            batches = sources[name]()
            rate, share = training.window(batches, given.seconds)
            batches.close()
            steps[name].append(rate)
            waiting[name].append(share)
    for loader in loaders.values():
        loader.close()
    kept = {
        name: summary([fed / best for fed, best in zip(rates, steps[CONSTANT], strict=True)], 3)
        for name, rates in steps.items()
        if name != CONSTANT
    }
    return {
        "workers": workers,
        "microbatch": augment.microbatch,
        "steps_per_s": {name: summary(rates) for name, rates in steps.items()},
        "waiting": {name: summary(shares, 3) for name, shares in waiting.items()},
        "kept": kept,
    }


if __name__ == "__main__":
    main()
