"""Every block of docs/pipelines.md runs, in order, in one namespace."""

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import dali_icgan as di
from tests.photos import jpeg, make_folder, patch

pytestmark = pytest.mark.dali

PAGE = (Path(__file__).parents[1] / "docs" / "pipelines.md").read_text()
CHAPTERS = {
    part.splitlines()[0].strip("# "): re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    for part in re.split(r"^(?=#+ )", PAGE, flags=re.MULTILINE)
    if part
}
FIRST, NODE = "In your own pipeline", "A node in your DALI pipeline"
SIZE = 64


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the blocks refer to without defining it."""
    photos = [patch("coffee", i).copy() for i in range(10)]
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for i, photo in enumerate(photos):
            for kind, data in (("jpg", jpeg(photo)), ("cls", str(i % 3).encode())):
                entry = tarfile.TarInfo(f"train/{i:06d}.{kind}")
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
    for name in (
        "load_generator",
        "load_extractor",
    ):  # the page leaves the device to the machine; its pipelines are the CPU's
        load = getattr(di, name)
        monkeypatch.setattr(di, name, lambda source, load=load: load(source, device="cpu"))
    return {
        "Path": Path,
        "torch": torch,
        "np": np,
        "folder": make_folder(tmp_path / "photos", 6),
        "photos": photos,
        "targets": [i % 3 for i in range(10)],
        "shards": [str(tmp_path / "shard.tar")],
    }


def run(names, *chapters):
    for chapter in (FIRST, *chapters):
        for block in CHAPTERS[chapter]:
            exec(compile(block, f"docs/pipelines.md, {chapter}", "exec"), names)
    return names


def standalone(names, photos, keys, labels=None, epoch=0):
    return names["augment"]([torch.as_tensor(x) for x in photos], keys, labels, epoch, di.TrainTransform(SIZE))[0]


def decoded(files):
    return di.data.ImageDecoder(1).decode(files)


def test_no_block_is_left_out():
    assert {chapter for chapter, blocks in CHAPTERS.items() if blocks} == {
        FIRST,
        NODE,
        "External source",
        "WebDataset",
        "Behind another loader",
        "CuPy in and out",
    }
    assert PAGE.count("```python") == sum(map(len, CHAPTERS.values()))


def test_readers_file(names):
    run(names, NODE)
    samples, classes = names["samples"], names["classes"]
    n = len(samples)
    assert classes.tolist() == sorted(classes.tolist())
    photos = decoded([path.read_bytes() for path in samples])
    want = [standalone(names, photos, range(n), epoch=epoch) for epoch in range(2)]
    batches = [(names["images"], names["labels"])]
    batches += [[torch.from_dlpack(o.as_tensor()).clone() for o in names["pipe"].run()] for _ in range(4)]
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    for epoch in range(2):  # 18 samples in batches of 8: the third is of both
        rows = slice(n * epoch, n * (epoch + 1))
        found = [next(i for i in range(n) if torch.equal(image, want[epoch][i])) for image in images[rows]]
        assert sorted(found) == list(range(n))
        assert labels[rows].tolist() == classes[found].tolist()


def test_external_source(names):
    run(names, NODE, "External source")
    photos = names["photos"]
    want = standalone(names, photos, range(len(photos)), epoch=3)
    assert torch.equal(torch.from_dlpack(names["images"].as_tensor()), want[:4])
    assert torch.equal(torch.from_dlpack(names["pipe"].run()[0].as_tensor()), want[4:8])
    assert torch.equal(torch.from_dlpack(names["pipe"].run()[0].as_tensor()), want[8:])


def test_webdataset(names):
    run(names, NODE, "WebDataset")
    photos = decoded([jpeg(photo) for photo in names["photos"][:4]])
    assert torch.equal(torch.from_dlpack(names["images"].as_tensor()), standalone(names, photos, range(4)))
    assert torch.from_dlpack(names["labels"].as_tensor()).tolist() == [0, 1, 2, 0]


def test_another_loader(names):
    run(names, "Behind another loader")
    index = list(names["index"])
    photos = [names["photos"][i] for i in index]
    assert torch.equal(names["images"], standalone(names, photos, index, epoch=1))
    assert names["labels"].tolist() == [names["targets"][i] for i in index]
    assert names["loss"].isfinite()
    assert all(parameter.grad.abs().sum() > 0 for parameter in names["model"].parameters())


@pytest.mark.gpu
def test_cupy(names, monkeypatch):
    cupy = pytest.importorskip("cupy")
    monkeypatch.undo()  # the page's own devices
    run(names, "CuPy in and out")
    assert isinstance(names["finished"], cupy.ndarray)
    assert names["finished"].shape == names["images"].shape
    assert names["finished"].data.ptr == names["images"].data_ptr()
