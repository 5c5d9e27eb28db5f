"""What ranks of a test do."""

from pathlib import Path

from dali_icgan.augment import DAICGAN
from dali_icgan.data import as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.evaluate.model import load_model
from dali_icgan.evaluate.rows import How, through
from dali_icgan.evaluate.run import evaluate_imagenet
from dali_icgan.evaluate.run_invariance import Invariance, evaluate_invariance
from dali_icgan.evaluate.run_probe import Knn, Linear, evaluate_probe
from dali_icgan.ranks import Ranks
from tests.untrained import FOLDER


def evaluate_all(checkpoint: str, data: str, out: str, batch_size: int) -> int:
    """Four evaluations into folders of ``out``; the rank."""
    how = How(load_model("timm:test_resnet", Path(checkpoint), "cpu"), 64, 64, batch_size, Ranks.here(), progress=False)
    evaluate_imagenet(how, Path(data), Path(out) / "imagenet")
    evaluate_probe(how, Path(data), Path(data), Path(out) / "knn", Knn(5))
    evaluate_probe(how, Path(data), Path(data), Path(out) / "linear", Linear(epochs=2, batch_size=16))
    augment = DAICGAN(
        generator=load_generator(FOLDER / "generator.safetensors", "cpu"),
        extractor=load_extractor(FOLDER / "extractor.safetensors", "cpu"),
        p=1.0,
    )
    measure = Invariance(views=2, rate=0.05)
    evaluate_invariance(how, Path(out) / "invariance", data=Path(data), augment=augment, measure=measure)
    return how.ranks.rank


def read_all(checkpoint: str, data: str) -> None:
    """Every image through a function that needs no model."""
    how = How(load_model("timm:test_resnet", Path(checkpoint), "cpu"), 64, 64, 2, Ranks.here(), progress=False)
    through(how, lambda images: {"x": images[:, 0, 0, 0]}, as_samples(data), how.transform(), "reading")


def damaged_probe(checkpoint: str, data: str, out: str) -> None:
    """A linear probe of images of which one cannot be read."""
    how = How(load_model("timm:test_resnet", Path(checkpoint), "cpu"), 64, 64, 2, Ranks.here(), progress=False)
    evaluate_probe(how, Path(data) / "train", Path(data) / "val", Path(out), Linear(epochs=2))
