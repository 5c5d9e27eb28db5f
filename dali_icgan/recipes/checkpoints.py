"""What a run leaves: its last state to go on from, its best weights to use, and the figures on the way. Each file whole or not at all."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dali_icgan.recipes.recipe import AnyRecipe, plain
from dali_icgan.training.settings import differences
from dali_icgan.training.state import load_state, save_state, write_whole

_KIND, _FORMAT = "dali_icgan.recipe", 1
# They change how a run goes, and none of its weights but by rounding.
_MAY_CHANGE = ("run.save_every", "run.log_every", "run.validate_every", "data.threads")


def save_last(folder: Path, recipe: AnyRecipe, dataset: str, state: dict[str, Any]) -> None:
    """Write ``last.pt``."""
    head = {"kind": _KIND, "format": _FORMAT, "settings": plain(recipe), "dataset": dataset}
    save_state(folder / "last.pt", {**head, **state})


def load_last(folder: Path, recipe: AnyRecipe, dataset: str, device: torch.device) -> dict[str, Any] | None:
    """What :func:`save_last` wrote; None where there is nothing. Nothing in the file is executed.

    Raises:
        ValueError: it is no such state, or one of other settings or images, which are named.
    """
    path = folder / "last.pt"
    if not path.exists():
        return None
    state = load_state(path, device)
    if (state.get("kind"), state.get("format")) != (_KIND, _FORMAT):
        raise ValueError(f"{path} must be the state of a recipe's run, got another file")
    mine, theirs = json.loads(json.dumps(plain(recipe))), json.loads(json.dumps(state["settings"]))
    said = [f"{k} {a!r}, now {b!r}" for k, a, b in differences(theirs, mine) if k not in _MAY_CHANGE]
    if state["dataset"] != dataset:
        said.append("other images")
    if said:
        raise ValueError(f"{folder} must be a new folder or this very run's, it was begun with {', '.join(said)}")
    return state


def save_weights(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write weights as safetensors, by timm's names, with what is to be said about them as JSON in its metadata, "dali_icgan"."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, {"dali_icgan": json.dumps(about)})  # one entry: several come in any order
    write_whole(path, lambda file: file.write(data))


def save_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_whole(path, lambda file: file.write(text.encode()))
