"""Official stored instances: a pickled dictionary in a NumPy file, read without running it."""

import io
import pickle
from functools import cache
from pathlib import Path

import numpy as np

from dali_icgan.models.checkpoint import read_stored_instances
from tests.fuzz.mutate import Random, change_bytes

MUTANTS = 20_000
NAMED = "mutant.npy"
_TOKENS = (
    *(
        b"cos\nsystem\n(S'touch /tmp/x'\ntR.",
        b"cbuiltins\neval\n",
        b"cbuiltins\nexec\n",
        b"cposix\nsystem\n",
        b"cnt\nsystem\n",
    ),
    *(
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"cnumpy.core.multiarray\nscalar\n",
        b"cnumpy._core.multiarray\n_reconstruct\n",
        b"c_codecs\nencode\n",
    ),
    *(
        b"(",
        b".",
        b"0",
        b"1",
        b"2",
        b"R",
        b"b",
        b"o",
        b"i",
        b"\x81",
        b"\x92",
        b"\x93",
        b"\x94",
        b"Q",
        b"h\x00",
        b"j\xff\xff\xff\xff",
        b"a",
        b"e",
    ),
    *(
        b"s",
        b"u",
        b"d",
        b"l",
        b"t",
        b"}",
        b"]",
        b")",
        b"N",
        b"\x80\x02",
        b"\x80\x05",
        b"\x8a\xff",
        b"\x95" + b"\xff" * 8,
        b"K\x04",
        b"\x88",
    ),
    *(
        b"J\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x7f",
        b"X\xff\xff\xff\x7f",
        b"B\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"U999999999",
    ),
    *(
        b"f8",
        b"i8",
        b"O8",
        b"S999999999",
        b"L" + b"9" * 5000 + b"L\n",
        b"I99999999999999999999\n",
        b"\x96" + b"\xff" * 7 + b"\x7f",
    ),
)


@cache
def _seeds() -> list[bytes]:
    random, found = np.random.default_rng(0), []
    content = {
        "instance_features": random.normal(size=(4, 3)).astype(np.float32),
        "labels": np.arange(4),
        "image_path": [f"n{i}.JPEG" for i in range(4)],
    }
    for protocol in (0, 2, 4, 5):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        stream.write(pickle.dumps(np.array(content, dtype=object), protocol))
        if protocol != 5 and protocol != 0:
            found.append(stream.getvalue())
    return found


def seeds() -> list[bytes]:
    return _seeds()


def mutant(random: Random) -> bytes:
    data = random.choice(_seeds())
    if random.random() < 0.1:
        return change_bytes(random, data[:128], _seeds(), _TOKENS) + data[128:]
    if random.random() < 0.02:
        return (
            data[:128]
            + b"(" * random.choice((100, 100_000))
            + b"]" * 10
            + b"\x85" * random.choice((100, 100_000))
            + b"."
        )
    return data[:128] + change_bytes(random, data[128:], [seed[128:] for seed in _seeds()], _TOKENS)


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.write_bytes(data)
    stored = read_stored_instances(path)
    assert len(stored.features) == len(stored.labels) == len(stored.paths)
    return "loaded"
