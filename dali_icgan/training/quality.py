"""How good a generator is, in the feature space of the run's own extractor. None of it is an Inception figure such as FID."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dali_icgan.augment import DAICGAN, EvalTransform, FeatureBank
from dali_icgan.augment.plan import RowKeys
from dali_icgan.data import as_samples
from dali_icgan.engine import Extractor, Generator
from dali_icgan.loader import DataLoader
from dali_icgan.ranks import Ranks
from dali_icgan.training.state import random_of

Rows = npt.NDArray[np.int64]

_EQUAL = 1e-9  # relative; of a pair a distance is the same both ways only within rounding
_BLOCK = 2**22  # distances held at once
_YARDSTICK = 10_000  # training images whose own nearest other is looked for
K = 5  # neighbours of precision, recall, density and coverage: what evaluate takes, so that it needs 2 (K + 1) images
_IMAGES = 256  # generations or photographs held at once


# ------------------------------------------------------------------ figures of feature rows


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to feature rows: ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    With ``C = R' R``, R the triangular factor of the centred rows over sqrt(n - 1), the last trace is the sum of the singular values of
    ``R1 R2'``: no square root of a singular product, so fewer rows than features are no trouble.

    Args:
        real, generated: float32 or float64 ``[n, d]``, ``[m, d]``, n, m >= 2, finite, on one device.

    Returns:
        >= 0; 0 for equal means and covariances; at most 4 for unit rows, up to n / (n - 1). It shrinks towards its limit as n and m
        grow, so compare it at equal sizes only.

    Raises:
        ValueError, TypeError: an argument is not as above.

    Numerics: float64, within about 1e-12 of the traces.
    Source: Heusel et al. 2017 (arXiv 1706.08500), there of Inception features.
    """
    a, b = _pair("real", real, "generated", generated, least=2)
    roots = [torch.linalg.qr((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5, mode="r").R for rows in (a, b)]
    shift = (a.mean(0) - b.mean(0)).square().sum()
    traces = roots[0].square().sum() + roots[1].square().sum()
    # Rounding may leave equal sets at -1e-16.
    return max((shift + traces - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()).item(), 0.0)


def precision_recall(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """Precision and recall by nearest neighbours.

    A set's manifold is the union of closed balls around its rows, each as large as the distance to the row's k-th nearest other.
    Precision: the share of generated rows on the manifold of the real ones. Recall: of real rows on that of the generated ones.

    Args:
        real, generated: float32 or float64 ``[n, d]``, ``[m, d]``, n, m > k, finite, on one device.
        k: >= 1.

    Returns:
        (precision, recall), each in [0, 1], higher is better.

    Raises:
        ValueError, TypeError: an argument is not as above.

    Numerics: distances are float64; those within rounding of 0 are 0, squares within a relative 1e-9 are equal. Memory beyond the rows
        in float64 is bounded.
    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991).
    """
    a, b = _neighbourly(real, generated, k)
    return (
        _inside(b, a, _radii(a, k)).gt(0).double().mean().item(),
        _inside(a, b, _radii(b, k)).gt(0).double().mean().item(),
    )


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage by nearest neighbours: what one outlier with a large ball does to precision, it does not do to these.

    Around each real row lies the closed ball that reaches its k-th nearest other real row. Density: how many of them a generated row
    lies in, over k, on average. Coverage: the share of balls that hold a generated row.

    Args:
        real, generated: float32 or float64 ``[n, d]``, ``[m, d]``, n, m > k, finite, on one device.
        k: >= 1.

    Returns:
        (density, coverage): density >= 0, about 1 for rows of the same distribution, more where generations keep to crowded places;
        coverage in [0, 1], higher is better, ``1 - 2^-k`` or so for rows of the same distribution and number.

    Raises:
        ValueError, TypeError: an argument is not as above.

    Numerics: as :func:`precision_recall`.
    Source: Naeem et al. 2020 (arXiv 2002.09797); their code takes open balls, which differ on ties only.
    """
    a, b = _neighbourly(real, generated, k)
    radii = _radii(a, k)
    nearest = _nearest(a, b)
    return _inside(b, a, radii).double().mean().item() / k, (nearest <= radii * (1 + _EQUAL)).double().mean().item()


def copying(training: Tensor, generated: Tensor, held_out: Tensor | None = None) -> dict[str, float]:
    """Whether generations are copies: their distance to the nearest training image, beside that of real images.

    Args:
        training, generated: float32 or float64 ``[n, d]``, ``[m, d]``, n >= 2, m >= 1, finite, on one device.
        held_out: real images that were not trained on, ``[h, d]``, h >= 1. None: the training images themselves, each with its nearest
            other (of more than 10,000, as many, evenly spaced).

    Returns:
        ``median`` and ``1st_percentile`` of the generations' Euclidean distances, ``median_real`` and ``1st_percentile_real`` of the
        real ones'; ``nearer_share``, the share of generations nearer than the real 1st percentile, and ``nearer_share_real``, of real
        images, about 0.01. Copies have distances near 0 and a nearer_share far above the real one.

    Raises:
        ValueError, TypeError: an argument is not as above.

    Numerics: as :func:`precision_recall`.
    """
    base, made = _pair("training", training, "generated", generated, least=1)
    if len(base) < 2:
        raise ValueError(f"training must have at least 2 rows, got {len(base)}")
    if held_out is None:
        chosen = torch.arange(min(len(base), _YARDSTICK), device=base.device) * len(base) // min(len(base), _YARDSTICK)
        yardstick = _nearest(base[chosen], base, own=chosen).sqrt()
    else:
        yardstick = _nearest(_pair("training", training, "held_out", held_out, least=1)[1], base).sqrt()
    found = _nearest(made, base).sqrt()
    near = yardstick.quantile(0.01)
    nearer = near * (1 - _EQUAL)
    return {
        "median": found.quantile(0.5).item(),
        "median_real": yardstick.quantile(0.5).item(),
        "1st_percentile": found.quantile(0.01).item(),
        "1st_percentile_real": near.item(),
        "nearer_share": (found < nearer).double().mean().item(),
        "nearer_share_real": (yardstick < nearer).double().mean().item(),
    }


def conditioning_rank(instances: Tensor, generated: Tensor, index: Tensor) -> dict[str, float]:
    """Whether generations follow their condition: the rank of the conditioning instance among all by distance from the generation.

    Args:
        instances, generated: float32 or float64 ``[n, d]``, ``[m, d]``, n >= 2, m >= 1, finite, on one device.
        index: int64 ``[m]``: generation j was conditioned on ``instances[index[j]]``.

    Returns:
        ``top1``, ``top5``: the share of generations with fewer than 1, 5 instances nearer than their own, in [0, 1], higher is better,
        1/n and 5/n by chance; ``percentile``: 100 rank / (n - 1) on average, 0 is best, 50 is chance. Instances at the same distance
        are not nearer.

    Raises:
        ValueError, TypeError: an argument is not as above.

    Numerics: as :func:`precision_recall`.
    """
    base, made = _pair("instances", instances, "generated", generated, least=1)
    if len(base) < 2:
        raise ValueError(f"instances must have at least 2 rows, got {len(base)}")
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (len(made),):
        said = f"{index.dtype} {list(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"index must be int64 [{len(made)}], got {said}")
    if not 0 <= int(index.min()) <= int(index.max()) < len(base):
        raise ValueError(f"index must lie in 0..{len(base) - 1}, got {int(index.min())}..{int(index.max())}")
    own = index.to(base.device)[:, None]
    ranks = []
    for begin, squared in _squared_distances(made, base):
        ranks.append((squared < squared.gather(1, own[begin : begin + len(squared)]) * (1 - _EQUAL)).sum(1))
    rank = torch.cat(ranks).double()
    return {
        "top1": (rank < 1).double().mean().item(),
        "top5": (rank < 5).double().mean().item(),
        "percentile": 100 * rank.mean().item() / (len(base) - 1),
    }


def diversity(images: Tensor) -> float:
    """How much a pixel varies within a group: its standard deviation over z, averaged over pixels, channels and groups.

    Args:
        images: floating point ``[groups, z, 3, h, w]``, z >= 2, in any unit.

    Returns:
        >= 0, in that unit; 0: z changes nothing. Too little and too much are seen against real images of the same groups.

    Raises:
        ValueError, TypeError: images are not as above.

    Numerics: float64, the variance with z - 1 below.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.ndim != 5 or images.shape[2] != 3 or images.shape[1] < 2 or 0 in images.shape:
        raise ValueError(f"images must have shape [groups, 2 or more, 3, h, w], got {list(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point, got {images.dtype}")
    return images.detach().double().std(1).mean().item()


# ------------------------------------------------------------------ figures of a generator


@dataclass(frozen=True)
class Figure:
    """What a figure of :func:`evaluate` says.

    Attributes:
        title: its name for people.
        better: which way is good.
        meaning: one sentence.
        beside: the figure's yardstick in the same dict: of real photographs, or what chance gives.
    """

    title: str
    better: str
    meaning: str
    beside: str


FIGURES = {
    "feature_frechet_distance": Figure(
        "Fréchet distance (extractor features)",
        "lower",
        "How far the generations' features are from those of as many photographs, as Gaussians; beside it photographs against photographs.",
        "feature_frechet_distance_real",
    ),
    "feature_precision": Figure(
        "Precision (extractor features)",
        "higher",
        "Share of generations that lie among photographs.",
        "feature_precision_real",
    ),
    "feature_recall": Figure(
        "Recall (extractor features)",
        "higher",
        "Share of photographs that lie among generations.",
        "feature_recall_real",
    ),
    "feature_density": Figure(
        "Density (extractor features)",
        "near the yardstick",
        "How crowded with photographs the generations' places are; far above it, they keep to the commonest ones.",
        "feature_density_real",
    ),
    "feature_coverage": Figure(
        "Coverage (extractor features)",
        "higher",
        "Share of photographs that have a generation nearby.",
        "feature_coverage_real",
    ),
    "feature_nearest_training_median": Figure(
        "Distance to the nearest training image, median",
        "near the yardstick",
        "0 would be copies; far above it, unlike any photograph. Beside it real images to their nearest other in the training set.",
        "feature_nearest_training_median_real",
    ),
    "feature_nearest_training_1st_percentile": Figure(
        "Distance to the nearest training image, 1st percentile",
        "near the yardstick",
        "The same of the nearest hundredth: are the most similar generations copies?",
        "feature_nearest_training_1st_percentile_real",
    ),
    "feature_nearest_training_nearer_share": Figure(
        "Nearer to a training image than 99% of real ones are",
        "not far above the yardstick",
        "Share of generations that are suspiciously like one training image.",
        "feature_nearest_training_nearer_share_real",
    ),
    "feature_conditioning_top1": Figure(
        "Own instance is the nearest",
        "higher",
        "Share of generations whose features are nearest to the very instance that conditioned them, among all; beside it chance.",
        "feature_conditioning_top1_chance",
    ),
    "feature_conditioning_top5": Figure(
        "Own instance is among the 5 nearest",
        "higher",
        "The same, with four others allowed before it.",
        "feature_conditioning_top5_chance",
    ),
    "feature_conditioning_percentile": Figure(
        "Mean percentile of the own instance",
        "lower",
        "0: always the nearest of all instances; 50: as if the condition were ignored.",
        "feature_conditioning_percentile_chance",
    ),
    "pixel_diversity": Figure(
        "Pixel diversity over z",
        "near the yardstick",
        "Standard deviation of a pixel (in [-1, 1]) over z for one instance; beside it over the instance's real neighbours. Near 0: z is ignored.",
        "pixel_diversity_real",
    ),
}


class InstanceSampler:
    """The images of a dataset as instances: their photographs, and what a generator makes of their features. By rows of the bank.

    Args:
        generator, extractor, bank: that belong together, as for :class:`dali_icgan.DAICGAN`; the extractor may be None where no
            features are asked for.
        dataset: what the bank is of, as ``DataLoader`` takes it.
        seed: of z.
        truncation, truncation_mode, microbatch: as DAICGAN's. "std" with 1: z as in training.

    Attributes:
        rows: int64, the bank's rows that are present.
        features_of: float32 ``[len(rows), d]`` on the generator's device, their features.

    Raises:
        ValueError, TypeError: an argument is not as above.
    """

    def __init__(
        self,
        generator: Generator,
        extractor: Extractor | None,
        bank: FeatureBank,
        dataset: Any,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        truncation_mode: str = "std",
        microbatch: int | None = None,
    ) -> None:
        self._augment = DAICGAN(
            generator=generator,
            extractor=extractor,
            bank=bank,
            truncation=truncation,
            truncation_mode=truncation_mode,
            microbatch=microbatch,
        )
        self._seed = seed
        self._samples = as_samples(dataset)
        self._binding = self._augment.bind(self._samples, seed)
        assert self._binding.rows is not None
        sample_of = np.full(bank.n, -1, np.int64)
        sample_of[self._binding.rows[::-1]] = np.arange(len(self._samples))[::-1]
        # An image that is listed twice is looked up by its first row.
        self._sample_of = sample_of[bank.rows_of(bank.keys)]
        self.rows: Rows = np.flatnonzero(bank.present)
        lacking = self.rows[self._sample_of[self.rows] < 0]
        if len(lacking):
            raise ValueError(
                f"dataset must be the one that the bank is of, {bank.name}, got {self._samples.name}, which lacks {len(lacking)} of "
                f"its {bank.n} images, the first {bank.keys[lacking[0]]}"
            )
        self.features_of = bank.gather(self.rows, generator.device)
        half = (0.5, 0.5, 0.5)  # to [-1, 1]
        self._loader = DataLoader(
            self._samples,
            transform=EvalTransform(generator.resolution, generator.resolution, half, half),
            device=generator.device,
            dtype=torch.float32,
            seed=seed,
            shard=False,
            on_error="raise",
            exif=bool(bank.exif),
        )

    def __enter__(self) -> "InstanceSampler":
        return self

    def __exit__(self, *raised: object) -> None:
        self._loader.close()

    def photographs(self, rows: Rows) -> Tensor:
        """The images themselves: float32 ``[n, 3, r, r]`` in [-1, 1], the centre at the generator's resolution.

        Raises:
            DecodeError: one cannot be read any more.
        """
        return self._loader.replay_batch(0, [int(i) for i in self._sample_of[rows]]).images[0]

    def generations(self, rows: Rows, draws: int = 1, series: int = 0) -> Tensor:
        """Generations conditioned on rows: ``[n, draws, 3, r, r]`` in [-1, 1], each a function of seed, row, draw and series.

        Args:
            draws: >= 1, how many z a row has.
            series: >= 0; each has other z.
        """
        index, repeat = np.repeat(rows, draws), np.tile(np.arange(draws), len(rows))
        z = self._augment.noise(RowKeys(self._seed, series, index, repeat))
        y = self._augment.classes(self._binding, self._samples.labels[self._sample_of[index]])
        made = self._augment.generate(z, self._augment.gather(index), y).float()
        return made.unflatten(0, (len(rows), draws))

    def features(self, images: Tensor) -> Tensor:
        """What the extractor says of images ``[n, 3, r, r]`` in [-1, 1]: float32 ``[n, d]``, unit rows."""
        return self._augment.features((images / 2 + 0.5).clamp(0, 1))


def evaluate(
    generator: Generator,
    extractor: Extractor,
    bank: FeatureBank,
    dataset: Any,
    *,
    neighbours_k: int = 50,
    samples: int = 2000,
    seed: int = 0,
    k: int = K,
    groups: int = 64,
    draws: int = 8,
    truncation: float = 1.0,
    truncation_mode: str = "std",
    microbatch: int | None = None,
    held_out: FeatureBank | None = None,
    shard: bool | None = None,
) -> dict[str, float]:
    """All figures of a generator, in the feature space of the extractor that conditions it. They are no Inception figures (no FID), do
    not compare between extractors, and flatter a generator that was trained on these very features.

    Two disjoint random sets of photographs A and B, ``samples`` each: generations conditioned on B are held against A, and so is B itself,
    which is what a perfect generator would get.

    Args:
        generator, extractor, bank: that belong together.
        dataset: what the bank is of.
        neighbours_k: >= 2, the k of the neighbourhoods that it was trained with; draws of them are the real diversity.
        samples: generations, at most; half of the readable images where there are fewer.
        seed: of the two sets and z.
        k: of precision, recall, density and coverage.
        groups, draws: instances, and z for each (>= 2), of the pixel diversity.
        truncation, truncation_mode, microbatch: as DAICGAN's. "std" with 1: z as in training.
        held_out: features of images that were not trained on, by the same extractor: the yardstick of copying. None: the training
            images to their own nearest other.
        shard: None: over torch.distributed's ranks where it is initialised, which all call this and get the same; False: this process
            alone.

    Returns:
        each figure of :data:`FIGURES` and its yardstick; ``instances``, the photographs that are readable, and ``samples``, the
        generations. A pure function of the arguments at one thread count.

    Raises:
        ValueError, TypeError: an argument is not as above, or there are too few readable images.
        DecodeError: an image cannot be read any more.
        RankError: another rank failed, ended or hangs.
    """
    for name, value, least in (
        ("neighbours_k", neighbours_k, 2),
        ("samples", samples, 1),
        ("k", k, 1),
        ("groups", groups, 1),
        ("draws", draws, 2),
    ):
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if held_out is not None and (held_out.dim, held_out.extractor_fingerprint) != (
        bank.dim,
        bank.extractor_fingerprint,
    ):
        raise ValueError(f"held_out must be by the extractor that the bank is by, got {held_out}")
    with InstanceSampler(
        generator,
        extractor,
        bank,
        dataset,
        seed=seed,
        truncation=truncation,
        truncation_mode=truncation_mode,
        microbatch=microbatch,
    ) as instances:
        n = len(instances.rows)
        if n < 2 * (k + 1):
            raise ValueError(f"dataset must hold at least {2 * (k + 1)} readable images for k = {k}, got {n}")
        if neighbours_k >= n:
            raise ValueError(f"neighbours_k must be less than the {n} readable images, got {neighbours_k}")
        count = min(samples, n // 2)
        if count <= k:
            raise ValueError(f"samples must be more than k = {k}, got {samples}")
        everything = instances.features_of
        order = torch.randperm(n, generator=random_of(seed, "halves")).to(everything.device)
        real, conditions = order[:count], order[count : 2 * count]
        ranks, doing = Ranks.here(shard), "taking the generator's figures"
        with ranks.together(doing):
            made = _features_of_generations(instances, instances.rows[conditions.cpu().numpy()], ranks, doing)
            chosen = instances.rows[conditions[:groups].cpu().numpy()]
            diversities = _diversities(instances, bank, chosen, draws, neighbours_k, seed, ranks, doing)

    def figures() -> dict[str, float]:
        assert made is not None  # on the first rank, which alone calls this
        assert diversities is not None
        a, b = everything[real], everything[conditions]
        copied = copying(everything, made, None if held_out is None else _present(held_out, everything.device))
        followed = conditioning_rank(everything, made, conditions)
        found = {
            "feature_frechet_distance": frechet_distance(a, made),
            "feature_frechet_distance_real": frechet_distance(a, b),
        }
        for suffix, rows in (("", made), ("_real", b)):
            found["feature_precision" + suffix], found["feature_recall" + suffix] = precision_recall(a, rows, k)
            found["feature_density" + suffix], found["feature_coverage" + suffix] = density_coverage(a, rows, k)
        found |= {f"feature_nearest_training_{name}": value for name, value in copied.items()}
        found |= {f"feature_conditioning_{name}": value for name, value in followed.items()}
        chance = {"top1": 1 / n, "top5": min(5 / n, 1.0), "percentile": 50.0}
        found |= {f"feature_conditioning_{name}_chance": value for name, value in chance.items()}
        found["pixel_diversity"], found["pixel_diversity_real"] = diversities
        return found | {"instances": float(n), "samples": float(count)}

    return ranks.from_first(doing, figures)


def _features_of_generations(instances: InstanceSampler, rows: Rows, ranks: Ranks, doing: str) -> Tensor | None:
    """On the first rank."""
    parts = [rows[i : i + _IMAGES] for i in range(0, len(rows), _IMAGES)]
    mine = [instances.features(instances.generations(parts[i])[:, 0]).cpu() for i in ranks.share(len(parts))]
    made = ranks.gather_share(mine, doing)
    return None if made is None else torch.cat(made).to(instances.features_of.device)


def _diversities(
    instances: InstanceSampler,
    bank: FeatureBank,
    rows: Rows,
    draws: int,
    neighbours_k: int,
    seed: int,
    ranks: Ranks,
    doing: str,
) -> tuple[float, float] | None:
    """Of generations, and of real neighbours, of the same instances; on the first rank."""
    near = bank.neighbours(neighbours_k)[rows]
    at_once = max(_IMAGES // draws, 1)
    begins = range(0, len(rows), at_once)
    mine = []
    for begin in (begins[i] for i in ranks.share(len(begins))):
        part = rows[begin : begin + at_once]
        picks = [
            torch.randperm(neighbours_k, generator=random_of(seed, "neighbours", int(row)))[:draws] for row in part
        ]
        chosen = np.stack([near[begin + i, pick.numpy()] for i, pick in enumerate(picks)])
        photographs = instances.photographs(chosen.reshape(-1)).unflatten(0, chosen.shape)
        made = diversity(instances.generations(part, draws, series=1))
        mine.append((len(part) * made, len(part) * diversity(photographs)))
    sums = ranks.gather_share(mine, doing)
    if sums is None:
        return None
    return sum(made for made, _ in sums) / len(rows), sum(real for _, real in sums) / len(rows)


def _present(bank: FeatureBank, device: torch.device) -> Tensor:
    return bank.gather(np.flatnonzero(bank.present), device)


# ------------------------------------------------------------------ distances


def _pair(name_a: str, a: Tensor, name_b: str, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64, checked."""
    for name, rows in ((name_a, a), (name_b, b)):
        if not isinstance(rows, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(rows).__name__}")
        if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} must be float32 or float64 [n, d], got {rows.dtype} {list(rows.shape)}")
        if len(rows) < least:
            raise ValueError(f"{name} must have at least {least} rows, got {len(rows)}")
        if not rows.isfinite().all():
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in row {int((~rows.isfinite()).any(1).nonzero()[0])}"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{name_b} must have the {a.shape[1]} features of {name_a}, got {b.shape[1]}")
    if a.device != b.device:
        raise ValueError(f"{name_b} must be on {name_a}'s device {a.device}, got {b.device}")
    return a.detach().double(), b.detach().double()


def _neighbourly(real: Tensor, generated: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if type(k) is not int or k < 1:
        raise ValueError(f"k must be a positive integer, got {k!r}")
    return _pair("real", real, "generated", generated, least=k + 1)


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(the first of some rows of a, their squared distances to all of b), a block at a time."""
    norm = b.square().sum(1)
    rounding = b.shape[1] * torch.finfo(b.dtype).eps
    begin = 0
    for rows in a.split(max(_BLOCK // max(len(b), 1), 1)):
        scale = rows.square().sum(1, keepdim=True) + norm
        squared = torch.addmm(scale, rows, b.T, alpha=-2)
        # What is 0 within rounding is 0: a copy is a copy, and lies in a ball of radius 0.
        yield begin, squared.masked_fill_(squared < rounding * scale, 0)
        begin += len(rows)


def _radii(rows: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other."""
    found = []
    for begin, squared in _squared_distances(rows, rows):
        squared.diagonal(begin).fill_(torch.inf)
        found.append(squared.kthvalue(k, 1).values)
    return torch.cat(found)


def _nearest(rows: Tensor, base: Tensor, own: Tensor | None = None) -> Tensor:
    """Squared distance of each row to the nearest of the base; of those that are the base's own, to the nearest other."""
    found = []
    for begin, squared in _squared_distances(rows, base):
        if own is not None:
            squared.scatter_(1, own[begin : begin + len(squared), None], torch.inf)
        found.append(squared.amin(1))
    return torch.cat(found)


def _inside(rows: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """In how many balls (of these squared radii) each row lies."""
    reach = radii * (1 + _EQUAL)
    return torch.cat([(squared <= reach).sum(1) for _, squared in _squared_distances(rows, centres)])
