"""Encoded files with what their headers say, read by many threads; one bad file never touches its neighbours."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_icgan.data.dataset import Samples, Source, read_source
from dali_icgan.data.workers import Background, Workers
from dali_icgan.errors import DecodeError
from dali_icgan.ops.image_header import image_header

# One more than what Pillow calls a decompression bomb and refuses.
MAX_PIXELS = 178_956_970
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Encoded:
    """One encoded image.

    Attributes:
        data: the file, uint8 ``[bytes]``.
        height, width: in pixels, as decoded (after rotation where ``exif`` was asked for).
        whole: decode all of it, whatever the crop: a JPEG whose end is missing must be good or bad whatever the crop.
        pillow: Pillow decodes it, because DALI does not read this kind or gives other pixels.
    """

    data: npt.NDArray[np.uint8]
    height: int
    width: int
    whole: bool = False
    pillow: bool = False


def encoded(data: bytes, *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> Encoded:
    """See an encoded image's header.

    Raises:
        ValueError: it has none, or more than ``max_pixels`` pixels; the message is the reason.
    """
    try:
        header = image_header(data)
    except ValueError as reason:
        if not data:
            raise
        height, width = _size_by_pillow(data, exif, reason)
        whole = pillow = True
    else:
        height, width = header.height, header.width
        if exif and header.orientation >= 5:
            height, width = width, height
        # DALI inverts CMYK that has no Adobe segment, and rounds 16 and 5 bits a channel in a way of its own.
        # An irregular JPEG DALI may give in part.
        pillow = header.format == "gif" or header.cmyk or header.depth in (5, 16) or header.irregular
        whole = header.suspect
    if height * width > max_pixels:
        raise ValueError(f"{width} x {height} pixels, more than max_pixels = {max_pixels}")
    return Encoded(np.frombuffer(data, np.uint8), height, width, whole, pillow)


def _size_by_pillow(data: bytes, exif: bool, reason: ValueError) -> tuple[int, int]:
    # ImageFolder also lists PPM, PGM and TIFF.
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            # Pillow turns a TIFF by itself.
            turned = exif and image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) >= 5
    except Exception:
        raise reason from None
    return (width, height) if turned else (height, width)


class Reader(Background):
    """Reads samples by index, several at once.

    Args:
        samples: where from.
        threads: how many files are read at once.
        exif, max_pixels: as the DataLoader's.
    """

    def __init__(self, samples: Samples, threads: int, *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> None:
        self.samples = samples
        self._exif = exif
        self._max_pixels = max_pixels
        self._threads = threads
        self._workers: Workers | None = None
        self._ending: list[Workers] = []

    def read(self, items: Sequence[int | Source]) -> list[Encoded | DecodeError]:
        """One a sample, by index or (for an image outside the dataset) by its source; what could not be read comes back as the error."""
        size = -(-len(items) // self._threads)
        # One task a thread: handing over each file alone costs more than reading it.
        pieces = [items[begin : begin + size] for begin in range(0, len(items), size or 1)]
        if len(pieces) <= 1:
            return self._read_all(items)
        if self._workers is None:
            self._workers = Workers(self._threads, "dali_icgan-read")
        return [item for part in self._workers.map(self._read_all, pieces) for item in part]

    def _read_all(self, items: Sequence[int | Source]) -> list[Encoded | DecodeError]:
        return [self._read_one(item) for item in items]

    def _read_one(self, item: int | Source) -> Encoded | DecodeError:
        index, path = (item, self.samples.path(item)) if isinstance(item, int) else (-1, str(item))
        try:
            data = self.samples.read(index) if isinstance(item, int) else read_source(item)
            return encoded(data, exif=self._exif, max_pixels=self._max_pixels)
        except OSError as error:
            reason = error.strerror or str(error)
        except ValueError as error:
            reason = str(error)
        return DecodeError(path, index, reason)

    def end(self) -> None:
        """A read under way raises RuntimeError; the next one begins new threads."""
        workers, self._workers = self._workers, None
        if workers is not None:
            self._ending.append(workers)
            workers.end()

    def join(self, deadline: float) -> None:
        while self._ending:
            self._ending.pop().join(deadline)
