"""Writes the README's tables from recorded runs, no number typed by hand:  python benchmarks/readme.py [--check]"""

import sys
from pathlib import Path
from typing import Any

from performance_page import newest, rate_cell, ratio_cell

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


def with_tables(readme: str) -> str:
    """The README with its marked blocks written anew."""
    before, rest = readme.split("<!-- loader -->")
    _, after = rest.split("<!-- /loader -->")
    return f"{before}<!-- loader -->\n{loader_table()}\n<!-- /loader -->{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    wanted = with_tables(path.read_text())
    if "--check" in sys.argv[1:]:
        sys.exit(wanted != path.read_text() and "README.md: run python benchmarks/readme.py")
    path.write_text(wanted)
