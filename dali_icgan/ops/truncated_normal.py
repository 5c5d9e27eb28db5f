"""The generator's noise: normal, truncated in one of three ways, equal bits on CPU and CUDA."""

import math

import numpy as np
import torch
from torch import Tensor

from dali_icgan._native import native, ref
from dali_icgan._native import stream as cuda_stream
from dali_icgan.ops.uniform import Keys, Stream, bits_reference, check_range, key_fields

MODES = ("cut", "std", "scaled")


def truncated_normal(
    keys: Keys,
    count: int,
    *,
    truncation: float,
    mode: str = "cut",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Noise per row, with truncation ``t`` meant in one of the three ways that are in use.

    ==========  ==================================================
    ``cut``     N(0, 1) conditioned on ``|z| <= 2 t``
    ``std``     ``t`` N(0, 1)
    ``scaled``  ``t`` (N(0, 1) conditioned on ``|z| <= 2``)
    ==========  ==================================================

    Args:
        keys: n rows; draws from :attr:`Stream.NOISE`.
        count: numbers per row. A row's first numbers do not depend on it.
        truncation: t, positive.
        mode: "cut", "std" or "scaled".
        device: where the result is made.
        dtype: float32, float16, bfloat16 or float64.

    Returns:
        ``[n, count]``, contiguous.

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.

    Numerics: the inverse CDF in float64 (absolute error below 1e-12) of a uniform number of 52 bits, rounded to float32, then to
        dtype. Exact: made of operations that IEEE 754 defines, so CPU and CUDA agree bit for bit. No value exceeds the cut by
        more than dtype's rounding of the cut.
    Stream: torch's current stream of ``device``; keys are uploaded without a wait.
    Source: Wichura, "Algorithm AS 241", Applied Statistics 37 (1988); the truncations: Brock et al. 2019 (arXiv 1809.11096),
        Casanova et al. 2021 (arXiv 2109.05070) and their samplers.
    """
    out = torch.empty(len(keys.index), check_range("count", count, 32), device=device, dtype=dtype)
    return truncated_normal_(out, keys, truncation=truncation, mode=mode)


def truncated_normal_(out: Tensor, keys: Keys, *, truncation: float, mode: str = "cut") -> Tensor:
    """Fill ``out``, ``[n, count]`` and contiguous, as :func:`truncated_normal` does; returns it."""
    bound, factor = _bound_and_factor(truncation, mode)
    seed, epoch, index, repeat, view = key_fields(keys)
    native().check_row_keys(index, repeat)
    rows = torch.from_numpy(np.stack([index, repeat])).to(out.device, non_blocking=True)
    native().truncated_normal(
        seed,
        epoch,
        ref("index", rows[0]),
        ref("repeat", rows[1]),
        view,
        Stream.NOISE,
        ref("out", out),
        bound,
        factor,
        cuda_stream(out),
    )
    return out


def _bound_and_factor(truncation: float, mode: str) -> tuple[float, float]:
    try:
        t = float(truncation)
    except (TypeError, ValueError):
        raise TypeError(f"truncation must be a number, got {truncation!r}") from None
    if not 0 < t < math.inf:
        raise ValueError(f"truncation must be positive and finite, got {t}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    return {"cut": (2 * t, 1.0), "std": (math.inf, t), "scaled": (2.0, t)}[mode]


def truncated_normal_reference(keys: Keys, count: int, *, truncation: float, mode: str = "cut") -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernel."""
    bound, factor = {"cut": (2 * truncation, 1.0), "std": (math.inf, truncation), "scaled": (2.0, truncation)}[mode]
    u = torch.from_numpy(((bits_reference(keys, Stream.NOISE, count) >> 12) + 0.5) * 2.0**-52)
    below = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    tail = below + torch.minimum(u, 1 - u) * (1 - 2 * below)  # the nearer one, which keeps its digits
    return factor * torch.special.ndtri(tail).abs() * torch.sign(u - 0.5)
