"""Invariance, from a model and folders to figures: every rank calls it; the first one writes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dali_icgan.augment import DAICGAN
from dali_icgan.data import as_samples
from dali_icgan.evaluate import invariance as formulas
from dali_icgan.evaluate.classify import Figure, figure
from dali_icgan.evaluate.metrics import bootstrap
from dali_icgan.evaluate.record import SCORE, Record
from dali_icgan.evaluate.results import Results
from dali_icgan.evaluate.rows import Arrays, How, features
from dali_icgan.evaluate.run import finish, settings_of
from dali_icgan.evaluate.sets import ImageSet


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
    return finish(results, lines)


def _unlabelled(name: str, folder: Path) -> ImageSet:
    samples = as_samples(folder)
    return ImageSet(name, samples, tuple((i,) for i in range(len(samples.classes or []))))


def _measured(
    results: Results, how: How, images: ImageSet, asked: Invariance, over: tuple[DAICGAN | None] | None
) -> list[Figure]:
    """Lines of one kind of invariance: within folders, or (``over``) between images and their views."""

    def compute() -> Record | None:
        h = features(how, images.samples, how.transform(), images.name)
        columns: Arrays = {"h": h, "label": images.samples.labels}
        if over is not None:
            transform = how.train_transform(asked.scale) if over[0] is None else how.transform()
            more = {"views": asked.views, "augment": over[0], "seed": asked.seed}
            views = features(how, images.samples, transform, f"views of {images.name}", **more)
            if views is not None:
                columns["views"] = views.reshape(len(views), asked.views, -1)
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
