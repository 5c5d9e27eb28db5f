"""What is done to sound files: bytes, trees of plain values, archives. All a function of the random numbers that are given."""

import io
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

Random = random.Random

_NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 12, 16, 40, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0xFFD8, 0xFFD9, 0xFFDA),
    *(0xFFC0, 0xFFC4, 0xFFDB, 0xFFDD, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE),
    *(0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF),
)
_WORDS = (
    "",
    "x",
    "..",
    "/etc/passwd",
    "\x00",
    "\udc80",
    "é" * 40,
    "A" * 5000,
    "%s%n",
    "nan",
    "1e400",
    "float32",
    "__class__",
)
# Kinds, ends and edges of numbers; what a reader may take for one another.
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        255,
        2**31 - 1,
        2**31,
        -(2**31),
        2**63 - 1,
        2**63,
        -(2**63),
        2**64,
        10**30,
        10**12,
    ),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
    *_WORDS,
    *([], {}, [0], [[]], {"": 0}, [1, 2, 3], [None], {"x": {"x": []}}),
)


def change_bytes(random: Random, data: bytes, others: Sequence[bytes] = (), tokens: Sequence[bytes] = ()) -> bytes:
    """One to six changes: bits, bytes, numbers in either order, pieces cut, moved, repeated, or taken from ``others``, and tokens."""
    file = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        _change(random, file, others or (data,), tokens)
    return bytes(file)


def _place(random: Random, file: bytes | bytearray) -> int:
    # Anywhere, or near the beginning or the end, where headers and tables are.
    where, u = random.randrange(4), random.random()
    share = u if where == 0 else 1 - u**4 if where == 1 else u**4
    return min(int(share * len(file)), max(len(file) - 1, 0))


def _change(random: Random, file: bytearray, others: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at, kind = _place(random, file), random.randrange(11 if tokens else 10)
    room = len(file) - at
    if kind == 0 and room:
        file[at] ^= 1 << random.randrange(8)
    elif kind == 1 and room:
        file[at] = random.randrange(256)
    elif kind in (2, 3):
        size = random.choice((1, 2, 4, 8))
        number = random.choice(_NUMBERS) % (1 << 8 * size)
        file[at : at + min(size, room)] = number.to_bytes(size, random.choice(("big", "little")))[:room]
    elif kind == 4:
        del file[at : at + random.randrange(1, 64)]
    elif kind == 5:
        other = random.choice(others)
        begin = _place(random, other)
        file[at:at] = other[begin : begin + random.randrange(1, 200)]
    elif kind == 6:
        file[at:at] = bytes([random.randrange(256)]) * random.randrange(1, 40)
    elif kind == 7:
        del file[at:]
    elif kind == 8:
        begin = _place(random, file)
        piece = file[begin : begin + random.randrange(1, 100)]
        file[at : at + len(piece)] = piece
    elif kind == 9:
        file += file[at : at + 500] * random.randrange(1, 4)
    elif kind == 10:
        token = random.choice(tokens)
        file[at : at + random.choice((0, len(token)))] = token


def change_tree(random: Random, tree: Any, telling: Sequence[Any] = ()) -> Any:
    """One to three changes in nested dicts and lists: values of other kinds, entries lost, doubled, renamed, exchanged or nested.

    ``telling``: values that mean something to the reader. The tree is not changed itself.
    """
    for _ in range(random.choice((1, 1, 2, 3))):
        paths = list(_paths(tree))
        path = random.choice(paths)
        change = random.randrange(7)
        if change == 0:
            tree = _put(tree, path, _at(tree, random.choice(paths)))
        elif change == 1 and path:
            tree = _without(tree, path)
        elif change == 2 and path and isinstance(_at(tree, path[:-1]), dict):
            holder = dict(_at(tree, path[:-1]))
            name = random.choice((*map(str, _WORDS), *(str(key) + "x" for key in holder), *map(str, telling)))
            holder[name] = holder.pop(path[-1])
            tree = _put(tree, path[:-1], holder)
        elif change == 3 and isinstance(_at(tree, path), list):
            tree = _put(tree, path, _at(tree, path) * random.choice((0, 2, 3)))
        elif change == 4 and isinstance(_at(tree, path), int | float) and not isinstance(_at(tree, path), bool):
            number = _at(tree, path)
            tree = _put(
                tree, path, random.choice((number + 1, number - 1, -number, str(number), float(number), [number]))
            )
        else:
            tree = _put(tree, path, random.choice((*_VALUES, *telling, *telling)))
    return tree


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if len(path) < 8:
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
            yield from _paths(value, (*path, key))


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = _put(tree[path[0]], path[1:], value)
    return copy


def _without(tree: Any, path: tuple[Any, ...]) -> Any:
    copy = _at(tree, path[:-1]).copy()
    del copy[path[-1]]
    return _put(tree, path[:-1], copy)


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def change_json(random: Random, text: bytes, telling: Sequence[Any] = ()) -> bytes:
    """A JSON text, changed as a tree, as bytes, or wrapped in something too deep."""
    how = random.randrange(8)
    if how == 0:
        return change_bytes(
            random, text, tokens=(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\u0000", b"\xff", b"NaN", b"1" * 5000)
        )
    if how == 1 and random.random() < 0.2:
        depth = random.choice((10, 1000, 100_000))
        return b"[" * depth + text + b"]" * depth
    return as_json(change_tree(random, json.loads(text), telling))


def pack(files: dict[str, bytes]) -> bytes:
    """A folder, as one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def change_packed(random: Random, data: bytes, change: Callable[[Random, str, bytes], bytes]) -> bytes:
    """One file of a folder changed, lost, or exchanged with another."""
    files = unpack(data)
    name = random.choice(sorted(files))
    how = random.randrange(20)
    if how == 0:
        del files[name]
    elif how == 1:
        files[name] = files[random.choice(sorted(files))]
    else:
        files[name] = change(random, name, files[name])
    return pack(files)
