"""What several commands say, in the same words."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dali_icgan.engine import Generator
from dali_icgan.models.checkpoint import Checkpoint


def untrained(generator: Generator) -> str:
    """What must be said beside the pictures of a generator with random weights; "" of any other."""
    if generator.trained:
        return ""
    name = Path(generator.source).name
    return f"generator: {name}, UNTRAINED random weights (pictures show the mechanism, not the quality)"


def stranger(generator: Generator) -> str:
    """What must be said where the embedded generator meets somebody's own images; "" of any other."""
    if generator.source != "embedded":
        return ""
    return "generator: embedded, it knows the photographs of `dali-icgan demo` and not these (the page shows the mechanism, not the quality)"


def checkpoint_facts(checkpoint: Checkpoint[Any]) -> list[tuple[str, str]]:
    """What a checkpoint is, as (name, value)."""
    config = checkpoint.config
    if checkpoint.kind == "generator":
        classes = f"{config.n_classes} classes" if config.class_conditional else "no classes"
        what = f"{config.resolution} px, z of {config.dim_z}, features of {config.feature_dim}, {classes}"
    else:
        what = f"ResNet {config.block} {'-'.join(map(str, config.depths))}, features of {config.dim}, input {config.input_size} px"
    facts = [
        ("kind", f"{checkpoint.kind}{'' if checkpoint.trained else ', UNTRAINED'}"),
        ("architecture", what),
        ("parameters", f"{checkpoint.parameters_count:,}"),
        ("fingerprint", checkpoint.fingerprint[:16]),
    ]
    return facts + ([("licence", checkpoint.notice)] if checkpoint.notice else [])


def grid(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(value))
    return table


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} KB"
