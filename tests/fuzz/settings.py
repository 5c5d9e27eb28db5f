"""``dali-icgan train --config FILE``."""

import json
from dataclasses import asdict
from pathlib import Path

import yaml

from dali_icgan.training.run import Training
from tests.fuzz.mutate import Random, change_bytes, change_tree

MUTANTS = 20_000
NAMED = "mutant.yaml"
_TREE = json.loads(json.dumps(asdict(Training())))
_SHORT = {
    "gan": {"resolution": 64, "attention": [16], "betas": [0.0, 0.99], "clip": 1},
    "extractor": {"depths": [1, 2]},
    "exif": True,
}
_TELLING = (
    "power",
    "translation",
    "1e-4",
    32,
    64,
    128,
    256,
    [8, 16],
    "0x7fffffff",
    "2001-99-99",
    "0o7",
    "1_0",
    "~",
    "=",
    "<<",
)
_TOKENS = (
    *(
        b"!!python/object/apply:os.system [touch /tmp/x]",
        b"!!python/name:os.system",
        b"!!python/object/new:os.system [x]",
        b"!!binary x",
    ),
    *(
        b"&a [*a]",
        b"*a",
        b"&a ",
        b"<<: *a",
        b"!!set",
        b"!!omap",
        b"!!timestamp 2001-99-99",
        b"- ",
        b": ",
        b"? ",
        b"%YAML 9.9\n",
        b"---\n",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"\t",
        b"\x00",
        b"\xff",
        b"#",
        b"|",
        b">",
        b"'",
        b'"',
        b"0x" + b"f" * 6000,
        b"1" * 5000,
        b"190:20:30",
        b".inf",
    ),
)
_BOMB = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)) + "gan: {policies: *a40}\n"


def seeds() -> list[bytes]:
    return [_written(_TREE), _written(_SHORT), b""]


def _written(tree: object) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def mutant(random: Random) -> bytes:
    tree, how = _TREE if random.random() < 0.15 else _SHORT, random.randrange(100)
    if how == 0:
        return b"gan: " + b"[" * random.choice((10, 300, 2000))
    if how == 1:
        return change_bytes(random, _BOMB.encode()) if random.random() < 0.5 else _BOMB.encode()
    if how < 40:
        return change_bytes(random, _written(tree), tokens=_TOKENS)
    return _written(change_tree(random, tree, _TELLING))


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.write_bytes(data)
    training = Training.read(path)
    again = json.loads(json.dumps(asdict(training)))
    assert Training.from_mapping(again) == training
    return "loaded"
