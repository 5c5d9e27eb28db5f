"""Documents that anybody may have written: whatever is wrong with one is a ValueError that names the file, and is said in a few words."""

import json
import os
import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel, _SHORT.maxlong = 3, 40


def read_json(path: str | os.PathLike[str], what: str = "") -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        what: it is read as, for the message, such as "a table of forms".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or nested deeper than any document of ours.
    """
    with open(path, "rb") as file:
        return parse_json(file.read(), os.fspath(path), what)


def parse_json(text: bytes, name: str, what: str = "") -> Any:
    """What a JSON text holds; arguments and errors as :func:`read_json`'s, ``name`` for the path."""
    name = f"{name} must be {f'{what} in ' if what else ''}JSON"
    try:
        return json.loads(text.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{name}, got something damaged: {error}") from error
    except RecursionError:
        raise ValueError(f"{name}, got lists or objects nested too deep") from None


def shown(value: Any) -> str:
    """A value of somebody else's in a message: short, however large it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"something of type {type(value).__name__}"
