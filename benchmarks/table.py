"""Prints recorded JSON lines as a short table:  python benchmarks/table.py results/*.jsonl"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

NAMED = ("case", "model", "source", "allocator")


def bench_rows(record: dict[str, Any]) -> list[str]:
    """Of a line of `dali-icgan bench`: rates, and of a training the speed kept."""
    if record["kind"] not in ("throughput", "training"):
        return []
    name = record["peer"] + (f" + {record['generator']}" if record["generator"] not in (None, record["peer"]) else "")
    name += ", every row" if record.get("compaction") is False else ""
    rates = record["images_per_s"]
    figures = [(statistics.median(rates), "images_per_s", f"{min(rates):g} to {max(rates):g}")]
    figures += [(record[key], key, "") for key in ("kept", "waiting") if key in record]
    case = f"{record['contest']}, p = {record['p']:g}"
    return [f"{'bench':14} {case:44} {name:45} {value:10g} {unit:12} {spread}" for value, unit, spread in figures]


def rows(record: dict[str, Any]) -> list[str]:
    """One line a figure: benchmark, what was compared, median (min to max)."""
    if "kind" in record:
        return bench_rows(record)
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
            for row in rows(json.loads(line)):
                print(row)
