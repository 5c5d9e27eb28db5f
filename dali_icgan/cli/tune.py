"""``dali-icgan tune``."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from dali_icgan.engine.forms import Forms, read_table, table_name
from dali_icgan.engine.tuning import Measured, tune
from dali_icgan.models.checkpoint import Checkpoint, read_checkpoint, read_extractor, read_generator
from dali_icgan.models.generator import GeneratorConfig
from dali_icgan.models.resnet import ResNetConfig


def run(models: Sequence[str], out: Path, rows: int | None, rounds: int) -> None:
    """Measure, print what was found, and write it into the file, beside what it holds for other machines and models."""
    table = {name: dict(tiles) for name, tiles in read_table(out).items()} if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoints: list[Checkpoint[GeneratorConfig] | Checkpoint[ResNetConfig]] = []
    for model in models:
        embedded = model == "embedded"
        checkpoints += [read_generator(model), read_extractor(model)] if embedded else [read_checkpoint(model)]
    name = table_name(Forms.of(torch.float32).instructions, torch.float32)
    console = Console()
    for checkpoint in checkpoints:
        found = tune(checkpoint, rows, rounds=rounds)
        console.print(_page(f"{checkpoint.source}, {name}, {torch.get_num_threads()} threads", found))
        table.setdefault(name, {}).update({one.key: one.fastest for one in found})
    out.write_text(json.dumps(table, indent=2) + "\n")
    console.print(f"{out}: for load_generator(..., forms={str(out)!r}) and load_extractor(..., forms={str(out)!r})")


def _page(title: str, found: list[Measured]) -> Table:
    page = Table("convolution", "tile: ms", "rule", "fastest", title=title, title_justify="left")
    for one in found:
        times = "  ".join(f"{tile}: {1e3 * seconds:.3g}" for tile, seconds in one.seconds.items())
        page.add_row(one.key, times, str(one.default), str(one.fastest))
    return page
