"""The kept listing of a folder, which is a cache: whatever becomes of it, the folder's images stay those that are there."""

import io
import json
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from dali_icgan.data import folder_cache, folder_index
from dali_icgan.data.folder_cache import cache_file, open_folder
from tests.fuzz.mutate import Random, change_bytes, change_json

MUTANTS = 20_000
NAMED = "mutant.photos"
_ROOT = "/photos"
_FILES = ("a/1.jpg", "a/größe.png", "b/2.jpg", "b/c/1.jpg", "b/d/readme.txt", "e/1.jpg")
_TELLING = ("/", _ROOT, "/etc/passwd", [".jpg"], [], 3, 2**40, "a", ["a", "b"])

# Every folder is as it was listed, or all that is kept would be passed over; and small ones are kept.
folder_index.status_of = lambda found: (0,) * 5  # type: ignore[assignment]
folder_index.SETTLED_NS = -(10**18)
folder_cache.LEAST_IMAGES = 0
_about = folder_cache._about
folder_cache._about = lambda root: _about(_ROOT)  # it lies in a folder of another name in each process


@cache
def _folder(path: Path) -> Path:
    for file in _FILES:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).touch()
    return path


@cache
def _sound() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "kept.npz"
        folder_cache._write(file, name, folder_index.index_folder(str(_folder(Path(name) / "photos")), {}).listings)
        return file.read_bytes()


def seeds() -> list[bytes]:
    return [_sound(), b""]


def mutant(random: Random) -> bytes:
    """Damaged bytes; or a sound archive that says something else, but of names and whose they are, which only the folder knows better."""
    data = _sound()
    if random.random() < 0.5:
        return change_bytes(random, data, tokens=(b"PK\x01\x02", b"PK\x05\x06", b"<u8", b"|O", b"(6,)", b"\xff" * 8))
    with np.load(io.BytesIO(data)) as stored:
        arrays = dict(stored)
    name = random.choice(("status", "counts", "paths", "folders", "images", "about", "about", "about"))
    if name == "about":
        arrays[name] = np.frombuffer(change_json(random, arrays[name].tobytes(), _TELLING), np.uint8)
    elif name == "status" and random.random() < 0.5:
        arrays[name] = arrays[name] + random.choice((1, 2**31, 2**63))
    else:
        arrays[name] = random.choice(
            (
                arrays[name][:2],
                arrays[name].astype(np.float64),
                arrays[name][None],
                np.concatenate([arrays[name], arrays[name]]),
                arrays[name] + arrays[name].dtype.type(7),
            )
        )
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def check(data: bytes, folder: Path) -> str:
    os.environ[folder_cache.CACHE] = str(folder / "cache")
    path = _folder(folder / NAMED)
    file = cache_file(str(path))
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    known = folder_cache._stored(file, str(path))
    index = open_folder(str(path))
    names = [name.removeprefix(f"{path}/") for name in index.paths]
    assert names == [name for name in _FILES if not name.endswith(".txt")], "other images than there are"
    assert [index.classes[label] for label in index.labels] == [name[0] for name in names], "a label is not its image's"
    json.dumps(sorted(known))
    return "loaded" if len(known) == len(index.listings) else "listed again"
