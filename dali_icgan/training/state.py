"""Files of a run: written whole or not at all, read without executing anything; and random numbers that need no state."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

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


def random_of(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of random numbers that is a function of the seed and of what it is for, such as ("noise", step, rank).

    A run that goes on from a checkpoint draws what the unbroken run would have drawn, without any generator's state being saved.
    """
    digest = hashlib.sha256(repr((seed, purpose)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))
