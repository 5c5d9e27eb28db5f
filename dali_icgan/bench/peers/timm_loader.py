"""timm's loader: its collation of bytes and its prefetcher, which normalises; given crops in place of those that it would draw."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_icgan.bench.peers.peer import Batch, How, Opened, on_device
from dali_icgan.bench.scene import Photos


class Cropped(torch.utils.data.Dataset[Any]):
    """As timm's datasets with its transforms: PIL, then bytes ``[3, s, s]`` in numpy. The label carries the row as well, since timm
    collates images and targets alone."""

    transform: Any = None  # create_loader sets one, which would draw crops of its own

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        photos = self.photos
        top, left, height, width = map(int, photos.box[i])
        with Image.open(photos.path[i]) as opened:
            image = opened.convert("RGB")
        size = (photos.size, photos.size)
        image = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BILINEAR)
        if photos.flip[i]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.moveaxis(np.array(image), 2, 0), i


class Timm:
    id = "timm"
    title = "timm's loader"
    package = module = "timm"
    settings = "create_loader with its prefetcher, one worker process a core (0 on one core), persistent; PIL crops given by the dataset"
    exact = True
    slow_to_begin = False

    def open(self, photos: Photos, how: How) -> Opened:
        from timm.data import create_loader

        dataset: Any = Cropped(photos)
        loader = create_loader(
            dataset,
            (3, photos.size, photos.size),
            how.batch_size,
            is_training=False,  # in order; crops and flips are the dataset's
            use_prefetcher=True,
            mean=photos.transform.mean,
            std=photos.transform.std,
            num_workers=how.workers,
            pin_memory=how.device.type == "cuda",
            persistent_workers=how.lasting and how.workers > 0,
            device=how.device,
            img_dtype=how.dtype,
        )
        labels = torch.from_numpy(photos.label)

        def run() -> Iterator[Batch]:
            for images, i in loader:
                i = i.cpu()
                yield on_device(photos.row[i.numpy()], images, labels[i], how)

        return Opened(run)
