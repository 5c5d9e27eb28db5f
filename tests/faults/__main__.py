"""make faults: ``python -m tests.faults [KILLS] [SEED]`` kills that many jobs; ``--record`` notes it for docs/reliability.md."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import Campaign

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "results" / "faults.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("kills", nargs="?", type=int, default=100)
    parser.add_argument("seed", nargs="?", type=int, default=time.time_ns() % 2**32, help="default: another each time")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORDS.relative_to(ROOT)}")
    given = parser.parse_args()
    print(f"{given.kills} kills, seed {given.seed}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = Campaign(Path(folder), given.kills, given.seed, lambda line: print(line, flush=True)).run()
    seconds = time.monotonic() - begun
    for line in counts.mismatches:
        print("MISMATCH", line)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import environment

    record = {
        **environment(),
        "command": f"python -m tests.faults {given.kills} {given.seed}",
        "seed": given.seed,
        "kills": counts.kills,
        "moments": dict(sorted(counts.moments.items())),
        "killed": dict(sorted(counts.victims.items())),
        "resumed_on_ranks": {str(world): count for world, count in sorted(counts.resumed_on.items())},
        "jobs": dict(sorted(counts.jobs.items())),
        "samples": counts.samples,
        "mismatches": len(counts.mismatches),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(record))
    if given.record:
        with RECORDS.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return 1 if counts.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
