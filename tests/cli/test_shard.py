"""dali-icgan shard."""

import os
import re

import pytest

from dali_icgan.cli.shard import parse_size
from dali_icgan.data import as_samples
from tests import photos
from tests.cli.test_commands import error, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos.make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=4)


def test_a_folder_becomes_shards(folder, tmp_path):
    said = " ".join(run("shard", folder, tmp_path / "out", "--size", "50KB").split())
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert len(tars) > 2
    assert all(tar.stat().st_size <= 50_000 for tar in tars)
    assert re.search(rf"{len(tars)} tars, [\d.]+ MB, the largest [\d.]+ KB samples 12, 3 classes", said)
    assert "larger" not in said.split("largest")[1]
    assert as_samples(tmp_path / "out").fingerprint == as_samples(folder).fingerprint


def test_shards_become_larger_ones(folder, tmp_path):
    run("shard", folder, tmp_path / "small", "--size", "30 KiB")
    run("shard", tmp_path / "small", tmp_path / "large")
    assert len(list((tmp_path / "large").glob("*.tar"))) == 1
    assert as_samples(tmp_path / "large").fingerprint == as_samples(folder).fingerprint


def test_an_image_larger_than_a_tar_is_said(folder, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "large.jpg").write_bytes(bytes(30_000))
    assert "1 tars hold one image that is larger than 20KB alone" in run(
        "shard", tmp_path / "images", tmp_path / "out", "--size", "20KB"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("1GiB", 2**30),
        ("1.5 mib", 3 * 2**19),
        ("20000", 20_000),
        ("20000B", 20_000),
        (" 11kb ", 11_000),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5 bananas", "-5MB", "1e9", "5MBs", "inf", "nan", "1,5MB", "5M"])
def test_what_is_no_size(text, folder, tmp_path):
    said = error("shard", folder, tmp_path / "out", f"--size={text}")
    assert f"--size must be a number of bytes, KB, MB, GB, KiB, MiB or GiB, such as 512MB, got {text!r}" in said
    assert not (tmp_path / "out").exists()


def test_bad_input(folder, tmp_path):
    assert "--size must be at least 10240 bytes" in error("shard", folder, tmp_path / "out", "--size", "10KB")
    assert "--size must be at least 10240 bytes" in error("shard", folder, tmp_path / "out", "--size", "0MB")
    assert "which is not a folder" in error("shard", tmp_path / "none", tmp_path / "out")
    assert "OUT must not be in FOLDER" in error("shard", folder, folder)
    assert "OUT must not be in FOLDER" in error("shard", folder, folder / "shards")
    run("shard", folder, tmp_path / "out")
    assert "which holds shards already" in error("shard", folder, tmp_path / "out")
    (tmp_path / "in use").mkdir()
    (tmp_path / "in use" / "thesis.doc").touch()
    assert "which holds thesis.doc" in error("shard", folder, tmp_path / "in use")
    assert sorted(os.listdir(tmp_path)) == ["in use", "out"]


def test_an_image_that_cannot_be_read(folder, tmp_path):
    images = photos.make_folder(tmp_path / "images", 2)
    (images / "coffee" / "000.jpg").unlink()
    (images / "coffee" / "000.jpg").symlink_to("nowhere")
    said = run("shard", images, tmp_path / "out", code=2).strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "coffee/000.jpg" in said
    assert not (tmp_path / "out").exists()


def test_other_commands_take_shards(folder, tmp_path):
    run("shard", folder, tmp_path / "shards", "--size", "50KB")
    bank = tmp_path / "bank"
    assert "12 x " in run("features", tmp_path / "shards", "--out", bank, "--extractor", "embedded", "--resolution", 64)
    page = ["--samples", 2, "--size", 64, "--bank", bank, "--source", "neighbour", "--k", 2, "--device", "cpu"]
    for images, name in ((tmp_path / "shards", "shards"), (folder, "images")):
        run("preview", images, "--out", tmp_path / f"{name}.png", *page)
    assert (tmp_path / "shards.png").exists()
