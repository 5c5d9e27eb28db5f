"""What a folder of class folders holds, in the order of torchvision's ImageFolder, and whether a folder is as it was listed before."""

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dali_icgan.data.files import IMAGE_EXTENSIONS
from dali_icgan.data.paths import Paths

# A folder that changed so shortly before it was listed may change again without another time: some file systems count in 2 seconds.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Listing:
    """What one folder holds.

    Attributes:
        status: of the folder, see :func:`status_of`.
        folders: names of the folders in it, sorted.
        images: how many.
        names: theirs, sorted, UTF-8, a NUL behind each.
        settled: whether the folder cannot have changed since without another status.
    """

    status: tuple[int, ...]
    folders: tuple[str, ...]
    images: int
    names: bytes | memoryview
    settled: bool = True


@dataclass(eq=False)
class FolderIndex:
    """The images under a folder with one subfolder a class.

    Attributes:
        classes: the subfolders' names, sorted.
        paths: of the images, class by class.
        labels: int64 ``[n]``.
        listings: by path relative to the folder: "" is itself, then the folders that ``paths`` goes through, in its order.
    """

    classes: list[str]
    paths: Paths
    labels: npt.NDArray[np.int64]
    listings: dict[str, Listing]


def status_of(found: os.stat_result) -> tuple[int, ...]:
    """What changes with a folder's entries, and what tells it from another one: unsigned 64-bit numbers."""
    # Its entries change both times; who sets the first one back, as rsync and tar do, changes the second.
    values = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_nlink)
    return tuple(value % 2**64 for value in values)


def index_folder(folder: str, known: Mapping[str, Listing]) -> FolderIndex:
    """List a folder; of what is known only the status is looked at, while it is the same.

    Args:
        folder: its images' paths begin with this.
        known: earlier listings of this folder, as :attr:`FolderIndex.listings`.

    Raises:
        OSError: one of its folders cannot be listed.
    """
    invented = _invented_times()

    def look(path: str) -> Listing:
        whole = os.path.join(folder, path) if path else folder
        found, before = os.stat(whole), known.get(path)
        return before if before is not None and before.status == status_of(found) else _list(whole, found, invented)

    listings = {"": look("")}
    classes = list(listings[""].folders)
    labels: list[int] = []
    for label, name in enumerate(classes):
        below, todo = {}, [name]
        while todo:
            path = todo.pop()
            below[path] = look(path)
            todo += [f"{path}/{inner}" for inner in below[path].folders]
        listings.update(sorted(below.items()))
        labels += [label] * len(below)
    inside = [(path, listing) for path, listing in listings.items() if path]
    counts = [listing.images for _, listing in inside]
    paths = Paths.of(
        [os.path.join(folder, path, "") for path, _ in inside], counts, b"".join(listing.names for _, listing in inside)
    )
    return FolderIndex(classes, paths, np.repeat(np.array(labels, np.int64), counts), listings)


def _list(path: str, found: os.stat_result, invented: Collection[int]) -> Listing:
    begun = time.time_ns()
    folders: list[str] = []
    images: list[str] = []
    settled = found.st_dev not in invented and max(found.st_mtime_ns, found.st_ctime_ns) + SETTLED_NS <= begun
    with os.scandir(path) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind == "folder":
                folders.append(entry.name)
            elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                images.append(entry.name)
            # Where a link leads, a folder may come to be without a change here.
            settled = settled and kind != "nothing"
    names = "".join(f"{name}\0" for name in sorted(images)).encode("utf-8", "surrogateescape")
    # A change since ``found`` has a later time, since the folder was settled then.
    return Listing(status_of(found), tuple(sorted(folders)), len(images), names, settled)


def _kind(entry: os.DirEntry[str]) -> str:
    """Of an entry, or of what a link leads to: "folder", "file", or "nothing"."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not entry.is_symlink() else "nothing"
    except OSError:  # links in a circle; os.walk, and hence ImageFolder, takes them for files
        return "nothing"


def _invented_times(mounts: Path = Path("/proc/self/mountinfo")) -> set[int]:
    """Devices of FUSE: object stores have no folders, and what shows them as such invents the times."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    parts = [(line.split()[2].split(":"), line.partition(" - ")[2]) for line in lines]
    return {os.makedev(int(major), int(minor)) for (major, minor), kind in parts if kind.startswith("fuse")}
