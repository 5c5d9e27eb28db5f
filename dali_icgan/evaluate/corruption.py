"""The 15 corruptions of ImageNet-C, applied as images are read: for sets of which there is no corrupted version.

They are the library imagecorruptions-imaug's, a maintained form of the code of Hendrycks and Dietterich (arXiv 1903.12261). Its figures
are not those of the authors' files, which are JPEGs: each is named for what it is.
"""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from dali_icgan.evaluate.edited import Pixels, edited
from dali_icgan.evaluate.sets import CORRUPTIONS, SEVERITIES, ImageSet

LIBRARY = "imagecorruptions-imaug"
_SEEDED = ("glass_blur", "impulse_noise")  # they take a seed; the others draw from NumPy's global generator
_global_generator = threading.Lock()


def corrupted(clean: ImageSet, corruption: str, severity: int, resize: int = 256, crop: int = 224) -> ImageSet:
    """A set's images, resized and cropped as the authors did, then corrupted.

    The noise of an image is a function of (its key, corruption, severity): neither ranks nor threads change a pixel.

    Args:
        clean: the images.
        corruption: one of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        resize, crop: pixels of the short side and of the square centre, at least 32.

    Raises:
        ValueError: there is no such corruption or severity, or images would be too small.
        ImportError: the library is not installed.
    """
    if corruption not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(
            f"corruption and severity must be one of {', '.join(CORRUPTIONS)} and 1 to 5, got {corruption}, {severity}"
        )
    if crop < 32:
        raise ValueError(f"crop must be at least 32 pixels to be corrupted, got {crop}")
    library = _library()

    def edit(pixels: Pixels, key: str) -> Pixels:
        seed = int.from_bytes(hashlib.sha256(f"{corruption}/{severity}/{key}".encode()).digest()[:4], "little")
        named = {"seed": seed} if corruption in _SEEDED else {}
        with _seeded(seed):
            found: Pixels = library.corrupt(
                _centre(pixels, resize, crop), severity=severity, corruption_name=corruption, **named
            )
        return found

    name = f"{clean.name}/{corruption}/{severity}"
    return replace(clean, name=name, samples=edited(clean.samples, edit), cropped=True)


def library_version() -> str:
    """Name and version of what corrupts."""
    return f"{LIBRARY} {version(LIBRARY)}"


def _centre(pixels: Pixels, resize: int, crop: int) -> Pixels:
    image = Image.fromarray(pixels)
    short = min(image.size)
    width, height = (resize * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator is whose seed this is, for one thread at a time, and is put back."""
    with _global_generator:
        before = np.random.get_state()  # noqa: NPY002 the library draws from it
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


def _library() -> Any:
    try:
        import imagecorruptions
    except ModuleNotFoundError as error:
        raise ImportError(
            f"corruptions need {error.name}, which pip install 'dali-icgan[corruptions]' brings"
        ) from error
    return imagecorruptions
