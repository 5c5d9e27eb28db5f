"""Layers whose rows do not know of each other, and which do not listen to torch's process-wide switches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Convolution:
    """Keeps the size at stride 1. ``weight`` ``[out, in, k, k]``, k odd; float32 is never TF32."""

    weight: Tensor
    bias: Tensor | None = None
    stride: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[2] // 2
        if x.device.type == "cpu":
            return F.conv2d(x, self.weight, self.bias, self.stride, padding)
        # F.conv2d takes the last three from settings that belong to the training code beside us; benchmark could choose another
        # algorithm in another run, and TF32 is on by default.
        out = torch.cudnn_convolution(
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
        return out if self.bias is None else out.add_(self.bias[:, None, None])


def row_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias``, ``[n, in]`` to ``[n, out]``; the bits of a row depend on that row alone.

    On the CPU one matrix-vector product a row: a matrix product hands the rows left over from its blocks, or from its split
    over threads, to another kernel that sums in another order (seen with MKL at 3 and at 7 rows). These layers are a few
    percent of a generator.
    """
    x = _aligned(x, x.shape[1]).copy_(x)
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    out = _aligned(x, len(weight))
    for row, result in zip(x, out, strict=True):
        torch.addmv(bias, weight, row, out=result)
    return out


def _aligned(like: Tensor, columns: int) -> Tensor:
    # Every row on a cache line: how a library sums can depend on the alignment of a vector too.
    return like.new_empty(len(like), -(-columns // 16) * 16)[:, :columns]
