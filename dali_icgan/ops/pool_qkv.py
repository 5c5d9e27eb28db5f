"""The arguments of attention from one convolution's output: queries, and pooled keys and values."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan._native import native, ref, stream, threads


def pool_qkv(
    qkv: Tensor,
    d: int,
    *,
    key_width: int | None = None,
    value_width: int | None = None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``theta | phi | g``; queries are theta, keys and values the 2x2 max-pooled phi and g.

    Args:
        qkv: ``[n, h, w, d + d + e]``, h and w even, float32, float16 or bfloat16, on the CPU also float64. Contiguous, or the first
            channels of a wider tensor that is. At most 65535 images, of fewer than 2^31 pixels.
        d: columns of queries and keys; e is what is left for values.
        key_width, value_width: columns of the rows of q and k, and of v, for a library that wants more than d and e; those beyond
            are zeros. By default d and e.
        out: ``(q, k, v)``, written if given, of qkv's dtype and contiguous; their widths count.

    Returns:
        q ``[n, h * w, key_width]``, k ``[n, h * w / 4, key_width]``, v ``[n, h * w / 4, value_width]``.

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.

    Numerics: exact; a NaN wins a maximum. Not differentiable: backward raises, or with ``out`` nothing is recorded.
    Stream: torch's current stream of qkv's device; no synchronisation, no allocation besides the results.
    Source: attention as in Brock et al. 2019 (arXiv 1809.11096), after Zhang et al. 2019 (arXiv 1805.08318).
    """
    if out is not None:
        _into(qkv, d, *out)
        return out
    values = qkv.shape[-1] - 2 * d if qkv.ndim else 0
    q, k, v = _pool_qkv(qkv, d, d if key_width is None else key_width, values if value_width is None else value_width)
    return q, k, v


def _into(qkv: Tensor, d: int, q: Tensor, k: Tensor, v: Tensor) -> None:
    native().pool_qkv(ref("qkv", qkv), d, ref("q", q), ref("k", k), ref("v", v), threads(), stream(qkv))


def _empty(qkv: Tensor, d: int, key_width: int, value_width: int) -> list[Tensor]:
    if qkv.ndim != 4:
        raise ValueError(f"qkv must have 4 dimensions, got {list(qkv.shape)}")
    n, h, w, c = qkv.shape
    if not 0 <= 2 * d <= c:
        raise ValueError(f"d must be in [0, {c // 2}] for {c} channels, got {d}")
    if key_width < d:
        raise ValueError(f"key_width must be at least {d}, got {key_width}")
    if value_width < c - 2 * d:
        raise ValueError(f"value_width must be at least {c - 2 * d}, got {value_width}")
    pooled = h * w // 4
    return [qkv.new_empty(n, *size) for size in ((h * w, key_width), (pooled, key_width), (pooled, value_width))]


@torch.library.custom_op("dali_icgan::pool_qkv", mutates_args=())
def _pool_qkv(qkv: Tensor, d: int, key_width: int, value_width: int) -> list[Tensor]:
    made = _empty(qkv, d, key_width, value_width)
    _into(qkv, d, *made)
    return made


@_pool_qkv.register_fake
def _(qkv: Tensor, d: int, key_width: int, value_width: int) -> list[Tensor]:
    return _empty(qkv, d, key_width, value_width)


def pool_qkv_reference(
    qkv: Tensor, d: int, key_width: int | None = None, value_width: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch, in float64; shares no code with the kernels."""
    n, h, w, c = qkv.shape
    theta, phi, g = qkv.double().split((d, d, c - 2 * d), dim=3)

    def rows(x: Tensor, width: int | None) -> Tensor:
        return F.pad(x.flatten(1, 2), (0, 0 if width is None else width - x.shape[3]))

    def pooled(x: Tensor) -> Tensor:
        return x.reshape(n, h // 2, 2, w // 2, 2, x.shape[3]).amax((2, 4))

    return rows(theta, key_width), rows(pooled(phi), key_width), rows(pooled(g), value_width)
