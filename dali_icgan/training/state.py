"""Files of a run: written whole or not at all, read without executing anything; and random numbers that need no state."""

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dali_icgan.documents import shown
from dali_icgan.models.torch_file import read_torch


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file so that it is there whole or not at all, also when the process is killed or the disk is full.

    Raises:
        OSError: it could not be written; what was at ``path`` before is untouched.
    """
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, not only the content
    finally:
        os.close(folder)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, strings, lists and dicts, as torch saves them."""
    memory = io.BytesIO()  # torch's own writer would hide a full disk behind an error of its own
    torch.save(state, memory)
    write_whole(path, lambda file: file.write(memory.getbuffer()))


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What :func:`save_state` wrote.

    Raises:
        ValueError: the file is damaged or holds something else; nothing in it is executed.
    """
    try:
        state = read_torch(path, device)
    except ValueError as error:
        raise ValueError(f"{path} must be a state of a training run, got another file: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must be a state of a training run, got a {type(state).__name__}")
    return state


def restore(path: Path, name: str, part: Any, state: Any) -> None:
    """Give a module or an optimiser back what it was saved as.

    Raises:
        ValueError: it is of other names, shapes or kinds; ``part`` may then hold some of it.
    """
    before = [
        {key: value for key, value in group.items() if key != "params"} for group in getattr(part, "param_groups", ())
    ]
    try:
        part.load_state_dict(state)
        for known, group in zip(before, getattr(part, "param_groups", ()), strict=True):
            # A scheduled rate is the one setting that a run changes.
            wrong = [
                key
                for key, value in known.items()
                if type(group.get(key)) is not type(value) or (key != "lr" and group[key] != value)
            ]
            if wrong or len(group) != len(known) + 1:
                raise ValueError(f"other settings of the optimiser: {', '.join(wrong)}")
            for parameter in group["params"]:
                kept = part.state.get(parameter, {})
                for key, value in kept.items():
                    shape = torch.Size() if key == "step" else parameter.shape
                    if not isinstance(value, torch.Tensor) or value.shape != shape or not value.is_floating_point():
                        raise ValueError(f"{key} of another shape or kind than its parameter's {list(parameter.shape)}")
                if kept and kept.keys() != {"step", "exp_avg", "exp_avg_sq"}:
                    raise ValueError(f"other entries of the optimiser: {', '.join(map(str, kept))}")
    except Exception as error:  # torch raises what it meets
        raise ValueError(
            f"{path} must hold the {name} as it was saved, got another: {' '.join(str(error).split())[:500]}"
        ) from error


def check_kept(path: Path, state: Any, **kinds: Callable[[Any], bool]) -> None:
    """Check what a file of a run says beside its tensors.

    Raises:
        ValueError: it is no mapping, or an entry is missing or not as its function says.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold entries by name, got {shown(state)}")
    for name, good in kinds.items():
        if name not in state or not good(state[name]):
            raise ValueError(f"{path} must have a sound {name}, got {shown(state[name]) if name in state else 'none'}")


def is_count(value: Any) -> bool:
    """A number of steps."""
    return type(value) is int and 0 <= value < 2**62


def is_number(value: Any) -> bool:
    """A finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def is_plain(value: Any) -> bool:
    """Lists and mappings of words, numbers and truth values: what compares with anything."""
    if isinstance(value, (list, dict)):
        return all(map(is_plain, value if isinstance(value, list) else [*value, *value.values()]))
    return value is None or type(value) in (str, int, float, bool)


def is_figures(value: Any) -> bool:
    """Finite numbers by name."""
    return isinstance(value, dict) and all(isinstance(key, str) and is_number(number) for key, number in value.items())


def random_of(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of random numbers that is a function of the seed and of what it is for, such as ("noise", step, rank).

    A run that goes on from a checkpoint draws what the unbroken run would have drawn, without any generator's state being saved.
    """
    digest = hashlib.sha256(repr((seed, purpose)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))
