"""Time and memory until a loader's first batch, by the size of its dataset, which is synthetic: ``python -m dali_icgan.bench.startup``.

Of a list only those files are there that the first batches read; a folder has them all, as hard links to a few; shards have an index of
many rows over a small tar.
"""

import argparse
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dali_icgan.data import as_samples
from dali_icgan.data.decode import require_dali
from dali_icgan.data.folder_cache import CACHE
from dali_icgan.data.folder_index import SETTLED_NS
from dali_icgan.data.order import ShardedOrder
from dali_icgan.data.shard_index import INDEX, ShardIndex, open_index, write_index
from dali_icgan.data.shard_samples import Rows
from dali_icgan.data.shard_writer import LEAST_SIZE, write_shards
from dali_icgan.loader import DataLoader

SOURCES = ("list", "folder", "folder, scanned before", "shards")
CLASSES = 1000
BATCH_SIZE = 64
_READ_FIRST = 16  # batches whose files are there; a loader looks less far ahead
_LINKS = 50_000  # to one file: ext4 allows 65,000
_IN_TAR = 16
_MODULE = "dali_icgan.bench.startup"  # __name__ is not it where it is run


def prepare(source: str, entries: int, folder: Path) -> None:
    """Make what :func:`measure` opens: files below ``folder``, which is new or holds what an earlier call made.

    Raises:
        ValueError: no such source, or too few entries.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(map(repr, SOURCES))}, got {source!r}")
    if entries < CLASSES:
        raise ValueError(f"entries must be at least {CLASSES}, one a class, got {entries}")
    if source == "shards":
        _make_shards(entries, folder / "shards")
    elif source == "list":
        order = ShardedOrder(entries, BATCH_SIZE, False, True, 0, 0)
        read = order.indices(np.arange(min(_READ_FIRST * BATCH_SIZE, entries)))
        _make_files(folder / "list", [_name(index, entries) for index in read.tolist()])
    elif not (folder / "files").exists():
        _make_files(folder / "files", [_name(index, entries) for index in range(entries)])
        time.sleep(1.1 * SETTLED_NS / 1e9)  # a listing of folders that have just changed is not kept
    if source == "folder, scanned before":
        subprocess.run(
            [sys.executable, "-c", f"from dali_icgan.data import as_samples; as_samples({str(folder / 'files')!r})"],
            env=os.environ | {CACHE: str(folder / "cache")},
            check=True,
        )


def measure(source: str, entries: int, folder: Path) -> dict[str, Any]:
    """What a dataset of so many images, prepared in ``folder``, costs this process, which should be a fresh one.

    Returns:
        ``first_batch_s``: from making the loader to its first batch of 64, with shuffle; ``state_s``: the part of it that a
        ``state_dict()`` takes, for the fingerprint of all keys and labels; ``memory_mb``: how far resident memory rose at most meanwhile,
        beyond imports and the caller's list; ``per_entry_bytes``: what the loader's view of the dataset keeps allocated, by entry, by
        tracemalloc. A folder that was scanned before is kept from 10,000 entries on.
    """
    require_dali()  # imported when a loader is made
    dataset: Any = str(folder / ("shards" if source == "shards" else "files"))
    if source == "list":
        dataset = [
            (str(folder / "list" / _name(index, entries)), index * CLASSES // entries) for index in range(entries)
        ]
    os.environ[CACHE] = str(folder / "cache") if source == "folder, scanned before" else "off"
    gc.collect()
    before = _resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    begun = time.perf_counter()
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, seed=0, device="cpu", on_error="raise")
    made = time.perf_counter()
    loader.state_dict()
    state = time.perf_counter() - made
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - begun
    peak = _resident_mb("VmHWM")
    loader.close()
    tracemalloc.start()
    samples = as_samples(dataset)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "kind": "startup",
        "source": source,
        "entries": len(samples),
        "first_batch_s": round(first, 3),
        "state_s": round(state, 3),
        "memory_mb": round(peak - before, 1),
        "per_entry_bytes": round(held / len(samples), 1),
    }


def measure_apart(source: str, entries: int, folder: Path) -> dict[str, Any]:
    """:func:`prepare` here, then :func:`measure` in a process of its own."""
    prepare(source, entries, folder)
    done = subprocess.run(
        [sys.executable, "-m", _MODULE, "--measure", source, "--entries", str(entries), "--scratch", str(folder)],
        stdout=subprocess.PIPE,
        check=True,
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def _name(index: int, entries: int) -> str:
    return f"{index * CLASSES // entries:04d}/{index:08d}.jpg"


def _jpeg() -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def _make_files(root: Path, names: list[str]) -> None:
    for folder in sorted({os.path.dirname(name) for name in names}):
        (root / folder).mkdir(parents=True, exist_ok=True)
    original = root.with_name(f"{root.name}.jpg")
    for number, name in enumerate(names):
        if number % _LINKS == 0:
            original.unlink(missing_ok=True)
            original.write_bytes(_jpeg())
        if not (root / name).exists():
            os.link(original, root / name)


def _make_shards(entries: int, folder: Path) -> None:
    if not (folder / INDEX).exists():
        few_files = folder.with_name("few")
        _make_files(few_files, [f"a/{number}.jpg" for number in range(_IN_TAR)])
        write_shards(as_samples([(few_files / f"a/{n}.jpg", n) for n in range(_IN_TAR)]), folder, 100 * LEAST_SIZE)
    index = open_index(folder)
    (shard,), few = index.shards, index.rows
    names = [_name(row, entries).encode() for row in range(entries)]
    row = np.arange(entries)
    rows = Rows(
        few.offset[row % _IN_TAR],
        few.size[row % _IN_TAR],
        few.header[row % _IN_TAR],
        row * CLASSES // entries,
        b"".join(names),
        np.cumsum([len(name) for name in names]),
    )
    write_index(folder, ShardIndex([replace(shard, samples=entries)], rows, None))


def _resident_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status must have {field}: startup is measured on Linux only")


def main() -> None:
    """One line of JSON a case."""
    parser = argparse.ArgumentParser(prog="python -m dali_icgan.bench.startup", description=__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6, 1_281_167, 10**7])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--most-files", type=int, default=1_281_167, help="of a folder; larger ones are left out")
    parser.add_argument("--scratch", type=Path, help="a folder with room for as many inodes; default: a temporary one")
    parser.add_argument("--measure", choices=SOURCES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.entries[0], given.scratch)), flush=True)
        return
    for entries in given.entries:
        with tempfile.TemporaryDirectory(prefix="startup-", dir=given.scratch) as folder:
            for source in given.sources:
                if not source.startswith("folder") or entries <= given.most_files:
                    print(json.dumps(measure_apart(source, entries, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
