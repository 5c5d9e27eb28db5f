"""Recipes as YAML: the packaged ones, what changes them, and the complete text of what a run does."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dali_icgan.recipes.recipe import AnyRecipe, Recipe, SwavRecipe, plain
from dali_icgan.training.settings import read_yaml

NAMES = ("resnet50", "resnet101", "resnet152", "deit-s", "deit-b", "swav")
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+): *(?P<value>[^#]*?)(?P<comment> *#.*)?$")
_Values = dict[str, dict[str, Any]]


def packaged(name: str) -> str:
    """The YAML of a recipe of the package: "resnet50", "deit-s", "swav", ..."""
    if name not in NAMES:
        raise ValueError(f"a recipe must be one of {', '.join(NAMES)}, got {name!r}")
    return (files("dali_icgan.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name: str, config: Path | str | None = None, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A recipe of the package, changed by a YAML file of some of its settings, and then by ``section.name=value``.

    Raises:
        ValueError, TypeError: a setting is unknown (its nearest names are said), or not as it must be; or the file is no YAML.
    """
    values: _Values = yaml.safe_load(packaged(name))
    if config is not None:
        for section, name_, value in _settings(read_yaml(Path(config)), str(config)):
            _put(values, f"{section}.{name_}", value, f"{config}: ")
    for option in overrides:
        key, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"an option must be section.name=value, got {option!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{key} must be a YAML value, got {text!r}") from error
        _put(values, key, value, "")
    return from_values(values)


def from_values(values: _Values) -> AnyRecipe:
    """From all settings by section and name, as :func:`dali_icgan.recipes.recipe.plain` gives them.

    Raises:
        ValueError, TypeError: one is missing, unknown or not as it must be; the message names it.
    """
    kind = SwavRecipe if "swav" in values else Recipe
    sections: dict[str, Any] = {}
    for section, part in ((each.name, each.type) for each in fields(kind)):
        try:
            sections[section] = part(**values[section])  # type: ignore[operator]
        except (ValueError, TypeError) as error:
            raise type(error)(f"{section}.{error}") from error
    return kind(**sections)


def render(name: str, recipe: AnyRecipe) -> str:
    """The complete YAML of a recipe: the packaged text, its sources as they are where a value is, "yours" where it is another."""
    lines, section, mine = [], "", plain(recipe)
    for line in packaged(name).splitlines():
        found = _LINE.match(line)
        if found is None or line.startswith("#"):
            lines.append(line)
        elif not found["indent"]:
            section = found["key"]
            lines.append(line)
        else:
            key, value = found["key"], mine[section][found["key"]]
            theirs = yaml.safe_load(found["value"])
            same = _alike(theirs, value)
            lines.append(line if same else f"  {key}: {_written(value)}  # yours; the recipe's: {_written(theirs)}")
    return "\n".join(lines) + "\n"


def _alike(a: Any, b: Any) -> bool:
    """Whether YAML's value is the setting: 1e-4 is a word to YAML."""
    try:
        return a == b or float(a) == b
    except (TypeError, ValueError):
        return False


def _written(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()


def _settings(given: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(f"{where} must hold settings by section and name, got {type(given).__name__}")
    for section, part in given.items():
        if not isinstance(part, dict):
            raise ValueError(f"{where}: {section} must hold settings by name, got {part!r}")
        for name, value in part.items():
            yield str(section), str(name), value


def _put(values: _Values, key: str, value: Any, where: str) -> None:
    section, _, name = key.partition(".")
    if name in values.get(section, {}):
        values[section][name] = value
        return
    known = [f"{each}.{name}" for each, part in values.items() for name in part]
    last = key.rpartition(".")[2]
    near = [each for each in known if each.endswith(f".{last}")]
    near += [each for each in difflib.get_close_matches(key, known, 3, 0.6) if each not in near]
    near += [
        each
        for word in difflib.get_close_matches(last, [each.partition(".")[2] for each in known], 3, 0.7)
        for each in known
        if each.endswith(f".{word}") and each not in near
    ]
    said = f"; near it: {', '.join(near[:3])}" if near else ""
    raise ValueError(f"{where}a setting must be one of the recipe's (--print-config lists them), got {key!r}{said}")
