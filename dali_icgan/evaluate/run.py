"""Whole evaluations: from a model and folders to figures in results.jsonl. Every rank calls them; the first one writes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dali_icgan.augment import DAICGAN
from dali_icgan.data import as_samples
from dali_icgan.evaluate import invariance as formulas
from dali_icgan.evaluate.classify import Figure, classify, figure, figures, scored
from dali_icgan.evaluate.corruption import corrupted, library_version
from dali_icgan.evaluate.metrics import bootstrap, corruption_errors, mean, mean_corruption_error
from dali_icgan.evaluate.probe import linear_probe, nearest_neighbours
from dali_icgan.evaluate.record import SCORE, Record
from dali_icgan.evaluate.results import Results
from dali_icgan.evaluate.rows import Arrays, How, through
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
    return _finish(results, _classified(results, how, [images]))


def read_classes(path: Path) -> dict[str, int]:
    """Folder names by line.

    Raises:
        ValueError: a name is empty or comes twice.
    """
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
    return _finish(results, [*lines, *_summed_up(_classified(results, how, images))])


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


def _finish(results: Results, lines: list[Figure]) -> list[Figure] | None:
    return results.write(lines) if results.ranks.rank == 0 else None


# ---------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Knn:
    """Weighted nearest neighbours: how many, and the temperature of their votes."""

    k: int = 200
    temperature: float = 0.07


@dataclass(frozen=True)
class Linear:
    """A linear classifier: passes over the features, images a step, the rate for 256 of them, and the seed of weights and order."""

    epochs: int = 90
    batch_size: int = 256
    lr: float = 0.1
    seed: int = 0


def evaluate_probe(
    how: How, train: Path, test: Path, out: Path, probe: Knn | Linear, limit: int | None = None
) -> list[Figure] | None:
    """What a simple classifier makes of frozen features.

    Args:
        train: images with labels, one subfolder a class.
        test: images to be classified; its subfolders are some of ``train``'s, by name.
        limit: so many images of each, evenly spaced; None: all.

    Returns:
        as :func:`evaluate_imagenet`.
    """
    command = "knn" if isinstance(probe, Knn) else "linear"
    names = as_samples(train).classes or []
    known = {name: i for i, name in enumerate(names)}
    labelled = folder_set("train", train, known).limited(limit)
    images = folder_set("test", test, known).limited(limit)
    settings = settings_of(command, how, limit, train=str(train), test=str(test), **vars(probe))
    results = Results(out, settings, how.ranks)

    def compute() -> Record | None:
        bank, asked = features(how, labelled), features(how, images)
        if bank is None or asked is None:
            return None
        labels = labelled.samples.labels
        with how.ranks.together(command):
            if isinstance(probe, Knn):
                said = nearest_neighbours(bank, labels, asked, len(known), probe.k, probe.temperature)
            else:
                said = linear_probe(bank, labels, asked, len(known), device=how.model.device, **vars(probe))
        return scored(images, said, len(known))

    of = f"{labelled.samples.fingerprint}/{images.samples.fingerprint}"
    record = results.record("test", of, compute)
    how.ranks.barrier(command)
    return _finish(results, [] if record is None else figures(record))


def features(how: How, images: ImageSet) -> Any:
    """Float32 ``[n, dim]`` of the centre crops, on the first rank; None on the others."""
    found = through(how, _features(how), images.samples, how.transform(images.cropped), f"features of {images.name}")
    return None if found is None else found["h"]


def _features(how: How) -> Any:
    return lambda pixels: {"h": how.model.features(pixels).float()}


# ---------------------------------------------------------------------- invariance


@dataclass(frozen=True)
class Invariance:
    """What is measured beside cosine and retrieval.

    Attributes:
        views: augmented or generated images of each.
        scale: share of the area that augmentation crops to.
        rate: the global firing rate of units, the one that the figure is of.
        k: how many units the figure is of.
        seed: of crops and of the generator's noise.
    """

    views: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    rate: float = 0.01
    k: int = 25
    seed: int = 0


def evaluate_invariance(
    how: How,
    out: Path,
    *,
    data: Path | None = None,
    viewpoints: Path | None = None,
    augment: DAICGAN | None = None,
    measure: Invariance | None = None,
    limit: int | None = None,
) -> list[Figure] | None:
    """Invariance to instance, augmentation and generation, and to viewpoint.

    Args:
        data: images, one subfolder a class: for all but viewpoint.
        viewpoints: views, one subfolder an object.
        augment: makes the generations, with p = 1; None: generation is not measured.
        limit: so many images of each folder, evenly spaced; None: all.

    Returns:
        as :func:`evaluate_imagenet`.
    """
    asked = measure or Invariance()
    if data is None and viewpoints is None:
        raise ValueError("data or viewpoints must be given, got neither")
    if augment is not None and (augment.p_of(0) != 1 or data is None):
        raise ValueError(f"augment must replace every image (p = 1) of data, got p = {augment.p_of(0)}, data = {data}")
    folders = {"instance": data, "viewpoint": viewpoints}
    more = {
        "data": None if data is None else str(data),
        "viewpoints": None if viewpoints is None else str(viewpoints),
        "generator": None if augment is None else repr(augment),
        **vars(asked),
        "scale": list(asked.scale),
    }
    results = Results(out, settings_of("invariance", how, limit, **more), how.ranks)
    lines: list[Figure] = []
    for name, folder in folders.items():
        if folder is None:
            lines.append({"kind": "missing", "set": name})
            continue
        images = _unlabelled(name, folder).limited(limit)
        lines += _measured(results, how, images, asked, None)
    for name, replaced in (("augmentation", None), ("generation", augment)):
        if data is None or (name == "generation" and augment is None):
            lines.append({"kind": "missing", "set": name})
            continue
        lines += _measured(results, how, _unlabelled(name, data).limited(limit), asked, (replaced,))
    return _finish(results, lines)


def _unlabelled(name: str, folder: Path) -> ImageSet:
    samples = as_samples(folder)
    return ImageSet(name, samples, tuple((i,) for i in range(len(samples.classes or []))))


def _measured(
    results: Results, how: How, images: ImageSet, asked: Invariance, over: tuple[DAICGAN | None] | None
) -> list[Figure]:
    """Lines of one kind of invariance: within folders, or (``over``) between images and their views."""

    def compute() -> Record | None:
        h = features(how, images)
        columns: Arrays = {"h": h, "label": images.samples.labels}
        if over is not None:
            found = through(
                how,
                _features(how),
                images.samples,
                how.train_transform(asked.scale) if over[0] is None else how.transform(),
                f"features of {images.name}",
                views=asked.views,
                augment=over[0],
                seed=asked.seed,
            )
            if found is not None:
                columns["views"] = found["h"].reshape(len(found["h"]), asked.views, -1)
        if h is None:
            return None
        with how.ranks.together(images.name):
            return _alike(images, columns)

    record = results.record(images.name, images.samples.fingerprint, compute)
    how.ranks.barrier(images.name)
    return [] if record is None else _invariances(record, asked)


def _alike(images: ImageSet, columns: Arrays) -> Record:
    """The record: features, and cosine and retrieval of every image."""
    keys, h = images.samples.keys, columns["h"]
    if "views" in columns:
        u, views = formulas.unit(h), formulas.unit(columns["views"])
        scores = {
            "mean cosine": formulas.cosine_to_views(u, views),
            "retrieval R@1": formulas.retrieved_from_views(u, views).mean(1),
        }
        return Record(images.name, keys, columns | {SCORE + name: column for name, column in scores.items()})
    kept, groups = formulas.dense(columns["label"])
    if len(kept) < 2 or groups.max() < 1:
        raise ValueError(
            f"{images.name} needs two subfolders or more with two images or more, got {images.samples.name}"
        )
    u = formulas.unit(h[kept])
    scores = {
        "mean cosine": formulas.cosine_in_groups(u, groups),
        "retrieval R@1": formulas.retrieved_in_groups(u, groups).astype(np.uint8),
    }
    columns = {"h": h[kept], "group": groups, **{SCORE + name: column for name, column in scores.items()}}
    return Record(images.name, [keys[i] for i in kept], columns, {"alone": len(keys) - len(kept)})


def _invariances(record: Record, asked: Invariance) -> list[Figure]:
    n, h = len(record), record.columns["h"]
    groups, views = record.columns.get("group"), record.columns.get("views")
    lines = []
    for name, values in record.scores.items():
        found = bootstrap(values) if groups is None else formulas.over_groups(values, groups)
        lines.append(figure(record.set, name, found, n))
    curve = []
    # A unit that fires on one image alone has no other to fire on.
    rates = [rate for rate in sorted({*formulas.RATES, asked.rate}) if round(rate * n) >= 2]
    if asked.rate not in rates:
        said = f"units that fire on {100 * asked.rate:g} % of {n} images fire on fewer than two: no figure of firing at that rate"
        lines.append({"kind": "note", "set": record.set, "text": said})
    for rate in rates:
        if groups is None:
            assert views is not None
            firing = formulas.firing_over_views(h, views, rate, asked.k)
        else:
            firing = formulas.firing_in_groups(h, groups, rate, asked.k)
        curve.append(firing)
        if rate == asked.rate:
            said = f"top {min(asked.k, firing.units)} units at {100 * rate:g} %"
            lines.append(figure(record.set, f"firing over chance, {said}", firing.score, n))
            lines.append(figure(record.set, f"firing together, {said}", firing.local, n))
            if groups is not None:
                targets = formulas.firing_for_targets(h, groups, rate, asked.k)
                lines.append(figure(record.set, f"firing for its target over chance, {said}", bootstrap(targets), n))
    for name in ("score", "local") if curve else ():
        points = [[c.rate, getattr(c, name).value, getattr(c, name).low, getattr(c, name).high] for c in curve]
        lines.append({"kind": "curve", "set": record.set, "figure": name, "points": points})
    return lines
