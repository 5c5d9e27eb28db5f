"""Tables of forms: ``load_generator(..., forms=FILE)``."""

import json
from pathlib import Path

import torch

from dali_icgan.engine.forms import SHIPPED, Forms
from tests.fuzz.mutate import Random, as_json, change_json

MUTANTS = 20_000
NAMED = "mutant.json"
_SMALL = {
    "avx512 float32": {"3x3 64->64 @32": 4, "2x2 8->8 @8": 1},
    "avx2 float32": {"3x3 4->4 @16": 2},
    "generic float64": {},
}
_TELLING = ("avx2 float32", "3x3 1->1 @1", "2x2 1->1 @1", "9x9 1->1 @1", "avx512_bf16 bfloat16", 5, 6)


def seeds() -> list[bytes]:
    return [SHIPPED.read_bytes(), as_json(_SMALL), b"{}"]


def mutant(random: Random) -> bytes:
    return change_json(random, as_json(_SMALL) if random.random() < 0.8 else SHIPPED.read_bytes(), _TELLING)


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.write_bytes(data)
    forms = Forms.of(torch.float32, path)
    for size in (8, 32):
        for r, tiles in ((3, (1, 2, 3, 4, 5, 6)), (2, (1, 2, 3, 4, 5))):
            assert type(forms.tile(r, 64, 64, size)) is int
            assert forms.tile(r, 64, 64, size) in tiles
    again = json.loads(json.dumps(forms.table()))
    assert Forms.of(torch.float32, again).table() is not None
    return "loaded"
