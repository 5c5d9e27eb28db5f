"""The samples in one tar, by WebDataset's convention: members of one key are one sample."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_icgan.data.files import IMAGE_EXTENSIONS
from dali_icgan.data.tar import TarMember, TarReader

# What folders list, and what WebDataset's own writer may call an image.
IMAGES = frozenset(extension[1:] for extension in IMAGE_EXTENSIONS) | {"gif", "img", "image"}
LABEL, PATH = "cls", "relpath"  # PATH is ours: a file whose path cannot be a key has it beside it

_META = re.compile(r"__[^/]*__($|/)")  # WebDataset passes these over
_LONGEST_TEXT = 1 << 20


@dataclass(eq=False)
class Rows:
    """Samples in tars, as arrays.

    Attributes:
        offset, size: int64 ``[n]``, of the image in its tar, in bytes.
        header: uint32 ``[n]``, CRC-32 of the 512 bytes before ``offset``.
        label: int64 ``[n]``.
        names: the samples' relative paths one behind the other, UTF-8.
        end: int64 ``[n]``, where each path ends in ``names``.
    """

    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    header: npt.NDArray[np.uint32]
    label: npt.NDArray[np.int64]
    names: bytes
    end: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offset)

    def name(self, row: int) -> bytes:
        """A sample's relative path, UTF-8."""
        return self.names[self.end[row - 1] if row else 0 : self.end[row]]

    def part(self, begin: int, stop: int) -> "Rows":
        """Some rows that follow one another."""
        first = int(self.end[begin - 1]) if begin else 0
        last = int(self.end[stop - 1]) if stop else 0
        return Rows(
            self.offset[begin:stop],
            self.size[begin:stop],
            self.header[begin:stop],
            self.label[begin:stop],
            self.names[first:last],
            self.end[begin:stop] - first,
        )

    @staticmethod
    def joined(parts: Sequence["Rows"]) -> "Rows":
        """The rows of several parts, in their order."""
        before = np.cumsum([0, *(len(part.names) for part in parts)])
        return Rows(
            np.concatenate([part.offset for part in parts]),
            np.concatenate([part.size for part in parts]),
            np.concatenate([part.header for part in parts]),
            np.concatenate([part.label for part in parts]),
            b"".join(part.names for part in parts),
            np.concatenate([part.end + shift for part, shift in zip(parts, before, strict=False)]),
        )


@dataclass(slots=True)
class _Place:
    """Where a member lies, without its header."""

    name: str
    offset: int
    size: int
    header: int


@dataclass(slots=True)
class _Group:
    images: dict[str, _Place] = field(default_factory=dict)  # by what follows the key
    label: int | None = None
    json: _Place | None = None
    path: str | None = None


def split_name(name: str) -> tuple[str, str] | None:
    """A member's key, up to the first dot of the last component, and what follows; None: it belongs to no sample."""
    begin = name.rfind("/") + 1
    dot = name.find(".", begin)
    return None if dot <= begin or _META.match(name) else (name[:dot], name[dot + 1 :].lower())


def read_samples(tar: TarReader) -> Rows:
    """The samples of a tar, in the order of their first members, which need not follow one another.

    Raises:
        ValueError: the tar is damaged; a sample has no label or several images, or a label that is no integer; a member is there twice.
            The message names tar and member.
    """
    groups: dict[str, _Group] = {}
    for member in tar.members():
        split = split_name(member.name)
        if split is not None:
            _take(tar, groups.setdefault(split[0], _Group()), member, split[1])
    rows = []
    for key, group in groups.items():
        found = _sample(tar, key, group)
        if found is not None:
            rows.append(found)
    images = [image for image, _, _ in rows]
    names = [path.removeprefix("./").encode("utf-8", "surrogateescape") for _, _, path in rows]
    return Rows(
        np.array([image.offset for image in images], np.int64),
        np.array([image.size for image in images], np.int64),
        np.array([image.header for image in images], np.uint32),
        np.array([label for _, label, _ in rows], np.int64),
        b"".join(names),
        np.cumsum([len(name) for name in names], dtype=np.int64),
    )


def _take(tar: TarReader, group: _Group, member: TarMember, suffix: str) -> None:
    place = _Place(member.name, member.offset, member.size, zlib.crc32(member.header))
    twice = False
    if suffix.rpartition(".")[2] in IMAGES:
        twice = suffix in group.images
        group.images[suffix] = place
    elif suffix == LABEL:
        twice = group.label is not None
        group.label = _integer(tar, member.name, _text(tar, place))
    elif suffix == "json":
        twice = group.json is not None
        group.json = place
    elif suffix == PATH:
        twice = group.path is not None
        group.path = _text(tar, place).decode("utf-8", "surrogateescape")
    if twice:
        raise ValueError(f"{tar.path} must hold each member once, got {member.name} twice")


def _sample(tar: TarReader, key: str, group: _Group) -> tuple[_Place, int, str] | None:
    """Image, label and path; None where the members are none of ours."""
    label = group.label
    if label is None and group.json is not None:
        label = _label_of(tar, group.json)
    # "left.png" beside "png" is something else than the image.
    images = [image for suffix, image in group.images.items() if suffix in IMAGES] or list(group.images.values())
    if len(images) > 1:
        names = ", ".join(image.name for image in images)
        raise ValueError(f"{tar.path} must hold one image a sample, got {names}, which have one key, {key}")
    if not images:
        if label is None:
            return None
        raise ValueError(f"{tar.path} must hold an image beside every label, got none for {key}")
    if label is None:
        raise ValueError(
            f'{tar.path} must hold a label beside every image: {key}.cls, an integer as text, or {key}.json with an integer "label"; got '
            f"none for {images[0].name}"
        )
    return images[0], label, group.path or images[0].name


def _label_of(tar: TarReader, place: _Place) -> int | None:
    try:
        content: Any = json.loads(_text(tar, place))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{tar.path}: {place.name} must be JSON, got something else: {error}") from error
    label = content.get("label") if isinstance(content, dict) else None
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(f'{tar.path}: {place.name} must have an integer "label", got {label!r:.80}')
    return _in_range(tar, place.name, label)


def _integer(tar: TarReader, name: str, text: bytes) -> int:
    if not re.fullmatch(rb"\s*[+-]?[0-9]{1,19}\s*", text):
        raise ValueError(f"{tar.path}: {name} must be an integer as text, got {text[:40]!r}")
    return _in_range(tar, name, int(text))


def _in_range(tar: TarReader, name: str, label: int) -> int:
    if not -(2**63) <= label < 2**63:
        raise ValueError(f"{tar.path}: {name} must be a label of 64 bits, got {label}")
    return label


def _text(tar: TarReader, place: _Place) -> bytes:
    if place.size > _LONGEST_TEXT:
        raise ValueError(f"{tar.path}: {place.name} must have at most {_LONGEST_TEXT} bytes, got {place.size}")
    return tar.read(place.offset, place.size)
