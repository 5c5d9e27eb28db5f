"""The folder of a run: settings.json, predictions/SET.safetensors, results.jsonl, report.md and its plots. An unfinished one goes on."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dali_icgan.evaluate.classify import Figure
from dali_icgan.evaluate.record import Record, digest
from dali_icgan.ranks import Ranks
from dali_icgan.training.state import write_whole

SETTINGS, LINES, PREDICTIONS = "settings.json", "results.jsonl", "predictions"


class Results:
    """Where a run writes, on the first rank; every rank makes one.

    Args:
        folder: new, empty, or of a run with the same settings, of which finished sets are not computed again.
        settings: plain values that figures depend on.

    Raises:
        ValueError: the folder holds something else, which is left as it is.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], ranks: Ranks) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.ranks = ranks
        ranks.from_first(f"preparing {folder}", self._prepare)

    def _prepare(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out must be a folder, got {self.folder}, which is a file")
        there = read_settings(self.folder) if (self.folder / SETTINGS).exists() else None
        if there is None and self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"out must be a new or empty folder, got {self.folder}, which holds other files")
        differing = (
            [] if there is None else [k for k in {**there, **self.settings} if there.get(k) != self.settings.get(k)]
        )
        # A run that ended before it had anything to lose, because of a mistake in its arguments, is begun anew.
        if there is not None and differing and any((self.folder / each).exists() for each in (PREDICTIONS, LINES)):
            key = sorted(differing)[0]
            raise ValueError(
                f"out must be a new folder or one of the same settings, got {self.folder}, whose {key} is "
                f"{there.get(key)!r}, not {self.settings.get(key)!r}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.settings, indent=1).encode()
        write_whole(self.folder / SETTINGS, lambda file: file.write(content))

    def record(self, name: str, fingerprint: str, compute: Callable[[], Record | None]) -> Record | None:
        """A set's record: read where this run has left it already, else computed and written. None but on the first rank.

        Args:
            fingerprint: of the set's images and labels.
        """
        path = self.folder / PREDICTIONS / f"{name}.safetensors"
        of = digest({"settings": self.settings, "set": name, "fingerprint": fingerprint})

        def left() -> bool:
            if not path.exists():
                return False
            if Record.read(path).facts.get("of") != of:
                raise ValueError(f"{path} must be of the same images as {name}, got others: its folder has changed")
            return True

        if self.ranks.from_first(f"looking for {name}", left):
            return Record.read(path) if self.ranks.rank == 0 else None
        record = compute()
        if record is not None:
            record.facts["of"] = of
            record.write(path)
        return record

    def write(self, lines: Iterable[Figure]) -> list[Figure]:
        """results.jsonl: a line with the run's settings, and ``lines``. On the first rank alone."""
        whole = [{"kind": "run", **self.settings}, *lines]
        content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in whole).encode()
        write_whole(self.folder / LINES, lambda file: file.write(content))
        return whole


def read_settings(folder: Path) -> dict[str, Any]:
    """Of a run.

    Raises:
        ValueError: they are damaged.
        FileNotFoundError: it is no folder of a run.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} must be the folder of an evaluation, got one without {SETTINGS}")
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise ValueError(f"{path} must hold a run's settings in JSON, got {error}") from error
    return found


def read_lines(folder: Path) -> list[Figure]:
    """results.jsonl.

    Raises:
        ValueError: it is damaged.
        FileNotFoundError: it is missing.
    """
    path = folder / LINES
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be the results of an evaluation, got none")
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON lines, got {error}") from error
