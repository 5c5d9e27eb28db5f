"""Writes the tables of the README and of docs/benchmark.md from recorded runs, no number typed by hand:  python benchmarks/readme.py [--check]

Runs of `dali-icgan bench` lie in results/bench, their bench.jsonl under a name of their own; the newest is shown.
"""

import sys
from pathlib import Path

from performance_page import RESULTS

from dali_icgan.bench.report import again, generations_table, peers_table, tables_alone
from dali_icgan.bench.results import Run, read_run

ROOT = Path(__file__).parents[1]
NOTHING = "*No run has been recorded yet.*"


def newest_run(folder: Path = RESULTS / "bench") -> Run | None:
    """The last recorded run with rates of peers; None where there is none yet."""
    runs = [read_run(path) for path in folder.glob("*.jsonl")]
    return max(
        (run for run in runs if run.of("throughput", axis="peers")), key=lambda r: r.machine["date"], default=None
    )


def readme_block(run: Run | None) -> str:
    """What stands between the README's marks."""
    return NOTHING if run is None else "\n\n".join(filter(None, [peers_table(run), generations_table(run)]))


def bench_block(run: Run | None) -> str:
    """What stands between the marks of docs/benchmark.md."""
    return NOTHING if run is None else "\n\n".join([tables_alone(run), *again(run)])


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
