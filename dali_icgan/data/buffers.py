"""Host memory for finished batches, used again once nobody holds the batch.

A fresh batch of 64 images is 38 MB that the kernel must map and clear page by page: on a CPU that costs as much as the resize.
A batch handed out must never change, so a buffer comes back only when the last tensor over it is gone.
"""

import collections
import contextlib
import math
import mmap
import weakref

import numpy as np
import torch


class HostBuffers:
    """Gives out uninitialised CPU tensors; keeps up to ``keep`` free buffers.

    No lock: buffers come back from finalizers, which may run anywhere, and a deque's append and pop are atomic.
    """

    def __init__(self, keep: int) -> None:
        self._free: collections.deque[mmap.mmap] = collections.deque(maxlen=keep)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor of this shape; its memory returns here when the last tensor that shares it is gone."""
        size = math.prod(shape) * dtype.itemsize
        memory = self._take(max(size, 1))
        array = np.frombuffer(memory, np.uint8)
        # The tensor's storage holds the array; when the storage dies, so does the array, and the memory is free again.
        weakref.finalize(array, self._free.append, memory).atexit = False
        return torch.from_numpy(array)[:size].view(dtype).view(shape)

    def _take(self, size: int) -> mmap.mmap:
        with contextlib.suppress(IndexError):
            while True:
                memory = self._free.pop()
                if len(memory) == size:
                    return memory
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= 1 << 21 and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        return memory
