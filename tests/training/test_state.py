"""A training's files, damaged."""

import json

import pytest
import torch

from dali_icgan.training.extractor import read_report
from dali_icgan.training.run import _FRECHET, read_looks, read_run
from dali_icgan.training.state import load_state, restore, save_state
from tests.training.test_gan import TINY, trainer  # noqa: F401

LOOK = {"step": 1, **dict.fromkeys(_FRECHET, 0.5)}


@pytest.mark.dali
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": True}, "must have a sound step, got True"),
        ({"step": -1}, "must have a sound step, got -1"),
        ({"seconds": float("nan")}, "must have a sound seconds, got nan"),
        ({"history": [{"step": "1"}]}, "must have a sound history"),
        ({"dataset": [torch.zeros(3)]}, "must have a sound dataset"),
        ({"settings": torch.zeros(3)}, "must have a sound settings"),
        ({"generator": {}}, "must hold the generator as it was saved"),
        ({"average": None}, "must hold the average as it was saved"),
        ({"discriminator_optimiser": {"state": {}}}, "must hold the discriminator's optimiser as it was saved"),
    ],
)
def test_states_of_a_generator(trainer, change, message):  # noqa: F811
    first = trainer(**TINY)
    first.save()
    path = first.folder / "gan-state.pt"
    save_state(path, load_state(path) | change)
    with pytest.raises(ValueError, match=rf"gan-state\.pt {message}"):
        trainer(**TINY)


def stepped():
    layer = torch.nn.Linear(2, 3)
    optimiser = torch.optim.AdamW(layer.parameters(), 0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return optimiser


def changed(**settings):
    state = stepped().state_dict()
    state["param_groups"][0] |= settings
    return state


def with_entry(**entries):
    state = stepped().state_dict()
    state["state"][0] |= entries
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(betas=(0.5, 0.5)), "other settings of the optimiser: betas"),
        (changed(lr="0.1"), "other settings of the optimiser: lr"),
        (changed(capturable=True), "other settings of the optimiser: capturable"),
        (with_entry(exp_avg=torch.zeros(7)), r"exp_avg of another shape or kind than its parameter's \[3, 2\]"),
        (with_entry(step=torch.zeros(2)), "step of another shape or kind"),
        (with_entry(more=torch.zeros(3, 2)), "other entries of the optimiser"),
        ([], "x.pt must hold the optimiser as it was saved"),
    ],
)
def test_states_of_an_optimiser(tmp_path, state, message):
    with pytest.raises(ValueError, match=message):
        restore(tmp_path / "x.pt", "optimiser", stepped(), state)
    optimiser = stepped()
    restore(tmp_path / "x.pt", "optimiser", optimiser, changed(lr=0.3))  # scheduled
    assert optimiser.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([json.dumps(LOOK), "{"], "line 2, must be a look at a training in JSON"),
        (["[" * 100_000], "line 1, must be a look at a training in JSON, got lists or objects nested too deep"),
        (["[1]"], "must hold entries by name, got"),
        ([json.dumps(LOOK | {"step": "1"})], "must have a sound step, got '1'"),
        ([json.dumps({"step": 1})], f"must have a sound {_FRECHET[0]}, got none"),
        ([json.dumps(LOOK | {_FRECHET[1]: float("nan")})], f"must have a sound {_FRECHET[1]}, got nan"),
    ],
)
def test_looks(tmp_path, lines, message):
    (tmp_path / "looks.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"looks\.jsonl.* {message}".replace("[", r"\[")):
        read_looks(tmp_path / "looks.jsonl")


@pytest.mark.parametrize("text", ["[]", "{}", '{"settings": 3}', "[" * 100_000, "\udcff"])
def test_notes_of_a_run(tmp_path, text):
    (tmp_path / "run.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"run\.json must "):
        read_run(tmp_path / "run.json")


@pytest.mark.parametrize("change", [{"run": 3}, {"seconds": "1"}, {"fingerprint": None}])
def test_reports_of_an_extractor(tmp_path, change):
    sound = {"run": {}, "fingerprint": "f", "seconds": 1.5}
    (tmp_path / "extractor.json").write_text(json.dumps(sound))
    assert read_report(tmp_path / "extractor.json") == sound
    (tmp_path / "extractor.json").write_text(json.dumps(sound | change))
    with pytest.raises(ValueError, match=rf"extractor\.json must have a sound {next(iter(change))}"):
        read_report(tmp_path / "extractor.json")
