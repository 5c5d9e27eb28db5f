"""Probes of frozen features, from a model and folders to figures: every rank calls them; the first one writes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dali_icgan.data import as_samples
from dali_icgan.evaluate.classify import Figure, figures, scored
from dali_icgan.evaluate.probe import Answers, check_k, linear_probe, nearest_neighbours
from dali_icgan.evaluate.record import Record
from dali_icgan.evaluate.results import Results
from dali_icgan.evaluate.rows import How, features
from dali_icgan.evaluate.run import finish, settings_of
from dali_icgan.evaluate.sets import ImageSet, folder_set


@dataclass(frozen=True)
class Knn:
    """Weighted nearest neighbours.

    Attributes:
        k: how many vote.
        temperature: of their votes.

    Raises:
        ValueError: a number is not positive.
    """

    k: int = 200
    temperature: float = 0.07

    def __post_init__(self) -> None:
        _positive(k=self.k, temperature=self.temperature)


PROTOCOLS = ("crops", "cached")
_SCALE = (0.08, 1.0)  # share of an image's area that a crop has: torchvision's default, and lightly's in its benchmarks


@dataclass(frozen=True)
class Linear:
    """A linear classifier.

    Attributes:
        protocol: "crops", as papers do it: in each pass it sees random crops and flips of the images, drawn anew, through the frozen
            network; "cached": the features of their centre crops, computed once.
        epochs: passes over the images.
        batch_size: images a step.
        lr: the rate, for 256 images a step.
        seed: of the first weights, the order and the crops.

    Raises:
        ValueError: there is no such protocol, or a number is not positive.
    """

    protocol: str = "crops"
    epochs: int = 90
    batch_size: int = 256
    lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be {' or '.join(PROTOCOLS)}, got {self.protocol!r}")
        _positive(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be greater than 0, got {number}")


def evaluate_probe(
    how: How, train: Path, test: Path, out: Path, probe: Knn | Linear, limit: int | None = None
) -> list[Figure] | None:
    """What a simple classifier makes of frozen features; it is trained on the first rank, the others share the work of the network.

    Args:
        train: images with labels, one subfolder a class.
        test: images to be classified, each by its centre crop; its subfolders are some of ``train``'s, by name.
        limit: so many images of each, evenly spaced; None: all.

    Returns:
        as :func:`evaluate_imagenet`; the set is "knn", "linear-crops" or "linear-cached".
    """
    command = "knn" if isinstance(probe, Knn) else "linear"
    name = command if isinstance(probe, Knn) else f"{command}-{probe.protocol}"
    names = as_samples(train).classes or []
    known = {each: i for i, each in enumerate(names)}
    labelled = folder_set("train", train, known).limited(limit)
    images = replace(folder_set("test", test, known).limited(limit), name=name)
    if isinstance(probe, Knn):
        check_k(probe.k, len(labelled.samples))
    settings = settings_of(command, how, limit, train=str(train), test=str(test), **vars(probe))
    results = Results(out, settings, how.ranks)

    def compute() -> Record | None:
        asked = features(how, images.samples, how.transform(), "test")
        answer = _knn if isinstance(probe, Knn) else _linear
        said = answer(how, labelled, asked, probe)  # type: ignore[arg-type]
        return None if said is None else scored(images, said, len(known))

    of = f"{labelled.samples.fingerprint}/{images.samples.fingerprint}"
    record = results.record(name, of, compute)
    how.ranks.barrier(command)
    return finish(results, [] if record is None else figures(record))


def _knn(how: How, train: ImageSet, test: Any, probe: Knn) -> Answers | None:
    bank = features(how, train.samples, how.transform(), "train")
    if bank is None:
        return None
    with how.ranks.together("knn"):
        return nearest_neighbours(bank, train.samples.labels, test, len(train.right), probe.k, probe.temperature)


def _linear(how: How, train: ImageSet, test: Any, probe: Linear) -> Answers | None:
    samples, crop = train.samples, how.train_transform(_SCALE)

    def fresh(number: int) -> Any:
        doing = f"train, pass {number + 1} of {probe.epochs}"
        return features(how, samples, crop, doing, seed=probe.seed, epoch=number)

    cached = features(how, samples, how.transform(), "train") if probe.protocol == "cached" else None
    if how.ranks.rank > 0:
        for number in range(probe.epochs if probe.protocol == "crops" else 0):
            fresh(number)  # its share of the images
        return None
    with how.ranks.together("linear"):
        return linear_probe(
            fresh if cached is None else lambda _: cached,
            samples.labels,
            test,
            len(train.right),
            epochs=probe.epochs,
            batch_size=probe.batch_size,
            lr=probe.lr,
            seed=probe.seed,
            device=how.model.device,
        )
