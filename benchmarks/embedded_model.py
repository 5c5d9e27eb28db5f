"""Makes the embedded generator and extractor, and docs/embedded-model.md with their story:  python benchmarks/embedded_model.py

Cuts the photographs of ``dali-icgan demo``, trains on them (hours; it stops and goes on at any moment), rounds what came out to half
precision, puts it into the package, judges what was put there, and appends a line to benchmarks/results/embedded.jsonl, of which the
page is written.

    python benchmarks/embedded_model.py --as-far-as-it-got      the state that a training has reached
    python benchmarks/embedded_model.py --page [--check]        the page alone, from the last line
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import emit, environment

from dali_icgan.augment import FeatureBank
from dali_icgan.cli.photographs import PHOTOGRAPHS, cut
from dali_icgan.data import as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.models.checkpoint import read_extractor, write_checkpoint
from dali_icgan.training.gan import GanTrainer
from dali_icgan.training.instances import Instances
from dali_icgan.training.quality import FIGURES, InstanceSampler, evaluate
from dali_icgan.training.report import sample_grid
from dali_icgan.training.run import Training, train

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "docs" / "embedded-model.yaml"
EMBEDDED = ROOT / "dali_icgan" / "embedded"
RESULTS = Path(__file__).parent / "results" / "embedded.jsonl"
PAGE = ROOT / "docs" / "embedded-model.md"
PER_PHOTOGRAPH = 750
DRAWS = 8
TRUNCATION = 0.7  # what DAICGAN takes unless told otherwise


def export(run: Path, images: Path, training: Training) -> tuple[int, float]:
    """Put the run's generator and extractor into the package, as half precision; returns the steps and seconds of training."""
    extractor = read_extractor(run / "extractor.safetensors")
    bank, mirrored = FeatureBank.open(run / "bank"), FeatureBank.open(run / "bank-mirrored")
    instances = Instances(
        bank, mirrored, as_samples(images), training.gan.k, training.gan.batch_size, training.gan.seed
    )
    trainer = GanTrainer(training.gan, instances, run)
    if not trainer.step:
        raise SystemExit(f"{run} must hold a training that has begun, got none")
    for checkpoint in (trainer.checkpoint(), extractor):
        write_checkpoint(EMBEDDED / f"{checkpoint.kind}.safetensors", checkpoint, torch.float16)
    return trainer.step, trainer.seconds + json.loads((run / "extractor.json").read_text())["seconds"]


def judged(images: Path, folder: Path, training: Training) -> dict[str, float]:
    """The figures of what is in the package, on a bank of its own features; and its picture."""
    generator = load_generator("embedded", "cpu", torch.float32)
    extractor = load_extractor("embedded", "cpu", torch.float32, resolution=generator.resolution)
    path = folder / f"bank-{extractor.fingerprint[:8]}"
    bank = FeatureBank.build(images, extractor, path, dtype=torch.float32, progress=False)
    k, samples = training.gan.k, training.samples
    # Two rows of each photograph, and z as users draw it.
    rows = np.concatenate([np.flatnonzero(bank.labels == label)[[200, 500]] for label in range(len(PHOTOGRAPHS))])
    with InstanceSampler(generator, None, bank, images, truncation=TRUNCATION, truncation_mode="cut") as sampler:
        picture = sample_grid(sampler.photographs(rows), sampler.generations(rows, DRAWS))
    picture.save(ROOT / "docs" / "embedded-model.png", optimize=True)
    return evaluate(generator, extractor, bank, images, neighbours_k=k, samples=samples, seed=training.gan.seed)


def page(record: dict[str, Any]) -> str:
    """Of the last line recorded, and of the files in the package."""
    training: Training = Training.read(CONFIG)
    figures, where, steps = record["figures"], record["environment"], record["steps"]
    generator, extractor = load_generator("embedded", "cpu"), load_extractor("embedded", "cpu")
    if [generator.fingerprint, extractor.fingerprint] != record["fingerprints"]:
        raise SystemExit(f"{RESULTS} must be of the files in {EMBEDDED}, its last line is of others")
    size = sum((EMBEDDED / f"{kind}.safetensors").stat().st_size for kind in ("generator", "extractor"))
    credit = "\n".join(f"| {name} | `{file}` | {licence} |" for name, (file, licence) in PHOTOGRAPHS.items())
    rows = "\n".join(
        f"| {figure.title} ({figure.better}) | {_number(figures[name])} | {_number(figures.get(figure.beside))} |"
        for name, figure in FIGURES.items()
        if name in figures
    )
    done = steps == training.gan.steps
    return f"""# The embedded generator and extractor
`di.load_generator("embedded")` and `di.load_extractor("embedded")`: small enough to come with the package ({size / 1e6:.1f} MB together), trained by
`dali-icgan train` on photographs that anybody may use. They know these photographs and nothing else: they are for trying things, for
the demo and for tests, not for training on your images. For that there is [training.md](training.md).

![Framed: an instance's photograph. Beside it: {DRAWS} generations from its features.](embedded-model.png)

*Framed: a patch of a photograph. Beside it: {DRAWS} generations from its features, truncation {TRUNCATION} ("cut"). Two patches of each photograph,
chosen by their number.*

## What they are
| | |
|---|---|
| generator | {generator.resolution} px, {generator.parameters_count:,} parameters, BigGAN blocks of channels {training.gan.channels}, z of {generator.dim_z}, fingerprint `{generator.fingerprint[:16]}` |
| extractor | residual network, {extractor.parameters_count:,} parameters, {extractor.dim} features, input {extractor.input_size} px, fingerprint `{extractor.fingerprint[:16]}` |

## What they learnt from
{PER_PHOTOGRAPH} patches of each photograph in scikit-image's wheel whose licence is said there to be CC0 or public domain:

| photograph | file | licence and source |
|---|---|---|
{credit}

The weights are, as the rest of the project, under Apache-2.0.

## How
```sh
python benchmarks/embedded_model.py
```
cuts the patches and runs `dali-icgan train build/embedded/images --out build/embedded/run --config docs/embedded-model.yaml`, seed
{training.gan.seed}; [embedded-model.yaml](embedded-model.yaml) is the configuration. {"" if done else "**These files are of a training that is not over:**"}
{steps:,} {"" if done else f"of {training.gan.steps:,} "}steps of {training.gan.batch_size} images, {record["seconds"] / 60:.0f} minutes of training on {where["threads"]} thread{"s" * (where["threads"] > 1)}, other work beside it, on a
processor that calls itself "{where["processor"]}" ({", ".join(where["instruction_sets"])}), torch {where["torch"]}; no GPU. Written on {where["date"][:10]}, at
commit {where["commit"]}. The rounding to half precision comes last; the picture and the figures are of the rounded files.

## Figures
In the feature space of the embedded extractor, which the generator was conditioned on: for watching this model, not comparable with
published FIDs. {int(figures["samples"]):,} generations, z as in training.

| | generations | yardstick |
|---|---|---|
{rows}
"""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "embedded", help="images and run")
    parser.add_argument("--as-far-as-it-got", action="store_true", help="do not train")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--check", action="store_true", help="with --page: only say whether it is up to date")
    given = parser.parse_args()
    if not given.page:
        make(given.work, given.as_far_as_it_got)
    wanted = page(json.loads(RESULTS.read_text().splitlines()[-1]))
    if given.check:
        sys.exit(
            wanted != PAGE.read_text() and "docs/embedded-model.md: run python benchmarks/embedded_model.py --page"
        )
    PAGE.write_text(wanted)


def make(work: Path, as_far_as_it_got: bool) -> None:
    training: Training = Training.read(CONFIG)
    images, run = work / "images", work / "run"
    cut(images, PER_PHOTOGRAPH, lambda _: None)
    if not as_far_as_it_got:
        train(images, run, training, device="cpu")
    where = environment()  # before files of the repository change
    steps, seconds = export(run, images, training)
    record = {
        "fingerprints": [load_generator("embedded", "cpu").fingerprint, load_extractor("embedded", "cpu").fingerprint],
        "steps": steps,
        "seconds": round(seconds, 1),
        "figures": judged(images, work, training),
        "environment": where,
    }
    emit(record, RESULTS)


if __name__ == "__main__":
    main()
