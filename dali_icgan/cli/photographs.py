"""Real photographs that come inside scikit-image's wheel, cut into a folder of small JPEG files."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from dali_icgan.data.decode import available_threads
from dali_icgan.errors import DeviceError

# In scikit-image's wheel itself: nothing is downloaded. All of them may be used, changed and passed on by anybody, so that the embedded
# generator could learn from them; the words are those of scikit-image's documentation.
PHOTOGRAPHS = {
    "brick": ("brick.png", "CC0, CC0Textures (Bricks25)"),
    "cat": ("chelsea.png", "CC0, Stefan van der Walt"),
    "coffee": ("coffee.png", "CC0, Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    "galaxies": ("hubble_deep_field.jpg", "public domain, NASA (Hubble eXtreme Deep Field)"),
    "grass": ("grass.png", "CC0, linolafett (DeviantArt)"),
    "gravel": ("gravel.png", "CC0, CC0Textures (Gravel04)"),
    "retina": ("retina.jpg", "CC0, Mikael Häggström"),
    "rocket": ("rocket.jpg", "public domain, SpaceX"),
}
SHORTEST, LONGEST = 96, 160  # sides of a patch, in pixels
_DULL = 25  # the standard deviation below which a patch is bare sky or black border


def photograph(name: str) -> Image.Image:
    """One of the photographs, RGB or grey.

    Raises:
        DeviceError: the package that holds it is not installed, or came without it.
    """
    return from_wheel(PHOTOGRAPHS[name][0])


def from_wheel(file: str) -> Image.Image:
    """An image that comes inside scikit-image's wheel, by its file's name, RGB or grey; raises as :func:`photograph`."""
    try:
        inside = resources.files("skimage") / "data" / file
        with resources.as_file(inside) as path, Image.open(path) as opened:
            return opened.convert("L" if opened.mode == "L" else "RGB")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DeviceError(
            f"the photographs come inside scikit-image: pip install 'dali-icgan[demo]' ({error})"
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
