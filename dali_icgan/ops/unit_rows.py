"""Rows of unit length: features as IC-GAN is conditioned on them."""

import torch
from torch import Tensor

from dali_icgan._native import native, ref, stream, threads


def unit_rows(x: Tensor) -> Tensor:
    """Divide each row by its Euclidean norm: ``x / ||x||_2``, without an epsilon.

    Args:
        x: ``[n, d]``, contiguous, d at least 1; float32, float16 or bfloat16.

    Returns:
        float32 ``[n, d]`` on x's device, rows of norm 1 within 1e-6.

    Raises:
        ValueError: x is not as above; on the CPU also a row that is zero or not finite, which is named. On CUDA, where telling
            would need a wait for the device, such a row is all NaN.

    Numerics: summed in float64 in a fixed order, rounded once; CPU and CUDA agree bit for bit, at any number of threads. Every finite
        row that is not zero works, however large or small. Not differentiable: backward raises.
    Stream: torch's current stream of x's device; no synchronisation, no allocation besides the result.
    Source: Casanova et al. 2021 (arXiv 2109.05070): the extractor's features are L2-normalised before they condition anything.
    """
    return _unit_rows(x)


@torch.library.custom_op("dali_icgan::unit_rows", mutates_args=())
def _unit_rows(x: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    native().unit_rows(ref("x", x), ref("out", out), threads(), stream(x))
    return out


@_unit_rows.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def unit_rows_reference(x: Tensor) -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernel."""
    return x.double() / torch.linalg.vector_norm(x.double(), dim=1, keepdim=True)
