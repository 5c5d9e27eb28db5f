"""``python -m tests.soak [--minutes M] [--batches N]``."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.common import emit, environment
from tests.soak.record import make_mixed, soak

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="Small batches, and whether anything grows."
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="at least so many")
    parser.add_argument("--batches", type=int, default=100_000, help="at least so many")
    parser.add_argument("--record", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soaked = soak(make_mixed(Path(folder) / "mixed"), 60 * given.minutes, given.batches)
    record = {
        "batches": soaked.batches,
        "cycles": soaked.cycles,
        "minutes": round(soaked.seconds / 60, 1),
        "rss_warm_mb": round(soaked.before / 1e6, 1),
        "rss_end_mb": round(soaked.after / 1e6, 1),
        "threads_at_rest": soaked.threads,
        "descriptors_at_rest": soaked.descriptors,
        "faults": soaked.faults() or "none",
    }
    emit(environment() | record, RESULTS if given.record else None)
    return int(bool(soaked.faults()))


if __name__ == "__main__":
    raise SystemExit(main())
