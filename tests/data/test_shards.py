"""A folder of tars as a dataset: what is found in it, and what is said where something is wrong."""

import itertools
import json
import logging
import os
import pickle
import random
import re
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Subset

from dali_icgan.data import as_samples
from dali_icgan.data.shard_index import INDEX, Shard, ShardIndex, open_index
from dali_icgan.data.shard_samples import Rows
from dali_icgan.data.shards import ShardMembers, Shards, is_shard_folder, open_shards
from tests.photos import jpeg, make_folder, patch
from tests.shard_folders import make_shards, make_tar

JPEG = jpeg(patch("coffee", 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), per_class=5)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    return make_shards(folder, tmp_path_factory.mktemp("made") / "shards")


@pytest.fixture
def shards(made, tmp_path):
    """A copy that a test may damage, times included."""
    return shutil.copytree(made, tmp_path / "shards", copy_function=shutil.copy2)


@pytest.fixture
def said(caplog):
    """What the log says, line by line."""
    caplog.set_level(logging.INFO, "dali_icgan")
    return lambda: [record.getMessage() for record in caplog.records]


def tars(shards):
    return sorted(shards.glob("*.tar"))


# ---------------------------------------------------------------------- as the folder


def test_shards_are_the_folder(folder, made, said):
    ours, files = as_samples(made), as_samples(folder)
    assert ours.keys == files.keys
    assert ours.labels.tolist() == files.labels.tolist()
    assert ours.classes == files.classes
    assert ours.fingerprint == files.fingerprint
    assert [ours.read(i) for i in range(len(ours))] == [files.read(i) for i in range(len(files))]
    assert ours.path(0) == f"{made}/shard-000000.tar: astronaut/000.jpg"
    assert ours.root == str(made)
    assert len(tars(made)) > 2
    assert said() == []


def test_a_subset_and_a_concatenation(folder, made, tmp_path):
    whole = as_samples(made)
    few = as_samples(Subset(str(made), [7, -1, 2]))
    assert few.keys == [whole.keys[7], whole.keys[14], whole.keys[2]]
    assert few.read(1) == whole.read(14)
    assert isinstance(few.sources, ShardMembers)
    other = make_shards(folder, tmp_path / "other")
    joined = as_samples(ConcatDataset([str(made), str(other)]))
    assert len(joined) == 30
    assert joined.read(15) == whole.read(0)
    assert len(set(joined.keys)) == 30
    assert joined.keys[15].endswith("other/astronaut/000.jpg")


def test_members_are_a_sequence(made):
    members = as_samples(made).sources
    assert [str(member) for member in members[3:5]] == [str(members[3]), str(members[4])]
    assert str(members[-1]) == str(members[len(members) - 1])
    with pytest.raises(IndexError):
        members[len(members)]


def test_they_can_be_pickled(made):
    members = pickle.loads(pickle.dumps(as_samples(made).sources))
    assert members[4].read() == as_samples(made).read(4)


def test_a_forked_process_reads_on(made):
    samples = as_samples(made)
    before = [samples.read(i) for i in range(len(samples))]
    child = os.fork()
    if child == 0:
        same = all(samples.read(i) == before[i] for i in range(len(samples)))
        os._exit(0 if same else 1)
    again = [samples.read(i) for i in range(len(samples))]
    assert os.waitpid(child, 0)[1] == 0
    assert again == before


def test_few_tars_stay_open(tmp_path):
    count = 200
    for i in range(count):
        make_tar(tmp_path / f"{i:03d}.tar", [(f"{i}.jpg", JPEG), (f"{i}.cls", b"0")])
    samples = as_samples(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    assert all(samples.read(i) == JPEG for i in range(count))
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    del samples
    assert len(os.listdir("/proc/self/fd")) <= before


def test_many_threads_read_from_more_tars_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("dali_icgan.data.shards._OPEN_TARS", 2)
    images = [JPEG + b"%d" % i for i in range(12)]
    for i, image in enumerate(images):
        make_tar(tmp_path / f"{i:03d}.tar", [(f"{i}.jpg", image), (f"{i}.cls", b"0")])
    samples = as_samples(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(samples.read, list(range(12)) * 200)) == images * 200


def test_memory_is_arrays():
    n = 200_000
    tracemalloc.start()
    try:
        names = b"".join(b"n%08d/n%08d_%05d.JPEG" % (i % 1000, i % 1000, i % 99999) for i in range(n))
        length = len(names) // n
        rows = Rows(
            *(np.arange(n, dtype=np.int64) for _ in range(2)),
            np.zeros(n, np.uint32),
            np.zeros(n, np.int64),
            names,
            np.arange(1, n + 1) * length,
        )
        shards = Shards("/shards", ShardIndex([Shard("a.tar", 1, 1, n)], rows, None))
        members = ShardMembers(shards).take(np.arange(n)[::-1])
        assert str(members[0]).endswith(f"_{(n - 1) % 99999:05d}.JPEG")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / n < 100  # a path alone, as a Python string, is that


# ---------------------------------------------------------------------- by WebDataset's convention


def test_members_that_are_not_adjacent_are_joined(tmp_path):
    keys = ["b/1", "a/2", "a/1.d/3"]
    images = [(f"{key}.jpg", JPEG + key.encode()) for key in keys]
    labels = [(f"{key}.cls", b"%d" % i) for i, key in enumerate(keys)]
    make_tar(tmp_path / "x.tar", [labels[1], *images, ("a/2.txt", b"words"), labels[2], labels[0]])
    samples = as_samples(tmp_path)
    # The order is that of the first members.
    assert samples.keys == ["a/2.jpg", "b/1.jpg", "a/1.d/3.jpg"]
    assert samples.labels.tolist() == [1, 0, 2]
    assert samples.read(2) == images[2][1]
    assert samples.classes is None


def test_what_belongs_to_no_sample_is_passed_over(tmp_path):
    others = ["README", "__meta__/a.jpg", "__info__", "a/.hidden.jpg", "notes.txt", "a/data.json"]
    members = [(name, b"{}") for name in others]
    make_tar(tmp_path / "x.tar", [*members, ("a/1.jpg", JPEG), ("a/1.cls", b"0"), ("a/1.left.png", b"")])
    assert as_samples(tmp_path).keys == ["a/1.jpg"]


@pytest.mark.parametrize("name", ["JPG", "jpeg", "PNG", "webp", "gif", "img", "photo.jpg"])
def test_what_an_image_may_be_called(tmp_path, name):
    make_tar(tmp_path / "x.tar", [(f"1.{name}", JPEG), ("1.CLS", b" 7\n")])
    samples = as_samples(tmp_path)
    assert samples.keys == [f"1.{name}"]
    assert samples.labels.tolist() == [7]


def test_a_label_in_json(tmp_path):
    members = [
        ("1.jpg", JPEG),
        ("1.json", b'{"label": 3}'),
        ("2.jpg", JPEG),
        ("2.json", b'{"label": 9}'),
        ("2.cls", b"4"),
    ]
    make_tar(tmp_path / "x.tar", members)
    assert as_samples(tmp_path).labels.tolist() == [3, 4]


def test_dots_before_names_are_left_out(tmp_path):
    make_tar(tmp_path / "x.tar", [("./a/1.jpg", JPEG), ("./a/1.cls", b"0"), ("./b/1.jpg", JPEG), ("./b/1.cls", b"1")])
    samples = as_samples(tmp_path)
    assert samples.keys == ["a/1.jpg", "b/1.jpg"]
    assert samples.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["a/1", "b/1"], [0, 1], ["a", "b"]),
        (["b/1", "a/1"], [0, 1], ["b", "a"]),  # whatever the labels say
        (["a/1", "b/1"], [0, 2], None),
        (["a/1", "b/1"], [0, 0], None),
        (["a/1", "a/2"], [0, 1], None),
        (["a/1", "2"], [0, 1], None),
    ],
)
def test_classes_are_folders_that_have_one_label_each(tmp_path, names, labels, classes):
    pairs = zip(names, labels, strict=True)
    make_tar(
        tmp_path / "x.tar", [m for key, label in pairs for m in ((f"{key}.jpg", JPEG), (f"{key}.cls", b"%d" % label))]
    )
    assert as_samples(tmp_path).classes == classes


SOUND = [("0.jpg", JPEG), ("0.cls", b"0")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", JPEG)], r"x\.tar must hold a label beside every image: 1\.cls, .* got none for 1\.jpg"),
        ([("a/1.jpg", JPEG), ("a/1.json", b"{}")], r"x\.tar must hold a label .* got none for a/1\.jpg"),
        ([("1.cls", b"1")], r"x\.tar must hold an image beside every label, got none for 1"),
        ([("1.cls", b"dog"), ("1.jpg", JPEG)], r"x\.tar: 1\.cls must be an integer as text, got b'dog'"),
        ([("1.cls", b""), ("1.jpg", JPEG)], r"1\.cls must be an integer as text, got b''"),
        ([("1.cls", b"9" * 19), ("1.jpg", JPEG)], r"1\.cls must be a label of 64 bits, got 9999999999999999999"),
        ([("1.json", b"{"), ("1.jpg", JPEG)], r"x\.tar: 1\.json must be JSON"),
        ([("1.json", b'{"label": "3"}'), ("1.jpg", JPEG)], r"1\.json must have an integer .label., got '3'"),
        ([("1.json", b"[" * 100_000), ("1.jpg", JPEG)], r"1\.json must be JSON"),
        ([("1.cls", bytes(1 << 21)), ("1.jpg", JPEG)], r"1\.cls must have at most 1048576 bytes, got 2097152"),
        (
            [("1.jpg", JPEG), ("1.png", JPEG), ("1.cls", b"1")],
            r"x\.tar must hold one image a sample, got 1\.jpg, 1\.png",
        ),
        (
            [("1.a.jpg", JPEG), ("1.b.jpg", JPEG), ("1.cls", b"1")],
            r"must hold one image a sample, got 1\.a\.jpg, 1\.b\.jpg",
        ),
        (
            [("1.jpg", JPEG), ("1.cls", b"1"), ("2.txt", b""), ("1.jpg", JPEG)],
            r"x\.tar must hold each member once, got 1\.jpg twice",
        ),
        ([("1.jpg", JPEG), ("1.cls", b"1"), ("1.cls", b"2")], r"x\.tar must hold each member once, got 1\.cls twice"),
    ],
)
def test_a_tar_that_is_wrong_is_named_with_its_member(tmp_path, members, message):
    make_tar(tmp_path / "x.tar", [*SOUND, *members])
    with pytest.raises(ValueError, match=message):
        as_samples(tmp_path)
    assert not (tmp_path / INDEX).exists()


def test_a_sample_in_two_tars_is_an_error_that_names_both(tmp_path):
    make_tar(tmp_path / "x.tar", SOUND)
    make_tar(tmp_path / "y.tar", SOUND)
    with pytest.raises(ValueError, match=r"must hold each sample once, got 0\.jpg in x\.tar and in y\.tar"):
        as_samples(tmp_path)


def test_image_and_label_in_two_tars_are_no_sample(tmp_path):
    make_tar(tmp_path / "x.tar", SOUND[:1])
    make_tar(tmp_path / "y.tar", SOUND[1:])
    with pytest.raises(ValueError, match=r"x\.tar must hold a label beside every image"):
        as_samples(tmp_path)


def test_an_empty_tar_is_no_mistake_but_a_folder_of_them_is(tmp_path):
    make_tar(tmp_path / "x.tar", [])
    with pytest.raises(ValueError, match="must hold at least one image, got none"):
        as_samples(tmp_path)
    make_tar(tmp_path / "y.tar", SOUND)
    make_tar(tmp_path / "z.tar", [])
    assert as_samples(tmp_path).read(0) == JPEG


# ---------------------------------------------------------------------- the index


def test_what_is_a_shard_folder(tmp_path, made):
    assert is_shard_folder(made)
    assert not is_shard_folder(tmp_path / "nowhere")
    assert not is_shard_folder(tmp_path)
    (tmp_path / "a.tar").mkdir()
    assert not is_shard_folder(tmp_path)
    (tmp_path / "a.tar").rmdir()
    make_tar(tmp_path / "b.tar", SOUND)
    assert is_shard_folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    assert is_shard_folder(tmp_path)
    (tmp_path / "c").mkdir()  # as torchvision sees it, tars beside classes are not images
    assert not is_shard_folder(tmp_path)
    (tmp_path / ".cache").rmdir()
    with pytest.raises(FileNotFoundError, match="is a folder of tar shards only without subfolders, or with its index"):
        as_samples(tmp_path)
    open_index(tmp_path)
    assert is_shard_folder(tmp_path)


def test_a_missing_index_is_made_again_and_said(shards, made, said):
    (shards / INDEX).unlink()
    assert as_samples(shards).fingerprint == as_samples(made).fingerprint
    assert said() == [f"{shards} has no index: it is made from the tars' headers"]
    # Byte for byte but for the times of writing that a zip notes.
    old, new = np.load(made / INDEX), np.load(shards / INDEX)
    assert all(np.array_equal(old[name], new[name]) for name in old.files)
    as_samples(shards)
    assert len(said()) == 1


def test_a_damaged_index_is_made_again_and_said(shards, made, said):
    sound = (shards / INDEX).read_bytes()
    random.seed(0)
    damaged = [b"", sound[:100], sound[:-30], bytes(len(sound))]
    for _ in range(40):
        changed = bytearray(sound)
        changed[random.randrange(len(sound))] ^= 1 << random.randrange(8)
        damaged.append(bytes(changed))
    for number, content in enumerate(damaged):
        (shards / INDEX).write_bytes(content)
        assert as_samples(shards).fingerprint == as_samples(made).fingerprint
        if number < 4:
            assert "is damaged" in said()[-1]
            assert (shards / INDEX).read_bytes() != content


def stored(shards):
    with np.load(shards / INDEX) as index:
        return dict(index)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda index: index.pop("label"), "label"),
        (lambda index: index.update(label=index["label"][1:]), r"its label must be int64 \[15\]"),
        (lambda index: index.update(label=index["label"].astype(float)), r"its label must be int64 \[15\]"),
        (lambda index: index.update(offset=index["offset"] + 10**9), "samples outside of their tars"),
        (lambda index: index.update(offset=index["offset"] * 0), "samples outside of their tars"),
        (lambda index: index.update(size=-index["size"]), "samples outside of their tars"),
        (lambda index: index.update(end=index["end"][::-1]), "names do not end where they should"),
        (lambda index: index.update(names=index["names"][1:]), "names do not end where they should"),
        (lambda index: about(index, format=2), "its format is 2, not 1"),
        (lambda index: about(index, shards=[["../a.tar", 1, 1, 15]]), "its list of tars is not one"),
        (lambda index: about(index, shards=[["a.tar", 1, 1, "15"]]), "unsupported operand|its list of tars is not one"),
        (
            lambda index: about(index, shards=[["a.tar", 10**9, 1, 15], ["a.tar", 1, 1, 0]]),
            "its list of tars is not one",
        ),
        (lambda index: about(index, classes=[1]), "its classes are no names"),
        (lambda index: about(index, classes=["a", "b"]), "its labels are not of its classes"),
        (lambda index: index.update(label=np.array([{}] * 15)), "allow_pickle|pickle"),
    ],
)
def test_an_index_that_cannot_be_is_not_believed(shards, made, said, change, reason):
    index = stored(shards)
    change(index)
    np.savez((shards / INDEX).open("wb"), **index)
    assert as_samples(shards).fingerprint == as_samples(made).fingerprint
    assert len(said()) == 1
    assert re.search(rf"is damaged \(.*({reason}).*\): it is made again", said()[0])


def about(index, **changes):
    content = json.loads(index["about"].tobytes()) | changes
    index["about"] = np.frombuffer(json.dumps(content).encode(), np.uint8)


def test_an_index_that_cannot_be_kept_is_made_each_time_and_said(shards, made, said, monkeypatch):
    (shards / INDEX).unlink()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    for times in (1, 2):
        assert as_samples(shards).fingerprint == as_samples(made).fingerprint
        assert sum("the index cannot be kept (Permission denied)" in line for line in said()) == times
    assert not (shards / INDEX).exists()


def test_a_full_disk_leaves_nothing_behind(shards, said, monkeypatch):
    (shards / INDEX).unlink()
    before = sorted(os.listdir(shards))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert len(as_samples(shards)) == 15
    assert sorted(os.listdir(shards)) == before
    assert "No space left on device" in said()[-1]


def test_a_tar_that_was_changed_is_indexed_again_alone(shards, said, monkeypatch):
    names = as_samples(shards).keys
    second = tars(shards)[1]
    make_tar(second, [("new/1.jpg", JPEG), ("new/1.cls", b"0")])
    read = []
    real = open_index.__globals__["index_tar"]
    monkeypatch.setitem(open_index.__globals__, "index_tar", lambda path: read.append(path.name) or real(path))
    samples = as_samples(shards)
    assert read == [second.name]
    assert "new/1.jpg" in samples.keys
    assert set(samples.keys) - {"new/1.jpg"} < set(names)
    assert said() == [f"{shards}: {second.name} is not as the index has it by size and time: indexed again"]
    assert as_samples(shards).fingerprint == samples.fingerprint
    assert len(said()) == 1


def test_a_label_that_was_changed_in_place_counts(shards, said):
    first = tars(shards)[0]
    content = first.read_bytes()
    header = content.index(b"astronaut/001.cls")
    first.write_bytes(content[: header + 512] + b"2" + content[header + 513 :])
    assert as_samples(shards).labels.tolist()[:3] == [0, 2, 0]
    assert len(said()) == 1


def test_a_new_tar_joins(shards, said):
    make_tar(shards / "shard-999.tar", [("astronaut/new.jpg", JPEG), ("astronaut/new.cls", b"0")])
    assert len(as_samples(shards)) == 16
    assert said() == [f"{shards}: shard-999.tar is not as the index has it by size and time: indexed again"]


def test_a_missing_tar_is_named(shards):
    gone = tars(shards)[1]
    gone.unlink()
    count = len(tars(shards)) + 1
    with pytest.raises(
        FileNotFoundError, match=rf"must hold the {count} tars of its index, got none named {gone.name}: put"
    ):
        as_samples(shards)


def test_without_index_a_gap_in_the_numbers_is_said(shards, said):
    tars(shards)[1].unlink()
    (shards / INDEX).unlink()
    assert len(as_samples(shards)) < 15
    assert any("numbered up to" in line and "without 1: is one missing?" in line for line in said())


@pytest.mark.parametrize("names", [["a.tar", "b.tar"], ["x-1.tar", "x-2.tar"], ["x-7.tar"], ["1.tar", "20261201.tar"]])
def test_no_gap_is_seen_where_there_is_none(tmp_path, said, names):
    for number, name in enumerate(names):
        make_tar(tmp_path / name, [(f"{number}.jpg", JPEG), (f"{number}.cls", b"0")])
    as_samples(tmp_path)
    assert len(said()) == 1


def test_a_tar_that_was_cut_off_is_named(shards):
    last = tars(shards)[-1]
    os.truncate(last, last.stat().st_size // 2)
    with pytest.raises(ValueError, match=rf"{last.name} must be a tar that is whole, got one that is cut off"):
        as_samples(shards)


def test_after_it_was_opened_a_cut_or_changed_tar_is_an_error_of_its_rows(shards):
    samples = as_samples(shards)
    first, second = tars(shards)[:2]
    sound = [i for i in range(15) if first.name not in samples.path(i) and second.name not in samples.path(i)]
    os.truncate(first, 2000)
    moved = b"x" * 512 + second.read_bytes()
    second.write_bytes(moved)
    for i in range(15):
        if i in sound:
            assert samples.read(i)
        else:
            with pytest.raises(OSError, match=r"its tar was (cut off|changed) after it was indexed"):
                samples.read(i)


def test_two_processes_may_index_at_once(shards, made):
    (shards / INDEX).unlink()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if as_samples(shards).fingerprint == as_samples(made).fingerprint else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert list(shards.glob("*.new")) == []
    assert open_shards(shards).name(0) == "astronaut/000.jpg"


def test_rows_are_cut_and_joined():
    names = [b"", b"ab", b"c", b"", b"def"]
    rows = Rows(
        np.arange(5),
        np.arange(5),
        np.arange(5, dtype=np.uint32),
        np.arange(5),
        b"".join(names),
        np.cumsum([*map(len, names)]),
    )
    for cuts in itertools.combinations_with_replacement(range(6), 2):
        parts = [rows.part(begin, stop) for begin, stop in zip((0, *cuts), (*cuts, 5), strict=True)]
        again = Rows.joined(parts)
        assert [again.name(i) for i in range(5)] == names
        assert again.offset.tolist() == rows.offset.tolist()
