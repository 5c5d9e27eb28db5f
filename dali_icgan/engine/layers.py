"""Layers that do not listen to torch's process-wide switches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Convolution:
    """Keeps the size at stride 1. ``weight`` ``[out, in, k, k]``, k odd; float32 is never TF32."""

    weight: Tensor
    stride: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[2] // 2
        if x.device.type == "cpu":
            return F.conv2d(x, self.weight, None, self.stride, padding)
        # F.conv2d takes the last three from settings that belong to the training code beside us; benchmark could choose another
        # algorithm in another run, and TF32 is on by default.
        return torch.cudnn_convolution(
            x,
            self.weight,
            padding=(padding, padding),
            stride=(self.stride, self.stride),
            dilation=(1, 1),
            groups=1,
            benchmark=False,
            deterministic=True,
            allow_tf32=False,
        )
