"""Folders of photographs, and tars as other tools write them, for tests."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from dali_icgan.data import as_samples
from dali_icgan.data.shard_writer import write_shards


def make_shards(folder: Path, out: Path, size: int = 60_000) -> Path:
    """The folder as shards; they hold some 5 of its images each."""
    write_shards(as_samples(folder), out, size)
    return out


def make_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar by Python's own writer."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
