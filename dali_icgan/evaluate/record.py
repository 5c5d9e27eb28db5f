"""What a run leaves of every image: a file a set, from which figures are made and two models are compared."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dali_icgan.training.state import write_whole

SCORE = "score/"  # columns whose mean is a figure: what two models are compared by
_KIND = "dali_icgan evaluation"


@dataclass(eq=False)
class Record:
    """Numbers of every image of a set.

    Attributes:
        set: its name.
        keys: n paths, relative to the set's folder.
        columns: arrays ``[n, ...]`` by name; those that begin with "score/" are one number an image.
        facts: plain values that go with them.
    """

    set: str
    keys: list[str]
    columns: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """By name without its beginning, float64 ``[n]``."""
        return {n.removeprefix(SCORE): c.astype(np.float64) for n, c in self.columns.items() if n.startswith(SCORE)}

    def write(self, path: Path) -> None:
        """As safetensors, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        keys = np.frombuffer("\n".join(self.keys).encode("utf-8", "surrogateescape"), np.uint8)
        meta = {"kind": _KIND, "set": self.set, "facts": json.dumps(self.facts)}
        content = save({**{n: np.ascontiguousarray(c) for n, c in self.columns.items()}, "keys": keys}, meta)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(content))

    @classmethod
    def read(cls, path: Path) -> "Record":
        """What :meth:`write` wrote; nothing in it is executed.

        Raises:
            ValueError: it is damaged or something else.
            FileNotFoundError: it is missing.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} must be a file of an evaluation, got none")
        try:
            with safe_open(str(path), "numpy") as file:
                meta = file.metadata() or {}
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
            keys = columns.pop("keys").tobytes().decode("utf-8", "surrogateescape").split("\n")
            if meta.get("kind") != _KIND or any(len(column) != len(keys) for column in columns.values()):
                raise ValueError("not an evaluation's")
            return cls(meta["set"], keys, columns, json.loads(meta["facts"]))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path} must be a file of an evaluation, got another or a damaged one: {error}"
            ) from error


def digest(of: Mapping[str, Any]) -> str:
    """Of plain values, in hex: the same for the same settings."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:32]
