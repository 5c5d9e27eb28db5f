"""Images to the input of IC-GAN's feature extractor."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dali_icgan._native import native, ref, stream, threads

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MOST_IMAGES = 65535
_LARGEST = 16384
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def prepare_features(
    images: Sequence[Tensor] | Tensor,
    *,
    resolution: int,
    input_size: int = 224,
    align_corners: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Bring images to a model's resolution, then to the extractor's input, as IC-GAN's features are defined.

    Centre crop to the short edge; antialiased bilinear resize to ``resolution`` squared; ``(x - mean) / std``; bicubic resize (a = -0.75,
    no antialias, no clamp) to ``input_size`` squared; cast. An image that is already ``resolution`` squared passes the first resize
    unchanged, and ``resolution == input_size`` makes the second the identity.

    Args:
        images: a list of uint8 ``[h, w, 3]``, each of its own size; or one tensor ``[n, 3, h, w]``, uint8, or float32, float16 or
            bfloat16 in [0, 1]. Any strides; at most 65535 images.
        resolution: of the generative model, 1 to 16384. Features depend on it.
        input_size: of the extractor, 1 to 16384.
        align_corners: of the bicubic step, as in ``torch.nn.functional.interpolate``.
        mean, std: per channel, of values in [0, 1]; std is positive.
        dtype: of the result: float32, float16 or bfloat16; with ``out``, that of ``out``.
        device: where it is computed; by default where the images are (``out`` is, if there are none). Images elsewhere are copied
            there, from the CPU to CUDA in one asynchronous copy.
        out: written if given: ``[n, 3, input_size, input_size]``, channels_last.

    Returns:
        ``[n, 3, input_size, input_size]`` in channels_last memory.

    Raises:
        TypeError: images is neither a list of tensors nor a tensor.
        ValueError: an argument is not as above; the message names it.

    Numerics: uint8 images take the first resize in Pillow's fixed-point arithmetic, rounded to 8 bits after each pass: equal to
        ``PIL.Image.resize(..., BILINEAR)`` bit for bit. All else is float32 in a fixed order, one rounding to ``dtype``. CPU and CUDA
        agree bit for bit, at any number of threads.
    Stream: torch's current stream of the device; no synchronisation. On CUDA it allocates a filter table and one float32 image at
        model resolution for each image.
    Source: Casanova et al. 2021 (arXiv 2109.05070): features of real images are taken at the generator's resolution. Bicubic: Keys
        1981, "Cubic convolution interpolation for digital image processing".
    """
    squares = _centre_squares(images)
    n = len(images)
    _check_range("resolution", resolution, _LARGEST)
    _check_range("input_size", input_size, _LARGEST)
    mean, std = _triple("mean", mean), _triple("std", std)
    if min(std) <= 0:
        raise ValueError(f"std must be positive, got {std}")
    if n > _MOST_IMAGES:
        raise ValueError(f"images must be at most {_MOST_IMAGES}, got {n}")
    if device is None:
        device = squares[0].device if squares else out.device if out is not None else "cpu"
    device = torch.empty(0, device=device).device  # with its index
    out = _result(out, (n, 3, input_size, input_size), dtype, device)
    if n == 0:
        return out

    squares = _moved(squares, device)
    offsets = [0]
    for square in squares:
        offsets.append(offsets[-1] + native().prepare_features_words(square.shape[0], resolution))
    on_cuda = device.type == "cuda"
    views = torch.tensor(
        [(s.data_ptr(), s.shape[0], *s.stride(), offset) for s, offset in zip(squares, offsets, strict=False)],
        pin_memory=on_cuda,
    ).to(device, non_blocking=True)
    uses_kernels = on_cuda or native().cuda == "emulated"
    words = torch.empty(offsets[-1] if uses_kernels else 0, dtype=torch.int32, device=device)
    resized = torch.empty((n if uses_kernels else 0, resolution, resolution, 3), device=device)
    native().prepare_features(
        ref("images", squares[0]),
        ref("views", views),
        ref("words", words),
        ref("resized", resized),
        ref("out", out.permute(0, 2, 3, 1)),
        resolution,
        align_corners,
        mean,
        std,
        threads(),
        stream(out),
    )
    return out


def _centre_squares(images: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """The images as checked ``[edge, edge, 3]`` views of their centres."""
    if isinstance(images, Tensor):
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or 0 in images.shape[2:]
            or images.dtype not in (torch.uint8, *_FLOATS)
        ):
            raise ValueError(
                "images must be a list of uint8 [h, w, 3] or a tensor [n, 3, h, w], uint8, float32, float16 or bfloat16, "
                f"got a tensor of {images.dtype} {list(images.shape)}"
            )
        return [_centre_square(image) for image in images.permute(0, 2, 3, 1).unbind()]
    if not isinstance(images, Sequence) or not all(isinstance(image, Tensor) for image in images):
        raise TypeError(f"images must be a tensor or a list of tensors, got {type(images).__name__}")
    for i, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != torch.uint8:
            raise ValueError(f"images[{i}] must be uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")
    return [_centre_square(image) for image in images]


def _centre_square(image: Tensor) -> Tensor:
    height, width, _ = image.shape
    edge = min(height, width)
    # Half pixels go to the even side, as torchvision's centre crop has it.
    top, left = round((height - edge) / 2), round((width - edge) / 2)
    return image[top : top + edge, left : left + edge]


def _moved(squares: list[Tensor], device: torch.device) -> list[Tensor]:
    """The squares on the device; from the CPU to CUDA packed, pinned and uploaded once."""
    if device.type != "cuda" or any(square.is_cuda for square in squares):
        return [square.to(device) for square in squares]
    packed = torch.empty(sum(square.numel() for square in squares), dtype=squares[0].dtype, pin_memory=True)
    sizes = [square.numel() for square in squares]
    for square, room in zip(squares, packed.split(sizes), strict=True):
        room.view(square.shape).copy_(square)
    uploaded = packed.to(device, non_blocking=True).split(sizes)
    return [room.view(square.shape) for square, room in zip(squares, uploaded, strict=True)]


def _result(out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    dtype = dtype if out is None else out.dtype
    if dtype not in _FLOATS:
        raise ValueError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, got {dtype}")
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)
    if out.shape != shape:
        raise ValueError(f"out must have shape {list(shape)}, got {list(out.shape)}")
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be in channels_last memory, got strides {list(out.stride())}")
    if out.device != device:
        raise ValueError(f"out must be on {device}, got {out.device}")
    return out


def _check_range(name: str, value: int, largest: int) -> None:
    if not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{name} must be an integer in 1 to {largest}, got {value!r}")


def _triple(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != 3:
        raise ValueError(f"{name} must have 3 values, got {len(values)}")
    return tuple(float(value) for value in values)


def prepare_features_reference(
    images: Sequence[Tensor] | Tensor,
    *,
    resolution: int,
    input_size: int = 224,
    align_corners: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """The same in Pillow and plain torch, in float64; shares no code with the kernels."""
    from PIL import Image

    rows = []
    for image in images.permute(0, 2, 3, 1) if isinstance(images, Tensor) else images:
        height, width, _ = image.shape
        edge = min(height, width)
        top, left = round((height - edge) / 2), round((width - edge) / 2)
        square = image[top : top + edge, left : left + edge].cpu()
        size = (resolution, resolution)
        if image.dtype == torch.uint8:
            resized = Image.fromarray(square.numpy()).resize(size, Image.Resampling.BILINEAR)
            pixels = (
                torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
                .view(*size, 3)
                .permute(2, 0, 1)[None]
                .double()
                / 255
            )
        else:
            pixels = square.permute(2, 0, 1)[None].double()
            pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        shift, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
        rows.append(
            functional.interpolate(
                (pixels - shift) / scale, (input_size, input_size), mode="bicubic", align_corners=align_corners
            )
        )
    return torch.cat(rows) if rows else torch.empty(0, 3, input_size, input_size, dtype=torch.float64)
