"""A training's folder: the states of generator and extractor, and what it notes of itself."""

import io
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.data import as_samples
from dali_icgan.training.extractor import ExtractorTraining, _Run, read_report
from dali_icgan.training.gan import GanTrainer, GanTraining
from dali_icgan.training.instances import Instances
from dali_icgan.training.run import _FRECHET, Training, _check_run, read_looks
from dali_icgan.training.state import load_state
from tests.fuzz.checkpoint import TOKENS, hostile_tensors, other_archive, saved
from tests.fuzz.checkpoint import warm as calls_a_tensor
from tests.fuzz.mutate import Random, as_json, change_bytes, change_json, change_packed, change_tree, pack, unpack

MUTANTS = 20_000
NAMED = "mutant.run"
_GAN = GanTraining(channels=1, z_chunk=2, shared_dim_feat=3, batch_size=2, k=2, steps=6, mirror=False, mode_seeking=0.0)
_EXTRACTOR = ExtractorTraining(width=8, depths=(1,), steps=5, batch_size=4)
_TRAINING = Training(gan=_GAN, extractor=_EXTRACTOR)
_TELLING = (0, 3, 10**9, "settings", "steps", [[1, 2.0]], [{"step": 1.0}], {"step": 1})


@cache
def _instances() -> Instances:
    samples = as_samples([(bytes([i]), i % 2) for i in range(6)])
    features = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Instances(
        FeatureBank.from_arrays(features, samples.keys, samples.labels), None, samples, _GAN.k, _GAN.batch_size, 0
    )


def _extractor(folder: Path) -> _Run:
    return _Run(_EXTRACTOR, _instances().samples, folder, 32, torch.device("cpu"), False)


def _stepped(optimiser: torch.optim.Optimizer) -> None:
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimiser.step()


@cache
def _sound() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = GanTrainer(_GAN, _instances(), folder)
        _stepped(trainer._generator_optimiser)
        _stepped(trainer._discriminator_optimiser)
        trainer.step, trainer.history = 3, [{"step": 1.0, "generator": 0.5}]
        trainer.save()
        extractor = _extractor(folder)
        _stepped(extractor.optimiser)
        extractor.step, extractor.losses, extractor.unreadable = 2, [[1, 0.5]], {"x"}
        extractor.save()
        about = {"run": extractor._identity(), "fingerprint": "f" * 64, "seconds": 1.5, "losses": extractor.losses}
        (folder / "extractor.json").write_bytes(as_json(about))
        _check_run(folder, _TRAINING, _instances().samples, None)
        looks = [{"step": step, **dict.fromkeys(_FRECHET, 0.5)} for step in (1, 2)]
        (folder / "looks.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
        return pack({file.name: file.read_bytes() for file in sorted(folder.iterdir())})


def seeds() -> list[bytes]:
    return [_sound()]


def warm() -> list[bytes]:
    return [pack(unpack(_sound()) | {"gan-state.pt": data}) for data in calls_a_tensor()]


def mutant(random: Random) -> bytes:
    return change_packed(random, _sound(), _changed)


@cache
def _tree(name: str) -> Any:
    return torch.load(io.BytesIO(unpack(_sound())[name]), weights_only=True)


def _changed(random: Random, name: str, data: bytes) -> bytes:
    if name.endswith(".json"):
        return change_json(random, data, _TELLING)
    if name.endswith(".jsonl"):
        lines = data.splitlines()
        at = random.randrange(len(lines))
        lines[at] = change_json(random, lines[at], _TELLING).replace(b"\n", b" ")
        return b"\n".join(lines)
    how = random.randrange(10)
    if how < 6:
        return saved(change_tree(random, dict(_tree(name)), (*hostile_tensors(random), *_TELLING)))
    return other_archive(random, data) if how < 9 else change_bytes(random, data, tokens=TOKENS)


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.mkdir(exist_ok=True)
    for file in path.iterdir():
        file.unlink()
    for name, content in unpack(data).items():
        (path / name).write_bytes(content)
    trainer = GanTrainer(_GAN, _instances(), path)
    _stepped(trainer._generator_optimiser)
    _stepped(trainer._discriminator_optimiser)
    extractor = _extractor(path)
    extractor.load()
    _stepped(extractor.optimiser)
    for run in (trainer, extractor):
        assert 0 <= run.step <= 6
        assert json.loads(json.dumps(run.seconds)) == run.seconds
    if (path / "extractor.json").exists():
        read_report(path / "extractor.json")
    if (path / "looks.jsonl").exists():
        assert all(set(_FRECHET) <= set(look) for look in read_looks(path / "looks.jsonl"))
    _check_run(path, replace(_TRAINING, look_every=5), _instances().samples, None)
    if (path / "gan-state.pt").exists():
        load_state(path / "gan-state.pt")
    return "loaded"
