"""Settings as people write them: in YAML or Python, checked by what each field is declared to be."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

from dali_icgan.documents import shown

_WORDS: dict[Any, str] = {float: "a number", bool: "True or False", str: "a word", int: "an integer"}


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: plain values, lists and mappings.

    Raises:
        ValueError: it is no YAML; or has tags, which no setting needs, or aliases, of which a few lines can be larger than any memory.
    """
    try:
        text = path.read_text("utf-8-sig")
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"an alias, *{event.anchor}: write what it stands for")
            if getattr(event, "tag", None) is not None:
                raise ValueError(f"a tag, {event.tag}: write the plain value")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} must be YAML, got {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError(f"{path} must be YAML, got lists or mappings nested too deep") from None


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """What is wrong with settings within it begins with where they come from."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_kinds(settings: Any) -> None:
    """Check the kind of each field of a dataclass, and put into it what it stands for: a tuple for a list, 1e-4 for "1e-4", which is
    a word to YAML.

    Whole numbers outside lists are left to :func:`check_integers`.

    Raises:
        TypeError: a field is of another kind; the message names it.
    """
    for each in fields(settings):
        if (value := getattr(settings, each.name)) is not None or not isinstance(each.type, UnionType):
            kind = get_args(each.type)[0] if isinstance(each.type, UnionType) else each.type
            object.__setattr__(settings, each.name, _checked(each.name, value, kind))


def check_integers(settings: Any, **least: int) -> None:
    """Check that fields of a dataclass are integers, no less than is said here; None is for those declared so.

    Raises:
        ValueError: one is not; the message names it.
    """
    optional = {each.name for each in fields(settings) if isinstance(each.type, UnionType)}
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise ValueError(f"{name} must be an integer >= {bound}, got {shown(value)}")
        if value >= 2**64:
            raise ValueError(f"{name} must have at most 64 bits, got {shown(value)}")


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, before, now) of each value in which two nested mappings differ; names are dotted, a missing value is None."""
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def _checked(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        pair = ... not in kinds
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        found = [_as(kinds[0], each) for each in value] if listed else [None]
        if None in found or (pair and len(found) != len(kinds)):
            many = "two numbers" if pair else f"a list, each {_WORDS[kinds[0]]}"
            raise TypeError(f"{name} must be {many}, got {shown(value)}")
        return tuple(found)
    if kind not in (float, bool, str):
        return value
    if (found := _as(kind, value)) is None:
        raise TypeError(f"{name} must be {_WORDS[kind]}, got {shown(value)}")
    return found


def _as(kind: type, value: Any) -> Any:
    """The value, if it is of the kind or stands for one; else None."""
    if kind is float:
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return float(value)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value if type(value) is kind else None
