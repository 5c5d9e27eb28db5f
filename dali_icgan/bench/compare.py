"""Two runs of the same cases: which rates changed beyond noise.

A rate is measured in windows. The ratio of the medians, new over old, has a percentile bootstrap interval (Efron 1979): windows of each run
are drawn anew, with replacement. A change counts when the whole 95 % interval is further from 1 than a threshold, which stands for
what differs between two runs on one machine and not between windows of one of them. With fewer than three windows nothing counts.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dali_icgan.bench.results import OURS, Record, Run

KINDS = ("throughput", "training")
# What tells one case from another, whatever else a line holds.
KEYS = ("kind", "axis", "peer", "generator", "case", "p", "source", "compaction", "network", "batch_size", "threads", "workers", "size", "device", "allocator")  # fmt: skip
THRESHOLD, WINDOWS, DRAWS = 0.05, 3, 10_000
FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "as fast", "too few windows"
Key = tuple[object, ...]


@dataclass(frozen=True)
class Change:
    """One case in both runs.

    Attributes:
        name: the case in words.
        ours: whether it is of this package, and not of a peer.
        old, new: median images a second.
        ratio, low, high: new over old, with its interval.
        verdict: "faster", "slower", "as fast" or "too few windows".
    """

    name: str
    ours: bool
    old: float
    new: float
    ratio: float
    low: float
    high: float
    verdict: str

    @property
    def regression(self) -> bool:
        """Whether this package became slower beyond noise."""
        return self.ours and self.verdict == SLOWER


@dataclass(frozen=True)
class Comparison:
    """What became of every case.

    Attributes:
        changes: of the cases in both.
        missing, added: cases, in words, that only the old or only the new run has.
        warnings: what else differs between the runs.
    """

    changes: list[Change]
    missing: list[str]
    added: list[str]
    warnings: list[str]

    @property
    def regressions(self) -> list[Change]:
        return [each for each in self.changes if each.regression]


def compare(old: Run, new: Run, threshold: float = THRESHOLD) -> Comparison:
    """New beside old.

    Args:
        threshold: how far the whole interval must be from 1, such as 0.05 for 5 %.

    Raises:
        ValueError: the threshold is out of range, a run holds a case twice, or the runs have no case in common.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold!r}")
    before, after = _cases(old), _cases(new)
    common = [key for key in before if key in after]
    if not common:
        raise ValueError(
            f"the runs must have a case in common, got {len(before)} in {old.folder} and {len(after)} in {new.folder}"
        )
    differing = _differing(before.values(), after.values())
    changes = []
    for key in common:
        rates = before[key]["images_per_s"], after[key]["images_per_s"]
        was, is_now = (statistics.median(each) for each in rates)
        low, high = interval(*rates)
        few = min(map(len, rates)) < WINDOWS
        verdict = UNKNOWN if few else SLOWER if high < 1 - threshold else FASTER if low > 1 + threshold else SAME
        name = case_name(before[key], differing)
        changes.append(Change(name, before[key]["peer"] == OURS, was, is_now, is_now / was, low, high, verdict))
    return Comparison(
        changes,
        [case_name(before[key], differing) for key in before if key not in after],
        [case_name(after[key], differing) for key in after if key not in before],
        _warnings(old, new),
    )


def named(found: Comparison, threshold: float) -> str:
    """The comparison in one sentence."""
    ours = [each for each in found.changes if each.ours]
    count = {verdict: sum(each.verdict == verdict for each in ours) for verdict in (SLOWER, FASTER, SAME, UNKNOWN)}
    said = f"{OURS}: {count[SLOWER]} slower, {count[FASTER]} faster, {count[SAME]} within {threshold:.0%} or noise"
    return said + (f", {count[UNKNOWN]} with too few windows" if count[UNKNOWN] else "") + f", of {len(ours)} cases."


def interval(old: Sequence[float], new: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % of the ratio of medians, new over old, by the percentile bootstrap."""
    draws = np.random.default_rng(seed)
    medians = [
        np.median(np.asarray(rates)[draws.integers(len(rates), size=(DRAWS, len(rates)))], axis=1)
        for rates in (old, new)
    ]
    low, high = np.percentile(medians[1] / medians[0], (2.5, 97.5))
    return float(low), float(high)


def case_name(record: Record, fields: Iterable[str] = KEYS) -> str:
    """A case in words: of ``fields`` those that it has."""
    said = [str(record["peer"])]
    for name in fields:
        value = record.get(name)
        said_already = name in ("kind", "peer", "axis", "device", "network")
        if said_already or value is None or (name == "generator" and value == OURS):
            continue
        if name == "p":
            said.append(f"p = {value:g}")
        elif name == "compaction":
            said += [] if value else ["every row generated"]
        elif name in ("batch_size", "threads", "workers"):
            said.append(f"{name.replace('_', ' ')} {value}")
        else:
            said.append(f"{value} px" if name == "size" else str(value))
    return ", ".join(([f"training {record['network']}:"] if record["kind"] == "training" else []) + said).replace(
        ":,", ":"
    )


def _cases(run: Run) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for each in (each for kind in KINDS for each in run.of(kind)):
        key = tuple(each.get(name) for name in KEYS)
        if key in found:
            raise ValueError(f"{run.folder} must hold each case once, got {case_name(each)} twice")
        found[key] = each
    return found


def _differing(*runs: Iterable[Record]) -> list[str]:
    """The fields in which cases differ: what all have in common need not be said of each."""
    records = [each for run in runs for each in run]
    return [name for name in KEYS if name == "p" or len({each.get(name) for each in records}) > 1]


def _warnings(old: Run, new: Run) -> list[str]:
    said = []
    for name in ("processor", "cores", "gpu", "memory_mb", "data", "images", "files", "megapixels", "mean_kb"):
        values = [run.machine.get(name) for run in (old, new)]
        if values[0] != values[1]:
            said.append(f"{name.replace('_', ' ')} differs: {values[0]} and {values[1]}")
    versions = [run.machine.get("versions") or {} for run in (old, new)]
    for name in sorted({*versions[0], *versions[1]}):
        if versions[0].get(name) != versions[1].get(name):
            said.append(f"{name} differs: {versions[0].get(name)} and {versions[1].get(name)}")
    return said
