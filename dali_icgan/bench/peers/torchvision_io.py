"""torch's DataLoader with torchvision's own decoder: tensors all the way, normalised a batch at a time."""

from collections.abc import Iterator
from typing import Any

import torch

from dali_icgan.bench.peers.peer import Batch, How, Opened, normaliser, torch_loader
from dali_icgan.bench.scene import Photos


class Decoded(torch.utils.data.Dataset[Any]):
    """torchvision.io, a crop that copies nothing, an antialiased resize in 8 bits."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int]:
        from torchvision.io import ImageReadMode, decode_image, read_file
        from torchvision.transforms.v2 import functional as tv

        photos, size = self.photos, [self.photos.size] * 2
        image = decode_image(read_file(photos.path[i]), ImageReadMode.RGB)
        image = tv.resized_crop(image, *map(int, photos.box[i]), size, antialias=True)
        return tv.horizontal_flip(image) if photos.flip[i] else image, int(photos.label[i]), i


class TorchvisionIo:
    id = "torchvision.io"
    title = "DataLoader + torchvision.io"
    package = module = "torchvision"
    settings = "torch DataLoader, one worker process a core (0 on one core), persistent; decode_image, transforms v2 on uint8, normalised a batch at a time"
    exact = True
    slow_to_begin = False

    def open(self, photos: Photos, how: How) -> Opened:
        loader, normalise = torch_loader(Decoded(photos), photos, how), normaliser(photos, how)

        def run() -> Iterator[Batch]:
            for images, labels, i in loader:
                yield Batch(photos.row[i.numpy()], normalise(images), labels.to(how.device, non_blocking=True))

        return Opened(run)
