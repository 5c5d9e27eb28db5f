"""Tar shards: a folder of tars as a dataset, and images read from where they lie in them."""

import io
import tarfile
from functools import cache
from pathlib import Path

from dali_icgan.data import as_samples
from tests.fuzz.mutate import Random, change_bytes

MUTANTS = 20_000
NAMED = "mutant.shards"
_SMALL = b"\xff\xd8\xff\xd9"
_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "time": (136, 12),
    "kind": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "prefix": (345, 155),
}
_VALUES = (
    *(
        b"a/0.jpg",
        b"../../etc/passwd",
        b"/etc/passwd",
        b"a/0.cls",
        b"x",
        b"",
        b"a/0.jpg\0junk",
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"77777777777",
    ),
    *(
        b"00000000000",
        b"-1",
        b"8",
        b"0",
        b"1",
        b"2",
        b"5",
        b"7",
        b"L",
        b"K",
        b"x",
        b"g",
        b"S",
        b"V",
        b"ustar\x0000",
        b"ustar  \0",
        b"\x80" + bytes(10) + b"\x05",
    ),
)
_TOKENS = (
    *(
        b"17 size=99999999\n",
        b"27 GNU.sparse.major=1\n",
        b"16 path=a/9.jpg\n",
        b"99999 path=x\n",
        b"0 =\n",
        b"7",
        b"-5",
        b"1e3",
        b" 1 ",
        b"\xd9\xa3",
    ),
    *(bytes(512), bytes(1024), b"[" * 3000, b'{"label": 3}', b'{"label": 1e400}', b'{"label": "3"}'),
)


def packed(members: list[tuple[str, bytes]], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    data = stream.getvalue().rstrip(b"\0")  # of tarfile's padding two blocks are enough
    return data + bytes(-len(data) % 512 + 1024)


@cache
def _seeds() -> list[bytes]:
    pairs = [
        (f"a/{i}.{suffix}", data)
        for i in range(3)
        for suffix, data in (("jpg", _SMALL * (i + 1)), ("cls", str(i).encode()))
    ]
    long = "d" * 120
    return [
        packed(pairs, tarfile.USTAR_FORMAT),
        packed([(f"{long}/{name}", data) for name, data in pairs], tarfile.GNU_FORMAT),
        packed([(f"{long}é/{name}", data) for name, data in pairs], tarfile.PAX_FORMAT),
        packed(
            [*pairs, ("b/7.jpg", _SMALL), ("b/7.json", b'{"label": 4}'), ("b/7.relpath", b"b/seven.jpg")],
            tarfile.USTAR_FORMAT,
        ),
    ]


def seeds() -> list[bytes]:
    return _seeds()[:3]


def mutant(random: Random) -> bytes:
    data = bytearray(random.choice(_seeds()))
    for _ in range(random.choice((1, 1, 2, 4))):
        how, blocks = random.randrange(10), len(data) // 512
        block = 512 * random.randrange(blocks) if blocks else 0
        if how < 5 and blocks:
            at, size = random.choice([*_FIELDS.values()])
            value = random.choice(_VALUES)[:size]
            data[block + at : block + at + len(value)] = value
        elif how < 7:
            return _summed(bytearray(change_bytes(random, bytes(data), _seeds(), _TOKENS)), random)
        elif how == 7:
            del data[block : block + 512 * random.randrange(1, 3)]
        elif how == 8:
            other = random.choice(_seeds())
            begin = 512 * random.randrange(len(other) // 512)
            data[block:block] = other[begin : begin + 512 * random.randrange(1, 5)]
        else:
            token = random.choice(_TOKENS)
            data[block : block + len(token)] = token
    return _summed(data, random)


def _summed(data: bytearray, random: Random) -> bytes:
    """With the checksums of what looks like headers right, mostly."""
    if random.random() < 0.85:
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar" or data[at + 148 : at + 155].strip(b"0 \0").isdigit():
                total = sum(data[at : at + 512]) - sum(data[at + 148 : at + 156]) + 8 * 32
                data[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(data)


def _by_tarfile(data: bytes) -> dict[str, bytes] | None:
    """Members that Python's own reader finds once each; None: it finds no end of order."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for entry in tar:
                if entry.isreg():
                    if entry.name in found:
                        return None
                    found[entry.name] = tar.extractfile(entry).read()  # type: ignore[union-attr]
    except Exception:
        return None
    return found


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.mkdir(exist_ok=True)
    for file in path.iterdir():
        file.unlink()
    (path / "0.tar").write_bytes(data)
    samples = as_samples(path)
    again = as_samples(path)  # from the index that is there now
    assert samples.keys == again.keys
    assert samples.labels.tolist() == again.labels.tolist()
    members = _by_tarfile(data)
    for i, key in enumerate(samples.keys):
        try:
            image = samples.read(i)
        except OSError as error:
            raise AssertionError(f"an image that was just indexed cannot be read: {error}") from error
        if members is not None and key in members:
            assert image == members[key], "an image is not the member of its name"
            label = members.get(key.rpartition(".")[0] + ".cls")
            assert label is None or int(label) == samples.labels[i], "a label is not its image's"
    return "loaded"
