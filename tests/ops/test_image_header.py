import ctypes
import io
import itertools
import mmap
import struct

import numpy as np
import pytest
from PIL import Image

from dali_icgan._native import emulated_cuda
from dali_icgan.ops.image_header import image_header
from tests.emulation import emulated_module
from tests.fuzz.image_header import fuzz
from tests.photos import jpeg, patch

SIZES = [(1, 1), (1, 7), (13, 1), (31, 17), (300, 200)]


def picture(width, height, mode="RGB"):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation, big=False, kind=3):
    """A TIFF block with two entries, the second of them the orientation."""
    order = ">" if big else "<"
    value = struct.pack(order + {3: "HH", 4: "I", 9: "i"}[kind], *([orientation, 0] if kind == 3 else [orientation]))
    entries = struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0" + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return (b"MM\0*" if big else b"II*\0") + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg, *segments):
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


JPEG = encode(picture(31, 17), "JPEG")
PNG = encode(picture(31, 17), "PNG")
WEBP = encode(picture(31, 17), "WEBP")


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 1}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {}),
        ("GIF", "P", {}),
    ],
)
def test_gives_format_and_size(kind, mode, options, width, height):
    data = encode(picture(width, height, mode), kind, **options)
    assert image_header(data)[:5] == (kind.lower(), width, height, 1, False)


def test_takes_every_kind_of_bytes():
    want = image_header(JPEG)
    for data in (bytearray(JPEG), memoryview(JPEG), np.frombuffer(JPEG, np.uint8), memoryview(b"xx" + JPEG)[2:]):
        assert image_header(data) == want


def test_reads_other_bitmaps():
    core = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 40000, 7, 1, 24)
    assert image_header(core)[:3] == ("bmp", 40000, 7)
    top_down = b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 9, -5, 1, 24)
    assert image_header(top_down)[:3] == ("bmp", 9, 5)
    assert image_header(b"BM" + bytes(12) + struct.pack("<IiiHH", 124, 9, -(2**31), 1, 24))[:3] == ("bmp", 9, 2**31)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [3, 4])
def test_reads_the_orientation(orientation, big, kind):
    block = exif(orientation, big, kind)
    jpeg = with_segments(
        JPEG,
        segment(0xE0, b"JFIF\0" + bytes(9)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        segment(0xE1, b"Exif\0\0" + block),
    )
    assert image_header(jpeg)[:5] == ("jpeg", 31, 17, orientation, False)
    png = PNG[:33] + struct.pack(">I", len(block)) + b"eXIf" + block + bytes(4) + PNG[33:]
    assert image_header(png)[:5] == ("png", 31, 17, orientation, False)


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})])
def test_reads_the_orientation_that_pillow_writes(kind, options, orientation):
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "maker"
    data = encode(picture(31, 17), kind, exif=tags, **options)
    assert image_header(data)[:5] == (kind.lower(), 31, 17, orientation, False)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        exif(0),
        exif(9),
        exif(2**16 + 6, kind=4),
        exif(6, kind=9),
        exif(6)[:20],
        b"XX*\0" + exif(6)[4:],
        exif(6)[:4] + b"\xff\xff\xff\xff\xff\xff",
    ],
)
def test_damaged_metadata_does_not_turn_an_image(block):
    assert image_header(with_segments(JPEG, segment(0xE1, b"Exif\0\0" + block)))[:5] == ("jpeg", 31, 17, 1, False)


def test_orientation_after_the_frame_counts():
    scan = JPEG.index(b"\xff\xda")
    assert image_header(JPEG[:scan] + segment(0xE1, b"Exif\0\0" + exif(6)) + JPEG[scan:])[:5] == (
        "jpeg",
        31,
        17,
        6,
        False,
    )


@pytest.mark.parametrize("marker", [m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)])
def test_every_kind_of_frame_gives_the_size_and_tables_before_it_do_not(marker):
    tables = [segment(table, b"\x08\0\1\0\1\3") for table in (0xC4, 0xC8, 0xCC, 0xDB, 0xDD)]
    data = b"\xff\xd8" + b"".join(tables) + segment(marker, b"\x08\0\7\0\5\3")
    assert image_header(data)[:5] == ("jpeg", 5, 7, 1, True)


def test_fill_bytes_and_stray_bytes_between_segments_are_passed_over():
    assert image_header(JPEG[:2] + b"\xff\xff\xff" + JPEG[2:])[:5] == ("jpeg", 31, 17, 1, False)
    assert image_header(JPEG[:2] + JPEG[2:20] + b"\0\0\xff\0\xff\x01" + JPEG[20:])[:3] == ("jpeg", 31, 17)


@pytest.mark.parametrize(
    ("data", "suspect"),
    [
        (JPEG, False),
        (JPEG + bytes(1), False),
        (JPEG + bytes(60_000), False),
        (JPEG + bytes(70_000), True),
        (JPEG + b"\n", True),
        (JPEG + JPEG, False),
        (JPEG[:-1], True),
        (JPEG[:-2], True),
        (JPEG[: len(JPEG) * 3 // 4], True),
        (JPEG[:-100] + bytes(100), True),
        # The end of a thumbnail is not the end of the image.
        (JPEG[: JPEG.index(b"\xff\xda")] + segment(0xE1, b"Exif\0\0" + exif(1) + JPEG), True),
        (JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9", True),
        (PNG, False),
        (PNG[:-1], True),
        (PNG[:-12], True),
        (PNG + b"x", True),
        (WEBP, False),
        (WEBP[:-2], True),
        (WEBP + bytes(20), True),
    ],
)
def test_a_file_whose_end_is_not_in_order_is_suspect(data, suspect):
    assert image_header(data)[:5] == (image_header(data).format, 31, 17, 1, suspect)


PROGRESSIVE = jpeg(patch("coffee", 1)[:17, :31], progressive=True)
SCAN = JPEG.index(b"\xff\xda")
TABLE = JPEG[JPEG.index(b"\xff\xc4") :][: 2 + 31]


def scans(data):
    """Where the scans of a JPEG begin."""
    return [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]


def without_scan(data, number):
    begins = [*scans(data), len(data) - 2]
    return data[: begins[number]] + data[begins[number + 1] :]


@pytest.mark.parametrize(
    ("data", "irregular"),
    [
        (JPEG, False),
        (PROGRESSIVE, False),
        (JPEG[:2] + b"\xff\x01" + JPEG[2:], True),  # of no use, and refused by Pillow
        (JPEG + bytes(70_000), False),
        (JPEG[:SCAN] + segment(0xFE, b"said") + JPEG[SCAN:], False),
        (PROGRESSIVE[: scans(PROGRESSIVE)[3]] + segment(0xFE, b"said") + PROGRESSIVE[scans(PROGRESSIVE)[3] :], False),
        # Markers that damage made in the middle of a scan: some decoders give the part before them.
        *(
            (JPEG[:-60] + b"\xff" + bytes([marker]) + JPEG[-60:], True)
            for marker in (0x01, 0x47, 0xC0, 0xC4, 0xD8, 0xDA, 0xDB, 0xF0)
        ),
        *((JPEG[:-60] + bytes([0xFF, marker]) + JPEG[-60:], False) for marker in (0x00, 0xD0, 0xD7)),
        (JPEG[:-60] + b"\xff\xd9" + JPEG[-60:], False),  # an end, and something behind it
        (JPEG[:-60] + TABLE + JPEG[-60:], True),
        (JPEG[:-60], True),
        (JPEG[:-2] + JPEG[SCAN:], True),
        (without_scan(PROGRESSIVE, 1), True),  # blocks are smoothed where bits are missing
        (without_scan(PROGRESSIVE, -2), True),
        (JPEG[: JPEG.index(b"\xff\xdb")] + JPEG[JPEG.index(b"\xff\xdb") + 69 :], True),
        (JPEG.replace(b"\xff\xc4\0\x1f\0\0\1\5", b"\xff\xc4\0\x1f\0\2\1\5"), True),  # three codes of one bit
        (JPEG.replace(b"\xff\xc4\0\x1f\0", b"\xff\xc4\0\x1f\4"), True),
    ],
)
def test_scans_that_are_not_as_encoders_write_them_are_irregular(data, irregular):
    assert image_header(data).irregular == irregular


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "^empty file$"),
        (b"\0", "^not a JPEG, PNG, BMP, WebP or GIF$"),
        (b"\xff\xd8", "^not a JPEG, PNG, BMP, WebP or GIF$"),
        (b"<!DOCTYPE html>", "^not a JPEG, PNG, BMP, WebP or GIF$"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "^not a JPEG, PNG, BMP, WebP or GIF$"),
        (JPEG[:20], "^JPEG header ends before its size$"),
        (b"\xff\xd8\xff", "^JPEG header ends before its size$"),
        (b"\xff\xd8\xff\xd9", "^JPEG without a frame before its first scan$"),
        (JPEG[:2] + JPEG[JPEG.index(b"\xff\xda") :], "^JPEG without a frame before its first scan$"),
        (b"\xff\xd8\xff\xe0\0\1" + JPEG, "^JPEG segment with a length below 2$"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\0\0\0\x05\x03") + b"\xff\xda\0\x02", "^JPEG with a width or height of 0$"),
        (PNG[:20], "^PNG header ends before its size$"),
        (PNG[:8] + PNG[33:], "^PNG does not begin with its IHDR chunk$"),
        (PNG[:16] + bytes(4) + PNG[20:], "^PNG with a width or height of 0$"),
        (PNG[:16] + b"\x80\0\0\0" + PNG[20:], r"^PNG with a width or height above 2\^31 - 1$"),
        (b"BM", "^BMP header ends before its size$"),
        (b"BM" + bytes(30), "^BMP with an unknown header$"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, -9, 5), "^BMP with a negative width$"),
        (b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 9, 0, 1, 24), "^BMP with a width or height of 0$"),
        (WEBP[:24], "^WebP header ends before its size$"),
        (WEBP[:12] + b"JUNK" + WEBP[16:], "^WebP with an unknown first chunk$"),
        (WEBP[:23] + b"\0\0\0" + WEBP[26:], "^WebP without a key frame$"),
        (WEBP[:12] + b"VP8L" + WEBP[16:], "^WebP without its lossless signature$"),
        (b"GIF89a\5", "^GIF header ends before its size$"),
        (b"GIF87a\5\0\0\0", "^GIF with a width or height of 0$"),
    ],
)
def test_the_reason_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        image_header(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("text", TypeError, "data must be bytes, a memoryview or a uint8 array, got str"),
        (None, TypeError, "data must be bytes, a memoryview or a uint8 array, got NoneType"),
        (np.zeros(4, np.int32), ValueError, "data must hold bytes, got elements of 4 bytes"),
        (np.zeros((4, 4), np.uint8), ValueError, "data must have 1 dimension, got 2"),
        (np.zeros(8, np.uint8)[::2], ValueError, "data must be contiguous, got a stride of 2"),
    ],
)
def test_wrong_arguments_are_named(data, error, message):
    with pytest.raises(error, match=message):
        image_header(data)


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP, encode(picture(31, 17), "BMP"), encode(picture(31, 17, "P"), "GIF")])
def test_every_beginning_gives_the_size_or_an_error(data):
    seen = False
    for length in range(len(data)):
        try:
            header = image_header(data[:length])
        except ValueError:
            assert not seen  # once the size is there, more bytes do not take it away
        else:
            seen = True
            assert header[1:3] == (31, 17)
            assert header.suspect or header.format in ("bmp", "gif")
    assert seen


@pytest.fixture
def between_forbidden_pages():
    """Memory with a page on either side that kills the process when it is touched."""
    pages, page = 6, mmap.PAGESIZE
    area = mmap.mmap(-1, pages * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for guard in (0, pages - 1):
        assert mprotect(address + guard * page, page, 0) == 0
    with emulated_cuda(emulated_module()):  # the build that `make sanitize` checks
        yield np.frombuffer(area, np.uint8)[page:-page]
    for guard in (0, pages - 1):
        mprotect(address + guard * page, page, 3)


def test_mutants_never_make_it_read_outside_the_file(between_forbidden_pages):
    room = between_forbidden_pages
    tags = exif(6)
    seeds = [
        with_segments(encode(picture(8, 8), "JPEG"), segment(0xE1, b"Exif\0\0" + tags)),
        encode(picture(8, 8), "JPEG", progressive=True),
        PNG[:33] + struct.pack(">I", len(tags)) + b"eXIf" + tags + bytes(4) + PNG[33:80],
        encode(picture(8, 8), "WEBP", exif=b"Exif\0\0" + tags),
        encode(picture(8, 8), "WEBP", lossless=True),
        encode(picture(3, 3), "BMP"),
        encode(picture(3, 3, "P"), "GIF"),
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + tags) + segment(0xC2, b"\x08\0\7\0\5\x03"),
    ]
    seeds = [np.frombuffer(seed, np.uint8) for seed in seeds]
    assert max(map(len, seeds)) <= len(room)
    rng = np.random.default_rng(0)
    telling = np.array([0, 1, 2, 6, 0x7F, 0x80, 0xC0, 0xD8, 0xD9, 0xDA, 0xE1, 0xFE, 0xFF], np.uint8)
    headers = errors = 0
    for seed in itertools.chain.from_iterable(itertools.repeat(seeds, 3000)):
        whole = seed.copy()
        changes = rng.integers(1, 5)
        places = (len(seed) * rng.random(changes) ** 2).astype(int)  # mostly near the beginning
        whole[places] = telling[rng.integers(0, len(telling), changes)]
        for length in (len(seed), *rng.integers(0, len(seed), 3)):
            for data in (room[:length], room[len(room) - length :]):
                data[:] = whole[:length]
                try:
                    header = image_header(data)
                except ValueError:
                    errors += 1
                else:
                    headers += 1
                    assert header.width > 0
                    assert header.height > 0
                    assert 1 <= header.orientation <= 8
    assert headers > 10_000
    assert errors > 10_000


def test_mutants_under_sanitizers(tmp_path):
    """The short form of `make fuzz`."""
    seen = fuzz(30_000, 7, tmp_path)
    assert sum(headers + refusals for headers, refusals in seen.values()) == 30_000
    for name in ("jpeg", "png", "bmp", "webp", "gif"):
        assert seen[name][0] > 500
    for name in ("JPEG", "PNG", "BMP", "WebP", "GIF"):
        assert seen[name][1] > 0
