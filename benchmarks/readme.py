"""Writes the README's tables from recorded runs, no number typed by hand:  python benchmarks/readme.py [--check]"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "loader.jsonl"


def loader_table() -> str:
    """The newest run of each (cores, allocator), as a Markdown table."""
    newest = {}
    for line in RESULTS.read_text().splitlines():
        record = json.loads(line)
        newest[record["cores"], record["allocator"]] = record
    rows = ["| cores | C allocator | DataLoader + PIL | dali_icgan | ratio (min to max) |", "|---|---|---|---|---|"]
    for (cores, allocator), record in sorted(newest.items(), key=lambda item: (item[0][0], item[0][1] != "stock")):
        rates, ratio = record["images_per_s"], record["ratio"]
        theirs, ours = (rates[name]["median"] for name in ("DataLoader + PIL", "dali_icgan"))
        figure = f"**{ratio['median']:.1f}** ({ratio['min']:.1f} to {ratio['max']:.1f})"
        rows.append(f"| {cores} | {allocator} | {theirs:.0f} images/s | {ours:.0f} images/s | {figure} |")
    one = next(iter(newest.values()))
    note = (
        f"{one['images']} photographs of {one['megapixels']:.2f} megapixels on average, random resized crop to {one['size']} px, batch "
        f"{one['batch_size']}, float32; {one['processor']} ({', '.join(one['instruction_sets'])}), torch {one['torch']}, DALI {one['dali']}, "
        f"{one['date'][:10]}; medians of alternating windows. Batches agree within "
        f"{max(r['largest_difference_in_levels'] for r in newest.values()):.1f} of 255 levels (PIL rounds to 8 bits)."
    )
    return "\n".join([*rows, "", note])


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
