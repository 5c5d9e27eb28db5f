"""What a classifier says of every image of a set, and the figures of that."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dali_icgan.evaluate.metrics import Interval, by_class, mean, proportion, reliability
from dali_icgan.evaluate.record import SCORE, Record
from dali_icgan.evaluate.rows import How, through
from dali_icgan.evaluate.sets import ImageSet

_TOP = 5
Figure = dict[str, Any]


def answers(logits: Tensor, among: Tensor | None = None) -> dict[str, Tensor]:
    """The likeliest classes and how sure the model is.

    Args:
        logits: floating point ``[n, classes]``.
        among: int64, the only classes that are asked about; None: all.

    Returns:
        "top": int64 ``[n, 5]`` (fewer where there are fewer classes), the likeliest first, of equally likely ones the first;
        "confidence": float64 ``[n]``, the softmax of the first.
    """
    chosen = logits.double() if among is None else logits[:, among].double()
    order = chosen.sort(dim=1, descending=True, stable=True).indices[:, :_TOP]
    top = order if among is None else among[order]
    return {"top": top, "confidence": chosen.softmax(1).amax(1)}


def classify(how: How, images: ImageSet) -> Record | None:
    """Every image through the model once; the record is on the first rank, None on the others.

    Raises:
        ValueError: the model has too few classes.
        DecodeError: an image cannot be read.
    """
    needed = max(each for classes in images.right for each in classes) + 1
    if how.model.classes < needed or (images.among is not None and how.model.classes != 1000):
        raise ValueError(
            f"{images.name} needs a model of ImageNet's 1000 classes, got {how.model.name} of {how.model.classes}"
        )
    among = None if images.among is None else torch.tensor(images.among, device=how.model.device)

    def say(pixels: Tensor) -> dict[str, Tensor]:
        logits = how.model.logits(pixels)
        said = answers(logits)
        if among is not None:
            said |= {f"{name}/among": tensor for name, tensor in answers(logits, among).items()}
        return said

    found = through(how, say, images.samples, how.transform(images.cropped), images.name)
    return None if found is None else scored(images, found, how.model.classes)


def scored(images: ImageSet, found: dict[str, npt.NDArray[Any]], classes: int) -> Record:
    """The record of answers: which are right."""
    labels = images.samples.labels
    width = max(map(len, images.right))
    right = np.full((len(images.right), width), -1)
    for label, each in enumerate(images.right):
        right[label, : len(each)] = each
    columns = {"label": labels, **found}
    ways = {"": classes} | ({} if images.among is None else {"/among": len(images.among)})
    for suffix, count in ways.items():
        hits = (found[f"top{suffix}"][:, :, None] == right[labels][:, None, :]).any(2)
        columns[f"{SCORE}{name_of('top1', count)}"] = hits[:, 0].astype(np.uint8)
        if count > _TOP:
            columns[f"{SCORE}{name_of('top5', count)}"] = hits.any(1).astype(np.uint8)
    facts = {
        "classes": images.samples.classes,
        "ways": ways[""],
        "among": ways.get("/among"),
        "there": sum(map(bool, images.right)),
        "whole": images.whole,
    }
    return Record(images.name, images.samples.keys, columns, facts)


def name_of(figure: str, ways: int) -> str:
    """Such as "top1 (200-way)"."""
    return f"{figure} ({ways}-way)"


def figure(of: str, name: str, found: Interval | float, n: int, **more: Any) -> Figure:
    """A line of results.jsonl."""
    if isinstance(found, Interval):
        return {"kind": "figure", "set": of, "figure": name, "value": found.value, "low": found.low, "high": found.high, "images": n, **more}  # fmt: skip
    return {"kind": "figure", "set": of, "figure": name, "value": found, "images": n, **more}


def figures(record: Record) -> list[Figure]:
    """Accuracy (the authors' number of ways first), its mean over classes, calibration; and what their plots are drawn from."""
    n = len(record)
    lines: list[Figure] = []
    if record.facts["there"] < record.facts["whole"]:
        said = f"{record.facts['there']} of its {record.facts['whole']} classes are there"
        lines.append({"kind": "note", "set": record.set, "text": said})
    ways = [(record.facts["among"], "/among"), (record.facts["ways"], "")]
    for count, suffix in [each for each in ways if each[0] is not None]:
        right = record.columns[f"{SCORE}{name_of('top1', count)}"].astype(bool)
        lines.append(figure(record.set, name_of("top1", count), proportion(right), n))
        top5 = record.columns.get(f"{SCORE}{name_of('top5', count)}")
        if top5 is not None:
            lines.append(figure(record.set, name_of("top5", count), proportion(top5.astype(bool)), n))
        if suffix == ways[0][1] or ways[0][0] is None:
            images, correct = by_class(record.columns["label"], right, len(record.facts["classes"]))
            there = np.flatnonzero(images)
            shares = [int(correct[i]) / int(images[i]) for i in there]
            lines.append(figure(record.set, f"mean over classes of {name_of('top1', count)}", mean(shares), n))
            names = [record.facts["classes"][i] for i in there]
            lines.append(
                {
                    "kind": "classes",
                    "set": record.set,
                    "figure": name_of("top1", count),
                    "names": names,
                    "images": images[there].tolist(),
                    "right": correct[there].tolist(),
                }
            )
        confidence = record.columns.get(f"confidence{suffix}")
        if confidence is not None:
            found = reliability(confidence, right)
            lines.append(figure(record.set, name_of("ECE", count), found.error, n))
            lines.append(
                {
                    "kind": "reliability",
                    "set": record.set,
                    "figure": name_of("ECE", count),
                    "images": found.images.tolist(),
                    "confidence": found.confidence.tolist(),
                    "accuracy": found.accuracy.tolist(),
                }
            )
    return lines
