"""Measures the table of forms that comes with the package (dali_icgan/engine/forms.json): which tile is the fastest for each convolution
of the official generators, of ResNet-50 and of the embedded pair. On one thread and a machine that does nothing else:

    python benchmarks/forms.py --out benchmarks/results/forms.jsonl
    DALI_ICGAN_INSTRUCTIONS=avx2 python benchmarks/forms.py --out benchmarks/results/forms.jsonl

One line a model, with all that was measured; the table is written from these lines, and from nothing else:

    python benchmarks/forms.py --write [--check]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from common import emit, environment

from dali_icgan.bench.models import EXTRACTORS, extractor_checkpoint, generator_checkpoint
from dali_icgan.engine.forms import SHIPPED, Forms, table_name
from dali_icgan.engine.tuning import Measured, tune
from dali_icgan.models.generator import GeneratorConfig

RESULTS = Path(__file__).parent / "results" / "forms.jsonl"
GENERATORS = {
    "256 px, channels 96": GeneratorConfig(256, 96, z_chunk=17, attention=(64,)),
    "256 px, channels 64": GeneratorConfig(256, 64, z_chunk=17, attention=(64,)),
    "256 px, channels 48": GeneratorConfig(256, 48, z_chunk=17, attention=(64,)),
    "128 px, channels 96": GeneratorConfig(128, 96, z_chunk=20, attention=(64,)),
    "128 px, channels 64": GeneratorConfig(128, 64, z_chunk=20, attention=(64,)),
    "128 px, channels 48": GeneratorConfig(128, 48, z_chunk=20, attention=(64,)),
    "64 px, channels 64": GeneratorConfig(64, 64, z_chunk=20, attention=(32,)),
    "embedded generator": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", help="one model alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", action="store_true", help="the table, from the recorded lines")
    parser.add_argument("--check", action="store_true", help="with --write: only whether it is up to date")
    given = parser.parse_args()
    if given.write:
        write(given.check)
        return
    torch.set_num_threads(1)
    name = table_name(Forms.of(torch.float32).instructions, torch.float32)
    models = {
        case: lambda config=config, case=case: generator_checkpoint(case, config) for case, config in GENERATORS.items()
    }
    models |= {f"extractor: {case}": lambda case=case: extractor_checkpoint(case) for case in EXTRACTORS}
    for case, make in models.items():
        if given.case not in (None, case):
            continue
        found = tune(make(), rounds=given.rounds)
        layers = {one.key: {str(tile): seconds for tile, seconds in one.seconds.items()} for one in found}
        rule = {one.key: one.default for one in found}
        record = {"benchmark": "forms", "case": case, "table": name, "seconds": layers, "rule": rule}
        emit({**record, **environment()}, given.out)


def table(lines: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What the lines say; of a convolution that several models have, the seconds are added up."""
    newest = {(line["table"], line["case"]): line for line in lines}
    spent: dict[str, dict[str, dict[int, float]]] = {}
    for line in newest.values():
        for key, seconds in line["seconds"].items():
            sums = spent.setdefault(line["table"], {}).setdefault(key, {})
            for tile, found in seconds.items():
                sums[int(tile)] = sums.get(int(tile), 0.0) + found
    return {
        name: {key: Measured(key, by_tile).fastest for key, by_tile in sorted(keys.items())}
        for name, keys in sorted(spent.items())
    }


def write(check: bool) -> None:
    text = json.dumps(table([json.loads(line) for line in RESULTS.read_text().splitlines()]), indent=2) + "\n"
    if not check:
        SHIPPED.write_text(text)
    elif text != SHIPPED.read_text():
        sys.exit(f"{SHIPPED.name}: run python benchmarks/forms.py --write")


if __name__ == "__main__":
    main()
