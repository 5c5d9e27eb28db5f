"""What follows a convolution of a residual network."""

import torch
from torch import Tensor

from dali_icgan._native import native, optional_ref, ref, stream, threads


def bias_add_relu(
    x: Tensor, bias: Tensor, residual: Tensor | None = None, *, relu: bool = True, out: Tensor | None = None
) -> Tensor:
    """``relu(x + bias + residual)``, with or without the residual and the ReLU.

    Args:
        x: ``[n, h, w, c]``, float32, float16 or bfloat16, on the CPU also float64. Contiguous, or the first channels of a wider tensor
            that is. At most 65535 images, of fewer than 2^31 pixels.
        bias: ``[c]``, float32 (float64 of float64), contiguous.
        residual: shape, dtype and layout as x's; or None.
        relu: whether negative results become 0.
        out: written if given, shape, dtype and layout as x's: x or residual itself, or memory that neither shares.

    Returns:
        ``[n, h, w, c]``, ``out`` if it was given.

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.

    Numerics: float32 (float64 of float64), summed from left to right, one rounding to the dtype. NaN stays NaN. CPU and CUDA agree bit
        for bit, at any number of threads. Not differentiable: backward raises, or with ``out`` nothing is recorded.
    Stream: torch's current stream of x's device; no synchronisation, no allocation besides the result.
    Source: the residual block of He et al. 2016 (arXiv 1512.03385), batch norm folded into convolution and bias.
    """
    return _bias_add_relu(x, bias, residual, relu) if out is None else _into(x, bias, residual, relu, out)


def _into(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool, out: Tensor) -> Tensor:
    added = optional_ref("residual", residual)
    native().bias_add_relu(ref("x", x), ref("bias", bias), added, ref("out", out), relu, threads(), stream(x))
    return out


@torch.library.custom_op("dali_icgan::bias_add_relu", mutates_args=())
def _bias_add_relu(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return _into(x, bias, residual, relu, x.new_empty(x.shape))


@_bias_add_relu.register_fake
def _(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return x.new_empty(x.shape)


def bias_add_relu_reference(x: Tensor, bias: Tensor, residual: Tensor | None = None, *, relu: bool = True) -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernels."""
    y = x.double() + bias.double()
    if residual is not None:
        y = y + residual.double()
    return torch.relu(y) if relu else y
