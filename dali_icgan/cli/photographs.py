"""Real photographs that come inside scikit-image's and scikit-learn's wheels, cut into a folder of small JPEG files."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from dali_icgan.data.decode import available_threads
from dali_icgan.errors import DeviceError

# In the wheels themselves: nothing is downloaded.
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cameraman": ("skimage", "data/camera.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "palace": ("sklearn", "datasets/images/china.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
}
SHORTEST, LONGEST = 96, 160  # sides of a patch, in pixels
_DULL = 25  # the standard deviation below which a patch is bare sky or black border


def photograph(name: str) -> Image.Image:
    """One of the photographs, RGB or grey.

    Raises:
        DeviceError: the package that holds it is not installed, or came without it.
    """
    package, path = PHOTOGRAPHS[name]
    try:
        with resources.as_file(resources.files(package).joinpath(*path.split("/"))) as file, Image.open(file) as opened:
            return opened.convert("L" if opened.mode == "L" else "RGB")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DeviceError(
            f"the photographs come inside scikit-image and scikit-learn: pip install 'dali-icgan[demo]' ({error})"
        ) from error


def patch(image: Image.Image, number: int) -> Image.Image:
    """A part of a photograph, its place and size a function of ``number``; rarely a dull one."""
    random = np.random.default_rng(number)
    for _ in range(8):
        most = 0.75 * min(image.size)
        width, height = (int(side) for side in random.uniform(SHORTEST, most, 2))
        height = int(np.clip(height, 0.75 * width, width / 0.75))
        left, top = int(random.integers(image.width - width + 1)), int(random.integers(image.height - height + 1))
        part = image.crop((left, top, left + width, top + height))
        if np.asarray(part).std() > _DULL:
            break
    longest = int(random.integers(SHORTEST + 16, LONGEST + 1))
    part.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return part


def cut(folder: Path, per_photograph: int, made: Callable[[int], None]) -> int:
    """Fill ``folder`` with ``per_photograph`` JPEG files a photograph, one subfolder each; files that are there are kept.

    Args:
        made: told how many files there are, as they come.

    Returns:
        how many were written.
    """
    wanted = [(name, number) for name in PHOTOGRAPHS for number in range(per_photograph)]
    missing = [(name, number) for name, number in wanted if not _file(folder, name, number).exists()]
    made(len(wanted) - len(missing))
    images = {name: photograph(name) for name in dict(missing)}
    for name in images:
        (folder / name).mkdir(parents=True, exist_ok=True)

    def write(one: tuple[str, int]) -> None:
        name, number = one
        file = _file(folder, name, number)
        scratch = file.with_suffix(".part")
        patch(images[name], number).save(scratch, "JPEG", quality=90)
        os.replace(scratch, file)  # there whole or not at all, whenever it is stopped

    with ThreadPoolExecutor(available_threads()) as pool:
        for done, _ in enumerate(pool.map(write, missing), 1):
            made(len(wanted) - len(missing) + done)
    return len(missing)


def _file(folder: Path, name: str, number: int) -> Path:
    return folder / name / f"{number:04d}.jpg"
