"""Arrays of other libraries as torch tensors, in place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dali_icgan.errors import DeviceError

_DTYPES = {"u1": torch.uint8, "f2": torch.float16, "f4": torch.float32}
_CUDA_IN_DLPACK = (2, 13)  # kDLCUDA, kDLCUDAManaged
_LEGACY_STREAM = 1


@dataclass(frozen=True)
class Described:
    """What is known of an array before its device is touched.

    Attributes:
        dtype, shape: as torch has them.
        tensor: gives the tensor: the array's own memory, except for NumPy arrays that torch cannot represent.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    tensor: Callable[[], torch.Tensor]


def is_array(value: object) -> bool:
    """Whether :func:`describe` takes it: a torch tensor, a NumPy array, or an object with ``__dlpack__`` or
    ``__cuda_array_interface__``, such as CuPy's, Numba's and JAX's."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return True
    return hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__")


def describe(name: str, array: Any) -> Described:
    """Check an array, and say what it is.

    Args:
        name: of the argument, for messages.
        array: see :func:`is_array`. Of NumPy and of the CUDA array interface uint8, float16 and float32, in native byte order. It is
            only read, so it may be read-only.

    Returns:
        Its description. The tensor is ordered on torch's current stream of the array's device: by the DLPack protocol where there is
        ``__dlpack__``, otherwise behind the interface's ``stream``; the host does not wait.

    Raises:
        TypeError: the dtype is another.
        ValueError: the interface's entries are inconsistent, or torch has no such strides.
        DeviceError: on asking for the tensor: it is on a CUDA device, and torch sees none.
    """
    if isinstance(array, torch.Tensor):
        return Described(array.dtype, tuple(array.shape), lambda: array)
    if isinstance(array, np.ndarray):
        dtype = _dtype(name, array.dtype.str)
        # torch knows neither negative strides nor read-only memory.
        return Described(dtype, array.shape, lambda: torch.from_numpy(np.require(array, requirements=["C", "A", "W"])))
    if hasattr(array, "__cuda_array_interface__"):
        return _describe_interface(name, array)
    tensor = _from_dlpack(name, array)
    return Described(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def _describe_interface(name: str, array: Any) -> Described:
    interface = array.__cuda_array_interface__
    dtype, shape = _dtype(name, interface["typestr"]), tuple(interface["shape"])
    if interface.get("mask") is not None:
        raise ValueError(f"{name} must have no mask, got one")
    strides: Sequence[int] | None = interface.get("strides")
    if strides is not None and (len(strides) != len(shape) or any(s < 0 or s % dtype.itemsize for s in strides)):
        raise ValueError(
            f"{name} must have one stride a dimension, a multiple of {dtype.itemsize} bytes and not negative, got {tuple(strides)} for "
            f"{list(shape)}: make it contiguous first"
        )
    stream: int | None = interface.get("stream")
    if stream == 0:
        raise ValueError(
            f"{name} must name its stream by 1, 2 or a handle, or None, got 0, which the interface forbids"
        )
    if hasattr(array, "__dlpack__"):
        return Described(dtype, shape, lambda: _from_dlpack(name, array))

    def tensor() -> torch.Tensor:
        _require_cuda(name)
        result = torch.as_tensor(_ReadOnly(array, interface))
        if stream is not None:
            behind = (
                torch.cuda.default_stream(result.device)
                if stream == _LEGACY_STREAM
                else torch.cuda.ExternalStream(stream, device=result.device)
            )
            torch.cuda.current_stream(result.device).wait_stream(behind)
        return result

    return Described(dtype, shape, tensor)


class _ReadOnly:
    """An array for torch, which refuses those that are marked read-only."""

    def __init__(self, array: Any, interface: dict[str, Any]) -> None:
        self._array = array  # torch holds this object for as long as the tensor lives
        self.__cuda_array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _from_dlpack(name: str, array: Any) -> torch.Tensor:
    if array.__dlpack_device__()[0] in _CUDA_IN_DLPACK:
        _require_cuda(name)
    return torch.from_dlpack(array)


def _require_cuda(name: str) -> None:
    if not torch.cuda.is_available():
        raise DeviceError(f"{name} is on a CUDA device, and torch sees none")


def _dtype(name: str, typestr: str) -> torch.dtype:
    # The first character is the byte order: "|" where there is none, "=" and "<" the native one here.
    if typestr[1:] not in _DTYPES or typestr[0] == ">":
        raise TypeError(f"{name} must be uint8, float16 or float32, got {typestr!r}")
    return _DTYPES[typestr[1:]]
