"""The blocks of docs/cluster.md, each with the comment above it that says who runs it."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"


class Block(NamedTuple):
    verb: str  # "run" or "not run"
    how: str  # behind the colon
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """Every fenced block, in order.

    Raises:
        ValueError: a block has no comment above it, or one without a reason.
    """
    found = []
    for match in re.finditer(
        r"^(?P<above>[^\n]*)\n```(?P<language>\w*)\n(?P<text>.*?)^```$", page, re.MULTILINE | re.DOTALL
    ):
        comment = re.fullmatch(r"<!-- (run|not run): (\S.*) -->", match["above"])
        if comment is None:
            raise ValueError(
                f"a block must have <!-- run: how --> or <!-- not run: why --> above it: {match['text'][:60]!r}"
            )
        found.append(Block(comment[1], comment[2], match["language"], match["text"]))
    return found
