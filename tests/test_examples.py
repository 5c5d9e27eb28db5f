"""Every file of examples/ runs as it stands, and says what a person can read."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dali_icgan.models.generator import ICGenerator
from tests.photos import NAMES, make_folder
from tests.untrained import FOLDER, GENERATOR

pytestmark = pytest.mark.dali

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("photographs")))


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs an example, and returns the lines that it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        torch.manual_seed(0)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_each_is_short_and_has_its_test():
    files = sorted(EXAMPLES.iterdir())
    tests = Path(__file__).read_text()
    assert len(files) == 5
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) < 60, file.name
        assert f"python examples/{file.name} FOLDER" in text
        assert f'said("{file.name}"' in tests


def test_the_changed_import(said, photographs):
    lines = said("change_the_import.py", photographs)
    found = [
        re.fullmatch(r"epoch (\d): 24 images, (\d+) of them generated; mean loss (\d\.\d+)", line) for line in lines
    ]
    assert [int(each[1]) for each in found] == [0, 1, 2]
    assert 0 < sum(int(each[2]) for each in found) < 72
    assert float(found[2][3]) < 0.95 * float(found[0][3])  # it learns; without steps it stays near log 3


def test_the_dali_pipeline(said, photographs):
    lines = said("dali_pipeline.py", photographs)
    assert [line.split(":")[0] for line in lines] == [f"epoch {i // 3}, batch {i}" for i in range(6)]
    shown = [pair for line in lines for pair in re.findall(r"(\d{3}\.jpg) \((\w+)\)", line)]
    assert len(shown) == 18
    assert {name for _, name in shown} <= set(NAMES)


def test_two_views(said, photographs):
    pytest.importorskip("lightly")
    losses = [float(re.search(r"loss (\d\.\d+) over 3 batches", line)[1]) for line in said("two_views.py", photographs)]
    assert losses[2] < 0.95 * losses[0]


def test_a_class_conditional_checkpoint(said, photographs, tmp_path):
    config = replace(GENERATOR, n_classes=1000, shared_dim=16, class_conditional=True)
    torch.manual_seed(0)
    torch.save(ICGenerator(config).state_dict(), tmp_path / "G_ema.pth")  # the official layout, random weights
    files = str(tmp_path / "G_ema.pth"), str(FOLDER / "extractor.safetensors")
    classes = {"astronaut": 834, "chelsea": 281, "coffee": 967}
    lines = said("class_conditional.py", photographs, *files, *(f"{name}={number}" for name, number in classes.items()))
    assert len(lines) == 24
    generated = [re.search(r"/(\w+)/\d+\.jpg: .* class (\d+)$", line) for line in lines if "generated" in line]
    assert 0 < len(generated) < 24
    assert all(classes[each[1]] == int(each[2]) for each in generated)
    with pytest.raises(SystemExit, match="every folder must have a class"):
        said("class_conditional.py", photographs, *files, "cat=281")
    with pytest.raises(SystemExit, match="takes no classes"):
        said("class_conditional.py", photographs, str(FOLDER / "generator.safetensors"), files[1])


@pytest.mark.gpu  # CuPy allocates nothing without one: benchmarks/gpu_gate.sh runs it
def test_cupy(said, photographs):
    pytest.importorskip("cupy")
    lines = said("cupy_consumer.py", photographs)
    assert len(lines) == 3
    assert all(re.match(r"batch \d \(8, 3, 64, 64\) float16: mean \[", line) for line in lines)
