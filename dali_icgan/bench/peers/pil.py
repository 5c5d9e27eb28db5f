"""What people have: torch's DataLoader, PIL, torchvision's transforms v2."""

import io
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image

from dali_icgan.bench.peers.peer import Batch, How, Opened, on_device, torch_loader
from dali_icgan.bench.scene import Photos


class Photographs(torch.utils.data.Dataset[Any]):
    """Files and their crops."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int]:
        return cropped(self.photos.path[i], self.photos, i), int(self.photos.label[i]), i


def cropped(file: str | bytes, photos: Photos, i: int) -> torch.Tensor:
    """``[3, s, s]`` of a file or its bytes: PIL, torchvision's resized crop, flip, to tensor, normalise."""
    from torchvision.transforms.v2 import functional as tv

    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        image = opened.convert("RGB")
    image = tv.resized_crop(image, *map(int, photos.box[i]), [photos.size] * 2, antialias=True)
    if photos.flip[i]:
        image = tv.horizontal_flip(image)
    pixels = tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)
    return tv.normalize(pixels, photos.transform.mean, photos.transform.std)


class Pil:
    id = "pil"
    title = "DataLoader + PIL"
    package = module = "torchvision"
    settings = "torch DataLoader, one worker process a core (0 on one core), persistent; PIL, torchvision transforms v2"
    exact = True
    slow_to_begin = False

    def open(self, photos: Photos, how: How) -> Opened:
        loader = torch_loader(Photographs(photos), photos, how)

        def run() -> Iterator[Batch]:
            for images, labels, i in loader:
                yield on_device(photos.row[i.numpy()], images, labels, how)

        return Opened(run)
