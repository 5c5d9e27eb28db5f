"""A feature bank's folder: files that are there whole or not at all, and what is checked when they are read."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.documents import read_json, shown

VERSION = 1
DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float16: np.dtype(np.float16), torch.float32: np.dtype(np.float32)}
# How far from 1 the norm of a stored unit row may be; float16 by the rounding of its elements, half an ulp each at worst.
NORM_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 1e-3}
CHECK_ROWS = 8192


def write_whole(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that it is there whole or not at all, whenever the machine stops."""
    # Ranks on several machines may have one process number and one folder.
    scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        with scratch.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seek_row(file: IO[bytes], row: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Cut an unfinished array off where a row begins, and go there."""
    try:
        magic = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0(file) if magic == (1, 0) else None
    except Exception as error:  # as in load_array
        raise ValueError(f"{file.name} must be an array, got something damaged: {error}") from error
    place = file.tell() + row * shape[1] * dtype.itemsize
    if header != (shape, False, dtype) or os.fstat(file.fileno()).st_size < place:
        raise ValueError(
            f"{file.name} must hold {row} rows of {shape[1]} {dtype.name}, got less, or other ones: it is damaged"
        )
    file.truncate(place)  # rows that were written but not counted
    file.seek(place)


def save_rows(file: IO[bytes], folder: Path, meta: Mapping[str, Any]) -> None:
    """The rows first, then how many there are."""
    file.flush()
    os.fsync(file.fileno())
    write_meta(folder, meta)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    text = json.dumps(meta, indent=1).encode()
    write_whole(folder / "bank.json", lambda file: file.write(text))


_META: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "name": (str,),
    "root": (str, type(None)),
    "dataset_fingerprint": (str,),
    "extractor_fingerprint": (str,),
    "resolution": (int,),
    "align_corners": (bool,),
    "exif": (bool,),
    "dtype": (str,),
    "n": (int,),
    "dim": (int,),
    "list_digest": (str,),
    "complete": (bool,),
    "done": (int,),
    "absent": (list,),
    "checked": (str, type(None)),
    "unit": (bool,),
}


def read_meta(folder: Path) -> dict[str, Any]:
    file = folder / "bank.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} must be a feature bank (a folder with bank.json), got none there")
    meta = read_json(file)
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        version = meta.get("version") if isinstance(meta, dict) else None
        raise ValueError(f"{file} must be of version {VERSION}, got {shown(version)}")
    for name, kinds in _META.items():
        if name not in meta or type(meta[name]) not in kinds:
            words = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{file} must have {name} ({words}), got {shown(meta[name]) if name in meta else 'none'}")
    for name, least in (("n", 1), ("dim", 1), ("resolution", 1), ("done", 0)):
        if meta[name] < least:
            raise ValueError(f"{file} must have {name} of at least {least}, got {shown(meta[name])}")
    for each in meta["absent"]:
        match each:
            case [int() as row, str(), str()] if 0 <= row < meta["n"]:
                continue
        raise ValueError(f"{file} must list rows that are absent as [row, key, reason], got {shown(each)}")
    if meta["dtype"] not in [stored.name for stored in DTYPES.values()]:
        raise ValueError(f"{file} must have dtype float16 or float32, got {shown(meta['dtype'])}")
    return meta


def read_keys(folder: Path, meta: Mapping[str, Any]) -> list[str]:
    file = folder / "keys.txt"
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise ValueError(f"{folder} must have keys.txt, got none") from error
    keys = text.split("\n")[:-1]
    if len(keys) != meta["n"]:
        raise ValueError(f"{file} must have {meta['n']} lines, got {len(keys)}: it is damaged")
    return keys


def load_array(file: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Memory-map an array of ours."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{file.parent} must have {file.name}, got none") from error
    except Exception as error:  # NumPy has a damaged header compiled, which fails in any way at all
        raise ValueError(f"{file} must be an array {dtype} {list(shape)}, got something damaged: {error}") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{file} must be an array {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}")
    return array


def check_neighbours(
    near: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64] | None, name: str
) -> None:
    """Neighbours as they were stored: of each row that is present others that are, of its own label where labels are given, and -1 only
    where the label has no more.

    Raises:
        ValueError: they are not; names the row.
    """
    n, k = near.shape
    others = np.full(n, int(present.sum()) - 1)
    if labels is not None:
        _, of, count = np.unique(labels[present], return_inverse=True, return_counts=True)
        others[present] = count[of] - 1
    wanted = np.where(present, np.minimum(others, k), 0)
    for begin in range(0, n, CHECK_ROWS):
        rows = np.arange(begin, min(begin + CHECK_ROWS, n))
        part, there = near[begin : begin + CHECK_ROWS], np.arange(k) < wanted[rows, None]
        inside = (part >= 0) & (part < n) & (part != rows[:, None])
        other = np.where(inside, part, 0)
        good = inside & present[other]
        if labels is not None:
            good &= labels[other] == labels[rows, None]
        bad = np.flatnonzero(~np.where(there, good, part == -1).all(1))
        if len(bad):
            raise ValueError(
                f"{name} must hold the neighbours of every row, got {shown(part[bad[0]].tolist())} for row {rows[bad[0]]}: it is "
                "damaged, and is made again once it is removed"
            )


def digest_of_list(keys: Sequence[str], labels: npt.NDArray[np.int64]) -> str:
    digest = hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape"))
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def digest_of_rows(features: npt.NDArray[Any]) -> str:
    """Tells feature files apart by their shape and 64 of their rows: at once, however large they are."""
    digest = hashlib.sha256(f"{features.shape} {features.dtype}".encode())
    for row in np.unique(np.linspace(0, len(features) - 1, 64).astype(np.int64)) if len(features) else ():
        digest.update(features[row].tobytes())
    return digest.hexdigest()[:16]


def digest_of_classes(labels: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]) -> str:
    """Tells apart who is of one class with whom."""
    digest = hashlib.sha256(labels.astype("<i8").tobytes())
    digest.update(present.tobytes())
    return digest.hexdigest()[:16]


def check_rows(features: npt.NDArray[Any], keys: Sequence[str], absent: Collection[int], name: str) -> bool:
    """Whether all rows are of unit length.

    Raises:
        ValueError: a row is zero or not finite.
    """
    unit = True
    tolerance = NORM_TOLERANCE[features.dtype]
    there = np.ones(len(features), bool)
    there[list(absent)] = False
    for begin in range(0, len(features), CHECK_ROWS):
        norm = np.linalg.norm(features[begin : begin + CHECK_ROWS].astype(np.float64), axis=1)
        norm[~there[begin : begin + CHECK_ROWS]] = 1
        bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
        if len(bad):
            row = begin + int(bad[0])
            raise ValueError(
                f"{name} must have rows that are finite and not zero, got row {row} ({keys[row]}) with norm {norm[bad[0]]}"
            )
        unit = unit and bool((np.abs(norm - 1) <= tolerance).all())
    return unit
