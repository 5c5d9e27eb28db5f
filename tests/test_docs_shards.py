"""docs/shards.md: its command and its blocks run, in order, in one namespace."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dali_icgan.cli import app
from dali_icgan.data import as_samples
from dali_icgan.data.shard_index import INDEX
from dali_icgan.data.shard_samples import IMAGES
from tests.photos import make_folder

pytestmark = pytest.mark.dali
PAGE = (Path(__file__).parents[1] / "docs" / "shards.md").read_text()


def test_the_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(Path("imagenet/train"), 5)
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    arguments = shlex.split(command.replace("512MB", "60KB"))
    done = CliRunner().invoke(app, arguments[1:])
    assert done.exit_code == 0, done.output
    assert len(list(Path("imagenet/train-shards").glob("*.tar"))) == 3  # as the page's pattern has it
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/shards.md", "exec"), names)
    labels = as_samples("imagenet/train").labels.tolist()
    assert sorted(label for _, batch in names["loader"] for label in batch.tolist()) == labels
    assert [label for _, label in names["dataset"]] == labels
    pipeline = names["pipeline"]()
    pipeline.build()
    images, texts = pipeline.run()
    assert [int(bytes(texts.at(i))) for i in range(8)] == labels[:8]
    assert bytes(images.at(0)) == as_samples("imagenet/train").read(0)


def test_names_are_the_programs():
    assert f"`{INDEX}`" in PAGE
    (listed,) = re.findall(r"An image is what is called (.*?);", PAGE)
    assert set(re.findall(r"`\.(\w+)`", listed)) == IMAGES
