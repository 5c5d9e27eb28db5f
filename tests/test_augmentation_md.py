"""docs/augmentation.md: its code runs as it stands, and its pictures are those of docs/pictures.py."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from dali_icgan.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "augmentation.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", TEXT, re.DOTALL)

pytestmark = pytest.mark.dali


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("augmentation")


@pytest.fixture(scope="module")
def drawn(pictures, folder):
    """The pictures drawn again, of fewer photographs."""
    (folder / "pictures").mkdir()
    pictures.main(folder / "pictures", folder / "build" / "pictures", per_photograph=4)
    return {file.name: file for file in (folder / "pictures").iterdir()}


def test_its_pictures_are_those_of_the_script(drawn):
    shown = [Path(link) for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)]
    assert [link.parent.name for link in shown] == ["augmentation"] * len(drawn)
    assert sorted(link.name for link in shown) == sorted(drawn)
    there = sorted((ROOT / "docs" / "augmentation").iterdir())
    assert [file.name for file in there] == sorted(drawn)
    assert sum(file.stat().st_size for file in there) < 1.5e6
    for file in there:
        # As wide as when they are drawn now; how many lines the head takes differs with nothing but the words.
        with Image.open(file) as old, Image.open(drawn[file.name]) as new:
            assert old.size == new.size, file.name


def test_its_code_runs_as_it_stands(drawn, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(BLOCKS) > 15
    names = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/augmentation.md", "exec"), names)
            continue
        for line in block.strip().splitlines():
            run_line(shlex.split(line))


def run_line(words):
    if words[0] == "echo":
        assert words[2] == ">"
        Path(words[3]).write_text(words[1])
        return
    if words[0] == "python":
        assert words[1:] == ["docs/pictures.py", "build/pictures"]  # the fixture has
        return
    assert words[0] == "dali-icgan"
    # Less of the same, for time's sake.
    small = {"demo": ["--per-photograph", "8", "--seconds", "0"], "preview": ["--samples", "1", "--size", "48"]}
    done = CliRunner().invoke(app, words[1:] + small.get(words[1], []))
    assert done.exit_code == 0, done.output


def test_its_links_are_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_it_names_every_argument():
    tree = ast.parse((ROOT / "dali_icgan" / "augment" / "operator.py").read_text())
    (init,) = (
        function
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "DAICGAN"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
    )
    assert [each.arg for each in init.args.kwonlyargs if not re.search(rf"\b{each.arg}\b", TEXT)] == []
