"""Golden generators: the project's own beside this file, the reference implementation's in ../shared where that is present."""

from pathlib import Path

import pytest
import torch

OWN = sorted(Path(__file__).parent.glob("*.pt"))
FOLDER = Path(__file__).parents[3] / "shared" / "golden"
SHARED = sorted(FOLDER.glob("*.pt"))
needs_shared = pytest.mark.skipif(not SHARED, reason=f"the reference implementation's golden files are not at {FOLDER}")


def load(path):
    return torch.load(path, weights_only=True)


def own(name):
    return load(Path(__file__).parent / f"{name}.pt")
