"""Listings of large folders, kept from one process to the next where the user's caches are."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dali_icgan.data.files import IMAGE_EXTENSIONS
from dali_icgan.data.folder_index import FolderIndex, Listing, index_folder

CACHE = "DALI_ICGAN_CACHE"
LEAST_IMAGES = 10_000  # below, listing takes a moment on any storage, and every small folder would leave a file behind
_FORMAT = 1
_STATUS = 5  # numbers
_TEXTS = ("paths", "folders", "images")  # the listed folders; names of the folders in them; of the images in them

_log = logging.getLogger("dali_icgan")


def open_folder(folder: str) -> FolderIndex:
    """The images under a folder, by what is kept of an earlier listing as far as the folders are as they were; what is listed anew is
    kept for the next time. The cache never makes this fail.

    Raises:
        OSError: one of its folders cannot be listed.
    """
    root, file = os.path.abspath(folder), cache_file(folder)
    known = {} if file is None else _stored(file, root)
    index = index_folder(folder, known)
    keep = {path: listing for path, listing in index.listings.items() if listing.settled}
    news = any(known.get(path) is not listing for path, listing in keep.items())
    if file is not None and news and len(index.paths) >= LEAST_IMAGES:
        try:
            _write(file, root, keep)
        except OSError as error:
            _log.warning(
                "%s: the listing cannot be kept in %s (%s), so the next process lists the folder again; %s names another place, or off",
                folder,
                file.parent,
                error.strerror or error,
                CACHE,
            )
    return index


def cache_file(folder: str) -> Path | None:
    """Where the listing of a folder is kept: in the folder that the environment variable ``DALI_ICGAN_CACHE`` names, else in
    ``dali_icgan`` under ``XDG_CACHE_HOME``, else under ``~/.cache``; None: nowhere, as ``DALI_ICGAN_CACHE=off`` asks."""
    asked = os.environ.get(CACHE)
    if asked == "off":
        return None
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):  # the specification of it says that such a one is to be ignored
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    if not asked and not os.path.isabs(caches):
        return None  # a user without a home
    digest = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()
    return Path(asked or os.path.join(caches, "dali_icgan"), "folders", f"{digest[:32]}.npz")


def _stored(file: Path, root: str) -> dict[str, Listing]:
    try:
        return _read(file, root)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        _log.warning("%s cannot be read (%s): %s is listed again", file, error.strerror or error, root)
    except Exception as error:  # zip, zlib, NumPy and JSON raise many kinds
        _log.warning("%s is damaged (%s): %s is listed again", file, error, root)
    return {}


def _about(root: str) -> dict[str, Any]:
    return {"format": _FORMAT, "root": root, "extensions": list(IMAGE_EXTENSIONS)}


def _read(file: Path, root: str) -> dict[str, Listing]:
    with np.load(file, allow_pickle=False) as stored:
        about = json.loads(stored["about"].tobytes())
        if about != _about(root):
            return {}  # of another version, say
        status, counts = stored["status"], stored["counts"]
        texts = {name: stored[name] for name in _TEXTS}
    n = len(status)
    if status.dtype != np.uint64 or status.shape != (n, _STATUS):
        raise ValueError(f"its status must be uint64 [n, {_STATUS}]")
    if counts.dtype != np.int64 or counts.shape != (n, 2) or (counts < 0).any():
        raise ValueError(f"its counts must be int64 [{n}, 2], none below 0")
    if any(text.dtype != np.uint8 or text.ndim != 1 for text in texts.values()):
        raise ValueError("its names must be bytes")
    ends = {name: np.flatnonzero(np.concatenate([np.zeros(1, np.uint8), text]) == 0) for name, text in texts.items()}
    wanted = dict(zip(_TEXTS, (n, *counts.sum(0).tolist()), strict=True))
    for name, text in texts.items():
        if len(ends[name]) != wanted[name] + 1 or ends[name][-1] != len(text):
            raise ValueError(f"it must have {wanted[name]} names of {name}")
        if name != "paths" and ((text == ord("/")).any() or (np.diff(ends[name]) == 1).any()):
            raise ValueError(f"its names of {name} must be names")
    paths, folders = (_split(texts[name].tobytes()) for name in ("paths", "folders"))
    if not {".", ".."}.isdisjoint(folders):
        raise ValueError("its names of folders must be names")
    images = memoryview(texts["images"].tobytes())
    listings: dict[str, Listing] = {}
    first_folder = first_image = 0
    for path, numbers, (inner, held) in zip(paths, status.tolist(), counts.tolist(), strict=True):
        begin, end = ends["images"][[first_image, first_image + held]].tolist()
        listings[path] = Listing(
            tuple(numbers), tuple(folders[first_folder : first_folder + inner]), held, images[begin:end]
        )
        first_folder, first_image = first_folder + inner, first_image + held
    return listings


def _split(text: bytes) -> list[str]:
    return text.decode("utf-8", "surrogateescape").split("\0")[:-1]


def _write(file: Path, root: str, listings: Mapping[str, Listing]) -> None:
    """Whole or not at all, whoever else does the same."""
    folders = [name for listing in listings.values() for name in listing.folders]
    texts = {
        "about": json.dumps(_about(root)).encode(),
        "paths": _joined(listings),
        "folders": _joined(folders),
        "images": b"".join(listing.names for listing in listings.values()),
    }
    status = np.array([listing.status for listing in listings.values()], np.uint64)
    counts = np.array([(len(listing.folders), listing.images) for listing in listings.values()], np.int64)
    file.parent.mkdir(0o700, parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(".new", file.name, file.parent)
    try:
        with open(descriptor, "wb") as stream:
            bytes_of = {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
            np.savez(stream, status=status, counts=counts, **bytes_of)  # type: ignore[arg-type]
        os.replace(scratch, file)
    except BaseException:
        os.unlink(scratch)
        raise


def _joined(names: Any) -> bytes:
    return "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
