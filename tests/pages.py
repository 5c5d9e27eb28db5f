"""The project's pages, their code blocks, and who runs each of them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))}

# (page, language): the test that runs every block of it. tests/test_docs.py runs what is `HERE`, with the stand-ins it lists.
HERE = "tests/test_docs.py"
RUN_BY = {
    ("README.md", "python"): HERE,
    ("docs/augmentation.md", "python"): "tests/test_augmentation_md.py",
    ("docs/augmentation.md", "sh"): "tests/test_augmentation_md.py",
    ("docs/clients.md", "python"): "tests/test_clients_md.py",
    ("docs/cluster.md", "python"): "tests/test_cluster_md.py",
    ("docs/cluster.md", "sh"): "tests/test_cluster_md.py",
    ("docs/index.md", "python"): HERE,
    ("docs/loader.md", "python"): HERE,
    ("docs/pipelines.md", "python"): "tests/test_docs_pipelines.py",
    ("docs/quickstart.md", "python"): HERE,
    ("docs/recipes.md", "python"): HERE,
    ("docs/shards.md", "python"): "tests/test_docs_shards.py",
    ("docs/shards.md", "sh"): "tests/test_docs_shards.py",
    ("docs/training.md", "python"): HERE,
    ("docs/training.md", "yaml"): HERE,
}
# Shell blocks that are only read, by tests/test_docs.py: it is shell, and commands, options, scripts and targets are there.
READ_ONLY = {
    "CONTRIBUTING.md": "make, benchmarks and git",
    "README.md": "make, and pip from a registry",
    "docs/benchmark.md": "minutes of measuring, and peers from a registry; tests/bench runs small ones",
    "docs/embedded-model.md": "an hour of training",
    "docs/evidence.md": "hours of studies",
    "docs/imagenet.md": "ImageNet and eight GPUs",
    "docs/performance.md": "benchmarks; their results are what the page is written from",
    "docs/preview.md": "a page in a minute; tests/cli/test_preview_html.py makes small ones",
    "docs/quickstart.md": "pip from a registry; each command has a test in tests/cli",
    "docs/recipes.md": "ImageNet; tests/recipes runs small ones",
    "docs/evaluation.md": "ImageNet; tests/evaluate runs small ones",
    "docs/training.md": "hours of training; tests/training runs short ones",
}
SHELL = ("sh", "bash", "console", "")  # a fence without a language holds commands too
PLAIN = ("text",)  # nothing to run


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = PAGES[page].read_text()
    found = re.finditer(r"^```([\w-]*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in found]


def everything() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", PAGES[page].read_text(), flags=re.MULTILINE | re.DOTALL)
