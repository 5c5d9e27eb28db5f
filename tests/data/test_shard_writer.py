"""Writing a dataset as tar shards."""

import fcntl
import logging
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dali_icgan.data import Samples, as_samples
from dali_icgan.data.shard_index import INDEX
from dali_icgan.data.shard_samples import split_name
from dali_icgan.data.shard_writer import member_names, write_shards
from tests.photos import jpeg, make_folder, patch
from tests.shard_folders import make_shards

JPEG = jpeg(patch("coffee", 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), per_class=5)


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_written(folder, tmp_path):
    out = make_shards(folder, tmp_path / "out")
    tars = sorted(out.glob("*.tar"))
    assert sorted(os.listdir(out)) == [
        INDEX,
        *sorted(f"shard-{i:06d}.{end}" for i in range(len(tars)) for end in ("idx", "tar")),
    ]
    members = []
    for tar in tars:
        assert tar.stat().st_size <= 60_000
        with tarfile.open(tar) as opened:
            members += [(member.name, opened.extractfile(member).read()) for member in opened]
    dataset = as_samples(folder)
    assert members == [
        member
        for i, key in enumerate(dataset.keys)
        for member in ((key, dataset.read(i)), (key.replace(".jpg", ".cls"), b"%d" % dataset.labels[i]))
    ]


def test_the_same_dataset_gives_the_same_bytes(folder, tmp_path):
    first, second = files(make_shards(folder, tmp_path / "1")), files(make_shards(folder, tmp_path / "2"))
    first.pop(INDEX), second.pop(INDEX)  # which holds the tars' times
    assert first == second


@pytest.mark.parametrize("size", [10_240, 30_000, 40_960, 40_961, 10**9])
def test_no_tar_is_larger_than_asked_unless_one_image_is(folder, tmp_path, size):
    out = make_shards(folder, tmp_path / "out", size)
    whole = as_samples(out)
    assert whole.fingerprint == as_samples(folder).fingerprint
    for tar, shard in zip(sorted(out.glob("*.tar")), whole.sources.shards.index.shards, strict=True):
        assert tar.stat().st_size <= size or shard.samples == 1


def test_each_tar_is_as_full_as_it_may_be(tmp_path):
    samples = Samples([b"x" * 500] * 1 + [b"%d" % i * 500 for i in range(1, 10)], np.arange(10), None)
    # An image, its label and (bytes have no name) its path take six blocks, the end two: three samples fill all of 20.
    index = write_shards(samples, tmp_path / "out", 10_240)
    assert [shard.samples for shard in index.shards] == [3, 3, 3, 1]
    assert {shard.size for shard in index.shards} == {10_240}


ODD = [
    "a/plain.jpg",
    "a/UPPER.JPEG",
    "a/two.dots.jpg",
    "a/two.spots.jpg",
    "a/two_dots.jpg",
    "a/twice.jpg",
    "a/twice.png",
    "a/twice_2.jpg",
    "a/.hidden.jpg",
    "a/..jpg",
    "a/.jpg",
    "a/with space.jpg",
    "a/größe 猫.webp",
    "a/" + "l" * 150 + "/" + "n" * 200 + ".jpg",
    "b.c/d.e/photo.jpg",
    "__f__/photo.jpg",
    "__f__/x.y.jpg",
    "_f_/photo.jpg",
]


@pytest.fixture
def odd(tmp_path):
    for number, name in enumerate(ODD):
        path = tmp_path / "odd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG + b"%d" % number)
    path = tmp_path / "odd" / os.fsdecode(b"a/\xff\xfe.jpg")
    path.write_bytes(JPEG + b"no text")
    return tmp_path / "odd"


def test_every_name_that_a_folder_may_have_comes_back(odd, tmp_path):
    before, after = as_samples(odd), as_samples(make_shards(odd, tmp_path / "out", 10_240))
    assert len(before) == len(ODD) + 1
    assert after.keys == before.keys
    assert after.classes == before.classes
    assert after.fingerprint == before.fingerprint
    assert [after.read(i) for i in range(len(after))] == [before.read(i) for i in range(len(before))]


part = st.text(st.sampled_from("ab._ÄB"), min_size=1, max_size=6).filter(lambda name: name.strip("."))
extension = st.sampled_from(["", ".jpg", ".JPG", ".png", ".cls", ".relpath", ".json", ".dat"])
paths = st.builds(
    lambda parents, name, end: "/".join([*parents, name]) + end, st.lists(part, max_size=2), part, extension
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(paths, unique=True, min_size=1, max_size=12))
def test_any_names_get_keys_of_their_own(tmp_path_factory, keys):
    taken = set()
    names = [member_names(key, taken) for key in keys]
    splits = [split_name(name) for name, _ in names]
    assert None not in splits
    assert {key for key, _ in splits} == taken
    assert len(taken) == len(keys)
    assert all(name == key for (name, kept), key in zip(names, keys, strict=True) if not kept)
    samples = Samples(keys, np.arange(len(keys)), None)
    samples._keys = keys
    samples.read = lambda index: b"%d" % index
    index = write_shards(samples, tmp_path_factory.mktemp("out"), 20_480)
    assert [index.rows.name(i).decode() for i in range(len(keys))] == [key.removeprefix("./") for key in keys]
    assert index.rows.label.tolist() == list(range(len(keys)))


def test_most_names_need_nothing_beside_them():
    taken = set()
    assert member_names("n01440764/n01440764_10026.JPEG", taken) == ("n01440764/n01440764_10026.JPEG", False)
    assert member_names("n01440764/n01440764_10026.png", taken) == ("n01440764/n01440764_10026_2.png", True)
    assert member_names("n01440764/a.b.jpg", taken) == ("n01440764/a_b.jpg", True)
    assert member_names("__n__/a.jpg", taken) == ("n_/a.jpg", True)


def test_shards_are_cut_anew(folder, tmp_path):
    first = make_shards(folder, tmp_path / "1")
    second = make_shards(first, tmp_path / "2", 10**9)
    assert len(list(second.glob("*.tar"))) == 1
    assert as_samples(second).fingerprint == as_samples(folder).fingerprint
    third = make_shards(second, tmp_path / "3")
    assert {name: data for name, data in files(third).items() if name != INDEX} == {
        name: data for name, data in files(first).items() if name != INDEX
    }


def test_images_in_memory(tmp_path):
    pairs = [(JPEG, -3), (JPEG[:-1], 2**62)]
    write_shards(as_samples(pairs), tmp_path / "out", 10**6)
    again = as_samples(tmp_path / "out")
    assert [again.read(i) for i in range(2)] == [data for data, _ in pairs]
    assert again.labels.tolist() == [-3, 2**62]
    assert again.keys == as_samples(pairs).keys


# ---------------------------------------------------------------------- refusals and stops


def test_what_is_there_is_not_touched(folder, tmp_path):
    samples = as_samples(folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"must be a folder that is new or empty, got .*file, which is a file"):
        write_shards(samples, tmp_path / "file", 10**6)
    with pytest.raises(ValueError, match=r"new or empty, got .*, which holds file"):
        write_shards(samples, tmp_path, 10**6)
    out = make_shards(folder, tmp_path / "out")
    before = files(out)
    with pytest.raises(ValueError, match=r"new or empty, got .*, which holds shards already"):
        write_shards(samples, out, 10**6)
    assert files(out) == before


def test_a_size_without_room_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="size must be at least 10240 bytes, which an empty tar has, got 10239"):
        write_shards(as_samples(folder), tmp_path / "out", 10_239)
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_listed_twice(folder, tmp_path):
    pairs = [(folder / "coffee" / "000.jpg", 0), (folder / "coffee" / "001.jpg", 0), (folder / "coffee" / "000.jpg", 1)]
    with pytest.raises(ValueError, match=r"dataset must hold each image once, got 000\.jpg twice"):
        write_shards(as_samples(pairs), tmp_path / "out", 10**6)


def test_an_image_that_cannot_be_read_is_named_and_nothing_stays(folder, tmp_path):
    pairs = [(folder / "coffee" / "000.jpg", 0), (folder / "coffee" / "none.jpg", 0)]
    for out in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"No such file.*coffee/none\.jpg"):
            write_shards(as_samples(pairs), out, 10**6)
    assert not (tmp_path / "new").exists()
    assert os.listdir(tmp_path / "empty") == []


@pytest.mark.parametrize("when", [1, 7, 15])
def test_a_stop_leaves_nothing(folder, tmp_path, when):
    done = []

    def stop(count):
        done.append(count)
        if len(done) == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(as_samples(folder), tmp_path / "out", 60_000, stop)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make_shards(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_run_is_no_dataset_and_the_next_one_begins_anew(folder, tmp_path, caplog):
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        written = []
        write_shards(
            as_samples(folder),
            out,
            60_000,
            lambda _: written.append(1) if len(written) < 9 else os.kill(os.getpid(), 9),
        )
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert os.listdir(out) == [".part"]
    with pytest.raises(FileNotFoundError, match=r"\.part must hold images"):
        as_samples(out)
    with caplog.at_level(logging.WARNING, "dali_icgan"):
        make_shards(folder, out)
    assert f"{out}: what a stopped run left is removed" in caplog.text
    assert as_samples(out).fingerprint == as_samples(folder).fingerprint


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_killed_while_files_come_to_their_places(folder, tmp_path, moved):
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        real, count = os.rename, []

        def rename(a, b):
            if len(count) == moved:
                os.kill(os.getpid(), signal.SIGKILL)
            count.append(1)
            real(a, b)

        os.rename = rename
        make_shards(folder, out)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="tars of its index, got none named shard-00000"):
        as_samples(out)
    with pytest.raises(ValueError, match="where a run was stopped near its end: remove it"):
        make_shards(folder, out)


def test_one_process_at_a_time(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(RuntimeError, match="out is being written by another process"):
        make_shards(folder, out)
    os.close(held)
    make_shards(folder, out)


def test_what_was_written_is_read_back_and_compared(folder, tmp_path, monkeypatch):
    real = write_shards.__globals__["_member"]

    def wrong(name, data):
        return real(name, b"1" if name == "coffee/004.cls" else data)

    monkeypatch.setitem(write_shards.__globals__, "_member", wrong)
    with pytest.raises(RuntimeError, match="do not hold the dataset in its order"):
        make_shards(folder, Path(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
