"""Features of a whole dataset, computed once: on disk, memory-mapped, keyed by the images' relative paths."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from dali_icgan._native import threads
from dali_icgan.data import ImageDecoder, Samples, as_samples
from dali_icgan.data.decode import available_threads
from dali_icgan.data.read import Reader
from dali_icgan.engine import Extractor
from dali_icgan.errors import DecodeError
from dali_icgan.ops import unit_rows

_VERSION = 1
_DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float16: np.dtype(np.float16), torch.float32: np.dtype(np.float32)}
# How far from 1 the norm of a stored unit row may be; float16 by the rounding of its elements, half an ulp each at worst.
_NORM_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 1e-3}
_CHECK_ROWS = 8192
_SAVE_SECONDS = 2.0
_QUERIES, _BASE = 1024, 65536  # rows of one block of distances

_log = logging.getLogger("dali_icgan")


class FeatureBank:
    """Unit feature rows of a dataset's images. Made by :meth:`build`, :meth:`open` or :meth:`from_arrays`; immutable.

    Attributes:
        n, dim: rows and columns.
        keys: the images' paths relative to ``root``, with forward slashes, in the dataset's order.
        labels: int64 ``[n]``.
        present: bool ``[n]``; False where the image could not be read, see ``absent``.
        absent: why, by row.
        resolution, align_corners: how the extractor saw the images; None where it is not known.
        exif: whether images were rotated as their EXIF orientation says.
        extractor_fingerprint, dataset_fingerprint: of what it was built with; "" where it is not known.
        dtype: of the stored rows, float16 or float32.
        name, root: the dataset's.
        path: its folder; None in memory.

    On disk it is a folder: ``bank.json`` says what it is, ``features.npy`` ``[n, dim]``, ``keys.txt`` one a line, ``labels.npy``, and
    ``neighbours_K_*.npy`` once they were asked for.
    """

    def __init__(
        self,
        features: npt.NDArray[Any],
        keys: Sequence[str],
        labels: npt.NDArray[np.int64],
        meta: Mapping[str, Any],
        path: str | None,
        unit: bool,
    ) -> None:
        self._features = features
        self._unit = unit
        self.n, self.dim = features.shape
        self.keys = keys
        self.labels = labels
        self.absent: dict[int, str] = {int(row): reason for row, _, reason in meta["absent"]}
        self.present = np.ones(self.n, bool)
        self.present[list(self.absent)] = False
        self.resolution: int | None = meta["resolution"]
        self.align_corners: bool | None = meta["align_corners"]
        self.exif: bool = meta["exif"]
        self.extractor_fingerprint: str = meta["extractor_fingerprint"]
        self.dataset_fingerprint: str = meta["dataset_fingerprint"]
        self.dtype = next(dtype for dtype, stored in _DTYPES.items() if stored == features.dtype)
        self.name: str = meta["name"]
        self.root: str | None = meta["root"]
        self.path = path
        self._row_of: dict[str, int] | None = None
        self._neighbours: npt.NDArray[np.int64] = np.empty((self.n, 0), np.int64)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        where = self.path or "in memory"
        return (
            f"FeatureBank({where}: {self.n} x {self.dim}, {self.dtype}, of {self.name}, seen at {self.resolution} px)"
        )

    # ------------------------------------------------------------------ making

    @classmethod
    def build(
        cls,
        dataset: Any,
        extractor: Extractor,
        path: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float16,
        batch_size: int = 64,
        exif: bool = False,
        progress: bool = True,
    ) -> "FeatureBank":
        """Compute the features of a dataset and store them; or go on where an earlier call was cut off; or open what is finished.

        Images that cannot be read or decoded are left out and listed in ``absent``. A second process that builds the same bank waits
        for the first.

        Args:
            dataset: whatever ``DataLoader`` takes.
            extractor: from ``load_extractor``, with its resolution.
            path: a folder that is new, empty, or holds this very bank.
            dtype: of the stored rows: float16 or float32.
            batch_size: images an extractor call; the last one is filled up, so that a row's bits depend on its image alone.
            exif: rotate images as their EXIF orientation says.
            progress: show a bar on the terminal.

        Returns:
            the bank, memory-mapped.

        Raises:
            ValueError: an argument is not as above; the folder holds something else, or a bank of another dataset or extractor (it
                says what differs, and nothing is overwritten); no image is readable; the extractor's rows are not of unit length.
        """
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        if extractor.resolution is None:
            raise ValueError(
                "extractor must know its resolution, got None: features depend on the generator's, use at_resolution(...)"
            )
        samples = as_samples(dataset)
        folder = Path(path)
        wanted = {
            "version": _VERSION,
            "name": samples.name,
            "root": samples.root,
            "dataset_fingerprint": samples.fingerprint,
            "extractor_fingerprint": extractor.fingerprint,
            "resolution": extractor.resolution,
            "align_corners": extractor.align_corners,
            "exif": exif,
            "dtype": _DTYPES[dtype].name,
            "n": len(samples),
            "dim": extractor.dim,
        }
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"path must be a folder, got {folder}, which is a file")
        meta = _existing(folder, wanted)
        if meta is None or not meta["complete"]:
            folder.mkdir(parents=True, exist_ok=True)
            with _sole_builder(folder):
                meta = _existing(folder, wanted)  # another process may have finished it meanwhile
                if meta is None or not meta["complete"]:
                    meta = _begin(folder, meta, wanted, samples)
                    _fill(folder, meta, samples, extractor, batch_size, progress)
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "FeatureBank":
        """Open a finished bank; its rows are read when they are asked for.

        Rows are checked once, in pieces, and that is noted in the folder where it is writable. Rows whose norm is not 1 within 1e-5
        (float16: 1e-3, its rounding) are normalised whenever they are gathered, which the log says.

        Raises:
            FileNotFoundError: there is no bank.
            ValueError: it is unfinished, damaged, of another version, or a row is zero or not finite, which is named.
        """
        folder = Path(path)
        meta = _read_meta(folder)
        if not meta["complete"]:
            raise ValueError(
                f"{folder} must be finished, got {meta['done']} of {meta['n']} rows: the same FeatureBank.build goes on with it"
            )
        features = _load(folder / "features.npy", (meta["n"], meta["dim"]), meta["dtype"])
        keys, labels = _read_keys(folder, meta), _load(folder / "labels.npy", (meta["n"],), "int64")
        if _digest_of_list(keys, labels) != meta["list_digest"]:
            raise ValueError(
                f"{folder} must hold the keys and labels it was built with, got others: keys.txt or labels.npy is damaged"
            )
        digest = _digest_of_rows(features)
        if meta["checked"] != digest:
            absent = {row for row, _, _ in meta["absent"]}
            unit = _check_rows(features, keys, absent, f"{folder}: features.npy")
            meta = {**meta, "checked": digest, "unit": unit}
            with contextlib.suppress(OSError):  # a read-only bank is checked each time
                _write_meta(folder, meta)
        bank = cls(features, keys, np.array(labels), meta, str(folder.absolute()), meta["unit"])
        bank._notice()
        return bank

    @classmethod
    def from_arrays(
        cls,
        features: npt.NDArray[Any] | Tensor,
        keys: Sequence[str],
        labels: npt.NDArray[np.int64] | Sequence[int] | None = None,
        *,
        resolution: int | None = None,
        align_corners: bool | None = None,
        extractor_fingerprint: str = "",
        dataset_fingerprint: str = "",
        root: str | os.PathLike[str] | None = None,
        absent: Mapping[int, str] | None = None,
        name: str = "arrays",
    ) -> "FeatureBank":
        """A bank in memory, of features that exist already.

        Args:
            features: ``[n, dim]``, float16 or float32 (float64 is rounded); rows that are not of unit length are normalised.
            keys: one a row.
            labels: int64 ``[n]``; None: zeros.
            absent: rows to leave out, with the reason.
            resolution, align_corners, extractor_fingerprint, dataset_fingerprint, root, name: as the attributes; what is not given is
                not checked later.

        Raises:
            ValueError: an argument is not as above, or a row is zero or not finite, which is named.
        """
        array = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype not in _DTYPES.values():
            raise ValueError(
                f"features must be float16, float32 or float64 [n, dim], got {array.dtype} {list(array.shape)}"
            )
        if len(keys) != len(array):
            raise ValueError(f"keys must be one a row: {len(array)}, got {len(keys)}")
        classes = np.zeros(len(array), np.int64) if labels is None else np.asarray(labels, np.int64)
        if classes.shape != (len(array),):
            raise ValueError(f"labels must have shape [{len(array)}], got {list(classes.shape)}")
        absent = dict(absent or {})
        if any(not 0 <= row < len(array) for row in absent):
            raise ValueError(f"absent must name rows in 0..{len(array) - 1}, got {sorted(absent)}")
        meta = {
            "absent": [(row, keys[row], reason) for row, reason in absent.items()],
            "resolution": resolution,
            "align_corners": align_corners,
            "exif": False,
            "extractor_fingerprint": extractor_fingerprint,
            "dataset_fingerprint": dataset_fingerprint,
            "name": name,
            "root": None if root is None else os.path.abspath(root),
        }
        array = np.ascontiguousarray(array)
        bank = cls(array, list(keys), classes, meta, None, _check_rows(array, keys, absent.keys(), "features"))
        bank._notice()
        return bank

    def _notice(self) -> None:
        if not self._unit:
            _log.warning(
                "%s: rows are not of unit length, they are normalised when they are gathered", self.path or "features"
            )

    # ------------------------------------------------------------------ using

    def rows_of(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row of each key, int64 ``[m]``; -1 where the bank lacks it. A key that occurs more than once is its first row."""
        if self._row_of is None:
            self._row_of = dict(zip(reversed(self.keys), range(self.n - 1, -1, -1), strict=True))
        return np.array([self._row_of.get(key, -1) for key in keys], np.int64)

    def rows_for(self, samples: Samples) -> npt.NDArray[np.int64]:
        """The row of each sample of a dataset, int64 ``[m]``; -1 where the bank lacks it.

        A sample is looked up by where its file lies in the bank's own root (so a Subset finds its rows), or, where that finds fewer,
        by its path within the dataset (so a dataset that was moved does).
        """
        here = self.rows_of(samples.keys_under(self.root))
        if (here >= 0).all():
            return here
        moved = self.rows_of(samples.keys)
        return moved if (moved >= 0).sum() > (here >= 0).sum() else here

    def check_against(self, samples: Samples, extractor: Extractor | None = None) -> None:
        """Make sure that this bank is of these images, by this extractor.

        Raises:
            ValueError: it is not; names what disagrees.
        """
        me = f"bank {self.path}" if self.path is not None else "bank"
        if extractor is not None:
            if extractor.dim != self.dim:
                raise ValueError(f"{me} must have the extractor's number of features {extractor.dim}, got {self.dim}")
            for what in ("resolution", "align_corners"):
                want, have = getattr(extractor, what), getattr(self, what)
                if None not in (want, have) and want != have:
                    raise ValueError(f"{me} must be of images seen at the extractor's {what} {want}, got {have}")
            if self.extractor_fingerprint not in ("", extractor.fingerprint):
                raise ValueError(
                    f"{me} must be by the extractor that is given ({extractor.source}, fingerprint {extractor.fingerprint}), "
                    f"got one of fingerprint {self.extractor_fingerprint}"
                )
        rows = self.rows_for(samples)
        lacking = np.flatnonzero(rows < 0)
        if len(lacking):
            raise ValueError(
                f"{me} must hold every image of {samples.name}, got none for {len(lacking)} of {len(samples)}, "
                f"the first {samples.path(int(lacking[0]))}; it is of {self.name}, {self.n} images under {self.root}"
            )

    def gather(
        self,
        rows: npt.NDArray[np.int64] | Tensor | Sequence[int],
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Unit feature rows.

        Args:
            rows: int64 ``[m]``, of images that are present.
            device: where to.
            dtype: of the result.

        Returns:
            ``[m, dim]``; float16 storage is normalised again, so that float32 rows have norm 1 within 1e-6.

        Raises:
            ValueError: a row is out of range or absent.

        Stream: on CUDA torch's current stream, from pinned memory; the host does not wait.
        """
        index = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows, np.int64)
        if index.ndim != 1:
            raise ValueError(f"rows must have shape [m], got {list(index.shape)}")
        if len(index) and not 0 <= index.min() <= index.max() < self.n:
            raise ValueError(f"rows must lie in 0..{self.n - 1}, got {index.min()}..{index.max()}")
        lacking = index[~self.present[index]]
        if len(lacking):
            row = int(lacking[0])
            raise ValueError(f"rows must be present, got {row} ({self.keys[row]}), which is not: {self.absent[row]}")
        pinned = torch.device(device).type == "cuda"
        features = torch.empty(len(index), self.dim, dtype=self.dtype, pin_memory=pinned)
        # The rows are in range; mode "raise" would copy them once more.
        np.take(self._features, index, axis=0, out=features.numpy(), mode="clip")
        features = features.to(device, non_blocking=True)
        if features.dtype != torch.float32 or not self._unit:
            features = unit_rows(features)
        return features.to(dtype)

    def neighbours(self, k: int) -> npt.NDArray[np.int64]:
        """The k nearest rows of each row by Euclidean distance, itself and absent rows left out.

        Exact, by faiss where it is installed, else by torch. Computed at the first call and kept next to the bank where that is
        writable: about 2 n^2 dim operations.

        Args:
            k: 1 to the number of other rows that are present.

        Returns:
            int64 ``[n, k]``, nearest first; -1 throughout for a row that is absent.

        Source: Casanova et al. 2021 (arXiv 2109.05070): an instance's neighbourhood is its k nearest by L2 on unit features.
        """
        most = int(self.present.sum()) - 1
        if not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
            raise ValueError(f"k must be an integer in 1..{most}, the other rows that are present, got {k!r}")
        if self._neighbours.shape[1] < k:
            self._neighbours = self._stored_neighbours(k)
        return self._neighbours[:, :k]

    def _stored_neighbours(self, k: int) -> npt.NDArray[np.int64]:
        if self.path is None:
            return self._found_neighbours(k)
        digest = _digest_of_rows(self._features)
        for file in sorted(Path(self.path).glob(f"neighbours_*_{digest}.npy")):
            width = int(file.name.split("_")[1])
            if width >= k:
                return _load(file, (self.n, width), "int64")
        found = self._found_neighbours(k)
        try:
            _write(Path(self.path) / f"neighbours_{k}_{digest}.npy", lambda file: np.save(file, found))
        except OSError as error:
            _log.warning("%s: the neighbours could not be kept (%s), they will be computed again", self.path, error)
        return found

    def _found_neighbours(self, k: int) -> npt.NDArray[np.int64]:
        rows = np.flatnonzero(self.present)
        blocks = (self.gather(rows[i : i + _BASE], "cpu") for i in range(0, len(rows), _BASE))
        near = _nearest(blocks, len(rows), self.dim, k + 1)
        # A duplicate may come before the row itself, or crowd it out.
        own = near == np.arange(len(rows))[:, None]
        own[~own.any(1), -1] = True
        found = np.full((self.n, k), -1, np.int64)
        found[rows] = rows[near[~own].reshape(len(rows), k)]
        return found


def _nearest(blocks: Iterator[Tensor], n: int, dim: int, k: int) -> npt.NDArray[np.int64]:
    """The k nearest of each of n unit rows, itself among them."""
    try:
        import faiss
    except ImportError:
        return _nearest_by_torch(torch.cat(list(blocks)), k)
    faiss.omp_set_num_threads(threads())
    index = faiss.IndexFlatL2(dim)
    for block in blocks:
        index.add(block.numpy())
    stored = faiss.rev_swig_ptr(index.get_xb(), n * dim).reshape(n, dim)  # its own copy, not another
    return np.concatenate([index.search(stored[i : i + _QUERIES], k)[1] for i in range(0, n, _QUERIES)])


def _nearest_by_torch(features: Tensor, k: int) -> npt.NDArray[np.int64]:
    found = []
    for queries in features.split(_QUERIES):
        best = queries.new_empty(len(queries), 0)
        index = torch.empty(len(queries), 0, dtype=torch.int64)
        for begin in range(0, len(features), _BASE):
            # Of unit rows the nearest is the one with the largest inner product.
            near = queries @ features[begin : begin + _BASE].T
            best, index = (
                torch.cat([best, near], 1),
                torch.cat([index, torch.arange(begin, begin + near.shape[1]).expand_as(near)], 1),
            )
            best, order = best.topk(min(k, best.shape[1]), 1)
            index = index.gather(1, order)
        found.append(index)
    return torch.cat(found).numpy()


# ---------------------------------------------------------------------- building


def _existing(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the folder holds of the wanted bank, a part or all of it; None: nothing yet."""
    if not (folder / "bank.json").exists():
        return None
    meta = _read_meta(folder)
    # A finished bank serves its dataset wherever that has been moved; a part must not be mixed with other files of the same names.
    differing = [k for k in wanted if meta[k] != wanted[k] and k != "name" and not (k == "root" and meta["complete"])]
    if differing:
        said = "; ".join(f"{key} must be {wanted[key]}, got {meta[key]}" for key in differing)
        raise ValueError(f"{folder} holds another bank, of {meta['name']}, and is left as it is: {said}")
    return meta


def _begin(folder: Path, meta: dict[str, Any] | None, wanted: dict[str, Any], samples: Samples) -> dict[str, Any]:
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
        digest = _digest_of_list(samples.keys, samples.labels)
        meta = {
            **wanted,
            "list_digest": digest,
            "complete": False,
            "done": 0,
            "absent": [],
            "checked": None,
            "unit": True,
        }
        _write_meta(folder, meta)
    if not (folder / "keys.txt").exists():
        text = "".join(key + "\n" for key in samples.keys).encode("utf-8", "surrogateescape")
        _write(folder / "keys.txt", lambda file: file.write(text))
    if not (folder / "labels.npy").exists():
        _write(folder / "labels.npy", lambda file: np.save(file, samples.labels))
    return meta


def _fill(
    folder: Path, meta: dict[str, Any], samples: Samples, extractor: Extractor, batch_size: int, progress: bool
) -> None:
    final, part = folder / "features.npy", folder / "features.npy.part"
    shape, dtype = (meta["n"], meta["dim"]), np.dtype(meta["dtype"])
    if not final.exists():
        if not part.exists():
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            _write(part, lambda file: np.lib.format.write_array_header_1_0(file, header))
        # Plain writes, not a memory map: a full disk is then an OSError, not a signal.
        with (
            part.open("r+b") as file,
            _chunks(samples, meta["done"], batch_size, meta["exif"]) as chunks,
            _bar(progress) as bar,
        ):
            _seek_row(file, meta["done"], shape, dtype)
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
                        _save(file, folder, meta)
                        saved = monotonic()
            finally:
                _save(file, folder, meta)
        if len(meta["absent"]) == shape[0]:
            _, key, reason = meta["absent"][0]
            raise ValueError(f"dataset must hold a readable image, got none of {shape[0]}: {key}: {reason}")
        os.replace(part, final)
        _sync_folder(folder)
    features = _load(final, shape, dtype.name)
    meta["complete"], meta["checked"] = True, _digest_of_rows(features)
    _write_meta(folder, meta)
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
        for i in np.flatnonzero(~(np.abs(norm - 1) <= _NORM_TOLERANCE[out.dtype])):
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
        files = reader.read(range(begin, min(begin + size, len(samples))))
        images = [file for file in files if not isinstance(file, DecodeError)]
        pixels = iter(decoder.decode_regions(images, [(0, 0, image.height, image.width) for image in images]))
        return begin, [file.reason if isinstance(file, DecodeError) else next(pixels) for file in files]

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
def _sole_builder(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("%s is being built by another process, waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------- files


def _write(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that it is there whole or not at all, whenever the machine stops."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with scratch.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seek_row(file: IO[bytes], row: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Cut an unfinished array off where a row begins, and go there."""
    try:
        magic = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0(file) if magic == (1, 0) else None
    except ValueError as error:
        raise ValueError(f"{file.name} must be an array, got something damaged: {error}") from error
    place = file.tell() + row * shape[1] * dtype.itemsize
    if header != (shape, False, dtype) or os.fstat(file.fileno()).st_size < place:
        raise ValueError(
            f"{file.name} must hold {row} rows of {shape[1]} {dtype.name}, got less, or other ones: it is damaged"
        )
    file.truncate(place)  # rows that were written but not counted
    file.seek(place)


def _save(file: IO[bytes], folder: Path, meta: Mapping[str, Any]) -> None:
    """The rows first, then how many there are."""
    file.flush()
    os.fsync(file.fileno())
    _write_meta(folder, meta)


def _write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    text = json.dumps(meta, indent=1).encode()
    _write(folder / "bank.json", lambda file: file.write(text))


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


def _read_meta(folder: Path) -> dict[str, Any]:
    file = folder / "bank.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} must be a feature bank (a folder with bank.json), got none there")
    try:
        meta = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} must be JSON, got something damaged: {error}") from error
    if not isinstance(meta, dict) or meta.get("version") != _VERSION:
        version = meta.get("version") if isinstance(meta, dict) else None
        raise ValueError(f"{file} must be of version {_VERSION}, got {version}")
    for name, kinds in _META.items():
        if not isinstance(meta.get(name), kinds):
            raise ValueError(
                f"{file} must have {name} ({' or '.join(kind.__name__ for kind in kinds)}), got {meta.get(name)!r}"
            )
    if meta["dtype"] not in [stored.name for stored in _DTYPES.values()]:
        raise ValueError(f"{file} must have dtype float16 or float32, got {meta['dtype']!r}")
    return meta


def _read_keys(folder: Path, meta: Mapping[str, Any]) -> list[str]:
    file = folder / "keys.txt"
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise ValueError(f"{folder} must have keys.txt, got none") from error
    keys = text.split("\n")[:-1]
    if len(keys) != meta["n"]:
        raise ValueError(f"{file} must have {meta['n']} lines, got {len(keys)}: it is damaged")
    return keys


def _load(file: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Memory-map an array of ours."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{file.parent} must have {file.name}, got none") from error
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file} must be an array {dtype} {list(shape)}, got something damaged: {error}") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{file} must be an array {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}")
    return array


def _digest_of_list(keys: Sequence[str], labels: npt.NDArray[np.int64]) -> str:
    digest = hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape"))
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def _digest_of_rows(features: npt.NDArray[Any]) -> str:
    """Tells feature files apart by their shape and 64 of their rows: at once, however large they are."""
    digest = hashlib.sha256(f"{features.shape} {features.dtype}".encode())
    for row in np.unique(np.linspace(0, len(features) - 1, 64).astype(np.int64)) if len(features) else ():
        digest.update(features[row].tobytes())
    return digest.hexdigest()[:16]


def _check_rows(features: npt.NDArray[Any], keys: Sequence[str], absent: Collection[int], name: str) -> bool:
    """Whether all rows are of unit length.

    Raises:
        ValueError: a row is zero or not finite.
    """
    unit = True
    tolerance = _NORM_TOLERANCE[features.dtype]
    there = np.ones(len(features), bool)
    there[list(absent)] = False
    for begin in range(0, len(features), _CHECK_ROWS):
        norm = np.linalg.norm(features[begin : begin + _CHECK_ROWS].astype(np.float64), axis=1)
        norm[~there[begin : begin + _CHECK_ROWS]] = 1
        bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
        if len(bad):
            row = begin + int(bad[0])
            raise ValueError(
                f"{name} must have rows that are finite and not zero, got row {row} ({keys[row]}) with norm {norm[bad[0]]}"
            )
        unit = unit and bool((np.abs(norm - 1) <= tolerance).all())
    return unit
