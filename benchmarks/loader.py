"""The loader beside torch's DataLoader with PIL: same files, same boxes, same batches.

    taskset -c 0 python benchmarks/loader.py --data FOLDER            one core
    python benchmarks/loader.py --data FOLDER --out results/loader.jsonl

Verifies first that both deliver the same images, then times them in alternating windows, with the C library's allocator as it is and
with its thresholds raised (a fresh batch is then not mapped anew each time; it helps the DataLoader most). One JSON object a line.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from common import emit, environment, raise_allocator_thresholds, summary, windows
from PIL import Image
from torchvision.transforms.v2 import functional as tv

import dali_icgan as di


def make_photographs(folder: Path, count: int) -> Path:
    """A folder of JPEGs about as large as ImageNet's, cut from scikit-image's photographs."""
    random = np.random.default_rng(0)
    photographs = [
        getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")
    ]
    (folder / "photographs").mkdir(parents=True)
    for i in range(count):
        image = Image.fromarray(photographs[i % len(photographs)])
        width, height = int(random.integers(400, 560)), int(random.integers(320, 480))
        image.resize((width, height), Image.Resampling.BICUBIC).save(
            folder / "photographs" / f"{i:04d}.jpg", quality=92
        )
    return folder


class PillowDataset(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """What people have: PIL, torchvision's resized crop, to tensor, normalise."""

    def __init__(self, plan: dict[str, Any], transform: di.TrainTransform) -> None:
        self.plan, self.transform = plan, transform

    def __len__(self) -> int:
        return len(self.plan["path"])

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.plan["path"][i]) as opened:
            image = opened.convert("RGB")
        size = [self.transform.size, self.transform.size]
        image = tv.resized_crop(image, *map(int, self.plan["box"][i]), size, antialias=True)
        if self.plan["flip"][i]:
            image = tv.horizontal_flip(image)
        pixels = tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)
        return tv.normalize(pixels, self.transform.mean, self.transform.std), int(self.plan["label"][i])


class FixedEpoch:
    """Our loader, always in epoch 0, so that its boxes are the plan's."""

    def __init__(self, loader: di.DataLoader) -> None:
        self.loader = loader

    def __call__(self) -> int:
        self.loader.set_epoch(0)
        return sum(len(labels) for _, labels in self.loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        help="a folder of images, flat or a class a subfolder; none: made from scikit-image's photographs",
    )
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.data or make_photographs(Path(scratch) / "data", arguments.images)
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[
            : arguments.images
        ]
        run([(str(p), 0) for p in files], arguments, threads)


def run(pairs: list[tuple[str, int]], arguments: argparse.Namespace, threads: int) -> None:
    transform = di.TrainTransform(arguments.size)
    common = {
        "seed": 0,
        "transform": transform,
        "num_workers": threads,
        "device": arguments.device,
        "dtype": torch.float32,
    }
    loader = di.DataLoader(pairs, arguments.batch_size, **common)
    plan = loader.replay_batch(0, range(len(pairs))).info
    workers = threads if threads > 1 else 0
    torchs = torch.utils.data.DataLoader(
        PillowDataset(plan, transform), arguments.batch_size, num_workers=workers, persistent_workers=workers > 0
    )
    ours = FixedEpoch(loader)

    def theirs() -> int:
        return sum(len(labels) for _, labels in torchs)

    loader.set_epoch(0)
    std = torch.tensor(transform.std)[:, None, None]
    difference = max(float(((a.cpu() - b) * std).abs().max()) for (a, _), (b, _) in zip(loader, torchs, strict=True))
    assert difference < 2.5 / 255, f"the two loaders deliver different images: {difference * 255:.2f} levels of 255"
    base = {**environment(), "benchmark": "loader", "p": 0, "images": len(pairs), "batch_size": arguments.batch_size}
    base |= {
        "size": arguments.size,
        "data": "given" if arguments.data else "scikit-image",
        "cores": threads,
        "workers": workers,
    }
    base["largest_difference_in_levels"] = round(difference * 255, 3)
    base["megapixels"] = round(float(np.mean([np.prod(Image.open(p).size) for p, _ in pairs])) / 1e6, 4)
    for allocator in ("stock", "raised thresholds"):
        if allocator != "stock":
            raise_allocator_thresholds()
        ours(), theirs()
        rates = windows({"DataLoader + PIL": theirs, "dali_icgan": ours}, arguments.seconds, arguments.rounds)
        ratios = [
            ours_ / theirs_ for ours_, theirs_ in zip(rates["dali_icgan"], rates["DataLoader + PIL"], strict=True)
        ]
        emit(
            {
                **base,
                "allocator": allocator,
                "images_per_s": {name: summary(values) for name, values in rates.items()},
                "ratio": summary(ratios),
            },
            arguments.out,
        )
    loader.close()


if __name__ == "__main__":
    main()
