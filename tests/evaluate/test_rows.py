"""Every image once: over ranks, batch sizes and pieces, to the last digit."""

import numpy as np
import pytest
import torch

from dali_icgan.augment import EvalTransform
from dali_icgan.data import as_samples
from dali_icgan.errors import DecodeError
from dali_icgan.evaluate import rows
from dali_icgan.evaluate.model import load_model
from dali_icgan.evaluate.rows import How, through
from tests.evaluate import jobs
from tests.evaluate.conftest import fill
from tests.processes import RankProcesses

FILES = (
    "imagenet/results.jsonl",
    "imagenet/predictions/imagenet.safetensors",
    "knn/results.jsonl",
    "knn/predictions/knn.safetensors",
    "linear/results.jsonl",
    "linear/predictions/linear-crops.safetensors",
    "invariance/results.jsonl",
    "invariance/predictions/instance.safetensors",
    "invariance/predictions/augmentation.safetensors",
    "invariance/predictions/generation.safetensors",
)


@pytest.mark.dali
def test_figures_are_the_same_to_the_last_digit(tmp_path, checkpoint, validation):
    found = {}
    for world, batch_size in ((1, 40), (2, 7), (3, 3)):
        out = tmp_path / f"{world}"
        arguments = (str(checkpoint), str(validation), str(out), batch_size)
        with RankProcesses(jobs.evaluate_all, world, arguments, folder=tmp_path) as processes:
            assert processes.results(500) == list(range(world))
        found[world] = [(out / file).read_bytes() for file in FILES]
    top1 = next(line for line in found[1][0].decode().splitlines() if '"top1 (1000-way)"' in line)
    assert 0 < float(top1.split('"value": ')[1].split(",")[0]) < 1  # a figure that could differ
    for file, one, two, three in zip(FILES, *found.values(), strict=True):
        assert one == two, file
        assert one == three, file


@pytest.mark.dali
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(("batch_size", "gathered"), [(16, 2048), (7, 6), (1, 1), (40, 13)])
def test_every_image_comes_once_in_order(monkeypatch, model, validation, batch_size, gathered, views):
    monkeypatch.setattr(rows, "_GATHERED", gathered)
    how = How(model, 64, 64, batch_size, progress=False)
    samples = as_samples(validation)
    calls = []

    def mean(images):
        calls.append(len(images))
        return {"mean": images.mean((1, 2, 3))}

    found = through(how, mean, samples, how.transform(), "means", views=views)["mean"]
    assert found.shape == ((40,) if views == 1 else (40, views))
    assert set(calls) == {model.rows}
    reference = through(How(model, 64, 64, 5, progress=False), mean, samples, how.transform(), "means")["mean"]
    assert len(np.unique(reference)) == 40
    assert np.array_equal(found if views == 1 else found[:, 1], reference)


@pytest.mark.dali
def test_an_image_that_cannot_be_read_ends_it(how, tmp_path):
    fill(tmp_path / "a", 3)
    (tmp_path / "a" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(DecodeError, match=r"1\.jpg"):
        through(how, lambda images: {"x": images[:, 0, 0, 0]}, as_samples(tmp_path), EvalTransform(64, 64), "reading")


@pytest.mark.dali
def test_no_rank_waits_for_one_that_failed(checkpoint, tmp_path):
    fill(tmp_path / "images" / "a", 5)
    (tmp_path / "images" / "a" / "3.jpg").write_bytes(b"no image")  # the second rank's
    with RankProcesses(jobs.read_all, 2, (str(checkpoint), str(tmp_path / "images")), folder=tmp_path) as processes:
        assert processes.wait(200) == [1, 1]
    assert "DecodeError" in processes.error(1)
    assert processes.error(0).startswith("RankError: rank 1 of 2 failed in reading: DecodeError")


@pytest.mark.dali
def test_no_rank_waits_for_a_probe_that_failed(checkpoint, tmp_path):
    fill(tmp_path / "val" / "a", 2)
    fill(tmp_path / "train" / "a", 5)
    (tmp_path / "train" / "a" / "3.jpg").write_bytes(
        b"no image"
    )  # the second rank's, while the first trains the classifier
    arguments = (str(checkpoint), str(tmp_path), str(tmp_path / "out"))
    with RankProcesses(jobs.damaged_probe, 2, arguments, folder=tmp_path) as processes:
        assert processes.wait(200) == [1, 1]
    assert "DecodeError" in processes.error(1)
    assert "rank 1 of 2 failed in features of train, pass 1 of 2: DecodeError" in processes.error(0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_row_has_the_same_bits_wherever_it_stands(checkpoint, dtype):
    model = load_model("timm:test_resnet", checkpoint, "cpu", dtype)
    images = torch.randn(model.rows, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    order = torch.randperm(model.rows, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.logits(images)[order], model.logits(images[order]))
    alone = torch.cat([images[:1], torch.zeros_like(images[1:])])
    assert torch.equal(model.features(alone)[0], model.features(images)[0])
