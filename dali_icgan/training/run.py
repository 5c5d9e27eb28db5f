"""A whole training run in a folder: extractor, bank, neighbourhoods, generator, evaluation, report. Each step is restartable."""

import contextlib
import json
import math
import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.augment.bank_build import sole_builder
from dali_icgan.data import Samples, as_samples
from dali_icgan.data.read import encoded
from dali_icgan.documents import parse_json, read_json, shown
from dali_icgan.engine import Extractor, Generator, load_extractor, load_generator
from dali_icgan.engine.placement import resolve_device
from dali_icgan.ranks import Ranks
from dali_icgan.training.extractor import ExtractorTraining, read_report, train_extractor
from dali_icgan.training.gan import GanTrainer, GanTraining
from dali_icgan.training.gan import Progress as GanProgress
from dali_icgan.training.instances import Instances, MirroredExtractor
from dali_icgan.training.quality import InstanceSampler, K, evaluate
from dali_icgan.training.report import save_samples, write_report
from dali_icgan.training.settings import check_integers, check_kinds, differences, named, read_yaml
from dali_icgan.training.state import check_kept, is_count, is_number, write_whole

_LOOKED_AT = 2000  # images whose size is looked at before anything is trained
_TOO_SMALL = 0.1  # the share of them that may be smaller than the resolution
_FEW_ROWS = 16  # of which batch norm takes a poor mean
_GRID, _GRID_DRAWS = 8, 8
_FRECHET = ("feature_frechet_distance", "feature_frechet_distance_real")


@dataclass(frozen=True)
class Training:
    """All settings of a run.

    Args:
        gan: of generator and discriminator.
        extractor: of the extractor, where none is given.
        look_every: steps between two sample grids, each with a Fréchet distance.
        look_samples: generations that this distance is taken of, 6 or more.
        samples: generations that the figures of the report are taken of, 6 or more.
        save_every: seconds after which a state is written to disk, at the next step whose losses are looked at.
        truncation: of the noise of sample grids ("cut").
        exif: rotate images as their EXIF orientation says.

    All but ``gan``, ``extractor`` and ``exif`` change no weight, and may change in a run's folder.
    """

    gan: GanTraining = field(default_factory=GanTraining)
    extractor: ExtractorTraining = field(default_factory=ExtractorTraining)
    look_every: int = 1000
    look_samples: int = 1000
    samples: int = 4000
    save_every: float = 60.0
    truncation: float = 0.7
    exif: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        check_integers(self, look_every=1, look_samples=K + 1, samples=K + 1)
        for name in ("save_every", "truncation"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")

    @classmethod
    def from_mapping(cls, given: Any, name: str = "config") -> "Training":
        """From what a YAML file holds: ``gan:`` and ``extractor:`` with settings below them, and the others.

        Raises:
            ValueError, TypeError: a setting is unknown, or not as it must be; the message names it.
        """
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise ValueError(f"{name} must hold settings by name, got {type(given).__name__}")
        parts = {"gan": GanTraining, "extractor": ExtractorTraining}
        _known(cls, given, name)
        made: dict[str, Any] = {}
        for key, value in given.items():
            if key in parts:
                if not isinstance(value, dict):
                    raise ValueError(f"{name}: {key} must hold settings by name, got {shown(value)}")
                _known(parts[key], value, f"{name}: {key}")
                with named(f"{name}: {key}"):
                    value = parts[key](**value)
            made[key] = value
        with named(name):
            return cls(**made)

    @classmethod
    def quick(cls) -> "Training":
        """A few minutes on a CPU, to see that everything works; too short to be of use."""
        return cls(
            gan=GanTraining(channels=8, discriminator_channels=10, steps=800, ema_start=100),
            extractor=ExtractorTraining(steps=120, batch_size=128),
            look_every=400,
            look_samples=200,
            samples=500,
        )

    @classmethod
    def read(cls, path: Path) -> "Training":
        """From a YAML file.

        Raises:
            ValueError: as :meth:`from_mapping`, or the file is no YAML; the message names the file.
        """
        try:
            return cls.from_mapping(read_yaml(path), str(path))
        except TypeError as error:  # of the file's making, not the caller's
            raise ValueError(str(error)) from error


def _known(kind: type, given: dict[str, Any], name: str) -> None:
    known = [each.name for each in fields(kind)]
    strange = [key for key in given if key not in known]
    if strange:
        raise ValueError(f"{name} must have settings among {', '.join(known)}, got {shown(strange[0])}")


def train(
    dataset: Any,
    out: Path | str,
    training: Training | None = None,
    *,
    extractor: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Path:
    """Train an IC-GAN on images; the same call goes on where an earlier one was cut off, at any moment.

    Args:
        dataset: whatever the DataLoader takes.
        out: the run's folder: gets ``extractor.safetensors`` (unless one is given), ``bank``, ``generator.safetensors``, ``G_ema.pth``
            in the official layout, ``samples/*.png``, ``tensorboard``, ``quality.json`` and ``report.md``.
        training: how; None: the defaults.
        extractor: a checkpoint to take features with, instead of training one.
        device: None is the current CUDA device, else the CPU.
        progress: show bars on stderr.

    Returns:
        the path of ``report.md``.

    Raises:
        ValueError: the images are too small, too few or of one class where classes are asked for; or the folder holds a run of other
            images or settings, or of more steps. What can be found before anything is trained is, and leaves a new folder free.
        FloatingPointError: a loss or a weight is no number; the last state, from before, stays.
        OSError: a file could not be written; what was there before stays.
        RankError: another rank failed, ended or hangs; the last state stays.

    Over several ranks of torch.distributed all build the bank, train the generator and take the figures; the first trains the extractor,
    and it alone writes; the others wait for it, so that the process group's timeout must be longer than that takes. Batch norm is of each
    rank's own rows. A second process that is given the same folder waits until the first is done.
    """
    training = Training() if training is None else training
    samples, place, out = as_samples(dataset), resolve_device(device), Path(out)
    ranks = Ranks.here()
    rank, world = ranks.rank, ranks.world
    gan = training.gan
    if gan.batch_size % world:
        raise ValueError(f"batch_size must be a multiple of the {world} ranks, got {gan.batch_size}")
    if gan.mode_seeking and gan.batch_size // world % 2:
        raise ValueError(
            f"batch_size must be even on each of the {world} ranks with mode_seeking, got {gan.batch_size}"
        )
    if world > 1 and rank == 0 and gan.batch_size // world < _FEW_ROWS:
        warnings.warn(
            f"batch norm is of each rank's own {gan.batch_size // world} images, which are few: a batch_size of {_FEW_ROWS * world} or "
            "more is better",
            stacklevel=2,
        )
    out.mkdir(parents=True, exist_ok=True)
    with sole_builder(out, ".train.lock") if rank == 0 else contextlib.nullcontext():
        return _train(samples, out, training, extractor, place, progress, ranks)


def _train(
    samples: Samples,
    out: Path,
    training: Training,
    extractor: Path | str | None,
    place: torch.device,
    progress: bool,
    ranks: Ranks,
) -> Path:
    gan = training.gan

    def prepare() -> None:
        _check_images(samples, training, own=extractor is None)
        if extractor is not None:  # a file that is none must not be noted as the run's
            load_extractor(extractor, device="cpu", dtype=torch.float32, resolution=gan.resolution)
        _check_run(out, training, samples, extractor)
        if extractor is None:
            with SummaryWriter(str(out / "tensorboard")) as writer:
                train_extractor(
                    samples,
                    out,
                    training.extractor,
                    resolution=gan.resolution,
                    device=place,
                    progress=progress,
                    writer=writer,
                    exif=training.exif,
                )

    ranks.from_first("preparing the run and training its extractor", prepare)
    source = out / "extractor.safetensors" if extractor is None else extractor
    seer = load_extractor(source, device=place, dtype=torch.float32, resolution=gan.resolution)
    banks = {"bank": seer} | ({"bank-mirrored": MirroredExtractor(seer)} if gan.mirror else {})
    bank, *mirrored = (
        FeatureBank.build(
            samples,
            each,  # type: ignore[arg-type]
            out / name,
            dtype=torch.float32,
            exif=training.exif,
            progress=progress,
        )
        for name, each in banks.items()
    )

    def find_neighbours() -> None:
        _check_count(int(bank.present.sum()), gan.k)
        bank.neighbours(gan.k)

    ranks.from_first("finding neighbours", find_neighbours)
    instances = Instances(
        bank,
        mirrored[0] if mirrored else None,
        samples,
        gan.k,
        gan.batch_size // ranks.world,
        gan.seed,
        ranks.rank,
        ranks.world,
    )
    with ranks.missing("training the generator"):
        trainer = GanTrainer(gan, instances, out, place)
        look = _Look(trainer, training, seer, out) if ranks.rank == 0 else None
        _train_gan(trainer, training, look, progress and ranks.rank == 0)
    path = ranks.from_first("writing the generator", trainer.export)
    generator = load_generator(path, place, torch.float32)
    figures = evaluate(
        generator, seer, bank, samples, neighbours_k=max(gan.k, 2), samples=training.samples, seed=gan.seed
    )
    if look is None:
        return out / "report.md"
    seconds = _seconds(out, trainer.seconds)
    write_whole(out / "quality.json", lambda file: file.write(json.dumps(figures, indent=1).encode()))
    write_report(
        out / "report.md",
        asdict(training) | {"gan": _plain(gan), "extractor": _plain(training.extractor)},
        figures,
        look.history,
        look.grids(),
        model=f"{gan.resolution} px, {generator.parameters_count / 1e6:.2f}M parameters ({path.name})",
        dataset=samples.name,
        images=len(samples),
        steps=trainer.step,
        seconds=seconds,
        device=str(place),
        losses=trainer.history,
    )
    return out / "report.md"


def read_looks(path: Path) -> list[dict[str, float]]:
    """``looks.jsonl``: of each look its step, and what was found.

    Raises:
        ValueError: a line is none.
    """
    looks = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        line = parse_json(text, f"{path}, line {number},", "a look at a training")
        check_kept(path, line, step=is_count, **dict.fromkeys(_FRECHET, is_number))
        looks.append(line)
    return looks


def read_run(path: Path) -> dict[str, Any]:
    """``run.json``: what the folder is a run of.

    Raises:
        ValueError: it is none.
    """
    noted = read_json(path, "what a folder is a run of")
    check_kept(path, noted, settings=lambda settings: isinstance(settings, dict))
    return dict(noted)


class _Look:
    """What is looked at on the way: a grid of samples and a Fréchet distance, on disk and in TensorBoard."""

    def __init__(self, trainer: GanTrainer, training: Training, extractor: Extractor, out: Path) -> None:
        self._trainer, self._training, self._extractor, self._out = trainer, training, extractor, out
        self._path = out / "looks.jsonl"
        self.history: list[dict[str, float]] = []
        if self._path.exists():
            self.history = [line for line in read_looks(self._path) if line["step"] <= trainer.step]
        bank = trainer.instances.bank
        present = np.flatnonzero(bank.present)
        # Classes lie one after the other: spread evenly, the grid shows many.
        self._rows = present[np.linspace(0, len(present) - 1, min(_GRID, len(present))).astype(int)]

    def __call__(self, writer: SummaryWriter) -> None:
        trainer, step = self._trainer, self._trainer.step
        generator = Generator(trainer.checkpoint(), trainer.device, torch.float32)
        bank, samples, seed = trainer.instances.bank, trainer.instances.samples, trainer.settings.seed
        truncation: dict[str, Any] = {"truncation": self._training.truncation, "truncation_mode": "cut"}
        with InstanceSampler(generator, None, bank, samples, seed=seed, **truncation) as sampler:
            photographs, generations = sampler.photographs(self._rows), sampler.generations(self._rows, _GRID_DRAWS)
        grid = save_samples(self._out, step, photographs, generations)
        figures = evaluate(
            generator,
            self._extractor,
            bank,
            samples,
            neighbours_k=max(trainer.settings.k, 2),
            samples=self._training.look_samples,
            groups=8,
            seed=seed,
            shard=False,  # the others wait in their next step
        )
        for name, value in figures.items():
            writer.add_scalar(f"quality/{name}", value, step)
        with Image.open(grid) as picture:
            writer.add_image("samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self.history.append({"step": step, **{name: figures[name] for name in _FRECHET}})
        text = "".join(json.dumps(line) + "\n" for line in self.history).encode()
        write_whole(self._path, lambda file: file.write(text))

    def grids(self) -> dict[str, Path]:
        """The first and the last one, by caption."""
        files = sorted((self._out / "samples").glob("step_*.png"))
        return {
            f"after {int(file.stem.split('_')[1]):,} steps": file for file in dict.fromkeys((*files[:1], *files[-1:]))
        }


def _train_gan(trainer: GanTrainer, training: Training, look: _Look | None, shown: bool) -> None:
    steps = trainer.settings.steps
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=Console(stderr=True), disable=not shown) as bar,
        SummaryWriter(str(trainer.folder / "tensorboard"), purge_step=trainer.step + 1)
        if look is not None
        else contextlib.nullcontext() as writer,
    ):
        task = bar.add_task("generator", total=steps, completed=trainer.step, said="")

        def report(done: GanProgress) -> None:
            bar.update(task, completed=done.step, said=f"{done.rate:.0f} images/s")
            if writer is None or look is None:
                return
            for name, value in {**done.losses, "images_per_s": done.rate}.items():
                writer.add_scalar(f"gan/{name}", value, done.step)
            if done.step % training.look_every == 0 or done.step == steps:
                look(writer)

        every = next(n for n in (50, 25, 20, 10, 5, 2, 1) if training.look_every % n == 0)
        trainer.train(save_every=training.save_every, report_every=every, report=report)
        if look is not None and writer is not None and not (look.history and look.history[-1]["step"] == trainer.step):
            look(writer)  # of a finished run whose looks.jsonl was removed


def _check_images(samples: Samples, training: Training, own: bool) -> None:
    """``own``: the run trains an extractor of its own."""
    gan = training.gan
    asked = [
        name
        for name, by in (
            ("class_conditional", gan.class_conditional),
            ("supervised", own and training.extractor.supervised),
        )
        if by
    ]
    if asked and len(np.unique(samples.labels)) < 2:
        raise ValueError(
            f"dataset must have at least two classes with {asked[0]}, got one in {samples.name}: leave it out"
        )
    _check_count(len(samples), gan.k)
    chosen = np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).astype(int))
    small, looked = [], 0
    for index in chosen:
        with contextlib.suppress(OSError, ValueError):
            image = encoded(samples.read(int(index)), exif=training.exif)
            looked += 1
            if min(image.height, image.width) < gan.resolution:
                small.append((image, samples.path(int(index))))
    if len(chosen) == len(samples):
        _check_count(looked, gan.k)
    if small:
        image, path = small[0]
        said = (
            f"{gan.resolution} pixels on their short side, got {len(small)} of {looked} that are "
            f"smaller, such as {path} with {image.width} x {image.height}: choose a lower resolution"
        )
        if len(small) > _TOO_SMALL * looked:
            raise ValueError(f"dataset must have images of at least {said}")
        warnings.warn(f"dataset should have images of at least {said}, or leave them out", stacklevel=6)


def _check_count(readable: int, k: int) -> None:
    least = 2 * (K + 1)
    if readable < least:
        raise ValueError(f"dataset must have at least {least} images that can be read, got {readable}")
    if readable <= k:
        raise ValueError(
            f"k must be less than the {readable} images that can be read, got {k}: give more images or a lower k"
        )


def _check_run(out: Path, training: Training, samples: Samples, extractor: Path | str | None) -> None:
    """Note what the folder is a run of; refuse another."""
    path = out / "run.json"
    mine: dict[str, Any] = {
        "dataset": samples.fingerprint,
        "images": len(samples),
        "extractor": None if extractor is None else str(extractor),
        "exif": training.exif,
        "settings": {"gan": _plain(replace(training.gan, steps=1)), "extractor": _plain(training.extractor)},
    }
    if not path.exists():
        text = json.dumps(mine, indent=1).encode()
        write_whole(path, lambda file: file.write(text))
        return
    theirs = read_run(path)
    theirs.pop("seconds", None)  # noted at the end
    differ = [*differences(theirs.pop("settings"), mine.pop("settings")), *differences(theirs, mine)]
    if differ:
        said = ", ".join(f"{key} {shown(before)}, now {shown(now)}" for key, before, now in differ)
        way = ""
        if all(key.startswith("gan.") for key, _, _ in differ):
            source = out / "extractor.safetensors" if extractor is None else extractor
            way = f"; other gan settings need a new folder, and no new extractor: --extractor {source}"
        raise ValueError(f"{out} must be a new folder or this very run's, it was begun with {said}{way}")


def _seconds(out: Path, generator: float) -> float:
    """How long the networks were trained, over all calls; noted in ``run.json``."""
    about = out / "extractor.json"
    seconds = generator + (read_report(about)["seconds"] if about.exists() else 0.0)
    noted = read_run(out / "run.json")
    text = json.dumps({**noted, "seconds": round(seconds, 1)}, indent=1).encode()
    write_whole(out / "run.json", lambda file: file.write(text))
    return float(seconds)


def _plain(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))  # tuples are lists in YAML
