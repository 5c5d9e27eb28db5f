"""A feature bank's folder: ``FeatureBank.open`` and what it reads later."""

import io
import struct
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dali_icgan.augment import bank_files as files
from dali_icgan.augment.bank import FeatureBank
from tests.fuzz.mutate import Random, change_bytes, change_json, change_packed, pack, unpack

MUTANTS = 20_000
NAMED = "mutant.bank"
_N, _DIM, _K = 12, 8, 3
_TELLING = (
    12,
    8,
    "float16",
    "float32",
    [],
    [[0, "a/0.jpg", "x"]],
    [[12, "x", "y"]],
    [["0", 1]],
    [0],
    [[0]],
    "a/0.jpg",
    4_000_000_000,
)


@cache
def _sound(dtype: str, absent: bool) -> bytes:
    random = np.random.default_rng(0)
    features = random.normal(size=(_N, _DIM))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(dtype)
    if absent:
        features[5] = 0
    keys, labels = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(_N)], np.arange(_N) % 2
    meta = {
        "version": files.VERSION,
        "name": "photographs",
        "root": None,
        "dataset_fingerprint": "d",
        "extractor_fingerprint": "e",
        "resolution": 32,
        "align_corners": False,
        "exif": False,
        "dtype": dtype,
        "n": _N,
        "dim": _DIM,
        "complete": True,
        "done": _N,
        "list_digest": files.digest_of_list(keys, labels),
        "absent": [[5, keys[5], "gone"]] if absent else [],
        "checked": None,
        "unit": True,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files.write_meta(folder, meta)
        (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
        np.save(folder / "labels.npy", labels)
        np.save(folder / "features.npy", features)
        opened = FeatureBank.open(folder)
        opened.neighbours(_K)
        opened.neighbours(_K, same_class=True)
        return pack({file.name: file.read_bytes() for file in sorted(folder.iterdir())})


def seeds() -> list[bytes]:
    return [_sound("float32", False), _sound("float16", True)]


def mutant(random: Random) -> bytes:
    return change_packed(random, _sound(*random.choice((("float32", False), ("float16", True)))), _changed)


def _changed(random: Random, name: str, data: bytes) -> bytes:
    if name.endswith(".json"):
        return change_json(random, data, _TELLING)
    how = random.randrange(6)
    if name.endswith(".npy") and how == 0:
        header = random.choice(
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (12, 8), }",
                "{'descr': '<f4', 'fortran_order': True, 'shape': (12, 8), }",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (12000000000, 8), }",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-12, 8), }",
                "{'descr': '<i8', 'fortran_order': False, 'shape': (12, 3), }",
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (12, 8), }",
                "__import__('os').system('touch /tmp/x')",
                "[" * 3000,
                "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 8)" + "," * 9000,
            )
        ).encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data[-300:]
    if name.endswith(".npy") and how == 1:
        values = np.load(io.BytesIO(data))
        values.reshape(-1)[random.randrange(values.size)] = random.choice((-1, 0, 1, 12, 100, -(2**15), 65504))
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()
    return change_bytes(random, data, tokens=(b"\n", b"\x00", b"\xff", b"<f8", b"|O", b"shape", b"True", b"(12,", b"}"))


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.mkdir(exist_ok=True)
    for file in path.iterdir():
        file.unlink()
    for name, content in unpack(data).items():
        (path / name).write_bytes(content)
    bank = FeatureBank.open(path)
    assert bank.n == len(bank.keys) == len(bank.labels)
    present = np.flatnonzero(bank.present)
    rows = bank.gather(present, "cpu")
    assert rows.shape == (len(present), bank.dim)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-4), "a row is not of unit length"
    bank.rows_of(bank.keys)
    repr(bank)
    _check_neighbours(bank)
    return "loaded"


def _check_neighbours(bank: FeatureBank) -> None:
    k = min(_K, int(bank.present.sum()) - 1)
    if k < 1:
        return
    for same_class in (False, True):
        near = bank.neighbours(k, same_class)
        assert near.shape == (bank.n, k)
        rows = np.flatnonzero(bank.present)
        row, place = np.nonzero(near[rows] >= 0)
        other = near[rows[row], place]
        assert same_class or len(other) == len(rows) * k, "a row lacks neighbours"
        assert (other < bank.n).all(), "a neighbour is none of the rows"
        assert (other != rows[row]).all(), "a row is its own neighbour"
        assert bank.present[other].all(), "a neighbour is absent"
        if same_class:
            assert (bank.labels[other] == bank.labels[rows[row]]).all(), "a neighbour is of another class"
