"""What ranks of a test do."""

from pathlib import Path

from dali_icgan.data import as_samples
from dali_icgan.evaluate.model import load_model
from dali_icgan.evaluate.rows import How, through
from dali_icgan.evaluate.run import evaluate_imagenet
from dali_icgan.evaluate.run_invariance import Invariance, evaluate_invariance
from dali_icgan.evaluate.run_probe import Knn, Linear, evaluate_probe
from dali_icgan.ranks import Ranks


def evaluate_all(checkpoint: str, data: str, out: str, batch_size: int) -> int:
    """Three evaluations into folders of ``out``; the rank."""
    how = How(load_model("timm:test_resnet", Path(checkpoint), "cpu"), 64, 64, batch_size, Ranks.here(), progress=False)
    evaluate_imagenet(how, Path(data), Path(out) / "imagenet")
    evaluate_probe(how, Path(data), Path(data), Path(out) / "knn", Knn(5))
    evaluate_invariance(how, Path(out) / "invariance", data=Path(data), measure=Invariance(views=2, rate=0.05))
    return how.ranks.rank


def read_all(checkpoint: str, data: str) -> None:
    """Every image through a function that needs no model."""
    how = How(load_model("timm:test_resnet", Path(checkpoint), "cpu"), 64, 64, 2, Ranks.here(), progress=False)
    through(how, lambda images: {"x": images[:, 0, 0, 0]}, as_samples(data), how.transform(), "reading")
