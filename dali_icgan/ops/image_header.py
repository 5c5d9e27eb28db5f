"""The size of an image file, without decoding it."""

from typing import Any, NamedTuple

from dali_icgan._native import native


class ImageHeader(NamedTuple):
    """What the header says.

    Attributes:
        format: "jpeg", "png", "bmp", "webp" or "gif".
        width, height: pixels as stored, before any rotation; positive.
        orientation: EXIF's, 1 to 8; 1 where there is none or it is damaged.
        suspect: a JPEG, PNG or WebP whose end is missing or has something behind it. Such a file may be fine, but it must be decoded
            whole, or it would be good or bad depending on the crop.
        depth: bits a channel: 1 to 16; 5 for a BMP of 16 bits a pixel.
        cmyk: a JPEG of four components, CMYK or YCCK.
        irregular: a JPEG whose scans are not as encoders write them: one is missing or lacks bits, or there is something between or inside
            them that does not belong there. Of such a file some decoders hand out the part before the damage, others nothing.
    """

    format: str
    width: int
    height: int
    orientation: int
    suspect: bool
    depth: int
    cmyk: bool
    irregular: bool


def image_header(data: Any) -> ImageHeader:
    """Read format, size and orientation of an encoded image.

    Args:
        data: the whole file: bytes, a memoryview or a uint8 array ``[n]``, contiguous. A beginning is enough for all but
            ``suspect`` and ``irregular``.

    Returns:
        See :class:`ImageHeader`.

    Raises:
        ValueError: the file has no usable header; the message is the reason.
        TypeError: ``data`` is no buffer.

    Numerics: a few microseconds, at most one pass over the file; never reads outside it.
    Source: ITU-T T.81 annex B, PNG third edition, RFC 9649 (WebP), GIF89a, EXIF 2.3 section 4.6; BMP headers as in wingdi.h.
    """
    return ImageHeader(*native().image_header(data))
