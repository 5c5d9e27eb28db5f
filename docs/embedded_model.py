"""Makes the embedded generator and extractor, and docs/embedded-model.md with their story:  python docs/embedded_model.py

Cuts the photographs of ``dali-icgan demo``, trains on them (hours; it stops and goes on at any moment), rounds what came out to half
precision, puts it into the package, and judges what was put there.

    python docs/embedded_model.py --as-far-as-it-got      the state that a training has reached, while it goes on
"""

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

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


def page(figures: dict[str, float], steps: int, seconds: float, training: Training) -> str:
    generator, extractor = load_generator("embedded", "cpu"), load_extractor("embedded", "cpu")
    size = sum((EMBEDDED / f"{kind}.safetensors").stat().st_size for kind in ("generator", "extractor"))
    credit = "\n".join(f"| {name} | `{file}` | {licence} |" for name, (file, licence) in PHOTOGRAPHS.items())
    rows = "\n".join(
        f"| {figure.title} ({figure.better}) | {_number(figures[name])} | {_number(figures.get(figure.beside))} |"
        for name, figure in FIGURES.items()
        if name in figures
    )
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
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
python docs/embedded_model.py
```
{"" if steps == training.gan.steps else "(as far as it got: the training was not over when these files were written) "}cuts the patches and runs `dali-icgan train build/embedded/images --out build/embedded/run --config docs/embedded-model.yaml`:
{steps:,} {"" if steps == training.gan.steps else f"of {training.gan.steps:,} "}steps of {training.gan.batch_size} images, {seconds / 60:.0f} minutes on {torch.get_num_threads()} cores of a processor that calls itself "{processor}",
torch {torch.__version__}, seed {training.gan.seed}, commit {_commit()}. [embedded-model.yaml](embedded-model.yaml) is the configuration. The rounding to half
precision comes last; the picture and the figures are of the rounded files.

## Figures
In the feature space of the embedded extractor, which the generator was conditioned on: for watching this model, not comparable with
published FIDs. {int(figures["samples"]):,} generations, z as in training.

| | generations | yardstick |
|---|---|---|
{rows}
"""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "embedded", help="images and run")
    parser.add_argument("--as-far-as-it-got", action="store_true")
    given = parser.parse_args()
    training: Training = Training.read(CONFIG)
    images, run = given.work / "images", given.work / "run"
    cut(images, PER_PHOTOGRAPH, lambda _: None)
    if not given.as_far_as_it_got:
        train(images, run, training, device="cpu")
    steps, seconds = export(run, images, training)
    figures = judged(images, given.work, training)
    (ROOT / "docs" / "embedded-model.md").write_text(page(figures, steps, seconds, training))
    print(f"{steps} steps; docs/embedded-model.md, {os.path.relpath(EMBEDDED)}")


if __name__ == "__main__":
    main()
