"""Training an extractor on one's own images, by contrast of two crops or by their labels; exactly restartable."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from dali_icgan import ops
from dali_icgan.augment.bank_build import sole_builder
from dali_icgan.augment.transform import EvalTransform, TrainTransform
from dali_icgan.data import Samples, as_samples
from dali_icgan.documents import read_json, shown
from dali_icgan.engine import Extractor, load_extractor
from dali_icgan.engine.placement import resolve_device
from dali_icgan.loader import DataLoader
from dali_icgan.models.checkpoint import Checkpoint, read_extractor, write_checkpoint
from dali_icgan.models.resnet import ResNet, ResNetConfig
from dali_icgan.ops.random_resized_crop import interval
from dali_icgan.training.settings import check_integers, check_kinds
from dali_icgan.training.state import (
    check_kept,
    is_count,
    is_number,
    is_plain,
    load_state,
    random_of,
    restore,
    save_state,
    write_whole,
)

FORMAT = 1
_SAVE_SECONDS = 30.0
_LOOK = 20  # steps between two looks at the loss: each waits for the device
_WARM_UP = 0.05  # share of the steps in which the learning rate rises
_MOST_JUDGED = 4096  # images that the quality figures are taken of
_NEIGHBOURS = 10
_PLAIN: dict[str, Any] = {
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}  # pixels in [0, 1], as prepare_features takes them


@dataclass(frozen=True)
class ExtractorTraining:
    """How to train an extractor.

    Args:
        supervised: by the labels (cross-entropy); else without them, by contrast: of all crops in the batch, an image's two must be
            the most alike.
        width: channels of the first stage, 8 or more; each further stage doubles them, the last has the feature's columns.
        depths: blocks of each stage.
        input_size: side of the trunk's input in pixels; None: the resolution, so that nothing is resized twice.
        steps: optimiser steps; a few hundred tell photographs apart, more tell places in one photograph apart.
        epochs: passes over the images, instead of ``steps``; None: ``steps`` counts.
        batch_size: images a step; with fewer images than this, all of them are one batch.
        lr: AdamW's, at its highest: it rises over the first twentieth of the steps and falls as a cosine to zero.
        weight_decay: AdamW's.
        temperature: of the contrast; lower tells similar images better apart.
        crop_scale: least and greatest share of an image's area that a crop shows.
        flip: probability of a mirror image; 0 where left and right differ in meaning, as in digits; GanTraining's ``mirror`` must then
            be False too.
        colour_jitter: brightness, contrast and saturation change by up to this share, 0 to 1; hue never: a feature that is blind to
            colour cannot tell a generator which to paint.
        seed: of weights and every draw.

    Raises:
        ValueError, TypeError: a setting is not as above; the message names it.

    Source: Chen et al. 2020, SimCLR (arXiv 2002.05709).
    """

    supervised: bool = False
    width: int = 16
    depths: tuple[int, ...] = (1, 1, 1, 1)
    input_size: int | None = None
    steps: int = 600
    epochs: int | None = None
    batch_size: int = 256
    lr: float = 5e-3
    weight_decay: float = 1e-2
    temperature: float = 0.1
    crop_scale: tuple[float, float] = (0.3, 1.0)
    flip: float = 0.5
    colour_jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "crop_scale", interval("crop_scale", self.crop_scale, 1.0))
        # Width: with fewer channels, torch 2.14's 1x1 convolution of stride 2 in channels_last memory writes past its gradient.
        check_integers(self, width=8, steps=1, batch_size=2, input_size=1, epochs=1, seed=-(2**63))
        for name in ("lr", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {self.weight_decay!r}")
        for name in ("flip", "colour_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")
        self.trunk(32)  # depths

    def trunk(self, resolution: int) -> ResNetConfig:
        """The architecture for images of this many pixels; large inputs are halved once more at the beginning."""
        size = self.input_size or resolution
        return ResNetConfig(
            "basic", self.depths, self.width, stem_kernel=3, stem_stride=2, stem_pool=size > 64, input_size=size
        )


def train_extractor(
    dataset: Any,
    folder: Path | str,
    settings: ExtractorTraining | None = None,
    *,
    resolution: int,
    device: torch.device | str | None = None,
    progress: bool = True,
    writer: SummaryWriter | None = None,
    exif: bool = False,
) -> Path:
    """Train an extractor on images; the same call goes on where an earlier one was cut off, or returns at once if that finished.

    In training a crop is resized to ``resolution`` and then goes through ``ops.prepare_features``, the very op that inference uses:
    what is learnt from has the sharpness of what features will be taken of.

    Args:
        dataset: whatever the DataLoader takes. Files that cannot be read are left out with a warning, and counted in the report.
        folder: gets ``extractor.safetensors``, which ``load_extractor(path, resolution=resolution)`` reads, and ``extractor.json``:
            settings, duration, losses and quality; until then ``extractor-state.pt``. Other files in it are left alone.
        settings: how; None: the defaults.
        resolution: of the generator that the features are for.
        device: None is the current CUDA device, else the CPU. Networks run in bfloat16, as autocast has it, where a GPU has it in hardware.
        progress: show a bar on stderr.
        writer: gets the scalars ``extractor/loss`` and ``extractor/lr``.
        exif: rotate images as their EXIF orientation says.

    Returns:
        the path of ``extractor.safetensors``.

    Raises:
        ValueError: the folder holds an extractor of other settings or other images; or there are fewer than two images, or with
            ``supervised`` fewer than two classes.
        FloatingPointError: the loss is no finite number. The last state saved, from before, stays.
        OSError: a file could not be written; the state before stays.

    Numerics: on the CPU, at one number of threads, a run that was cut off ends bit-equal to one that was not.
        A small network and one process: over several ranks, let one call it.
    """
    settings = ExtractorTraining() if settings is None else settings
    if not isinstance(settings, ExtractorTraining):
        raise TypeError(f"settings must be an ExtractorTraining or None, got {type(settings).__name__}")
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
        raise ValueError(f"resolution must be an integer >= 1, got {resolution!r}")
    samples, device = as_samples(dataset), resolve_device(device)
    if len(samples) < 2:
        raise ValueError(f"dataset must hold at least two images, got {len(samples)} in {samples.name}")
    if settings.supervised and len(np.unique(samples.labels)) < 2:
        raise ValueError(
            f"dataset must have at least two classes with supervised=True, got one in {samples.name}; supervised=False needs none"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_builder(folder, ".extractor.lock"):
        run = _Run(settings, samples, folder, resolution, device, exif)
        if not run.is_finished():
            run.load()
            run.train(progress, writer)
            run.finish()
    return run.path


def read_report(path: Path) -> dict[str, Any]:
    """``extractor.json``.

    Raises:
        ValueError: it is none.
    """
    about = read_json(path, "the report of a training")
    check_kept(
        path,
        about,
        seconds=is_number,
        run=lambda run: isinstance(run, dict),
        fingerprint=lambda text: isinstance(text, str),
    )
    return dict(about)


class _Run:
    """One training in one folder."""

    def __init__(
        self,
        settings: ExtractorTraining,
        samples: Samples,
        folder: Path,
        resolution: int,
        device: torch.device,
        exif: bool,
    ) -> None:
        self.settings = settings
        self.samples = samples
        self.resolution = resolution
        self.device = device
        self.exif = exif
        self.path = folder / "extractor.safetensors"
        self.report = folder / "extractor.json"
        self.state = folder / "extractor-state.pt"
        self.classes = torch.from_numpy(np.unique(samples.labels)).to(device)
        self.batch_size = min(settings.batch_size, len(samples))
        self.steps = settings.steps
        if settings.epochs is not None:
            self.steps = settings.epochs * (len(samples) // self.batch_size)
        config = settings.trunk(resolution)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(random_of(settings.seed, "extractor").initial_seed())
            self.trunk = ResNet(config)
            self.head: nn.Module
            if settings.supervised:
                self.head = nn.Linear(config.dim, len(self.classes))
            else:
                self.head = SimCLRProjectionHead(config.dim, config.dim, config.dim // 2)
        self.trunk.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head.to(device)
        self.networks = nn.ModuleDict({"trunk": self.trunk, "head": self.head})
        self.optimiser = torch.optim.AdamW(self.networks.parameters(), settings.lr, weight_decay=settings.weight_decay)
        self.contrast = NTXentLoss(settings.temperature)
        self.step = self.saved_step = 0
        self.seconds = 0.0
        self.losses: list[list[float]] = []  # step, mean since the one before
        self.unreadable: set[str] = set()
        self.position: dict[str, Any] | None = None  # the loader's

    # ------------------------------------------------------------------ files

    def _identity(self) -> dict[str, Any]:
        said = {"format": FORMAT, "resolution": self.resolution, "dataset": self.samples.fingerprint}
        return said | {"exif": self.exif} | json.loads(json.dumps(asdict(self.settings)))

    def _demand_own(self, path: Path, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        wrong = [
            f"{name} must be {value!r}, got {shown(found.get(name))}"
            for name, value in self._identity().items()
            if found.get(name) != value
        ]
        if wrong:
            raise ValueError(f"{path} is of another extractor and is left as it is: {'; '.join(wrong)}")

    def is_finished(self) -> bool:
        """Whether the folder has this extractor; raises where it has another."""
        if self.report.exists():
            about = read_report(self.report)
            self._demand_own(self.report, about.get("run"))
            if self.path.exists():
                if read_extractor(self.path).fingerprint != about.get("fingerprint"):
                    raise ValueError(
                        f"{self.path} must be the extractor that {self.report.name} describes, got another"
                    )
                return True
        elif self.path.exists() and not self.state.exists():
            raise ValueError(
                f"{self.path} must come with its {self.report.name}: an extractor from elsewhere is not replaced"
            )
        return False

    def load(self) -> None:
        """Go on from the last state, if there is one."""
        if not self.state.exists():
            return
        state = load_state(self.state, self.device)
        check_kept(self.state, state, run=is_plain)
        self._demand_own(self.state, state.get("run"))
        check_kept(
            self.state,
            state,
            step=lambda step: is_count(step) and step <= self.steps,
            seconds=is_number,
            losses=lambda losses: (
                isinstance(losses, list)
                and all(isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in losses)
            ),
            position=lambda position: position is None or isinstance(position, dict),
            unreadable=lambda names: isinstance(names, list) and all(isinstance(name, str) for name in names),
        )
        restore(self.state, "networks", self.networks, state.get("networks"))
        restore(self.state, "optimiser", self.optimiser, state.get("optimiser"))
        self.step = self.saved_step = state["step"]
        self.seconds, self.losses, self.position = state["seconds"], state["losses"], state["position"]
        self.unreadable = set(state["unreadable"])

    def save(self) -> None:
        """Write the state, whole or not at all.

        Raises:
            FloatingPointError: there is a number in it that is none.
        """
        # A finite loss may come with an infinite gradient: the weights tell.
        if not all(t.isfinite().all() for t in self.networks.state_dict().values()):
            raise FloatingPointError(f"the weights must be finite, got others after step {self.step}; {self._remedy()}")
        state = {
            "run": self._identity(),
            "networks": self.networks.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "position": self.position,
            "unreadable": sorted(self.unreadable),
        }
        save_state(self.state, state)
        self.saved_step = self.step

    def _remedy(self) -> str:
        kept = f"{self.state} is of step {self.saved_step}" if self.saved_step else "no state was saved yet"
        return f"a lower lr than {self.settings.lr} may help ({kept})"

    # ------------------------------------------------------------------ training

    def loader(self, transform: TrainTransform | EvalTransform, **changes: Any) -> DataLoader:
        """Pixels in [0, 1] at the generator's resolution."""
        usual: dict[str, Any] = {
            "batch_size": self.batch_size,
            "shuffle": True,
            "transform": transform,
            "device": self.device,
            "dtype": torch.float32,
            "memory_format": torch.channels_last,
            "seed": self.settings.seed,
            "shard": False,
            "exif": self.exif,
        }
        return DataLoader(self.samples, **usual | changes)

    def crops(self) -> TrainTransform:
        """As the network sees images in training, but for their colours."""
        return TrainTransform(self.resolution, self.settings.crop_scale, flip=self.settings.flip, **_PLAIN)

    def train(self, progress: bool, writer: SummaryWriter | None) -> None:
        """All steps that are left."""
        views = 1 if self.settings.supervised else 2
        pending: list[Tensor] = []
        with self.loader(self.crops(), views=views, drop_last=True) as loader, _bar(progress) as bar:
            if self.position is not None:
                loader.load_state_dict(self.position)
            batches = _endless(loader)
            task = bar.add_task("extractor", total=self.steps, completed=self.step, said="")
            begun = saved = time.monotonic()
            while self.step < self.steps:
                images, labels = next(batches)
                lr = self._learning_rate()
                pending.append(self._train_step([images] if views == 1 else images, labels, lr))
                self.step += 1
                if self.step % _LOOK and self.step < self.steps:
                    continue
                loss = self._look(torch.stack(pending).tolist())
                now = time.monotonic()
                rate = len(pending) * self.batch_size / (now - begun)
                self.seconds += now - begun
                pending, begun = [], now
                bar.update(task, completed=self.step, said=f"{rate:.0f} images/s, loss {loss:.3f}")
                if writer is not None:
                    writer.add_scalar("extractor/loss", loss, self.step)
                    writer.add_scalar("extractor/lr", lr, self.step)
                if now - saved >= _SAVE_SECONDS or self.step == self.steps:
                    self.position = loader.state_dict()
                    self.unreadable |= {error.path for error in loader.errors}
                    self.save()
                    saved = now

    def _learning_rate(self) -> float:
        rise = (self.step + 1) / max(1.0, _WARM_UP * self.steps)
        return self.settings.lr * min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def _train_step(self, views: list[Tensor], labels: Tensor, lr: float) -> Tensor:
        images = torch.cat(views)
        if self.settings.colour_jitter:
            random = random_of(self.settings.seed, "colours", self.step, device=self.device)
            images = _jitter(images, self.settings.colour_jitter, random)
        prepared = ops.prepare_features(
            images, resolution=self.resolution, input_size=self.trunk.config.input_size, dtype=torch.float32
        )
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            out = self.head(self.trunk(prepared))
        if self.settings.supervised:
            loss = F.cross_entropy(out.float(), torch.searchsorted(self.classes, labels))
        else:
            loss = self.contrast(*out.float().chunk(2))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _look(self, losses: list[float]) -> float:
        """Their mean, noted."""
        for step, loss in enumerate(losses, self.step - len(losses) + 1):
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss must be finite, got {loss} in step {step}; {self._remedy()}")
        mean = sum(losses) / len(losses)
        self.losses.append([self.step, mean])
        return mean

    # ------------------------------------------------------------------ result

    def finish(self) -> None:
        """Write the extractor, judge it, write the report; only then the state may go."""
        tensors = {
            name: tensor.cpu().contiguous()
            for name, tensor in self.trunk.state_dict().items()
            if tensor.is_floating_point()
        }
        checkpoint = Checkpoint("extractor", self.trunk.config, tensors, "train_extractor")
        write_checkpoint(self.path, checkpoint)
        extractor = load_extractor(self.path, self.device, torch.float32, resolution=self.resolution)
        about = {
            "run": self._identity(),
            "fingerprint": checkpoint.fingerprint,
            "dim": checkpoint.config.dim,
            "parameters": checkpoint.parameters_count,
            "images": len(self.samples),
            "unreadable": sorted(self.unreadable),
            "steps": self.steps,
            "batch_size": self.batch_size,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "seconds": round(self.seconds, 1),
            "quality": self._quality(extractor),
            "losses": self.losses,
        }
        write_whole(self.report, lambda file: file.write(json.dumps(about, indent=1).encode()))
        self.state.unlink(missing_ok=True)

    def _quality(self, extractor: Extractor) -> dict[str, Any]:
        """Of up to 4,096 images, the same in every run: how features of the images, and of two crops of each, lie to each other."""
        whole = EvalTransform(self.resolution, self.resolution, **_PLAIN)
        (features,), labels = self._features(extractor, whole, 1)
        (first, second), _ = self._features(extractor, self.crops(), 2)
        k = min(_NEIGHBOURS, len(features) - 1)
        found: dict[str, Any] = {"images": len(features), "k": k}
        similar = (features @ features.T).fill_diagonal_(-math.inf)
        own = labels[similar.topk(k).indices] == labels[:, None]
        if len(labels.unique()) > 1:  # of one class, all would be right
            found["nearest_is_own_class"] = own[:, 0].double().mean().item()
            found["share_of_own_class"] = own.double().mean().item()
            counts = labels.unique(return_counts=True)[1].double()
            found["share_by_chance"] = (counts * (counts - 1)).sum().item() / (len(labels) * (len(labels) - 1))
        nearest = (first @ second.T).argmax(1)
        found["nearest_is_other_crop"] = (
            (nearest == torch.arange(len(first), device=self.device)).double().mean().item()
        )
        return found

    def _features(
        self, extractor: Extractor, transform: TrainTransform | EvalTransform, views: int
    ) -> tuple[list[Tensor], Tensor]:
        rows: list[list[Tensor]] = [[] for _ in range(views)]
        labels, indices = [], []
        with self.loader(transform, views=views, return_info=True) as loader:
            for images, label, info in islice(loader, -(-_MOST_JUDGED // self.batch_size)):
                for row, view in zip(rows, [images] if views == 1 else images, strict=True):
                    row.append(extractor(view))
                labels.append(label)
                indices.append(info["index"])
        # Once each: what stands in for an unreadable file is its own nearest neighbour.
        once = torch.from_numpy(np.unique(np.concatenate(indices), return_index=True)[1]).to(self.device)
        return [torch.cat(row)[once] for row in rows], torch.cat(labels)[once]


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _jitter(images: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Each image's brightness, contrast and saturation times its own 1 - strength to 1 + strength; pixels in [0, 1]."""
    unit = torch.rand(3, len(images), 1, 1, 1, generator=random, device=images.device)
    brightness, contrast, saturation = 1 + strength * (2 * unit - 1)
    images = (images * brightness).clamp(0, 1)
    images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast).clamp(0, 1)
    return torch.lerp(images.mean(1, keepdim=True), images, saturation).clamp(0, 1)


@contextlib.contextmanager
def _bar(shown: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        yield bar
