"""Features of a whole dataset, computed once: on disk, memory-mapped, keyed by the images' relative paths."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dali_icgan._native import threads
from dali_icgan.augment import bank_build as building
from dali_icgan.augment import bank_files as files
from dali_icgan.data import Samples, as_samples
from dali_icgan.data.dataset import Source, source_finder
from dali_icgan.engine import Extractor, Generator
from dali_icgan.ops import unit_rows
from dali_icgan.ranks import Ranks

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
        exif: whether images were rotated as their EXIF orientation says; None where it is not known.
        extractor_fingerprint, dataset_fingerprint: of what it was built with; "" where it is not known.
        dtype: of the stored rows, float16 or float32.
        name, root: the dataset's.
        path: its folder; None in memory.

    On disk it is a folder: ``bank.json`` says what it is, ``features.npy`` ``[n, dim]``, ``keys.txt`` one a line, ``labels.npy``, and
    ``neighbours_K_*.npy``, ``class_neighbours_K_*.npy`` and ``embedded_*.npy`` once they were asked for.
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
        self.exif: bool | None = meta["exif"]
        self.extractor_fingerprint: str = meta["extractor_fingerprint"]
        self.dataset_fingerprint: str = meta["dataset_fingerprint"]
        self.dtype = next(dtype for dtype, stored in files.DTYPES.items() if stored == features.dtype)
        self.name: str = meta["name"]
        self.root: str | None = meta["root"]
        self.path = path
        self._row_of: dict[str, int] | None = None
        self._find: Callable[[str], Source] | None = None
        none = np.empty((self.n, 0), np.int64)
        self._embedded: dict[str, npt.NDArray[np.float32]] = {}  # by the generator's fingerprint
        self._neighbours: dict[bool, npt.NDArray[np.int64]] = {False: none, True: none}  # True: of the same class

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
        shard: bool | None = None,
    ) -> "FeatureBank":
        """Compute the features of a dataset and store them; or go on where an earlier call was cut off; or open what is finished.

        Images that cannot be read or decoded are left out and listed in ``absent``. A second process that builds the same bank waits
        for the first. Over ranks of torch.distributed all call this: each computes its share of the images, rank 0 writes, and every
        rank opens the finished bank, in a folder that all see. Bits, and where an unfinished bank goes on, know nothing of ranks.

        Args:
            dataset: whatever ``DataLoader`` takes.
            extractor: from ``load_extractor``, with its resolution.
            path: a folder that is new, empty, or holds this very bank.
            dtype: of the stored rows: float16 or float32.
            batch_size: images an extractor call; the last one is filled up, so that a row's bits depend on its image alone.
            exif: rotate images as their EXIF orientation says.
            progress: show a bar on the terminal (of rank 0).
            shard: None: over torch.distributed's ranks where it is initialised; False: this process alone.

        Returns:
            the bank, memory-mapped.

        Raises:
            RankError: another rank failed, ended or did not answer within the process group's timeout; what is stored stays, and the
                same call goes on with it, on any number of ranks.
            ValueError: an argument is not as above; the folder holds something else, or a bank of another dataset or extractor (it
                says what differs, and nothing is overwritten); no image is readable; the extractor's rows are not of unit length.
        """
        if dtype not in files.DTYPES:
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
            "version": files.VERSION,
            "name": samples.name,
            "root": samples.root,
            "dataset_fingerprint": samples.fingerprint,
            "extractor_fingerprint": extractor.fingerprint,
            "resolution": extractor.resolution,
            "align_corners": extractor.align_corners,
            "exif": exif,
            "dtype": files.DTYPES[dtype].name,
            "n": len(samples),
            "dim": extractor.dim,
        }
        building.build(folder, wanted, samples, extractor, batch_size, progress, Ranks.here(shard))
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
        meta = files.read_meta(folder)
        if not meta["complete"]:
            raise ValueError(
                f"{folder} must be finished, got {meta['done']} of {meta['n']} rows: the same FeatureBank.build goes on with it"
            )
        features = files.load_array(folder / "features.npy", (meta["n"], meta["dim"]), meta["dtype"])
        keys, labels = files.read_keys(folder, meta), files.load_array(folder / "labels.npy", (meta["n"],), "int64")
        if files.digest_of_list(keys, labels) != meta["list_digest"]:
            raise ValueError(
                f"{folder} must hold the keys and labels it was built with, got others: keys.txt or labels.npy is damaged"
            )
        digest = files.digest_of_rows(features)
        if meta["checked"] != digest:
            absent = {row for row, _, _ in meta["absent"]}
            unit = files.check_rows(features, keys, absent, f"{folder}: features.npy")
            meta = {**meta, "checked": digest, "unit": unit}
            with contextlib.suppress(OSError):  # a read-only bank is checked each time
                files.write_meta(folder, meta)
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
        exif: bool | None = None,
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
            resolution, align_corners, exif, extractor_fingerprint, dataset_fingerprint, root, name: as the attributes; what is not
                given is not checked later.

        Raises:
            ValueError: an argument is not as above, or a row is zero or not finite, which is named.
        """
        array = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype not in files.DTYPES.values():
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
            "exif": exif,
            "extractor_fingerprint": extractor_fingerprint,
            "dataset_fingerprint": dataset_fingerprint,
            "name": name,
            "root": None if root is None else os.path.abspath(root),
        }
        array = np.ascontiguousarray(array)
        bank = cls(array, list(keys), classes, meta, None, files.check_rows(array, keys, absent.keys(), "features"))
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

    def source(self, row: int) -> Source:
        """Where the image of a row lies: the path of a file, or a member of the shards that the bank was built of."""
        if self._find is None:
            self._find = source_finder(self.root)
        return self._find(self.keys[row])

    def rows_for(self, samples: Samples) -> npt.NDArray[np.int64]:
        """The row of each sample of a dataset, int64 ``[m]``; -1 where the bank lacks it.

        A sample is looked up by where its file lies in the bank's own root (so a Subset finds its rows), or, where that finds fewer,
        by its path within the dataset (so a dataset that was moved does).
        """
        return self._look_up(samples)[0]

    def _look_up(self, samples: Samples) -> tuple[npt.NDArray[np.int64], bool]:
        """The rows, and whether they were found by names alone, elsewhere than where the bank's images lie."""
        here = self.rows_of(samples.keys_under(self.root))
        if (here >= 0).all():
            return here, False
        moved = self.rows_of(samples.keys)
        if (moved >= 0).sum() <= (here >= 0).sum():
            return here, False
        return moved, None not in (samples.root, self.root)

    def check_against(
        self, samples: Samples, extractor: Extractor | None = None, exif: bool | None = None
    ) -> npt.NDArray[np.int64]:
        """Make sure that this bank is of these images, by this extractor, rotated alike; returns :meth:`rows_for` them.

        Raises:
            ValueError: it is not; names what disagrees.
        """
        me = f"bank {self.path}" if self.path is not None else "bank"
        if None not in (exif, self.exif) and exif != self.exif:
            raise ValueError(
                f"{me} must be of images seen with exif={exif}, as they are read here, got exif={self.exif}"
            )
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
        rows, by_name = self._look_up(samples)
        lacking = np.flatnonzero(rows < 0)
        if len(lacking):
            raise ValueError(
                f"{me} must hold every image of {samples.name}, got none for {len(lacking)} of {len(samples)}, "
                f"the first {samples.path(int(lacking[0]))}; it is of {self.name}, {self.n} images under {self.root}"
            )
        if by_name:
            warnings.warn(
                f"{me} was built from images under {self.root}; those under {samples.root} are taken for the same, since they have the "
                "same names. If they are others, build a bank of them",
                stacklevel=2,
            )
        return rows

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
        features = self._taken(self._features, rows, device)
        if features.dtype != torch.float32 or not self._unit:
            features = unit_rows(features)
        return features.to(dtype)

    def gather_embedded(
        self, rows: npt.NDArray[np.int64] | Tensor | Sequence[int], device: torch.device | str, generator: Generator
    ) -> Tensor:
        """Rows of :meth:`embedded`: float32 ``[m, shared_dim_feat]``. Arguments, errors and stream as of :meth:`gather`."""
        return self._taken(self.embedded(generator), rows, device)

    def _taken(
        self,
        array: npt.NDArray[Any],
        rows: npt.NDArray[np.int64] | Tensor | Sequence[int],
        device: torch.device | str,
    ) -> Tensor:
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
        dtype = torch.float32 if array.dtype == np.float32 else torch.float16
        taken = torch.empty(len(index), array.shape[1], dtype=dtype, pin_memory=pinned)
        # The rows are in range; mode "raise" would copy them once more.
        np.take(array, index, axis=0, out=taken.numpy(), mode="clip")
        # Rows are checked when a bank is opened, of a large one only some each time.
        if not (good := taken.isfinite().all(1) & taken.any(1)).all():
            row = int(index[~good.numpy()][0])
            raise ValueError(
                f"{self.path or 'features'} must hold rows that are finite and not zero, got row {row} ({self.keys[row]})"
            )
        return taken.to(device, non_blocking=True)

    def embedded(self, generator: Generator) -> npt.NDArray[np.float32]:
        """What a generator first makes of every row (:meth:`Generator.embed`): float32 ``[n, shared_dim_feat]``, zeros where absent.

        Computed at the first call, in float64, and kept next to the bank where that is writable. A generation from it reads less than
        one from the features themselves (2 KB instead of 4 at official sizes) and begins one layer later.

        Raises:
            ValueError: the generator takes features of another number.
        """
        if generator.feature_dim != self.dim:
            raise ValueError(
                f"generator must take the bank's number of features {self.dim}, got {generator.feature_dim}"
            )
        if generator.fingerprint not in self._embedded:
            self._embedded[generator.fingerprint] = self._stored_embedded(generator)
        return self._embedded[generator.fingerprint]

    def _stored_embedded(self, generator: Generator) -> npt.NDArray[np.float32]:
        shape = (self.n, generator.config.shared_dim_feat)
        if self.path is None:
            return np.concatenate(list(self._embedded_blocks(generator)))
        file = Path(self.path) / f"embedded_{generator.fingerprint[:16]}_{files.digest_of_rows(self._features)}.npy"
        if not file.exists():

            def fill(out: IO[bytes]) -> None:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
                for block in self._embedded_blocks(generator):
                    out.write(block.tobytes())

            try:
                files.write_whole(file, fill)
            except OSError as error:
                _log.warning(
                    "%s: the embedded features could not be kept (%s), they will be computed again", self.path, error
                )
                return np.concatenate(list(self._embedded_blocks(generator)))
        return files.load_array(file, shape, "float32")

    def _embedded_blocks(self, generator: Generator) -> Iterator[npt.NDArray[np.float32]]:
        for begin in range(0, self.n, _BASE):
            rows = np.arange(begin, min(begin + _BASE, self.n))
            there = self.present[rows]
            block = np.zeros((len(rows), generator.config.shared_dim_feat), np.float32)
            block[there] = generator.embed(self.gather(rows[there], "cpu")).numpy()
            yield block

    def neighbours(self, k: int, same_class: bool = False) -> npt.NDArray[np.int64]:
        """The k nearest rows of each row by Euclidean distance, itself and absent rows left out.

        Exact, by faiss where it is installed, else by torch. Computed at the first call and kept next to the bank where that is
        writable: about 2 n^2 dim operations, in one class after the other with ``same_class``. Rows at equal distance come in no
        particular order.

        Args:
            k: 1 to the number of other rows that are present.
            same_class: among the rows of the same label in ``labels``.

        Returns:
            int64 ``[n, k]``, nearest first; -1 throughout for a row that is absent. With ``same_class`` a row whose class has fewer
            than k others has all of them, then -1.

        Source: Casanova et al. 2021 (arXiv 2109.05070): an instance's neighbourhood is its k nearest by L2 on unit features.
        """
        most = int(self.present.sum()) - 1
        if not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
            raise ValueError(f"k must be an integer in 1..{most}, the other rows that are present, got {k!r}")
        if self._neighbours[same_class].shape[1] < k:
            self._neighbours[same_class] = self._stored_neighbours(k, same_class)
        return self._neighbours[same_class][:, :k]

    def alone(self) -> npt.NDArray[np.bool_]:
        """Whether a row is the only one of its label that is present, bool ``[n]``."""
        _, of, count = np.unique(self.labels[self.present], return_inverse=True, return_counts=True)
        found = np.zeros(self.n, bool)
        found[self.present] = count[of] == 1
        return found

    def _stored_neighbours(self, k: int, same_class: bool) -> npt.NDArray[np.int64]:
        if self.path is None:
            return self._found_neighbours(k, same_class)
        kind, digest = "neighbours", files.digest_of_rows(self._features)
        if same_class:
            kind, digest = "class_neighbours", f"{digest}_{files.digest_of_classes(self.labels, self.present)}"
        for file in sorted(Path(self.path).glob(f"{kind}_*_{digest}.npy")):
            number = file.name.removeprefix(f"{kind}_").split("_")[0]
            width = int(number) if number.isdecimal() and len(number) < 10 else 0  # another name is not of ours
            if width >= k:
                near = files.load_array(file, (self.n, width), "int64")
                files.check_neighbours(near, self.present, self.labels if same_class else None, str(file))
                return near
        found = self._found_neighbours(k, same_class)
        try:
            files.write_whole(Path(self.path) / f"{kind}_{k}_{digest}.npy", lambda file: np.save(file, found))
        except OSError as error:
            _log.warning("%s: the neighbours could not be kept (%s), they will be computed again", self.path, error)
        return found

    def _found_neighbours(self, k: int, same_class: bool) -> npt.NDArray[np.int64]:
        found = np.full((self.n, k), -1, np.int64)
        rows = np.flatnonzero(self.present)
        groups = [rows]
        if same_class:
            rows = rows[np.argsort(self.labels[rows], kind="stable")]
            groups = np.split(rows, np.flatnonzero(np.diff(self.labels[rows])) + 1)
        for group in groups:
            width = min(k, len(group) - 1)
            if width > 0:
                found[group, :width] = group[self._nearest_others(group, width)]
        return found

    def _nearest_others(self, rows: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """The k nearest of each of these rows among them, itself left out, as places in ``rows``: ``[m, k]``."""
        blocks = (self.gather(rows[i : i + _BASE], "cpu") for i in range(0, len(rows), _BASE))
        near = _nearest(blocks, len(rows), self.dim, k + 1)
        # A duplicate may come before the row itself, or crowd it out.
        own = near == np.arange(len(rows))[:, None]
        own[~own.any(1), -1] = True
        return near[~own].reshape(len(rows), k)


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
