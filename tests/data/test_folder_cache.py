"""Listings that are kept between processes: whatever becomes of the cache, a folder's images are those that are there."""

import json
import logging
import os
import threading
import time

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from dali_icgan.data import as_samples, folder_cache, folder_index
from dali_icgan.data.folder_cache import cache_file, open_folder

SETTLED_NS = 20_000_000  # longer than a tick of the kernel's clock


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_index, "SETTLED_NS", SETTLED_NS)
    monkeypatch.setattr(folder_cache, "LEAST_IMAGES", 4)
    monkeypatch.setenv("DALI_ICGAN_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    for path in ("b/2.jpg", "b/1.jpg", "b/a/z.png", "a/größe.jpg"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    os.close(os.open(os.fsencode(root / "a") + b"/\xff\n.jpg", os.O_CREAT))
    time.sleep(1.5 * SETTLED_NS / 1e9)
    return root


def assert_as_image_folder(folder):
    samples, theirs = as_samples(str(folder)), ImageFolder(str(folder))
    assert list(zip(samples.sources, samples.labels.tolist(), strict=True)) == theirs.samples
    assert samples.classes == theirs.classes


def test_the_second_process_lists_nothing(folder, listed):
    assert_as_image_folder(folder)
    assert len(listed) == 4
    keys, fingerprint = as_samples(folder).keys, as_samples(folder).fingerprint
    listed.clear()
    assert_as_image_folder(folder)
    assert (as_samples(folder).keys, as_samples(folder).fingerprint) == (keys, fingerprint)
    assert listed == []


def test_paths_are_as_the_folder_was_named(folder, listed, monkeypatch):
    as_samples(folder)
    listed.clear()
    monkeypatch.chdir(folder.parent)
    for name in ("photos", "photos/", "./photos"):
        assert_as_image_folder(name)
    assert listed == []


def test_what_has_changed_is_listed_and_kept_as_well(folder, listed):
    as_samples(folder)
    listed.clear()
    (folder / "b" / "3.jpg").touch()
    time.sleep(1.5 * SETTLED_NS / 1e9)
    assert_as_image_folder(folder)
    assert listed == [str(folder / "b")]
    listed.clear()
    assert_as_image_folder(folder)
    assert listed == []


def test_what_may_change_unseen_is_not_kept(folder, listed):
    (folder / "b" / "3.jpg").touch()
    as_samples(folder)
    listed.clear()
    assert_as_image_folder(folder)
    assert listed == [str(folder / "b")]


def replaced(**arrays):
    def damage(file):
        with np.load(file) as stored:
            whole = dict(stored)
        np.savez(file, **whole | {name: change(whole[name]) for name, change in arrays.items()})

    return damage


def said(**about):
    return replaced(about=lambda old: np.frombuffer(json.dumps(json.loads(old.tobytes()) | about).encode(), np.uint8))


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    data = bytearray(file.read_bytes())
    data[data.index(b"1.jpg")] ^= 1
    file.write_bytes(data)


def changed(old, new):
    return lambda names: np.frombuffer(names.tobytes().replace(old, new), np.uint8)


DAMAGE = {
    "empty": lambda file: os.truncate(file, 0),
    "cut off": cut,
    "a bit": flip,
    "another kind of file": lambda file: file.write_text("{}"),
    "a pickle": lambda file: np.savez(file, about=np.array([{}], object)),
    "a part is missing": lambda file: np.savez(file, about=np.zeros(3, np.uint8)),
    "numbers of another kind": replaced(status=lambda status: status.astype(np.float64)),
    "fewer folders": replaced(status=lambda status: status[:-1]),
    "fewer numbers": replaced(status=lambda status: status[:, :-1]),
    "counts below 0": replaced(counts=lambda counts: np.add(counts, [[0, -1], [0, 1], [0, 0], [0, 0]])),
    "other counts": replaced(counts=lambda counts: counts + 1),
    "counts of another shape": replaced(counts=lambda counts: counts[:, :1]),
    "names of another kind": replaced(images=lambda names: names.astype(np.int32)),
    "names without an end": replaced(images=lambda names: np.append(names, np.uint8(120))),
    "names with a way": replaced(images=changed(b"1.jpg", b"/.jpg")),
    "an empty name": replaced(images=changed(b"1.jpg", b"")),
    "the folder above": replaced(folders=changed(b"b\0", b"..\0")),
    "no paths": replaced(paths=lambda names: names[:0]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_is_made_again(folder, listed, kind, caplog):
    as_samples(folder)
    DAMAGE[kind](cache_file(str(folder)))
    listed.clear()
    with caplog.at_level(logging.WARNING, "dali_icgan"):
        assert_as_image_folder(folder)
    assert f"{cache_file(str(folder))} is damaged" in caplog.text
    assert len(listed) == 4
    listed.clear()
    assert_as_image_folder(folder)
    assert listed == []


@pytest.mark.parametrize("about", [{"format": 0}, {"root": "/elsewhere"}, {"extensions": [".jpg"]}])
def test_another_versions_cache_is_made_again(folder, listed, about):
    as_samples(folder)
    said(**about)(cache_file(str(folder)))
    listed.clear()
    assert_as_image_folder(folder)
    assert len(listed) == 4
    assert json.loads(np.load(cache_file(str(folder)))["about"].tobytes())["format"] == folder_cache._FORMAT


def test_without_a_place_for_it_there_is_none(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DALI_ICGAN_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "dali_icgan"):
        assert_as_image_folder(folder)
    assert "the listing cannot be kept in" in caplog.text
    assert "DALI_ICGAN_CACHE names another place" in caplog.text


def test_an_unreadable_cache_is_said(folder, caplog):
    cache_file(str(folder)).mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "dali_icgan"):
        assert_as_image_folder(folder)
    assert "cannot be read (Is a directory)" in caplog.text
    assert list(cache_file(str(folder)).parent.iterdir()) == [cache_file(str(folder))]


def test_small_folders_leave_nothing_behind(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_cache, "LEAST_IMAGES", 6)
    as_samples(folder)
    assert not (tmp_path / "cache").exists()


def test_it_can_be_turned_off(folder, listed, monkeypatch):
    as_samples(folder)
    monkeypatch.setenv("DALI_ICGAN_CACHE", "off")
    listed.clear()
    assert_as_image_folder(folder)
    assert len(listed) == 4


def test_where_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("DALI_ICGAN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(cache_file("/photos")).startswith("/home/x/.cache/dali_icgan/folders/")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(cache_file("/photos")).startswith("/caches/dali_icgan/folders/")
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert str(cache_file("/photos")).startswith("/home/x/.cache/dali_icgan/folders/")
    monkeypatch.setenv("HOME", "nowhere")
    assert cache_file("/photos") is None
    monkeypatch.setenv("DALI_ICGAN_CACHE", "/here")
    assert str(cache_file("/photos")).startswith("/here/folders/")
    assert cache_file("/photos") == cache_file("/photos/") != cache_file("/photos/b")


def test_several_at_once(folder, tmp_path, listed):
    found = []
    threads = [threading.Thread(target=lambda: found.append(list(open_folder(str(folder)).paths))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[path for path, _ in ImageFolder(str(folder)).samples]] * 8
    assert [file.suffix for file in (tmp_path / "cache" / "folders").iterdir()] == [".npz"]
    listed.clear()
    open_folder(str(folder))
    assert listed == []


def test_a_writer_that_fails_leaves_the_old_cache(folder, monkeypatch):
    as_samples(folder)
    file = cache_file(str(folder))
    before = file.read_bytes()
    (folder / "b" / "3.jpg").touch()
    time.sleep(1.5 * SETTLED_NS / 1e9)

    def full(stream, **arrays):
        stream.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert_as_image_folder(folder)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
