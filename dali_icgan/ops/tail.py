"""The end of the generator: from the last block's convolution to colours."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan._native import native, optional_ref, ref, stream, threads


def tail(
    conv: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    out_bias: Tensor,
    *,
    shortcut: Tensor | None = None,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``tanh(conv3x3(relu(scale * (conv + up(shortcut) + bias) + shift)) + out_bias)``, zero-padded after the ReLU.

    ``up`` doubles height and width (nearest).

    Args:
        conv: ``[n, h, w, c]``, float32, float16 or bfloat16, on the CPU also float64. Contiguous, or the first channels of a wider
            tensor that is. At most 65535 images, of fewer than 2^31 pixels.
        scale, shift: ``[c]``, float32 (float64 of float64), contiguous.
        weight: ``[3, c, 3, 3]``, as scale.
        out_bias: ``[3]``, as scale.
        shortcut: ``[n, h / 2, w / 2, c]``, h and w even, dtype and layout as conv's; or None.
        bias: ``[c]``, as scale; or None.
        dtype: of the result: float32, float16 or bfloat16; float64 of float64. By default conv's.
        out: written if given, ``[n, h, w, 3]`` contiguous; its dtype counts. Shares no memory with the others.

    Returns:
        ``[n, h, w, 3]`` in [-1, 1], ``out`` if it was given: permuted, an image in channels-last memory.

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.

    Numerics: float32 (float64 of float64) throughout; the sum has one fused multiply-add a term, over c, then rows, then columns of
        the kernel; tanh within 2e-7 (1e-15) of exact; one rounding to the dtype. NaN stays NaN. CPU and CUDA agree bit for bit, at any
        number of threads. Not differentiable: backward raises, or with ``out`` nothing is recorded.
    Stream: torch's current stream of conv's device; no synchronisation, no allocation besides the result.
    Source: the output layer of Brock et al. 2019 (arXiv 1809.11096), appendix B.
    """
    if out is None:
        return _tail(conv, scale, shift, weight, out_bias, shortcut, bias, dtype)
    return _into(conv, scale, shift, weight, out_bias, shortcut, bias, out)


def _into(
    conv: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    out_bias: Tensor,
    shortcut: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
) -> Tensor:
    native().tail(
        ref("conv", conv),
        optional_ref("shortcut", shortcut),
        optional_ref("bias", bias),
        ref("scale", scale),
        ref("shift", shift),
        ref("weight", weight),
        ref("out_bias", out_bias),
        ref("out", out),
        threads(),
        stream(conv),
    )
    return out


def _empty(conv: Tensor, dtype: torch.dtype | None) -> Tensor:
    if conv.ndim != 4:
        raise ValueError(f"conv must have 4 dimensions, got {list(conv.shape)}")
    return conv.new_empty(*conv.shape[:3], 3, dtype=dtype)


@torch.library.custom_op("dali_icgan::tail", mutates_args=())
def _tail(
    conv: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    out_bias: Tensor,
    shortcut: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype | None,
) -> Tensor:
    return _into(conv, scale, shift, weight, out_bias, shortcut, bias, _empty(conv, dtype))


@_tail.register_fake
def _(
    conv: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    out_bias: Tensor,
    shortcut: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype | None,
) -> Tensor:
    return _empty(conv, dtype)


def tail_reference(
    conv: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    out_bias: Tensor,
    *,
    shortcut: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernels."""
    y = conv.double()
    if shortcut is not None:
        y = y + shortcut.double().repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    if bias is not None:
        y = y + bias.double()
    a = F.pad(torch.relu(y * scale.double() + shift.double()), (0, 0, 1, 1, 1, 1))
    h, w = conv.shape[1:3]
    taps = ((u, v) for u in range(3) for v in range(3))
    products = (a[:, u : u + h, v : v + w] @ weight[:, :, u, v].double().T for u, v in taps)
    return torch.tanh(sum(products, start=out_bias.double()))
