"""What a run measures, in full and in short."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

PARTS = ("peers", "generators", "scaling", "stages", "training", "startup")
_LARGE = "256 px, channels 64"
_IMAGENET = 1_281_167  # images


@dataclass(frozen=True)
class Settings:
    """Of a run.

    Attributes:
        images, batch_size, size: of a pass over photographs, its batches and its crops.
        cores: how many the contests on a CPU are held to, one after the other.
        case: the generator, of :data:`dali_icgan.bench.models.GENERATORS`.
        large: another generator, for fewer images; None: none.
        probabilities: of the contests with generations.
        compiled: whether ``torch.compile`` of the eager generator is a contestant.
        seconds, rounds: of a window, at least; and how many each contestant has.
        batch_sizes, sizes, entries: how it scales.
    """

    out: Path
    data: Path | None
    device: torch.device
    peers: tuple[str, ...]
    parts: tuple[str, ...]
    probabilities: tuple[float, ...]
    images: int
    batch_size: int
    size: int
    cores: tuple[int, ...]
    case: str
    large: str | None
    compiled: bool
    seconds: float
    rounds: int
    batch_sizes: tuple[int, ...]
    sizes: tuple[int, ...]
    entries: tuple[int, ...]
    training_images: int
    training_batch: int
    training_size: int
    training_seconds: float
    verified: int = field(default=128)

    def generation_size(self, resolution: int) -> int:
        """Of the crops where rows are generated: a larger one would only enlarge."""
        return min(self.size, resolution)


def settings(
    out: Path,
    data: Path | None,
    device: torch.device,
    peers: tuple[str, ...],
    parts: tuple[str, ...],
    probabilities: tuple[float, ...],
    quick: bool,
) -> Settings:
    """Those of a full run or of a quick one, on this device.

    Raises:
        ValueError: a part or a probability is none.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"--only must be some of {', '.join(PARTS)}, got {part!r}")
    for p in probabilities:
        if not 0 <= p <= 1:
            raise ValueError(f"--p must be numbers in [0, 1], got {p:g}")
    gpu = device.type == "cuda"
    cores = len(os.sched_getaffinity(0))
    every_core = (cores,) if gpu or cores == 1 else (1, 2)
    if quick:
        return Settings(
            out, data, device, peers, parts, tuple(p for p in probabilities if p in (0, 0.5)) or probabilities[:2],
            images=2048 if gpu else 128, batch_size=256 if gpu else 32, size=224, cores=every_core[-1:],
            case=_LARGE if gpu else "embedded", large=None, compiled=False, seconds=0.4, rounds=3,
            batch_sizes=(8, 32), sizes=(), entries=(),
            training_images=4096 if gpu else 512, training_batch=256 if gpu else 16, training_size=224 if gpu else 64,
            training_seconds=0.5, verified=64,
        )  # fmt: skip
    return Settings(
        out, data, device, peers, parts, probabilities,
        images=8192 if gpu else 640, batch_size=256 if gpu else 64, size=224, cores=every_core,
        case=_LARGE if gpu else "embedded", large=None if gpu else _LARGE, compiled=True, seconds=1.0, rounds=5,
        batch_sizes=(8, 16, 32, 64, 128), sizes=(64, 128, 224, 320), entries=(10**3, 10**4, 10**5, _IMAGENET, 10**7),
        training_images=16384 if gpu else 2048, training_batch=256 if gpu else 32, training_size=224 if gpu else 64,
        training_seconds=3.0,
    )  # fmt: skip
