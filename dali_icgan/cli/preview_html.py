"""The page of ``dali-icgan preview --html``: one file, in which a person picks an image, p, truncation and epoch.

Everything that can be picked is computed here: the page computes nothing but ``u < p``. Of each sample it holds u, which the plan compares
with p, and the row of training in both cases; so what it shows at any p is what a loader with this seed and p delivers.
"""

import base64
import copy
import hashlib
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_icgan.augment.operator import DAICGAN
from dali_icgan.augment.plan import RowKeys, Stream
from dali_icgan.augment.transform import EvalTransform, TrainTransform
from dali_icgan.cli.page import Cell, Pixels
from dali_icgan.cli.preview_rows import (
    BankImages,
    Seen,
    class_name,
    made_by,
    neighbours,
    readable,
    replacement,
    seen,
    warning,
)
from dali_icgan.data import Samples
from dali_icgan.loader import DataLoader
from dali_icgan.ops.uniform import uniform

QUALITY = 90  # of WebP, of 100
LONGEST = 448  # pixels of a photograph's longer side; a larger one is reduced


@dataclass(frozen=True)
class Grid:
    """All that the page can show of some samples.

    Attributes:
        u: ``[views, epochs, n]``, what the plan compares with p: replaced if and only if u < p.
        real: of a view, of an epoch: the rows that are not replaced.
        made: of a view, of an epoch, of a truncation: the rows that are.
        whole: as ``made``: what takes the photograph's place, before the crop; uint8 ``[h, w, 3]``.
    """

    u: npt.NDArray[np.float64]
    real: list[list[list[Seen]]]
    made: list[list[list[list[Seen]]]]
    whole: list[list[list[list[Pixels]]]]


def make_grid(
    dataset: Samples,
    augment: DAICGAN,
    transform: TrainTransform,
    chosen: Sequence[int],
    *,
    epochs: range,
    truncations: Sequence[float],
    seed: int,
    device: str | None,
    views: int,
    exif: bool,
) -> Grid:
    """Compute the rows of some samples, with the loader itself: replaced and not, and what replaces them."""
    binding = augment.bind(dataset, seed, exif)
    index = np.array(chosen)

    def rows(changed: DAICGAN, how: TrainTransform | EvalTransform) -> list[list[list[Seen]]]:
        with DataLoader(
            dataset, augment=changed, transform=how, views=views, seed=seed, exif=exif, device=device
        ) as loader:
            return [
                [seen(loader, dataset, changed, binding, epoch, view, chosen) for epoch in epochs]
                for view in range(views)
            ]

    def draw(view: int, epoch: int) -> npt.NDArray[np.float64]:
        return uniform(RowKeys(seed, epoch, index, np.zeros_like(index), view), Stream.REPLACE)[:, 0]

    u = np.array([[draw(view, epoch) for epoch in epochs] for view in range(views)])
    real = rows(_with(augment, p=0.0, view_p=None), transform)
    every = [_with(augment, p=1.0, view_p=None, truncation=truncation) for truncation in truncations]
    made = [rows(each, transform) for each in every]
    if augment.source == "generator":
        assert augment.generator is not None
        whole = EvalTransform(augment.generator.resolution, augment.generator.resolution)
        before = [
            [[[row.pixels for row in found] for found in view] for view in rows(each, whole)]
            for each in (_with(each, generated_transform=None) for each in every)
        ]
    else:
        images = BankImages(dataset, augment, binding, exif)
        before = [
            [[[images.cell(row.bank_row).pixels for row in found] for found in view] for view in each] for each in made
        ]
    return Grid(u, real, _truncation_last(made), _truncation_last(before))


def make_html(
    dataset: Samples,
    augment: DAICGAN,
    transform: TrainTransform,
    *,
    title: str,
    samples: int,
    epochs: range,
    truncations: Sequence[float],
    seed: int,
    device: str | None,
    views: int = 1,
    exif: bool = False,
    note: str = "",
) -> tuple[str, int]:
    """The page's text: HTML with everything inside, pictures too.

    Args:
        samples: how many, spread evenly over the classes.
        epochs: to choose from.
        truncations: to choose from, the augmentation's own among them. In retrieval, which has none, that alone.
        seed: of the choice of samples, and the loader's.
        views, exif: as the loader's.
        note: said in a box, unless there is a graver thing to say.

    Returns:
        the text, and how many samples are on the page.
    """
    binding = augment.bind(dataset, seed, exif)
    chosen, originals = readable(dataset, samples, seed, exif)
    near: list[list[Cell | None]] = [[] for _ in chosen]
    heading = ""
    if "neighbour" in (augment.condition, augment.source):
        near, heading = neighbours(augment, binding, BankImages(dataset, augment, binding, exif), chosen)
    grid = make_grid(
        dataset,
        augment,
        transform,
        chosen,
        epochs=epochs,
        truncations=truncations,
        seed=seed,
        device=device,
        views=views,
        exif=exif,
    )
    data = {
        "title": title,
        "lead": f"In every epoch an image is {replacement(augment, transform, 'probability p')}",
        "made_by": made_by(augment, seed, "as picked") or f"Seed {seed}.",
        "warning": warning(augment) or note,
        "generated": augment.source == "generator",
        "size": transform.size,
        "epochs": list(epochs),
        "truncations": list(truncations),
        "views": views,
        "p": [augment.p_of(epochs[0], view) for view in range(views)],
        "truncation": augment.truncation,
        "neighbours": heading,
        "samples": [
            {
                "index": index,
                "name": class_name(dataset, dataset.labels[index]),
                "file": Path(dataset.path(index)).name,
                "original": _picture(original),
                "near": [{**_picture(cell.pixels), "note": cell.note} for cell in cells if cell is not None],
                "views": [[_epoch(grid, view, e, i) for e in range(len(epochs))] for view in range(views)],
            }
            for i, (index, original, cells) in enumerate(zip(chosen, originals, near, strict=True))
        ],
    }
    return fill(resources.files("dali_icgan.cli").joinpath("preview.html").read_text("utf-8"), title, data), len(chosen)


def fill(template: str, title: str, data: Any) -> str:
    """The page of a template: its title, its data, and a policy that lets it run its own script and style and load nothing."""
    # In JSON a "<" can only stand in a string; written so, none of them can end the element.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    allowed = {name: _sha256(template, name) for name in ("script", "style")}
    policy = f"default-src 'none'; img-src data:; script-src {allowed['script']}; style-src {allowed['style']}; base-uri 'none'"
    values = {"POLICY": policy, "TITLE": html.escape(title).encode("ascii", "xmlcharrefreplace").decode(), "DATA": text}
    return re.sub("{{(POLICY|TITLE|DATA)}}", lambda found: values[found[1]], template)


def _sha256(template: str, element: str) -> str:
    """The one element of this name without attributes, as a content security policy names it."""
    (inside,) = re.findall(f"<{element}>(.*?)</{element}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def _with(augment: DAICGAN, **changes: Any) -> DAICGAN:
    """The same but for some settings; what they do not touch is drawn the same."""
    other = copy.copy(augment)
    for name, value in changes.items():
        assert hasattr(other, name)
        setattr(other, name, value)
    return other


def _truncation_last(each: list[list[list[Any]]]) -> list[list[list[Any]]]:
    """[truncation][view][epoch] -> [view][epoch][truncation]."""
    return [[list(of_epoch) for of_epoch in zip(*of_view, strict=True)] for of_view in zip(*each, strict=True)]


def _epoch(grid: Grid, view: int, epoch: int, i: int) -> dict[str, Any]:
    """One sample in one epoch and view."""
    real = grid.real[view][epoch][i]
    made = [rows[i] for rows in grid.made[view][epoch]]
    whole = [rows[i] for rows in grid.whole[view][epoch]]
    # Of all truncations alike: where it is cropped, its label, and what the note says.
    return {
        "u": float(grid.u[view, epoch, i]),
        "real": {"row": _picture(real.pixels)["src"], "label": real.label, "box": real.box, "flip": real.flip},
        "made": {
            "box": made[0].box,
            "flip": made[0].flip,
            "label": made[0].label,
            "note": made[0].note,
            "rows": [_picture(row.pixels)["src"] for row in made],
            "whole": [_picture(pixels) for pixels in whole],
        },
    }


def _picture(pixels: Pixels) -> dict[str, Any]:
    """A picture as the page holds it: a data URL, and height and width of what it was made of."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, method=4)
    source = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"src": source, "height": pixels.shape[0], "width": pixels.shape[1]}
