"""``dali-icgan recipe``."""

import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from dali_icgan.cli import app
from tests.photos import make_folder

SMALL = ["model.name=test_resnet", "crop.size=32", "data.val_resize=36", "data.val_crop=32", "run.batch_size=12",
         "run.precision=fp32", "schedule.epochs=1", "schedule.milestones=[]", "data.threads=1"]  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(app, ["recipe", *map(str, arguments)])


@pytest.mark.parametrize(
    ("family", "model"), [("resnet", "resnet101"), ("resnet", "resnet152"), ("deit", "deit-b"), ("swav", "swav")]
)
def test_a_recipe_is_printed_in_full(family, model):
    done = call(family, "--model", model, "--arm", "matched", "optimizer.lr=0.25", "--print-config")
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(done.stdout)
    assert values["optimizer"]["lr"] == 0.25
    assert values["generate"]["arm"] == "matched"
    assert "lr: 0.25  # yours; the recipe's: " in done.stdout
    assert "Caron et al. 2020" in done.stdout or "Touvron" in done.stdout or "Goyal" in done.stdout


@pytest.mark.parametrize("family", ["resnet", "deit", "swav"])
def test_help_gives_every_setting_and_its_source(family):
    done = call(family, "--help")
    assert done.exit_code == 0
    for said in (
        "weight_decay: ",
        "appendix A.1" if family == "swav" else "table 9" if family == "deit" else "section 5.1",
    ):
        assert said in done.stdout


@pytest.mark.dali
def test_a_trial_and_the_run(tmp_path):
    make_folder(tmp_path / "photos" / "train", 8)
    make_folder(tmp_path / "photos" / "val", 2)
    run = tmp_path / "run"
    arguments = ["resnet", "--data", tmp_path / "photos", "-o", run, "--arm", "plain", "--device", "cpu", *SMALL]
    done = call(*arguments, "--steps", 1)
    assert done.exit_code == 0, done.output
    assert "1 of 2" in done.stdout
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert "2 of 2" in done.stdout
    assert "best.safetensors" in "".join(done.stdout.split())
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["name"] == "test_resnet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet", "--model", "deit-s"], "--model must be one of resnet50, resnet101, resnet152, got 'deit-s'"),
        (["resnet", "lr=1"], "near it: optimizer.lr"),
        (["resnet"], "generate.arm: generated needs generator, got None"),
        (["resnet", "--arm", "plain"], "--data must be given"),
        (["resnet", "--arm", "plain", "--data", "nowhere"], "--out must be given"),
        (["resnet", "--arm", "plain", "--data", "nowhere", "--out", "run"], "nowhere"),
        (["swav", "--arm", "plain", "--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


def test_other_commands_do_not_import_what_recipes_need():
    code = "import sys, dali_icgan.cli; print([m for m in ('timm', 'lightly', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
