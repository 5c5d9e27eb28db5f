"""The losses of generator and discriminator."""

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_hinge(real: Tensor, generated: Tensor) -> Tensor:
    """``mean(max(0, 1 - real)) + mean(max(0, 1 + generated))`` of scores ``[n]``.

    Source: Lim & Ye 2017 (arXiv 1705.02894), as BigGAN and IC-GAN train.
    """
    return F.relu(1 - real).mean() + F.relu(1 + generated).mean()


def generator_hinge(generated: Tensor) -> Tensor:
    """``-mean(generated)`` of scores ``[n]``."""
    return -generated.mean()


def mode_seeking(generated: Tensor, real: Tensor) -> Tensor:
    """``-mean(min(|a - b|_1, |x - y|_1))``, a and b two generations of one instance under different noise, x and y two of its real
    images, the L1 distance a mean over pixels: below zero as far as noise changes the image, up to what real images differ by.

    Args:
        generated, real: ``[2 m, 3, h, w]``: rows i and i + m are of one instance, the same in both.

    Source: after Mao et al. 2019 (arXiv 1903.05628); the limit is ours: it keeps difference from being gained at the images' expense.
    """
    (a, b), (x, y) = generated.chunk(2), real.chunk(2)
    limit = (x - y).abs().mean((1, 2, 3)).detach()
    return -torch.minimum((a - b).abs().mean((1, 2, 3)), limit).mean()


def finite(said: str, **losses: Tensor) -> None:
    """Raise where a loss is no number.

    Args:
        said: when that was, and what may help.

    Raises:
        FloatingPointError: names the loss.
    """
    for name, loss in losses.items():
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of {name} must be finite, got {float(loss)} {said}")
