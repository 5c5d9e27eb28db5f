"""Differentiable augmentation: real and generated images alike are changed at random before the discriminator sees them, so that a
small dataset lasts longer.

Source: Zhao et al. 2020 (arXiv 2006.10738).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

POLICIES = ("colour", "translation", "cutout")


def augment_differentiably(images: Tensor, policies: tuple[str, ...], random: torch.Generator) -> Tensor:
    """Images ``[n, 3, s, s]`` in [-1, 1] (afterwards perhaps a little outside), each changed by draws of its own.

    Args:
        policies: "colour" (brightness by up to 0.5 of the half range, saturation 0 to 2, contrast 0.5 to 1.5), "translation" (up to an
            eighth of the side in each direction, zeros come in), "cutout" (a square of half the side becomes zero).
        random: where the draws come from.
    """
    for policy in policies:
        images = {"colour": _colour, "translation": _translation, "cutout": _cutout}[policy](images, random)
    return images


def _uniform(images: Tensor, random: torch.Generator) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, generator=random, device=random.device).to(images)


def _colour(images: Tensor, random: torch.Generator) -> Tensor:
    images = images + (_uniform(images, random) - 0.5)
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * (_uniform(images, random) * 2) + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform(images, random) + 0.5) + mean


def _integers(n: int, low: int, high: int, images: Tensor, random: torch.Generator) -> Tensor:
    """``[n, 1]`` in low..high."""
    return torch.randint(low, high + 1, (n, 1), generator=random, device=random.device).to(images.device)


def _translation(images: Tensor, random: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    room = max(height, width) // 8
    padded = F.pad(images, (room, room, room, room))
    down, right = (_integers(n, 0, 2 * room, images, random) for _ in range(2))
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    each = torch.arange(n, device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _cutout(images: Tensor, random: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    side = height // 2
    keep = []
    for extent in (height, width):
        # The square's middle lies anywhere in the image; what of it lies outside is lost.
        begin = _integers(n, 0, extent, images, random) - side // 2
        place = torch.arange(extent, device=images.device)
        keep.append((place >= begin) & (place < begin + side))
    return images * ~(keep[0][:, :, None] & keep[1][:, None, :])[:, None]
