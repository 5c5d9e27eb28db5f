"""Which part of an image becomes the network's input, and how it is normalised."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_icgan.augment.plan import RowKeys, Stream
from dali_icgan.ops.random_resized_crop import interval, random_resized_crop
from dali_icgan.ops.uniform import integer_array, uniform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Windows:
    """A resize of part of each image: output pixel i has its centre at ``offset + scale (i + 1/2)`` of the window.

    Attributes:
        window: int32 ``[n, 4]``, top, left, height, width in source pixels; nothing outside it is read.
        offset: float64 ``[n, 2]``, y and x, in pixels from the window's corner.
        scale: float64 ``[n, 2]``, y and x, source pixels per output pixel.
        flip: bool ``[n]``, mirror left and right afterwards.
    """

    window: npt.NDArray[np.int32]
    offset: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.window)

    def take(self, rows: slice | npt.NDArray[Any]) -> "Windows":
        """Some rows: a slice, indices or a mask."""
        return Windows(self.window[rows], self.offset[rows], self.scale[rows], self.flip[rows])


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop and flip, as torchvision's RandomResizedCrop (antialiased, bilinear) and RandomHorizontalFlip.

    Attributes:
        size: pixels of the square output, at least 1.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width / height of the crop.
        flip: probability of a mirror image.
        mean, std: of each channel, for pixels in [0, 1].

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _set(self, size=_pixels("size", self.size), flip=_probability("flip", self.flip))
        _set(self, scale=interval("scale", self.scale, 1.0), ratio=interval("ratio", self.ratio, math.inf))
        _set(self, mean=_channels("mean", self.mean), std=_channels("std", self.std, positive=True))

    @property
    def output_size(self) -> int:
        """Pixels of the square output."""
        return self.size

    def windows(self, keys: RowKeys, height: Sizes, width: Sizes) -> Windows:
        """Each row's crop, a pure function of its key and its image's size.

        Args:
            keys: n rows; draws from :attr:`Stream.CROP` and :attr:`Stream.FLIP`.
            height, width: integers ``[n]``, the images' pixels.

        Raises:
            ValueError, TypeError: a size is not a positive integer.
        """
        window = random_resized_crop(keys, height, width, self.scale, self.ratio)
        flip = uniform(keys, Stream.FLIP)[:, 0] < self.flip
        return Windows(window, np.zeros((len(keys), 2)), window[:, 2:] / self.size, flip)


@dataclass(frozen=True)
class EvalTransform:
    """Resize the short side, then crop the centre, as torchvision's Resize (antialiased, bilinear) and CenterCrop.

    The two are one resample of the part that is kept, so a narrow image costs no large intermediate.

    Attributes:
        resize: pixels of the short side; the long one is rounded down.
        crop: pixels of the square output, at most ``resize``.
        mean, std: of each channel, for pixels in [0, 1].

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _set(self, resize=_pixels("resize", self.resize), crop=_pixels("crop", self.crop))
        _set(self, mean=_channels("mean", self.mean), std=_channels("std", self.std, positive=True))
        if self.crop > self.resize:
            raise ValueError(f"crop must be at most resize = {self.resize}, got {self.crop}")

    @property
    def output_size(self) -> int:
        """Pixels of the square output."""
        return self.crop

    def windows(self, keys: RowKeys, height: Sizes, width: Sizes) -> Windows:
        """Each row's centre: as :meth:`TrainTransform.windows`, with nothing random."""
        source = np.stack([_sizes("height", height, len(keys)), _sizes("width", width, len(keys))], 1)
        resized = self.resize * source // source.min(1, keepdims=True)
        scale = source / resized
        start = scale * np.rint((resized - self.crop) / 2)  # CenterCrop rounds, ties to even
        # The filter reaches max(scale, 1) source pixels from the first and the last centre; it takes the pixels whose centres are within.
        reach = np.maximum(scale, 1) - 0.5
        first = np.maximum(np.floor(start + 0.5 * scale - reach), 0)
        last = np.minimum(np.floor(start + (self.crop - 0.5) * scale + reach + 1), source)
        window = np.concatenate([first, last - first], 1).astype(np.int32)
        return Windows(window, start - first, scale, np.zeros(len(keys), bool))


def _set(transform: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(transform, name, value)


def _pixels(name: str, value: int) -> int:
    try:
        pixels = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not 1 <= pixels < 2**15:
        raise ValueError(f"{name} must be in [1, 2^15), got {pixels}")
    return pixels


def _probability(name: str, value: float) -> float:
    try:
        p = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}") from None
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return p


def _channels(name: str, values: Sequence[float], positive: bool = False) -> tuple[float, ...]:
    kind = "three positive numbers" if positive else "three finite numbers"
    try:
        channels = tuple(map(float, values))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {kind}, got {values!r}") from None
    if len(channels) != 3 or not all(math.isfinite(c) and (c > 0 or not positive) for c in channels):
        raise ValueError(f"{name} must be {kind}, got {values!r}")
    return channels


def _sizes(name: str, values: Any, n: int) -> Sizes:
    sizes = integer_array(name, values)
    if sizes.shape != (n,):
        raise ValueError(f"{name} must have shape [{n}], got {list(sizes.shape)}")
    if n and not 1 <= sizes.min() <= sizes.max() < 2**31:
        raise ValueError(f"{name} must be in [1, 2^31), got {sizes.min()} to {sizes.max()}")
    return sizes
