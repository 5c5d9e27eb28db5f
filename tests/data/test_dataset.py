import hashlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import ImageFolder

from dali_icgan.data import Samples, as_samples, dataset
from tests.photos import jpeg, make_folder, patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), per_class=4)


def test_a_folder_lists_what_image_folder_lists(folder):
    (folder / "astronaut" / "notes.txt").write_text("not an image")
    deep = folder / "astronaut" / "b" / "a"
    deep.mkdir(parents=True)
    (deep / "Z.JPEG").write_bytes(jpeg(patch("coffee", 1)))
    ours, theirs = as_samples(folder), ImageFolder(folder)
    assert list(zip(ours.sources, ours.labels, strict=True)) == theirs.samples
    assert ours.classes == theirs.classes


def test_keys_are_relative_and_do_not_depend_on_how_the_dataset_is_given(folder):
    whole = as_samples(folder)
    assert whole.keys[0] == "astronaut/000.jpg"
    assert as_samples(ImageFolder(folder)).keys == whole.keys
    assert as_samples(list(ImageFolder(folder).samples)).keys == whole.keys
    assert as_samples(Subset(ImageFolder(folder), [3, 1])).keys == [whole.keys[3], whole.keys[1]]


def test_keys_under_another_root(folder):
    whole = as_samples(folder)
    inner = as_samples([(str(folder / "coffee" / "000.jpg"), 0)])
    assert inner.keys == ["000.jpg"]
    assert inner.keys_under(whole.root) == ["coffee/000.jpg"]


def test_relative_paths_get_the_same_keys(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert as_samples([("coffee/000.jpg", 0), ("chelsea/000.jpg", 1)]).keys == ["coffee/000.jpg", "chelsea/000.jpg"]


def test_concat_keeps_parts_apart(tmp_path):
    first, second = make_folder(tmp_path / "first", 1), make_folder(tmp_path / "second", 1)
    both = as_samples(ConcatDataset([ImageFolder(first), Subset(ImageFolder(second), [2])]))
    assert both.keys[0] == "first/astronaut/000.jpg"
    assert both.keys[3] == "second/coffee/000.jpg"
    assert both.labels.tolist() == [0, 1, 2, 2]
    assert both.classes == ["astronaut", "chelsea", "coffee"]
    assert len(set(both.keys)) == 4


def test_bytes_in_memory():
    data = jpeg(patch("coffee", 0))
    samples = as_samples([(data, 5), (bytearray(data[:-1]), 6)])
    assert samples.read(0) == data
    assert samples.path(1) == "<sample 1 in memory>"
    assert samples.keys[0] != samples.keys[1]
    assert samples.root is None


def test_the_fingerprint_sees_order_labels_and_names(folder):
    pairs = ImageFolder(folder).samples
    one = as_samples(pairs).fingerprint
    assert one == as_samples(list(pairs)).fingerprint
    assert one != as_samples(pairs[::-1]).fingerprint
    assert one != as_samples([(path, label + 1) for path, label in pairs]).fingerprint


@pytest.mark.parametrize("root", ["/data", "/data/", "/", "/data/deep/er", "/datas"])
def test_a_key_is_the_path_as_it_is_written_below_the_root(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paths = [
        "/data/a/1.jpg",
        "/data/a/2.jpg",
        "/data//b/1.jpg",
        "/data/a/../c/1.jpg",
        "/data/1.jpg",
        "/1.jpg",
        "/data/a/..",
    ]
    paths += ["a/1.jpg", "1.jpg", "../1.jpg", "./a/./1.jpg", "/data/a/", "/data/deep/er/1.jpg", "/datas/1.jpg"]
    prefix = os.path.join(root, "")
    expected = [
        path.removeprefix(prefix) if path.startswith(prefix) else os.path.relpath(os.path.abspath(path), root)
        for path in paths
    ]
    assert Samples(paths, np.zeros(len(paths), np.int64), root).keys == expected


@pytest.mark.parametrize("paths", [["/1.jpg", "/a/1.jpg"], ["1.jpg"], ["a/b/1.jpg", "a/c/1.jpg"], ["/a/b/../1.jpg"]])
def test_the_root_of_a_list_holds_all_of_its_folders(paths):
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    assert as_samples([(path, 0) for path in paths]).root == os.path.commonpath(folders)


@pytest.mark.parametrize("chunk", [1, 3, 12, 100])
def test_a_fingerprint_is_of_all_keys_and_labels(folder, monkeypatch, chunk):
    samples = as_samples(folder)
    digest = hashlib.sha256("\n".join(samples.keys).encode() + samples.labels.tobytes())
    monkeypatch.setattr(dataset, "_CHUNK", chunk)
    for given in (folder, list(ImageFolder(folder).samples)):
        assert as_samples(given).fingerprint == digest.hexdigest()[:32]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_list_may_mix_what_an_entry_can_be(monkeypatch, chunk):
    monkeypatch.setattr(dataset, "_CHUNK", chunk)
    pairs = [("a/1.jpg", 1), [Path("a/2.jpg"), np.int32(2)], (b"3", np.uint64(3)), (memoryview(b"4"), 4), ("5.jpg", 5)]
    samples = as_samples(pairs)
    assert list(samples.sources) == ["a/1.jpg", "a/2.jpg", b"3", b"4", "5.jpg"]
    assert samples.labels.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(TypeError, match=r"dataset\[5\] must have an integer label, got True"):
        as_samples([*pairs, ("6.jpg", True)])
    with pytest.raises(TypeError, match=r"dataset\[5\] must be \(path or bytes, label\), got 6"):
        as_samples([*pairs, 6])


def held(make):
    """What making something leaves allocated, and takes at most, in bytes."""
    tracemalloc.start()
    try:
        made = make()
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made is not None
    return now, peak


def test_a_list_of_a_million_makes_no_object_an_entry():
    pairs = [(f"photos/{i // 1000}/{i}.jpg", i // 1000) for i in range(10**6)]
    now, peak = held(lambda: as_samples(pairs))
    assert now < 20 * len(pairs)  # a reference and a label
    assert peak < 40 * len(pairs)
    samples = as_samples(pairs[: 10**5])
    now, _ = held(lambda: as_samples(Subset(samples, range(0, 10**5, 2))))
    assert now < 20 * 10**5 / 2
    _, peak = held(lambda: samples.fingerprint)
    assert peak < 40 * 10**5


def test_a_folder_of_many_makes_no_object_an_entry(tmp_path, monkeypatch):
    monkeypatch.setenv("DALI_ICGAN_CACHE", str(tmp_path / "cache"))
    n, classes = 10**5, 20
    for label in range(classes):
        here = tmp_path / "photos" / f"{label:03d}"
        here.mkdir(parents=True)
        (here / f"{label:08d}.jpg").touch()
        for i in range(label + classes, n, classes):
            os.link(here / f"{label:08d}.jpg", here / f"{i:08d}.jpg")  # cheaper than a file
    name = len("00000000.jpg") + 1
    for _ in ("listed", "listed before"):
        now, peak = held(lambda: as_samples(tmp_path / "photos"))
        assert now < (name + 26) * n  # 24: where it begins, its size, its folder, its label
        assert peak < 2 * (name + 26) * n
    samples = as_samples(tmp_path / "photos")
    assert samples.path(n - 1) == str(tmp_path / "photos" / "019" / "00099999.jpg")
    now, _ = held(lambda: as_samples(Subset(samples, range(0, n, 2))))
    assert now < 26 * n / 2


def test_target_transform_is_applied(folder):
    samples = as_samples(ImageFolder(folder, target_transform=lambda label: label + 10))
    assert samples.labels.min() == 10
    assert samples.classes is None


def test_non_ascii_names(tmp_path):
    (tmp_path / "größe").mkdir()
    (tmp_path / "größe" / "猫.jpg").write_bytes(jpeg(patch("chelsea", 1)))
    samples = as_samples(tmp_path)
    assert samples.keys == ["größe/猫.jpg"]
    assert samples.read(0)[:2] == b"\xff\xd8"


def test_reading_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        as_samples([(tmp_path / "no.jpg", 0)]).read(0)


def test_samples_pass_through():
    samples = Samples(["a"], np.array([1]), None)
    assert as_samples(samples) is samples


class OwnItems(ImageFolder):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], 7


def wrong_loader(path):
    return path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: 3, TypeError, "dataset must be a folder, a list of .* got int"),
        (lambda d: d / "nowhere", FileNotFoundError, "which is not a folder"),
        (lambda d: d / "empty", FileNotFoundError, "must hold one subfolder a class, got none"),
        (lambda d: d / "hollow", FileNotFoundError, "hollow/class must hold images"),
        (lambda d: [], ValueError, "dataset must hold at least one image, got none"),
        (lambda d: [("a.jpg",)], TypeError, r"dataset\[0\] must be \(path or bytes, label\), got \('a.jpg',\)"),
        (lambda d: ["a.jpg"], TypeError, r"dataset\[0\] must be \(path or bytes, label\)"),
        (lambda d: [(3, 0)], TypeError, r"dataset\[0\] must begin with a path or bytes, got int"),
        (lambda d: [("a", 0), ("b", 0.5)], TypeError, r"dataset\[1\] must have an integer label, got 0.5"),
        (
            lambda d: ImageFolder(d / "photos", transform=str),
            ValueError,
            "ImageFolder must come without its own transform.*di.TrainTransform",
        ),
        (
            lambda d: ImageFolder(d / "photos", loader=wrong_loader),
            ValueError,
            "must use torchvision's own image loader",
        ),
        (lambda d: OwnItems(d / "photos"), ValueError, "OwnItems must not have a __getitem__ of its own"),
        (lambda d: Subset(ImageFolder(d / "photos"), [99]), ValueError, "Subset indices must lie in 0..2, got 99"),
    ],
)
def test_wrong_datasets_are_named(tmp_path, make, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "class").mkdir(parents=True)
    make_folder(tmp_path / "photos", 1)
    with pytest.raises(error, match=message):
        as_samples(make(tmp_path))


def test_a_folder_instead_of_a_file_is_an_os_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        as_samples([(tmp_path, 0)]).read(0)
