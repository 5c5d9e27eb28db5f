"""``dali-icgan preview``."""

import copy
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.augment.operator import DAICGAN, Binding
from dali_icgan.augment.plan import RowKeys
from dali_icgan.augment.transform import EvalTransform, TrainTransform
from dali_icgan.cli.facts import stranger, untrained
from dali_icgan.cli.page import Cell, Page, Pixels, Row, Section, displayed
from dali_icgan.data import ImageDecoder, Samples, as_samples
from dali_icgan.data.dataset import read_source
from dali_icgan.data.files import IMAGE_EXTENSIONS
from dali_icgan.documents import read_json, shown
from dali_icgan.engine import Generator, load_extractor, load_generator
from dali_icgan.errors import DecodeError
from dali_icgan.loader import DataLoader

EPOCHS, DRAWS = 3, 3  # training steps and whole generations shown of each sample
NEIGHBOURS = 5  # shown at most of each sample, where neighbours matter


def run(
    folder: Path,
    out: Path,
    *,
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
        settings: as DAICGAN's arguments of these names; the rest as the command's options.
    """
    check_page(out)
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
    page, shown = make_page(
        dataset,
        augment,
        TrainTransform(size),
        title=f"{folder.resolve().name}: what training sees",
        samples=samples,
        epochs=range(epoch, epoch + EPOCHS),
        draws=0 if model is None or n_views > 1 else DRAWS,
        seed=seed,
        device=device,
        views=n_views,
        exif=exif,
        note=note,
    )
    page.draw().save(out)
    print(f"{out}: {page.width} x {page.height} px, {shown} samples of {len(dataset)}")
    if note:
        print(note)


def check_page(out: Path) -> None:
    """Say what is wrong with the page's path before minutes are spent on it."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {out}")
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
    chosen, originals = _readable(dataset, samples, seed, exif)
    size = transform.output_size
    rows: list[list[Cell | None]] = [[Cell(pixels)] for pixels in originals]
    sections = [Section("", ["original"])]
    if "neighbour" in (augment.condition, augment.source):
        neighbours, section = _neighbours(dataset, augment, binding, chosen, exif)
        sections.append(section)
        for row, found in zip(rows, neighbours, strict=True):
            row.extend(found)
    with DataLoader(
        dataset, augment=augment, transform=transform, views=views, seed=seed, exif=exif, device=device
    ) as loader:
        for view in range(views):
            sections += _sections(augment, epochs, view, views)
            for epoch in epochs:
                _add(rows, _seen(loader, dataset, augment, binding, epoch, view, chosen))
    if draws:
        always = copy.copy(augment)  # the same settings, and so the same generations
        always.p, always.view_p, always.generated_transform = 1.0, None, None
        sections.append(Section("the generations, whole", [f"epoch {epoch}" for epoch in epochs[:draws]]))
        whole = EvalTransform(size, size)
        with DataLoader(dataset, augment=always, transform=whole, seed=seed, exif=exif, device=device) as loader:
            for epoch in epochs[:draws]:
                _add(rows, _seen(loader, dataset, always, binding, epoch, 0, chosen))
    generator = augment.generator if augment.source == "generator" else None
    page = Page(
        title,
        _said(augment, transform, seed),
        _warning(augment, generator) or note,
        (
            f"{'a neighbour' if generator is None else 'generated'}: takes the photograph's place",
            "the photograph, as training crops it",
        ),
        sections,
        [_row(dataset, index, cells) for index, cells in zip(chosen, rows, strict=True)],
        side=size * max(96 // size, 1),
        groups=groups,
    )
    return page, len(chosen)


def _add(rows: list[list[Cell | None]], column: Sequence[Cell]) -> None:
    for row, cell in zip(rows, column, strict=True):
        row.append(cell)


def _sections(augment: DAICGAN, epochs: range, view: int, views: int) -> list[Section]:
    """A view's columns; those of the same p under one heading."""
    groups = [(p, list(group)) for p, group in groupby(epochs, lambda epoch: augment.p_of(epoch, view))]
    what = f"view {view}, " if views > 1 else "what the training step sees, " if len(groups) == 1 else ""
    return [Section(f"{what}p = {p:g}", [f"epoch {epoch}" for epoch in group]) for p, group in groups]


def _seen(
    loader: DataLoader,
    dataset: Samples,
    augment: DAICGAN,
    binding: Binding,
    epoch: int,
    view: int,
    chosen: Sequence[int],
) -> list[Cell]:
    """One column: what a training step is given, and of each replaced row what it was made of."""
    delivery = loader.replay_batch(epoch, chosen, view=view)
    images, replaced = delivery.images[0], delivery.info["replaced"]
    # A neighbour is normalised as the photograph that it is.
    style = augment.generated_in(view) if augment.source == "generator" else None
    real, made = displayed(images, loader.transform), displayed(images, style or loader.transform)
    index = np.array(chosen)
    keys = RowKeys(loader.seed, epoch, index, np.zeros_like(index), view)
    decision = augment.decide(binding, keys, dataset.labels[index], augment.p_of(epoch, view))
    y = augment.classes(binding, decision.label)
    cells = []
    for i, hit in enumerate(replaced):
        notes = []
        if hit and "neighbour" in (augment.condition, augment.source):
            assert augment.bank is not None
            assert binding.rows is not None
            near = augment.bank.neighbours(augment.k, augment.same_class)[binding.rows[index[i]]]
            notes.append(f"neighbour {np.flatnonzero(near == decision.row[i])[0] + 1}")
        elif hit and augment.condition == "random":
            assert augment.bank is not None
            notes.append(f"of {augment.bank.keys[decision.row[i]]}")
        if hit and augment.source == "generator" and y is not None:
            drawn = augment.labels == "random"
            notes.append(f"label: {_class_name(dataset, decision.label[i])}" if drawn else f"class {y[i]}")
        cells.append(Cell(made[i] if hit else real[i], bool(hit), ", ".join(notes)))
    return cells


def _neighbours(
    dataset: Samples, augment: DAICGAN, binding: Binding, chosen: Sequence[int], exif: bool
) -> tuple[list[list[Cell | None]], Section]:
    """The nearest neighbours of samples, whole, and their columns."""
    bank, shown = augment.bank, min(augment.k, NEIGHBOURS)
    assert bank is not None
    assert binding.rows is not None
    near = bank.neighbours(augment.k, augment.same_class)[binding.rows[np.array(chosen)], :shown]
    sample_of = {int(row): index for index, row in enumerate(binding.rows)}
    decoder = ImageDecoder(exif=exif)

    def cell(row: int) -> Cell | None:
        if row < 0:
            return None
        index = sample_of.get(row)
        source = augment.bank_source(row) if index is None else dataset.sources[index]
        pixels = decoder.decode([read_source(source)])[0]
        if isinstance(pixels, str):
            raise DecodeError(str(source), -1 if index is None else index, pixels)
        # The bank may have classes that this dataset lacks: their folders name them.
        name = Path(bank.keys[row]).parent.name if index is None else _class_name(dataset, dataset.labels[index])
        return Cell(pixels.numpy(), note=name)

    rows = [[cell(int(row)) for row in found] for found in near]
    of = " of its own class" if augment.same_class else ""
    which = f"its {shown} nearest" if shown == augment.k else f"the {shown} nearest of its {augment.k}"
    return rows, Section(f"{which} neighbours{of}", [str(i + 1) for i in range(shown)])


def _said(augment: DAICGAN, transform: TrainTransform, seed: int) -> list[str]:
    """What happens to an image, in sentences."""
    p = "the probability p above its column"
    if augment.view_p is None and not callable(augment.p):
        p = f"probability {augment.p:g}"
    neighbour = f"one of its {augment.k} nearest neighbours{' of its own class' if augment.same_class else ''}"
    generator = augment.generator if augment.source == "generator" else None
    if generator is None:
        what, more = neighbour, "A neighbour is a real photograph, and the label stays the image's own."
    else:
        of = {
            "instance": "its own features",
            "neighbour": f"the features of {neighbour}",
            "random": "the features of any image of the bank",
        }[augment.condition]
        what, more = f"a generation conditioned on {of}", ""
        if generator.class_conditional:
            drawn = (
                "a class drawn at random, which also becomes its label"
                if augment.labels == "random"
                else "its own class"
            )
            what += f" and on {drawn}"
    crop = f"{transform.size} px, area {_interval(transform)}"
    if isinstance(augment.generated_transform, TrainTransform):
        crop += f"; generations {_interval(augment.generated_transform)}"
    lines = [
        f"Each row is one image. In every epoch it is replaced with {p} by {what}, then cropped ({crop}), flipped and normalised. {more}"
    ]
    features = "stored features" if augment.bank is not None else "features of the image itself"
    if generator is not None:
        lines.append(
            f"Generator {Path(generator.source).name}, {generator.resolution} px, truncation {augment.truncation:g}, {features}, seed {seed}."
        )
    return lines


def _warning(augment: DAICGAN, generator: Generator | None) -> str:
    if generator is not None and (said := untrained(generator)):
        return said
    extractor = augment.extractor
    if extractor is not None and not extractor.trained:
        return f"extractor: {Path(extractor.source).name}, UNTRAINED random weights (what it calls near is alike in colour at best)"
    return ""


def _interval(transform: TrainTransform) -> str:
    return f"{transform.scale[0]:g} to {transform.scale[1]:g}"


def _class_name(dataset: Samples, label: int | np.int64) -> str:
    names = dataset.classes or []
    return names[label] if label < len(names) else f"class {label}"


def _row(dataset: Samples, index: int, cells: Sequence[Cell | None]) -> Row:
    name = _class_name(dataset, dataset.labels[index])
    return Row(name, f"sample {index}: {Path(dataset.path(index)).name}", cells)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, got {text!r}") from None


def _readable(dataset: Samples, count: int, seed: int, exif: bool = False) -> tuple[list[int], list[Pixels]]:
    """Samples that can be read, classes taking turns, and their pixels."""
    order = np.random.default_rng(seed % 2**64).permutation(len(dataset))
    turn = np.empty(len(order), np.int64)  # how many of its class come before it
    before: dict[int, int] = {}
    for place, index in enumerate(order):
        label = int(dataset.labels[index])
        turn[place] = before.setdefault(label, 0)
        before[label] += 1
    order = order[np.argsort(turn, kind="stable")]
    decoder = ImageDecoder(exif=exif)
    found: dict[int, Pixels] = {}
    reason = ""
    for index in order.tolist():
        try:
            pixels = decoder.decode([dataset.read(index)])[0]
        except OSError as error:
            pixels = error.strerror or str(error)
        if isinstance(pixels, str):
            reason = f"{dataset.path(index)}: {pixels}"
            print(f"left out: {reason}")
            continue
        found[index] = pixels.numpy()
        if len(found) == count:
            break
    if not found:
        raise RuntimeError(f"no image of {dataset.name} can be read, the last was {reason}")
    chosen = sorted(found)
    return chosen, [found[index] for index in chosen]


def _dataset(folder: Path) -> Samples:
    """A class a subfolder, or, for a look only, a flat folder of images."""
    if folder.is_dir() and not any(entry.is_dir() for entry in folder.iterdir()):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_EXTENSIONS)
        if files:
            samples = as_samples([(file, 0) for file in files])
            samples.classes, samples.name = [folder.resolve().name], str(folder)
            return samples
    return as_samples(folder)
