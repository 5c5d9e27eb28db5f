"""What a run's report says in tables: every number is of a record."""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dali_icgan.bench.results import OURS, Record, Run, distinct

BASELINE = "pil"  # the peer beside which rates are said
AHEAD = "ahead of dali_icgan"


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        title: of the table.
        head: of each column.
        words: how many columns from the left are words; the others are numbers.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def markdown(self, level: int = 3) -> str:
        """With its title as a heading of that level; 0: without."""
        aligned = ["---" if i < self.words else "---:" for i in range(len(self.head))]
        lines = [f"| {' | '.join(map(_cell, row))} |" for row in (self.head, aligned, *self.rows)]
        return "\n".join([*([f"{'#' * level} {self.title}", ""] if level else []), *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def plain(text: Any) -> str:
    """Somebody else's words, in which nothing is Markdown; "" of None."""
    return "" if text is None else re.sub(r"([\\\\`*<>\[\]])", r"\\\1", str(text))


def rate(value: float) -> str:
    """Images a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median(record: Record) -> float:
    return statistics.median(record["images_per_s"])


def ratios(record: Record, base: Record | None) -> list[float]:
    """Window by window, since windows alternate; of what was not measured in as many windows there is only that of medians."""
    if base is None:
        return []
    mine, theirs = record["images_per_s"], base["images_per_s"]
    if len(mine) != len(theirs) or record["contest"] != base["contest"]:
        return [median(record) / median(base)]
    return [one / other for one, other in zip(mine, theirs, strict=True)]


def times(values: Sequence[float]) -> str:
    """A ratio: its median, and its range in brackets; "" of none."""
    if not values:
        return ""
    digits = 2 if statistics.median(values) < 2 else 1
    said = f"{statistics.median(values):.{digits}f}"
    return said if len(values) == 1 else f"{said} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def is_ahead(record: Record, ours: Record | None) -> bool:
    """Whether a peer's median is above ours."""
    return ours is not None and record["peer"] != OURS and median(record) > median(ours)


# ---------------------------------------------------------------------- rates


def contests(run: Run, axis: str) -> list[list[Record]]:
    """The lines of an axis that were measured alternately, the fastest first."""
    lines = run.of("throughput", axis=axis)
    groups = [[each for each in lines if each["contest"] == name] for (name,) in distinct(lines, "contest")]
    parts = []
    for group in groups:  # one name may stand for p = 0.5 with a bank and without
        for key in distinct(group, *_PLACE):
            parts.append([each for each in group if tuple(each.get(name) for name in _PLACE) == key])
    return [sorted(part, key=median, reverse=True) for part in parts]


_PLACE = ("p", "case", "source", "size", "batch_size", "threads", "allocator", "device")


def where(record: Record) -> str:
    """How many cores a contest was held to, or its device."""
    threads = record["threads"]
    return f"{threads} core{'s' * (threads > 1)}" if record["device"] == "cpu" else str(record["device"])


def place(record: Record) -> str:
    """What a contest was, in words."""
    allocator = record.get("allocator")
    said = [where(record)]
    if record["p"]:
        said += [f"p = {record['p']:g}", *([str(record["case"])] if record.get("case") else [])]
        said += [f"features {'from a bank' if record.get('source') == 'bank' else record.get('source')}"]
    said += [f"{record['size']} px", f"batch {record['batch_size']}"]
    return ", ".join(said + ([f"{allocator} allocator" if allocator == "stock" else str(allocator)] if allocator not in (None, "torch") else []))  # fmt: skip


def contestant(run: Run, record: Record) -> str:
    """Who a line is of, in words: the loader and what generates behind it."""
    said = plain(run.title(record["peer"]))
    if record["peer"] != OURS and record["p"]:
        generator = record.get("generator") or "none"
        said += f" + {generator}" if generator != "eager" else " + eager generator"
    return said + (", every row generated" if record.get("compaction") is False and record["p"] else "")


_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "cpu_s_per_1000": ("CPU s per 1,000", lambda value: f"{value:.3g}"),
    "peak_rss_mb": ("memory, MB", lambda value: f"{value:,.0f}"),
    "gpu_memory_mb": ("GPU memory, MB", lambda value: f"{value:,.0f}"),
    "joules_per_1000": ("J per 1,000", lambda value: f"{value:.3g}"),
    "first_batch_s": ("first batch, s", lambda value: f"{value:.2f}"),
}


def rates(run: Run, axis: str) -> list[Table]:
    """Each contest of an axis: rates, beside the baseline, and what they cost; peers ahead of us are marked."""
    tables = []
    for lines in contests(run, axis):
        ours = next((each for each in lines if each["peer"] == OURS), None)
        base = baseline(lines)
        costs = {name: how for name, how in _COSTS.items() if any(each.get(name) is not None for each in lines)}
        one_off = any(each.get("one_off_s") is not None for each in lines)
        head = ["", "images/s", "min to max", f"times {contestant(run, base)}" if base else "times the baseline"]
        head += [title for title, _ in costs.values()] + ["made before, once"] * one_off
        rows = []
        for each in lines:
            name = contestant(run, each)
            name = f"**{name}**" if each["peer"] == OURS else f"{name} ⚠ **{AHEAD}**" if is_ahead(each, ours) else name
            low, high = min(each["images_per_s"]), max(each["images_per_s"])
            row = [
                name,
                f"**{rate(median(each))}**",
                f"{rate(low)} to {rate(high)}" if high > low else "",
                "1" if each is base else times(ratios(each, base)),
            ]
            row += ["" if each.get(cost) is None else how(each[cost]) for cost, (_, how) in costs.items()]
            if one_off:
                row.append("" if each.get("one_off_s") is None else f"{each['one_off_images']:,} images, {each['one_off_s']:.3g} s")  # fmt: skip
            rows.append(row)
        tables.append(Table(place(lines[0]), head, rows))
    return tables


def baseline(lines: Sequence[Record]) -> Record | None:
    """The line of DataLoader + PIL, where rows are generated with the eager generator behind it."""
    mine = [each for each in lines if each["peer"] == BASELINE and each.get("compaction") is not False]
    return next((each for each in mine if each.get("generator") in (None, "none", "eager")), None)


def training(run: Run) -> list[Table]:
    """Speed kept beside a constant batch, and the time that steps waited."""
    lines = run.of("training")
    tables = []
    fields = ("contest", "network", "size", "batch_size", "threads", "device", "allocator")
    for key in distinct(lines, *fields):
        group = [each for each in lines if tuple(each.get(name) for name in fields) == key]
        one = group[0]
        constant = statistics.median([rate for each in group for rate in each["constant_images_per_s"]])
        rows = [["one batch, again and again", "", rate(constant), "", "100 %", "", ""]]
        for each in group:
            kept = ratios_of(each["images_per_s"], each["constant_images_per_s"])
            predicted = "" if each.get("predicted_kept") is None else f"{100 * each['predicted_kept']:.0f} %"
            name = contestant(run, each)
            rows.append([f"**{name}**" if each["peer"] == OURS else name, f"{each['p']:g}", rate(median(each)), f"{rate(min(each['images_per_s']))} to {rate(max(each['images_per_s']))}", f"**{100 * each['kept']:.0f} %**" + (f" ({100 * min(kept):.0f} to {100 * max(kept):.0f} %)" if kept else ""), f"{100 * each['waiting']:.1f} %", predicted])  # fmt: skip
        title = f"{one['network']}, {one['size']} px, batch {one['batch_size']}, {where(one)}"
        head = ["fed by", "p", "images/s", "min to max", "speed kept", "waiting", "what the arithmetic leaves"]
        tables.append(Table(title, head, rows))
    return tables


def ratios_of(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Window by window, where there are as many of both."""
    return [a / b for a, b in zip(values, others, strict=True)] if len(values) == len(others) else []


def startup(run: Run) -> list[Table]:
    """Time to the first batch and memory, by the number of entries."""
    lines = run.of("startup")
    if not lines:
        return []
    sources = [source for (source,) in distinct(lines, "source")]
    tables = []
    for field, title, how in (
        ("first_batch_s", "Seconds to the first batch", lambda value: f"{value:.2f}"),
        ("memory_mb", "Memory beyond the caller's own, MB", lambda value: f"{value:,.1f}"),
    ):
        rows = []
        for entries in sorted({each["entries"] for each in lines}):
            of = {each["source"]: each.get(field) for each in lines if each["entries"] == entries}
            rows.append([f"{entries:,}", *("" if of.get(each) is None else how(of[each]) for each in sources)])
        tables.append(Table(title, ["entries", *sources], rows))
    return tables


# ---------------------------------------------------------------------- what was measured


def missing(run: Run) -> list[Table]:
    """Peers that were not measured, and why."""
    rows = [[plain(each["title"]), plain(each.get("reason"))] for each in run.of("peer", installed=False)]
    rows += [
        [
            plain(run.title(each["peer"])),
            f"delivers something else: {plain(each.get('note') or 'pixels or boxes differ')}",
        ]
        for each in run.of("contract", accepted=False)
    ]
    return [Table("Not measured", ["peer", "why"], rows, words=2)] if rows else []


def contract(run: Run) -> list[Table]:
    """How far each contestant's batches differ from the baseline's."""
    rows = []
    for each in run.of("contract"):
        levels = ["" if each.get(name) is None else f"{each[name]:.3g}" for name in ("largest_levels", "mean_levels")]
        boxes = {None: "", True: "yes", False: "no"}[each.get("same_boxes")]
        verdict = "yes" if each["accepted"] else "**no**"
        name, generator, note = plain(run.title(each["peer"])), plain(each.get("generator")), plain(each.get("note"))
        rows.append([name, generator, boxes, verdict, note, f"{each['p']:g}", *levels])
    head = ["peer", "generator", "same boxes", "accepted", "note", "p", "largest difference", "mean difference"]
    return [Table("Differences to DataLoader + PIL, in levels of 255", head, rows, words=5)] if rows else []


def settings(run: Run) -> list[Table]:
    """How each peer was set."""
    rows = [[plain(each.get(name)) for name in ("title", "version", "settings")] for each in run.of("peer", installed=True)]  # fmt: skip
    return [Table("Settings", ["peer", "version", "settings"], rows, words=3)] if rows else []


def stages(run: Run) -> list[Table]:
    """What each stage takes of an image by itself."""
    rows = []
    for each in run.of("stage"):
        cpu = each.get("cpu_s_per_image")
        cells = [f"{each['size']}", f"{each['threads']}", f"{1e3 * each['seconds_per_image']:.3g}"]
        rows.append([each["stage"], each.get("case") or "", *cells, "" if cpu is None else f"{1e3 * cpu:.3g}"])
    head = ["stage", "of", "px", "threads", "ms an image", "CPU ms an image"]
    return [Table("An image in each stage by itself", head, rows, words=2)] if rows else []


def machine(run: Run) -> list[tuple[str, str]]:
    """Where it was measured, as (name, value)."""
    facts: dict[str, Any] = run.machine
    names = ("date", "processor", "cores", "cpu_mhz", "memory_mb", "gpu", "gpu_clocks", "commit", "version", "data", "images", "files", "megapixels", "mean_kb", "instructions")  # fmt: skip
    units = {"cpu_mhz": "clock, MHz", "memory_mb": "memory, MB", "mean_kb": "mean file, KB"}
    found = [
        (units.get(name, name.replace("_", " ")), plain(facts[name])) for name in names if facts.get(name) is not None
    ]
    wide = [flag for flag in facts.get("cpu_flags") or [] if flag.startswith(("avx", "fma", "amx", "sse4"))]
    found += [("instructions it has", " ".join(wide))] if wide else []
    versions = facts.get("versions") or {}
    said = plain(", ".join(f"{name} {version}" for name, version in versions.items() if version is not None))
    return [*found, *([("versions", said)] if said else [])]
