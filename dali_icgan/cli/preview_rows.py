"""What the pages of ``dali-icgan preview`` show: samples, their neighbours, rows of training, and the words for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dali_icgan.augment.operator import DAICGAN, Binding
from dali_icgan.augment.plan import RowKeys
from dali_icgan.augment.transform import TrainTransform
from dali_icgan.cli.facts import untrained
from dali_icgan.cli.page import Cell, Pixels, displayed
from dali_icgan.data import ImageDecoder, Samples
from dali_icgan.data.dataset import read_source
from dali_icgan.engine import Generator
from dali_icgan.errors import DecodeError
from dali_icgan.loader import DataLoader

NEIGHBOURS = 5  # shown at most of each sample, where neighbours matter


@dataclass(frozen=True)
class Seen:
    """A row as a training step is given it.

    Attributes:
        pixels: uint8 ``[s, s, 3]``.
        replaced: whether something took the photograph's place.
        label: the name of the class that comes with it.
        note: of a replaced row, what it was made of, in a few words.
        box: the part of its source that it shows: top, left, height, width in the source's pixels.
        flip: mirrored afterwards.
        bank_row: of a replaced row, whose feature or image was taken; -1: the sample's own.
    """

    pixels: Pixels
    replaced: bool
    label: str
    note: str
    box: tuple[int, int, int, int]
    flip: bool
    bank_row: int


def seen(
    loader: DataLoader,
    dataset: Samples,
    augment: DAICGAN,
    binding: Binding,
    epoch: int,
    view: int,
    chosen: Sequence[int],
) -> list[Seen]:
    """What a training step is given of some samples."""
    delivery = loader.replay_batch(epoch, chosen, view=view)
    images, info = delivery.images[0], delivery.info
    # A neighbour is normalised as the photograph that it is.
    style = augment.generated_in(view) if augment.source == "generator" else None
    real, made = displayed(images, loader.transform), displayed(images, style or loader.transform)
    index = np.array(chosen)
    keys = RowKeys(loader.seed, epoch, index, np.zeros_like(index), view)
    decision = augment.decide(binding, keys, dataset.labels[index], augment.p_of(epoch, view))
    y = augment.classes(binding, decision.label)
    rows = []
    for i, hit in enumerate(info["replaced"]):
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
            notes.append(f"label: {class_name(dataset, decision.label[i])}" if drawn else f"class {y[i]}")
        top, left, height, width = info["box"][i].tolist()
        rows.append(
            Seen(
                pixels=made[i] if hit else real[i],
                replaced=bool(hit),
                label=class_name(dataset, info["label"][i]),
                note=", ".join(notes),
                box=(top, left, height, width),
                flip=bool(info["flip"][i]),
                bank_row=int(decision.row[i]),
            )
        )
    return rows


class BankImages:
    """The images that rows of an augmentation's bank are of, whole: of the dataset where it has them, else of the bank's folder."""

    def __init__(self, dataset: Samples, augment: DAICGAN, binding: Binding, exif: bool) -> None:
        assert augment.bank is not None
        assert binding.rows is not None
        self._dataset, self._augment, self._keys = dataset, augment, augment.bank.keys
        self._sample_of = {int(row): index for index, row in enumerate(binding.rows)}
        self._decoder = ImageDecoder(exif=exif)

    def cell(self, row: int) -> Cell:
        """The image of a row, and its class's name below it.

        Raises:
            DecodeError, OSError: it cannot be read.
        """
        index = self._sample_of.get(row)
        source = self._augment.bank_source(row) if index is None else self._dataset.sources[index]
        pixels = self._decoder.decode([read_source(source)])[0]
        if isinstance(pixels, str):
            raise DecodeError(str(source), -1 if index is None else index, pixels)
        # The bank may have classes that this dataset lacks: their folders name them.
        lacking = Path(self._keys[row]).parent.name
        name = lacking if index is None else class_name(self._dataset, self._dataset.labels[index])
        return Cell(pixels.numpy(), note=name)


def neighbours(
    augment: DAICGAN, binding: Binding, images: BankImages, chosen: Sequence[int]
) -> tuple[list[list[Cell | None]], str]:
    """The nearest neighbours of samples, whole, as many of each (None: there are no more), and a heading for them."""
    assert augment.bank is not None
    assert binding.rows is not None
    shown = min(augment.k, NEIGHBOURS)
    near = augment.bank.neighbours(augment.k, augment.same_class)[binding.rows[np.array(chosen)], :shown]
    cells = [[images.cell(int(row)) if row >= 0 else None for row in found] for found in near]
    of = " of its own class" if augment.same_class else ""
    which = f"its {shown} nearest" if shown == augment.k else f"the {shown} nearest of its {augment.k}"
    return cells, f"{which} neighbours{of}"


def readable(dataset: Samples, count: int, seed: int, exif: bool = False) -> tuple[list[int], list[Pixels]]:
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


# ---------------------------------------------------------------------- words


def class_name(dataset: Samples, label: int | np.int64) -> str:
    names = dataset.classes or []
    return names[label] if label < len(names) else f"class {label}"


def replacement(augment: DAICGAN, transform: TrainTransform, p: str) -> str:
    """What happens to an image: "replaced with <p> by ..., then cropped ...", to the end of the sentence, and what must be added."""
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
    return f"replaced with {p} by {what}, then cropped ({crop}), flipped and normalised. {more}".rstrip()


def made_by(augment: DAICGAN, seed: int, truncation: str) -> str:
    """The generator and what it is given, in a sentence; "" in retrieval."""
    generator = augment.generator if augment.source == "generator" else None
    if generator is None:
        return ""
    features = "stored features" if augment.bank is not None else "features of the image itself"
    name, resolution = Path(generator.source).name, generator.resolution
    return f"Generator {name}, {resolution} px, truncation {truncation}, {features}, seed {seed}."


def warning(augment: DAICGAN) -> str:
    """What must be said beside pictures of untrained models; "" of others."""
    generator: Generator | None = augment.generator if augment.source == "generator" else None
    if generator is not None and (said := untrained(generator)):
        return said
    extractor = augment.extractor
    if extractor is not None and not extractor.trained:
        return f"extractor: {Path(extractor.source).name}, UNTRAINED random weights (what it calls near is alike in colour at best)"
    return ""


def _interval(transform: TrainTransform) -> str:
    return f"{transform.scale[0]:g} to {transform.scale[1]:g}"
