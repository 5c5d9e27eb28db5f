"""A dataset written as tar shards, which WebDataset and DALI read too."""

import fcntl
import io
import itertools
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dali_icgan.data.dataset import Samples
from dali_icgan.data.shard_index import INDEX, ShardIndex, index_folder, write_index
from dali_icgan.data.shard_samples import IMAGES, LABEL, PATH, split_name
from dali_icgan.data.tar import BLOCK, TarReader

LEAST_SIZE = tarfile.RECORDSIZE  # what an empty tar takes
_PART = ".part"
_READ_AHEAD = 32  # files
_MOST_SHARDS = 10**6

_log = logging.getLogger("dali_icgan")


def write_shards(
    samples: Samples, out: str | os.PathLike[str], size: int, advance: Callable[[int], None] = lambda count: None
) -> ShardIndex:
    """Write a dataset as tars ``shard-000000.tar``, ..., in its order, with an index of ours and a DALI index (``.idx``) each.

    An image is the member ``<key>.<extension>``, its label ``<key>.cls``. The key is the relative path without its extension; where that
    cannot be (a dot in the name, a key that another image has), a key that can be, and the path in ``<key>.relpath``.

    Args:
        samples: the dataset.
        out: a folder that is new or empty. Everything is written into a folder within it and comes to its place at the end, the index
            first, so that what a stop leaves behind is never taken for the whole.
        size: bytes that a tar may have; an image that takes more has a tar of its own.
        advance: told how many images were written.

    Returns:
        the index, read back from the tars.

    Raises:
        ValueError: ``size`` is too small; ``out`` holds something; two samples have one path.
        OSError: an image cannot be read (the message names it), or a tar cannot be written; ``out`` is left as it was.
        RuntimeError: what was written is not what was to be written, or another process writes there.
    """
    if size < LEAST_SIZE:
        raise ValueError(f"size must be at least {LEAST_SIZE} bytes, which an empty tar has, got {size}")
    keys = samples.keys
    if len(set(keys)) < len(keys):
        twice = next(key for key, before in zip(sorted(keys)[1:], sorted(keys), strict=False) if key == before)
        raise ValueError(f"dataset must hold each image once, got {twice} twice")
    folder = Path(out)
    made = not folder.exists()
    if not made and not folder.is_dir():
        raise ValueError(f"out must be a folder that is new or empty, got {folder}, which is a file")
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _take_over(folder, lock)
        part = folder / _PART
        try:
            part.mkdir()
            names = _write_tars(samples, keys, part, size, advance)
            index = index_folder(part)
            _check(samples, keys, index)
            for name in names:
                _write_dali_index(part / name)
            write_index(part, index)
            _sync_folder(part)
            for name in sorted(os.listdir(part), key=lambda name: (name != INDEX, name)):
                os.rename(part / name, folder / name)
            _sync_folder(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if made and not os.listdir(folder):
                folder.rmdir()
    finally:
        os.close(lock)
    return index


def member_names(path: str, taken: set[str]) -> tuple[str, bool]:
    """The name under which an image goes into a tar, and whether its path must be kept beside it.

    Args:
        path: relative, with forward slashes.
        taken: keys that others have; this one's is added.
    """
    parent, slash, name = path.rpartition("/")
    stem, _, extension = name.rpartition(".")
    split = split_name(path)
    plain = split is not None and split[0] == f"{parent}{slash}{stem}" and split[1] in IMAGES
    if not plain:
        if not stem or extension.lower() not in IMAGES:
            stem, extension = name, "img"
        # WebDataset passes over a first folder such as __this__.
        first, rest_slash, rest = parent.partition("/")
        parent = re.sub(r"^__(.*)__$", r"\1_", first) + rest_slash + rest
        stem = stem.replace(".", "_")
    key = wanted = f"{parent}{slash}{stem}"
    for number in itertools.count(2):
        if key not in taken:
            break
        key, plain = f"{wanted}_{number}", False
    taken.add(key)
    return f"{key}.{extension}", not plain


def _take_over(folder: Path, lock: int) -> None:
    """Make sure that nobody else writes there and that nothing is there but what a stopped run left."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError(f"{folder} is being written by another process") from None
    there = sorted(os.listdir(folder))
    if there == [_PART]:
        _log.warning("%s: what a stopped run left is removed", folder)
        shutil.rmtree(folder / _PART)
    elif _PART in there:
        raise ValueError(f"out must be new or empty, got {folder}, where a run was stopped near its end: remove it")
    elif there:
        what = "which holds shards already" if INDEX in there else f"which holds {there[0]}"
        raise ValueError(f"out must be a folder that is new or empty, got {folder}, {what}")


def _write_tars(
    samples: Samples, keys: Sequence[str], folder: Path, size: int, advance: Callable[[int], None]
) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    tar: io.BufferedWriter | None = None
    try:
        for index, data in _read_all(samples):
            name, keep_path = member_names(keys[index], taken)
            key = name.rpartition(".")[0]
            blocks = [*_member(name, data), *_member(f"{key}.{LABEL}", b"%d" % samples.labels[index])]
            if keep_path:
                blocks += _member(f"{key}.{PATH}", keys[index].encode("utf-8", "surrogateescape"))
            if tar is not None and _closed_size(tar.tell() + sum(map(len, blocks))) > size:
                _close(tar)
                tar = None
            if tar is None:
                if len(names) == _MOST_SHARDS:
                    raise ValueError(f"size must make at most {_MOST_SHARDS} shards, got {size} bytes")
                names.append(f"shard-{len(names):06d}.tar")
                tar = (folder / names[-1]).open("wb")
            tar.writelines(blocks)
            advance(1)
        if tar is not None:
            _close(tar)
    finally:
        if tar is not None:
            tar.close()
    return names


def _read_all(samples: Samples) -> Iterator[tuple[int, bytes]]:
    """Every sample's index and bytes, in order, several files read at once."""

    def read(index: int) -> bytes:
        try:
            return samples.read(index)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), samples.path(index)) from error

    with ThreadPoolExecutor(8, thread_name_prefix="dali_icgan-shard") as pool:
        for begin in range(0, len(samples), _READ_AHEAD):
            indices = range(begin, min(begin + _READ_AHEAD, len(samples)))
            yield from zip(indices, pool.map(read, indices), strict=True)


def _member(name: str, data: bytes) -> list[bytes]:
    """A member's header, its bytes and what fills up its last block."""
    info = tarfile.TarInfo(name)
    info.size = len(data)  # owner, time and mode stay the same, and so do the tar's bytes
    # GNU's long names, not pax records: DALI without its index does not read those.
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return [header, data, bytes(-len(data) % BLOCK)]


def _closed_size(size: int) -> int:
    return -(-(size + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _close(tar: io.BufferedWriter) -> None:
    tar.write(bytes(_closed_size(tar.tell()) - tar.tell()))
    tar.flush()
    os.fsync(tar.fileno())
    tar.close()


def _check(samples: Samples, keys: Sequence[str], index: ShardIndex) -> None:
    rows = index.rows
    same = len(rows) == len(samples) and (rows.label == samples.labels).all()
    if not same or any(rows.name(i) != key.encode("utf-8", "surrogateescape") for i, key in enumerate(keys)):
        raise RuntimeError("the tars that were written do not hold the dataset in its order")


def _write_dali_index(path: Path) -> None:
    """What fn.readers.webdataset takes as index_paths: a line a sample, extension, offset, size and name of each member."""
    lines: list[list[str]] = []
    last = None
    with TarReader(str(path)) as tar:
        members = list(tar.members())
    # Version 1.2 has names, which DALI splits at white space; it only shows them.
    named = not any(re.search(r"\s", member.name) for member in members)
    for member in members:
        begin = member.name.index(".", member.name.rfind("/") + 1)
        if member.name[:begin] != last:
            lines.append([])
            last = member.name[:begin]
        lines[-1] += [member.name[begin + 1 :], str(member.offset), str(member.size), *([member.name] if named else [])]
    text = f"v1.{2 if named else 1} {len(lines)}\n" + "".join(" ".join(line) + "\n" for line in lines)
    path.with_suffix(".idx").write_text(text, encoding="utf-8", errors="surrogateescape")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
