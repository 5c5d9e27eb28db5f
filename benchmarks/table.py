"""Prints recorded JSON lines as a short table:  python benchmarks/table.py results/*.jsonl"""

import json
import sys
from pathlib import Path
from typing import Any

NAMED = ("case", "model", "source", "allocator")


def rows(record: dict[str, Any]) -> list[str]:
    """One line a figure: benchmark, what was compared, median (min to max)."""
    named = [str(record[key]) for key in NAMED if record.get(key)]
    named += [f"p = {record['p']:g}"] if "p" in record else []
    named += ["every row"] if record.get("compaction") is False else []
    case, lines = ", ".join(named), []
    for unit in ("images_per_s", "ms", "ratio", "steps_per_s", "kept", "waiting"):
        figures = record.get(unit)
        if isinstance(figures, dict):
            by_name = {"": figures} if "median" in figures else figures
            for name, figure in by_name.items():
                spread = f"{figure['min']:g} to {figure['max']:g}" if isinstance(figure, dict) else ""
                median = figure["median"] if isinstance(figure, dict) else figure
                lines.append(f"{record['benchmark']:14} {case:44} {name:45} {median:10g} {unit:12} {spread}")
    return lines


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        for line in path.read_text().splitlines():
            print("\n".join(rows(json.loads(line))))
