"""Writes the tables of the README and of docs/benchmark.md from recorded runs, no number typed by hand:  python benchmarks/readme.py [--check]

Runs of `dali-icgan bench` lie in results/bench, their bench.jsonl under a name of their own; the newest is shown. Until there is one the
README shows results/loader.jsonl.
"""

import sys
from pathlib import Path
from typing import Any

from performance_page import RESULTS, newest, rate_cell, ratio_cell

from dali_icgan.bench.report import generations_table, peers_table, tables_alone
from dali_icgan.bench.results import Run, read_run

ROOT = Path(__file__).parents[1]
SIZE = 224  # of the lines without generations


def shown() -> list[dict[str, Any]]:
    """Of the newest runs on a CPU those at p = 0, and at p = 0.5 from a bank; docs/performance.md has them all."""
    found = [
        record
        for record in newest("loader.jsonl")
        if not record["gpu"]
        and ((record["size"], record.get("case")) == (SIZE, None) if not record["p"] else record["p"] == 0.5)
        and record.get("source") != "online"
        and record.get("compaction", True)
    ]
    return sorted(found, key=lambda r: (r["p"], r["size"], r["cores"], r["allocator"] != "stock"))


def loader_table() -> str:
    """As Markdown."""
    head = "| p | generator | px | cores | C allocator | DataLoader + PIL (+ eager generator) | dali_icgan | ratio (min to max) |"
    lines, records = [head, "|---|---|---|---|---|---|---|---|"], shown()
    for record in records:
        ours = record["images_per_s"]["dali_icgan"]
        theirs = next(rate for name, rate in record["images_per_s"].items() if name != "dali_icgan")
        cells = [
            f"{record['p']:g}",
            record.get("generator") or "",
            record["size"],
            record["cores"],
            record["allocator"],
        ]
        cells += [rate_cell(theirs["median"]), rate_cell(ours["median"]), ratio_cell(record["ratio"])]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    one = records[0]
    others = {
        f"{record['generator']}: {record['images']}, batch {record['batch_size']}"
        for record in records
        if (record["images"], record["batch_size"]) != (one["images"], one["batch_size"])
    }
    fewer = f" ({'; '.join(sorted(others))})" if others else ""
    levels = max(record["largest_difference_in_levels"] for record in records)
    where = dict.fromkeys(
        f"{each['processor']} ({', '.join(each['instruction_sets'])}), torch {each['torch']}, DALI {each['dali']}, {each['date'][:10]}"
        for each in records
    )
    note = (
        f"{one['images']} photographs of {one['megapixels']:.2f} megapixels on average, batch {one['batch_size']}{fewer}, random resized "
        f"crops, float32; {'; '.join(where)}; medians of alternating windows. Photographs agree within {levels:.1f} of 255 levels "
        "(PIL rounds to 8 bits)."
    )
    return "\n".join([*lines, "", note])


def newest_run(folder: Path = RESULTS / "bench") -> Run | None:
    """The last recorded run with rates of peers; None where there is none yet."""
    runs = [read_run(path) for path in folder.glob("*.jsonl")]
    return max(
        (run for run in runs if run.of("throughput", axis="peers")), key=lambda r: r.machine["date"], default=None
    )


def readme_block(run: Run | None) -> str:
    """What stands between the README's marks."""
    return loader_table() if run is None else "\n\n".join(filter(None, [peers_table(run), generations_table(run)]))


def bench_block(run: Run | None) -> str:
    """What stands between the marks of docs/benchmark.md."""
    return "*No run has been recorded yet.*" if run is None else tables_alone(run)


def pages(run: Run | None) -> dict[Path, str]:
    """Each page with its marked block written anew."""
    blocks = {ROOT / "README.md": ("loader", readme_block), ROOT / "docs" / "benchmark.md": ("bench", bench_block)}
    return {
        path: with_block(path.read_text(), mark, block(run)) for path, (mark, block) in blocks.items() if path.exists()
    }


def with_block(text: str, mark: str, block: str) -> str:
    """A page with what is between its marks exchanged."""
    before, rest = text.split(f"<!-- {mark} -->")
    _, after = rest.split(f"<!-- /{mark} -->")
    return f"{before}<!-- {mark} -->\n{block}\n<!-- /{mark} -->{after}"


if __name__ == "__main__":
    for path, wanted in pages(newest_run()).items():
        if "--check" not in sys.argv[1:]:
            path.write_text(wanted)
        elif wanted != path.read_text():
            sys.exit(f"{path.relative_to(ROOT)}: run python benchmarks/readme.py")
