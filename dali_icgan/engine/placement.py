"""Where a model runs, and how it is kept apart from the training code around it."""

import contextlib
import logging
from collections.abc import Iterator

import torch

from dali_icgan.engine.forms import bfloat16_instructions
from dali_icgan.errors import DeviceError

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_said: set[str] = set()


def resolve_device(device: torch.device | str | None) -> torch.device:
    """``device``, with its index; None is the current CUDA device, else the CPU.

    Raises:
        ValueError: it is neither a CPU nor a CUDA device.
        DeviceError: there is no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu or cuda, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {chosen}")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"device={str(chosen)!r} needs a CUDA device, and torch sees none")
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= torch.cuda.device_count():
        raise DeviceError(f"device={str(chosen)!r} must be one of {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", index)


def resolve(
    device: torch.device | str | None, dtype: torch.dtype | None, *, bfloat16_on_cpu: bool = False
) -> tuple[torch.device, torch.dtype, torch.dtype]:
    """Device, dtype of the results, dtype of the arithmetic.

    ``device`` None is the current CUDA device, else the CPU; ``dtype`` None is float16 on CUDA and float32 on the CPU. The CPU
    computes half precision in float32 and only stores the results in it; but bfloat16 in bfloat16 where it has kernels for it
    (``forms.bfloat16_instructions``) and the model a plan, ``bfloat16_on_cpu``. docs/numerics.md has the table.
    """
    device = resolve_device(device)
    if dtype is None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
    if device.type == "cuda" or dtype.itemsize >= 4:
        return device, dtype, dtype
    has_plan = dtype == torch.bfloat16 and bfloat16_on_cpu and bfloat16_instructions() is not None
    return device, dtype, torch.bfloat16 if has_plan else torch.float32


def default_microbatch(device: torch.device, resolution: int) -> int:
    """Rows of a generator call in a loader: enough to fill the device, few enough not to make anybody wait."""
    return 64 if device.type == "cuda" else 32 if resolution <= 64 else 4


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no inference mode, and the right device, whatever the caller has set."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        # Not where it is off already, as in a loader's threads: torch empties its cache of cast weights, which is one for all threads,
        # when a thread leaves its outermost autocast. A training step that uses a weight twice would then cast it twice.
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield


def say_once(notice: str) -> None:
    """Warn in the log, once a process for each text."""
    if notice and notice not in _said:
        _said.add(notice)
        logging.getLogger("dali_icgan").warning(notice)
