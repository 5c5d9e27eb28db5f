"""``dali-icgan preview --class-map FILE``."""

from pathlib import Path

import numpy as np

from dali_icgan.augment.classes import checked_class_map
from dali_icgan.cli.preview import read_class_map
from dali_icgan.data import Samples
from tests.fuzz.mutate import Random, as_json, change_json

MUTANTS = 20_000
NAMED = "mutant.json"
_NAMES = ["cat", "dog", "élan"]
_SAMPLES = Samples(["cat/1.jpg", "dog/1.jpg", "élan/1.jpg"], np.arange(3), "photographs", _NAMES, "photographs")
_SOUND = as_json({"cat": 281, "dog": 207, "élan": 0})


def seeds() -> list[bytes]:
    return [_SOUND]


def mutant(random: Random) -> bytes:
    return change_json(random, _SOUND, (281, 207, *_NAMES))


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.write_bytes(data)
    found = checked_class_map(read_class_map(path, _SAMPLES))
    assert found.shape == (3,)
    return "loaded"
