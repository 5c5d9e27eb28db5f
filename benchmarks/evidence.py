"""Does the augmentation help?  The same small classifier, trained on few labels with and without it, and against controls.

    python benchmarks/evidence.py digits
    python benchmarks/evidence.py patches --seeds 3
    python benchmarks/evidence.py cifar10 --cifar10 FOLDER/cifar10-jpeg.tar.xz --seeds 3
    python benchmarks/evidence_page.py                                                        docs/evidence.md from the lines

A study trains an IC-GAN on its training images, without their labels; then, for every seed, a classifier an arm: the same labelled
images (drawn by the seed), the same first weights, the same order, the same crops, the same number of steps. A line is written for
every run as it ends; the same command goes on where it was stopped. Test images take part in no choice: whatever is chosen, such as p,
is chosen by the validation images.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import evidence_data
import numpy as np
import torch
from common import emit, environment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import dali_icgan as di
from dali_icgan.models.resnet import ResNet, ResNetConfig
from dali_icgan.training.extractor import ExtractorTraining
from dali_icgan.training.gan import GanTraining
from dali_icgan.training.run import Training, train

HERE = Path(__file__).parent
PROBABILITIES = (0.1, 0.25, 0.5)
_PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Study:
    """What is learnt from what.

    Attributes:
        labelled: images a class whose label the classifier is told.
        training: of extractor and generator.
        steps, batch_size, lr: of the classifier's training (SGD, momentum 0.9, cosine to zero).
        size: side of the classifier's input in pixels.
        scale, flip: of the handcrafted augmentation (random resized crop, mirror image).
        width: channels of the classifier's first stage.
    """

    labelled: int
    training: Training
    steps: int
    size: int = 32
    scale: tuple[float, float] = (0.35, 1.0)
    flip: float = 0.5
    width: int = 16
    batch_size: int = 64
    lr: float = 0.05


def looked_at(every: int, gan: GanTraining, extractor: ExtractorTraining) -> Training:
    return Training(gan=gan, extractor=extractor, look_every=every, look_samples=300, samples=1000)


STUDIES = {
    "digits": Study(
        labelled=10,
        steps=400,
        size=16,
        scale=(0.6, 1.0),
        flip=0.0,
        training=looked_at(
            500,
            GanTraining(
                channels=8,
                discriminator_channels=10,
                z_chunk=8,
                steps=4000,
                k=10,
                mirror=False,
                ema_decay=0.998,
            ),
            ExtractorTraining(
                steps=400, batch_size=250, temperature=0.5, crop_scale=(0.4, 1.0), colour_jitter=0.8, flip=0.0
            ),
        ),
    ),
    "patches": Study(
        labelled=5,
        steps=400,
        training=looked_at(
            500,
            GanTraining(channels=10, discriminator_channels=12, steps=2500, k=10),
            ExtractorTraining(steps=300, colour_jitter=0.4),
        ),
    ),
    "cifar10": Study(
        labelled=25,
        steps=300,
        training=looked_at(
            1000,
            GanTraining(channels=12, discriminator_channels=12, steps=4000, k=20),
            ExtractorTraining(crop_scale=(0.2, 1.0), colour_jitter=0.4),
        ),
    ),
}


@dataclass(frozen=True)
class Arm:
    """One way to augment.

    Attributes:
        method: "features" (no network is trained: logistic regression on the features that the generator is conditioned on),
            "handcrafted", "randaugment", "longer" (handcrafted, for as much time as "daicgan" at the highest p takes), "daicgan",
            "daicgan+randaugment" (generations and photographs alike go through RandAugment), "retrieval" (a real neighbour in the
            generation's place), "random" (generations of any instance, not of the row's own).
        p: probability that a row is replaced.
    """

    method: str
    p: float = 0.0

    def augment(self, generator: Any, bank: Any, k: int) -> di.DAICGAN | None:
        """The operator; None where nothing is replaced."""
        if self.method == "retrieval":
            return di.DAICGAN(generator=None, bank=bank, source="neighbour", k=k, p=self.p)
        if self.method in ("daicgan", "daicgan+randaugment", "random"):
            condition = "random" if self.method == "random" else "instance"
            return di.DAICGAN(generator=generator, bank=bank, p=self.p, condition=condition)
        return None


ARMS = (
    Arm("features"),
    Arm("handcrafted"),
    Arm("randaugment"),
    Arm("longer"),
    *(Arm(method, p) for method in ("daicgan", "daicgan+randaugment", "retrieval", "random") for p in PROBABILITIES),
)


class Classifier(nn.Module):
    """A residual network of three stages."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        config = ResNetConfig("basic", (1, 1, 1), width, stem_kernel=3, stem_stride=1, stem_pool=False)
        self.trunk = ResNet(config)
        self.head = nn.Linear(config.dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, classes]`` of pixels in [0, 1]."""
        return self.head(self.trunk(2 * x - 1))


class Runs:
    """The runs of one study on one set of images with one generator."""

    def __init__(self, study: Study, data: Path, models: Path, device: torch.device) -> None:
        self.study = study
        self.device = device
        self.folder = data / "train"
        self.train_images = ImageFolder(str(self.folder))
        self.labels = np.array(self.train_images.targets)
        self.classes = len(self.train_images.classes)
        self.generator = di.load_generator(models / "generator.safetensors", device, torch.float32)
        self.bank = di.FeatureBank.open(models / "bank")
        self.judged = {split: self._whole(data / split) for split in ("validation", "test")}
        extractor = di.load_extractor(
            models / "extractor.safetensors", device, torch.float32, resolution=self.generator.resolution
        )
        self.banks = {
            split: di.FeatureBank.build(
                data / split, extractor, models / f"bank-{split}", dtype=torch.float32, progress=False
            )
            for split in self.judged
        }

    def _whole(self, folder: Path) -> list[tuple[Tensor, Tensor]]:
        transform = di.EvalTransform(self.study.size, self.study.size, **_PLAIN)
        with di.DataLoader(str(folder), 500, transform=transform, device=self.device, dtype=torch.float32) as loader:
            return [(images, labels) for images, labels in loader]

    def labelled(self, seed: int) -> list[int]:
        """The images whose labels the classifier is told."""
        random = np.random.default_rng([seed, 1])
        chosen = [
            random.choice(np.flatnonzero(self.labels == label), self.study.labelled, False)
            for label in range(self.classes)
        ]
        return sorted(int(index) for index in np.concatenate(chosen))

    def run(self, arm: Arm, seed: int, steps: int) -> dict[str, float]:
        """Train; returns accuracies in percent and seconds."""
        study = self.study
        chosen = self.labelled(seed)
        if arm.method == "features":
            return self._on_features(chosen)
        random = np.random.default_rng([seed, 2])
        rows = steps * study.batch_size
        # All equally often; one long epoch, so that the stages never run dry.
        order = np.concatenate([random.permutation(len(chosen)) for _ in range(-(-rows // len(chosen)))])[:rows]
        torch.manual_seed(seed)
        model = Classifier(study.width, self.classes).to(self.device)
        optimiser = torch.optim.SGD(model.parameters(), study.lr, 0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        stronger = _randaugment(seed) if arm.method.endswith("randaugment") else lambda images: images
        model.train()
        begun, ends = time.perf_counter(), []
        with di.DataLoader(
            Subset(self.train_images, chosen),
            study.batch_size,
            sampler=order.tolist(),
            augment=arm.augment(self.generator, self.bank, study.training.gan.k),
            transform=di.TrainTransform(study.size, study.scale, flip=study.flip, **_PLAIN),
            device=self.device,
            dtype=torch.float32,
            seed=seed,
            on_error="raise",
        ) as loader:
            for images, labels in loader:
                loss = F.cross_entropy(model(stronger(images)), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                ends.append(time.perf_counter())
        seconds = time.perf_counter() - begun
        first = min(10, steps // 2)  # by then the stages are filled
        model.eval()
        found = {f"{split}_accuracy": self._accuracy(model, batches) for split, batches in self.judged.items()}
        return {
            **found,
            "seconds": round(seconds, 2),
            "ms_per_step": round(1e3 * (ends[-1] - ends[first]) / (steps - 1 - first), 3),
            "last_loss": round(float(loss.detach()), 4),
        }

    def _on_features(self, chosen: list[int]) -> dict[str, float]:
        begun = time.perf_counter()
        rows = self.bank.rows_of([str(Path(self.train_images.samples[i][0]).relative_to(self.folder)) for i in chosen])
        known = self.bank.gather(rows, "cpu").numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(known, self.labels[chosen])
        found = {}
        for split, bank in self.banks.items():
            features = bank.gather(np.arange(bank.n), "cpu").numpy()
            found[f"{split}_accuracy"] = round(100 * float((model.predict(features) == bank.labels).mean()), 3)
        return {**found, "seconds": round(time.perf_counter() - begun, 2)}

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
        return round(100 * right / sum(len(labels) for _, labels in batches), 3)

    def cost(self) -> float:
        """How many times as long a step takes with the most generations as without, the median of three pairs."""
        ratios = []
        for seed in range(3):
            plain, most = (
                self.run(arm, seed, min(60, self.study.steps))["ms_per_step"]
                for arm in (Arm("handcrafted"), Arm("daicgan", max(PROBABILITIES)))
            )
            ratios.append(most / plain)
        return max(1.0, statistics.median(ratios))


def _randaugment(seed: int) -> Callable[[Tensor], Tensor]:
    """torchvision's RandAugment with its defaults, drawn anew for each image."""
    change, state = v2.RandAugment(), torch.Generator().manual_seed(seed)

    def changed(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # it draws from torch's global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=state)))
            levels = (images * 255).round().clamp(0, 255).to(torch.uint8)
            return torch.stack([change(image) for image in levels]).float() / 255

    return changed


def runs_wanted(seeds: int) -> Iterator[tuple[Arm, int]]:
    """Seed by seed, so that a study that was stopped has whole pairs."""
    for seed in range(seeds):
        for arm in ARMS:
            yield arm, seed


def prepared(name: str, study: Study, work: Path, cifar10: Path, device: torch.device) -> tuple[Path, Path]:
    """The folders of images and of models; what is there already is kept."""
    images = {"digits": evidence_data.digits, "patches": evidence_data.patches}.get(name)
    work.mkdir(parents=True, exist_ok=True)
    evidence_data.write(evidence_data.cifar10(cifar10) if images is None else images(), work / "images")
    train(work / "images" / "train", work / "models", study.training, device=device)
    return work / "images", work / "models"


def identity(study: Study, images: Path, models: Path) -> str:
    """What runs must share to be compared: settings, images, networks."""
    found = hashlib.sha256(json.dumps(asdict(study), sort_keys=True).encode())
    networks = (models / name for name in ("generator.safetensors", "extractor.safetensors"))
    for path in (*sorted(images.rglob("*.jpg")), *networks):
        found.update("/".join(path.parts[-3:] if path.suffix == ".jpg" else path.parts[-1:]).encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--out", type=Path, help="the lines; default: benchmarks/results/evidence/STUDY.jsonl")
    parser.add_argument("--work", type=Path, help="images and models; default: build/evidence/STUDY")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--cifar10", type=Path, default=Path(evidence_data.CIFAR10), help="the archive of its JPEG files"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    study, device = STUDIES[given.study], torch.device(given.device)
    out = given.out or HERE / "results" / "evidence" / f"{given.study}.jsonl"
    work = given.work or HERE.parent / "build" / "evidence" / given.study
    images, models = prepared(given.study, study, work, given.cifar10, device)
    mine = {"study": given.study, "identity": identity(study, images, models)}
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    strange = [line for line in lines if {key: line.get(key) for key in mine} != mine]
    if strange:
        sys.exit(
            f"{out} must hold runs of this study alone, {mine}, got one of {strange[0].get('identity')}: move it away"
        )
    runs = Runs(study, images, models, device)
    heads = [line for line in lines if line["kind"] == "study"]
    if not heads:
        head = {
            **mine,
            "kind": "study",
            "arms": [[arm.method, arm.p] for arm in ARMS],
            "cost_ratio": round(runs.cost(), 3),
            "quality": json.loads((models / "quality.json").read_text()),
            "training_seconds": round(json.loads((models / "run.json").read_text())["seconds"]),
            "images": {split: sum(len(y) for _, y in batches) for split, batches in runs.judged.items()}
            | {"train": len(runs.labels), "labelled": study.labelled * runs.classes},
            "classes": runs.classes,
            "settings": asdict(study),
            "environment": environment(),
        }
        emit(head, out)
        heads = [head]
    done = {(line["method"], line["p"], line["seed"]) for line in lines if line["kind"] == "run"}
    wanted = list(runs_wanted(given.seeds))
    left = [(arm, seed) for arm, seed in wanted if (arm.method, arm.p, seed) not in done]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(given.study, total=len(wanted), completed=len(wanted) - len(left))
        for arm, seed in left:
            bar.update(task, description=f"{given.study}: {arm.method} p={arm.p} seed={seed}")
            steps = study.steps
            if arm.method == "longer":
                steps = round(steps * heads[0]["cost_ratio"])
            elif arm.method == "features":
                steps = 0
            found = runs.run(arm, seed, steps)
            where = environment()
            emit(
                {**mine, "kind": "run", **asdict(arm), "seed": seed, "steps": steps, **found}
                | {name: where[name] for name in ("date", "commit", "processor", "gpu", "threads", "torch")},
                out,
            )
            bar.advance(task)


if __name__ == "__main__":
    main()
