"""``dali-icgan preview``."""

import copy
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.augment.operator import DAICGAN
from dali_icgan.augment.transform import EvalTransform, TrainTransform
from dali_icgan.cli.facts import megabytes, stranger, untrained
from dali_icgan.cli.page import Cell, Page, Row, Section
from dali_icgan.cli.preview_html import make_html
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
from dali_icgan.data import Samples, as_samples
from dali_icgan.data.files import IMAGE_EXTENSIONS
from dali_icgan.documents import read_json, shown
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.loader import DataLoader

EPOCHS, DRAWS = 3, 3  # training steps and whole generations shown of each sample
HTML_EPOCHS = 5  # to choose from, where one epoch is shown at a time
HTML_TRUNCATIONS = (0.3, 0.5, 0.7, 1.0)  # to choose from, and the one that is asked for


def run(
    folder: Path,
    out: Path | None,
    *,
    html: bool,
    generator: str,
    extractor: str | None,
    bank: Path | None,
    class_map: Path | None,
    settings: Mapping[str, Any],
    generated_scale: str | None,
    views: int | None,
    view_p: str | None,
    samples: int,
    size: int,
    epoch: int,
    seed: int,
    exif: bool,
    device: str | None,
) -> None:
    """Draw the page.

    Args:
        out: None: page.png, or preview.html with ``html``.
        html: write one that a browser shows, to choose in, instead of a picture.
        settings: as DAICGAN's arguments of these names, p and k perhaps None; the rest as the command's options.
    """
    out = out or Path("preview.html" if html else "page.png")
    check_page(out, ".html" if html else ".png")
    dataset = _dataset(folder)
    if bank is None and (settings["source"] == "neighbour" or settings["condition"] != "instance"):
        raise ValueError(
            "--bank must be given with --source neighbour and --condition neighbour or random: they look stored features up, which "
            "`dali-icgan features` makes; got none"
        )
    if extractor is None and bank is None:
        if generator != "embedded":
            raise ValueError(
                "--extractor or --bank must be given with --generator FILE: generations need features, got neither"
            )
        extractor = "embedded"
    p_of_views = None if view_p is None else _numbers("--view-p", view_p)
    scale = None if generated_scale is None else _numbers("--generated-scale", generated_scale)
    n_views = views or len(p_of_views or [0])
    if settings["p"] is None:
        settings = {**settings, "p": 0.5 if html else 1.0}
    if settings["k"] is None:
        others = 50 if bank is None else int(FeatureBank.open(bank).present.sum()) - 1
        settings = {**settings, "k": max(min(50, others), 1)}
    model = None if settings["source"] == "neighbour" else load_generator(generator, device)
    augment = DAICGAN(
        generator=model,
        extractor=None if extractor is None else load_extractor(extractor, device),
        bank=bank,
        class_map=None if class_map is None else read_class_map(class_map, dataset),
        view_p=p_of_views,
        generated_transform=None if scale is None else TrainTransform(size, scale=scale),  # type: ignore[arg-type]
        **settings,
    )
    note = "" if model is None else untrained(model) or stranger(model)
    title = f"{folder.resolve().name}: what training sees"
    common: dict[str, Any] = {"samples": samples, "seed": seed, "device": device, "views": n_views, "exif": exif}
    if html:
        first, truncation = range(epoch, epoch + HTML_EPOCHS), augment.truncation
        truncations = [truncation] if model is None else sorted({*HTML_TRUNCATIONS, truncation})
        text, count = make_html(
            dataset,
            augment,
            TrainTransform(size),
            title=title,
            epochs=first,
            truncations=truncations,
            note=note,
            **common,
        )
        out.write_text(text, encoding="utf-8")
        print(f"{out}: {megabytes(out.stat().st_size)}, {count} samples of {len(dataset)}; open it in a browser")
    else:
        epochs, draws = range(epoch, epoch + EPOCHS), 0 if model is None or n_views > 1 else DRAWS
        page, count = make_page(
            dataset, augment, TrainTransform(size), title=title, epochs=epochs, draws=draws, note=note, **common
        )
        page.draw().save(out)
        print(f"{out}: {page.width} x {page.height} px, {count} samples of {len(dataset)}")
    if note:
        print(note)


def check_page(out: Path, suffix: str = ".png") -> None:
    """Say what is wrong with the page's path before minutes are spent on it."""
    if out.suffix.lower() != suffix:
        raise ValueError(f"--out must end in {suffix}, got {out}")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out must be in an existing folder, and there is no {out.absolute().parent}")


def read_class_map(file: Path, dataset: Samples) -> list[int]:
    """The generator's class of each class of the dataset, from a JSON object ``{"folder name": class}``.

    Raises:
        ValueError: it is no such object, or its names are not the dataset's.
    """
    found = read_json(file, "a class map")
    if not isinstance(found, dict) or not all(type(number) is int and 0 <= number < 2**31 for number in found.values()):
        raise ValueError(
            f'--class-map must be an object {{"folder name": class, ...}} of integers from 0, got another in {file}'
        )
    names = dataset.classes or []
    if set(found) != set(names):
        lacking, strange = sorted(set(names) - set(found)), sorted(set(found) - set(names))
        raise ValueError(
            f"--class-map must name the folders of {dataset.name}, got none for {shown(lacking)}, too many {shown(strange)} in {file}"
        )
    return [found[name] for name in names]


def make_page(
    dataset: Samples,
    augment: DAICGAN,
    transform: TrainTransform,
    *,
    title: str,
    samples: int,
    epochs: range,
    draws: int,
    seed: int,
    device: str | None,
    groups: int = 1,
    views: int = 1,
    exif: bool = False,
    note: str = "",
) -> tuple[Page, int]:
    """A page of some samples: the original, its neighbours where they matter, what training steps see in some epochs, whole
    generations.

    Args:
        samples: how many, spread evenly over the classes.
        draws: in how many of the epochs, from the first, the generation of view 0 is shown whole as well, whether or not it took the
            image's place.
        seed: of the choice of samples, and the loader's.
        groups: blocks of rows side by side.
        views, exif: as the loader's.
        note: said in a box, unless there is a graver thing to say.

    Returns:
        the page, and how many samples are on it.
    """
    binding = augment.bind(dataset, seed, exif)
    chosen, originals = readable(dataset, samples, seed, exif)
    size = transform.output_size
    rows: list[list[Cell | None]] = [[Cell(pixels)] for pixels in originals]
    sections = [Section("", ["original"])]
    if "neighbour" in (augment.condition, augment.source):
        cells, heading = neighbours(augment, binding, BankImages(dataset, augment, binding, exif), chosen)
        sections.append(Section(heading, [str(i + 1) for i in range(len(cells[0]))]))
        for row, found in zip(rows, cells, strict=True):
            row.extend(found)
    with DataLoader(
        dataset, augment=augment, transform=transform, views=views, seed=seed, exif=exif, device=device
    ) as loader:
        for view in range(views):
            sections += _sections(augment, epochs, view, views)
            for epoch in epochs:
                _add(rows, seen(loader, dataset, augment, binding, epoch, view, chosen))
    if draws:
        always = copy.copy(augment)  # the same settings, and so the same generations
        always.p, always.view_p, always.generated_transform = 1.0, None, None
        sections.append(Section("the generations, whole", [f"epoch {epoch}" for epoch in epochs[:draws]]))
        whole = EvalTransform(size, size)
        with DataLoader(dataset, augment=always, transform=whole, seed=seed, exif=exif, device=device) as loader:
            for epoch in epochs[:draws]:
                _add(rows, seen(loader, dataset, always, binding, epoch, 0, chosen))
    p = "the probability p above its column"
    if augment.view_p is None and not callable(augment.p):
        p = f"probability {augment.p:g}"
    lines = [f"Each row is one image. In every epoch it is {replacement(augment, transform, p)}"]
    page = Page(
        title,
        lines + [line for line in [made_by(augment, seed, f"{augment.truncation:g}")] if line],
        warning(augment) or note,
        (
            f"{'generated' if augment.source == 'generator' else 'a neighbour'}: takes the photograph's place",
            "the photograph, as training crops it",
        ),
        sections,
        [_row(dataset, index, cells) for index, cells in zip(chosen, rows, strict=True)],
        side=size * max(96 // size, 1),
        groups=groups,
    )
    return page, len(chosen)


def _add(rows: list[list[Cell | None]], column: Sequence[Seen]) -> None:
    for row, one in zip(rows, column, strict=True):
        row.append(Cell(one.pixels, one.replaced, one.note))


def _sections(augment: DAICGAN, epochs: range, view: int, views: int) -> list[Section]:
    """A view's columns; those of the same p under one heading."""
    groups = [(p, list(group)) for p, group in groupby(epochs, lambda epoch: augment.p_of(epoch, view))]
    what = f"view {view}, " if views > 1 else "what the training step sees, " if len(groups) == 1 else ""
    return [Section(f"{what}p = {p:g}", [f"epoch {epoch}" for epoch in group]) for p, group in groups]


def _row(dataset: Samples, index: int, cells: Sequence[Cell | None]) -> Row:
    name = class_name(dataset, dataset.labels[index])
    return Row(name, f"sample {index}: {Path(dataset.path(index)).name}", cells)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, got {text!r}") from None


def _dataset(folder: Path) -> Samples:
    """A class a subfolder, or, for a look only, a flat folder of images."""
    if folder.is_dir() and not any(entry.is_dir() for entry in folder.iterdir()):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_EXTENSIONS)
        if files:
            samples = as_samples([(file, 0) for file in files])
            samples.classes, samples.name = [folder.resolve().name], str(folder)
            return samples
    return as_samples(folder)
