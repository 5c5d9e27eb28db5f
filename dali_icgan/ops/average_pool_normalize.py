"""The end of a feature extractor: the mean over pixels, as rows of unit length."""

import torch
from torch import Tensor

from dali_icgan._native import native, ref, stream, threads


def average_pool_normalize(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``m = mean of x over its pixels``, then ``m / ||m||_2``, without an epsilon.

    Args:
        x: ``[n, h, w, c]``, at least one pixel and channel, float32, float16 or bfloat16, on the CPU also float64. Contiguous, or the
            first channels of a wider tensor that is. At most 65535 images, of fewer than 2^31 pixels.
        out: written if given: float32 ``[n, c]``, contiguous. Shares no memory with x.

    Returns:
        float32 ``[n, c]``, rows of norm 1 within 1e-6; ``out`` if it was given.

    Raises:
        ValueError, TypeError: an argument is not as above; on the CPU also an image whose mean is zero or not finite, which is named
            (``out`` is written all the same). On CUDA, where telling would need a wait for the device, such a row is all NaN.

    Numerics: the mean is summed in float64, pixel after pixel, and rounded to float32; then as :func:`unit_rows`. CPU and CUDA agree
        bit for bit, at any number of threads. Not differentiable: backward raises, or with ``out`` nothing is recorded.
    Stream: torch's current stream of x's device; no synchronisation, no allocation besides the result.
    Source: the pooling of He et al. 2016 (arXiv 1512.03385); features are L2-normalised as in Casanova et al. 2021 (arXiv 2109.05070).
    """
    return _average_pool_normalize(x) if out is None else _into(x, out)


def _into(x: Tensor, out: Tensor) -> Tensor:
    native().average_pool_normalize(ref("x", x), ref("out", out), threads(), stream(x))
    return out


def _empty(x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"x must have 4 dimensions, got {list(x.shape)}")
    return x.new_empty(x.shape[0], x.shape[3], dtype=torch.float32)


@torch.library.custom_op("dali_icgan::average_pool_normalize", mutates_args=())
def _average_pool_normalize(x: Tensor) -> Tensor:
    return _into(x, _empty(x))


@_average_pool_normalize.register_fake
def _(x: Tensor) -> Tensor:
    return _empty(x)


def average_pool_normalize_reference(x: Tensor) -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernels."""
    mean = x.double().mean((1, 2))
    return mean / torch.linalg.vector_norm(mean, dim=1, keepdim=True)
