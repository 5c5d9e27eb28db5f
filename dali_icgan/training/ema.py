"""The moving average of a model, which is what is kept of a training."""

import copy

import torch
from torch import nn


class ExponentialMovingAverage:
    """A copy of a model whose parameters and buffers follow it: ``average = d * average + (1 - d) * model``.

    ``d = min(decay, (1 + n) / (10 + n))``, n the steps since the start: the average reaches over the last tenth of a short run, not
    back to its first images.

    Args:
        model: to follow.
        decay: in [0, 1): the most that d becomes.
        start: steps during which the copy is just the model: its first images are not worth remembering.

    Buffers (batch statistics, the vectors of spectral norm) are averaged as the official training does.
    """

    def __init__(self, model: nn.Module, decay: float, start: int) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.start = start

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After step number ``step``, counted from 0."""
        since = step - self.start
        weight = 1.0 if since < 0 else 1 - min(self.decay, (1 + since) / (10 + since))
        theirs = model.state_dict()
        for name, mine in self.model.state_dict().items():
            mine.lerp_(theirs[name].to(mine.dtype), weight) if mine.is_floating_point() else mine.copy_(theirs[name])
