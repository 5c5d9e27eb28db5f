"""How mkdocs.yml's API pages read docstrings: they are Google's, with three habits of this project's that the parser does not know.

* ``:class:`DataLoader``` and its like become code, and a link where the name is public.
* ``Numerics:``, ``Stream:`` and ``Source:`` are paragraphs of their own.
* One entry of ``Args:`` or ``Attributes:`` may describe several names, and be wrapped between them: each gets the text.
"""

import re
from typing import Any

import griffe

import dali_icgan

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`([^`]+)`")
_PARAGRAPH = re.compile(r"(Numerics|Stream|Source): (.*)")
_ENTRY = re.compile(r"(?P<names>[\w]+(?:,\s+\w+)+)(?P<remark>\s+\([^:]*\))?:\s+(?P<text>.*)", re.DOTALL)


def readable(text: str) -> str:
    """A docstring as Google's parser has it."""
    lines: list[str] = []
    inside = ""  # the section that these lines belong to
    for line in _ROLE.sub(_linked, text).splitlines():
        paragraph = _PARAGRAPH.match(line)
        if paragraph:
            lines += ["", f"**{paragraph[1]}**: {paragraph[2]}"]
            inside = paragraph[1]
        elif not line.startswith(" ") and line.strip():
            inside = line.strip(": ")
            lines.append(line)
        elif inside in ("Numerics", "Stream", "Source"):
            lines.append(line.strip())
        elif inside in ("Args", "Attributes") and re.match(r" {8}", line):
            lines[-1] += " " + line.strip()  # an entry is one line from here on
        else:
            lines.append(line)
        if inside in ("Args", "Attributes") and not line.strip():
            inside = ""
    return "\n".join(each for line in lines for each in _entries(line))


def _linked(role: re.Match[str]) -> str:
    name = role[1].removeprefix("dali_icgan.")
    public = name.partition(".")[0] in dali_icgan.__all__
    return f"[`{name}`][dali_icgan.{name}]" if public else f"`{name}`"


def _entries(line: str) -> list[str]:
    entry = _ENTRY.fullmatch(line.strip()) if line.startswith("    ") else None
    if entry is None:
        return [line]
    *others, last = re.split(r",\s+", entry["names"])
    remark = f"{entry['remark'].strip()} " if entry["remark"] else ""
    return [*(f"    {name}: {entry['text']}" for name in others), f"    {last}: {remark}{entry['text']}"]


class Docstrings(griffe.Extension):
    """Griffe's hook."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
