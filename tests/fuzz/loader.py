"""Damaged JPEG files among good ones, through the whole DataLoader."""

import io
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import dali_icgan as di
from tests.fuzz.mutate import Random, change_bytes
from tests.photos import jpeg, patch

Image.init()  # Pillow imports its plugins when a file is none of the common kinds
MUTANTS = 20_000
NAMED = "in memory"
_PLACE, _COUNT = 2, 5  # of the mutant, of all files
_SIZE = 24
_MOST_PIXELS = 1_000_000
_SETTINGS: dict[str, Any] = {
    "batch_size": _COUNT,
    "seed": 5,
    "device": "cpu",
    "num_workers": 1,
    "max_pixels": _MOST_PIXELS,
}
_FILES = Path(__file__).parents[1] / "files"


@cache
def _seeds() -> list[bytes]:
    photo = patch("coffee", 3)[:72, :90]
    gray = np.ascontiguousarray(photo[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    cmyk = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(cmyk, "JPEG", quality=80)
    return [
        jpeg(photo),
        jpeg(photo, subsampling=0, quality=70),
        jpeg(photo, progressive=True),
        jpeg(photo, restart_marker_blocks=3, optimize=True),
        jpeg(gray),
        jpeg(photo[:17, :9], exif=exif.tobytes(), comment=b"x" * 30),
        cmyk.getvalue(),
        *((_FILES / name).read_bytes() for name in ("4-1-1.jpg", "arithmetic.jpg", "rgb.jpg")),
    ]


@cache
def _good() -> list[bytes]:
    return [jpeg(patch("chelsea", number)[: 50 + number, :60]) for number in range(_COUNT)]


def seeds() -> list[bytes]:
    return _seeds()


def mutant(random: Random) -> bytes:
    data, how = random.choice(_seeds()), random.randrange(10)
    if how < 4:
        return change_bytes(
            random,
            data,
            _seeds(),
            (b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc4", b"\xff\x00", b"\xff\xff", b"Adobe\0"),
        )
    pieces = _segments(data)
    if how < 7:
        at = random.randrange(len(pieces))
        pieces[at] = change_bytes(random, pieces[at], _segments(random.choice(_seeds())))
    elif how == 7:
        one, other = random.randrange(len(pieces)), random.randrange(len(pieces))
        pieces[one], pieces[other] = pieces[other], pieces[one]
    elif how == 8:
        others = _segments(random.choice(_seeds()))
        at = random.randrange(len(pieces))
        pieces[at : at + random.randrange(3)] = random.sample(others, random.randrange(1, 4))
    else:
        other = random.choice(_seeds())
        return data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]
    return b"".join(pieces)


def _segments(data: bytes) -> list[bytes]:
    """The start marker, each segment, and from the first scan on the entropy-coded rest."""
    pieces, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        pieces.append(data[at:end])
        at = end
    return [*pieces, data[at : at + 14], data[at + 14 :]]


def _dataset(data: bytes) -> list[tuple[bytes, int]]:
    return [(data if i == _PLACE else good, 10 + i) for i, good in enumerate(_good())]


@cache
def _reference() -> di.DataLoader:
    """Of good files alone."""
    return di.DataLoader(_dataset(_good()[_PLACE]), transform=di.TrainTransform(_SIZE), **_SETTINGS)


@cache
def _row(index: int, repeat: int) -> torch.Tensor:
    return _reference().replay(0, index, repeat)[0]


def check(data: bytes, folder: Path) -> str:
    with di.DataLoader(_dataset(data), transform=di.TrainTransform(_SIZE), return_info=True, **_SETTINGS) as loader:
        batches = list(loader)
        errors = loader.errors
    assert len(batches) == 1, f"{len(batches)} batches"
    images, labels, info = batches[0]
    assert len(images) == _COUNT
    assert images.isfinite().all()
    assert labels.tolist() == [10 + index for index in info["index"]], "a label is not of its row's image"
    for place in range(_COUNT):
        index, repeat = int(info["index"][place]), int(info["repeat"][place])
        if place != _PLACE:
            assert (index, repeat) == (place, 0), "a good file was replaced"
        if index != _PLACE:
            assert torch.equal(images[place], _row(index, repeat)), "a good row is not what it is among good files"
    if info["index"][_PLACE] != _PLACE:
        assert [(error.index, bool(error.reason)) for error in errors] == [(_PLACE, True)], f"errors are {errors}"
        assert (info["index"][_PLACE], info["repeat"][_PLACE]) == (_PLACE + 1, 1), "the substitute is another"
        return "replaced"
    assert not errors, f"errors are {errors}"
    expected = _by_pillow(data)
    assert expected is not None, "it was decoded, and Pillow refuses it"
    assert torch.equal(images[_PLACE], expected), "its pixels are not Pillow's"
    return "decoded"


def _by_pillow(data: bytes) -> torch.Tensor | None:
    """The row that Pillow's pixels give."""
    png = io.BytesIO()
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(png, "PNG", compress_level=0)
    except Exception:
        return None
    with di.DataLoader(_dataset(png.getvalue()), transform=di.TrainTransform(_SIZE), **_SETTINGS) as loader:
        return loader.replay(0, _PLACE)[0]
