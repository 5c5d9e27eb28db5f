"""What the loader's benchmarks measure: one plan, and two that carry it out, the loader and what people have.

The peer is torch's DataLoader with PIL and torchvision, and behind it the generator and the extractor in plain torch
(``eager.py``), with everything that a good user would think of: only the rows that are replaced are generated, in one call a batch;
with a bank their images are not even opened; crop, resize, flip and normalisation of generations are done for all of them at once.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import extractor
import numpy as np
import skimage.data
import torch
from eager import EagerExtractor, EagerGenerator
from engine import CASES, checkpoint
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as tv

import dali_icgan as di
from dali_icgan.augment.plan import RowKeys, replaced
from dali_icgan.data import as_samples
from dali_icgan.engine.extractor import Extractor
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms
from dali_icgan.engine.generator import Generator
from dali_icgan.engine.trunk_folding import fold_trunk
from dali_icgan.ops.instructions import instruction_sets
from dali_icgan.ops.prepare_features import IMAGENET_MEAN, IMAGENET_STD

SEED = 0
PEER = "DataLoader + PIL"
FILES = 320  # made at most
SUFFIXES = (".jpg", ".jpeg", ".png")


def photographs(given: Path | None, scratch: Path, count: int) -> list[tuple[str, int]]:
    """(path, class) of ``count`` images: of a folder that is given, else cut from scikit-image's photographs; repeated where there
    are fewer files."""
    folder = given or make_photographs(scratch, min(count, FILES))
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"--data must hold images ({', '.join(SUFFIXES)}), got none under {folder.name}")
    pairs = [(str(path), i % 10) for i, path in enumerate(files)]
    return list(itertools.islice(itertools.cycle(pairs), count))


def make_photographs(folder: Path, count: int) -> Path:
    """A folder of JPEGs about as large as ImageNet's."""
    random = np.random.default_rng(0)
    images = [
        getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")
    ]
    folder.mkdir(parents=True)
    for i in range(count):
        width, height = int(random.integers(400, 560)), int(random.integers(320, 480))
        image = Image.fromarray(images[i % len(images)]).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:04d}.jpg", quality=92)
    return folder


def bank_of(pairs: list[tuple[str, int]], extractor: Extractor, folder: Path) -> di.FeatureBank:
    """The features of the files, each once."""
    return di.FeatureBank.build(list(dict.fromkeys(pairs)), extractor, folder, progress=False)


def instructions(device: torch.device) -> str | None:
    """What our kernels on a CPU are compiled for.

    Raises:
        SystemExit: they are held to AVX2 and the peer is not.
    """
    if device.type != "cpu":
        return None
    chosen = Forms.of(torch.float32).instructions
    if (chosen == "avx2") != (os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2") and "avx512" in instruction_sets():
        raise SystemExit(
            "the peer must be held to the same instructions: see the third command of benchmarks/engine.py"
        )
    return chosen


def megapixels(pairs: list[tuple[str, int]]) -> float:
    """On average."""
    return float(np.mean([np.prod(Image.open(path).size) for path, _ in pairs])) / 1e6


# ---------------------------------------------------------------------- models


@dataclass(frozen=True)
class Models:
    """A generator and an extractor, each as ours and as the peer's.

    Attributes:
        name: of the generator, one of engine.py's cases.
    """

    name: str
    generator: Generator
    extractor: Extractor
    eager_generator: EagerGenerator
    eager_extractor: EagerExtractor


def load_models(case: str, device: torch.device) -> Models:
    """In float32 on the CPU, float16 on CUDA."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    of_generator = checkpoint(case, CASES[case])
    # The features that it was trained with; a generator with random weights has those of a ResNet-50 with random weights.
    of_extractor = extractor.checkpoint("embedded" if case == "embedded" else "ResNet-50, 224 px")
    eager = [EagerGenerator(fold(of_generator)), EagerExtractor(fold_trunk(of_extractor))]
    for model in eager:
        model.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)
    return Models(
        case,
        Generator(of_generator, device, dtype),
        Extractor(of_extractor, device, dtype, resolution=of_generator.config.resolution),
        *eager,
    )


# ---------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Plan:
    """What happens to each row of epoch 0: the loader's own decisions. Arrays are ``[n]``, boxes ``[n, 4]`` (top, left, height, width).

    Attributes:
        photo_box, made_box: the crop of the row's photograph, and that of a generation in its place.
        z: the row's noise.
        h: the row's feature in the bank; None: the extractor is to find it.
    """

    path: list[str]
    label: Tensor
    replaced: np.ndarray[Any, Any]
    photo_box: np.ndarray[Any, Any]
    made_box: np.ndarray[Any, Any]
    flip: np.ndarray[Any, Any]
    z: Tensor | None = None
    h: Tensor | None = None


def plan_of(pairs: list[tuple[str, int]], augment: di.DAICGAN | None, transform: di.TrainTransform) -> Plan:
    """By the functions that the loader itself decides by; verify() in loader.py sees that it does."""
    n = len(pairs)
    keys = RowKeys(SEED, 0, np.arange(n), np.zeros(n, np.int64))
    path, label = [path for path, _ in pairs], torch.tensor([label for _, label in pairs])
    size_of = {each: Image.open(each).size for each in dict.fromkeys(path)}
    width, height = np.array([size_of[each] for each in path], np.int64).T
    photo = transform.windows(keys, height, width)
    if augment is None:
        return Plan(path, label, np.zeros(n, bool), photo.window, photo.window, photo.flip)
    side = np.full(n, augment.generator.resolution)
    made = transform.windows(keys, side, side)
    h = None if augment.bank is None else augment.gather(augment.bank.rows_for(as_samples(pairs)))
    return Plan(
        path, label, replaced(keys, augment.p_of(0)), photo.window, made.window, photo.flip, augment.noise(keys), h
    )


# ---------------------------------------------------------------------- the peer


class Photographs(torch.utils.data.Dataset[Any]):
    """What people have: PIL, torchvision's resized crop, to tensor, normalise.

    Args:
        shown: rows whose photograph is in the batch.
        seen: rows whose photograph the extractor sees, at ``resolution``.
    """

    def __init__(
        self,
        plan: Plan,
        transform: di.TrainTransform,
        shown: np.ndarray[Any, Any],
        seen: np.ndarray[Any, Any],
        resolution: int,
    ) -> None:
        self.plan, self.transform, self.shown, self.seen, self.resolution = plan, transform, shown, seen, resolution

    def __len__(self) -> int:
        return len(self.plan.path)

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, Tensor | None]:
        if not (self.shown[i] or self.seen[i]):
            return i, None, None
        with Image.open(self.plan.path[i]) as opened:
            image = opened.convert("RGB")
        return i, self._crop(image, i) if self.shown[i] else None, self._square(image) if self.seen[i] else None

    def _crop(self, image: Image.Image, i: int) -> Tensor:
        size = [self.transform.size, self.transform.size]
        image = tv.resized_crop(image, *map(int, self.plan.photo_box[i]), size, antialias=True)
        if self.plan.flip[i]:
            image = tv.horizontal_flip(image)
        pixels = tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)
        return tv.normalize(pixels, self.transform.mean, self.transform.std)

    def _square(self, image: Image.Image) -> Tensor:
        square = tv.center_crop(image, [min(image.size)] * 2)
        return tv.pil_to_tensor(square.resize([self.resolution] * 2, Image.Resampling.BILINEAR))


def collate(items: list[tuple[int, Tensor | None, Tensor | None]]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Row numbers, and the images of those rows that have one."""
    rows, shown, seen = zip(*items, strict=True)
    stacks = [[image for image in images if image is not None] for images in (shown, seen)]
    return torch.tensor(rows), *(default_collate(stack) if stack else None for stack in stacks)


class Peer:
    """``for images, labels in peer``: the batches of the plan, in order.

    Args:
        every_row: without compaction: every photograph is decoded, every row generated, and then one of the two chosen.
        lasting: keep the worker processes from pass to pass.
    """

    def __init__(
        self,
        plan: Plan,
        transform: di.TrainTransform,
        models: Models | None,
        batch_size: int,
        *,
        workers: int,
        device: torch.device,
        every_row: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        lasting: bool = True,
    ) -> None:
        self.plan, self.transform, self.models = plan, transform, models
        self.device, self.memory_format = device, memory_format
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.made = plan.replaced | (every_row and models is not None)
        seen = self.made & (plan.h is None)
        resolution = 0 if models is None else models.generator.resolution
        on_host = replace(plan, z=None, h=None)  # worker processes have no business with a device's tensors
        dataset = Photographs(on_host, transform, ~plan.replaced | every_row, seen, resolution)
        self.loader = torch.utils.data.DataLoader(
            dataset,
            batch_size,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            persistent_workers=lasting and workers > 0,
        )
        # Values in [-1, 1], and bytes, to normalised ones: one factor and one summand a channel.
        mean, std = (torch.tensor(v)[:, None, None] for v in (transform.mean, transform.std))
        self.of_made = [v.to(device, self.dtype) for v in (0.5 / std, (0.5 - mean) / std)]
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        self.of_bytes = [v.to(device) for v in (1 / (255 * std), -mean / std)]

    @torch.no_grad()
    def _batch(self, rows: Tensor, photos: Tensor | None, squares: Tensor | None) -> Tensor:
        plan, numbers, last = self.plan, rows.numpy(), {"memory_format": self.memory_format}
        real = None if photos is None else photos.to(self.device, self.dtype, non_blocking=True)
        making = numbers[self.made[numbers]]
        if not len(making):
            return real.contiguous(**last)
        images = self._generations(making, squares)
        hit = plan.replaced[numbers]
        if real is None:
            return images.contiguous(**last)
        if len(making) == len(rows):
            return torch.where(self._there(hit)[:, None, None, None], images, real).contiguous(**last)
        batch = torch.empty(len(rows), *images.shape[1:], dtype=self.dtype, device=self.device, **last)
        # By numbers: to find a mask's rows on the device would be a wait.
        batch[self._there(np.flatnonzero(hit))] = images
        batch[self._there(np.flatnonzero(~hit))] = real
        return batch

    def _generations(self, rows: np.ndarray[Any, Any], squares: Tensor | None) -> Tensor:
        """Of these rows: cropped, mirrored, normalised."""
        plan, models, where = self.plan, self.models, self._there(rows)
        h = plan.h[where] if plan.h is not None else models.eager_extractor(self._prepared(squares))
        images = models.eager_generator(plan.z[where].to(self.dtype), h.to(self.dtype))
        box, flip = self._there(plan.made_box[rows]).float(), self._there(plan.flip[rows])
        scale, shift = self.of_made
        return resized_crops(images, box, flip, self.transform.size).mul_(scale).add_(shift)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, photos, squares in self.loader:
            yield self._batch(rows, photos, squares), self._there(self.plan.label[rows].numpy())

    def _there(self, small: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(small)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _prepared(self, squares: Tensor) -> Tensor:
        """The extractor's input: normalised, then bicubic."""
        scale, shift = self.of_bytes
        images = squares.to(self.device, non_blocking=True).float().mul_(scale).add_(shift)
        size = (self.models.extractor.input_size,) * 2
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False)
        return images.to(self.dtype)


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
