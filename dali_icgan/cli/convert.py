"""``dali-icgan convert``."""

from pathlib import Path

from rich.console import Console

from dali_icgan.cli.facts import checkpoint_facts, grid, megabytes
from dali_icgan.engine import convert


def run(source: Path, out: Path) -> None:
    """Convert, and say what the file was."""
    embedded = str(source) == "embedded"
    written = convert("embedded" if embedded else source, out)
    size = "" if embedded else f"{megabytes(source.stat().st_size)} -> "
    facts = [*checkpoint_facts(written), ("size", size + megabytes(out.stat().st_size)), ("written", str(out))]
    Console().print(grid(facts))
