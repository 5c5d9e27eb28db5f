"""Whole evaluations of classifiers: from a model and folders to figures in results.jsonl. Every rank calls them; the first one writes.

Those of features are in ``run_probe.py`` and ``run_invariance.py``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dali_icgan.evaluate.classify import Figure, classify, figure, figures
from dali_icgan.evaluate.corruption import corrupted, library_version
from dali_icgan.evaluate.metrics import corruption_errors, mean, mean_corruption_error
from dali_icgan.evaluate.results import Results
from dali_icgan.evaluate.rows import How
from dali_icgan.evaluate.sets import CORRUPTIONS, SEVERITIES, ImageSet, find_sets, folder_set, imagenet_classes

_CORRUPTED = "corrupted"


def settings_of(command: str, how: How, limit: int | None, **more: Any) -> dict[str, Any]:
    """What a run's figures depend on."""
    model = how.model
    return {
        "command": command,
        "model": model.name,
        "weights": model.digest,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "resize": how.resize,
        "crop": how.crop,
        "exif": how.exif,
        "limit": limit,
        **more,
    }


def evaluate_imagenet(
    how: How, data: Path, out: Path, classes: Path | None = None, limit: int | None = None
) -> list[Figure] | None:
    """Accuracy and calibration on a folder with one subfolder a class.

    Args:
        data: subfolders are WordNet ids, or the names in ``classes``.
        classes: a text file, a folder's name a line, in the order of the model's outputs; None: ImageNet's 1000.
        limit: so many images, evenly spaced; None: all.

    Returns:
        the lines of results.jsonl; None but on the first rank.
    """
    known = imagenet_classes() if classes is None else read_classes(classes)
    if len(known) != how.model.classes:
        raise ValueError(
            f"model must have the {len(known)} classes of {classes or 'ImageNet'}, got {how.model.name} of {how.model.classes}"
        )
    images = folder_set("imagenet" if classes is None else data.name, data, known).limited(limit)
    results = Results(out, settings_of("imagenet", how, limit, data=str(data), classes=list(known)), how.ranks)
    return finish(results, _classified(results, how, [images]))


def read_classes(path: Path) -> dict[str, int]:
    """Folder names by line.

    Raises:
        ValueError: a name is empty or comes twice.
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"classes must be a file, got {path}, which is none")
    names = path.read_text().splitlines()
    if not names or len(set(names)) < len(names) or not all(names):
        raise ValueError(f"{path} must hold a folder's name a line, each once, got {len(names)} lines, {len(set(names))} of them different")  # fmt: skip
    return {name: i for i, name in enumerate(names)}


def evaluate_robustness(
    how: How,
    data: Path,
    out: Path,
    given: Mapping[str, Path] | None = None,
    corrupt: Path | None = None,
    limit: int | None = None,
) -> list[Figure] | None:
    """Accuracy on the sets of :data:`dali_icgan.evaluate.sets.ROBUSTNESS` that are there; those that are not are named.

    Args:
        data: a folder with one subfolder a set.
        given: folders of sets that lie elsewhere.
        corrupt: a folder of clean images, by WordNet id, that are corrupted as they are read.
        limit: so many images of each set (of each corruption and severity), evenly spaced; None: all.

    Returns:
        as :func:`evaluate_imagenet`.
    """
    found, missing = find_sets(data, given or {})
    images = [each.limited(limit) for sets in found.values() for each in sets]
    if corrupt is not None:
        clean = folder_set(corrupt.name, corrupt, imagenet_classes()).limited(limit)
        clean = ImageSet(_CORRUPTED, clean.samples, clean.right)
        images += [corrupted(clean, c, s, how.resize, how.crop) for c in CORRUPTIONS for s in SEVERITIES]
    more = {
        "data": str(data),
        "sets": {name: str(folder) for name, folder in (given or {}).items()},
        "corrupt": None if corrupt is None else str(corrupt),
        "corrupted_by": None if corrupt is None else library_version(),
    }
    results = Results(out, settings_of("robustness", how, limit, **more), how.ranks)
    lines: list[Figure] = [{"kind": "missing", "set": name} for name in missing]
    return finish(results, [*lines, *_summed_up(_classified(results, how, images))])


def _classified(results: Results, how: How, images: Iterable[ImageSet]) -> list[Figure]:
    lines: list[Figure] = []
    for each in images:
        record = results.record(each.name, each.samples.fingerprint, lambda each=each: classify(how, each))  # type: ignore[misc]
        if record is not None:
            lines += figures(record)
    return lines


def _summed_up(lines: list[Figure]) -> list[Figure]:
    """Lines of each corruption and severity as one line with all errors, mCE of the authors' files, and the plain mean."""
    kept = [line for line in lines if "/" not in line["set"]]
    for name in ("imagenet-c", _CORRUPTED):
        parts = [line for line in lines if line["set"].startswith(f"{name}/") and line["kind"] == "figure"]
        top1 = [line for line in parts if line["figure"].startswith("top1")]
        if not top1:
            continue
        error = {(line["set"].split("/")[1], int(line["set"].split("/")[2])): 1 - line["value"] for line in top1}
        n = sum(line["images"] for line in top1)
        partly = sum(line["set"].startswith(f"{name}/") and line["kind"] == "note" for line in lines)
        if partly:
            kept.append(
                {"kind": "note", "set": name, "text": f"classes are missing in {partly} of its {len(error)} parts"}
            )
        if name == "imagenet-c":
            mce = mean_corruption_error(error)
            if mce is not None:
                kept.append(figure(name, "mCE (AlexNet: 100)", mce, n, percent=True))
            absent = [f"{c}/{s}" for c in CORRUPTIONS for s in SEVERITIES if (c, s) not in error]
            if absent:
                kept.append({"kind": "absent", "set": name, "names": absent})
        kept.append(
            figure(
                name, f"mean top-1 error over {len(error)} corruptions and severities", mean(list(error.values())), n
            )
        )
        relative = corruption_errors(error) if name == "imagenet-c" else {}
        kept.append(
            {
                "kind": "corruptions",
                "set": name,
                "errors": [[c, s, e] for (c, s), e in error.items()],
                "relative": relative,
            }
        )
    return kept


def finish(results: Results, lines: list[Figure]) -> list[Figure] | None:
    """Written, on the first rank."""
    return results.write(lines) if results.ranks.rank == 0 else None
