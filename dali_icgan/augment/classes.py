"""Classes: the generator's, the dataset's and the bank's."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.data import Samples

ClassMap = Mapping[int, int] | Sequence[int] | npt.NDArray[np.int64]


def checked_class_map(given: ClassMap) -> npt.NDArray[np.int64]:
    """The generator's class of each of the dataset's, int64 ``[classes]``."""
    if isinstance(given, Mapping):
        if sorted(given) != list(range(len(given))):
            raise ValueError(f"class_map must map every class 0..{len(given) - 1}, got {sorted(given)[:5]}...")
        given = [given[i] for i in range(len(given))]
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"class_map must be a sequence or mapping of integers, got {array.dtype} {list(array.shape)}")
    return array.astype(np.int64)


def check_same_class(bank: FeatureBank, samples: Samples, rows: npt.NDArray[np.int64]) -> None:
    """``same_class``: every image has another of its class, and images of one class in the bank have one label in the dataset."""
    labels, names = bank.labels[rows], samples.classes
    order = np.argsort(labels, kind="stable")
    of, own = labels[order], samples.labels[order]
    clash = np.flatnonzero((of[1:] == of[:-1]) & (own[1:] != own[:-1]))
    if len(clash):
        a, b = (int(i) for i in order[clash[0] : clash[0] + 2])
        raise ValueError(
            f"same_class=True takes classes from the bank, whose class {labels[a]} must have one label in {samples.name}, got "
            f"{samples.labels[a]} for {samples.path(a)} and {samples.labels[b]} for {samples.path(b)}"
        )
    alone = np.flatnonzero(bank.alone()[rows])
    if len(alone):
        first = int(alone[0])
        label = int(samples.labels[first])
        raise ValueError(alone_message(samples.path(first), names[label] if names is not None else f"class {label}"))


def alone_message(path: str, name: str) -> str:
    """The error for an image that has no other of its class."""
    return f"same_class=True needs another image of every class in the bank, got none of {name} beside {path}"


def check_class_map(class_map: npt.NDArray[np.int64], n_classes: int) -> None:
    """Whether the generator has these classes."""
    if len(class_map) and (class_map.min() < 0 or class_map.max() >= n_classes):
        raise ValueError(f"class_map must give classes in 0..{n_classes - 1}, got {class_map.min()}..{class_map.max()}")


def found_class_map(classes: list[str] | None, count: int, n_classes: int) -> npt.NDArray[np.int64]:
    """The map where nobody gave one: by WordNet ids, or one to one."""
    if n_classes == 1000 and classes is not None and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        known = _wordnet_ids()
        strange = [name for name in classes if name not in known]
        if strange:
            raise ValueError(f"class_map must be given: {strange[0]} is not one of ImageNet's 1000 classes")
        return np.array([known[name] for name in classes], np.int64)
    if count == n_classes:
        return np.arange(n_classes)
    raise ValueError(f"class_map must be given: the generator knows {n_classes} classes and the dataset has {count}")


@cache
def _wordnet_ids() -> dict[str, int]:
    lines = (Path(__file__).parent / "imagenet_wordnet_ids.txt").read_text().split()
    return {name: i for i, name in enumerate(lines)}
