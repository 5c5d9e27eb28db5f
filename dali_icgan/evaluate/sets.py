"""Test sets as their authors ship them, and which of the model's classes each folder stands for: by what its name means, never by its
place in a list."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from dali_icgan.data import Samples, as_samples
from dali_icgan.evaluate.edited import edited, without_border

Classes = tuple[tuple[int, ...], ...]

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SEVERITIES = (1, 2, 3, 4, 5)
# The authors' archives (zenodo.org/record/2235448) are unpacked with or without these; their four additional corruptions are for
# choosing settings, not in mCE.
_GROUPS = ("noise", "blur", "weather", "digital", "extra")
_ADDITIONAL = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with the classes that are right for each.

    Attributes:
        name: such as "imagenet-a" or "imagenet-c/fog/3".
        samples: their labels are positions of ``samples.classes``, the folders.
        right: of each label, the model's classes that count as right: one, or several where the folder's meaning is wider.
        among: the classes that the authors' own figure chooses from; None: all of the model's.
        cropped: whether the authors have already resized and cropped to 224 pixels.
        whole: how many classes there are when all of the set is there; 0: unknown.
    """

    name: str
    samples: Samples
    right: Classes
    among: tuple[int, ...] | None = None
    cropped: bool = False
    whole: int = 0

    def limited(self, limit: int | None) -> "ImageSet":
        """So many images of it, evenly spaced over it; None: all."""
        n = len(self.samples)
        if limit is None or limit >= n:
            return self
        return replace(self, samples=_chosen(self.samples, [i * n // limit for i in range(limit)]))


def imagenet_classes() -> dict[str, int]:
    """ImageNet's 1000 WordNet ids, and which output of a classifier each is: timm's list."""
    from timm.data import ImageNetInfo

    return {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


@cache
def subset(letter: str) -> tuple[str, ...]:
    """The 200 WordNet ids of ImageNet-A ("a") or ImageNet-R ("r"): timm's lists, which are those of the authors' eval.py
    (github.com/hendrycks/natural-adv-examples and imagenet-r)."""
    path = resources.files("timm.data") / "_info" / f"imagenet_{letter}_synsets.txt"
    return tuple(path.read_text().split())


def folder_set(name: str, folder: Path, known: Mapping[str, int], among: Sequence[str] | None = None) -> ImageSet:
    """A folder with one subfolder a class.

    Args:
        name: of the set.
        folder: where it is; or what holds it as ``val``.
        known: the model's class of each folder name.
        among: the folder names that the authors' figure chooses from; no others may be there.

    Raises:
        ValueError: a subfolder is none of the known ones.
        FileNotFoundError: the folder is missing or empty.
    """
    folder = folder / "val" if (folder / "val").is_dir() else folder
    samples = as_samples(folder)
    classes = samples.classes or []
    _check_known(name, folder, classes, known if among is None else among)
    chosen = None if among is None else tuple(sorted(known[each] for each in among))
    right = tuple((known[each],) for each in classes)
    return ImageSet(name, samples, right, chosen, whole=len(known if among is None else among))


def _chosen(samples: Samples, rows: list[int]) -> Samples:
    return replace(samples, sources=[samples.sources[i] for i in rows], labels=samples.labels[rows])


def _check_known(name: str, folder: Path, classes: Sequence[str], known: Mapping[str, int] | Sequence[str]) -> None:
    strange = [each for each in classes if each not in known]
    if strange:
        raise ValueError(
            f"{name} must have subfolders that name its {len(known)} classes, got {folder / strange[0]}"
            + (f" and {len(strange) - 1} more" if len(strange) > 1 else "")
        )


def _wordnet(name: str, folder: Path) -> list[ImageSet]:
    return [folder_set(name, folder, imagenet_classes())]


def _v2(name: str, folder: Path) -> list[ImageSet]:
    # Its folders are class indices, written without zeros in front: sorted, "10" comes before "2".
    return [folder_set(name, folder, {str(i): i for i in range(1000)})]


def _a(name: str, folder: Path) -> list[ImageSet]:
    return [folder_set(name, folder, imagenet_classes(), subset("a"))]


def _r(name: str, folder: Path) -> list[ImageSet]:
    return [folder_set(name, folder, imagenet_classes(), subset("r"))]


def _c(name: str, folder: Path) -> list[ImageSet]:
    found: dict[str, Path] = {}
    inside = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    for group in [each for each in inside if each.name in _GROUPS]:
        inside.remove(group)
        inside += [each for each in sorted(group.iterdir()) if each.is_dir()]
    for each in inside:
        if each.name not in (*CORRUPTIONS, *_ADDITIONAL):
            raise ValueError(f"{name} must have subfolders that name its 15 corruptions, got {each}")
        if each.name in found:
            raise ValueError(f"{name} must have {each.name} once, got {found[each.name]} and {each}")
        found[each.name] = each
    sets = []
    for corruption in (each for each in CORRUPTIONS if each in found):
        for severity in sorted(each.name for each in found[corruption].iterdir() if each.is_dir()):
            if severity not in map(str, SEVERITIES):
                raise ValueError(f"{name} must have severities 1 to 5, got {found[corruption] / severity}")
            one = folder_set(f"{name}/{corruption}/{severity}", found[corruption] / severity, imagenet_classes())
            sets.append(replace(one, cropped=True))
    if not sets:
        raise FileNotFoundError(f"{name} must have subfolders such as gaussian_noise/1/n01440764, got none in {folder}")
    return sets


_OBJECTNET = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)


def _objectnet(name: str, folder: Path) -> list[ImageSet]:
    """Its 113 classes that ImageNet has, by the mappings in its download; the other 200 folders are left out.

    They are 125 of ImageNet's classes. To choose the likeliest of these and call each right that its folder is mapped to is the same as
    the choice among 113 groups of them (github.com/mlfoundations/wise-ft, objectnet.py).
    """
    images = folder / "images" if (folder / "images").is_dir() else folder
    known, overlapping = objectnet_classes(folder / "mappings")
    samples = as_samples(images)
    classes = samples.classes or []
    _check_known(name, images, classes, known)
    right = tuple(overlapping.get(each, ()) for each in classes)
    kept = [i for i, label in enumerate(samples.labels) if right[label]]
    if not kept:
        raise FileNotFoundError(f"{name} must have images of classes that ImageNet has, got none in {images}")
    among = tuple(sorted({each for classes in overlapping.values() for each in classes}))
    return [ImageSet(name, edited(_chosen(samples, kept), without_border), right, among, whole=len(overlapping))]


def objectnet_classes(mappings: Path) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """ObjectNet's folders, and of those that ImageNet has, the classes in a classifier's order.

    ``folder_to_objectnet_label.json`` has a name for each folder, ``objectnet_to_imagenet_1k.json`` ImageNet's names for it, with "; "
    between them, ``imagenet_to_label_2012_v2`` those names a line, in the order of the 2012 challenge, and
    ``pytorch_to_imagenet_2012_id.json`` the line, from 0, of each output of a classifier.

    Raises:
        FileNotFoundError: one of the four is missing.
        ValueError: they do not fit together.
    """
    missing = [each for each in _OBJECTNET if not (mappings / each).is_file()]
    if missing:
        raise FileNotFoundError(
            f"objectnet needs the folder mappings of its download, with {', '.join(_OBJECTNET)}: "
            f"{mappings / missing[0]} is missing"
        )
    labels, names, order = (_json_object(mappings / each) for each in _OBJECTNET[:3])
    lines = [line.strip() for line in (mappings / _OBJECTNET[3]).read_text().splitlines()]
    outputs = {int(line): int(output) for output, line in order.items()}
    indices: dict[str, list[int]] = {}
    for line, text in enumerate(lines):
        if line in outputs:
            indices.setdefault(text, []).append(outputs[line])
    folders = {label: folder for folder, label in labels.items()}
    overlapping = {}
    for label, joined in names.items():
        if label not in folders:
            raise ValueError(f"{mappings / _OBJECTNET[1]} must name labels of {_OBJECTNET[0]}, got {label!r}")
        found = []
        for each in re.split(r"\s*;\s*", joined.strip()):
            if len(indices.get(each, ())) != 1:
                raise ValueError(
                    f"{mappings / _OBJECTNET[3]} must have {each!r} on one line, got {len(indices.get(each, ()))}"
                )
            found += indices[each]
        overlapping[folders[label]] = tuple(sorted(found))
    return list(labels), overlapping


def _json_object(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a JSON object, got a {type(found).__name__}")
    return found


@dataclass(frozen=True)
class Kind:
    """One of the robustness sets.

    Attributes:
        read: (name, folder) to its image sets: one, or of ImageNet-C one a corruption and severity.
        folders: what its authors' archives unpack to, and other usual names.
        source: the paper.
    """

    read: Callable[[str, Path], list[ImageSet]]
    folders: tuple[str, ...]
    source: str


ROBUSTNESS = {
    "imagenet-v2": Kind(
        _v2,
        ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency", "imagenet-v2", "imagenetv2"),
        "Recht et al. 2019 (arXiv 1902.10811)",
    ),
    "imagenet-a": Kind(_a, ("imagenet-a",), "Hendrycks et al. 2019 (arXiv 1907.07174)"),
    "imagenet-r": Kind(_r, ("imagenet-r",), "Hendrycks et al. 2020 (arXiv 2006.16241)"),
    "imagenet-sketch": Kind(_wordnet, ("sketch", "imagenet-sketch"), "Wang et al. 2019 (arXiv 1905.13549)"),
    "imagenet-c": Kind(_c, ("imagenet-c", "ImageNet-C"), "Hendrycks and Dietterich 2019 (arXiv 1903.12261)"),
    "objectnet": Kind(_objectnet, ("objectnet-1.0", "objectnet"), "Barbu et al. 2019 (NeurIPS)"),
    "stylized": Kind(
        _wordnet,
        ("stylized-imagenet", "imagenet-stylized", "Stylized-ImageNet"),
        "Geirhos et al. 2018 (arXiv 1811.12231)",
    ),
}


def find_sets(root: Path, given: Mapping[str, Path]) -> tuple[dict[str, list[ImageSet]], list[str]]:
    """The robustness sets that lie in a folder.

    Args:
        root: holds a subfolder a set, named as in :data:`ROBUSTNESS`.
        given: where a set is, in place of looking for it.

    Returns:
        the sets found, by name; and the names of those that were not.

    Raises:
        ValueError: a name given is no set, or a folder in a set is no class of it.
        FileNotFoundError: none is there, or one that was given is not.
    """
    strange = sorted(set(given) - set(ROBUSTNESS))
    if strange:
        raise ValueError(f"set must be one of {', '.join(ROBUSTNESS)}, got {strange[0]!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"data must be a folder, got {root}, which is none")
    found, missing = {}, []
    for name, kind in ROBUSTNESS.items():
        places = [given[name]] if name in given else [root / each for each in kind.folders if (root / each).is_dir()]
        if not places:
            missing.append(name)
            continue
        if not places[0].is_dir():
            raise FileNotFoundError(f"{name} must be a folder, got {places[0]}, which is none")
        found[name] = kind.read(name, places[0])
    if not found:
        expected = ", ".join(kind.folders[0] for kind in ROBUSTNESS.values())
        raise FileNotFoundError(f"data must hold one or more of the folders {expected}, got none of them in {root}")
    return found, missing
