"""Generation behind any loader, as a good user would write it: one call a batch, of the rows that are replaced; with a bank their images are
not even opened; crop, resize, flip and normalisation of generations are done for all of them at once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.bench.models import Models
from dali_icgan.bench.peers.peer import Batch, How, Opened, Peer
from dali_icgan.bench.scene import Photos, Plan

Generate = Callable[[Tensor, Tensor], Tensor]
_JPEG_QUALITY = 95


def followed(
    peer: Peer, plan: Plan, how: How, models: Models, generate: Generate | None = None, *, every_row: bool = False
) -> Opened:
    """A peer's loader with a generator behind it.

    Args:
        generate: of z and h; None: the eager one.
        every_row: without compaction: every photograph is decoded, every row generated, and then one of the two chosen.
    """
    made = np.ones(len(plan), bool) if every_row else plan.replaced
    shown = np.ones(len(plan), bool) if every_row else ~plan.replaced
    online = plan.h is None
    resolution = models.generator.resolution
    photos = peer.open(plan.photos(shown), how) if shown.any() else None
    squares = peer.open(plan.squares(made, resolution), how) if online else None
    finish = _Generations(plan, models, models.eager_generator if generate is None else generate, how)
    index = Photos.batches(plan.photos(), how.batch_size)
    kind: dict[str, Any] = {"dtype": how.dtype, "device": how.device, "memory_format": how.memory_format}

    @torch.no_grad()
    def run() -> Iterator[Batch]:
        real = None if photos is None else _Rows(iter(photos))
        seen = None if squares is None else _Rows(iter(squares))
        for rows in index:
            row, hit = rows.copy(), made[rows]
            batch = torch.empty(len(rows), 3, plan.transform.size, plan.transform.size, **kind)
            if real is not None:
                at = np.flatnonzero(shown[rows])
                for place, number, images in real.take(at):
                    row[place] = number
                    batch[_there(place, how)] = images
            if every_row:
                hit = plan.replaced[row]
            if made[rows].any():
                making = row[made[rows]]
                prepared = None
                if seen is not None:
                    pieces = seen.take(np.flatnonzero(made[rows]))
                    making = np.concatenate([number for _, number, _ in pieces])
                    prepared = torch.cat([images for *_, images in pieces])
                    if not every_row:
                        row[made[rows]] = making
                images = finish(making, prepared)
                if every_row:
                    batch = torch.where(_there(hit, how)[:, None, None, None], images, batch)
                else:
                    batch[_there(np.flatnonzero(hit), how)] = images
            yield Batch(row, batch, _there(plan.label[row], how))

    def close() -> None:
        for opened in (photos, squares):
            if opened is not None:
                opened.close()

    one_off = [o.one_off_s for o in (photos, squares) if o is not None and o.one_off_s is not None]
    return Opened(run, close, sum(one_off) if one_off else None)


def offline(plan: Plan, models: Models, folder: Path) -> tuple[Photos, float, int]:
    """The generations of the replaced rows written as JPEGs, and photographs to be read in which they stand.

    Returns:
        the photographs; the seconds that generating and writing took; how many were made.
    """
    folder.mkdir(parents=True)
    begun, numbers = time.perf_counter(), np.flatnonzero(plan.replaced)
    z, h = plan.z, plan.h
    assert z is not None
    assert h is not None
    augment = models.augment(1.0, None)
    path = [path for path, _ in plan.files.pairs]
    for rows in np.array_split(numbers, max(1, -(-len(numbers) // 64))):
        made = augment.generate(z[rows], h[rows], None)
        pixels = made.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
        for i, image in zip(rows, pixels.numpy(), strict=True):
            path[i] = str(folder / f"{i:08d}.jpg")
            Image.fromarray(image).save(path[i], quality=_JPEG_QUALITY, subsampling=0)
    took = time.perf_counter() - begun
    box = np.where(plan.replaced[:, None], plan.made_box, plan.box)
    return replace(plan.photos(), path=path, box=box), took, len(numbers)


class _Rows:
    """A peer's batches as one stream of rows, since batches of the plan take different numbers of them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self._batch, self._used = batches, None, 0

    _batch: Batch | None

    def take(self, places: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.int64], Tensor]]:
        """For so many rows: their places, row numbers and images, in pieces."""
        pieces = []
        while len(places):
            if self._batch is None or self._used == len(self._batch.row):
                self._batch, self._used = next(self._batches), 0
            part = slice(self._used, self._used + len(places))
            number, images = self._batch.row[part], self._batch.images[part]
            self._used += len(number)
            pieces.append((places[: len(number)], number, images))
            places = places[len(number) :]
        return pieces


class _Generations:
    """Rows of the plan, cropped, mirrored, normalised."""

    def __init__(self, plan: Plan, models: Models, generate: Generate, how: How) -> None:
        self.plan, self.models, self.generate, self.how = plan, models, generate, how
        # Values in [-1, 1] to normalised ones: one factor and one summand a channel; and from ImageNet's values back to pixels.
        mean, std = (torch.tensor(v)[:, None, None] for v in (plan.transform.mean, plan.transform.std))
        self.scale, self.shift = (v.to(how.device, how.dtype) for v in (0.5 / std, (0.5 - mean) / std))

    def __call__(self, rows: npt.NDArray[np.int64], squares: Tensor | None) -> Tensor:
        plan, how, where = self.plan, self.how, _there(rows, self.how)
        h = plan.h[where] if plan.h is not None else self._features(squares)
        assert plan.z is not None
        images = self.generate(plan.z[where].to(how.dtype), h.to(how.dtype))
        box, flip = _there(plan.made_box[rows], how).float(), _there(plan.flip[rows], how)
        return resized_crops(images, box, flip, plan.transform.size).mul_(self.scale).add_(self.shift)

    def _features(self, squares: Tensor | None) -> Tensor:
        """Of normalised squares, enlarged as the extractor wants them."""
        assert squares is not None
        size = (self.models.extractor.input_size,) * 2
        if squares.shape[2:] != size:
            squares = F.interpolate(squares.float(), size, mode="bicubic", align_corners=False)
        return self.models.eager_extractor(squares.to(self.how.dtype))


def _there(small: npt.NDArray[Any], how: How) -> Tensor:
    """By numbers, never by a mask: to find a mask's rows on the device would be a wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(small))
    return tensor.pin_memory().to(how.device, non_blocking=True) if how.device.type == "cuda" else tensor


def resized_crops(images: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """A crop of each image, resized to ``size`` squared, antialiased, some mirrored: two matrix products for all of them.

    torchvision's resized_crop does one image at a time: more launches than work on a GPU.

    Args:
        images: ``[n, 3, r, r]``.
        box: float ``[n, 4]``.
        flip: bool ``[n]``.
    """
    down = _triangles(box[:, 0], box[:, 2], images.shape[2], size)
    across = _triangles(box[:, 1], box[:, 3], images.shape[3], size)
    across = torch.where(flip[:, None, None], across.flip(1), across)
    down, across = (weights.to(images.dtype)[:, None] for weights in (down, across))
    return down @ images.contiguous() @ across.transpose(-1, -2)


def _triangles(begin: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """``[n, size, pixels]``: how much each output pixel takes of each source pixel."""
    begin, length = begin[:, None, None], length[:, None, None]
    scale = length / size
    centre = begin + scale * (torch.arange(size, device=begin.device)[:, None] + 0.5)
    source = torch.arange(pixels, device=begin.device) + 0.5
    weights = (1 - (source - centre).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights = weights * ((source > begin) & (source < begin + length))
    return weights / weights.sum(2, keepdim=True)
