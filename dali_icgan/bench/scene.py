"""What is measured: files, and one plan of what happens to each, which every contestant carries out."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dali_icgan.augment import DAICGAN, FeatureBank, TrainTransform
from dali_icgan.augment.plan import RowKeys, replaced
from dali_icgan.data import as_samples
from dali_icgan.data.dataset import read_source
from dali_icgan.engine import Extractor
from dali_icgan.errors import DeviceError

SEED = 0
FILES = 320  # made at most
_CLASSES = 10

Pairs = list[tuple[str, int]]


# ---------------------------------------------------------------------- files


@dataclass(frozen=True)
class Files:
    """The images of a run.

    Attributes:
        pairs: (path, label) of each row; files are repeated where there are fewer than rows.
        given: whether they are somebody's own.
        shards: of tar shards the rows' samples in them, which ours reads in place of the files; else None.
    """

    pairs: Pairs
    given: bool
    shards: Any = None

    @property
    def ours(self) -> Any:
        """What the loader opens."""
        return self.pairs if self.shards is None else self.shards

    @property
    def distinct(self) -> Any:
        """The same, each file once."""
        if self.shards is None:
            return list(dict.fromkeys(self.pairs))
        return torch.utils.data.Subset(self.shards.dataset, list(dict.fromkeys(self.shards.indices)))

    def facts(self) -> dict[str, Any]:
        """For the run's first line."""
        paths = sorted({path for path, _ in self.pairs})
        return {
            "data": "given" if self.given else "synthetic",
            "images": len(self.pairs),
            "files": len(paths),
            "megapixels": round(float(np.mean([np.prod(_size(path)) for path in paths])) / 1e6, 4),
            "mean_kb": round(sum(Path(path).stat().st_size for path in paths) / len(paths) / 1e3, 1),
        }

    def first(self, count: int) -> "Files":
        """So many rows."""
        shards = self.shards and torch.utils.data.Subset(self.shards.dataset, self.shards.indices[:count])
        return Files(self.pairs[:count], self.given, shards)


def files_of(data: Path | None, count: int, scratch: Path) -> Files:
    """``count`` images: of a folder of images or of tar shards, evenly spaced over it; else made from scikit-image's photographs.

    Args:
        scratch: where files are written that are not there yet; those of shards too, for peers that read files.

    Raises:
        FileNotFoundError, ValueError: the folder holds no images.
        DeviceError: there is no folder and no scikit-image.
    """
    if data is None:
        folder = make_photographs(scratch / "photographs", min(count, FILES))
        pairs = [(str(path), i % _CLASSES) for i, path in enumerate(sorted(folder.iterdir()))]
        return Files(list(itertools.islice(itertools.cycle(pairs), count)), False)
    samples = as_samples(str(data))
    chosen = list(itertools.islice(itertools.cycle(_spread(len(samples), count)), count))
    labels = samples.labels[chosen].tolist()
    if isinstance(samples.sources[0], str):
        return Files([(str(samples.sources[i]), label) for i, label in zip(chosen, labels, strict=True)], True)
    (scratch / "photographs").mkdir(parents=True)
    for i in set(chosen):
        (scratch / "photographs" / f"{i:08d}").write_bytes(read_source(samples.sources[i]))
    paths = [str(scratch / "photographs" / f"{i:08d}") for i in chosen]
    shards: Any = torch.utils.data.Subset(samples, chosen)  # type: ignore[arg-type]
    return Files(list(zip(paths, samples.labels[chosen].tolist(), strict=True)), True, shards)


def _spread(there: int, wanted: int) -> list[int]:
    return [int(i) for i in np.linspace(0, there - 1, min(there, wanted)).round()]


def make_photographs(folder: Path, count: int) -> Path:
    """A folder of JPEGs about as large as ImageNet's."""
    try:
        import skimage.data
    except ImportError as error:
        raise DeviceError(
            f"the synthetic photographs are scikit-image's: pip install 'dali-icgan[bench]', or name --data ({error})"
        ) from error
    random = np.random.default_rng(0)
    names = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")
    images = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    folder.mkdir(parents=True)
    for i in range(count):
        width, height = int(random.integers(400, 560)), int(random.integers(320, 480))
        image = images[i % len(images)].resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:04d}.jpg", quality=92)
    return folder


def bank_of(files: Files, extractor: Extractor, folder: Path) -> FeatureBank:
    """The features of the files, each once."""
    return FeatureBank.build(files.distinct, extractor, folder, progress=False)


def _size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


# ---------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Photos:
    """What a loader is to deliver. Arrays are ``[n]``, boxes int ``[n, 4]`` (top, left, height, width).

    Attributes:
        row: its number in the plan.
        box: the crop, resized to ``transform.size`` with antialiasing, then mirrored where ``flip``, then normalised.
    """

    row: npt.NDArray[np.int64]
    path: list[str]
    label: npt.NDArray[np.int64]
    box: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    transform: TrainTransform

    def __len__(self) -> int:
        return len(self.path)

    @property
    def size(self) -> int:
        return self.transform.size

    def batches(self, batch_size: int) -> list[npt.NDArray[np.int64]]:
        """Positions ``0..n``, in their order."""
        return [
            np.arange(begin, min(begin + batch_size, len(self)), dtype=np.int64)
            for begin in range(0, len(self), batch_size)
        ]


@dataclass(frozen=True)
class Plan:
    """What happens to each row of epoch 0: the loader's own decisions.

    Attributes:
        files: the rows' images.
        box, made_box: the crop of a row's photograph, and that of a generation in its place.
        z: the row's noise.
        h: the row's feature in the bank; None: the extractor is to find it.
    """

    files: Files
    transform: TrainTransform
    replaced: npt.NDArray[np.bool_]
    box: npt.NDArray[np.int64]
    made_box: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    z: Tensor | None = None
    h: Tensor | None = None

    def __len__(self) -> int:
        return len(self.files.pairs)

    @property
    def label(self) -> npt.NDArray[np.int64]:
        return np.array([label for _, label in self.files.pairs], np.int64)

    def photos(self, rows: npt.NDArray[Any] | None = None) -> Photos:
        """Of some rows, numbers or a mask, or of all."""
        number = np.arange(len(self)) if rows is None else np.arange(len(self))[rows]
        path = [self.files.pairs[i][0] for i in number]
        return Photos(number, path, self.label[number], self.box[number], self.flip[number], self.transform)

    def squares(self, rows: npt.NDArray[Any], resolution: int) -> Photos:
        """The photographs as an extractor sees them: the square in the middle, at the generator's resolution, ImageNet's mean and std."""
        number = np.arange(len(self))[rows]
        path = [self.files.pairs[i][0] for i in number]
        box = []
        for width, height in map(_size, path):
            side = min(width, height)
            box.append((round((height - side) / 2), round((width - side) / 2), side, side))
        boxes = np.array(box, np.int64).reshape(-1, 4)
        flip = np.zeros(len(number), bool)
        return Photos(number, path, self.label[number], boxes, flip, TrainTransform(resolution))


def plan_of(files: Files, transform: TrainTransform, augment: DAICGAN | None = None) -> Plan:
    """By the functions that the loader itself decides by; that it does is verified before anything is timed."""
    n, path = len(files.pairs), [path for path, _ in files.pairs]
    keys = RowKeys(SEED, 0, np.arange(n), np.zeros(n, np.int64))
    size_of = {each: _size(each) for each in dict.fromkeys(path)}
    width, height = np.array([size_of[each] for each in path], np.int64).T
    photo = transform.windows(keys, height, width)
    box = photo.window.astype(np.int64)
    if augment is None:
        return Plan(files, transform, np.zeros(n, bool), box, box, photo.flip)
    assert augment.generator is not None
    side = np.full(n, augment.generator.resolution)
    made = transform.windows(keys, side, side).window.astype(np.int64)
    h = None if augment.bank is None else augment.gather(augment.bank.rows_for(as_samples(files.ours)))
    return Plan(files, transform, replaced(keys, augment.p_of(0)), box, made, photo.flip, augment.noise(keys), h)
