"""assemble beside torchvision's resize and normalise: the same crops in memory, the same batch, one process.

    taskset -c 0 python benchmarks/assemble.py            one core
    python benchmarks/assemble.py --device cuda --out results/assemble.jsonl

Verifies first that each peer makes the same batch, then times them in alternating windows. One JSON object a line. Bytes are those that
must move: a window once, an output once; their rate is also given as a share of what a copy reaches in the same run.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import emit, environment, summary, windows
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from dali_icgan.ops.assemble import assemble, assemble_reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISE = {"real_mean": MEAN, "real_std": STD, "generated_mean": MEAN, "generated_std": STD}
# height and width of the crop, of a photograph or of a generated image of 256 pixels; what the batch is made of
CASES = {
    "mean photo crop": (350, 330, "photo", torch.float32, torch.contiguous_format),
    "mean photo crop, channels_last": (350, 330, "photo", torch.float32, torch.channels_last),
    "mean photo crop, half": (350, 330, "photo", torch.float16, torch.channels_last),
    "small photo crop": (170, 150, "photo", torch.float32, torch.contiguous_format),
    "large photo crop": (1000, 900, "photo", torch.float32, torch.contiguous_format),
    "mean generated crop": (169, 169, "generated", torch.float32, torch.contiguous_format),
}
# Largest difference from the float64 reference, in units of the normalised batch.
ALLOWED = {torch.float32: 2e-4, torch.float16: 3e-3}
ALLOWED_UINT8 = 0.03  # it rounds to 8 bits before it normalises


def peers(case: str, batch: int, size: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """What fills the batch, by name, verified."""
    height, width, kind, dtype, layout = CASES[case]
    random = torch.Generator().manual_seed(0)
    out = torch.empty(batch, 3, size, size, dtype=dtype, device=device).contiguous(memory_format=layout)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    regions, generated, corner = [], None, (0, 0)
    if kind == "photo":
        shape = (height, width, 3)
        regions = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).to(device) for _ in range(batch)]
    else:
        generated, corner = (torch.rand(batch, 3, 256, 256, generator=random) * 2 - 1).to(device), (40, 50)
    window = np.tile(np.array([*corner, height, width], dtype=np.int32), (batch, 1))
    rows = {
        "source": np.arange(batch) if generated is None else -1 - np.arange(batch),
        "window": window,
        "offset": np.zeros((batch, 2)),
        "scale": window[:, 2:] / np.float64(size),
        "flip": np.arange(batch) % 2 == 1,
    }

    def resized(image: Tensor, i: int) -> Tensor:
        image = torchvision.resized_crop(image, *map(int, window[i]), [size, size], antialias=True)
        return torchvision.horizontal_flip(image) if rows["flip"][i] else image

    def ours() -> Tensor:
        return assemble(regions, generated, **rows, **NORMALISE, out=out)

    def torch_float() -> Tensor:
        for i in range(batch):
            image = regions[i].permute(2, 0, 1) / 255.0 if generated is None else generated[i] * 0.5 + 0.5
            out[i] = (resized(image, i) - mean) / std
        return out

    def torch_uint8() -> Tensor:
        for i, region in enumerate(regions):
            out[i] = resized(region.permute(2, 0, 1), i)
        return out.div_(255).sub_(mean).div_(std)

    every = {"assemble": ours, "torchvision, float": torch_float}
    if generated is None and dtype == torch.float32:
        every["torchvision, uint8"] = torch_uint8
    first = {name: array[:2] for name, array in rows.items()}
    want = assemble_reference(regions, generated, **first, **NORMALISE, size=(size, size))
    for name, run in every.items():
        difference = np.abs(run()[:2].double().cpu().numpy() - want).max()
        allowed = ALLOWED_UINT8 if run is torch_uint8 else ALLOWED[dtype]
        assert difference < allowed, (
            f"{name} is {difference:g} from the reference in {case}, at most {allowed} is right"
        )
    return every


def counted(run: Callable[[], Tensor], batch: int, device: str) -> Callable[[], int]:
    """Does some batches and says how many images that was."""

    def work() -> int:
        if device == "cpu":
            run()
            return batch
        for _ in range(10):
            run()
        torch.cuda.synchronize()
        return 10 * batch

    return work


def copy_gigabytes_per_second(device: str) -> float:
    """Read and written by a copy that no cache holds."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    copies = {"copy": counted(lambda: target.copy_(source), 1, device)}
    return 2 * source.nbytes * statistics.median(windows(copies, 0.2, 5)["copy"]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    copy = copy_gigabytes_per_second(arguments.device)
    for case, (height, width, kind, dtype, _) in CASES.items():
        runs = peers(case, arguments.batch_size, arguments.size, arguments.device)
        contestants = {name: counted(run, arguments.batch_size, arguments.device) for name, run in runs.items()}
        rates = windows(contestants, arguments.seconds, arguments.rounds)
        moved = 3 * (height * width * (1 if kind == "photo" else 4) + arguments.size**2 * dtype.itemsize)
        median = {name: statistics.median(values) for name, values in rates.items()}
        emit(
            {
                **environment(),
                "benchmark": "assemble",
                "case": case,
                "crop": [height, width],
                "size": arguments.size,
                "batch_size": arguments.batch_size,
                "dtype": str(dtype).removeprefix("torch."),
                "device": arguments.device,
                "images_per_s": {name: summary(values) for name, values in rates.items()},
                "ratio": {
                    f"to {name}": summary([a / b for a, b in zip(rates["assemble"], values, strict=True)])
                    for name, values in rates.items()
                    if name != "assemble"
                },
                "gb_per_s": {name: round(moved * value / 1e9, 3) for name, value in median.items()},
                "copy_gb_per_s": round(copy, 2),
                "share_of_copy": round(moved * median["assemble"] / 1e9 / copy, 3),
            },
            arguments.out,
        )


if __name__ == "__main__":
    main()
