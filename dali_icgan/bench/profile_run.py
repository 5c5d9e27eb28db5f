"""What ``dali-icgan bench profile`` measures: a loader beside its consumer, and each stage by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dali_icgan.augment import DAICGAN, TrainTransform
from dali_icgan.bench.profile import Timeline, timeline
from dali_icgan.bench.record import machine, on_cores
from dali_icgan.bench.results import OURS, Record
from dali_icgan.bench.scene import SEED, Files, bank_of, files_of
from dali_icgan.bench.stages import stage_rates
from dali_icgan.bench.training import Training
from dali_icgan.data import as_samples
from dali_icgan.data.decode import available_threads
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.engine.placement import resolve_device
from dali_icgan.loader import DataLoader

_WARM_UP = 8  # batches before those that are looked at, more than a loader takes to get going
_CLASSES = 1000
_STAGE_IMAGES = 256


def profile_loader(
    data: Path | None,
    scratch: Path,
    *,
    p: float = 0.0,
    batches: int = 30,
    step: bool = False,
    size: int = 224,
    batch_size: int = 64,
    threads: int | None = None,
    generator: str = "embedded",
    extractor: str = "embedded",
    device: str | None = None,
    seconds: float = 0.5,
    told: Callable[[str], None] = lambda what: None,
) -> tuple[Timeline, list[Record]]:
    """A loader beside a training step or nothing, and its stages by themselves.

    Args:
        data: images; None: made from scikit-image's photographs.
        scratch: where a bank goes, and images that are made.
        seconds: of a window in which stages are measured by themselves, at least.
        told: called with what is done now.

    Returns:
        what was seen, and the lines of a bench.jsonl: the machine, each stage by itself (on one thread, and on ``threads``), and the
        loader's rate, where nothing but the loader was at work.
    """
    on = resolve_device(device)
    threads = threads or available_threads()
    if p and (generator == "embedded") != (extractor == "embedded"):
        raise ValueError("--generator and --extractor must be given together: features are of the extractor that a generator was trained with")  # fmt: skip
    told("images")
    files = files_of(data, batch_size * (batches + _WARM_UP), scratch)
    bank = None
    augment, case = None, Path(generator).name
    if p:
        told("features")
        makes, sees = load_generator(generator, on), load_extractor(extractor, on)
        bank = bank_of(files, sees.at_resolution(makes.resolution), scratch / "bank")
        augment = DAICGAN(generator=makes, bank=bank, p=p)
    training = Training(on, _CLASSES) if step else None
    transform = TrainTransform(size)
    told("a loader" + (f" beside {training.network}" if training else ""))
    with DataLoader(
        files.ours,
        batch_size,
        drop_last=True,
        num_workers=threads,
        augment=augment,
        transform=transform,
        device=on,
        seed=SEED,
    ) as loader:
        seen = timeline(loader, batches, training)
    lines: list[Record] = [{**machine(), **files.facts()}]
    for count in dict.fromkeys((1, threads)):
        told(f"each stage by itself, {count} thread{'s' * (count > 1)}")
        alone = None if augment is None else DAICGAN(generator=augment.generator, bank=bank, p=1.0)
        lines += _stages(files, transform, alone, case, batch_size, count, on, training, seconds)
    if training is None:
        lines.append(_throughput(seen, case, p, batch_size, threads, size, on))
    return seen, lines


def _stages(
    files: Files,
    transform: TrainTransform,
    augment: DAICGAN | None,
    case: str,
    batch_size: int,
    threads: int,
    device: torch.device,
    step: Training | None,
    seconds: float,
) -> list[Record]:
    samples = as_samples(files.first(max(_STAGE_IMAGES, batch_size)).ours)
    how: dict[str, Any] = {"augment": augment, "case": case, "batch_size": batch_size, "threads": threads}
    if device.type == "cuda":
        return stage_rates(samples, transform, **how, device=device, step=step, seconds=seconds)
    with on_cores(min(threads, available_threads())):
        return stage_rates(samples, transform, **how, device=device, step=step, seconds=seconds)


def _throughput(
    seen: Timeline, case: str, p: float, batch_size: int, threads: int, size: int, device: torch.device
) -> Record:
    return {
        "kind": "throughput",
        "contest": "profile",
        "axis": "p",
        "peer": OURS,
        "generator": OURS if p else None,
        "case": case if p else None,
        "p": p,
        "source": "bank" if p else None,
        "batch_size": batch_size,
        "threads": threads,
        "size": size,
        "device": str(device),
        "images_per_s": [seen.images_per_s],
        "cpu_s_per_1000": 1000 * seen.cpu / seen.images,
    }
