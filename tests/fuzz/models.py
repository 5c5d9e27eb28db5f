"""What checkpoints of every format are asked for, once they are read."""

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.nested._internal.ops  # torch imports these when a file needs them
import torch.utils.serialization  # torch.load imports it at its first call

from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.models.checkpoint import read_checkpoint, read_run_metadata, write_checkpoint
from dali_icgan.models.generator import GeneratorConfig

"".encode("cp437")  # as zipfile does where a name is not UTF-8


def check_model(path: Path, folder: Path) -> str:
    """Read it as what it says that it is; write it as our own; and compute with it."""
    try:
        checkpoint: Any = read_checkpoint(path)
    except ValueError as error:
        if "got run metadata" not in str(error):
            raise
        assert isinstance(read_run_metadata(path), dict)
        return "loaded"
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())
    out = folder / "again.safetensors"
    write_checkpoint(out, checkpoint)
    assert read_checkpoint(out).fingerprint == checkpoint.fingerprint, "it is another once it was converted"
    if isinstance(checkpoint.config, GeneratorConfig):
        generator = load_generator(path, "cpu")
        classes = torch.zeros(1, dtype=torch.int64) if generator.class_conditional else None
        images = generator(torch.zeros(1, generator.dim_z), torch.ones(1, generator.feature_dim), classes)
        assert images.shape == (1, 3, generator.resolution, generator.resolution)
    else:
        extractor = load_extractor(path, "cpu", resolution=32)
        image = torch.arange(32 * 32 * 3).reshape(32, 32, 3).mul(7).remainder(256).to(torch.uint8)
        with contextlib.suppress(ValueError):  # weights may leave nothing of an image
            assert extractor([image]).shape == (1, extractor.dim)
    return "loaded"
