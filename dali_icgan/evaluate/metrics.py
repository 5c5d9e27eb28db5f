"""Figures and their intervals, in NumPy: whole numbers are summed, or float64 in the images' order, so that a figure has no last digit
that depends on how it was computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_icgan.evaluate.sets import CORRUPTIONS, SEVERITIES

Floats = npt.NDArray[np.float64]

# AlexNet's top-1 error on each corruption, the mean over the five severities: the denominators of Hendrycks and Dietterich 2019
# (arXiv 1903.12261), as github.com/google-research/augmix (imagenet.py) has them from the authors.
ALEXNET_ERROR = dict(
    zip(
        CORRUPTIONS,
        (
            *(0.886428, 0.894468, 0.922640),  # noise
            *(0.819880, 0.826268, 0.785948, 0.798360),  # blur
            *(0.866816, 0.826572, 0.819324, 0.564592),  # weather
            *(0.853204, 0.646056, 0.717840, 0.606500),  # digital
        ),
        strict=True,
    )
)
_Z95 = 1.959963984540054
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A figure with a 95 % interval."""

    value: float
    low: float
    high: float


def proportion(right: npt.NDArray[np.bool_]) -> Interval:
    """k / n with Wilson's score interval (1927): centre (k + z^2 / 2) / (n + z^2), which stays in [0, 1] where k is 0 or n."""
    k, n = int(np.count_nonzero(right)), len(right)
    share, z2 = k / n, _Z95 * _Z95
    centre, spread = (k + z2 / 2) / (n + z2), _Z95 * sqrt(n * share * (1 - share) + z2 / 4) / (n + z2)
    return Interval(share, min(max(centre - spread, 0.0), share), max(min(centre + spread, 1.0), share))


def bootstrap(
    total: Floats, count: Floats | None = None, scale: Floats | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over columns k of scale_k (sum total_k / sum count_k), with the percentile interval of the bootstrap (Efron 1979) over rows:
    whole images, or whole groups of images that belong together, are drawn anew.

    Args:
        total: float ``[rows]`` or ``[rows, columns]``, rows >= 1.
        count: of the same shape, >= 0, with a positive sum in each column; None: ones, for means.
        scale: ``[columns]``; None: ones.
    """
    total = total.reshape(len(total), -1)
    count = np.ones_like(total) if count is None else count.reshape(total.shape)
    scale = np.ones(total.shape[1]) if scale is None else scale
    random, n = np.random.default_rng(seed), len(total)

    def of(sums: Floats, counts: Floats) -> float:
        there = counts > 0  # a draw may hold none of the rows that count
        return float((scale[there] * sums[there] / counts[there]).mean()) if there.any() else np.nan

    found = []
    for _ in range(resamples):
        times = np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)
        found.append(of(times @ total, times @ count))
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return Interval(of(total.sum(0), count.sum(0)), float(low), float(high))


@dataclass(frozen=True)
class Reliability:
    """Images by how confident the model is in its answer, in bins of equal width.

    Attributes:
        images: int64 ``[bins]``.
        confidence, accuracy: means in each bin, float64 ``[bins]``; 0 where it is empty.
        error: the expected calibration error.
    """

    images: npt.NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    error: float


def reliability(confidence: npt.NDArray[Any], right: npt.NDArray[np.bool_], bins: int = 15) -> Reliability:
    """Expected calibration error: sum over bins of (images in it / n) |accuracy - mean confidence|, bins (i / b, (i + 1) / b].

    Guo et al. 2017 (arXiv 1706.04599), 15 bins as there.

    Args:
        confidence: the probability of the model's answer, ``[n]`` in [0, 1].
        right: whether the answer is, ``[n]``.
    """
    sure = confidence.astype(np.float64)
    into = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(into, minlength=bins)
    total = np.bincount(into, weights=sure, minlength=bins)  # added in the images' order
    correct = np.bincount(into[right], minlength=bins)
    filled = np.maximum(images, 1)
    error = float(np.abs(correct - total).sum() / len(sure))
    return Reliability(images, total / filled, correct / filled, error)


def by_class(
    labels: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many images each class has, and how many of them are right: int64 ``[classes]`` each."""
    return np.bincount(labels, minlength=classes), np.bincount(labels[right], minlength=classes)


def corruption_errors(error: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """CE of each corruption in percent: 100 sum over severities of the error / the same of AlexNet; those with all five severities.

    Hendrycks and Dietterich 2019 (arXiv 1903.12261), section 4.

    Args:
        error: top-1 error in [0, 1] of (corruption, severity).
    """
    found = {}
    for corruption in CORRUPTIONS:
        errors = [error[corruption, s] for s in SEVERITIES if (corruption, s) in error]
        if len(errors) == len(SEVERITIES):
            found[corruption] = 100 * (sum(errors) / len(errors)) / ALEXNET_ERROR[corruption]
    return found


def mean_corruption_error(error: Mapping[tuple[str, int], float]) -> float | None:
    """mCE in percent, the mean of CE over the 15 corruptions; None where one of the 75 errors is missing. AlexNet has 100."""
    found = corruption_errors(error)
    return sum(found.values()) / len(found) if len(found) == len(CORRUPTIONS) else None


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p of McNemar's test (1947): of n images that one model alone gets right, as uneven a split or more between the
    two, were both sides of it equally likely: min(1, 2 sum over i <= min(a, b) of C(n, i) / 2^n).
    """
    n, least = only_a + only_b, min(only_a, only_b)
    term = total = 1
    for i in range(least):
        term = term * (n - i) // (i + 1)
        total += term
    return float(min(Fraction(1), Fraction(2 * total, 2**n)))


def mean(values: Sequence[float]) -> float:
    """Added in their order."""
    return sum(values) / len(values)
