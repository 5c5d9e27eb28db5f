"""Recipes as YAML: complete, with sources, checked."""

import re
from dataclasses import fields

import pytest
import yaml

from dali_icgan.recipes.config import NAMES, packaged, read_recipe, render
from dali_icgan.recipes.recipe import plain

PLAIN = ["generate.arm=plain"]


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_recipe_is_complete_and_says_where_each_value_is_from(name):
    text = packaged(name)
    recipe = read_recipe(name, None, PLAIN)
    values = yaml.safe_load(text)
    assert {section: set(part) for section, part in values.items()} == {
        section.name: {each.name for each in fields(getattr(recipe, section.name))} for section in fields(recipe)
    }
    for line in text.splitlines():
        if re.match(r" +\w+:", line):
            assert re.search(r"  # \S.+$", line), f"{name}: no source: {line}"
    assert render(name, recipe) == text.replace(
        "  arm: generated  # ours: generated, or a control: plain, retrieval, random, matched",
        "  arm: plain  # yours; the recipe's: generated",
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_said_to_be_of_da_icgans_paper_but_its_abstract(name):
    for line in packaged(name).splitlines():
        if "DA_IC-GAN" in line:
            assert "abstract" in line or "not known to us" in line, line


def test_a_rendered_recipe_is_read_back(tmp_path):
    options = [
        *PLAIN,
        "optimizer.lr=1e-3",
        "crop.generated_scale=[0.5, 1]",
        "schedule.milestones=[]",
        "model.name='a#b: c'",
    ]
    recipe = read_recipe("resnet50", None, options)
    path = tmp_path / "config.yaml"
    path.write_text(render("resnet50", recipe))
    assert read_recipe("resnet50", path) == recipe
    assert "lr: 0.001  # yours; the recipe's: 0.1\n" in path.read_text()


def test_options_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: {lr: 0.3, weight_decay: 1e-3}\ngenerate: {arm: plain}\n")
    recipe = read_recipe("resnet50", path, ["optimizer.lr=0.4"])
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.optimizer.momentum) == (0.4, 0.001, 0.9)
    path.write_text("")
    assert read_recipe("resnet50", path, PLAIN) == read_recipe("resnet50", None, PLAIN)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lr=1", "got 'lr'; near it: optimizer.lr$"),
        ("optimiser.lr=1", "got 'optimiser.lr'; near it: optimizer.lr, "),
        ("generate.truncaton=1", "near it: generate.truncation, "),
        ("augment.mixupp=1", "near it: augment.mixup"),
        ("xyzzy=1", "got 'xyzzy'$"),
        ("optimizer=3", "got 'optimizer'"),
        ("optimizer.lr", "an option must be section.name=value, got 'optimizer.lr'"),
        ("optimizer.lr=[", r"optimizer.lr must be a YAML value, got '\['"),
        ("optimizer.lr=fast", "optimizer.lr must be a number, got 'fast'"),
        ("optimizer.lr=-1", "optimizer.lr must be >= 0 and finite, got -1"),
        ("optimizer.lr=.nan", "optimizer.lr must be >= 0 and finite, got nan"),
        ("run.batch_size=2.5", "run.batch_size must be an integer >= 1, got 2.5"),
        ("run.batch_size=0", "run.batch_size must be an integer >= 1, got 0"),
        ("run.precision=fp8", "run.precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ("data.exif=1", "data.exif must be True or False, got 1"),
        (
            "crop.generated_scale=[1, 0.5]",
            r"crop.generated_scale must be \[low, high\] with 0 < low <= high <= 1, got \[1, 0.5\]",
        ),
        ("crop.flip=2", r"crop.flip must be in \[0, 1\], got 2"),
        ("augment.randaugment_p=2", r"augment.randaugment_p must be in \[0, 1\], got 2"),
        ("crop.scale=[1]", r"crop.scale must be two numbers, got \[1\]"),
        ("augment.smoothing=2", r"augment.smoothing must be in \[0, 1\], got 2"),
        ("augment.magnitude=31", r"augment.magnitude must be in \[0, 30\], got 31"),
        ("augment.erasing_rows=some", "augment.erasing_rows must be one of all, real, generated, none, got 'some'"),
        ("schedule.kind=cosine", r"schedule.milestones must be \[\] where kind is cosine"),
        ("model.train=head", "model.train: head trains what stands on given weights: init must name a file"),
        ("generate.arm=generated", "generate.arm: generated needs generator, got None; arm: plain needs nothing"),
        ("generate.arm=retrieval", "generate.arm: retrieval needs bank, got None"),
        ("generate.p=1.5", r"generate.p must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_wrong_option_is_named(option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        read_recipe("resnet50", None, [*PLAIN, option])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "must be YAML"),
        ("a: &a [1]\noptimizer: {lr: *a}", r"must be YAML, got an alias"),
        ("- 1", "must hold settings by section and name, got list"),
        ("optimizer: 3", "optimizer must hold settings by name, got 3"),
        ("optimizer: {lrr: 3}", "mine.yaml: a setting must be one of the recipe's .* near it: optimizer.lr"),
        ("!!python/object/apply:os.system [true]", "must be YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe("resnet50", path, PLAIN)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match=r"a recipe must be one of resnet50, .*, swav, got 'vgg'"):
        packaged("vgg")


def test_the_matched_arm_is_longer_by_what_generating_costs():
    matched = ["generate.arm=matched", "schedule.epochs=10"]
    assert read_recipe("deit-s", None, matched).epochs == 15  # p = 0.5, a generation counts as a pass
    assert read_recipe("deit-s", None, [*matched, "generate.cost=0.35"]).epochs == 12  # 11.75
    assert read_recipe("deit-s", None, [*matched, "generate.p=0"]).epochs == 10 + 0
    assert read_recipe("deit-s", None, ["generate.arm=plain", "schedule.epochs=10"]).epochs == 10
    ramp = [*matched, "generate.p_start=0", "generate.ramp_epochs=10"]
    assert read_recipe("deit-s", None, ramp).stretch == pytest.approx(1 + 0.5 * 0.45)
    # One of 2 large and 6 small views; a small one is (96 / 224)^2 of a pass.
    swav = read_recipe("swav", None, matched)
    assert swav.stretch == pytest.approx(1 + 0.5 / (2 + 6 * (96 / 224) ** 2))
    assert read_recipe("swav", None, [*matched, "generate.views=all"]).stretch == pytest.approx(
        1 + 0.5 * 8 / (2 + 6 * (96 / 224) ** 2)
    )


def test_p_ramps_linearly():
    generate = read_recipe(
        "deit-s", None, ["generate.arm=matched", "generate.p=0.6", "generate.p_start=0.2", "generate.ramp_epochs=4"]
    ).generate
    assert [generate.p_of(epoch) for epoch in (0, 1, 2, 4, 9)] == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.6])


def test_settings_are_plain_values():
    assert plain(read_recipe("swav", None, PLAIN))["views"]["global_scale"] == [0.14, 1.0]
