"""``python -m tests.fuzz [DOMAIN...]``: mutants of the files that the product reads, through its readers."""

import argparse
import importlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import emit, environment
from tests.fuzz import DOMAINS, image_header
from tests.fuzz.runner import check_file, fuzz

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.jsonl"
KEPT = Path(__file__).parents[2] / "build" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    everything = ("image_header", *DOMAINS)
    parser.add_argument(
        "domains", nargs="*", metavar="DOMAIN", help=f"{', '.join(everything)}; all of them where none is named"
    )
    parser.add_argument("--mutants", type=int, help="of each domain; a million headers and 20,000 of the others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, help="check this one file of the domain")
    parser.add_argument("--record", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    given = parser.parse_args()
    domains = given.domains or everything
    if strange := sorted(set(domains) - set(everything)):
        parser.error(f"DOMAIN must be among {', '.join(everything)}, got {strange[0]}")
    if given.file is not None:
        if len(domains) != 1:
            parser.error("--file is of one DOMAIN")
        said = check_file(domains[0], given.file)
        print(said)
        return int(said.startswith("!"))
    wrong = 0
    for domain in domains:
        record = header_record(given) if domain == "image_header" else domain_record(domain, given)
        said = ", ".join(f"{count:,} {name}" for name, count in record["outcomes"].items())
        print(
            f"{domain}: {record['mutants']:,} mutants of seed {given.seed} in {record['seconds']} s: {said}", flush=True
        )
        wrong += record["outcomes"].get("wrong", 0)
        if given.record:
            emit(environment() | record, RESULTS)
    return int(wrong > 0)


def header_record(given: argparse.Namespace) -> dict[str, Any]:
    mutants = given.mutants or 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        seen, seconds = image_header.timed(mutants, given.seed, Path(folder))
    outcomes = {
        "headers": sum(read for read, _ in seen.values()),
        "refused": sum(refused for _, refused in seen.values()),
    }
    return {
        "domain": "image_header",
        "mutants": mutants,
        "seed": given.seed,
        "outcomes": outcomes,
        "seconds": round(seconds, 1),
    }


def domain_record(domain: str, given: argparse.Namespace) -> dict[str, Any]:
    mutants = given.mutants or importlib.import_module(f"tests.fuzz.{domain}").MUTANTS
    report = fuzz(domain, mutants, given.seed, KEPT)
    for file, why in report.findings.items():
        print(f"{file}: {why}\n  again: python -m tests.fuzz {domain} --file {file}", flush=True)
    return {
        "domain": domain,
        "mutants": report.outcomes.total(),
        "seed": given.seed,
        "outcomes": dict(sorted(report.outcomes.items())),
        "seconds": round(report.seconds, 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
