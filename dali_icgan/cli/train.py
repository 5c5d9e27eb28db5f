"""``dali-icgan train``."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from dali_icgan.data.shards import is_shard_folder
from dali_icgan.ranks import Ranks, joined

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
    # The others wait while the first trains the extractor: longer than torch's own minutes.
    with joined(device, timedelta(days=1)) as mine:
        report = train(folder, out, training, extractor=extractor, device=mine)
        first = Ranks.here().rank == 0
    if first:
        print(f"{report}: samples, figures and settings; {out / 'generator.safetensors'}: the generator")
