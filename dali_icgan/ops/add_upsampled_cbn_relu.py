"""The end of a residual block and the beginning of the next: shortcut and bias added, conditional batch norm, ReLU."""

import torch
from torch import Tensor

from dali_icgan._native import native, optional_ref, ref, stream, threads


def add_upsampled_cbn_relu(
    conv: Tensor,
    shortcut: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    with_sum: bool = True,
    out: tuple[Tensor | None, Tensor | None] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """``y = conv + up(shortcut) + bias`` and ``a = relu(scale[n, c] * y + shift[n, c])``; either or both.

    ``up`` doubles height and width (nearest), as a 1x1 convolution on the shortcut's way commutes with that. a is made from the sum
    before it is rounded to the dtype.

    Args:
        conv: ``[n, h, w, c]``, h and w even, float32, float16 or bfloat16, on the CPU also float64. Contiguous, or the first channels
            of a wider tensor that is. At most 65535 images, of fewer than 2^31 pixels.
        shortcut: ``[n, h / 2, w / 2, c]``; or ``[n, h, w, c]``, which is added as it is; or None. Dtype and layout as conv's.
        bias: ``[c]``, float32 (float64 of float64), or None.
        scale, shift: ``[n, c]``, as bias, each row contiguous: columns of a wider table will do, and one row expanded to all images.
            None: a is not made.
        with_sum: False: y is not made.
        out: ``(y, a)``, written if given, in place of ``with_sum``: ``[n, h, w, c]`` of conv's dtype, with a layout as conv's, or
            None for the one that is not wanted. They share no memory with the others.

    Returns:
        ``(y, a)``, None for what is not made.

    Raises:
        ValueError, TypeError: an argument is not as above; the message names it.

    Numerics: float32 (float64 of float64), sums from left to right, product and sum rounded apart, one rounding to the dtype. NaN
        stays NaN. CPU and CUDA agree bit for bit, at any number of threads. Not differentiable: backward raises, or with ``out``
        nothing is recorded.
    Stream: torch's current stream of conv's device; no synchronisation, no allocation besides the results.
    Source: the residual block of Brock et al. 2019 (arXiv 1809.11096), appendix B.
    """
    if out is not None:
        _into(conv, shortcut, bias, scale, shift, *out)
        return out
    with_activation = scale is not None or shift is not None
    made = _add_upsampled_cbn_relu(conv, shortcut, bias, scale, shift, with_sum)
    return made[0] if with_sum else None, made[-1] if with_activation else None


def _into(
    conv: Tensor,
    shortcut: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    y: Tensor | None,
    a: Tensor | None,
) -> None:
    native().add_upsampled_cbn_relu(
        ref("conv", conv),
        optional_ref("shortcut", shortcut),
        optional_ref("bias", bias),
        optional_ref("scale", scale),
        optional_ref("shift", shift),
        optional_ref("y", y),
        optional_ref("a", a),
        threads(),
        stream(conv),
    )


@torch.library.custom_op("dali_icgan::add_upsampled_cbn_relu", mutates_args=())
def _add_upsampled_cbn_relu(
    conv: Tensor,
    shortcut: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    with_sum: bool,
) -> list[Tensor]:
    with_activation = scale is not None or shift is not None
    y, a = (conv.new_empty(conv.shape) if wanted else None for wanted in (with_sum, with_activation))
    _into(conv, shortcut, bias, scale, shift, y, a)
    return [made for made in (y, a) if made is not None]


@_add_upsampled_cbn_relu.register_fake
def _(
    conv: Tensor,
    shortcut: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    with_sum: bool,
) -> list[Tensor]:
    return [conv.new_empty(conv.shape) for _ in range(with_sum + (scale is not None or shift is not None))]


def add_upsampled_cbn_relu_reference(
    conv: Tensor,
    shortcut: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The same in plain torch, in float64; shares no code with the kernels."""
    y = conv.double()
    if shortcut is not None:
        added = shortcut.double()
        if shortcut.shape != conv.shape:
            added = added.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        y = y + added
    if bias is not None:
        y = y + bias.double()
    if scale is None or shift is None:
        return y, None
    return y, torch.relu(y * scale.double()[:, None, None] + shift.double()[:, None, None])
