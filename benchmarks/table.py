"""Prints recorded JSON lines as a short table:  python benchmarks/table.py results/*.jsonl"""

import json
import sys
from pathlib import Path
from typing import Any


def rows(record: dict[str, Any]) -> list[str]:
    """One line a figure: benchmark, what was compared, median (min to max)."""
    case = ", ".join(str(record[key]) for key in ("case", "allocator") if key in record)
    lines = []
    for unit in ("images_per_s", "ms", "ratio"):
        figures = record.get(unit)
        if isinstance(figures, dict):
            named = {"": figures} if "median" in figures else figures
            for name, figure in named.items():
                spread = f"{figure['min']:g} to {figure['max']:g}" if isinstance(figure, dict) else ""
                median = figure["median"] if isinstance(figure, dict) else figure
                lines.append(f"{record['benchmark']:10} {case:28} {name:22} {median:10g} {unit:12} {spread}")
    return lines


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        for line in path.read_text().splitlines():
            print("\n".join(rows(json.loads(line))))
