"""The last step of a batch: every row cut from its source, resized, flipped, normalised and written once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_icgan._native import native, ref, stream, threads


def assemble(
    regions: Sequence[Tensor],
    generated: Tensor | None,
    *,
    source: np.ndarray[Any, Any],
    window: np.ndarray[Any, Any],
    offset: np.ndarray[Any, Any],
    scale: np.ndarray[Any, Any],
    flip: np.ndarray[Any, Any],
    real_mean: Sequence[float],
    real_std: Sequence[float],
    generated_mean: Sequence[float],
    generated_std: Sequence[float],
    out: Tensor,
) -> Tensor:
    """Fill a batch from real regions and generated images: ``out[i] = normalise(flip(resize(window[i] of source[i])))``.

    With ``v`` the window's values in [0, 1] (``u8 / 255`` of a region, ``0.5 * g + 0.5`` of a generated image), an output pixel is the
    sum of ``v`` under a triangle of half-width ``max(scale, 1)`` around its centre, its weights inside the window normalised to 1; then
    ``(sum - mean) / std`` with the mean and std of its kind. Rows, then columns; each axis has its own scale.

    Args:
        regions: uint8 tensors ``[h_j, w_j, 3]`` on out's device, each of its own size; a row's pixels are contiguous, rows may be apart.
            They are read where they are.
        generated: float32, float16 or bfloat16 ``[m, 3, h, w]`` in [-1, 1], contiguous or channels_last, on out's device; or None.
        source: int64 ``[n]``. ``j >= 0``: ``regions[j]``; ``j < 0``: ``generated[-1 - j]``.
        window: int32 ``[n, 4]``, top, left, height and width inside the source; nothing outside it is read.
        offset, scale: float64 ``[n, 2]``, y and x, in pixels of the window: output pixel i has its centre at
            ``offset + scale * (i + 0.5)``, which must lie in the window. Offset 0 and scale ``height / size`` resize the window to the
            output; other values resize an image of which the window is a part, and crop.
        flip: bool ``[n]``: mirror the output horizontally.
        real_mean, real_std, generated_mean, generated_std: per channel, of values in [0, 1]; std is positive.
        out: ``[n, 3, h, w]``, float32, float16 or bfloat16, contiguous or channels_last, on the CPU or CUDA; at most 65535 images, of
            1 to 65535 pixels a side. Shares no memory with the sources.

    Returns:
        ``out``.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it, and the row.

    Numerics: float32 sums in source order; before the one rounding to out's dtype within 1e-6 of exact arithmetic in units of [0, 1]
        (6e-7 is the largest seen, over 10,000 taps). CPU and CUDA agree bit for bit, at any number of threads and any place in the
        batch. Generated values that are not finite spread to the output pixels whose taps meet them.
    Stream: torch's current stream of out's device; no synchronisation. On CUDA the table of rows goes up in one pinned copy of 72 bytes
        a row, and the sources must stay as they are until the stream has passed.
    Source: the filter is that of ``torch.nn.functional.interpolate(mode="bilinear", antialias=True)``, as torchvision resizes floats.
    """
    for j, region in enumerate(regions):
        if not isinstance(region, Tensor) or region.dtype != torch.uint8 or region.ndim != 3:
            got = f"{region.dtype} {list(region.shape)}" if isinstance(region, Tensor) else type(region).__name__
            raise TypeError(f"regions[{j}] must be a uint8 tensor [height, width, 3], got {got}")
        if region.device != out.device:
            raise ValueError(f"regions[{j}] must be on {out.device}, got {region.device}")
    table = np.array([(r.data_ptr(), *r.shape, *r.stride()) for r in regions], dtype=np.int64).reshape(-1, 7)
    library, to = native(), ref("out", out)
    block = None if generated is None else ref("generated", generated)
    rows = torch.empty(out.shape[0], library.assemble_row_bytes, dtype=torch.uint8, pin_memory=out.is_cuda)
    library.assemble_rows(table, block, source, window, offset, scale, flip, to, ref("rows", rows))
    rows = rows.to(out.device, non_blocking=True)
    means_and_stds = [list(map(float, v)) for v in (real_mean, real_std, generated_mean, generated_std)]
    library.assemble(ref("rows", rows), block, *means_and_stds, to, threads(), stream(out))
    return out


def assemble_reference(
    regions: Sequence[Tensor],
    generated: Tensor | None,
    *,
    source: np.ndarray[Any, Any],
    window: np.ndarray[Any, Any],
    offset: np.ndarray[Any, Any],
    scale: np.ndarray[Any, Any],
    flip: np.ndarray[Any, Any],
    real_mean: Sequence[float],
    real_std: Sequence[float],
    generated_mean: Sequence[float],
    generated_std: Sequence[float],
    size: tuple[int, int],
) -> np.ndarray[Any, Any]:
    """The same in plain numpy, in float64: ``[n, 3, *size]``; shares no code with the kernels."""
    out = np.empty((len(source), 3, *size))
    for i, j in enumerate(source):
        if j >= 0:
            image, mean, std = regions[j].cpu().numpy() / 255, real_mean, real_std
        else:
            assert generated is not None
            image = generated[-1 - j].permute(1, 2, 0).cpu().double().numpy() * 0.5 + 0.5
            mean, std = generated_mean, generated_std
        top, left, height, width = window[i]
        values = image[top : top + height, left : left + width]
        down = _triangle_matrix(offset[i, 0], scale[i, 0], height, size[0])
        across = _triangle_matrix(offset[i, 1], scale[i, 1], width, size[1])
        resized = np.einsum("yh,hwc,xw->cyx", down, values, across, optimize=True)
        resized = resized[:, :, ::-1] if flip[i] else resized
        out[i] = (resized - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    return out


def _triangle_matrix(offset: float, scale: float, length: int, size: int) -> np.ndarray[Any, Any]:
    """``[size, length]``: how much each output pixel takes of each source pixel."""
    centres = offset + scale * (np.arange(size) + 0.5)
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)
