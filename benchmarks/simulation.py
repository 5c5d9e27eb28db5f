"""What `dali-icgan bench simulate` predicts beside what the loader does: each stage by itself, then the loader, on one core and on all.

    python benchmarks/simulation.py --data FOLDER --out benchmarks/results/simulation.jsonl

One JSON object a line, as `dali-icgan bench` writes them; `dali-icgan bench simulate --check FILE` shows both sides.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

import dali_icgan as di
from dali_icgan.bench.record import Lines, machine, on_cores, windows
from dali_icgan.bench.results import OURS
from dali_icgan.bench.scene import SEED, Files, bank_of, files_of
from dali_icgan.bench.stages import stage_rates
from dali_icgan.data import as_samples

CASE, CPU = "embedded", torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of images; none: made from scikit-image's photographs")
    parser.add_argument("--out", type=Path, required=True, help="write the JSON lines to this file")
    parser.add_argument("--p", type=float, nargs="+", default=[0, 0.5])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window, at least")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(files_of(given.data, given.images, Path(scratch)), Path(scratch), given)


def run(files: Files, scratch: Path, given: argparse.Namespace) -> None:
    generator, extractor = di.load_generator(CASE, CPU), di.load_extractor(CASE, CPU)
    bank = bank_of(files, extractor.at_resolution(generator.resolution), scratch / "bank")
    transform, lines = di.TrainTransform(given.size), Lines(given.out)
    lines.add({**machine(), **files.facts()})
    alone = di.DAICGAN(generator=generator, bank=bank, p=1.0)
    how: dict[str, Any] = {"batch_size": given.batch_size, "seconds": given.seconds / 2, "rounds": given.rounds}
    for cores in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
        with on_cores(cores):
            for record in stage_rates(
                as_samples(files.ours), transform, augment=alone, case=CASE, threads=cores, **how
            ):
                lines.add(record)
            loaders = {p: loader_of(files, transform, generator, bank, p, cores, given.batch_size) for p in given.p}
            rates = windows({f"{p:g}": passes(loader) for p, loader in loaders.items()}, given.seconds, given.rounds)
            for p, loader in loaders.items():
                loader.close()
                lines.add(rate_of(p, rates[f"{p:g}"], cores, given))


def loader_of(
    files: Files,
    transform: di.TrainTransform,
    generator: Any,
    bank: di.FeatureBank,
    p: float,
    cores: int,
    batch_size: int,
) -> di.DataLoader:
    augment = di.DAICGAN(generator=generator, bank=bank, p=p) if p else None
    how: dict[str, Any] = {"num_workers": cores, "device": CPU, "seed": SEED}
    return di.DataLoader(files.ours, batch_size, augment=augment, transform=transform, **how)


def passes(loader: di.DataLoader) -> Any:
    """A pass over epoch 0, which says how many images it had; the first is not counted."""

    def one() -> int:
        loader.set_epoch(0)
        return sum(len(images) for images, _ in loader)

    one()
    return one


def rate_of(p: float, rates: list[float], cores: int, given: argparse.Namespace) -> dict[str, Any]:
    made = (
        {"generator": OURS, "case": CASE, "source": "bank"} if p else {"generator": None, "case": None, "source": None}
    )
    return {
        "kind": "throughput",
        "contest": f"simulation, {cores} threads",
        "axis": "p",
        "peer": OURS,
        "p": p,
        **made,
        "batch_size": given.batch_size,
        "threads": cores,
        "size": given.size,
        "device": "cpu",
        "images_per_s": rates,
    }


if __name__ == "__main__":
    main()
