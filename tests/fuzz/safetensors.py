"""Checkpoints in safetensors, of our own and of others."""

import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save

from dali_icgan.models.checkpoint import read_checkpoint, write_checkpoint
from tests.fuzz.checkpoint import small_extractor, small_generator
from tests.fuzz.models import check_model
from tests.fuzz.mutate import Random, change_bytes, change_json, change_tree

MUTANTS = 20_000
NAMED = "mutant.safetensors"
_TELLING = (
    *(
        "F32",
        "F16",
        "BF16",
        "F64",
        "I64",
        "BOOL",
        "F8_E4M3",
        "U8",
        [0, 4],
        [0, 0],
        [4, 0],
        [0, 2**63],
        [2**64 - 1, 0],
        [],
        [0],
        [4, 4],
    ),
    *(
        [10**6, 10**6],
        "generator",
        "extractor",
        "basic",
        "bottleneck",
        32,
        64,
        256,
        10**9,
        [1, 1],
        [10**9],
        [1] * 60,
        2.5,
        "32",
        True,
    ),
    *(
        "layer1.999999999.conv1.weight",
        "layer999999999.0.conv1.weight",
        "blocks.0.1.gamma",
        "__metadata__",
        "dali_icgan",
    ),
)


@cache
def _seeds() -> list[bytes]:
    found = []
    for tree in (small_generator(), small_extractor()):
        tensors = {name: tensor for name, tensor in tree.items() if tensor.is_floating_point()}
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "x.safetensors"
            write_checkpoint(path, read_checkpoint(tensors))
            found += [path.read_bytes(), save(tensors)]
    return found


def seeds() -> list[bytes]:
    return _seeds()


def mutant(random: Random) -> bytes:
    data, how = random.choice(_seeds()), random.randrange(10)
    if how < 2:
        return change_bytes(random, data, _seeds(), (b'"F16"', b'"dtype"', b"NaN", b"\x00\x00\xc0\x7f", b"}", b'\\"'))
    size = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + size], data[8 + size :]
    changed = change_json(random, header, _TELLING) if how < 4 else _changed(random, json.loads(header), how)
    length = len(changed) if random.random() < 0.9 else random.choice((0, len(changed) - 1, 2**32, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + changed + (body if random.random() < 0.9 else change_bytes(random, body))


def _changed(random: Random, header: dict[str, Any], how: int) -> bytes:
    own = header.get("__metadata__", {}).get("dali_icgan")
    if own is not None and how < 8:
        # What a file of our own says of itself is JSON in JSON.
        words = change_json(random, own.encode(), _TELLING).decode("utf-8", "replace")
        header = header | {"__metadata__": {"dali_icgan": words}}
        return json.dumps(header).encode("utf-8", "surrogatepass")
    name = random.choice(sorted(header))
    return json.dumps(header | {name: change_tree(random, header[name], _TELLING)}).encode("utf-8", "surrogatepass")


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.write_bytes(data)
    return check_model(path, folder)
