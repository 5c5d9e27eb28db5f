import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DistributedSampler,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as tv

import dali_icgan as di
from dali_icgan.augment.plan import RowKeys, Stream
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from dali_icgan.ops import randint, uniform
from tests.photos import jpeg, make_folder, patch

pytestmark = pytest.mark.dali
N = 24  # 3 classes of 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def augment(generator, extractor):
    return di.DAICGAN(generator=generator, extractor=extractor, p=0.5)


@pytest.fixture(scope="module")
def bank(folder, generator, extractor, tmp_path_factory):
    at = extractor.at_resolution(generator.resolution)
    return di.FeatureBank.build(
        folder, at, tmp_path_factory.mktemp("banks") / "bank", dtype=torch.float32, progress=False
    )


@pytest.fixture
def load(folder):
    made = []

    def make(dataset=None, **arguments):
        arguments = {"batch_size": 5, "seed": 3, "device": "cpu", "transform": di.TrainTransform(32), **arguments}
        loader = di.DataLoader(folder if dataset is None else dataset, **arguments)
        made.append(loader)
        return loader

    yield make
    for loader in made:
        loader.close()


def our_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dali_icgan")]


def rows_of(loader):
    """One pass: {(index, repeat): (pixels, label, replaced)}."""
    rows = {}
    for images, labels, info in loader:
        for i, key in enumerate(zip(info["index"].tolist(), info["repeat"].tolist(), strict=True)):
            assert key not in rows
            rows[key] = (images[i].clone(), int(labels[i]), bool(info["replaced"][i]))
    return rows


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key][0], b[key][0]), key
        assert a[key][1:] == b[key][1:]


# ---------------------------------------------------------------------- what comes out


def test_real_rows_are_torchvisions(load, folder):
    transform = di.TrainTransform(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    seen = 0
    for images, labels, info in load(transform=transform, return_info=True, shuffle=True):
        for image, label, path, box, flip in zip(images, labels, info["path"], info["box"], info["flip"], strict=True):
            pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
            want = tv.resized_crop(pixels, *map(int, box), [32, 32], antialias=True)
            want = want.flip(2) if flip else want
            want = tv.normalize(want, transform.mean, transform.std)
            assert (image - want).abs().max() < 1 / 255
            assert ImageFolder(folder).classes[label] in path
            seen += 1
    assert seen == N


def test_eval_transform_is_torchvisions(load):
    for images, _, info in load(transform=di.EvalTransform(40, 32), return_info=True):
        for image, path in zip(images, info["path"], strict=True):
            pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
            want = tv.center_crop(tv.resize(pixels, 40, antialias=True), 32)
            want = tv.normalize(want, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            assert (image - want).abs().max() < 1 / 255


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [5, 5, 5, 5, 4]), (True, [5, 5, 5, 5])])
def test_every_index_once_and_len(load, shuffle, drop_last, sizes):
    loader = load(shuffle=shuffle, drop_last=drop_last, return_info=True)
    batches = list(loader)
    assert [len(labels) for _, labels, _ in batches] == sizes
    assert len(loader) == len(sizes)
    index = np.concatenate([info["index"] for *_, info in batches])
    assert len(set(index)) == len(index) == sum(sizes)
    if not shuffle:
        assert index.tolist() == list(range(sum(sizes)))


def test_default_form(load):
    images, labels = next(iter(load(transform=None)))
    assert images.shape == (5, 3, 224, 224)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts_hold_the_same_pixels(load, augment, dtype, memory_format):
    want = next(iter(load(augment=augment)))[0]
    got = next(iter(load(augment=augment, dtype=dtype, memory_format=memory_format)))[0]
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=memory_format)
    assert torch.equal(got, want.to(dtype))


def test_labels_follow_target_transform(load, folder):
    loader = load(ImageFolder(folder, target_transform=lambda label: 7 - label))
    assert sorted(torch.cat([labels for _, labels in loader]).tolist()) == [5] * 8 + [6] * 8 + [7] * 8


# ---------------------------------------------------------------------- a row is a function of its key alone


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 1},
        {"batch_size": 24},
        {"shuffle": False},
        {"num_workers": 1},
        {"prefetch_factor": 1},
        {"prefetch_factor": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["extractor", "bank"])
def test_nothing_but_the_key_matters(load, generator, extractor, bank, source, change):
    given = {"extractor": extractor} if source == "extractor" else {"bank": bank}
    augment = di.DAICGAN(generator=generator, p=0.5, **given)
    base = {"augment": augment, "shuffle": True, "return_info": True}
    want = rows_of(load(**base))
    assert 4 < sum(replaced for *_, replaced in want.values()) < 20
    same(want, rows_of(load(**{**base, **change})))


@pytest.mark.parametrize("size", [1, 7])
def test_batches_of_1_and_7_hold_the_rows_of_batches_of_64(load, folder, augment, size):
    many = ImageFolder(folder).samples * 3
    base = {"augment": augment, "shuffle": True, "return_info": True}
    want = rows_of(load(many, **base, batch_size=64))
    assert len(want) == 72
    same(want, rows_of(load(many, **base, batch_size=size)))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_the_same_rows(load, augment, world):
    base = {"augment": augment, "shuffle": True, "return_info": True}
    want = rows_of(load(**base))
    got = {}
    for rank in range(world):
        got |= rows_of(load(**base, shard=(rank, world), remainder="uneven"))
    same(want, got)


@pytest.mark.parametrize("m", [1, 7, 32])
def test_rows_depend_on_the_microbatch_only_within_rounding(load, generator, bank, m):
    want = rows_of(load(augment=di.DAICGAN(generator=generator, bank=bank, p=1.0), return_info=True))
    got = rows_of(
        load(augment=di.DAICGAN(generator=generator, bank=bank, p=1.0, microbatch=m), return_info=True, batch_size=3)
    )
    for key in want:
        assert (want[key][0] - got[key][0]).abs().max() < 1e-3


def test_bank_and_extractor_agree(load, generator, extractor, bank):
    online = rows_of(load(augment=di.DAICGAN(generator=generator, extractor=extractor, p=1.0), return_info=True))
    stored = rows_of(load(augment=di.DAICGAN(generator=generator, bank=bank, p=1.0), return_info=True))
    for key in online:
        assert (online[key][0] - stored[key][0]).abs().max() < 1e-3


def test_threads_of_the_training_do_not_matter_to_order_or_choice(load, augment):
    torch.set_num_threads(1)
    one = rows_of(load(augment=augment, return_info=True))
    torch.set_num_threads(2)
    two = rows_of(load(augment=augment, return_info=True))
    assert [row[1:] for row in one.values()] == [row[1:] for row in two.values()]


def test_epochs_differ_and_come_again(load, augment):
    loader = load(augment=augment, shuffle=True, return_info=True)
    first, second = rows_of(loader), rows_of(loader)
    assert any(not torch.equal(first[key][0], second[key][0]) for key in first)
    assert list(first) != list(second)
    loader.set_epoch(0)
    again = rows_of(loader)
    assert list(again) == list(first)
    same(again, first)
    loader.set_epoch(1)
    same(rows_of(loader), second)


def test_seeds(load, folder):
    def order(**arguments):
        return [i for *_, info in load(shuffle=True, return_info=True, **arguments) for i in info["index"].tolist()]

    assert order(seed=1) != order(seed=2)
    given = torch.Generator().manual_seed(11)
    assert order(seed=None, generator=given) == order(seed=11)
    assert order(seed=4, generator=given) == order(seed=4)
    torch.manual_seed(12)
    assert order(seed=None) == order(seed=12)
    assert load(seed=None, shard=(1, 2)).seed == load(seed=None, shard=(0, 2)).seed == 0  # ranks must agree


def test_replay_gives_a_row_again(load, augment):
    loader = load(augment=augment, shuffle=True, return_info=True)
    loader.set_epoch(3)
    for images, labels, info in loader:
        for i in range(0, len(labels), 2):
            image, label = loader.replay(3, int(info["index"][i]))
            assert torch.equal(image, images[i])
            assert label == labels[i]


def test_replay_while_an_epoch_is_under_way_changes_nothing(load, augment):
    want = rows_of(load(augment=augment, return_info=True))
    loader = load(augment=augment, return_info=True)
    got = {}
    for images, labels, info in loader:
        loader.replay(9, 5)
        for i, index in enumerate(info["index"].tolist()):
            got[index, 0] = (images[i], int(labels[i]), bool(info["replaced"][i]))
    same(want, got)


def test_p_is_nested_and_may_depend_on_the_epoch(load, generator, bank):
    def replaced(p, epoch=0):
        loader = load(augment=di.DAICGAN(generator=generator, bank=bank, p=p), return_info=True)
        loader.set_epoch(epoch)
        return {key for key, row in rows_of(loader).items() if row[2]}

    assert replaced(0.0) == set()
    assert replaced(0.3) < replaced(0.7) < replaced(1.0)
    assert replaced(lambda epoch: 0.0 if epoch < 2 else 1.0, epoch=1) == set()
    assert len(replaced(lambda epoch: 0.0 if epoch < 2 else 1.0, epoch=2)) == N


def test_the_training_codes_modes_change_nothing(load, augment):
    want = rows_of(load(augment=augment, return_info=True))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        got = rows_of(load(augment=augment, return_info=True))
    same(want, got)
    with torch.inference_mode():
        same(want, rows_of(load(augment=augment, return_info=True)))


def test_images_can_be_saved_for_backward(load, augment):
    images, _ = next(iter(load(augment=augment)))
    weight = torch.ones(3, 3, 1, 1, requires_grad=True)
    torch.nn.functional.conv2d(images, weight).sum().backward()
    assert weight.grad.isfinite().all()


# ---------------------------------------------------------------------- datasets and samplers


def test_every_form_of_a_dataset_gives_the_same_rows(load, folder):
    want = rows_of(load(return_info=True))
    listed = ImageFolder(folder)
    in_memory = [(Path(path).read_bytes(), label) for path, label in listed.samples]
    for dataset in (str(folder), listed, listed.samples, Subset(listed, range(N)), ConcatDataset([listed]), in_memory):
        same(want, rows_of(load(dataset, return_info=True)))


def test_a_subset_finds_its_rows_in_the_bank(load, folder, generator, bank):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0)
    rows = load(Subset(ImageFolder(folder), [20, 3]), augment=augment)._engine._binding.rows
    assert rows.tolist() == [20, 3]


def test_torch_samplers(load):
    weighted = WeightedRandomSampler([1.0] * N, 3 * N, generator=torch.Generator().manual_seed(1))
    rows = rows_of(load(sampler=weighted, return_info=True))
    assert len(rows) == 3 * N
    repeated = [index for index, repeat in rows if repeat == 1]
    assert repeated
    assert any(not torch.equal(rows[index, 0][0], rows[index, 1][0]) for index in repeated)
    loader = load(
        batch_size=1, batch_sampler=BatchSampler(RandomSampler(range(N)), 7, drop_last=True), return_info=True
    )
    assert [len(labels) for _, labels, _ in loader] == [7, 7, 7]
    assert len(loader) == 3


def test_a_sampler_without_a_generator_leaves_torchs_alone(load):
    loader = load(sampler=RandomSampler(range(N)), return_info=True)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = list(rows_of(loader))
    assert torch.equal(before, torch.random.get_rng_state())
    assert list(rows_of(loader)) != first


def test_the_samplers_set_epoch_names_the_pass(load):
    sampler = DistributedSampler(range(N), num_replicas=2, rank=0, seed=1)
    loader = load(sampler=sampler, return_info=True)
    sampler.set_epoch(5)
    want = rows_of(loader)
    assert loader.state_dict()["epoch"] == 6
    loader.set_epoch(5)
    assert sampler.epoch == 5
    got = rows_of(loader)
    assert list(got) == list(want)
    same(want, got)


def test_an_endless_sampler(load):
    def forever():
        while True:
            yield from range(N)

    taken = []
    for _, _, info in load(sampler=forever(), return_info=True):
        taken += info["index"].tolist()
        if len(taken) > 2 * N:
            break
    assert taken[:N] == taken[N : 2 * N] == list(range(N))


def test_shards_and_remainders(load):
    for remainder, sizes in (("uneven", [5, 5, 5, 5, 4]), ("pad", [5] * 5), ("drop", [4] * 5)):
        shards = [load(shard=(r, 5), remainder=remainder, batch_size=3) for r in range(5)]
        assert [sum(len(labels) for _, labels in shard) for shard in shards] == sizes
        assert [len(list(shard)) for shard in shards] == [len(shard) for shard in shards]


def test_ranks_of_torch_distributed(load, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        loader = load()
        assert (loader.rank, loader.world) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


def test_views(load, generator, bank):
    augment = di.DAICGAN(generator=generator, bank=bank, view_p=[0.0, 1.0])
    single = rows_of(load(return_info=True))
    for views, _labels, info in load(augment=augment, views=2, return_info=True):
        assert len(views) == 2
        assert info["replaced"].tolist() == [[False] * len(_labels), [True] * len(_labels)]
        for i, index in enumerate(info["index"].tolist()):
            assert torch.equal(views[0][i], single[index, 0][0])
            assert not torch.equal(views[1][i], views[0][i])
    loader = load(augment=augment, views=2)
    images, _ = next(iter(loader))
    assert torch.equal(loader.replay(0, 0, view=1)[0], images[1][0])


# ---------------------------------------------------------------------- what is read


def test_a_replaced_row_with_a_feature_is_never_read(load, folder, generator, bank, monkeypatch):
    read = []
    from dali_icgan.data.dataset import Samples

    real = Samples.read
    monkeypatch.setattr(Samples, "read", lambda self, index: read.append(index) or real(self, index))
    rows = rows_of(load(augment=di.DAICGAN(generator=generator, bank=bank, p=0.5), return_info=True))
    assert sorted(read) == sorted(index for (index, _), row in rows.items() if not row[2])
    read.clear()
    rows_of(load(augment=di.DAICGAN(generator=generator, bank=bank, p=1.0), return_info=True))
    assert read == []


def test_retrieval_shows_a_neighbour_and_keeps_the_label(load, generator, bank):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0, source="neighbour", k=3)
    whole = di.EvalTransform(32, 32)
    alone = rows_of(load(transform=whole, return_info=True))
    near = bank.neighbours(3)
    for (index, _), (pixels, label, _) in rows_of(load(transform=whole, augment=augment, return_info=True)).items():
        assert label == alone[index, 0][1]
        matches = [j for j in range(N) if torch.equal(alone[j, 0][0], pixels)]
        assert len(matches) == 1
        assert matches[0] in near[index]
        assert matches[0] != index


def test_a_sample_that_the_bank_lacks_goes_to_on_error(load, tmp_path, generator, extractor):
    photos = make_folder(tmp_path / "photos", 4)
    broken = photos / "coffee" / "002.jpg"
    good = broken.read_bytes()
    broken.write_bytes(good[:300])
    bank = di.FeatureBank.build(
        photos, extractor.at_resolution(generator.resolution), tmp_path / "bank", progress=False
    )
    broken.write_bytes(good)
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0)
    loader = load(photos, augment=augment)
    with pytest.warns(UserWarning, match=r"002.jpg .*has no feature in the bank"):
        assert sum(len(labels) for _, labels in loader) == 12
    assert [error.path for error in loader.errors] == [str(broken)]
    with pytest.raises(di.DecodeError, match="has no feature in the bank"):
        list(load(photos, augment=augment, on_error="raise"))


# ---------------------------------------------------------------------- settings (the operator's own: tests/augment/test_settings.py)


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_batch_whose_generations_wait_for_others_does_not_wait_for_one_that_fails(load, augment, tmp_path, damage):
    photos = make_folder(tmp_path / "photos")
    path = photos / "astronaut" / "006.jpg"  # of the second batch; more rows are never read
    data = path.read_bytes()
    pairs = [(str(each), 0) for each in sorted(photos.rglob("*.jpg"))]
    path.write_bytes(data[: len(data) // 2]) if damage == "cut off" else path.unlink()
    most = di.DAICGAN(generator=augment.generator, extractor=augment.extractor, p=0.9, microbatch=64)
    batches = iter(load(pairs, augment=most, on_error="raise", batch_size=4, timeout=60))
    assert len(next(batches)[0]) == 4
    with pytest.raises(di.DecodeError, match=r"006\.jpg"):
        next(batches)


def test_generations_of_photographs_share_calls_with_those_of_later_batches(load, augment, monkeypatch):
    """Their features come after decoding, but a call is not padded while later batches are being decoded."""
    calls = []
    real = augment.generate
    monkeypatch.setattr(augment, "generate", lambda z, h, y: calls.append(len(z)) or real(z, h, y))
    loader = load(augment=augment, batch_size=4, prefetch_factor=4)  # six batches, all of them looked ahead to
    replaced = sum(bool(rows[2]) for rows in rows_of(load(augment=augment, return_info=True)).values())
    calls.clear()
    list(loader)
    assert sum(calls) == replaced
    assert len(calls) == -(-replaced // augment.microbatch)


def decision_of(loader, epoch=0, view=0):
    """Each sample's uniform number, which decides whether it is replaced, and the keys of the other draws."""
    keys = RowKeys(loader.seed, epoch, np.arange(N), np.zeros(N, np.int64), view)
    return uniform(keys, Stream.REPLACE)[:, 0], keys


def test_view_p_and_p_of_the_epoch_decide_exactly_the_rows_below_them(load, generator, bank):
    called = set()

    def rising(epoch):
        called.add(epoch)
        return epoch / 4

    augment = di.DAICGAN(generator=generator, bank=bank, view_p=(0, 1, rising))
    loader = load(augment=augment, views=3, return_info=True)
    for epoch in (1, 3):
        loader.set_epoch(epoch)
        replaced = np.concatenate([info["replaced"] for *_, info in loader], 1)
        assert not replaced[0].any()
        assert replaced[1].all()
        assert np.array_equal(replaced[2], decision_of(loader, epoch, 2)[0] < epoch / 4)
    assert called == {1, 3}


def test_views_of_several_sizes(load, generator, bank):
    """Multi-crop: each view is what a loader of its transform alone gives, generations too."""
    augment = di.DAICGAN(generator=generator, bank=bank, view_p=(0.5, 0, 0.5))
    small, large = di.TrainTransform(16, scale=(0.05, 0.14)), di.TrainTransform(32, scale=(0.14, 1))
    loader = load(augment=augment, views=3, transform=[large, large, small])
    alike = {size: load(augment=augment, views=3, transform=size) for size in (small, large)}
    for views, expected, little in zip(loader, alike[large], alike[small], strict=True):
        assert [view.shape[-1] for view in views[0]] == [32, 32, 16]
        assert torch.equal(views[0][0], expected[0][0])
        assert torch.equal(views[0][1], expected[0][1])
        assert torch.equal(views[0][2], little[0][2])
    image, _ = loader.replay(0, 3, view=2)
    assert torch.equal(image, alike[small].replay(0, 3, view=2)[0])
    with pytest.raises(ValueError, match="one transform a view: views is 3, got 2"):
        load(views=3, transform=[large, small])
    with pytest.raises(TypeError, match="must be a TrainTransform or EvalTransform, got int"):
        load(views=2, transform=[large, 3])
    styled = di.DAICGAN(generator=generator, bank=bank, generated_transform=large)
    with pytest.raises(ValueError, match="must give 16 px in view 1 as its transform does, got 32 px; a sequence"):
        load(augment=styled, views=2, transform=[large, small])
    styled = di.DAICGAN(generator=generator, bank=bank, generated_transform=[large])
    with pytest.raises(ValueError, match="generated_transform must give one a view: views is 2, got 1"):
        load(augment=styled, views=2, transform=[large, small])


def test_labels_of_views_are_the_samples_own(load, generator, bank):
    for images, labels, info in load(
        augment=di.DAICGAN(generator=generator, bank=bank, p=0.5), views=3, return_info=True
    ):
        assert [len(view) for view in images] == [len(labels)] * 3
        assert labels.tolist() == [index // 8 for index in info["index"]]


def test_generated_transform_leaves_real_rows_bit_equal(load, generator, bank):
    own = di.EvalTransform(32, 32, mean=(0, 0, 0), std=(1, 1, 1))
    plain = rows_of(load(augment=di.DAICGAN(generator=generator, bank=bank, p=0.5), return_info=True))
    styled = di.DAICGAN(generator=generator, bank=bank, p=0.5, generated_transform=own)
    got = rows_of(load(augment=styled, return_info=True))
    whole = rows_of(load(augment=styled, transform=own, return_info=True))
    assert 0 < sum(row[2] for row in got.values()) < N
    for key, (pixels, label, replaced) in got.items():
        assert (label, replaced) == plain[key][1:]
        assert torch.equal(pixels, (whole if replaced else plain)[key][0])


def test_each_view_has_its_own_generated_transform(load, generator, bank):
    large, small = di.TrainTransform(32), di.TrainTransform(16)
    whole = di.EvalTransform(16, 16, mean=(0, 0, 0), std=(1, 1, 1))
    views = {"views": 2, "transform": [large, small], "return_info": True}

    def made(style):
        return list(load(augment=di.DAICGAN(generator=generator, bank=bank, p=1.0, generated_transform=style), **views))

    with load(
        augment=di.DAICGAN(generator=generator, bank=bank, p=1.0, generated_transform=[None, whole]), **views
    ) as own:
        replayed = own.replay(0, 3, view=1)[0]
        styled = list(own)
    for (images, _, info), (plain, _, _) in zip(styled, made(None), strict=True):
        assert torch.equal(images[0], plain[0])
        assert images[1].min() >= 0
        assert (info["box"][1] == [0, 0, 32, 32]).all()  # all of the generation
        assert not torch.equal(images[1], plain[1])
        for image, index in zip(images[1], info["index"], strict=True):
            assert index != 3 or torch.equal(image, replayed)


@pytest.fixture(scope="module")
def classy(generator):
    """A class-conditional generator of three classes, with random weights."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        resolution=32,
        channels=8,
        z_chunk=4,
        feature_dim=generator.feature_dim,
        shared_dim_feat=16,
        n_classes=3,
        shared_dim=8,
        class_conditional=True,
    )
    return di.load_generator(ICGenerator(config).eval().state_dict(), device="cpu")


def test_random_labels_are_returned_and_conditioned_on(load, classy, bank):
    augment = di.DAICGAN(generator=classy, bank=bank, p=0.6, labels="random", class_map=[2, 0, 1])
    loader = load(augment=augment, return_info=True)
    rows = rows_of(loader)
    u, keys = decision_of(loader)
    drawn = randint(keys, Stream.LABEL, 3)
    # With own labels a row is the same where its own class was drawn, another one elsewhere.
    own = rows_of(load(augment=di.DAICGAN(generator=classy, bank=bank, p=0.6, class_map=[2, 0, 1]), return_info=True))
    for (index, _), (pixels, label, replaced) in rows.items():
        assert replaced == (u[index] < 0.6)
        assert label == (drawn[index] if replaced else index // 8)
        assert own[index, 0][1] == index // 8
        assert torch.equal(pixels, own[index, 0][0]) == (label == index // 8)
    assert {row[1] for row in rows.values() if row[2]} == {0, 1, 2}


def test_a_class_map_by_wordnet_ids(load, folder, generator, extractor, tmp_path):
    torch.manual_seed(0)
    config = GeneratorConfig(32, 8, 4, generator.feature_dim, 16, n_classes=1000, shared_dim=8, class_conditional=True)
    model = di.load_generator(ICGenerator(config).eval().state_dict(), device="cpu")
    # cup, tabby cat, astronaut's space shuttle: their order by folder is not that of the photographs' names.
    ids = {"coffee": ("n07930864", 968), "chelsea": ("n02123045", 281), "astronaut": ("n04266014", 812)}
    for name, (wordnet, _) in ids.items():
        (tmp_path / wordnet).symlink_to(folder / name)
    found = rows_of(load(tmp_path, augment=di.DAICGAN(generator=model, extractor=extractor, p=1.0), return_info=True))
    given = di.DAICGAN(generator=model, extractor=extractor, p=1.0, class_map=[281, 812, 968])
    same(found, rows_of(load(tmp_path, augment=given, return_info=True)))
    wrong = di.DAICGAN(generator=model, extractor=extractor, p=1.0, class_map=[281, 812, 967])
    other = rows_of(load(tmp_path, augment=wrong, return_info=True))
    differ = {key[0] for key, row in found.items() if not torch.equal(row[0], other[key][0])}
    assert differ == set(range(16, 24))


@pytest.mark.parametrize("same_class", [False, True])
def test_a_neighbours_features_are_those_of_the_row_drawn(load, generator, bank, monkeypatch, same_class):
    augment = di.DAICGAN(generator=generator, bank=bank, p=0.7, condition="neighbour", k=9, same_class=same_class)
    gathered = []
    real = augment.gather
    monkeypatch.setattr(augment, "gather", lambda rows: gathered.extend(rows.tolist()) or real(rows))
    loader = load(augment=augment, return_info=True)
    rows = rows_of(loader)
    near = bank.neighbours(9, same_class=same_class)
    draw = randint(decision_of(loader)[1], Stream.NEIGHBOUR, 7 if same_class else 9)  # classes of eight
    wanted = [near[index, draw[index]] for index in range(N) if rows[index, 0][2]]
    assert sorted(gathered) == sorted(wanted)
    if same_class:
        assert [row // 8 for row in wanted] == [index // 8 for index in range(N) if rows[index, 0][2]]


@pytest.mark.parametrize("subset", [False, True])
def test_retrieval_of_the_same_class_shows_the_row_drawn(load, folder, bank, subset):
    whole = di.EvalTransform(32, 32)
    alone = rows_of(load(transform=whole, return_info=True))
    augment = di.DAICGAN(generator=None, bank=bank, p=0.7, source="neighbour", k=20, same_class=True)
    listed = ImageFolder(folder)
    chosen = [17, 3, 9, 20, 0, 12] if subset else list(range(N))
    loader = load(Subset(listed, chosen), transform=whole, augment=augment, return_info=True)
    draw = randint(decision_of(loader)[1], Stream.NEIGHBOUR, 7)
    near = bank.neighbours(20, same_class=True)
    rows = rows_of(loader)
    assert 0 < sum(row[2] for row in rows.values()) < len(chosen)
    for (index, _), (pixels, label, replaced) in rows.items():
        row = near[chosen[index], draw[index]] if replaced else chosen[index]
        assert row // 8 == label == chosen[index] // 8
        assert torch.equal(pixels, alone[row, 0][0])  # in a Subset too, a neighbour may lie outside of it


def test_an_image_alone_in_its_class_is_named_when_the_loader_is_made(load, tmp_path, generator, extractor):
    photos = make_folder(tmp_path / "photos", 2)
    (photos / "coffee" / "001.jpg").unlink()
    at = extractor.at_resolution(generator.resolution)
    bank = di.FeatureBank.build(photos, at, tmp_path / "bank", progress=False)
    augment = di.DAICGAN(generator=generator, bank=bank, condition="neighbour", k=2, same_class=True)
    with pytest.raises(ValueError, match=r"got none of coffee beside .*coffee/000.jpg"):
        load(photos, augment=augment)


def test_a_target_transform_that_parts_the_banks_classes_is_refused(load, folder, bank):
    augment = di.DAICGAN(generator=None, bank=bank, source="neighbour", k=3, same_class=True)
    joined = ImageFolder(folder, target_transform=lambda label: min(label, 1))
    labels = torch.cat([labels for _, labels in load(joined, augment=augment)])
    assert labels.tolist() == [0] * 8 + [1] * 16
    flipped = iter([0, 1] * N)
    parted = ImageFolder(folder, target_transform=lambda label: next(flipped))
    with pytest.raises(ValueError, match=r"whose class 0 must have one label in ImageFolder.*, got 0 for .* and 1 for"):
        load(parted, augment=augment)


@pytest.mark.parametrize("exif", [False, True])
def test_exif_must_be_the_banks(load, folder, generator, extractor, tmp_path, exif):
    at = extractor.at_resolution(generator.resolution)
    bank = di.FeatureBank.build(folder, at, tmp_path / "bank", exif=exif, progress=False)
    augment = di.DAICGAN(generator=generator, bank=bank)
    load(augment=augment, exif=exif)
    with pytest.raises(ValueError, match=rf"must be of images seen with exif={not exif}, .* got exif={exif}"):
        load(augment=augment, exif=not exif)


# ---------------------------------------------------------------------- bad files


def damage(path, kind):
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "garbage": b"\x01garbage" * 99, "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "missing"])
@pytest.mark.parametrize("with_augment", [False, True])
def test_a_bad_file_is_replaced_and_its_neighbours_are_untouched(load, tmp_path, augment, kind, with_augment):
    photos = make_folder(tmp_path / "photos")
    arguments = {"shuffle": True, "return_info": True, "augment": augment if with_augment else None}
    listed = ImageFolder(photos)  # before a file is missing
    want = rows_of(load(listed, **arguments))
    damage(photos / "coffee" / "003.jpg", kind)
    bad = [path for path, _ in listed.samples].index(str(photos / "coffee" / "003.jpg"))
    loader = load(listed, **arguments)
    with pytest.warns(UserWarning, match="003.jpg") as said:
        got = rows_of(loader)
    assert len(said) == 1
    assert said[0].filename == __file__  # the line of the loop, not one of ours
    assert len(got) == N
    (extra,) = set(got) - set(want)
    assert set(want) - set(got) == {(bad, 0)}
    order = list(want)
    following = order[(order.index((bad, 0)) + 1) % N]
    assert extra == (following[0], 1)
    assert got[extra][1] == want[following][1]
    assert list(got).index(extra) == order.index((bad, 0))
    same({key: got[key] for key in want if key != (bad, 0)}, {key: want[key] for key in want if key != (bad, 0)})
    (error,) = loader.errors
    assert (error.path, error.index) == (str(photos / "coffee" / "003.jpg"), bad)
    assert torch.equal(loader.replay(0, *extra)[0], got[extra][0])
    with pytest.raises(di.DecodeError, match=r"003\.jpg"):
        loader.replay(0, bad)


@pytest.mark.parametrize("kind", ["truncated", "garbage", "missing"])
def test_on_error_raise(load, tmp_path, kind):
    photos = make_folder(tmp_path / "photos")
    listed = ImageFolder(photos)
    damage(photos / "coffee" / "003.jpg", kind)
    loader = load(listed, on_error="raise")
    for _ in range(2):  # it can be iterated again
        with pytest.raises(di.DecodeError, match=r"003.jpg \(index 19\)"):
            list(loader)
    assert not our_threads()


def test_a_long_run_of_bad_files_is_stepped_over(load, tmp_path):
    photos = make_folder(tmp_path / "photos")
    listed = ImageFolder(photos)
    for i, (path, _) in enumerate(listed.samples):
        if i != 20:
            damage(type(photos)(path), ["truncated", "garbage", "empty", "missing"][i % 4])
    loader = load(listed, batch_size=2, return_info=True)
    with pytest.warns(UserWarning, match="it is replaced by the next readable sample"):
        rows = rows_of(loader)
    assert {index for index, _ in rows} == {20}
    assert len(rows) == N
    assert len(loader.errors) == N - 1


@pytest.mark.parametrize("kind", ["garbage", "truncated"])
def test_nothing_readable_is_an_error_that_names_some(load, tmp_path, kind):
    photos = make_folder(tmp_path / "photos", 2)
    listed = ImageFolder(photos)
    for path, _ in listed.samples:
        damage(type(photos)(path), kind)
    with (
        pytest.warns(UserWarning, match=r"00\d\.jpg"),
        pytest.raises(RuntimeError, match=r"0 of 6 samples could be read.*00\d.jpg"),
    ):
        list(load(listed))
    assert not our_threads()


# ---------------------------------------------------------------------- state


def keys_of(loader, batches=None):
    keys = []
    for number, (images, _, info) in enumerate(loader, 1):
        keys += [(int(i), images[j].sum().item()) for j, i in enumerate(info["index"])]
        if number == batches:
            break
    return keys


@pytest.mark.parametrize("order", ["own", "shuffled", "sampler", "batch sampler"])
def test_any_chain_of_saves_and_loads_gives_the_rest(load, order):
    def make():
        given = {
            "own": {},
            "shuffled": {"shuffle": True},
            "sampler": {"sampler": RandomSampler(range(N), generator=torch.Generator().manual_seed(2))},
            "batch sampler": {
                "batch_size": 1,
                "batch_sampler": BatchSampler(RandomSampler(range(N)), 5, drop_last=False),
            },
        }[order]
        return load(return_info=True, **given)

    unbroken = make()
    epochs = [keys_of(unbroken) for _ in range(3)]
    loader, got = make(), []
    got += keys_of(loader, 2)
    for batches in (1, 1, None):  # 3 of the 5 batches, then the rest
        state = json.loads(json.dumps(loader.state_dict()))
        loader = make()
        loader.load_state_dict(state)
        got += keys_of(loader, batches)
    assert got == epochs[0]
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    assert keys_of(loader) == epochs[1]
    loader = make()
    loader.load_state_dict(json.loads(json.dumps(state)))
    assert keys_of(loader) == epochs[1]
    assert keys_of(loader) == epochs[2]


def test_a_state_counts_batches_handed_out(load):
    loader = load(prefetch_factor=4)
    passing = iter(loader)
    assert loader.state_dict()["position"] == 0
    next(passing)
    time.sleep(0.3)  # more are ready by now
    assert loader.state_dict()["position"] == 5
    for _ in range(4):
        next(passing)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, N)
    assert list(passing) == []
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)


def test_a_state_continues_on_another_number_of_ranks_and_batch_size(load):
    want = list(rows_of(load(shuffle=True, return_info=True)))
    ranks = [load(shuffle=True, return_info=True, shard=(r, 2), batch_size=3) for r in range(2)]
    head = [key for loader in ranks for key in keys_of(loader, 2)]
    states = [loader.state_dict() for loader in ranks]
    assert states[0] == states[1]
    tail = []
    for rank in range(3):
        loader = load(shuffle=True, return_info=True, shard=(rank, 3), batch_size=4)
        loader.load_state_dict(states[0])
        tail += keys_of(loader)
    assert sorted(index for index, _ in head + tail) == sorted(index for index, _ in want)


def test_set_epoch_to_the_states_own_epoch_keeps_the_state(load):
    loader = load(return_info=True)
    loader.set_epoch(4)
    head = keys_of(loader, 2)
    state = loader.state_dict()
    loader = load(return_info=True)
    loader.load_state_dict(state)
    loader.set_epoch(4)
    tail = keys_of(loader)
    loader.set_epoch(4)
    assert head + tail == keys_of(loader)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "state must come from DataLoader.state_dict"),
        ({"format": 99}, "format must be 2, got 99"),
        ({"dataset": "0" * 32}, "dataset must be"),
        ({"samples": 3}, "samples must be 24, got 3"),
        ({"shuffle": True}, "shuffle must be False, got True"),
        ({"order": "sampler"}, "order must be 'own', got 'sampler'"),
        ({"position": None}, "state must have an integer position, got None"),
        ({"position": -1}, "state must have position >= 0, got -1"),
        ({"position": 25}, "state must have a position of at most 24 samples, got 25"),
        ({"epoch": True}, "state must have an integer epoch, got True"),
        ({"epoch": 2**32}, "state must have epoch < 4294967296, got 4294967296"),
        ({"seed": 2**64}, "state must have seed < 18446744073709551616, got 18446744073709551616"),
        ({"samples": 24.0}, "samples must be 24, got 24.0"),
        ({"shuffle": 0}, "shuffle must be False, got 0"),
        ({"forms": [1]}, r"state must have an object forms, got \[1\]"),
    ],
)
def test_a_state_of_something_else_is_refused(load, change, message):
    loader = load()
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ("/etc/passwd", "state must have an object forms of the generator, got '/etc/passwd'"),
        (
            {"avx2 float32": {"3x3 4->4 @8": 1.0}},
            "state's forms of the generator must give '3x3 4->4 @8' one of the tiles",
        ),
        (
            {"avx2 float32": 3},
            "state's forms of the generator must hold the tiles of 'avx2 float32' in an object, got 3",
        ),
    ],
)
def test_forms_of_a_state_are_checked(load, generator, extractor, forms, message):
    loader = load(augment=di.DAICGAN(generator=generator, extractor=extractor, p=0.5))
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict({**loader.state_dict(), "forms": {"generator": forms}})


def test_a_sampler_that_gives_another_order_is_refused(load):
    loader = load(sampler=list(range(N)), return_info=True)
    keys_of(loader, 2)
    state = loader.state_dict()
    other = load(sampler=list(range(N))[::-1])
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="state must be of the same sampler"):
        list(other)


# ---------------------------------------------------------------------- life and death


def test_break_then_for_is_a_fresh_epoch(load):
    loader = load(shuffle=True, return_info=True)
    epochs = [keys_of(load(shuffle=True, return_info=True)), None]
    for _ in loader:
        break
    assert not our_threads()
    got = keys_of(loader)
    assert len(got) == N
    assert got != epochs[0]


def test_two_loaders_side_by_side(load, augment):
    want = rows_of(load(augment=augment, return_info=True))
    a, b = load(augment=augment, return_info=True), load(augment=augment, return_info=True, batch_size=3)
    rows = {}
    for first, second in zip(a, b, strict=False):
        for images, labels, info in (first, second):
            for i, index in enumerate(info["index"].tolist()):
                rows[index, 0] = (images[i], int(labels[i]), bool(info["replaced"][i]))
    same({key: want[key] for key in rows}, rows)


def test_a_new_pass_ends_the_old_one(load):
    loader = load()
    old = iter(loader)
    next(old)
    new = iter(loader)
    with pytest.raises(RuntimeError, match="another pass over this DataLoader was begun, which ended this one"):
        next(old)
    assert len(list(new)) == 5


def test_a_kept_batch_never_changes(load, augment):
    loader = load(augment=augment, batch_size=4)
    kept = [images for images, _ in loader]
    sums = [images.double().sum().item() for images in kept]
    views = [images[1].numpy() for images, _ in loader]
    copies = [view.copy() for view in views]
    for _ in range(3):
        for _ in loader:
            pass
    assert sums == [images.double().sum().item() for images in kept]
    assert all(np.array_equal(view, copy) for view, copy in zip(views, copies, strict=True))


def test_no_thread_is_left(load, augment):
    loader = load(augment=augment)
    for _ in loader:
        pass
    assert not our_threads()
    for _ in loader:
        break
    assert not our_threads()
    passing = iter(loader)
    next(passing)
    assert our_threads()

    def fail():
        for _ in loader:
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    del passing
    gc.collect()
    assert not our_threads()
    descriptors = len(os.listdir("/proc/self/fd"))
    with di.DataLoader(loader.dataset, 4, device="cpu", transform=di.TrainTransform(32)) as other:
        next(iter(other))
    assert not our_threads()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_dropped_loader_ends_its_threads(folder):
    loader = di.DataLoader(folder, 4, device="cpu", transform=di.TrainTransform(32))
    passing = iter(loader)
    next(passing)
    del loader, passing
    gc.collect()
    assert not our_threads()


def test_close_is_final(load):
    loader = load()
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="the DataLoader is closed"):
        iter(loader)


def test_errors_in_the_background_keep_type_and_cause(load, generator, extractor, monkeypatch):
    augment = di.DAICGAN(generator=generator, extractor=extractor, p=1.0)

    def broken(*_):
        raise ZeroDivisionError("the generator is broken")

    monkeypatch.setattr(augment, "generate", broken)
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="the generator is broken"):
        list(load(augment=augment))
    assert time.monotonic() - begun < 10
    assert not our_threads()


def test_an_error_in_p_is_raised(load, generator, bank):
    def p(epoch):
        raise LookupError("no such epoch")

    with pytest.raises(LookupError, match="no such epoch"):
        list(load(augment=di.DAICGAN(generator=generator, bank=bank, p=p)))
    with pytest.raises(ValueError, match=r"p\(0\) must be in \[0, 1\], got 2"):
        list(load(augment=di.DAICGAN(generator=generator, bank=bank, p=lambda epoch: 2)))
    assert not our_threads()


def test_timeout(load, monkeypatch):
    from dali_icgan.data.dataset import Samples

    storage_is_back = threading.Event()
    monkeypatch.setattr(Samples, "read", lambda self, index: storage_is_back.wait(60))
    begun = time.monotonic()
    loader = load(timeout=0.1)
    with pytest.raises(RuntimeError, match=r"no batch within timeout = 0.1 s"):
        next(iter(loader))
    assert time.monotonic() - begun < 10  # it does not wait for what is stuck
    storage_is_back.set()
    deadline = time.monotonic() + 30
    while our_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not our_threads()


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


PREAMBLE = """
import os, sys, dali_icgan as di
augment = di.DAICGAN(generator=di.load_generator("embedded", device="cpu"), extractor=di.load_extractor("embedded", device="cpu"), p=0.5)
loader = di.DataLoader({folder!r}, 4, device="cpu", transform=di.TrainTransform(32), augment=augment)
"""


def test_after_a_fork_the_child_is_told(folder):
    body = """
next(iter(loader))
pid = os.fork()
if pid == 0:
    try: iter(loader)
    except RuntimeError as error: print(error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
loader.close()
"""
    done = run_python(PREAMBLE.format(folder=str(folder)) + body)
    assert done.returncode == 0, done.stderr
    assert "must be used in the process that made it" in done.stdout


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"collate_fn": list}, ValueError, "collate_fn must be None"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be an integer >= 1, got 2.5"),
        (
            {"batch_size": None},
            ValueError,
            "batch_size must be an integer >= 1, got None, which goes with batch_sampler only",
        ),
        ({"num_workers": -1}, ValueError, "num_workers must be an integer >= 0, got -1"),
        ({"prefetch_factor": 0}, ValueError, "prefetch_factor must be an integer >= 1, got 0"),
        ({"views": 0}, ValueError, "views must be an integer >= 1, got 0"),
        ({"views": 257}, ValueError, "views must be at most 256, got 257"),
        ({"max_pixels": 0}, ValueError, "max_pixels must be an integer >= 1"),
        ({"timeout": -1}, ValueError, "timeout must be a number of seconds >= 0, got -1"),
        ({"sampler": [0], "shuffle": True}, ValueError, "sampler must come without shuffle"),
        ({"batch_sampler": [[0]]}, ValueError, "batch_sampler must come without batch_size"),
        ({"on_error": "ignore"}, ValueError, 'on_error must be "skip" or "raise", got \'ignore\''),
        ({"memory_format": torch.preserve_format}, ValueError, "memory_format must be torch.contiguous_format or"),
        ({"augment": 0.5}, TypeError, "augment must be a DAICGAN or None, got float"),
        ({"transform": 224}, TypeError, "transform must be a TrainTransform or EvalTransform, got int"),
        ({"device": "meta"}, ValueError, "device must be cpu or cuda, got meta"),
        ({"dtype": torch.float64}, ValueError, "dtype must be torch.float32, float16 or bfloat16, got torch.float64"),
        ({"generator": 5}, TypeError, "generator must be a torch.Generator .* got int"),
        ({"dtype": "float16"}, ValueError, "dtype must be torch.float32, float16 or bfloat16, got 'float16'"),
        ({"seed": 2**64}, ValueError, "seed must be a 64-bit integer"),
        ({"shard": (2, 2)}, ValueError, r"shard must be \(rank, world\) with 0 <= rank < world"),
        ({"shard": (0, 2), "sampler": [0]}, ValueError, "shard must be None or False with a sampler"),
        ({"remainder": "cut"}, ValueError, "remainder must be one of 'pad', 'uneven', 'drop' or None, got 'cut'"),
    ],
)
def test_wrong_arguments_are_named(load, arguments, error, message):
    with pytest.raises(error, match=message):
        load(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_cuda_without_a_gpu_is_named(load):
    with pytest.raises(di.DeviceError, match="device='cuda' needs a CUDA device"):
        load(device="cuda")


def test_a_generator_elsewhere_is_named(load, augment, monkeypatch):
    monkeypatch.setattr(augment.generator, "device", torch.device("cuda:0"))
    with pytest.raises(ValueError, match="augment must generate on the loader's device cpu, got cuda:0"):
        load(augment=augment)


@pytest.mark.parametrize(
    "ignored",
    [
        {"pin_memory": True},
        {"worker_init_fn": print},
        {"multiprocessing_context": "fork"},
        {"persistent_workers": True},
        {"pin_memory_device": "cuda"},
        {"in_order": False},
        {"snapshot_every_n_steps": 5},
    ],
    ids=str,
)
def test_what_has_no_effect_here_is_said(load, ignored):
    with pytest.warns(UserWarning, match=f"{next(iter(ignored))}.* has no effect here"):
        load(**ignored)


def test_arguments_have_torchs_names_order_and_defaults():
    import inspect

    theirs = inspect.signature(torch.utils.data.DataLoader.__init__).parameters
    ours = inspect.signature(di.DataLoader.__init__).parameters
    for name, parameter in theirs.items():
        assert name in ours
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == parameter.kind, name
    positional = [name for name, p in theirs.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert [name for name, p in ours.items() if p.kind == p.POSITIONAL_OR_KEYWORD] == positional


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda loader: loader.replay(0, 24), IndexError, r"index must lie in 0..23, got 24"),
        (lambda loader: loader.replay(-1, 0), ValueError, "epoch must be an integer >= 0, got -1"),
        (lambda loader: loader.replay(0, 0, view=1), ValueError, r"view must lie in 0..0, got 1"),
        (lambda loader: loader.set_epoch(-1), ValueError, "epoch must be an integer >= 0, got -1"),
    ],
)
def test_wrong_calls_are_named(load, call, error, message):
    with pytest.raises(error, match=message):
        call(load())


def test_a_small_file_that_claims_to_be_huge_costs_nothing(load):
    data = jpeg(patch("coffee", 1))
    loader = load([(data, 0), (jpeg(np.zeros((3000, 3000, 3), np.uint8)), 1)], max_pixels=1_000_000, batch_size=2)
    with pytest.warns(UserWarning, match="3000 x 3000 pixels, more than max_pixels = 1000000"):
        (batch,) = list(loader)
    assert batch[1].tolist() == [0, 0]
