"""What is done to finished batches, on their device: RandAugment, colour, erasing, normalisation, mixing. All of it timm's or torchvision's.

Every draw comes from the global generators of torch, numpy and Python, which the trainer seeds anew at each step.
"""

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2

from dali_icgan.augment.transform import IMAGENET_MEAN, IMAGENET_STD
from dali_icgan.recipes.settings import Augmentation, Colour
from dali_icgan.training.state import random_of

Mask = npt.NDArray[np.bool_]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make every draw of a step a function of (seed, step, rank), whatever was drawn before: a resumed run draws what an unbroken one
    does. Seeds the global generators of torch (every device's), numpy and Python."""
    value = random_of(seed, "step", step, rank).initial_seed()
    torch.manual_seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002  timm's Mixup draws from it
    random.seed(value)  # and its RandomErasing from this


def on_rows(
    operation: Callable[[Tensor], Tensor],
    images: Tensor,
    replaced: Mask,
    rows: str,
    share: int = 1,
    *,
    whole: bool = False,
) -> None:
    """Apply an operation in place to some rows, ``share`` neighbouring ones of them at a time.

    Args:
        images: ``[n, 3, s, s]``.
        replaced: ``[n]``, which rows are not photographs of their own.
        rows: "all", "real", "generated", "none".
        whole: one call for all of them: the operation draws for each row itself.
    """
    chosen = {"all": np.ones_like(replaced), "real": ~replaced, "generated": replaced, "none": np.zeros_like(replaced)}
    index = np.flatnonzero(chosen[rows])
    together = max(len(index), 1) if whole else share
    for begin in range(0, len(index), together):
        part = index[begin : begin + together]
        if part[-1] - part[0] + 1 == len(part):  # a view, without an index on the device
            images[part[0] : part[-1] + 1] = operation(images[part[0] : part[-1] + 1])
        else:
            at = torch.from_numpy(part).to(images.device)
            images[at] = operation(images[at])


class ClassificationBatches:
    """RandAugment, normalisation and random erasing of a batch, then mixup or cutmix.

    Attributes:
        raw: whether images must come in [0, 1]; else normalised.
        soft: whether targets are rows of probabilities, ``[n, classes]``; else labels.
    """

    def __init__(self, settings: Augmentation, classes: int, device: torch.device) -> None:
        self._settings = settings
        self.raw = settings.randaugment > 0 and settings.randaugment_rows != "none"
        self.soft = settings.mixes
        self._randaugment = _RandAugment(settings)
        self._erasing = RandomErasing(settings.erasing, mode=settings.erasing_mode, device=str(device))
        self._mixup = Mixup(
            settings.mixup,
            settings.cutmix,
            prob=settings.mix,
            switch_prob=settings.cutmix_share,
            label_smoothing=settings.smoothing,
            num_classes=classes,
        )

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor, replaced: Mask) -> tuple[Tensor, Tensor]:
        """Images ``[n, 3, s, s]`` float32, changed in place and normalised, and their targets."""
        settings = self._settings
        if self.raw:
            on_rows(self._randaugment, images, replaced, settings.randaugment_rows, settings.share)
            normalize(images)
        if settings.erasing > 0:
            on_rows(self._erasing, images, replaced, settings.erasing_rows, whole=True)
        if self.soft:
            images, labels = self._mixup(images, labels)
        return images, labels


class _RandAugment:
    """torchvision's operations, drawn as timm's RandAugment draws: each is left out with probability 1 - p, each has a magnitude of its own.

    timm's own operations are Pillow's, on the host: rows that are on a device would go there and back.
    """

    def __init__(self, settings: Augmentation) -> None:
        self._settings = settings
        self._one = v2.RandAugment(1, interpolation=v2.InterpolationMode.BILINEAR, fill=list(IMAGENET_MEAN))

    def __call__(self, images: Tensor) -> Tensor:
        settings = self._settings
        for _ in range(settings.randaugment):
            if random.random() < settings.randaugment_p:
                drawn = random.gauss(settings.magnitude, settings.magnitude_std)
                self._one.magnitude = round(min(max(drawn, 0), self._one.num_magnitude_bins - 1))
                images = self._one(images)
        return images


class ColourBatches:
    """SwAV's colour jitter, greying and blur of a batch of views in [0, 1], then normalisation."""

    def __init__(self, settings: Colour) -> None:
        self._settings = settings
        wide, strength = 0.8 * settings.strength, settings.strength
        self._jitter = v2.RandomApply([v2.ColorJitter(wide, wide, wide, min(0.2 * strength, 0.5))], settings.jitter)
        self._gray = v2.RandomGrayscale(settings.gray)

    @torch.no_grad()
    def __call__(self, views: list[Tensor], replaced: npt.NDArray[np.bool_]) -> list[Tensor]:
        """Views ``[n, 3, s, s]`` float32, changed in place; ``replaced`` is ``[views, n]``."""
        settings = self._settings
        for images, mask in zip(views, replaced, strict=True):
            kernel = max(3, images.shape[-1] // 10 | 1)  # SimCLR: a tenth of the image
            blur = v2.RandomApply([v2.GaussianBlur(kernel, settings.blur_sigma)], settings.blur)
            on_rows(v2.Compose([self._jitter, self._gray, blur]), images, mask, settings.rows, settings.share)
            normalize(images)
        return views


def normalize(images: Tensor) -> Tensor:
    """By ImageNet's mean and deviation, in place."""
    normalized: Tensor = v2.functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True)
    return normalized
