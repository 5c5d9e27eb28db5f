"""What a contestant is: it opens photographs with their boxes, and delivers finished batches."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dali_icgan.bench.record import package_version
from dali_icgan.bench.scene import Photos


class Batch(NamedTuple):
    """What everybody delivers.

    Attributes:
        row: int64 ``[n]``, which rows of the plan, in the batch's order.
        images: ``[n, 3, s, s]``, normalised, float32 on the CPU, float16 on CUDA, on the device.
        labels: int64 ``[n]``, on the device.
    """

    row: npt.NDArray[np.int64]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class How:
    """How a contestant is to work.

    Attributes:
        threads: cores that it may use.
        workers: its worker processes, where it has such.
        scratch: a folder for what it writes.
        lasting: keep worker processes from pass to pass.
    """

    batch_size: int
    threads: int
    workers: int
    device: torch.device
    scratch: Path
    memory_format: torch.memory_format = torch.contiguous_format
    lasting: bool = True

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.device.type == "cuda" else torch.float32


class Opened:
    """Ready to deliver: every ``iter`` is a pass over all photographs; nothing is prepared between passes.

    Args:
        run: begins a pass.
        close: ends what it holds.
        one_off_s: seconds that writing a format of its own took.
    """

    def __init__(
        self,
        run: Callable[[], Iterator[Batch]],
        close: Callable[[], None] = lambda: None,
        one_off_s: float | None = None,
    ) -> None:
        self._run, self._close, self.one_off_s = run, close, one_off_s

    def __iter__(self) -> Iterator[Batch]:
        return self._run()

    def close(self) -> None:
        self._close()


class Peer(Protocol):
    """A loader to be measured.

    Attributes:
        id, title: for records and for people.
        package, module: what it needs: its name in the registry, and what is imported; "" for nothing beyond torch.
        settings: its best known settings, in one line.
        exact: whether its decoder and its resize are Pillow's or as exact; others are held to a mean.
    """

    id: str
    title: str
    package: str
    module: str
    settings: str
    exact: bool
    slow_to_begin: bool  # it compiles for longer than a quick run may take

    def open(self, photos: Photos, how: How) -> Opened:
        """Ready to deliver ``photos`` in full batches but for the last one, in any order of batches."""
        ...


def why_not(peer: Peer) -> str | None:
    """Why a peer cannot run here; None where it can."""
    try:
        importlib.import_module(peer.module)
    except (ImportError, OSError, RuntimeError) as error:
        said = " ".join(str(error).split())
        return f"{peer.module} cannot be imported: {said[:200]}"
    probe: Callable[[], str | None] | None = getattr(peer, "probe", None)
    return probe() if probe is not None else None


def version_of(peer: Peer) -> str | None:
    """Of its package."""
    return package_version(peer.package)


def normaliser(photos: Photos, how: How) -> Callable[[Tensor], Tensor]:
    """uint8 ``[n, 3, s, s]`` to the batch, on the device: one factor and one summand a channel."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (photos.transform.mean, photos.transform.std))
    scale, shift = (v.to(how.device) for v in (1 / (255 * std), -mean / std))

    def normalise(images: Tensor) -> Tensor:
        floats = images.to(how.device, non_blocking=True).to(torch.float32).mul_(scale).add_(shift)
        return floats.to(how.dtype).contiguous(memory_format=how.memory_format)

    return normalise


def on_device(rows: npt.NDArray[np.int64], images: Tensor, labels: Tensor, how: How) -> Batch:
    """A batch that is finished but for its place."""
    images = images.to(how.device, how.dtype, non_blocking=True).contiguous(memory_format=how.memory_format)
    return Batch(rows, images, labels.to(how.device, non_blocking=True))


def torch_loader(dataset: Any, photos: Photos, how: How, **options: Any) -> torch.utils.data.DataLoader[Any]:
    """torch's DataLoader at its best: workers that last, pinned memory where there is a GPU."""
    return torch.utils.data.DataLoader(
        dataset,
        how.batch_size,
        num_workers=how.workers,
        pin_memory=how.device.type == "cuda",
        persistent_workers=how.lasting and how.workers > 0,
        **options,
    )
