"""A linear layer whose rows do not know of each other."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
