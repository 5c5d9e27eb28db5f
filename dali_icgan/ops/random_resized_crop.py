"""The random crop that image classifiers are trained on."""

import math

import numpy as np
import numpy.typing as npt

from dali_icgan._native import native
from dali_icgan.ops.uniform import Keys, Rows, Stream, bits_reference, integer_array, key_fields, uniform_reference


def random_resized_crop(
    keys: Keys,
    height: Rows,
    width: Rows,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> npt.NDArray[np.int32]:
    """One box per row by the law of torchvision's RandomResizedCrop.

    Ten times: ``area = height width U(scale)``, ``aspect = exp(U(log ratio))``, ``w = round(sqrt(area aspect))``,
    ``h = round(sqrt(area / aspect))``, ties to even; the first that fits lies at a uniform position. If none does, the largest
    central box with an aspect within ``ratio``.

    Args:
        keys: n rows; draws from :attr:`Stream.CROP`.
        height, width: integers ``[n]``, pixels, 1 to 2^31 - 1.
        scale: least and greatest share of the image's area, 0 < low <= high <= 1.
        ratio: least and greatest width / height, 0 < low <= high.

    Returns:
        int32 ``[n, 4]``: top, left, height, width, within the image and at least one pixel wide and high.

    Raises:
        ValueError: a key, size or interval is out of range; the message names it.

    Numerics: float64; a row depends on nothing but its key and size.
    Source: Szegedy et al. 2015 (arXiv 1409.4842), section 6; torchvision's RandomResizedCrop.
    """
    scale, ratio = interval("scale", scale, 1.0), interval("ratio", ratio, math.inf)
    sizes = integer_array("height", height), integer_array("width", width)
    return native().random_resized_crop(*key_fields(keys), Stream.CROP, *sizes, scale, ratio)


def interval(name: str, values: tuple[float, float], most: float) -> tuple[float, float]:
    """``values`` as two floats, if 0 < low <= high <= most and both are finite."""
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be two numbers, got {values!r}") from None
    if not (0 < low <= high <= most and math.isfinite(high)):
        limit = "finite" if most == math.inf else f"<= {most:g}"
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high, {limit}, got {values!r}")
    return low, high


def random_resized_crop_reference(
    keys: Keys, height: Rows, width: Rows, scale: tuple[float, float], ratio: tuple[float, float]
) -> npt.NDArray[np.int32]:
    """The same in plain Python."""
    uniforms, bits = uniform_reference(keys, Stream.CROP, 40), bits_reference(keys, Stream.CROP, 40)
    boxes = np.empty((len(keys.index), 4), np.int32)
    for row, (size_y, size_x) in enumerate(zip(map(int, height), map(int, width), strict=True)):
        w, h = size_x, size_y
        if w / h < ratio[0]:
            h = max(1, round(w / ratio[0]))
        elif w / h > ratio[1]:
            w = max(1, round(h * ratio[1]))
        box = (size_y - h) // 2, (size_x - w) // 2, h, w
        for t in range(0, 40, 4):
            area = size_y * size_x * (scale[0] + (scale[1] - scale[0]) * uniforms[row, t])
            aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * uniforms[row, t + 1])
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= size_x and 0 < h <= size_y:
                top, left = (
                    int(b) * (r + 1) >> 64
                    for b, r in zip(bits[row, t + 2 : t + 4], (size_y - h, size_x - w), strict=True)
                )
                box = top, left, h, w
                break
        boxes[row] = box
    return boxes
