"""``dali-icgan train``."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from dali_icgan.data.shards import is_shard_folder

try:
    from dali_icgan.training.run import Training, train
except ModuleNotFoundError as error:
    raise ImportError(f"training needs {error.name}, which pip install 'dali-icgan[cu13,train]' brings") from error


def run(
    folder: Path,
    out: Path,
    *,
    config: Path | None,
    resolution: int | None,
    class_conditional: bool,
    extractor: str | None,
    steps: int | None,
    quick: bool,
    exif: bool,
    device: str | None,
) -> None:
    """Train, and say where the report is."""
    if config is not None and quick:
        raise ValueError("--quick must come without --config: it is a configuration of its own")
    if folder.is_dir() and not any(each.is_dir() for each in folder.iterdir()) and not is_shard_folder(folder):
        raise ValueError(
            f"{folder} must hold one subfolder a class, got none: move the images into one subfolder, such as {folder / 'images'}"
        )
    training = Training.read(config) if config is not None else Training.quick() if quick else Training()
    given: dict[str, Any] = {"resolution": resolution, "class_conditional": class_conditional or None, "steps": steps}
    gan = replace(training.gan, **{name: value for name, value in given.items() if value is not None})
    training = replace(training, gan=gan, exif=exif or training.exif)
    together = "TORCHELASTIC_RUN_ID" in os.environ or "RANK" in os.environ
    if together:
        if torch.cuda.is_available() and device in (None, "cuda"):
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        mine = torch.device(device or "cpu")
        if mine.type == "cuda":
            torch.cuda.set_device(mine)  # where collectives of this rank run
        # The others wait while the first trains the extractor and fills the bank: longer than torch's own minutes.
        torch.distributed.init_process_group(
            "nccl" if mine.type == "cuda" else "gloo",
            timeout=timedelta(days=1),
            device_id=mine if mine.type == "cuda" else None,
        )
    try:
        report = train(folder, out, training, extractor=extractor, device=device)
    finally:
        if together:
            torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{report}: samples, figures and settings; {out / 'generator.safetensors'}: the generator")
