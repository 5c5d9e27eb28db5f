"""Every kind of file that is known to occur in real datasets, and what must become of it.

``python -m tests.file_kinds`` decodes each of them and writes the table in docs/loader.md; tests/data/test_file_kinds.py asserts it.
"""

import io
import itertools
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.data.read import Reader
from dali_icgan.errors import DecodeError
from tests.photos import jpeg, patch

FILES = Path(__file__).parent / "files"
PAGE = Path(__file__).parents[1] / "docs" / "loader.md"
MARK = "<!-- files -->", "<!-- /files -->"

PIXELS = patch("coffee", 1)[:60, :75]
H, W = PIXELS.shape[:2]
RGB = Image.fromarray(PIXELS)
GRAY = RGB.convert("L")
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
CMYK = RGB.convert("CMYK")
ALPHA = RGB.copy()
ALPHA.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W), np.uint8)))
TURNED = Image.fromarray(np.ascontiguousarray(PIXELS[::-1]))
DEEP = np.random.default_rng(1).integers(0, 65536, (H, W, 4))


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        group: the row of the table.
        name: what is special about it.
        data: the file.
        pixels: uint8 ``[h, w, 3]`` that it must give on the CPU; None: it is bad.
        error: for a bad one, what the reason must match.
        pillow: whether Pillow decodes it rather than DALI.
        lossless: whether every decoder must give the same pixels.
    """

    group: str
    name: str
    data: bytes
    pixels: npt.NDArray[np.uint8] | None
    error: str = ""
    pillow: bool = False
    lossless: bool = False


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def by_pillow(data: bytes, exif: bool = False) -> npt.NDArray[np.uint8]:
    """The reference."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray((ImageOps.exif_transpose(image) if exif else image).convert("RGB"))


def scaled(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """16-bit gray as RGB."""
    return np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, axis=2)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(lines: bytes, depth: int, colour: int, interlaced: bool = False) -> bytes:
    """A PNG that Pillow cannot write; every line begins with its filter, 0."""
    head = struct.pack(">IIBBBBB", W, H, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png16(values: npt.NDArray[np.int64], colour: int) -> bytes:
    """A PNG of 16 bits a channel."""
    rows = values.astype(">u2").reshape(H, -1).view(np.uint8)
    return png(b"".join(b"\0" + row.tobytes() for row in rows), 16, colour)


def png_interlaced() -> bytes:
    """Adam7: seven passes over a grid."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = (PIXELS[top::down, left::right] for top, left, down, right in starts)
    return png(b"".join(b"\0" + row.tobytes() for grid in passes for row in grid), 8, 2, interlaced=True)


def bmp(bits: int, rows: list[bytes], compression: int = 0, masks: bytes = b"", palette: bytes = b"") -> bytes:
    """A BMP; a row begins at a multiple of 4 bytes; the rows run from top to bottom unless they are compressed."""
    body = b"".join(row + bytes(-len(row) % 4) if compression != 1 else row for row in rows)
    begin = 54 + len(masks) + len(palette)
    height = H if compression == 1 else -H
    head = struct.pack("<IiiHHIIiiII", 40, W, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", begin + len(body), 0, 0, begin) + head + masks + palette + body


def bmp16(green: int) -> list[bytes]:
    red, middle, blue = (PIXELS[..., c].astype(np.uint16) for c in range(3))
    packed = (red >> 3) << (5 + green) | (middle >> (8 - green)) << 5 | blue >> 3
    return [row.astype("<u2").tobytes() for row in packed]


def bmp_rle8() -> bytes:
    indices, colours = np.asarray(PALETTE), np.zeros((256, 4), np.uint8)
    known = np.array(PALETTE.getpalette()).reshape(-1, 3)
    colours[: len(known), :3] = known[:, ::-1]
    rows = []
    for row in indices[::-1]:
        runs = b"".join(bytes([len(list(run)), value]) for value, run in itertools.groupby(row.tolist()))
        rows.append(runs + b"\0\0")
    return bmp(8, [*rows, b"\0\1"], 1, palette=colours.tobytes())


def without_adobe(data: bytes) -> bytes:
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def as_ycck(data: bytes) -> bytes:
    at = data.index(b"\xff\xee\x00\x0eAdobe") + 15  # the segment's last byte: 0 CMYK, 2 YCCK
    return data[:at] + b"\2" + data[at + 1 :]


def with_frame(data: bytes, offset: int, value: int) -> bytes:
    """A baseline JPEG with a byte of its frame segment changed."""
    at = data.index(b"\xff\xc0") + offset
    return data[:at] + bytes([value]) + data[at + 1 :]


def rotated(kind: str, orientation: int, **options: object) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encode(RGB, kind, exif=tags, **options)


def _good(group: str, files: dict[str, bytes], pillow: bool = False, lossless: bool = True) -> list[Kind]:
    return [
        Kind(group, name, data, by_pillow(data), pillow=pillow, lossless=lossless or pillow)
        for name, data in files.items()
    ]


def _bad(group: str, files: dict[str, tuple[bytes, str]]) -> list[Kind]:
    return [Kind(group, name, data, None, error) for name, (data, error) in files.items()]


BASELINE = jpeg(PIXELS, quality=80)
PROGRESSIVE = jpeg(PIXELS, quality=80, progressive=True)
PNG, BMP = encode(RGB, "PNG"), encode(RGB, "BMP")
WEBP, GIF = encode(RGB, "WEBP"), encode(PALETTE, "GIF")
MIDDLE = len(BASELINE) * 2 // 3


def _all() -> list[Kind]:
    fixtures = {path.stem: path.read_bytes() for path in sorted(FILES.glob("*.jpg"))}
    return [
        *_good(
            "JPEG",
            {
                "4:2:0": BASELINE,
                "4:2:2": jpeg(PIXELS, subsampling=1),
                "4:4:4": jpeg(PIXELS, subsampling=0),
                "4:4:0": fixtures["4-4-0"],
                "4:1:1": fixtures["4-1-1"],
                "4:1:0": fixtures["4-1-0"],
                "mixed sampling": fixtures["mixed-sampling"],
                "progressive": PROGRESSIVE,
                "restart markers": jpeg(PIXELS, restart_marker_blocks=3),
                "arithmetic-coded": fixtures["arithmetic"],
                "arithmetic-coded progressive": fixtures["arithmetic-progressive"],
                "gray": encode(GRAY, "JPEG"),
                "stored as RGB": fixtures["rgb"],
                "1 x 1": jpeg(PIXELS[:1, :1]),
                "10,000 x 3": jpeg(np.tile(PIXELS[:3, :50], (1, 200, 1))),
                "bytes after the end": BASELINE + b"trailer" * 20,
                "zeros after the end": BASELINE + bytes(1000),
                "a second image after the end": encode(RGB, "MPO", save_all=True, append_images=[TURNED]),
            },
            lossless=False,
        ),
        *_good(
            "JPEG, four components",
            {
                "CMYK with Adobe segment": encode(CMYK, "JPEG"),
                "CMYK without": without_adobe(encode(CMYK, "JPEG")),
                "YCCK with Adobe segment": as_ycck(encode(CMYK, "JPEG")),
            },
            pillow=True,
        ),
        *_good(
            "JPEG, damaged inside, its end in place",
            {
                "bits changed": BASELINE[:MIDDLE] + b"\x12\x34\x56" + BASELINE[MIDDLE + 3 :],
                "zeros in the middle": BASELINE[:MIDDLE] + bytes(200) + BASELINE[MIDDLE + 200 :],
                "a piece missing": BASELINE[:MIDDLE] + BASELINE[MIDDLE + 200 :],
            },
            lossless=False,
        ),
        *_good(
            "PNG, up to 8 bits",
            {
                "RGB": PNG,
                "gray": encode(GRAY, "PNG"),
                "1 bit": encode(RGB.convert("1"), "PNG"),
                "palette": encode(PALETTE, "PNG"),
                "palette of 2 bits": encode(RGB.convert("P", palette=Image.Palette.ADAPTIVE, colors=4), "PNG", bits=2),
                "alpha": encode(ALPHA, "PNG"),
                "gray with alpha": encode(ALPHA.convert("LA"), "PNG"),
                "transparent colour": encode(PALETTE, "PNG", transparency=3),
                "interlaced": png_interlaced(),
                "animated": encode(RGB, "PNG", save_all=True, append_images=[TURNED]),
            },
        ),
        Kind(
            "PNG, 16 bits",
            "gray (v / 257, where Pillow clips)",
            png16(DEEP[..., 0], 0),
            scaled(DEEP[..., 0]),
            pillow=True,
            lossless=True,
        ),
        *_good(
            "PNG, 16 bits",
            {"RGB": png16(DEEP[..., :3], 2), "RGBA": png16(DEEP, 6), "gray with alpha": png16(DEEP[..., :2], 4)},
            pillow=True,
        ),
        *_good(
            "BMP",
            {
                "24 bits": BMP,
                "palette": encode(PALETTE, "BMP"),
                "1 bit": encode(RGB.convert("1"), "BMP"),
                "32 bits": encode(ALPHA, "BMP"),
                "RLE": bmp_rle8(),
                "top to bottom": bmp(24, [np.ascontiguousarray(row[:, ::-1]).tobytes() for row in PIXELS]),
            },
        ),
        *_good(
            "BMP, 16 bits",
            {"5:5:5": bmp(16, bmp16(5)), "5:6:5": bmp(16, bmp16(6), 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F))},
            pillow=True,
        ),
        *_good(
            "WebP",
            {
                "lossy": WEBP,
                "lossless": encode(RGB, "WEBP", lossless=True),
                "alpha": encode(ALPHA, "WEBP"),
                "animated": encode(RGB, "WEBP", save_all=True, append_images=[TURNED], duration=100),
            },
        ),
        *_good(
            "GIF",
            {
                "palette": GIF,
                "gray": encode(GRAY, "GIF"),
                "transparent": encode(PALETTE, "GIF", transparency=3),
                "animated": encode(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]),
            },
            pillow=True,
        ),
        *_good(
            "others that Pillow reads",
            {
                "TIFF": encode(RGB, "TIFF"),
                "TIFF with CMYK and LZW": encode(CMYK, "TIFF", compression="tiff_lzw"),
                "PPM": encode(RGB, "PPM"),
                "PGM": encode(GRAY, "PPM"),
                "JPEG 2000": encode(RGB, "JPEG2000"),
            },
            pillow=True,
        ),
        Kind(
            "others that Pillow reads",
            "PGM of 16 bits (v / 257, where Pillow clips)",
            b"P5\n%d %d\n65535\n" % (W, H) + DEEP[..., 0].astype(">u2").tobytes(),
            scaled(DEEP[..., 0]),
            pillow=True,
            lossless=True,
        ),
        *_bad(
            "cut off",
            {
                "JPEG": (BASELINE[:MIDDLE], "truncated"),
                "progressive JPEG": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
                "JPEG without its last byte": (BASELINE[:-1], "truncated"),
                "JPEG within its header": (BASELINE[:100], "JPEG header ends before its size"),
                "PNG": (PNG[: len(PNG) // 2], "truncated"),
                "BMP": (BMP[:-4], "truncated"),
                "WebP": (WEBP[:-1], "could not create decoder object"),
                "GIF": (GIF[: len(GIF) // 2], "truncated"),
            },
        ),
        *_bad(
            "damaged",
            {
                "PNG with a wrong checksum": (PNG[:-17] + bytes([PNG[-17] ^ 255]) + PNG[-16:], "broken"),
                "JPEG with a marker inside its scan": (BASELINE[:MIDDLE] + b"\xff\x47" + BASELINE[MIDDLE:], "broken"),
                "JPEG without quantisation tables": (BASELINE.replace(b"\xff\xdb", b"\xff\xef"), "broken"),
                "width of 0": (with_frame(with_frame(BASELINE, 7, 0), 8, 0), "JPEG with a width or height of 0"),
            },
        ),
        *_bad(
            "not an image",
            {
                "empty": (b"", "^empty file$"),
                "zeros": (bytes(5000), "not a JPEG, PNG, BMP, WebP or GIF"),
                "a web page": (b"<!DOCTYPE html><title>404</title>", "not a JPEG, PNG, BMP, WebP or GIF"),
            },
        ),
        *_bad(
            "kinds that neither reads",
            {
                "JPEG of 12 bits": (with_frame(BASELINE, 4, 12), "neither DALI nor Pillow can read it"),
                "JPEG of two components": (with_frame(BASELINE, 9, 2), "neither DALI nor Pillow can read it"),
                "HEIC": (b"\0\0\0\x18ftypheic" + bytes(200), "not a JPEG, PNG, BMP, WebP or GIF"),
            },
        ),
    ]


KINDS = _all()


def unreadable(folder: Path) -> dict[str, Path]:
    """Paths that must be errors before anything is decoded, with ``max_pixels`` one below the last one's."""
    paths = {name: folder / name.replace(" ", "-") for name in ("missing", "a folder", "a named pipe", "a broken link")}
    paths["a folder"].mkdir()
    os.mkfifo(paths["a named pipe"])
    paths["a broken link"].symlink_to(folder / "nowhere")
    paths["more than `max_pixels`"] = folder / "large.jpg"
    paths["more than `max_pixels`"].write_bytes(BASELINE)
    return paths


def table() -> str:
    """The page's table, from decoding every kind now.

    Raises:
        AssertionError: a kind does not come out as it must.
    """
    decoder = ImageDecoder(1)
    lines = ["| file | decoded by | result |", "|---|---|---|"]
    for group, members in itertools.groupby(KINDS, lambda kind: kind.group):
        kinds = list(members)
        before = decoder.pillow_decoded
        results = decoder.decode([kind.data for kind in kinds])
        by_pillow_now = decoder.pillow_decoded - before
        equal = [
            kind.pixels is not None and not isinstance(got, str) and np.array_equal(got.numpy(), kind.pixels)
            for kind, got in zip(kinds, results, strict=True)
        ]
        names = ", ".join(kind.name for kind in kinds)
        if all(equal):
            who = {0: "DALI", len(kinds): "Pillow"}[by_pillow_now]
            lines.append(f"| **{group}**: {names} | {who} | Pillow's pixels, bit for bit |")
        else:
            assert all(isinstance(got, str) for got in results), f"{group}: {equal}"
            lines.append(f"| **{group}**: {names} | | replaced and named, or `DecodeError` |")
    decoder.close()
    with tempfile.TemporaryDirectory() as folder:
        paths = unreadable(Path(folder))
        read = Reader(as_samples([(path, 0) for path in paths.values()]), 1, max_pixels=H * W - 1).read(
            range(len(paths))
        )
        assert all(isinstance(item, DecodeError) for item in read)
    lines.append(f"| **never decoded**: {', '.join(paths)} | | replaced and named, or `DecodeError` |")
    return "\n".join(lines)


def main() -> None:
    """Put the table between its marks."""
    text = PAGE.read_text()
    before, rest = text.split(MARK[0])
    after = rest.split(MARK[1])[1]
    PAGE.write_text(f"{before}{MARK[0]}\n{table()}\n{MARK[1]}{after}")


if __name__ == "__main__":
    main()
