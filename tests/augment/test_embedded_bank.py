"""A bank's rows as a generator embeds them: the same generations but for rounding, stored once, read instead of the features."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dali_icgan as di
from dali_icgan.augment import bank as bank_module
from dali_icgan.data import as_samples
from dali_icgan.engine.cuda_plan import CudaPlan, CudaWeights
from dali_icgan.engine.folding import fold
from dali_icgan.models.checkpoint import read_generator
from tests.engine.test_generator import CONTRACT, inputs
from tests.photos import make_folder
from tests.untrained import FOLDER

GENERATOR = FOLDER / "generator.safetensors"


@pytest.fixture(scope="module")
def built(tmp_path_factory, extractor):
    photos = make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=4)
    (photos / as_samples(photos).keys[3]).write_bytes(b"no image")
    path = photos.parent / "bank"
    di.FeatureBank.build(photos, extractor.at_resolution(32), path, progress=False)
    return photos, path


@pytest.mark.parametrize("name", CONTRACT)
def test_a_generator_takes_embedded_features(name):
    generator = CONTRACT[name]()
    z, h, *y = inputs(generator, 5)
    e = generator.embed(h)
    assert (e.dtype, e.shape) == (torch.float32, (5, generator.config.shared_dim_feat))
    images = generator(z, h, *y)
    difference = (generator(z, e, *y, embedded=True) - images).abs().max()
    assert difference < 1e-4
    assert torch.equal(generator(z, h, *y), images)  # the two kinds of plan share no buffers
    again = pickle.loads(pickle.dumps(copy.deepcopy(generator)))
    assert torch.equal(again(z, e, *y, embedded=True), generator(z, e, *y, embedded=True))


def test_embedding_is_the_published_layer():
    checkpoint = read_generator(GENERATOR)
    generator = di.load_generator(GENERATOR, "cpu")
    h = inputs(generator, 3)[1]
    weight, u = (checkpoint.tensors[f"shared_feat.{part}"].double() for part in ("weight", "u0"))
    v = F.normalize(u @ weight, dim=1)
    want = h.double() @ (weight / (weight @ v.T).norm()).T + checkpoint.tensors["shared_feat.bias"].double()
    assert torch.equal(generator.embed(h), want.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_plan_of_a_gpu_takes_embedded_features(dtype, on_emulated_cuda):
    generator = di.load_generator(GENERATOR, "cpu")
    weights = CudaWeights(fold(read_generator(GENERATOR)), torch.device("cpu"), dtype)
    z, h = inputs(generator, 3)
    with on_emulated_cuda():
        plain, embedded = CudaPlan(weights, 3, dtype), CudaPlan(weights, 3, dtype, embedded=True)
        images = plain(z, h, None).float()
        difference = (embedded(z, generator.embed(h), None).float() - images).abs().max()
        embedded.calibrate()
        plain.calibrate()
    assert difference < (1e-4 if dtype == torch.float32 else 2e-2)
    assert embedded.largest == pytest.approx(plain.largest, rel=1e-2)


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (torch.zeros(2, 3), r"h must have shape \[n, \d+\], got \[2, 3\]"),
        (torch.zeros(3), r"h must have shape \[n, \d+\], got \[3\]"),
    ],
)
def test_what_cannot_be_embedded(h, message):
    generator = di.load_generator(GENERATOR, "cpu")
    with pytest.raises(ValueError, match=message):
        generator.embed(h)
    with pytest.raises(ValueError, match=r"h must be floating point on cpu, got torch\.int64"):
        generator.embed(torch.zeros(2, generator.feature_dim, dtype=torch.int64))


def test_features_where_embedded_ones_must_be_are_named():
    generator = di.load_generator(GENERATOR, "cpu")
    z, h = inputs(generator, 2)
    width = generator.config.shared_dim_feat
    with pytest.raises(ValueError, match=rf"h must have shape \[2, {width}\], embedded, got \[2, {h.shape[1]}\]"):
        generator(z, h, embedded=True)


def test_a_bank_keeps_them_next_to_the_features(built, monkeypatch):
    _, path = built
    generator = di.load_generator(GENERATOR, "cpu")
    monkeypatch.setattr(bank_module, "_BASE", 5)  # several blocks
    bank = di.FeatureBank.open(path)
    rows = bank.embedded(generator)
    there = np.flatnonzero(bank.present)
    assert (rows.dtype, rows.shape) == (np.float32, (bank.n, generator.config.shared_dim_feat))
    want = generator.embed(bank.gather(there, "cpu"))
    assert torch.equal(torch.from_numpy(rows[there]), want)
    (absent,) = bank.absent
    assert not rows[absent].any()
    assert torch.equal(bank.gather_embedded(there[[2, 0]], "cpu", generator), want[[2, 0]])
    with pytest.raises(ValueError, match="rows must be present"):
        bank.gather_embedded([absent], "cpu", generator)
    monkeypatch.setattr(type(generator), "embed", None)  # another process does not compute them again
    assert np.array_equal(di.FeatureBank.open(path).embedded(generator), rows)
    assert len(list(path.glob("embedded_*.npy"))) == 1


def test_a_bank_in_memory_or_in_a_folder_that_cannot_be_written(built, monkeypatch, caplog):
    _, path = built
    generator = di.load_generator(GENERATOR, "cpu")
    bank = di.FeatureBank.open(path)
    want = bank.embedded(generator)
    for file in path.glob("embedded_*.npy"):
        file.unlink()

    def refuse(*_):
        raise OSError("read-only")

    monkeypatch.setattr(bank_module.files, "write_whole", refuse)
    assert np.array_equal(di.FeatureBank.open(path).embedded(generator), want)
    assert "the embedded features could not be kept (read-only)" in caplog.text
    there = np.flatnonzero(bank.present)
    memory = di.FeatureBank.from_arrays(bank.gather(there, "cpu"), [bank.keys[i] for i in there])
    assert np.abs(memory.embedded(generator) - want[there]).max() < 1e-6


def test_a_damaged_file_is_named(built):
    _, path = built
    generator = di.load_generator(GENERATOR, "cpu")
    di.FeatureBank.open(path).embedded(generator)
    (file,) = path.glob("embedded_*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    try:
        with pytest.raises(ValueError, match=r"embedded_.*\.npy must be an array float32"):
            di.FeatureBank.open(path).embedded(generator)
    finally:
        file.write_bytes(whole)


def test_a_generator_of_another_number_of_features():
    bank = di.FeatureBank.from_arrays(F.normalize(torch.ones(2, 3)), ["a", "b"])
    generator = di.load_generator(GENERATOR, "cpu")
    with pytest.raises(ValueError, match=f"bank's number of features 3, got {generator.feature_dim}"):
        bank.embedded(generator)


@pytest.mark.dali
def test_an_operator_reads_them_instead(built, monkeypatch):
    photos, path = built
    generator = di.load_generator(GENERATOR, "cpu")

    def augmented(embed_bank):
        augment = di.DAICGAN(generator=generator, bank=path, p=0.5, embed_bank=embed_bank)
        loader = di.DataLoader(
            photos, 4, seed=1, augment=augment, transform=di.TrainTransform(32), device="cpu", return_info=True
        )
        found = [(images.clone(), info["replaced"].copy()) for images, _, info in loader]
        loader.close()
        return torch.cat([images for images, _ in found]), np.concatenate([replaced for _, replaced in found])

    plain, replaced = augmented(False)
    di.FeatureBank.open(path).embedded(generator)
    monkeypatch.setattr(bank_module, "unit_rows", None)  # features are not touched
    embedded, also = augmented(True)
    assert replaced.any()
    assert not replaced.all()
    assert np.array_equal(replaced, also)
    assert torch.equal(embedded[~replaced], plain[~replaced])
    assert not torch.equal(embedded[replaced], plain[replaced])
    assert (embedded - plain).abs().max() < 1e-3


def test_it_needs_a_bank_and_a_generator(extractor):
    generator = di.load_generator(GENERATOR, "cpu")
    with pytest.raises(ValueError, match=r"embed_bank=True reads a bank for a generator, got bank=None"):
        di.DAICGAN(generator=generator, extractor=extractor, embed_bank=True)
