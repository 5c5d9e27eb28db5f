"""Where the members of a tar lie: ustar, GNU and pax headers, read one by one. Nothing is extracted and no path is followed."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from dali_icgan.data.files import read_at

BLOCK = 512
_WINDOW = 8 * BLOCK  # one read takes a small member, its header and the next header along
_LONGEST_NAME = 1 << 20  # bytes of a long name or a pax header; a path has 4096

_REGULAR = b"0\0" + b"7"
_WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
_OTHERS = b"VD"  # a volume's label, a list of files
_NOTHING = bytes(BLOCK)
_OCTAL = re.compile(rb" *([0-7]*) *(?:\0.*)?", re.DOTALL)
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")


class TarMember(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: as the tar has it, undecodable bytes as surrogates.
        offset: of its first byte in the tar; its header is the block before.
        size: in bytes.
        header: the 512 bytes before ``offset``.
    """

    name: str
    offset: int
    size: int
    header: bytes


class TarReader:
    """Reads a tar's headers, and members as small as a label.

    Args:
        path: an uncompressed tar.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        self.size, self.mtime_ns = status.st_size, status.st_mtime_ns
        self._window, self._begin = b"", 0

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the tar; fewer where it ends."""
        begin = offset - self._begin
        if begin < 0 or begin + size > len(self._window):
            self._window, self._begin = read_at(self._descriptor, offset, max(size, _WINDOW)), offset
            begin = 0
        return self._window[begin : begin + size]

    def members(self) -> Iterator[TarMember]:
        """The regular files, in the tar's order; links, folders and devices are passed over.

        Raises:
            ValueError: it is no tar, is cut off, has a damaged header, a sparse member, or something behind its end; the message names the
                tar, the offset and the member.
        """
        offset = 0
        everywhere: dict[str, str] = {}  # pax records for all that follows
        records: dict[str, str] = {}  # for the next member
        while True:
            header = self.read(offset, BLOCK)
            if header == _NOTHING:
                self._check_end(offset)
                return
            self._check_header(header, offset)
            kind, size = header[156:157], self._number(header[124:136], "size", offset)
            data = offset + BLOCK
            if kind in b"LKxg":
                text = self._extension(data, size, offset)
                if kind == b"L":
                    records["path"] = _text(text)
                elif kind != b"K":
                    (records if kind == b"x" else everywhere).update(self._pax(text, offset))
                offset = data + _padded(size)
                continue
            merged = {**everywhere, **records} if records or everywhere else records
            records = {}
            name = merged.get("path") or _name(header)
            if "size" in merged:
                if not re.fullmatch(r"[0-9]{1,19}", merged["size"]):
                    raise self._damaged(offset, f"{name} has the size {merged['size']!r}")
                size = int(merged["size"])
            if kind == b"S" or (merged and any(key.startswith("GNU.sparse") for key in merged)):
                raise self._damaged(offset, f"{name} is stored with holes (sparse), which cannot be read in place")
            if kind in _WITHOUT_DATA:
                offset = data
                continue
            if kind not in _REGULAR + _OTHERS:
                raise self._damaged(offset, f"{name} is of the unknown kind {kind!r}")
            offset = data + _padded(size)
            if offset > self.size:
                raise self._cut_off(f"{name} at {data - BLOCK} needs {size} bytes behind its header")
            if kind in _REGULAR and not name.endswith("/"):  # a folder, in the oldest tars
                yield TarMember(name, data, size, header)

    def _check_header(self, header: bytes, offset: int) -> None:
        if offset == 0 and header[:2] == b"\x1f\x8b":
            raise ValueError(f"{self.path} must be an uncompressed tar, got one packed by gzip: gunzip it")
        if len(header) < BLOCK:
            where = "it is empty" if self.size == 0 else f"it has no end mark behind the last member, at {offset}"
            raise self._cut_off(where)
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        stored = _octal(header[148:156])
        if stored != total:
            # Some old tars add bytes up as signed.
            high = sum(byte > 127 for byte in header) - sum(byte > 127 for byte in header[148:156])
            if stored != total - 256 * high:
                if offset == 0:
                    raise ValueError(f"{self.path} must be a tar, got something else: no header at its beginning")
                raise self._damaged(offset, "the header's checksum is wrong")

    def _check_end(self, offset: int) -> None:
        while offset < self.size:
            rest = read_at(self._descriptor, offset, 1 << 20)
            if rest.count(0) != len(rest):
                raise self._damaged(offset, "there is something behind the end mark, such as another tar")
            offset += len(rest) or self.size

    def _extension(self, data: int, size: int, offset: int) -> bytes:
        if size > _LONGEST_NAME:
            raise self._damaged(offset, f"a name or its records have {size} bytes, more than {_LONGEST_NAME}")
        text = self.read(data, size)
        if len(text) < size:
            raise self._cut_off(f"the name at {offset} needs {size} bytes")
        return text

    def _pax(self, text: bytes, offset: int) -> dict[str, str]:
        """Records "<length> <key>=<value>\\n"."""
        records = {}
        while text:
            head = _PAX_RECORD.match(text)
            length = int(head[1]) if head else 0
            if not head or not head.end() < length <= len(text) or text[length - 1 : length] != b"\n":
                raise self._damaged(offset, "a pax record is damaged")
            records[_text(head[2])] = text[head.end() : length - 1].decode("utf-8", "surrogateescape")
            text = text[length:]
        return records

    def _number(self, field: bytes, what: str, offset: int) -> int:
        # Octal digits; or, marked by the first bit, a binary number, as GNU has it for more than 8 GiB.
        number = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
        if number is None:
            raise self._damaged(offset, f"the header's {what} is no number")
        return number

    def _damaged(self, offset: int, what: str) -> ValueError:
        return ValueError(f"{self.path} must be a tar that is whole, got damage at {offset}: {what}")

    def _cut_off(self, what: str) -> ValueError:
        return ValueError(f"{self.path} must be a tar that is whole, got one that is cut off at {self.size}: {what}")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _octal(field: bytes) -> int | None:
    found = _OCTAL.fullmatch(field)
    return int(found[1] or b"0", 8) if found else None


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU keeps times where POSIX has the beginning of a long name.
    return f"{_text(header[345:500])}/{name}" if header[345] and header[257:263] == b"ustar\0" else name
