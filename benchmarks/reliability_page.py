"""Writes docs/reliability.md from recorded runs, no number typed by hand:  python benchmarks/reliability_page.py [--check]"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "reliability.md"
# Of where it ran, not of what came out; said in a line below the table.
_ENVIRONMENT = (
    *("date", "command", "commit", "processor", "instruction_sets", "threads", "mkl", "gpu", "torch", "dali", "python"),
    *("build", "benchmark"),
)


@dataclass(frozen=True)
class Section:
    """What the page says of one kind of run in its own words.

    Attributes:
        results: the file of its runs.
        by: what tells one run's row from another's; the newest of each is shown.
        title, introduction: the section's first lines.
        rows: whether a run is a row of the table, not a column.
    """

    results: str
    by: tuple[str, ...]
    title: str
    introduction: str
    rows: bool = False


SECTIONS = (
    Section(
        "faults.jsonl",
        ("processor",),
        "Killed jobs",
        """`make faults` (`KILLS=1000`, `FAULTS_SEED=7`: as many, by that seed) kills jobs with SIGKILL at random moments: trainings over
ranks with checkpoints, and the building of feature banks; all ranks at once, as a machine that is lost, or one of several, whose others
must then end by themselves, within the process group's timeout, with an error that says what they waited for. Half of the kills come at a
random time, half when a temporary file appears, between the writing of a checkpoint and its renaming. Each job goes on on a random number
of ranks, 1 to 4, with another batch size and prefetch depth, until it is done. Then every sample of every epoch must have been delivered
exactly once, up to the checkpoints that the job went on from, with the pixels of a run that nothing happened to; a bank must be that run's
byte for byte. A mismatch is any sample, pixel, byte or error that is not so; a rank that hangs ends the run. Until torch has connected the
ranks of a job all are killed: there the others of one that is lost wait for five times the timeout, unless a launcher such as torchrun ends
them.""",
    ),
    Section(
        "soak.jsonl",
        ("processor", "case"),
        "Long runs",
        """`make soak` (`MINUTES=30`: for so long) makes loaders of small batches over good and damaged files of every kind, with generations
and without, one view or two; walks through epochs, leaves some in the middle, goes on from their states, closes the loaders or drops them.
When all are gone the process is looked at, cycle after cycle: resident memory (median of the fifth of the cycles after a warm-up of a fifth,
and of the last fifth) may gain 1%, threads and descriptors nothing.""",
    ),
    Section(
        "fuzz.jsonl",
        ("processor", "domain"),
        "Damaged and hostile files",
        """`make fuzz` (`MUTANTS=1000`, `FUZZ_SEED=7`, `DOMAINS="bank state"`: so many, others, of these alone) damages every kind of file that is
read: image files before the header parser, under AddressSanitizer and UBSan; JPEG files among good ones in a whole loader; tar shards and
their index; banks, tables of forms, class maps and settings; checkpoints of torch.save, safetensors and pickled instances; states of loaders
and of trainings. Each mutant must be read as something valid, or be refused with an error of ours that names the file: in a child process
that may take 256 MiB and a minute, and in which Python is watched for whatever reading should never do, from running code to opening a file
for writing. In a loader the rows of good files must be bit-equal to what they are without it, every label its row's, and a damaged JPEG is
replaced and named, or gives Pillow's pixels bit for bit. A wrong one is any that is not so.""",
        rows=True,
    ),
    Section(
        "order.jsonl",
        ("processor", "samples", "ranks"),
        "Many ranks",
        """The order of an epoch is a formula, not a list: what a rank needs before its first batch, also in the middle of an epoch that goes
on, does not grow with the dataset or the ranks. Time and memory until the first batch's indices are there (`benchmarks/order.py`):""",
    ),
)


def newest(section: Section, results: Path) -> list[dict[str, Any]]:
    """The last run of each kind; none where nothing was recorded yet."""
    found, path = {}, results / section.results
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        key = tuple(record.get(name) for name in section.by)
        found.pop(key, None)  # behind the others
        found[key] = record
    return list(found.values())


def said(value: Any) -> str:
    """A value of a record as a reader wants it."""
    if isinstance(value, dict):
        return "; ".join(f"{_words(name)}: {said(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def table(records: list[dict[str, Any]], rows: bool = False) -> str:
    """A row a fact and a column a run; or, with ``rows``, the other way round."""
    names = dict.fromkeys(name for record in records for name in record if name not in _ENVIRONMENT)
    lines = [["", *(record["date"][:10] for record in records)]]
    for name in names:
        # A seed is a name, not a quantity.
        cells = [str(r.get(name, "")) if name == "seed" else said(r.get(name)) for r in records]
        lines.append([_words(name), *cells])
    if rows:
        lines = [list(line) for line in zip(*lines[1:], ["date", *lines[0][1:]], strict=True)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head.replace("|  |", "| |"), "|---" * len(lines[0]) + "|", *body])


def where(records: list[dict[str, Any]]) -> str:
    runs = dict.fromkeys(
        f"{record['gpu'] or record['processor']}, torch {record['torch']}, DALI {record['dali']}, Python {record['python']}, "
        f"commit {record['commit']}, {record['date'][:10]}"
        for record in records
    )
    return "\n".join(f"* {run}" for run in runs)


def page(results: Path = RESULTS) -> str:
    parts = [
        "# Reliability\n\nWhat was done to it, and what came of it. Written by `python benchmarks/reliability_page.py` from the records of "
        "runs in benchmarks/results; short forms of all of them are in `make test`."
    ]
    for section in SECTIONS:
        records = newest(section, results)
        if records:
            parts.append(
                f"## {section.title}\n{section.introduction}\n\n{table(records, section.rows)}\n\n{where(records)}"
            )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and wanted == PAGE.read_text()
        sys.exit(None if same else "docs/reliability.md: run python benchmarks/reliability_page.py")
    PAGE.write_text(wanted)
