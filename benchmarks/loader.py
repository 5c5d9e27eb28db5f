"""The loader beside torch's DataLoader with PIL and, where rows are replaced, an eager generator: same files, same boxes, same noise.

    taskset -c 0 python benchmarks/loader.py --data FOLDER                       one core, the embedded generator
    python benchmarks/loader.py --data FOLDER --p 0 --size 224                   decoding and cropping alone
    python benchmarks/loader.py --data FOLDER --case "256 px, channels 64"       at the size of published generators, random weights

Features come from a bank, or "online" from the photographs as they are decoded. The peer (``scene.py``) compacts as well: it generates
the rows that are replaced and no others; at p = 0.5 a second contest shows one that generates all and then chooses. Verifies first that
both deliver the same batches, then times them in alternating windows, with the C library's allocator as it is and with its thresholds
raised (fresh memory is then not mapped anew each time, which helps the peer most). One JSON object a line.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import emit, environment, raise_allocator_thresholds, summary, windows
from engine import CASES
from scene import PEER, SEED, Models, Peer, Plan, bank_of, instructions, load_models, megapixels, photographs, plan_of

import dali_icgan as di

# How far batches may differ. Photographs in levels of 255: at most, since PIL rounds to 8 bits after the resize; on CUDA on average, since
# there the JPEG decoder is another one as well. Generations by their norm: two engines, and features of two extractors.
LEVELS = {"cpu": 2.5, "cuda": 1.0}
RELATIVE = {"cpu": 1e-3, "cuda": 5e-2}


@dataclass(frozen=True)
class Contest:
    """One line: p, where features come from (None at p = 0), and whether the peer generates just the replaced rows."""

    p: float
    source: str | None
    compaction: bool = True

    @property
    def peer(self) -> str:
        """What it is called."""
        if not self.p:
            return PEER
        return f"{PEER} + eager generator" + ("" if self.compaction else ", every row")


def contests(probabilities: list[float], sources: list[str]) -> list[Contest]:
    found = [Contest(p, source) for p in probabilities for source in (sources if p else [None])]
    return found + [Contest(p, source, compaction=False) for p in probabilities for source in sources if p == 0.5]


class FixedEpoch:
    """Our loader, always in epoch 0, so that its decisions are the plan's."""

    def __init__(self, loader: di.DataLoader) -> None:
        self.loader = loader

    def __call__(self) -> int:
        self.loader.set_epoch(0)
        return counted(self.loader, self.loader.device)


def counted(batches: Any, device: torch.device) -> int:
    """Rows of a pass, once the device is done with it."""
    rows = sum(len(images) for images, *_ in batches)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of images; none: made from scikit-image's photographs")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    parser.add_argument("--p", type=float, nargs="+", default=[0, 0.25, 0.5, 1])
    parser.add_argument("--source", nargs="+", choices=("bank", "online"), default=["bank", "online"])
    parser.add_argument("--case", choices=list(CASES), default="embedded", help="the generator, of engine.py's")
    parser.add_argument("--images", type=int, help="default: 320, of a large generator on the CPU 16")
    parser.add_argument("--batch-size", type=int, help="default: 64, of a large generator on the CPU 8")
    parser.add_argument("--size", type=int, help="of the crops; default: the generator's, at most 224")
    parser.add_argument("--workers", type=int, help="the peer's processes; default: one a core, 0 on one core")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window, at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.device = torch.device(given.device)
    given.threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(given.threads)
    large = given.case != "embedded" and given.device.type == "cpu"
    given.images = given.images or (16 if large else 320)
    given.batch_size = given.batch_size or (8 if large else 64)
    given.workers = given.workers if given.workers is not None else given.threads if given.threads > 1 else 0
    with tempfile.TemporaryDirectory() as scratch:
        run(photographs(given.data, Path(scratch) / "photographs", given.images), Path(scratch), given)


def run(pairs: list[tuple[str, int]], scratch: Path, given: argparse.Namespace) -> None:
    models = load_models(given.case, given.device) if any(given.p) else None
    given.size = given.size or (224 if models is None else min(224, models.generator.resolution))
    bank = None
    if models is not None and "bank" in given.source:
        bank = bank_of(pairs, models.extractor, scratch / "bank")
    base = {
        "case": None if models is None else models.name,
        "images": len(pairs),
        "files": len(set(pairs)),
        "megapixels": round(megapixels(pairs), 4),
        "data": "given" if given.data else "scikit-image",
        "batch_size": given.batch_size,
        "size": given.size,
        "cores": given.threads,
        "instructions": instructions(given.device),
        "workers": given.workers,
    }
    for allocator in ("stock", "raised thresholds") if given.device.type == "cpu" else ("torch",):
        if allocator == "raised thresholds":
            raise_allocator_thresholds()
        for contest in contests(given.p, given.source):
            # Made for each: worker processes have the allocator's thresholds of when they began.
            record = measure(contest, pairs, models, bank, given)
            emit({**environment(), "benchmark": "loader", **base, **record, "allocator": allocator}, given.out)


def measure(
    contest: Contest,
    pairs: list[tuple[str, int]],
    models: Models | None,
    bank: di.FeatureBank | None,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """One contest, verified first."""
    transform, device = di.TrainTransform(given.size), given.device
    augment = augment_of(models, bank, contest.p, contest.source) if contest.p else None
    plan = plan_of(pairs, augment, transform)
    peer = Peer(
        plan,
        transform,
        models if contest.p else None,
        given.batch_size,
        workers=given.workers,
        device=device,
        every_row=not contest.compaction,
    )
    with di.DataLoader(
        pairs,
        given.batch_size,
        augment=augment,
        transform=transform,
        num_workers=given.threads,
        device=device,
        seed=SEED,
        return_info=True,
    ) as loader:
        differences = verify(loader, peer, plan, transform)
        contestants: dict[str, Callable[[], int]] = {
            contest.peer: lambda: counted(peer, device),
            "dali_icgan": FixedEpoch(loader),
        }
        rates = windows(contestants, given.seconds, given.rounds)
    ratios = [ours / theirs for ours, theirs in zip(rates["dali_icgan"], rates[contest.peer], strict=True)]
    return {
        "p": contest.p,
        "source": contest.source,
        "compaction": contest.compaction,
        "generator": None if models is None or not contest.p else models.name,
        "microbatch": None if augment is None else augment.microbatch,
        "dtype": str(loader.dtype).removeprefix("torch."),
        "replaced": int(plan.replaced.sum()),
        **differences,
        "images_per_s": {name: summary(values) for name, values in rates.items()},
        "ratio": summary(ratios),
    }


def augment_of(models: Models, bank: di.FeatureBank | None, p: float, source: str) -> di.DAICGAN:
    features = {"bank": bank} if source == "bank" else {"extractor": models.extractor}
    return di.DAICGAN(generator=models.generator, p=p, **features)


def verify(loader: di.DataLoader, peer: Peer, plan: Plan, transform: di.TrainTransform) -> dict[str, float | None]:
    """That both deliver the plan's batches; how far they differ.

    Returns:
        the largest difference in a photograph, in levels of 255; and the largest of a batch's generations, relative, by their norm.
    """
    loader.set_epoch(0)
    std = torch.tensor(transform.std)[:, None, None]
    kind = peer.device.type
    levels, bounded, relative, row = [], [], [], 0
    for (ours, labels, info), (theirs, their_labels) in zip(loader, peer, strict=True):
        rows = slice(row, row := row + len(ours))
        hit = plan.replaced[rows]
        box = np.where(hit[:, None], plan.made_box[rows], plan.photo_box[rows])
        for name, wanted in (("replaced", hit), ("box", box), ("flip", plan.flip[rows])):
            assert np.array_equal(info[name], wanted), f"the loader does not follow the plan: {name}"
        assert torch.equal(labels.cpu(), their_labels.cpu()), "labels differ"
        ours, theirs, hit = ours.cpu().float() * std, theirs.cpu().float() * std, torch.from_numpy(hit)
        if hit.any():
            relative.append(float((ours - theirs)[hit].norm() / theirs[hit].norm()))
        if not hit.all():
            apart = 255 * (ours - theirs)[~hit].abs()
            levels.append(float(apart.max()))
            bounded.append(float(apart.max() if kind == "cpu" else apart.mean()))
    assert row == len(plan.path), f"the loader delivers {row} of {len(plan.path)} rows"
    assert max(bounded, default=0) < LEVELS[kind], f"photographs differ by {max(bounded):.2f} levels of 255"
    assert max(relative, default=0) < RELATIVE[kind], f"generations differ by {max(relative):.1e} of their norm"
    return {
        "largest_difference_in_levels": round(max(levels), 3) if levels else None,
        "largest_relative_difference_of_generations": max(relative) if relative else None,
    }


if __name__ == "__main__":
    main()
