"""The index of a folder of tars: where each sample lies, in one file that can always be made again from the tars."""

import json
import logging
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dali_icgan.data.shard_samples import Rows, read_samples
from dali_icgan.data.tar import BLOCK, TarReader

INDEX = "dali_icgan_index.npz"
_FORMAT = 1
_ARRAYS = {"offset": np.int64, "size": np.int64, "header": np.uint32, "label": np.int64, "end": np.int64}

_log = logging.getLogger("dali_icgan")


@dataclass(frozen=True)
class Shard:
    """A tar as it was when it was indexed.

    Attributes:
        name: within the folder.
        size: in bytes.
        mtime_ns: when it was changed last.
        samples: how many it holds.
    """

    name: str
    size: int
    mtime_ns: int
    samples: int


@dataclass(eq=False)
class ShardIndex:
    """The samples of a folder's tars: those of the first tar, then those of the second, and so on.

    Attributes:
        shards: by name.
        rows: one a sample.
        classes: names by label, where paths begin with one name a label; else None.
    """

    shards: list[Shard]
    rows: Rows
    classes: list[str] | None


def tars_in(folder: str | os.PathLike[str]) -> list[str]:
    """The names of a folder's tars, in their order."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".tar") and entry.is_file())


def open_index(folder: Path) -> ShardIndex:
    """The index of a folder. What is missing, damaged or not of these tars is made again from their headers, which the log says.

    Raises:
        FileNotFoundError: a tar that the index names is missing.
        ValueError: a tar is damaged, or its samples are not as they must be.
        OSError: a tar cannot be read.
    """
    names = tars_in(folder)
    stored = _stored(folder)
    before: dict[str, tuple[Shard, Rows]] = {}
    if stored is not None:
        begin = 0
        for shard in stored.shards:
            before[shard.name] = shard, stored.rows.part(begin, begin + shard.samples)
            begin += shard.samples
        missing = sorted(before.keys() - set(names))
        if missing:
            raise FileNotFoundError(
                f"{folder} must hold the {len(before)} tars of its index, got none named {', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}: put back what is missing, or remove {INDEX} to go on "
                "without"
            )
    else:
        _warn_of_gaps(folder, names)
    shards, parts, changed = [], [], []
    for name in names:
        known = before.get(name)
        status = os.stat(folder / name)
        # A label may be changed without any header: whatever has another time is read again, copies too.
        if known is None or (known[0].size, known[0].mtime_ns) != (status.st_size, status.st_mtime_ns):
            known = index_tar(folder / name)
            changed.append(name)
        shards.append(known[0])
        parts.append(known[1])
    if stored is not None and not changed:
        return stored
    if stored is not None:
        _log.warning("%s: %s not as the index has it by size and time: indexed again", folder, _listed(changed))
    index = _joined(folder, shards, parts)
    try:
        write_index(folder, index)
    except OSError as error:
        _log.warning(
            "%s: the index cannot be kept (%s), so the next loader makes it again", folder, error.strerror or error
        )
    return index


def index_tar(path: Path) -> tuple[Shard, Rows]:
    """The samples of one tar; errors as of :func:`open_index`."""
    with TarReader(str(path)) as tar:
        rows = read_samples(tar)
        return Shard(path.name, tar.size, tar.mtime_ns, len(rows)), rows


def index_folder(folder: Path) -> ShardIndex:
    """The index made from all tars, whatever is stored; errors as of :func:`open_index`."""
    found = [index_tar(folder / name) for name in tars_in(folder)]
    return _joined(folder, [shard for shard, _ in found], [rows for _, rows in found])


def write_index(folder: Path, index: ShardIndex) -> None:
    """Store the index: whole or not at all, whoever else does the same."""
    about = {
        "format": _FORMAT,
        "shards": [[s.name, s.size, s.mtime_ns, s.samples] for s in index.shards],
        "classes": index.classes,
    }
    arrays = {name: getattr(index.rows, name) for name in _ARRAYS}
    texts = {"about": json.dumps(about).encode(), "names": index.rows.names}
    descriptor, scratch = tempfile.mkstemp(".new", INDEX, folder)
    try:
        with open(descriptor, "wb") as file:
            np.savez(file, **arrays, **{name: np.frombuffer(text, np.uint8) for name, text in texts.items()})  # type: ignore[arg-type]
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(scratch, folder / INDEX)
    except BaseException:
        os.unlink(scratch)
        raise


def _stored(folder: Path) -> ShardIndex | None:
    try:
        return _read(folder / INDEX)
    except FileNotFoundError:
        _log.warning("%s has no index: it is made from the tars' headers", folder)
    except Exception as error:  # zip, zlib, NumPy and JSON raise many kinds
        _log.warning("%s is damaged (%s): it is made again from the tars' headers", folder / INDEX, error)
    return None


def _read(file: Path) -> ShardIndex:
    with np.load(file, allow_pickle=False) as stored:
        about: Any = json.loads(stored["about"].tobytes())
        arrays = {name: stored[name] for name in _ARRAYS}
        rows = Rows(**arrays, names=stored["names"].tobytes())
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']}, not {_FORMAT}")
    shards = [Shard(*each) for each in about["shards"]]
    classes = about["classes"]
    kinds = [(str, int, int, int)] * len(shards)
    names = [shard.name for shard in shards]
    if (
        [tuple(map(type, each)) for each in about["shards"]] != kinds
        or "/" in "".join(names)
        or len(set(names)) < len(names)
    ):
        raise ValueError("its list of tars is not one")
    if classes is not None and (not isinstance(classes, list) or not all(isinstance(name, str) for name in classes)):
        raise ValueError("its classes are no names")
    n = sum(shard.samples for shard in shards)
    for name, dtype in _ARRAYS.items():
        if arrays[name].dtype != dtype or arrays[name].shape != (n,):
            raise ValueError(f"its {name} must be {np.dtype(dtype)} [{n}]")
    limits = np.repeat([shard.size for shard in shards], [shard.samples for shard in shards])
    ends = np.concatenate([[0], rows.end])
    if (np.diff(ends) < 0).any() or ends[-1] != len(rows.names):
        raise ValueError("its names do not end where they should")
    if (rows.size < 0).any() or (rows.offset < BLOCK).any() or (rows.offset > limits - rows.size).any():
        raise ValueError("it has samples outside of their tars")
    if classes is not None and n and not 0 <= rows.label.min() <= rows.label.max() < len(classes):
        raise ValueError("its labels are not of its classes")
    return ShardIndex(shards, rows, classes)


def _joined(folder: Path, shards: list[Shard], parts: list[Rows]) -> ShardIndex:
    rows = Rows.joined(parts)
    paths = [rows.name(row) for row in range(len(rows))]
    _check_unique(folder, shards, paths)
    return ShardIndex(shards, rows, _classes(paths, rows.label.tolist()))


def _check_unique(folder: Path, shards: Sequence[Shard], paths: list[bytes]) -> None:
    if len(set(paths)) == len(paths):
        return
    starts = np.cumsum([0, *(shard.samples for shard in shards)])
    seen: dict[bytes, int] = {}
    for row, path in enumerate(paths):
        if path in seen:
            first, second = (shards[int(np.searchsorted(starts, r, "right")) - 1].name for r in (seen[path], row))
            raise ValueError(
                f"{folder} must hold each sample once, got {path.decode('utf-8', 'replace')} in {first} and in {second}"
            )
        seen[path] = row


def _classes(paths: list[bytes], labels: list[int]) -> list[str] | None:
    """Names by label: the paths' first folders, where each is one label's and no label is left out."""
    pairs = {(label, path.partition(b"/")[0]) for path, label in zip(paths, labels, strict=True) if b"/" in path}
    if len(pairs) != len(set(labels)) or any(b"/" not in path for path in paths):
        return None
    ordered = sorted(pairs)
    if [label for label, _ in ordered] != list(range(len(ordered))) or len({name for _, name in ordered}) < len(
        ordered
    ):
        return None
    return [name.decode("utf-8", "surrogateescape") for _, name in ordered]


def _warn_of_gaps(folder: Path, names: Sequence[str]) -> None:
    """Without an index a missing tar shows only in the numbering."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for name in names:
        found = re.fullmatch(r"(.*?)(\d+)\.tar", name)
        if found:
            numbers[found[1]].append(int(found[2]))
    for prefix, there in numbers.items():
        first, last = min(*there, 1), max(there)
        if len(there) == 1 or last - first >= 4 * len(there):
            continue  # no numbering: a date, perhaps
        lacking = sorted(set(range(first, last)) - set(there))
        if lacking:
            said = f"tars {prefix}* are numbered up to {last}, without {lacking[0]}: is one missing?"
            _log.warning("%s: %s", folder, said)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"
