"""``dali-icgan preview``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dali_icgan.augment.operator import DAICGAN
from dali_icgan.augment.transform import EvalTransform, TrainTransform
from dali_icgan.cli.facts import untrained
from dali_icgan.cli.page import Cell, Page, Pixels, Row, Section, displayed
from dali_icgan.data import ImageDecoder, Samples, as_samples
from dali_icgan.data.dataset import IMAGE_EXTENSIONS
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.loader import DataLoader

EPOCHS, DRAWS = 3, 3  # training steps and whole generations shown of each sample
LEGEND = "generated: takes the photograph's place", "the photograph, as training crops it"


def run(
    folder: Path,
    out: Path,
    *,
    generator: str,
    extractor: str | None,
    bank: Path | None,
    p: float,
    truncation: float,
    samples: int,
    size: int,
    epoch: int,
    seed: int,
    device: str | None,
) -> None:
    """Draw the page."""
    check_page(out)
    dataset = _dataset(folder)
    if extractor is None and bank is None:
        if generator != "embedded":
            raise ValueError(
                "--extractor or --bank must be given with --generator FILE: generations need features, got neither"
            )
        extractor = "embedded"
    model = load_generator(generator, device)
    augment = DAICGAN(
        generator=model,
        extractor=None if extractor is None else load_extractor(extractor, device),
        bank=bank,
        p=p,
        truncation=truncation,
    )
    page, shown = make_page(
        dataset,
        augment,
        TrainTransform(size),
        title=f"{folder.resolve().name}: what training sees",
        samples=samples,
        epochs=range(epoch, epoch + EPOCHS),
        draws=DRAWS,
        seed=seed,
        device=device,
    )
    page.draw().save(out)
    print(f"{out}: {page.width} x {page.height} px, {shown} samples of {len(dataset)}")
    if not model.trained:
        print(untrained(model))


def check_page(out: Path) -> None:
    """Say what is wrong with the page's path before minutes are spent on it."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {out}")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out must be in an existing folder, and there is no {out.absolute().parent}")


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
) -> tuple[Page, int]:
    """A page of some samples: the original, what training steps see in some epochs, whole generations.

    Args:
        samples: how many, spread evenly over the classes.
        draws: in how many of the epochs, from the first, the generation is shown whole as well, whether or not it took the image's place.
        seed: of the choice of samples, and the loader's.
        groups: blocks of rows side by side.

    Returns:
        the page, and how many samples are on it.
    """
    chosen, originals = _readable(dataset, samples, seed)
    size = transform.output_size
    rows = [[Cell(pixels)] for pixels in originals]
    with DataLoader(dataset, augment=augment, transform=transform, seed=seed, device=device) as loader:
        for epoch in epochs:
            delivery = loader.replay_batch(epoch, chosen)
            seen = displayed(delivery.images[0], transform)
            for row, pixels, replaced in zip(rows, seen, delivery.info["replaced"], strict=True):
                row.append(Cell(pixels, generated=bool(replaced)))
    for whole in _whole_generations(dataset, augment, size, epochs[:draws], chosen, seed, device):
        for row, pixels in zip(rows, whole, strict=True):
            row.append(Cell(pixels, generated=True))
    names = [f"epoch {epoch}" for epoch in epochs]
    sections = [Section("", ["original"]), Section(f"what the training step sees, p = {augment.p:g}", names)]
    if draws:
        sections.append(Section("the generations, whole", names[:draws]))
    generator = augment.generator
    assert generator is not None
    features = "stored features" if augment.bank is not None else "features of the image itself"
    lines = [
        f"Each row is one image. In every epoch it is replaced with probability {augment.p:g} by a generation conditioned on its own "
        f"features, then cropped ({transform.size} px, area {transform.scale[0]:g} to {transform.scale[1]:g}), flipped and normalised.",
        f"Generator {Path(generator.source).name}, {generator.resolution} px, truncation {augment.truncation:g}, {features}, seed {seed}.",
    ]
    page = Page(
        title,
        lines,
        "" if generator.trained else untrained(generator),
        LEGEND,
        sections,
        [_row(dataset, index, cells) for index, cells in zip(chosen, rows, strict=True)],
        side=size * max(96 // size, 1),
        groups=groups,
    )
    return page, len(chosen)


def _whole_generations(
    dataset: Samples, augment: DAICGAN, size: int, epochs: range, chosen: Sequence[int], seed: int, device: str | None
) -> list[list[Pixels]]:
    """The generations of some epochs before the crop, whether or not they took the images' place."""
    whole = EvalTransform(size, size)
    always = DAICGAN(
        generator=augment.generator,
        extractor=augment.extractor,
        bank=augment.bank,
        p=1.0,
        truncation=augment.truncation,
        truncation_mode=augment.truncation_mode,
    )
    with DataLoader(dataset, augment=always, transform=whole, seed=seed, device=device) as loader:
        return [displayed(loader.replay_batch(epoch, chosen).images[0], whole) for epoch in epochs]


def _row(dataset: Samples, index: int, cells: list[Cell]) -> Row:
    label = int(dataset.labels[index])
    return Row(
        dataset.classes[label] if dataset.classes else f"class {label}",
        f"sample {index}: {Path(dataset.path(index)).name}",
        cells,
    )


def _readable(dataset: Samples, count: int, seed: int) -> tuple[list[int], list[Pixels]]:
    """Samples that can be read, classes taking turns, and their pixels."""
    order = np.random.default_rng(seed % 2**64).permutation(len(dataset))
    turn = np.empty(len(order), np.int64)  # how many of its class come before it
    before: dict[int, int] = {}
    for place, index in enumerate(order):
        label = int(dataset.labels[index])
        turn[place] = before.setdefault(label, 0)
        before[label] += 1
    order = order[np.argsort(turn, kind="stable")]
    decoder = ImageDecoder()
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
