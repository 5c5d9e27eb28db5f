"""Two models on the same images: paired differences from what their runs left of every image."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dali_icgan.evaluate.classify import Figure
from dali_icgan.evaluate.invariance import over_groups
from dali_icgan.evaluate.metrics import bootstrap, mcnemar
from dali_icgan.evaluate.record import Record
from dali_icgan.evaluate.results import PREDICTIONS, Results, read_settings
from dali_icgan.ranks import Ranks


def compare(a: Path, b: Path, out: Path) -> list[Figure]:
    """Differences B - A of every figure that both runs have of every image, with intervals.

    Args:
        a, b: folders of two runs.
        out: the folder for results, new or empty.

    Returns:
        the lines of results.jsonl: of each set and figure both means, the difference with the interval of the paired bootstrap (images,
        or whole groups of them, are drawn anew, the same for both models), and for right and wrong the exact p of McNemar's test.

    Raises:
        ValueError: a set's images are not the same in both, the runs have no set in common, or ``out`` is one of them.
    """
    if out.resolve() in (a.resolve(), b.resolve()):
        raise ValueError(f"out must be another folder than the runs', got {out}")
    settings = {
        "command": "compare",
        "a": read_settings(a)["model"],
        "b": read_settings(b)["model"],
        "runs": [str(a), str(b)],
    }
    names = [_records(folder) for folder in (a, b)]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        raise ValueError(
            f"the runs must have a set in common, got {', '.join(names[0])} in {a} and {', '.join(names[1])} in {b}"
        )
    lines: list[Figure] = []
    # Corruptions of one set are one line: an image in 75 versions is still one image.
    for name, parts in groupby(common, lambda each: each.split("/")[0]):
        pairs = [_paired(Record.read(names[0][part]), Record.read(names[1][part])) for part in parts]
        lines += _differences(name, pairs)
    for mine, other in ((0, 1), (1, 0)):
        lines += [
            {"kind": "missing", "set": name, "from": "AB"[other]} for name in names[mine] if name not in names[other]
        ]
    return Results(out, settings, Ranks()).write(lines)


def _records(folder: Path) -> dict[str, Path]:
    root = folder / PREDICTIONS
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.safetensors"))}


def _paired(a: Record, b: Record) -> tuple[Record, Record, npt.NDArray[np.int64]]:
    """Two records of the same images, and the row of ``b`` for each row of ``a``."""
    rows = {key: row for row, key in enumerate(b.keys)}
    strange = [key for key in a.keys if key not in rows]
    if strange or len(a) != len(b):
        other = strange[0] if strange else next(iter(set(b.keys) - set(a.keys)), b.keys[0])
        raise ValueError(
            f"{a.set} must be the same images in both runs, got {len(a)} and {len(b)}; only one of them has {other}"
        )
    return a, b, np.array([rows[key] for key in a.keys])


def _differences(name: str, pairs: list[tuple[Record, Record, npt.NDArray[np.int64]]]) -> Iterator[Figure]:
    for figure in [each for each in pairs[0][0].scores if each in pairs[0][1].scores]:
        of_a = np.concatenate([a.scores[figure] for a, _, _ in pairs])
        of_b = np.concatenate([b.scores[figure][rows] for _, b, rows in pairs])
        difference = of_b - of_a
        if len(pairs) > 1:
            of_key: dict[str, int] = {}
            groups = np.array([of_key.setdefault(key, len(of_key)) for a, _, _ in pairs for key in a.keys])
            found = over_groups(difference, groups)
        elif "group" in pairs[0][0].columns:
            found = over_groups(difference, pairs[0][0].columns["group"])
        else:
            found = bootstrap(difference)
        line = {
            "kind": "difference",
            "set": name if len(pairs) == 1 else f"{name}, all {len(pairs)}",
            "figure": figure,
            "a": float(of_a.mean()),
            "b": float(of_b.mean()),
            "difference": found.value,
            "low": found.low,
            "high": found.high,
            "images": len(difference),
        }
        if len(pairs) == 1 and set(np.unique([of_a, of_b])) <= {0.0, 1.0} and "group" not in pairs[0][0].columns:
            only_a, only_b = int((difference < 0).sum()), int((difference > 0).sum())
            line |= {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)}
        yield line
