"""The only importer of the compiled module: describes torch tensors to it."""

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import torch

from dali_icgan.errors import DeviceError

_installed: Any = importlib.import_module("dali_icgan._C")
_active: Any = _installed
_emulating = False


def native() -> Any:
    """The compiled module in use: the installed one, except within :func:`emulated_cuda`."""
    return _active


@contextlib.contextmanager
def emulated_cuda(module: ModuleType) -> Iterator[None]:
    """Within it CPU tensors go through the CUDA kernels of ``module``, a build with DALI_ICGAN_CUDA=emulate. For tests."""
    global _active, _emulating
    if module.cuda != "emulated":
        raise RuntimeError(f"emulation needs a build with DALI_ICGAN_CUDA=emulate, this one has CUDA {module.cuda}")
    previous = _active, _emulating
    _active, _emulating = module, True
    try:
        yield
    finally:
        _active, _emulating = previous


def build_info() -> dict[str, Any]:
    """What this build holds.

    Returns:
        ``cuda``: "built" or "absent"; ``architectures``: such as ["sm_80", "sm_90", "compute_90"] (the last is PTX), empty
        without CUDA; ``compiler`` and ``cuda_compiler``: the first line of their version; ``commit``: of the source, "" if unknown.
    """
    return {
        "cuda": _installed.cuda,
        "architectures": _installed.architectures.split(),
        "compiler": _installed.compiler,
        "cuda_compiler": _installed.cuda_compiler,
        "commit": _installed.commit,
    }


def device_fault(capability: str, architectures: Iterable[str]) -> str | None:
    """Why a GPU of compute capability "7.5" runs none of the code for ``architectures`` (as in :func:`build_info`); None if it does."""
    major, minor = capability.split(".")
    return _installed.device_fault(int(major), int(minor), " ".join(architectures)) or None


def ref(name: str, tensor: torch.Tensor) -> Any:
    """Describe ``tensor`` to the compiled module; the caller keeps it alive until the stream has passed."""
    dtypes = {
        torch.float32: _active.DType.float32,
        torch.float64: _active.DType.float64,
        torch.float16: _active.DType.float16,
        torch.bfloat16: _active.DType.bfloat16,
        torch.uint8: _active.DType.uint8,
        torch.int32: _active.DType.int32,
        torch.int64: _active.DType.int64,
    }
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be one of {', '.join(map(str, dtypes))}, got {tensor.dtype}")
    if not (tensor.is_cpu or tensor.is_cuda):  # a meta tensor's address is nobody's
        raise ValueError(f"{name} must be on a CPU or a CUDA device, got {tensor.device}")
    if tensor.is_cuda and _installed.cuda != "built":
        raise DeviceError(f"{name} is on {tensor.device}, but this build has no CUDA code: {build_info()}")
    device = tensor.device.index if tensor.is_cuda else (0 if _emulating else -1)
    return _active.TensorRef(tensor.data_ptr(), dtypes[tensor.dtype], device, tensor.shape, tensor.stride())


def optional_ref(name: str, tensor: torch.Tensor | None) -> Any:
    """The same of a tensor that may be absent."""
    return None if tensor is None else ref(name, tensor)


def stream(tensor: torch.Tensor) -> int:
    """The address of torch's current stream on the tensor's device; 0 on the CPU."""
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0


def threads() -> int:
    """How many threads a CPU kernel may use: torch's own setting of the calling thread."""
    return torch.get_num_threads()
