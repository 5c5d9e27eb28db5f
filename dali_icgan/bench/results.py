"""A recorded run of ``dali-icgan bench``: bench.jsonl in its folder, checked as it is read.

The first line is of kind "machine", each other of a kind in :data:`FIELDS`; one that is unknown is of a newer version and is refused.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_icgan.documents import parse_json, shown

LINES = "bench.jsonl"
OURS = "dali_icgan"
Record = dict[str, Any]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _rates(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_positive, value))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _share(value: Any) -> bool:
    return _number(value) and value <= 1


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


_SAID: dict[Callable[[Any], bool], str] = {
    _number: "a number >= 0",
    _positive: "a positive number",
    _rates: "a list of positive numbers, one a window",
    _count: "an integer >= 0",
    _share: "a number in [0, 1]",
    _text: "a text",
    _flag: "true or false",
}
_CASE = {"case": _text, "generator": _text}
_PLACE = {"size": _count, "batch_size": _count, "threads": _count, "device": _text}
# Of each kind what a line must have, and what it may have or be null in.
FIELDS: dict[str, tuple[dict[str, Callable[[Any], bool]], dict[str, Callable[[Any], bool]]]] = {
    "machine": (
        {"date": _text, "processor": _text, "cores": _count},
        {"command": _text, "commit": _text, "version": _text, "gpu": _text, "memory_mb": _number, "megapixels": _number},
    ),
    "peer": ({"peer": _text, "title": _text, "installed": _flag}, {"version": _text, "reason": _text, "settings": _text}),
    "contract": (
        {"peer": _text, "p": _share, "accepted": _flag},
        {"largest_levels": _number, "mean_levels": _number, "same_boxes": _flag, "note": _text},
    ),
    "throughput": (
        {"contest": _text, "axis": _text, "peer": _text, "p": _share, **_PLACE, "images_per_s": _rates},
        {
            **_CASE,
            "source": _text,
            "compaction": _flag,
            "workers": _count,
            "allocator": _text,
            "cpu_s_per_1000": _number,
            "peak_rss_mb": _number,
            "gpu_memory_mb": _number,
            "joules_per_1000": _number,
            "first_batch_s": _number,
            "one_off_s": _number,
            "one_off_images": _count,
        },
    ),
    "training": (
        {"contest": _text, "peer": _text, "p": _share, "network": _text, **_PLACE, "images_per_s": _rates}
        | {"constant_images_per_s": _rates, "kept": _number, "waiting": _number},
        {**_CASE, "workers": _count, "allocator": _text, "predicted_kept": _number},
    ),
    "startup": ({"source": _text, "entries": _count, "first_batch_s": _number}, {"memory_mb": _number}),
    "stage": (
        {"stage": _text, **_PLACE, "seconds_per_image": _positive},
        {"case": _text, "bytes_per_image": _number, "cpu_s_per_image": _number, "windows": _rates, "cpu_windows": _rates},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: where it is.
        machine: its first line.
        records: the others.
        commands: what they were measured with; several where runs were put together, each with a line for its machine.
    """

    folder: Path
    machine: Record
    records: list[Record]
    commands: Sequence[str] = ()

    def of(self, kind: str, **wanted: Any) -> list[Record]:
        """The lines of a kind in which every field of ``wanted`` is as it says."""
        return [
            each
            for each in self.records
            if each["kind"] == kind and all(each.get(name) == value for name, value in wanted.items())
        ]

    def title(self, peer: str) -> str:
        """A peer's name for people."""
        return next((str(each["title"]) for each in self.of("peer", peer=peer)), peer)


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Args:
        folder: it, or its bench.jsonl itself.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a line is not as it must be; the message names it.
    """
    path = folder / LINES if folder.is_dir() else folder
    if not path.is_file():
        raise FileNotFoundError(f"{folder} must be the folder of a run of `dali-icgan bench`, got one without {LINES}")
    lines = path.read_bytes().splitlines()
    records = [checked(parse_json(line, f"{path}, line {i}"), f"{path}, line {i}") for i, line in enumerate(lines, 1)]
    if not records or records[0]["kind"] != "machine":
        raise ValueError(f'{path} must begin with a line of kind "machine", got {shown(records[:1])}')
    machines = [each for each in records if each["kind"] == "machine"]
    commands = [str(each["command"]) for each in machines if each.get("command")]
    return Run(path.parent, records[0], [each for each in records if each["kind"] != "machine"], commands)


def checked(record: Any, name: str) -> Record:
    """A line.

    Raises:
        ValueError: it is not as :data:`FIELDS` has it.
    """
    if not isinstance(record, dict) or record.get("kind") not in FIELDS:
        raise ValueError(f"{name} must be an object whose kind is one of {', '.join(FIELDS)}, got {shown(record)}")
    needed, possible = FIELDS[record["kind"]]
    for field, right in needed.items():
        if not right(record.get(field)):
            raise ValueError(f"{name}: {field} must be {_SAID[right]}, got {shown(record.get(field))}")
    for field, right in possible.items():
        if record.get(field) is not None and not right(record[field]):
            raise ValueError(f"{name}: {field} must be {_SAID[right]} or null, got {shown(record[field])}")
    return record


def distinct(records: Iterable[Record], *names: str) -> list[tuple[Any, ...]]:
    """The values of these fields that occur together, in the order in which they first do."""
    return list(dict.fromkeys(tuple(each.get(name) for name in names) for each in records))
