"""The house's floors: a file uses lower floors and its own folder only (docs/design.md)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "errors": 0,
    "documents": 0,
    "drawing": 0,
    "spans": 0,
    "_native": 3,
    "ranks": 3,
    "ops": 4,
    "models": 5,
    "embedded": 10,
    "engine": 6,
    "data": 7,
    "augment": 8,
    "batches": 9,
    "progress": 9,
    "loader": 9,
    "fn": 9,
    "training": 10,
    "evaluate": 11,
    "recipes": 12,
    "bench": 12,
    "cli": 13,
}
MODULES = sorted(p for p in (ROOT / "dali_icgan").rglob("*.py") if p != ROOT / "dali_icgan" / "__init__.py")
SOURCES = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


def imports(path):
    """(line, dotted module) of every import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            module = node.module or ""
            if module == "dali_icgan":
                yield from ((node.lineno, f"dali_icgan.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def room(path):
    """The folder or file under dali_icgan that a module belongs to."""
    return path.relative_to(ROOT / "dali_icgan").with_suffix("").parts[0]


def python_faults(path):
    here = room(path)
    for line, module in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        parts = module.split(".")
        a_peer = path.parent.name == "peers" and path.name.startswith("dali")  # it is measured beside us
        if parts[0] == "nvidia" and here not in ("data", "fn", "cli") and not a_peer:
            yield f"{where}: only dali_icgan/data and fn.py import nvidia.dali"
        if module == "dali_icgan._C" and here != "_native":
            yield f"{where}: only _native.py imports the compiled module"
        if parts[0] in ("torchvision", "timm", "lightly", "cupy") and FLOORS[here] < 10:
            yield f"{where}: the core does without {parts[0]}"
        if parts[0] != "dali_icgan" or len(parts) < 2 or parts[1] == "_C":
            continue
        there = parts[1]
        if there not in FLOORS:
            if FLOORS[here] < FLOORS["cli"]:
                yield f"{where}: imports {module}: only the command line uses the public face"
        elif there != here and not FLOORS[there] < FLOORS[here] and not FLOORS[there] == FLOORS[here] == 9:
            yield f"{where}: {here} (floor {FLOORS[here]}) uses {there} (floor {FLOORS[there]})"


def source_faults(path):
    parts = path.relative_to(ROOT / "csrc").parts
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*[<"]([^">]+)[">]', line)
        if not found:
            continue
        name, where = found[1], f"{path.relative_to(ROOT)}:{number}"
        if re.match(r"(torch|ATen|c10)/", name):
            yield f"{where}: no framework's types cross the border ({name})"
        if ("pybind11" in name or name == "Python.h") and parts[0] != "python":
            yield f"{where}: only csrc/python knows pybind11"
        if "/" in name and (ROOT / "csrc" / name).exists():
            there = Path(name).parts
            allowed = {"core": there[0] == "core", "ops": there[0] == "core" or there[:2] == parts[:2], "python": True}
            if not allowed[parts[0]]:
                yield f"{where}: {'/'.join(parts[:2])} uses {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_use_lower_floors_only(path):
    assert room(path) in FLOORS, f"{path}: give {room(path)} a floor"
    assert list(python_faults(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sources_use_lower_floors_only(path):
    assert list(source_faults(path)) == []


@pytest.mark.parametrize(
    ("where", "line", "fault"),
    [
        ("ops/probe.py", "from dali_icgan.loader import DataLoader", "ops (floor 4) uses loader (floor 9)"),
        ("augment/probe.py", "from dali_icgan import DataLoader", "only the command line uses the public face"),
        ("augment/probe.py", "import nvidia.dali", "only dali_icgan/data and fn.py import nvidia.dali"),
        ("bench/run.py", "import nvidia.dali", "only dali_icgan/data and fn.py import nvidia.dali"),
        ("models/probe.py", "import torchvision", "the core does without torchvision"),
        ("data/probe.py", "from dali_icgan import _C", "only _native.py imports the compiled module"),
    ],
)
def test_a_fault_is_seen(tmp_path, monkeypatch, where, line, fault):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "dali_icgan" / where
    path.parent.mkdir(parents=True)
    path.write_text(line)
    (found,) = python_faults(path)
    assert fault in found
