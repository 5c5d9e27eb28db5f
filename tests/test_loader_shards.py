"""The loader on tar shards: what it gives for a folder, and what it says of damage."""

import os
import shutil

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, Subset, WeightedRandomSampler

import dali_icgan as di
from dali_icgan.data import as_samples
from dali_icgan.data.shard_index import INDEX
from tests.photos import jpeg, make_folder, patch
from tests.shard_folders import make_shards, make_tar

pytestmark = pytest.mark.dali
N = 15  # 3 classes of 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=5)


@pytest.fixture(scope="module")
def made(folder):
    return make_shards(folder, folder.parent / "shards")


@pytest.fixture
def shards(made, tmp_path):
    """A copy that a test may damage, times included."""
    return shutil.copytree(made, tmp_path / "shards", copy_function=shutil.copy2)


@pytest.fixture
def load():
    made = []

    def make(dataset, **arguments):
        arguments = {"batch_size": 4, "seed": 3, "device": "cpu", "transform": di.TrainTransform(32), **arguments}
        made.append(di.DataLoader(dataset, **arguments))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def assert_same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b)
    for (images, labels), (images_b, labels_b) in zip(a, b, strict=True):
        assert torch.equal(images, images_b)
        assert torch.equal(labels, labels_b)


def indices(loader):
    return [index for _, _, info in loader for index in info["index"].tolist()]


@pytest.mark.parametrize(
    "arguments",
    [
        dict,
        lambda: {"shuffle": True, "drop_last": True},
        lambda: {"shuffle": True, "shard": (1, 4)},
        lambda: {"sampler": WeightedRandomSampler([0.1] * N, 20, generator=torch.Generator().manual_seed(1))},
        lambda: {"sampler": [3, 3, (14, 7), 0]},
        lambda: {
            "batch_sampler": BatchSampler(
                RandomSampler(range(N), generator=torch.Generator().manual_seed(2)), 6, False
            ),
            "batch_size": 1,
        },
    ],
    ids=["in order", "shuffle", "a rank", "weighted", "with repeats", "batch sampler"],
)
def test_shards_give_what_the_folder_gives(load, folder, made, arguments):
    files, ours = load(folder, **arguments()), load(made, **arguments())
    for _ in range(2):
        assert_same(files, ours)


def test_with_generations_and_a_bank_of_either(load, folder, made, generator, extractor, tmp_path):
    at = extractor.at_resolution(generator.resolution)
    of_files = di.FeatureBank.build(folder, at, tmp_path / "files", progress=False)
    of_shards = di.FeatureBank.build(made, at, tmp_path / "shards", progress=False)
    assert of_files.keys == of_shards.keys
    assert of_files.dataset_fingerprint == of_shards.dataset_fingerprint
    assert torch.equal(of_files.gather(range(N), "cpu"), of_shards.gather(range(N), "cpu"))

    def batches(dataset, bank):
        augment = di.DAICGAN(generator=generator, bank=bank, p=0.5)
        return list(load(dataset, augment=augment, shuffle=True))

    expected = batches(folder, of_files)
    assert_same(expected, batches(made, of_shards))
    with pytest.warns(UserWarning, match="are taken for the same, since they have the same names"):
        assert_same(expected, batches(made, of_files))
    with pytest.warns(UserWarning, match="are taken for the same, since they have the same names"):
        assert_same(expected, batches(folder, of_shards))


def test_neighbours_outside_a_subset_are_read_from_their_tars(load, folder, made, extractor, tmp_path):
    banks = [
        di.FeatureBank.build(d, extractor.at_resolution(32), tmp_path / d.name, progress=False) for d in (folder, made)
    ]
    batches = []
    for dataset, bank in zip((folder, made), banks, strict=True):
        augment = di.DAICGAN(generator=None, bank=bank, p=1.0, source="neighbour", k=6)
        batches.append(list(load(Subset(str(dataset), range(3)), augment=augment, on_error="raise")))
        images = [as_samples(dataset).read(i) for i in range(N)]
        decoded = di.data.ImageDecoder(1).decode(images)
        keys = torch.arange(N)
        batches[-1].append(augment(decoded, keys, torch.zeros(N, dtype=torch.int64), 0, di.TrainTransform(32))[:2])
    assert_same(*batches)


@pytest.mark.parametrize("arguments", [{"shuffle": True}, {"sampler": [4, 2, 9, 1, 0, 5, 13, 12, 11]}])
def test_an_epoch_begun_on_the_folder_goes_on_on_its_shards(load, folder, made, arguments):
    for begin, other in ((folder, made), (made, folder)):
        first = load(begin, **arguments)
        passing = iter(first)
        next(passing)
        second = load(other, **arguments)
        second.load_state_dict(first.state_dict())
        assert_same(passing, second)


def test_shards_of_other_images_refuse_the_state(load, folder, made, tmp_path):
    state = load(folder).state_dict()
    other = make_shards(make_folder(tmp_path / "images", 4), tmp_path / "shards")
    with pytest.raises(ValueError, match="state must be of this loader: samples"):
        load(other).load_state_dict(state)


# ---------------------------------------------------------------------- ranks


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Three tars of 1, 2 and 10 samples."""
    folder = tmp_path_factory.mktemp("uneven")
    number = 0
    for tar, count in enumerate([1, 2, 10]):
        members = []
        for _ in range(count):
            members += [
                (f"{number:02d}.jpg", jpeg(patch("coffee", number))),
                (f"{number:02d}.cls", b"%d" % (number % 3)),
            ]
            number += 1
        make_tar(folder / f"{tar}.tar", members)
    as_samples(folder)
    return folder


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [2, 5, 8])
def test_uneven_and_few_tars_change_nothing_for_ranks(load, uneven, world, shuffle):
    common = {"shuffle": shuffle, "return_info": True, "batch_size": 1}
    for remainder, each in (("pad", -(-13 // world)), ("drop", 13 // world)):
        ranks = [load(uneven, shard=(rank, world), remainder=remainder, **common) for rank in range(world)]
        assert [len(rank) for rank in ranks] == [each] * world
        seen = [indices(rank) for rank in ranks]
        assert [len(one) for one in seen] == [each] * world
        assert len({index for one in seen for index in one}) == min(13, each * world)
    ranks = [load(uneven, shard=(rank, world), remainder="uneven", **common) for rank in range(world)]
    seen = [indices(rank) for rank in ranks]
    assert sorted(index for one in seen for index in one) == list(range(13))
    assert [len(one) for one in seen] == [len(rank) for rank in ranks]
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


# ---------------------------------------------------------------------- damage


def spoil(shards, index, offset, data):
    """Overwrite bytes of an image in its tar."""
    member = as_samples(shards).sources[index]
    path = member.shards.tar(member.row)
    times = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(int(member.shards.index.rows.offset[member.row]) + offset)
        file.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return str(member)


def test_a_damaged_image_is_replaced_and_named_by_tar_and_member(load, made, shards):
    name = spoil(shards, 6, 0, b"no image")
    loader = load(shards, return_info=True)
    with pytest.warns(UserWarning, match="it is replaced by the next readable sample"):
        assert indices(loader) == [0, 1, 2, 3, 4, 5, 7, 7, 8, 9, 10, 11, 12, 13, 14]
    (error,) = loader.errors
    assert error.path == name
    assert name.startswith(f"{shards}/shard-00000")
    assert name.endswith(".tar: chelsea/001.jpg")
    assert error.index == 6
    with pytest.raises(di.DecodeError, match=r"\.tar: chelsea/001\.jpg \(index 6\)"):
        list(load(shards, on_error="raise"))


@pytest.mark.parametrize("damage", ["cut off", "changed", "gone"])
def test_a_tar_damaged_after_it_was_opened(load, shards, damage):
    loader = load(shards, return_info=True)
    tar = sorted(shards.glob("*.tar"))[1]
    inside = [i for i in range(N) if tar.name in as_samples(shards).path(i)]
    if damage == "cut off":
        os.truncate(tar, 1000)
    elif damage == "changed":
        content = tar.read_bytes()
        tar.write_bytes(content[512:] + content[:512])
    else:
        tar.unlink()
    with pytest.warns(UserWarning, match="it is replaced by the next readable sample"):
        seen = indices(loader)
    assert len(seen) == N
    assert not set(seen) & set(inside)
    assert sorted(error.index for error in loader.errors) == inside
    reason = {"gone": "No such file"}.get(damage, f"its tar was {damage} after it was indexed")
    assert all(reason in error.reason and tar.name in error.path for error in loader.errors)


def test_damage_before_it_is_opened_ends_the_making_of_a_loader(load, shards):
    tar = sorted(shards.glob("*.tar"))[1]
    content = tar.read_bytes()
    os.truncate(tar, 1000)
    with pytest.raises(ValueError, match=rf"{tar.name} must be a tar that is whole, got one that is cut off at 1000"):
        load(shards)
    tar.unlink()
    with pytest.raises(FileNotFoundError, match=f"got none named {tar.name}"):
        load(shards)
    tar.write_bytes(content)
    (shards / INDEX).write_bytes(b"")
    assert len(list(load(shards))) == 4
