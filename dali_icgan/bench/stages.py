"""Each stage of the loader alone, one thread, on the same rows: what the arithmetic of a batch takes."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dali_icgan.augment import TrainTransform
from dali_icgan.augment.operator import finish
from dali_icgan.augment.plan import RowKeys
from dali_icgan.augment.transform import Windows
from dali_icgan.bench.models import Models
from dali_icgan.bench.record import on_cores, rounded
from dali_icgan.bench.scene import SEED, Files
from dali_icgan.bench.training import Training
from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.data.read import Encoded, Reader


def stages(
    files: Files, models: Models, device: torch.device, size: int, batch_size: int, seconds: float, classes: int
) -> list[dict[str, Any]]:
    """A "stage" record of each: seconds for one image that takes the stage, on one core.

    Args:
        files: at least a batch.
        size: of the crops.
        seconds: that each is repeated for.
    """
    with on_cores(1):
        return _stages(files, models, device, size, batch_size, seconds, classes)


def _stages(
    files: Files, models: Models, device: torch.device, size: int, batch_size: int, seconds: float, classes: int
) -> list[dict[str, Any]]:
    transform, index = TrainTransform(size), np.arange(len(files.pairs))
    reader, decoder = Reader(as_samples(files.ours), 1), ImageDecoder(1, device=device)
    keys = RowKeys(SEED, 0, index, np.zeros_like(index))
    read = [file for file in reader.read(index.tolist()) if isinstance(file, Encoded)]
    crops = transform.windows(keys, np.array([f.height for f in read]), np.array([f.width for f in read])).window
    boxes = [(int(top), int(left), int(height), int(width)) for top, left, height, width in crops]
    n = min(batch_size, len(read))
    pixels = [image for image in decoder.decode_regions(read[:n], boxes[:n]) if not isinstance(image, str)]
    augment, generator = models.augment(1.0, None), models.generator
    number = np.arange(augment.microbatch)
    call = RowKeys(SEED, 0, number, np.zeros_like(number))
    h = models.extractor(pixels)[torch.from_numpy(number % len(pixels)).to(device)]  # a call is always as large
    made = generator(augment.noise(call), h)
    # Every second row a generation; of each source all that was decoded.
    source = np.where(np.arange(n) % 2, -1 - np.arange(n) % len(made), np.arange(n))
    sides = np.array([made.shape[2:] if j < 0 else pixels[j].shape[:2] for j in source])
    window = np.concatenate([np.zeros_like(sides), sides], 1).astype(np.int32)
    windows = Windows(window, np.zeros((n, 2)), sides / size, np.arange(n) % 3 == 0)
    out = torch.empty(n, 3, size, size, device=device)
    training = Training(device, classes)
    labels = torch.arange(n, device=device) % classes

    def step() -> int:
        training.step(out, labels)
        return n

    def decode() -> int:
        for begin in range(0, len(read), n):
            decoder.decode_regions(read[begin : begin + n], boxes[begin : begin + n])
        return len(read)

    mean_bytes = sum(len(file.data) for file in read) / len(read)
    each: dict[str, tuple[Callable[[], int], str | None, float | None]] = {
        "read": (lambda: len(reader.read(index.tolist())), None, mean_bytes),
        "decode": (decode, None, mean_bytes),
        "generate": (lambda: len(generator(augment.noise(call), h)), models.case, None),
        "assemble": (
            lambda: len(finish(pixels[:n], made, source, windows, transform, transform, out)),
            None,
            out[0].numel() * out.element_size(),
        ),
        "step": (step, training.network, None),
    }
    records = []
    for name, (call_it, case, size_in_bytes) in each.items():
        records.append(
            {
                "kind": "stage",
                "stage": name,
                "case": case,
                "size": size,
                "batch_size": n,
                "threads": 1,
                "device": str(device),
                "seconds_per_image": rounded(_seconds(call_it, device, seconds)),
                "bytes_per_image": None if size_in_bytes is None else rounded(size_in_bytes, 6),
            }
        )
    reader.close()
    decoder.close()
    return records


def _seconds(call: Callable[[], int], device: torch.device, seconds: float) -> float:
    """For one image, the least of several calls: whatever else a machine does only adds. The first call is left out."""
    call()
    least, begun = float("inf"), time.perf_counter()
    while least == float("inf") or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        rows = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        least = min(least, (time.perf_counter() - before) / rows)
    return least


def arithmetic(records: list[dict[str, Any]], p: float, cores: int) -> float:
    """Seconds that the loader's stages compute for one row at p, shared out to all cores: generation from a bank, decoding of the rest."""
    of = {record["stage"]: float(record["seconds_per_image"]) for record in records}
    return (p * of["generate"] + (1 - p) * (of["read"] + of["decode"]) + of["assemble"]) / cores
