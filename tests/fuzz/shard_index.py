"""The index beside tar shards, which is a cache: whatever becomes of it, a folder's samples stay those of its tars."""

import io
import json
import os
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from dali_icgan.data import as_samples
from dali_icgan.data.shard_index import INDEX
from tests.fuzz.mutate import Random, change_bytes, change_json
from tests.fuzz.shard_tar import packed

MUTANTS = 20_000
NAMED = "mutant.shards"
_TELLING = ("0.tar", "../0.tar", "/etc/passwd", [["0.tar", 1, 1, 1]], [], 3, 2**40, "a", ["a", "b"])


@cache
def _tar() -> bytes:
    members = [
        (f"{'ab'[i % 2]}/{i}.{s}", d)
        for i in range(4)
        for s, d in (("jpg", b"\xff\xd8" * (i + 1)), ("cls", b"%d" % (i % 2)))
    ]
    return packed(members, tarfile.USTAR_FORMAT)


def _folder(path: Path) -> None:
    (path / "0.tar").write_bytes(_tar())
    # The index goes by size and time.
    os.utime(path / "0.tar", ns=(10**18, 10**18))


@cache
def _sound() -> tuple[bytes, tuple[tuple[str, int, bytes], ...]]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        _folder(path)
        samples = as_samples(path)
        rows = tuple((key, int(samples.labels[i]), samples.read(i)) for i, key in enumerate(samples.keys))
        return (path / INDEX).read_bytes(), rows


def seeds() -> list[bytes]:
    return [_sound()[0], b""]


def mutant(random: Random) -> bytes:
    """Damaged bytes; or a sound archive that says something else, but of labels and names, which only the tars know better."""
    data = _sound()[0]
    if random.random() < 0.5:
        return change_bytes(random, data, tokens=(b"PK\x01\x02", b"PK\x05\x06", b"<i8", b"|O", b"(4,)", b"\xff" * 8))
    with np.load(io.BytesIO(data)) as stored:
        arrays = dict(stored)
    name = random.choice(("offset", "size", "header", "end", "about", "about", "about"))
    if name == "about":
        arrays[name] = np.frombuffer(change_json(random, arrays[name].tobytes(), _TELLING), np.uint8)
    elif random.random() < 0.5:
        values = arrays[name].copy()
        values[random.randrange(len(values))] = random.choice((0, 1, 511, 2**31, 2**32 - 1))
        arrays[name] = values
    else:
        arrays[name] = random.choice(
            (
                arrays[name][:2],
                arrays[name].astype(np.float64),
                arrays[name][None],
                arrays[name] * 3,
                arrays[name][::-1],
            )
        )
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.mkdir(exist_ok=True)
    for file in path.iterdir():
        file.unlink()
    _folder(path)
    (path / INDEX).write_bytes(data)
    samples = as_samples(path)
    _, rows = _sound()
    assert len(samples) == len(rows), "it holds more or fewer samples than its tars"
    read = 0
    for i, (_key, label, image) in enumerate(rows):
        try:
            found = samples.read(i)
        except OSError:
            continue  # it is not where the index says, and the loader goes on to the next one
        if found == image:
            assert samples.labels[i] == label, "a label is not its image's"
            read += 1
    json.dumps(samples.classes)
    return "loaded" if read == len(rows) else "unreadable"
