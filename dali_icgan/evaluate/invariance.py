"""How alike a model sees images that are meant to be alike. Formulas in NumPy and torch; ``h`` are features, ``u`` the same at unit length.

Images that belong together are a *group* (one class, one object) or an *image and its views* (augmented, generated).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.evaluate.metrics import Floats, Interval, bootstrap

Features = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
RATES = (0.005, 0.01, 0.02, 0.05, 0.1)
_CHUNK = 1024  # rows of a product of features


def unit(h: Features) -> Features:
    """Rows at unit length; a row of zeros stays."""
    norm = np.linalg.norm(h.astype(np.float64), axis=-1, keepdims=True)
    return (h / np.maximum(norm, 1e-12)).astype(np.float32)


def cosine_in_groups(u: Features, groups: Ints) -> Floats:
    """Of each image the mean cosine to the others of its group: (u_i . sum over j of u_j - u_i . u_i) / (m - 1). ``[n]``.

    Args:
        groups: 0..g - 1, each with m >= 2 images.
    """
    wide = u.astype(np.float64)
    sums = np.zeros((groups.max() + 1, u.shape[1]))
    np.add.at(sums, groups, wide)
    m = np.bincount(groups)[groups]
    return ((wide * sums[groups]).sum(1) - (wide * wide).sum(1)) / (m - 1)


def cosine_to_views(u: Features, views: Features) -> Floats:
    """Of each image ``[n, d]`` the mean cosine to its views ``[n, v, d]``. ``[n]``."""
    return np.einsum("nd,nvd->nv", u.astype(np.float64), views.astype(np.float64)).mean(1)


def retrieved_in_groups(u: Features, groups: Ints) -> npt.NDArray[np.bool_]:
    """R@1: whether the nearest other image, by cosine, is of the same group. ``[n]``; of equally near ones the first."""
    return groups[_nearest(u, u, itself=True)] == groups


def retrieved_from_views(u: Features, views: Features) -> npt.NDArray[np.bool_]:
    """R@1: whether the nearest of all images to a view, by cosine, is its own. ``[n, v]``."""
    n, v, d = views.shape
    return _nearest(views.reshape(n * v, d), u, itself=False).reshape(n, v) == np.arange(n)[:, None]


def _nearest(queries: Features, base: Features, itself: bool) -> Ints:
    near = torch.from_numpy(np.ascontiguousarray(base))
    found = []
    for begin in range(0, len(queries), _CHUNK):
        cosine = torch.from_numpy(np.ascontiguousarray(queries[begin : begin + _CHUNK])) @ near.T
        if itself:
            rows = torch.arange(len(cosine))
            cosine[rows, begin + rows] = -torch.inf
        found.append(cosine.argmax(1).numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class Firing:
    """What the most invariant units do.

    Attributes:
        rate: the global firing rate that thresholds aim at.
        score: mean over the top k units of L / G: how many times as often as by chance a unit fires on an image when it fires on
            another of the same group, or on the image itself; 1 is chance.
        local: mean of L over the same units, in [0, 1].
        units: how many units fire at all and so could be chosen.
    """

    rate: float
    score: Interval
    local: Interval
    units: int


def firing(h: Features, rate: float, views: Features | None = None) -> tuple[npt.NDArray[np.bool_], ...]:
    """Which units fire on which images: +h_i and -h_i are a unit each, which fires above its threshold, the value that a share ``rate``
    of the images exceeds (at least one image does, where values differ).

    Returns:
        ``[n, 2 d]`` for the images, and ``[n, v, 2 d]`` for their views, at the same thresholds.
    """
    both = np.concatenate([h, -h], 1)
    k = min(max(round(rate * len(h)), 1), len(h) - 1)
    threshold = np.partition(both, len(h) - k - 1, axis=0)[len(h) - k - 1]
    return (both > threshold, *(() if views is None else (np.concatenate([views, -views], 2) > threshold,)))


def firing_in_groups(h: Features, groups: Ints, rate: float, k: int) -> Firing:
    """Invariance of firing within groups.

    Unit i fires on image x if s_i h_i(x) > t_i; G(i) is the share of images on which it does; L(i) that of the others of x's group,
    over the x on which it does: with c of a group's m images, sum over groups of c (c - 1) / (m - 1), over the sum of c. The figure is
    the mean of L(i) / G(i) over the k units in which it is greatest.

    Goodfellow et al. 2009 (Measuring invariances in deep networks, NeurIPS): sign, threshold, G, L and their ratio, and the mean over
    the best units. There an image is of its own trajectory; here L leaves it out, so that chance is 1.
    """
    (fires,) = firing(h, rate)
    counts = np.zeros((groups.max() + 1, fires.shape[1]))
    np.add.at(counts, groups, fires)
    m = np.bincount(groups)[:, None]
    return _top(counts * (counts - 1) / (m - 1), counts, fires.mean(0), rate, k)


def firing_over_views(h: Features, views: Features, rate: float, k: int) -> Firing:
    """The same between images and their views: L(i) is the share of views on which the unit fires, over the images on which it does."""
    fires, on_views = firing(h, rate, views)
    return _top(fires * on_views.mean(1), fires.astype(np.float64), fires.mean(0), rate, k)


def _top(total: Floats, count: Floats, often: Floats, rate: float, k: int) -> Firing:
    there = np.flatnonzero(often)
    if not len(there):
        raise ValueError("features must differ from image to image, got the same for all")
    local = total[:, there].sum(0) / count[:, there].sum(0)
    best = there[np.argsort(-local / often[there], kind="stable")[:k]]
    # Intervals are of these units: chosen anew in each draw, the best would look better than they are.
    total, count = total[:, best], count[:, best]
    return Firing(rate, bootstrap(total, count, 1 / often[best]), bootstrap(total, count), len(there))


def firing_for_targets(h: Features, groups: Ints, rate: float, k: int) -> Floats:
    """Top-k score of each group as a target: the mean of (share of the group's images on which a unit fires) / G(i) over the k units in
    which it is greatest *for that group*. ``[g]``; 1 / G at most, so that a unit must fire for its target and for little else.

    After the target-conditioned invariance of Purushwalkam and Gupta 2020 (arXiv 2007.13916), whose figures have datasets and
    thresholds of their own: compare with other runs of this command alone.
    """
    (fires,) = firing(h, rate)
    counts = np.zeros((groups.max() + 1, fires.shape[1]))
    np.add.at(counts, groups, fires)
    often = fires.mean(0)
    there = often > 0
    score = counts[:, there] / np.bincount(groups)[:, None] / often[there]
    return np.sort(score, 1)[:, ::-1][:, :k].mean(1)


def dense(labels: Ints) -> tuple[Ints, Ints]:
    """Groups 0..g - 1 of the images whose label comes twice or more: (which images, their groups)."""
    counts = np.bincount(labels)
    kept = np.flatnonzero(counts[labels] >= 2)
    return kept, np.unique(labels[kept], return_inverse=True)[1].astype(np.int64)


def over_groups(values: npt.NDArray[Any], groups: Ints) -> Interval:
    """The mean over images, with the interval over whole groups."""
    total = np.bincount(groups, weights=values.astype(np.float64))
    return bootstrap(total.astype(np.float64), np.bincount(groups).astype(np.float64))
