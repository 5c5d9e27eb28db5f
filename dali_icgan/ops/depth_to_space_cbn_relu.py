"""What follows an upsampling convolution: depth to space, conditional batch norm, ReLU."""

import torch
from torch import Tensor

from dali_icgan._native import native, ref, stream, threads


def depth_to_space_cbn_relu(z: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``out[n, 2i + p, 2j + q, o] = relu(scale[n, o] * z[n, i + p, j + q, (p, q, o)] + shift[n, o])`` for p and q in {0, 1}.

    A 3x3 convolution of a nearest-upsampled image is one 2x2 convolution of the small image, with padding 1 and the outputs of the
    four phases (p, q) side by side. Of its ``(h + 1) x (w + 1)`` pixels each phase takes ``h x w``; the others are not read.

    Args:
        z: ``[n, h + 1, w + 1, 4 c]``, float32, float16 or bfloat16, on the CPU also float64. Contiguous, or the first channels of a
            wider tensor that is. At most 65535 images, of fewer than 2^31 pixels.
        scale, shift: ``[n, c]``, float32 (float64 of float64), each row contiguous: columns of a wider table will do, and one
            row expanded to all images.
        out: written if given: ``[n, 2h, 2w, c]`` of z's dtype, with a layout as z's. Shares no memory with the others.

    Returns:
        ``[n, 2h, 2w, c]``, ``out`` if it was given.

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.

    Numerics: float32 (float64 of float64), product and sum rounded apart, then one rounding to the dtype. NaN stays NaN. CPU and CUDA
        agree bit for bit, at any number of threads. Not differentiable: backward raises, or with ``out`` nothing is recorded.
    Stream: torch's current stream of z's device; no synchronisation, no allocation besides the result.
    Source: sub-pixel form of upsampling convolutions: Shi et al. 2016 (arXiv 1609.07009); conditional batch norm: de Vries et al.
        2017 (arXiv 1707.00683).
    """
    return _depth_to_space_cbn_relu(z, scale, shift) if out is None else _into(z, scale, shift, out)


def _into(z: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    native().depth_to_space_cbn_relu(
        ref("z", z), ref("scale", scale), ref("shift", shift), ref("out", out), threads(), stream(z)
    )
    return out


def _empty(z: Tensor) -> Tensor:
    if z.ndim != 4 or not z.shape[1] or not z.shape[2]:
        raise ValueError(f"z must be [n, h + 1, w + 1, 4 c], got {list(z.shape)}")
    n, rows, columns, channels = z.shape
    return z.new_empty(n, 2 * (rows - 1), 2 * (columns - 1), channels // 4)


@torch.library.custom_op("dali_icgan::depth_to_space_cbn_relu", mutates_args=())
def _depth_to_space_cbn_relu(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _into(z, scale, shift, _empty(z))


@_depth_to_space_cbn_relu.register_fake
def _(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _empty(z)


def depth_to_space_cbn_relu_reference(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernels."""
    n, rows, columns, channels = z.shape
    phases = z.double().unflatten(3, (2, 2, channels // 4))
    out = torch.empty(n, 2 * (rows - 1), 2 * (columns - 1), channels // 4, dtype=torch.float64, device=z.device)
    for p in range(2):
        for q in range(2):
            out[:, p::2, q::2] = phases[:, p : rows - 1 + p, q : columns - 1 + q, p, q]
    return torch.relu(out * scale.double()[:, None, None] + shift.double()[:, None, None])
