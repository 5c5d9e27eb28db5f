"""What a standalone call of the operator is given: images of any form, keys, labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.augment.arrays import describe, is_array

# Tensors, or arrays of another library: see dali_icgan.augment.arrays.
Images = Sequence[Any] | torch.Tensor | Any


class GivenImages:
    """The images of a standalone call, whatever their form.

    Attributes:
        floats: ``[n, 3, h, w]`` in [0, 1], where they came as such.
        regions: uint8 HWC, one a row; empty for floats.
    """

    def __init__(self, images: Images) -> None:
        self.floats: torch.Tensor | None = None
        self.regions: list[torch.Tensor] = []
        if is_array(images):
            given = describe("images", images)
            if len(given.shape) != 4 or given.shape[1] != 3:
                raise ValueError(f"images must be [n, 3, h, w], got {list(given.shape)}")
            if given.dtype not in (torch.uint8, torch.float32, torch.float16, torch.bfloat16):
                raise TypeError(f"images must be uint8, float32, float16 or bfloat16, got {given.dtype}")
            tensor = given.tensor().detach()
            self.device = tensor.device
            if tensor.dtype == torch.uint8:
                self.regions = list(tensor.permute(0, 2, 3, 1).contiguous())
                return
            self.floats = tensor
            # On CUDA looking would be a wait for the device.
            if tensor.numel() and tensor.device.type == "cpu" and not 0 <= tensor.min() <= tensor.max() <= 1:
                raise ValueError(
                    f"images must be in [0, 1] and not normalised yet, got {tensor.min():.4g} to {tensor.max():.4g}"
                )
            return
        listed = []
        for i, image in enumerate(images):
            each = describe(f"images[{i}]", image) if is_array(image) else None
            if each is None or each.dtype != torch.uint8 or len(each.shape) != 3 or each.shape[2] != 3:
                got = type(image).__name__ if each is None else f"{each.dtype} {list(each.shape)}"
                raise TypeError(f"images[{i}] must be a uint8 tensor [h, w, 3], got {got}")
            listed.append(each)
        regions = [each.tensor() for each in listed]
        # Rows may be apart, a row's pixels not.
        self.regions = [image if image.stride()[1:] == (3, 1) else image.contiguous() for image in regions]
        self.device = self.regions[0].device if self.regions else torch.device("cpu")

    def __len__(self) -> int:
        return len(self.regions) if self.floats is None else len(self.floats)

    def take(self, rows: npt.NDArray[np.int64]) -> Sequence[torch.Tensor] | torch.Tensor:
        if self.floats is None:
            return [self.regions[i] for i in rows]
        return self.floats[upload(rows, self.floats.device)]

    def sizes(self) -> npt.NDArray[np.int64]:
        """``[n, 2]`` height and width."""
        if self.floats is None:
            return np.array([image.shape[:2] for image in self.regions], np.int64).reshape(-1, 2)
        return np.tile(np.array(self.floats.shape[2:], np.int64), (len(self), 1))


def upload(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy of ``array`` on the device; by way of pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(array.copy())
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def split_keys(keys: Any, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """index and repeat, int64 ``[n]`` each, of keys ``[n]`` or ``[n, 2]``."""
    array = keys.detach().cpu().numpy() if isinstance(keys, torch.Tensor) else np.asarray(keys)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"keys must be integers, got {array.dtype}")
    array = array.astype(np.int64)
    if array.shape not in ((n,), (n, 2)):
        raise ValueError(f"keys must be [{n}] or [{n}, 2] (index, repeat), got {list(array.shape)}")
    if array.size and array.min() < 0:
        raise ValueError(f"keys must not be negative, got {array.min()}")
    if array.ndim == 1:
        return array, np.zeros_like(array)
    return np.ascontiguousarray(array[:, 0]), np.ascontiguousarray(array[:, 1])


def checked_labels(labels: Any, n: int) -> npt.NDArray[np.int64]:
    """int64 ``[n]``."""
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {array.dtype}")
    if array.shape != (n,):
        raise ValueError(f"labels must have shape [{n}], got {list(array.shape)}")
    return array.astype(np.int64)
