"""Which instances a step is about, and the neighbours that are its real images: functions of the seed and the step alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.data import Samples
from dali_icgan.engine import Extractor
from dali_icgan.ops.permutation import permutation
from dali_icgan.training.state import random_of

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Instances:
    """Draws instances and neighbours of a bank.

    A real sample is an image drawn evenly among the k nearest of an instance, with the instance's feature and the neighbour's label
    (Casanova et al. 2021, section 3). Instances come in a new order each time all have been used.

    Args:
        bank: features of the training images.
        mirrored: the same of the mirrored images; None: features are never of mirrored images.
        samples: the training images; every one's bank row is looked up.
        k: neighbours.
        batch_size: rows a step, of each rank.
        seed: of every draw.
        rank, world: which of how many processes that share a step.
    """

    bank: FeatureBank
    mirrored: FeatureBank | None
    samples: Samples
    k: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        rows = self.bank.check_against(self.samples)
        usable = np.flatnonzero(self.bank.present[rows])
        object.__setattr__(self, "_rows", rows[usable])  # bank rows of the images that can be read
        sample_of_row = np.full(self.bank.n, -1, np.int64)
        sample_of_row[rows[usable]] = usable
        object.__setattr__(self, "_sample_of_row", sample_of_row)
        near = self.bank.neighbours(self.k)[rows[usable]]
        object.__setattr__(self, "_near", sample_of_row[near])

    _rows: Rows = None  # type: ignore[assignment]
    _sample_of_row: Rows = None  # type: ignore[assignment]
    _near: Rows = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._rows)

    def real(self, step: int, pairs: bool = False) -> tuple[Rows, Rows]:
        """Of a step's real samples: the instances' bank rows ``[b]`` and the neighbours' indices in ``samples`` ``[b]``.

        With ``pairs``, rows i and i + b / 2 are two neighbours of one instance.
        """
        n, count = len(self), self.batch_size // 2 if pairs else self.batch_size
        position = (step * self.world + self.rank) * count + np.arange(count)
        instance = np.empty(count, np.int64)
        for epoch in np.unique(position // n):
            here = position // n == epoch
            instance[here] = permutation(self.seed, int(epoch), n, position[here] % n)
        pick = self._integers(self.k, "neighbour", step)
        if pairs:
            instance = np.concatenate([instance, instance])
            further = 1 + self._integers(max(self.k - 1, 1), "another neighbour", step)
            pick[count:] = (pick[:count] + further[:count]) % self.k
        return self._rows[instance], self._near[instance, pick]

    def conditions(self, step: int) -> tuple[Rows, Rows]:
        """Of a step's generations: the instances' bank rows ``[b]``, and the labels ``[b]`` of a neighbour of each."""
        instance = self._integers(len(self), "condition", step)
        pick = self._integers(self.k, "condition's neighbour", step)
        return self._rows[instance], self.samples.labels[self._near[instance, pick]]

    def features(self, rows: Rows, step: int, purpose: str, device: torch.device) -> Tensor:
        """Unit features ``[b, d]`` of bank rows; half of them, drawn anew, of the mirrored images."""
        features = self.bank.gather(rows, device)
        if self.mirrored is None:
            return features
        mirror = self._integers(2, f"mirrored {purpose}", step).astype(bool)
        return torch.where(torch.from_numpy(mirror)[:, None].to(device), self.mirrored.gather(rows, device), features)

    def batches(self, first: int, pairs: bool = False) -> Iterator[list[int]]:
        """The indices of the real images of step ``first`` and of all that follow: a batch sampler without an end."""
        return _Endless(self, first, pairs)

    def _integers(self, high: int, purpose: str, step: int) -> Rows:
        random = random_of(self.seed, purpose, step, self.rank)
        return torch.randint(high, (self.batch_size,), generator=random).numpy()


class _Endless(Iterator[list[int]]):
    def __init__(self, instances: Instances, step: int, pairs: bool) -> None:
        self._instances = instances
        self._step = step
        self._pairs = pairs

    def __next__(self) -> list[int]:
        _, images = self._instances.real(self._step, self._pairs)
        self._step += 1
        return [int(index) for index in images]


class MirroredExtractor:
    """An extractor that sees every image mirrored: its bank holds the features of the mirrored images."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self.dim = extractor.dim
        self.resolution = extractor.resolution
        self.align_corners = extractor.align_corners
        self.device = extractor.device
        self.source = f"{extractor.source}, mirrored"
        self.fingerprint = f"{extractor.fingerprint}-mirrored"

    def prepare(self, n: int) -> None:
        """As the extractor's."""
        self._extractor.prepare(n)

    def __call__(self, images: list[Tensor]) -> Tensor:
        """uint8 HWC tensors."""
        return self._extractor([image.flip(1) for image in images])
