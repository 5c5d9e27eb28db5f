"""Whatever a user has as a dataset, seen as files (or members of tars, or bytes) with labels. Nothing is opened here but folders."""

import functools
import hashlib
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_icgan.data.files import IMAGE_EXTENSIONS, read_file
from dali_icgan.data.folder_cache import open_folder
from dali_icgan.data.paths import Paths
from dali_icgan.data.shards import ShardMember, ShardMembers, is_shard_folder, open_shards, tars_in

Source = str | bytes | ShardMember

_CHUNK = 1 << 14  # entries that are looked at together
_FIRST, _SECOND = operator.itemgetter(0), operator.itemgetter(1)


@dataclass(eq=False)
class Samples:
    """Encoded images with labels, in a fixed order.

    Attributes:
        sources: one a sample: the path of a file, a member of a tar, or the file's bytes.
        labels: int64 ``[n]``.
        root: the folder that keys are relative to; None when nothing is a file.
        classes: names by label, where the dataset has them.
        name: for messages.
    """

    sources: Sequence[Source]
    labels: npt.NDArray[np.int64]
    root: str | None
    classes: list[str] | None = None
    name: str = "dataset"
    _keys: list[str] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.sources)

    def path(self, index: int) -> str:
        """How a message names the sample: its path, its tar and its path in it, or where it lies in memory."""
        source = self.sources[index]
        return f"<sample {index} in memory>" if isinstance(source, bytes) else str(source)

    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            OSError: the file is missing or unreadable, or its tar is not as it was indexed.
        """
        return read_source(self.sources[index])

    @property
    def keys(self) -> list[str]:
        """One a sample: the path relative to ``root`` with forward slashes; for bytes a digest of their content."""
        if self._keys is None:
            self._keys = self.keys_under(self.root)
        return self._keys

    def keys_under(self, root: str | None) -> list[str]:
        """The keys as they are seen from another root, such as a feature bank's."""
        return list(_keys(self.sources, root))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of keys and labels: two datasets with the same one list the same samples in the same order."""
        keys = iter(_keys(self.sources, self.root) if self._keys is None else self._keys)  # of a million none is kept
        digest, before = hashlib.sha256(), ""
        while some := list(itertools.islice(keys, _CHUNK)):
            digest.update((before + "\n".join(some)).encode("utf-8", "surrogateescape"))
            before = "\n"
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()[:32]


def read_source(source: Source) -> bytes:
    """The encoded image.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(source, str):
        return read_file(source)
    return source.read() if isinstance(source, ShardMember) else bytes(source)


def source_finder(root: str | None) -> Callable[[str], Source]:
    """Tells where the image of a key under a root lies: the path of a file, or, where the root is a folder of shards, the member."""
    if root is not None and is_shard_folder(root):
        shards = open_shards(root)
        rows = shards.rows_of_names()
        return lambda key: ShardMember(shards, rows[key]) if key in rows else os.path.join(root, key)
    return lambda key: os.path.join(root or ".", key)


def as_samples(dataset: Any) -> Samples:
    """See a dataset as :class:`Samples`.

    Args:
        dataset: a folder with one subfolder a class (classes and order as torchvision's ImageFolder has them); a folder of tar shards
            (:func:`is_shard_folder`); a sequence of ``(path or bytes, label)``; a torchvision-like dataset with ``samples`` (its ``target_transform`` is applied here, once
            a sample); ``Subset`` and ``ConcatDataset`` of those; Samples themselves.

    Raises:
        ValueError: the dataset has a ``transform`` or a loader of its own, or is empty; a tar is damaged, or a sample in it has no label.
        TypeError: it is none of the above, or a label is not an integer.
        FileNotFoundError: the folder is missing or holds no images, or a tar is missing that its index names.
        OSError: a folder cannot be listed.
    """
    if isinstance(dataset, Samples):
        samples = dataset
    elif isinstance(dataset, (str, os.PathLike)):
        samples = _from_folder(os.fspath(dataset))
    elif hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        samples = _subset(as_samples(dataset.dataset), dataset.indices)
    elif hasattr(dataset, "datasets"):
        samples = _concatenated([as_samples(part) for part in dataset.datasets])
    elif hasattr(dataset, "samples"):
        samples = _from_torchvision(dataset)
    elif isinstance(dataset, Sequence):
        samples = _from_pairs(dataset, "dataset")
    else:
        raise TypeError(
            "dataset must be a folder, a list of (path or bytes, label), a dataset with `samples` such as torchvision's ImageFolder, "
            f"or a Subset or ConcatDataset of those, got {type(dataset).__name__}"
        )
    if len(samples) == 0:
        raise ValueError(f"dataset must hold at least one image, got none in {samples.name}")
    return samples


def _keys(sources: Iterable[Source], root: str | None) -> Iterator[str]:
    prefix = "" if root is None else os.path.join(os.path.abspath(root), "")
    if isinstance(sources, ShardMembers):
        sources = sources.paths
    if isinstance(sources, Paths):
        folders = [f if f.startswith(prefix) else os.path.join(os.path.abspath(f), "") for f in sources.folders]
        if all(folder.startswith(prefix) for folder in folders):
            return iter(sources.within([folder[len(prefix) :] for folder in folders]))
    return _keys_one_by_one(sources, prefix)


def _keys_one_by_one(sources: Iterable[Source], prefix: str) -> Iterator[str]:
    known: dict[str, str] = {}  # what stands before the names of a folder's files in their keys: there are few folders
    for source in sources:
        path = source.path if isinstance(source, ShardMember) else source
        if not isinstance(path, str):
            yield "sha256:" + hashlib.sha256(path).hexdigest()[:32]
            continue
        folder, slash, name = path.rpartition("/")
        if name in ("", ".", ".."):  # no file's name
            yield _relative(path, prefix)
            continue
        folder += slash
        if (key := known.get(folder)) is None:
            key = known[folder] = _relative(f"{folder}x", prefix)[:-1]
        yield key + name


def _relative(path: str, prefix: str) -> str:
    if not path.startswith(prefix):
        path = os.path.abspath(path)
    relative = path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, prefix)
    return relative.replace(os.sep, "/")


def _from_folder(folder: str) -> Samples:
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"dataset must be a folder with one subfolder a class, or of tar shards, got {folder!r}, which is not a folder"
        )
    if is_shard_folder(folder):
        shards = open_shards(folder)
        return Samples(ShardMembers(shards), shards.index.rows.label, shards.folder, shards.index.classes, folder)
    found = open_folder(folder)
    if not found.classes:
        raise FileNotFoundError(
            f"{folder} must hold one subfolder a class, got none; images in one flat folder go in as a list of (path, label), and shards are "
            "uncompressed .tar files"
        )
    hollow = np.flatnonzero(np.bincount(found.labels, minlength=len(found.classes)) == 0)
    if len(hollow):
        beside = (
            f"; {folder} is a folder of tar shards only without subfolders, or with its index"
            if tars_in(folder)
            else ""
        )
        raise FileNotFoundError(
            f"{os.path.join(folder, found.classes[hollow[0]])} must hold images ({', '.join(IMAGE_EXTENSIONS)}), got none{beside}"
        )
    return Samples(found.paths, found.labels, os.path.abspath(folder), found.classes, folder)


def _from_pairs(pairs: Iterable[Any], name: str, root: str | None = None) -> Samples:
    sources: list[Source] = []
    labels = [np.empty(0, np.int64)]
    rest = iter(pairs)
    while chunk := list(itertools.islice(rest, _CHUNK)):
        if not _plain(chunk):
            chunk = [_checked(pair, f"{name}[{i}]") for i, pair in enumerate(chunk, len(sources))]
        sources += map(os.fspath, map(_FIRST, chunk))
        labels.append(np.fromiter(map(_SECOND, chunk), np.int64, len(chunk)))
    if root is None:
        folders = {source[: source.rfind("/") + 1] for source in sources if isinstance(source, str)}
        root = os.path.commonpath({os.path.abspath(folder) for folder in folders}) if folders else None
    return Samples(sources, np.concatenate(labels), root, name=name)


def _plain(pairs: list[Any]) -> bool:
    """Whether all are a path and a label and nothing else, as nearly all are: seen without a look at each."""
    if not set(map(type, pairs)) <= {tuple, list} or set(map(len, pairs)) != {2}:
        return False
    paths, labels = set(map(type, map(_FIRST, pairs))), set(map(type, map(_SECOND, pairs)))
    return all(issubclass(kind, (str, os.PathLike)) for kind in paths) and all(
        issubclass(kind, (int, np.integer)) and kind is not bool for kind in labels
    )


def _checked(pair: Any, name: str) -> tuple[str | bytes | os.PathLike[str], int]:
    if not isinstance(pair, Sequence) or len(pair) != 2 or isinstance(pair, (str, bytes)):
        raise TypeError(f"{name} must be (path or bytes, label), got {_short(pair)}")
    source, label = pair
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = bytes(source)
    elif not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{name} must begin with a path or bytes, got {type(source).__name__}")
    return source, _integer(label, name)


def _from_torchvision(dataset: Any) -> Samples:
    kind = type(dataset).__name__
    if getattr(dataset, "transform", None) is not None:
        raise ValueError(
            f"{kind} must come without its own transform, got {_short(dataset.transform)}: images are cropped and normalised on the "
            "device, so give DataLoader(transform=di.TrainTransform(...)) instead"
        )
    read = getattr(dataset, "loader", None)
    if read is not None and not getattr(read, "__module__", "").startswith("torchvision."):
        raise ValueError(
            f"{kind} must use torchvision's own image loader (files are decoded by DALI here), got {_short(read)}"
        )
    getter = getattr(type(dataset), "__getitem__", None)
    torchvisions = any(base.__module__.startswith("torchvision.") for base in type(dataset).__mro__)
    if torchvisions and not getattr(getter, "__module__", "").startswith("torchvision."):
        raise ValueError(
            f"{kind} must not have a __getitem__ of its own: it would not be called, since files are decoded by DALI here. Give a "
            "list of (path, label), or a target_transform"
        )
    pairs: Iterable[Any] = dataset.samples
    target: Callable[[Any], Any] | None = getattr(dataset, "target_transform", None)
    if target is not None:
        pairs = ((path, target(label)) for path, label in pairs)
    root = getattr(dataset, "root", None)
    samples = _from_pairs(pairs, kind, None if root is None else os.path.abspath(os.fspath(root)))
    samples.classes = list(dataset.classes) if target is None and hasattr(dataset, "classes") else None
    samples.name = f"{kind}({root})" if root is not None else kind
    return samples


def _subset(samples: Samples, indices: Any) -> Samples:
    chosen = np.asarray(indices, np.int64)
    if chosen.size and (chosen.min() < -len(samples) or chosen.max() >= len(samples)):
        wrong = chosen[(chosen < -len(samples)) | (chosen >= len(samples))][0]
        raise ValueError(f"Subset indices must lie in 0..{len(samples) - 1}, got {wrong}")
    whole = samples.sources
    if isinstance(whole, (ShardMembers, Paths)):
        sources: Sequence[Source] = whole.take(chosen)
    else:
        sources = [whole[i] for i in chosen.tolist()]
    return Samples(sources, samples.labels[chosen], samples.root, samples.classes, f"Subset of {samples.name}")


def _concatenated(parts: list[Samples]) -> Samples:
    if not parts:
        raise ValueError("ConcatDataset must hold at least one dataset, got none")
    roots = {part.root for part in parts if part.root is not None}
    classes = parts[0].classes if all(part.classes == parts[0].classes for part in parts) else None
    return Samples(
        [source for part in parts for source in part.sources],
        np.concatenate([part.labels for part in parts]),
        os.path.commonpath(roots) if roots else None,
        classes,
        f"ConcatDataset of {len(parts)} datasets",
    )


def _integer(label: Any, name: str) -> int:
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise TypeError(f"{name} must have an integer label, got {_short(label)}")
    return int(label)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
