"""Building a feature bank: restartable at any moment, one builder at a time."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from dali_icgan.augment import bank_files as files
from dali_icgan.data import ImageDecoder, Samples
from dali_icgan.data.decode import available_threads
from dali_icgan.data.read import Reader
from dali_icgan.engine import Extractor
from dali_icgan.errors import DecodeError

_SAVE_SECONDS = 2.0
_log = logging.getLogger("dali_icgan")


def existing(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the folder holds of the wanted bank, a part or all of it; None: nothing yet."""
    if not (folder / "bank.json").exists():
        return None
    meta = files.read_meta(folder)
    # A finished bank serves its dataset wherever that has been moved; a part must not be mixed with other files of the same names.
    differing = [k for k in wanted if meta[k] != wanted[k] and k != "name" and not (k == "root" and meta["complete"])]
    if differing:
        said = "; ".join(f"{key} must be {wanted[key]}, got {meta[key]}" for key in differing)
        raise ValueError(f"{folder} holds another bank, of {meta['name']}, and is left as it is: {said}")
    return meta


def start(folder: Path, meta: dict[str, Any] | None, wanted: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """Make sure that everything but the features is there."""
    for file in folder.glob("*.new"):  # of a process that was killed
        file.unlink()
    if meta is None:
        strange = sorted(file.name for file in folder.iterdir() if file.name != ".lock")
        if strange:
            raise ValueError(f"path must be a folder that is new, empty or a bank, got {folder} with {strange[0]}")
        for key in samples.keys:
            if "\n" in key:
                raise ValueError(f"dataset must have paths without line breaks, got {key!r}")
        digest = files.digest_of_list(samples.keys, samples.labels)
        meta = {
            **wanted,
            "list_digest": digest,
            "complete": False,
            "done": 0,
            "absent": [],
            "checked": None,
            "unit": True,
        }
        files.write_meta(folder, meta)
    if not (folder / "keys.txt").exists():
        text = "".join(key + "\n" for key in samples.keys).encode("utf-8", "surrogateescape")
        files.write_whole(folder / "keys.txt", lambda file: file.write(text))
    if not (folder / "labels.npy").exists():
        files.write_whole(folder / "labels.npy", lambda file: np.save(file, samples.labels))
    return meta


def fill(
    folder: Path, meta: dict[str, Any], samples: Samples, extractor: Extractor, batch_size: int, progress: bool
) -> None:
    """Compute and store the rows that are not there yet."""
    final, part = folder / "features.npy", folder / "features.npy.part"
    shape, dtype = (meta["n"], meta["dim"]), np.dtype(meta["dtype"])
    if not final.exists():
        # Buffers and, on CUDA, the graph's capture, before anything runs beside them.
        extractor.prepare(min(batch_size, shape[0]))
        if not part.exists():
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            files.write_whole(part, lambda file: np.lib.format.write_array_header_1_0(file, header))
        # Plain writes, not a memory map: a full disk is then an OSError, not a signal.
        with (
            part.open("r+b") as file,
            _chunks(samples, meta["done"], batch_size, meta["exif"]) as chunks,
            _bar(progress) as bar,
        ):
            files.seek_row(file, meta["done"], shape, dtype)
            task = bar.add_task("features", total=shape[0], completed=meta["done"], begun=meta["done"])
            saved = monotonic()
            try:
                for begin, images in chunks:
                    rows = _features(begin, images, samples, extractor, min(batch_size, shape[0]))
                    file.write(rows.astype(dtype).tobytes())
                    meta["absent"] += [
                        [begin + i, samples.keys[begin + i], image]
                        for i, image in enumerate(images)
                        if isinstance(image, str)
                    ]
                    meta["done"] = begin + len(images)
                    bar.update(task, completed=meta["done"])
                    if monotonic() - saved > _SAVE_SECONDS:
                        files.save_rows(file, folder, meta)
                        saved = monotonic()
            finally:
                files.save_rows(file, folder, meta)
        if len(meta["absent"]) == shape[0]:
            _, key, reason = meta["absent"][0]
            raise ValueError(f"dataset must hold a readable image, got none of {shape[0]}: {key}: {reason}")
        os.replace(part, final)
        files.sync_folder(folder)
    features = files.load_array(final, shape, dtype.name)
    meta["complete"], meta["checked"] = True, files.digest_of_rows(features)
    files.write_meta(folder, meta)
    if meta["absent"]:
        _, key, reason = meta["absent"][0]
        _log.warning(
            "%s: %d of %d images could not be read, the first %s: %s",
            folder,
            len(meta["absent"]),
            shape[0],
            key,
            reason,
        )


def _features(
    begin: int, images: Sequence[Tensor | str], samples: Samples, extractor: Extractor, size: int
) -> npt.NDArray[np.float32]:
    """Unit rows of images; zeros for a reason why there is none."""
    good = [i for i, image in enumerate(images) if not isinstance(image, str)]
    out = np.zeros((len(images), extractor.dim), np.float32)
    if good:
        pixels = [image for image in images if not isinstance(image, str)]
        pixels += [pixels[-1]] * (size - len(pixels))  # an extractor's bits may depend on how many images it is given
        out[good] = extractor(pixels)[: len(good)].float().cpu().numpy()
        norm = np.linalg.norm(out[good].astype(np.float64), axis=1)
        for i in np.flatnonzero(~(np.abs(norm - 1) <= files.NORM_TOLERANCE[out.dtype])):
            raise ValueError(
                f"extractor must give rows of unit length, got norm {norm[i]} for {samples.path(begin + good[i])}"
            )
    return out


@contextlib.contextmanager
def _chunks(samples: Samples, first: int, size: int, exif: bool) -> Iterator[Iterator[tuple[int, list[Tensor | str]]]]:
    """(index of its first sample, images or reasons), the next one made while one is used."""
    reader = Reader(samples, available_threads(), exif=exif)
    decoder = ImageDecoder(exif=exif)

    def load(begin: int) -> tuple[int, list[Tensor | str]]:
        encoded = reader.read(range(begin, min(begin + size, len(samples))))
        images = [file for file in encoded if not isinstance(file, DecodeError)]
        pixels = iter(decoder.decode_regions(images, [(0, 0, image.height, image.width) for image in images]))
        return begin, [file.reason if isinstance(file, DecodeError) else next(pixels) for file in encoded]

    def ahead(pool: ThreadPoolExecutor) -> Iterator[tuple[int, list[Tensor | str]]]:
        begins = range(first, len(samples), size)
        pending = [pool.submit(load, begin) for begin in begins[:1]]
        for begin in begins[1:]:
            pending.append(pool.submit(load, begin))
            yield pending.pop(0).result()
        for last in pending:
            yield last.result()

    try:
        with ThreadPoolExecutor(1, thread_name_prefix="dali_icgan-bank") as pool:
            yield ahead(pool)
    finally:
        reader.close()
        decoder.close()


class _Rate(ProgressColumn):
    """Over the whole of this run, as a summary would say it."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["begun"]
        return Text(f"{done / task.elapsed:.0f} images/s" if done and task.elapsed else "")


def _bar(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


@contextlib.contextmanager
def sole_builder(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Within it no other process builds in this folder under this lock; waits for one that does."""
    with (folder / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("%s is being built by another process, waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
