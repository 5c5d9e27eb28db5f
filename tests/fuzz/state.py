"""A loader's state, as a checkpoint of somebody's training holds it: ``DataLoader.load_state_dict``."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler

import dali_icgan as di
from tests.fuzz.mutate import Random, change_json
from tests.photos import jpeg, patch
from tests.untrained import FOLDER

MUTANTS = 20_000
NAMED = "state"
_COUNT = 11
_TELLING = (
    0,
    3,
    6,
    11,
    12,
    2**40,
    2**63,
    2**64 - 1,
    -(2**63),
    -(2**63) - 1,
    "own",
    "sampler",
    "ab",
    "zz",
    "00" * 16,
    {"generator": {}},
)
_FILES = [(jpeg(patch("coffee", i)[:20, :20]), 10 + i) for i in range(_COUNT)]


class _Samplers:
    """The three kinds of order: our own, a sampler's with a generator, a batch sampler's."""

    @staticmethod
    def own() -> dict[str, Any]:
        return {"batch_size": 3, "shuffle": True}

    @staticmethod
    def sampler() -> dict[str, Any]:
        return {"batch_size": 3, "sampler": RandomSampler(_FILES, generator=torch.Generator().manual_seed(7))}

    @staticmethod
    def batches() -> dict[str, Any]:
        return {"batch_sampler": [[i, (i + 1) % _COUNT] for i in range(0, _COUNT, 2)]}


_ORDERS = ("own", "sampler", "batches")


@cache
def _augment() -> di.DAICGAN:
    generator = di.load_generator(FOLDER / "generator.safetensors", device="cpu")
    extractor = di.load_extractor(FOLDER / "extractor.safetensors", device="cpu")
    return di.DAICGAN(generator=generator, extractor=extractor, p=0.3, microbatch=2)


def _loader(order: str) -> di.DataLoader:
    augment = _augment() if order == "own" else None
    settings = getattr(_Samplers, order)()
    return di.DataLoader(
        _FILES,
        seed=3,
        device="cpu",
        num_workers=1,
        transform=di.TrainTransform(8),
        augment=augment,
        return_info=True,
        **settings,
    )


@cache
def _seeds() -> list[bytes]:
    found = []
    for order in _ORDERS:
        with _loader(order) as loader:
            passing = iter(loader)
            next(passing)
            next(passing)
            found.append(json.dumps({"order": order, "state": loader.state_dict()}).encode())
    return found


def seeds() -> list[bytes]:
    return _seeds()


def mutant(random: Random) -> bytes:
    """The order of the loader that it is given to, and the state; what is no JSON is a state too."""
    whole = json.loads(random.choice(_seeds()))
    state, kept = whole["state"], {}
    if random.random() < 0.6:  # what a reader goes by, not what it only compares
        kept = {
            name: value
            for name, value in state.items()
            if name not in ("seed", "epoch", "position", "checksum", "sampler_generator")
        }
    tree = {name: value for name, value in state.items() if name not in kept}
    changed = change_json(random, json.dumps(tree).encode(), _TELLING)
    order = whole["order"] if random.random() < 0.95 else random.choice(_ORDERS)
    try:
        found = json.loads(changed)
        found = {**kept, **found} if isinstance(found, dict) else found
        return json.dumps({"order": order, "state": found}).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return json.dumps({"order": order, "state": changed[:2000].decode("latin1")}).encode()


@cache
def _held(order: str) -> di.DataLoader:
    return _loader(order)


def check(data: bytes, folder: Path) -> str:
    given = json.loads(data)
    loader = _held(given["order"])
    loader.load_state_dict(given["state"])
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    loader.load_state_dict(state)
    seen = 0
    for images, labels, info in loader:
        assert images.isfinite().all()
        assert labels.tolist() == [10 + index for index in info["index"]], "a label is not of its row's image"
        assert (np.asarray(info["index"]) < _COUNT).all()
        seen += len(labels)
    assert seen <= 2 * _COUNT
    return "loaded"
