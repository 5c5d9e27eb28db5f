"""``dali-icgan convert``."""

from pathlib import Path

from rich.console import Console

from dali_icgan.cli.facts import checkpoint_facts, grid, megabytes
from dali_icgan.engine import convert


def run(source: Path, out: Path) -> None:
    """Convert, and say what the file was."""
    written = convert(source, out)
    before, after = source.stat().st_size, out.stat().st_size
    facts = [*checkpoint_facts(written), ("size", f"{megabytes(before)} -> {megabytes(after)}"), ("written", str(out))]
    Console().print(grid(facts))
