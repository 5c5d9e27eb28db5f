"""Tables of forms: what the package's holds, what a user's must be, how one is measured, and that a loader's state keeps it."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dali_icgan as di
from dali_icgan import ops
from dali_icgan.engine.forms import SHIPPED, Forms, key, read_table, rule, table_name
from dali_icgan.engine.tuning import Measured, tune
from dali_icgan.models.checkpoint import read_generator
from tests.engine.test_generator import inputs, random_generator
from tests.photos import make_folder
from tests.untrained import FOLDER


def here(dtype=torch.float32):
    return table_name(ops.instruction_sets()[0], dtype)


def test_a_table_comes_before_the_rule():
    forms = Forms("avx2", torch.float32, {key(3, 16, 32, 64): 2})
    assert forms.tile(3, 16, 32, 64) == 2
    assert forms.tile(3, 16, 32, 128) == rule(3, 128) == 4
    assert [rule(2, size) for size in (4, 16, 32)] == [1, 1, 5]  # of the map before it is doubled
    assert [rule(3, size, torch.bfloat16) for size in (16, 32)] == [2, 4]
    assert [rule(2, size, torch.bfloat16) for size in (16, 32)] == [1, 5]
    assert rule(1, 64, torch.bfloat16) == 1
    assert rule(1, 4) == 1
    assert forms.table() == {"avx2 float32": {"3x3 16->32 @64": 2, "3x3 16->32 @128": 4}}


def test_the_packages_table_is_one():
    table = read_table(SHIPPED)
    assert table
    names = {table_name(i, d) for i in ("avx512", "avx2", "generic") for d in (torch.float32, torch.float64)}
    names |= {"avx512_bf16 bfloat16", "avx512 bfloat16"}
    assert table.keys() <= names


def test_the_packages_table_is_what_was_recorded():
    command = [sys.executable, "benchmarks/forms.py", "--write", "--check"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_users_table_comes_before_the_packages(tmp_path, caplog):
    name = next(iter(read_table(SHIPPED)[here()]))
    path = tmp_path / "forms.json"
    path.write_text(json.dumps({here(): {name: 1}}))
    r, sizes = int(name[0]), [int(part) for part in name[4:].replace("->", " ").replace("@", " ").split()]
    assert Forms.of(torch.float32, path).tile(r, *sizes) == 1
    assert Forms.of(torch.float32).tile(r, *sizes) == read_table(SHIPPED)[here()][name]
    assert not caplog.text
    assert Forms.of(torch.float64, path).tile(r, *sizes) == rule(r, sizes[-1])
    assert f"forms has nothing for {here(torch.float64)}" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "forms.json must be an object of objects, as 'dali-icgan tune' writes it, got \\[1, 2\\]"),
        ("{", "forms.json must be a table of forms in JSON, got something damaged: "),
        ('{"avx513 float32": {}}', "must name what its tiles are for as 'avx512 float32', got 'avx513 float32'"),
        ('{"avx2 float32": 3}', "must hold the tiles of 'avx2 float32' in an object, got 3"),
        ('{"avx2 float32": {"5x5 3->3 @4": 1}}', "must name convolutions as '3x3 64->64 @32', got '5x5 3->3 @4'"),
        ('{"avx2 float32": {"3x2 3->3 @4": 1}}', "must name convolutions as '3x3 64->64 @32', got '3x2 3->3 @4'"),
        ('{"avx2 float32": {"3x3 3->3 @4": 3}}', "must give '3x3 3->3 @4' one of the tiles 1, 2, 4, got 3"),
        ('{"avx2 float32": {"2x2 3->3 @4": "5"}}', "must give '2x2 3->3 @4' one of the tiles 1, 3, 5, got '5'"),
        ('{"avx2 float32": {"2x2 3->3 @4": true}}', "must give '2x2 3->3 @4' one of the tiles 1, 3, 5, got True"),
        ('{"avx2 float32": {"2x2 3->3 @4": 1.0}}', "must give '2x2 3->3 @4' one of the tiles 1, 3, 5, got 1.0"),
        ('{"avx2 float32": {"2x2 3->3 @4": [1]}}', r"must give '2x2 3->3 @4' one of the tiles 1, 3, 5, got \[1\]"),
        ("[" * 100_000, "forms.json must be a table of forms in JSON, got lists or objects nested too deep"),
        ("1" * 5000, "forms.json must be a table of forms in JSON, got something damaged"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    path = tmp_path / "forms.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        di.load_generator("embedded", "cpu", forms=path)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"forms must name a table of forms, there is no .*none\.json"):
        di.load_generator("embedded", "cpu", forms=tmp_path / "none.json")


def test_instructions_can_be_held_to_fewer(monkeypatch):
    have = ops.instruction_sets()
    monkeypatch.setenv("DALI_ICGAN_INSTRUCTIONS", have[-1])
    assert Forms.of(torch.float32).instructions == have[-1]
    narrow = random_generator(32, 8)
    assert narrow._weights.first.instructions == have[-1]
    monkeypatch.setenv("DALI_ICGAN_INSTRUCTIONS", "mmx")
    every = ", ".join(dict.fromkeys((*ops.instruction_sets(torch.bfloat16), *have)))
    with pytest.raises(ValueError, match=f"DALI_ICGAN_INSTRUCTIONS must be one of {every} here, got 'mmx'"):
        Forms.of(torch.float32)


def test_a_table_decides_the_bits_and_the_generator_says_which_it_has():
    generator = di.load_generator("embedded", "cpu")
    assert list(generator.forms) == [here()]
    others = {here(): dict.fromkeys(generator.forms[here()], 1)}
    other = di.load_generator("embedded", "cpu", forms=others)
    assert other.forms == others
    again = di.load_generator("embedded", "cpu", forms=json.loads(json.dumps(generator.forms)))
    arguments = inputs(generator, 2)
    images = generator(*arguments)
    assert torch.equal(again(*arguments), images)
    assert not torch.equal(other(*arguments), images)
    assert (other(*arguments) - images).abs().max() < 1e-4


def test_tuning_measures_every_tile_of_every_convolution():
    checkpoint = read_generator(FOLDER / "generator.safetensors")
    found = tune(checkpoint, 2, rounds=1)
    generator = di.load_generator(FOLDER / "generator.safetensors", "cpu")
    assert {one.key for one in found} == generator.forms[here()].keys()
    for one in found:
        assert tuple(one.seconds) == ops.winograd.TILES[int(one.key[0])]
        assert min(one.seconds.values()) > 0


def test_another_tile_is_taken_if_it_saves_more_than_noise():
    assert Measured("3x3 8->8 @8", {1: 9.0, 2: 1.0, 4: 2.0}).fastest == 2
    assert Measured("3x3 8->8 @8", {1: 9.0, 2: 1.0, 4: 2.0}).default == rule(3, 8) == 4
    assert Measured("3x3 8->8 @8", {1: 9.0, 2: 1.99, 4: 2.0}).fastest == 4


@pytest.fixture
def load(tmp_path):
    folder = make_folder(tmp_path / "photos")
    loaders = []

    def make(**options):
        augment = di.DAICGAN(
            generator=di.load_generator(FOLDER / "generator.safetensors", "cpu", **options),
            extractor=di.load_extractor(FOLDER / "extractor.safetensors", "cpu"),
            p=0.5,
        )
        loaders.append(
            di.DataLoader(
                folder, 2, shuffle=True, seed=1, augment=augment, transform=di.TrainTransform(16), device="cpu"
            )
        )
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


@pytest.mark.dali
def test_a_state_keeps_the_forms_and_goes_on_with_them_only(load):
    loader = load()
    state = json.loads(json.dumps(loader.state_dict()))
    mine = loader.augment.generator.forms
    assert state["forms"]["generator"] == mine
    others = {here(): dict.fromkeys(mine[here()], 1)}
    with pytest.raises(ValueError, match=r"the generator's convolutions, got others; .*forms=state\['forms'\]"):
        load(forms=others).load_state_dict(state)
    load(forms=state["forms"]["generator"]).load_state_dict(state)
    del state["forms"]  # of an older version
    load(forms=others).load_state_dict(state)


@pytest.mark.dali
def test_a_state_of_another_instruction_set_goes_on_with_a_warning(load, caplog):
    loader = load()
    state = loader.state_dict()
    state["forms"] = {"generator": {"generic float64": {}}}
    with caplog.at_level(logging.WARNING, "dali_icgan"):
        loader.load_state_dict(state)
    assert f"computed with generic float64 where the state was made, here with {here()}" in caplog.text
    state["forms"] = [3]
    with pytest.raises(ValueError, match=r"state must have an object forms, got \[3\]"):
        loader.load_state_dict(state)
    state["forms"] = {"generator": 3}
    with pytest.raises(ValueError, match="state must have an object forms of the generator, got 3"):
        loader.load_state_dict(state)
