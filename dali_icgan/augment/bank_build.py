"""Building a feature bank: restartable at any moment, by one job at a time, of one rank or many."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from dali_icgan.ranks import Ranks

# Of some images: the first one's row, their unit rows, and why there is none, by row.
Chunk = tuple[int, npt.NDArray[np.float32], dict[int, str]]
_SAVE_SECONDS = 2.0
_log = logging.getLogger("dali_icgan")


def build(
    folder: Path,
    wanted: dict[str, Any],
    samples: Samples,
    extractor: Extractor,
    batch_size: int,
    progress: bool,
    ranks: Ranks,
) -> None:
    """Make the bank that is wanted, or what is missing of it. Every rank calls this; the first one writes."""
    doing = f"building the bank {folder}"
    with contextlib.ExitStack() as held:

        def prepare() -> tuple[dict[str, Any], bool]:
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"path must be a folder, got {folder}, which is a file")
            meta = existing(folder, wanted)
            if meta is None or not meta["complete"]:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(sole_builder(folder))
                meta = existing(folder, wanted)  # another process may have finished it meanwhile
                if meta is None or not meta["complete"]:
                    meta = start(folder, meta, wanted, samples)
            return meta, (folder / "features.npy").exists()

        meta, computed = ranks.from_first(doing, prepare)
        if not computed:
            with ranks.together(doing):
                compute(folder, meta, samples, extractor, batch_size, progress, ranks, doing)
        if not meta["complete"]:
            ranks.from_first(doing, lambda: finish(folder, meta))


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


def compute(
    folder: Path,
    meta: dict[str, Any],
    samples: Samples,
    extractor: Extractor,
    batch_size: int,
    progress: bool,
    ranks: Ranks,
    doing: str,
) -> None:
    """Compute the rows that are not there yet, each rank its share of them, and on the first one store them."""
    # Buffers and, on CUDA, the graph's capture, before anything runs beside them.
    extractor.prepare(min(batch_size, meta["n"]))
    begins = range(meta["done"], meta["n"], batch_size)
    with (
        _writer(folder, meta, samples.keys, progress) if ranks.rank == 0 else contextlib.nullcontext() as write,
        _images(samples, begins[ranks.rank :: ranks.world], batch_size, meta["exif"]) as chunks,
    ):
        # In turns, so that what is stored is a beginning of the bank, whoever computed it.
        for _ in range(0, len(begins), ranks.world):
            images = next(chunks, None)
            mine = None if images is None else _chunk(*images, samples, extractor, min(batch_size, meta["n"]))
            for chunk in ranks.gather(mine, doing) or ():
                if chunk is not None and write is not None:
                    write(chunk)


@contextlib.contextmanager
def _writer(
    folder: Path, meta: dict[str, Any], keys: Sequence[str], progress: bool
) -> Iterator[Callable[[Chunk], None]]:
    """Appends chunks to the unfinished rows, and notes now and then, and at the end, how many there are."""
    part = folder / "features.npy.part"
    shape, dtype = (meta["n"], meta["dim"]), np.dtype(meta["dtype"])
    if not part.exists():
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        files.write_whole(part, lambda file: np.lib.format.write_array_header_1_0(file, header))
    saved = monotonic()
    # Plain writes, not a memory map: a full disk is then an OSError, not a signal.
    with part.open("r+b") as file, _bar(progress) as bar:
        files.seek_row(file, meta["done"], shape, dtype)
        task = bar.add_task("features", total=shape[0], completed=meta["done"], begun=meta["done"])

        def write(chunk: Chunk) -> None:
            nonlocal saved
            begin, rows, absent = chunk
            file.write(rows.astype(dtype).tobytes())
            meta["absent"] += [[row, keys[row], reason] for row, reason in absent.items()]
            meta["done"] = begin + len(rows)
            bar.update(task, completed=meta["done"])
            if monotonic() - saved > _SAVE_SECONDS:
                files.save_rows(file, folder, meta)
                saved = monotonic()

        try:
            yield write
        finally:
            files.save_rows(file, folder, meta)


def finish(folder: Path, meta: dict[str, Any]) -> None:
    """Rename the rows to what they are now, all of them, and say that the bank is complete."""
    final, shape = folder / "features.npy", (meta["n"], meta["dim"])
    if not final.exists():
        if len(meta["absent"]) == shape[0]:
            _, key, reason = meta["absent"][0]
            raise ValueError(f"dataset must hold a readable image, got none of {shape[0]}: {key}: {reason}")
        os.replace(folder / "features.npy.part", final)
        files.sync_folder(folder)
    features = files.load_array(final, shape, meta["dtype"])
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


def _chunk(begin: int, images: Sequence[Tensor | str], samples: Samples, extractor: Extractor, size: int) -> Chunk:
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
    return begin, out, {begin + i: image for i, image in enumerate(images) if isinstance(image, str)}


@contextlib.contextmanager
def _images(
    samples: Samples, begins: Sequence[int], size: int, exif: bool
) -> Iterator[Iterator[tuple[int, list[Tensor | str]]]]:
    """From each of ``begins``: (it, ``size`` images or reasons), the next one made while one is used."""
    reader = Reader(samples, available_threads(), exif=exif)
    decoder = ImageDecoder(exif=exif)

    def load(begin: int) -> tuple[int, list[Tensor | str]]:
        encoded = reader.read(range(begin, min(begin + size, len(samples))))
        images = [file for file in encoded if not isinstance(file, DecodeError)]
        pixels = iter(decoder.decode_regions(images, [(0, 0, image.height, image.width) for image in images]))
        return begin, [file.reason if isinstance(file, DecodeError) else next(pixels) for file in encoded]

    def ahead(pool: ThreadPoolExecutor) -> Iterator[tuple[int, list[Tensor | str]]]:
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
