"""The images of each study, as folders of JPEG files: train (a few of them with labels), validation, test."""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dali_icgan.cli.photographs import from_wheel

SPLITS = ("train", "validation", "test")
CIFAR10 = "cifar10-jpeg.tar.xz"
# Of each class; the rest of the training images is left alone.
_CIFAR10_SIZES = {"train": 1000, "validation": 200, "test": 1000}
_PATCHES = {"train": 250, "validation": 60, "test": 120}
_PATCH = 48  # pixels of a patch file

One = tuple[str, str, bytes]  # split, class, file


def digits() -> Iterator[One]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, enlarged to 32 x 32: 1,000 train, 300 validate, 497 test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    for split, rows in zip(SPLITS, np.split(order, (1000, 1300)), strict=True):
        for row in rows:
            pixels = (data.images[row] * (255 / 16)).round().astype(np.uint8)
            yield (
                split,
                str(data.target[row]),
                _jpeg(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)),
            )


def cifar10(archive: Path) -> Iterator[One]:
    """CIFAR-10 from an archive of JPEG files ``train/<class>/*.jpg``, ``test/<class>/*.jpg``: of each class the first 1,000 training images
    of the archive are for training, the next 200 for validation.

    Raises:
        FileNotFoundError: says which file is needed.
    """
    if not archive.exists():
        raise FileNotFoundError(
            f"{archive} is missing: the study reads CIFAR-10 as JPEG files in train/<class>/ and test/<class>/ from {CIFAR10} "
            "(--cifar10 says where it is)"
        )
    taken: Counter[tuple[str, str]] = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) != 3 or parts[0] not in ("train", "test"):
                continue
            split, name = parts[0], parts[1]
            if taken[split, name] == _CIFAR10_SIZES[split]:
                split = "validation" if split == "train" else "left"
            if taken[split, name] < _CIFAR10_SIZES.get(split, 0):
                taken[split, name] += 1
                file = tar.extractfile(member)
                assert file is not None
                yield split, name, file.read()


def patches() -> Iterator[One]:
    """Patches of photographs, grey, which photograph being the class: train from a photograph's left half, validate from its upper
    right quarter, test from its lower right one. No pixel is in two splits."""
    names = {
        "astronaut": "astronaut.png",
        "brick": "brick.png",
        "camera": "camera.png",
        "cat": "chelsea.png",
        "coffee": "coffee.png",
        "coins": "coins.png",
        "galaxies": "hubble_deep_field.jpg",
        "grass": "grass.png",
        "gravel": "gravel.png",
        "moon": "moon.png",
        "motorcycle": "motorcycle_left.png",
        "retina": "retina.jpg",
        "rocket": "rocket.jpg",
        "tissue": "ihc.png",
    }
    for name, file in names.items():
        photograph = from_wheel(file).convert("L")
        width, height = photograph.size
        middle, half = width // 2, height // 2
        parts = {
            "train": (0, 0, middle, height),
            "validation": (middle, 0, width, half),
            "test": (middle, half, width, height),
        }
        for split, box in parts.items():
            part = photograph.crop(box)
            random = np.random.default_rng([SPLITS.index(split), *name.encode()])
            for _ in range(_PATCHES[split]):
                side = int(random.integers(_PATCH, 2 * _PATCH + 1))
                left, top = (int(random.integers(room - side + 1)) for room in part.size)
                piece = part.crop((left, top, left + side, top + side))
                yield split, name, _jpeg(piece.resize((_PATCH, _PATCH), Image.Resampling.BICUBIC))


def write(images: Iterable[One], folder: Path) -> None:
    """``folder/<split>/<class>/<number>.jpg``, once: a folder that is there is complete."""
    if folder.exists():
        return
    scratch = folder.with_name(folder.name + ".part")
    counts: Counter[tuple[str, str]] = Counter()
    for split, name, data in images:
        path = scratch / split / name / f"{counts[split, name]:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        counts[split, name] += 1
    os.replace(scratch, folder)


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()
