"""Real photographs (scikit-image's own) cut into small JPEG files, for tests."""

import io
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

NAMES = ("astronaut", "coffee", "chelsea")


def photograph(name: str) -> np.ndarray:
    """uint8 ``[h, w, 3]``."""
    return np.asarray(getattr(skimage.data, name)())


def patch(name: str, number: int) -> np.ndarray:
    """A patch of a photograph; its place and size depend on ``number``."""
    image = photograph(name)
    random = np.random.default_rng(number)
    height, width = random.integers(40, 200, 2)
    top, left = random.integers(0, image.shape[0] - height), random.integers(0, image.shape[1] - width)
    return image[top : top + height, left : left + width]


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    """Encode; quality 90."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def make_folder(root: Path, per_class: int = 8) -> Path:
    """One class a photograph, ``per_class`` patches each."""
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            (root / name / f"{number:03d}.jpg").write_bytes(jpeg(patch(name, number)))
    return root
