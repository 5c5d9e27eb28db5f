"""Files of torch.save, read without running anything in them and without taking more memory than they have bytes."""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dali_icgan.models import inert_pickle


def read_torch(path: Path, device: torch.device | str = "cpu") -> Any:
    """The object in a file of torch.save: dicts, lists, numbers, text, dense tensors, and what :mod:`inert_pickle` has placeholders for.

    Args:
        path: a zip archive, as torch writes it, or torch's older format.
        device: where tensors go.

    Raises:
        ValueError: it is damaged, names anything else (the message says what; nothing was run), or says that it holds more than it does.
    """
    size = os.path.getsize(path)
    _check_archive(path, size)
    allowed: list[Any] = [(placeholder, name) for name, placeholder in inert_pickle.PLACEHOLDERS.items()]
    try:
        with torch.serialization.safe_globals(allowed):
            loaded = inert_pickle.plain(torch.load(path, map_location=device, weights_only=True))
    except inert_pickle.Refused as error:
        raise ValueError(f"{path} was refused, nothing in it was run: {error}") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise ValueError(f"{path} is damaged, or no checkpoint of torch") from error
        hint = " (a StyleGAN2 pickle? only BigGAN backbones are read)" if "torch_utils" in named[1] else ""
        raise ValueError(
            f"{path} was refused, nothing in it was run: it holds {named[1]}, which is not on the allow-list{hint}"
        ) from error
    except Exception as error:  # Damage shows as any exception at all in a pickle machine.
        raise ValueError(f"{path} is damaged, or no checkpoint of torch: {type(error).__name__} {error}") from error
    _check_tensors(path, loaded, size)
    return loaded


def _check_archive(path: Path, size: int) -> None:
    """A few kilobytes of a compressed archive may be gigabytes of zeros; torch compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError, OSError):
        return  # the older format, or damage that torch finds
    if held > size:
        raise ValueError(f"{path} must be uncompressed, as torch writes it, got {held} bytes in a file of {size}")


def _check_tensors(path: Path, loaded: Any, size: int) -> None:
    for name, tensor in _tensors(loaded, ""):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type == "meta":
            raise ValueError(f"{path} must hold dense tensors, got another kind{name}")
        # One number, repeated by strides of 0, may be terabytes once it is copied.
        if tensor.numel() * tensor.element_size() > size:
            raise ValueError(
                f"{path} must hold its tensors' numbers, got {list(tensor.shape)} in a file of {size} bytes{name}"
            )


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, with how a message names it."""
    seen: set[int] = set()
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            entries = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f" as {key!s:.80}", entry) for key, entry in entries]
