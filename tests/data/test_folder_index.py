"""Folders are listed as torchvision's ImageFolder lists them, and every change is seen, whatever is known of them from before."""

import os
import shutil
import time

import pytest
from torchvision.datasets import ImageFolder

from dali_icgan.data import folder_index
from dali_icgan.data.folder_index import _invented_times, index_folder, status_of

SETTLED_NS = 20_000_000  # longer than a tick of the kernel's clock


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Classes with folders in them, one of them a link, and names of all kinds."""
    monkeypatch.setattr(folder_index, "SETTLED_NS", SETTLED_NS)
    root = tmp_path / "photos"
    for path in (
        "b/2.jpg",
        "b/10.JPEG",
        "b/a/z.png",
        "b/a-b/1.jpg",
        "b/a/c/1.jpg",
        "a/größe.jpg",
        "a/notes.txt",
        "c/1.webp",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for elsewhere in ("one", "two"):
        (tmp_path / elsewhere).mkdir()
        (tmp_path / elsewhere / f"{elsewhere}.jpg").touch()
    os.close(os.open(os.fsencode(root / "a") + b"/\xff\n.jpg", os.O_CREAT))
    (root / "b" / "linked").symlink_to(tmp_path / "one")
    (root / "readme.jpg").touch()
    settle()
    return root


def settle():
    time.sleep(1.5 * SETTLED_NS / 1e9)


def known(folder):
    return {path: listing for path, listing in index_folder(str(folder), {}).listings.items() if listing.settled}


def assert_as_image_folder(index, folder):
    theirs = ImageFolder(str(folder))
    assert list(zip(index.paths, index.labels.tolist(), strict=True)) == theirs.samples
    assert index.classes == theirs.classes


def test_a_folder_is_listed_as_image_folder_lists_it(folder):
    index = index_folder(str(folder), {})
    assert_as_image_folder(index, folder)
    assert [index.paths[i] for i in range(len(index.paths))] == list(index.paths)
    assert list(index.paths[1:-1]) == list(index.paths)[1:-1]


def test_what_is_known_is_not_listed_again(folder, listed):
    before = known(folder)
    assert len(listed) == len(before) == 8
    listed.clear()
    assert_as_image_folder(index_folder(str(folder), before), folder)
    assert listed == []


def add_unseen(folder):
    """As rsync leaves a folder: with its former time."""
    times = os.stat(folder / "b").st_atime_ns, os.stat(folder / "b").st_mtime_ns
    (folder / "b" / "3.jpg").touch()
    os.utime(folder / "b", ns=times)


def relink(folder):
    (folder / "b" / "linked").unlink()
    (folder / "b" / "linked").symlink_to(folder.parent / "two")


def exchange(folder):
    (folder / "c").rename(folder / "away")
    (folder / "a").rename(folder / "c")
    (folder / "away").rename(folder / "a")


CHANGES = {
    "a file is added": (lambda f: (f / "c" / "2.jpg").touch(), {"c"}),
    "a file is removed": (lambda f: (f / "b" / "2.jpg").unlink(), {"b"}),
    "a file is renamed": (lambda f: (f / "b" / "2.jpg").rename(f / "b" / "3.jpg"), {"b"}),
    "a file is moved": (lambda f: (f / "b" / "2.jpg").rename(f / "c" / "2.jpg"), {"b", "c"}),
    "a file becomes no image": (lambda f: (f / "b" / "2.jpg").rename(f / "b" / "2.jpg~"), {"b"}),
    "a file is added far below": (lambda f: (f / "b" / "a" / "c" / "2.jpg").touch(), {"b/a/c"}),
    "a file is added behind a link": (lambda f: (f.parent / "one" / "2.jpg").touch(), {"b/linked"}),
    "a file is added, and the folder's time put back": (add_unseen, {"b"}),
    "a link leads elsewhere": (relink, {"b", "b/linked"}),
    "a class is new": (lambda f: shutil.copytree(f / "c", f / "aa"), {"", "aa"}),
    "a class is gone": (lambda f: shutil.rmtree(f / "b"), {""}),
    "a class is renamed": (lambda f: (f / "a").rename(f / "d"), {"", "d"}),
    "two classes change their names": (exchange, {"", "a", "c"}),
    "a folder within a class is gone": (lambda f: shutil.rmtree(f / "b" / "a"), {"b"}),
    "a folder within a class is new": (lambda f: shutil.copytree(f / "c", f / "c" / "new"), {"c", "c/new"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen_and_nothing_else_is_listed(folder, listed, change):
    make, where = CHANGES[change]
    before = known(folder)
    listed.clear()
    make(folder)
    assert_as_image_folder(index_folder(str(folder), before), folder)
    assert {os.path.relpath(path, folder) if path != str(folder) else "" for path in listed} == where


@pytest.mark.parametrize("what", ["st_ino", "st_mtime_ns", "st_ctime_ns", "st_size", "st_nlink"])
def test_a_status_has_all_that_tells_folders_apart(tmp_path, what):
    class Found:
        def __init__(self, **other):
            found = os.stat(tmp_path)
            self.__dict__ = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")} | other

    assert status_of(Found()) == status_of(os.stat(tmp_path))
    assert status_of(Found(**{what: -1})) != status_of(Found())
    assert all(0 <= number < 2**64 for number in status_of(Found(**{what: -1})))


def test_a_folder_that_has_just_changed_is_listed_again(folder, monkeypatch):
    """Within a tick of the file system's clock two changes have one time."""
    monkeypatch.setattr(folder_index, "SETTLED_NS", 10**15)
    monkeypatch.setattr(folder_index, "status_of", lambda found: (found.st_ino,))
    before = index_folder(str(folder), {}).listings
    assert not any(listing.settled for listing in before.values())
    (folder / "c" / "2.jpg").touch()
    settled = {path: listing for path, listing in before.items() if listing.settled}
    assert_as_image_folder(index_folder(str(folder), settled), folder)


def test_a_change_while_a_folder_is_listed_is_seen_the_next_time(folder, monkeypatch):
    scandir = os.scandir

    def slow(path):
        entries = list(scandir(path))
        if path == str(folder / "c"):
            (folder / "c" / "late.jpg").touch()
        return _Closing(entries)

    class _Closing(list):
        __enter__ = list.__iter__

        def __exit__(self, *_):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", slow)
        before = known(folder)
    assert before["c"].images == 1
    assert_as_image_folder(index_folder(str(folder), before), folder)


@pytest.mark.parametrize("name", ["later", "later.jpg"])
def test_a_link_that_leads_nowhere_may_lead_to_a_folder_later(folder, tmp_path, name):
    (folder / "c" / name).symlink_to(tmp_path / "later")
    settle()
    before = known(folder)
    assert "c" not in before
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "1.jpg").touch()
    assert_as_image_folder(index_folder(str(folder), before), folder)


def test_links_to_images_are_settled(folder, tmp_path):
    (folder / "c" / "9.jpg").symlink_to(tmp_path / "one" / "one.jpg")
    settle()
    assert_as_image_folder(index_folder(str(folder), known(folder)), folder)
    assert "c" in known(folder)


def test_links_in_a_circle_end(folder):
    (folder / "c" / "circle").symlink_to(folder / "c")
    settle()
    assert_as_image_folder(index_folder(str(folder), known(folder)), folder)


def test_a_folder_that_cannot_be_listed_is_an_error_and_no_smaller_dataset(folder, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("b/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="b/a"):
        index_folder(str(folder), {})


def test_times_of_fuse_are_not_trusted(folder, monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "25 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "31 25 0:45 / /data rw,nosuid - fuse.gcsfuse bucket rw\n"
        "32 25 0:46 / /fuse rw - tmpfs fuse rw\n"
    )
    assert _invented_times(mounts) == {os.makedev(0, 45)}
    assert _invented_times(tmp_path / "nowhere") == set()
    assert os.stat(folder).st_dev not in _invented_times()
    monkeypatch.setattr(folder_index, "_invented_times", lambda: {os.stat(folder).st_dev})
    assert known(folder) == {}
