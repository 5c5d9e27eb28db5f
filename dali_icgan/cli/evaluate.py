"""``dali-icgan evaluate ...``. What is heavy is imported by the command that needs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dali_icgan.evaluate.rows import How

app = typer.Typer(
    no_args_is_help=True,
    help="Evaluate a trained model: accuracy, robustness, invariance, probes; or compare two. See docs/evaluation.md.",
)

_MODEL, _IMAGES = "The model", "How images are seen"
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="timm:NAME[@FILE]|extractor:FILE",
        help="A model of timm's; without a FILE, with the weights that timm downloads. Or an extractor: features alone.",
        rich_help_panel=_MODEL,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="In place of @FILE: safetensors, or tensors saved by torch; nothing in it is executed.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda or cuda:N.", show_default="cuda where there is one", rich_help_panel=_MODEL
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", metavar="float32|float16|bfloat16", help="What the model computes in.", rich_help_panel=_MODEL
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="DIR", help="results.jsonl, report.md, predictions; an unfinished run goes on."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="So many images of each set, evenly spaced.", show_default="all"),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", min=1, help="Images the loader makes at once; no figure depends on it.", rich_help_panel=_IMAGES
    ),
]
Resize = Annotated[int, typer.Option("--resize", min=1, help="Pixels of the short side.", rich_help_panel=_IMAGES)]
Crop = Annotated[int, typer.Option("--crop", min=1, help="Pixels of the square centre.", rich_help_panel=_IMAGES)]
Exif = Annotated[bool, typer.Option("--exif", help="Rotate images as EXIF says.", rich_help_panel=_IMAGES)]
Folder = Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Images, one subfolder a class.")]


@contextmanager
def _how(
    model: str,
    checkpoint: Path | None,
    device: str | None,
    dtype: str,
    batch_size: int,
    resize: int,
    crop: int,
    exif: bool,
) -> "Iterator[How]":
    for package in ("timm", "lightly"):
        if find_spec(package) is None:
            raise ImportError(f"evaluations need {package}, which pip install 'dali-icgan[cu13,train]' brings")
    from dali_icgan.evaluate.model import load_model
    from dali_icgan.evaluate.rows import How
    from dali_icgan.ranks import Ranks, joined

    # The others wait while the first trains a classifier or draws intervals: longer than torch's own minutes.
    with joined(device, timedelta(days=1)) as mine:
        yield How(load_model(model, checkpoint, mine, dtype, crop), resize, crop, batch_size, Ranks.here(), exif)


def _report(out: Path, how: "How | None" = None) -> None:
    """On the first rank: write the page and say what is in it."""
    if how is not None and how.ranks.rank > 0:
        return
    from dali_icgan.evaluate.report import summary, write_report

    path = write_report(out)
    typer.echo(summary(out))
    typer.echo(f"{path}: figures and plots; {out / 'results.jsonl'}: the same for programs")


@app.command("imagenet")
def imagenet_command(
    model: Model,
    data: Folder,
    out: Out,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A folder's name a line, in the order of the model's outputs, where subfolders are not WordNet ids.",
            show_default="ImageNet's 1000",
        ),
    ] = None,
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 256,
    resize: Resize = 256,
    crop: Crop = 224,
    exif: Exif = False,
) -> None:
    """Top-1, top-5, accuracy of each class, and calibration (ECE, 15 bins: arXiv 1706.04599).

    torchrun spreads the work over ranks; figures are the same on any number of them.
    """
    from dali_icgan.evaluate.run import evaluate_imagenet

    with _how(model, checkpoint, device, dtype, batch_size, resize, crop, exif) as how:
        evaluate_imagenet(how, data, out, classes, limit)
        _report(out, how)


def _sets(given: list[str]) -> dict[str, Path]:
    pairs = [each.partition("=") for each in given]
    wrong = [name for name, equals, folder in pairs if not (equals and folder)]
    if wrong:
        raise ValueError(f"--set must be NAME=FOLDER, got {wrong[0]}")
    return {name: Path(folder) for name, _, folder in pairs}


@app.command("robustness")
def robustness_command(
    model: Model,
    data: Annotated[
        Path, typer.Option("--data", metavar="FOLDER", help="One subfolder a set, named as their archives unpack.")
    ],
    out: Out,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=FOLDER", help="A set that lies elsewhere, such as imagenet-a=/data/a."),
    ] = None,
    corrupt: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Clean images by WordNet id, corrupted as they are read by imagecorruptions-imaug: 75 times the work.",
        ),
    ] = None,
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 256,
    resize: Resize = 256,
    crop: Crop = 224,
    exif: Exif = False,
) -> None:
    """ImageNet-V2, -A, -R, -Sketch, -C, ObjectNet and Stylized-ImageNet; those that are missing are named.

    -A and -R: the authors' 200-way accuracy, and the 1000-way beside it. -C: mCE over AlexNet's published errors (arXiv 1903.12261).
    """
    from dali_icgan.evaluate.run import evaluate_robustness

    given = _sets(sets or [])
    with _how(model, checkpoint, device, dtype, batch_size, resize, crop, exif) as how:
        evaluate_robustness(how, data, out, given, corrupt, limit)
        _report(out, how)


@app.command("invariance")
def invariance_command(
    model: Model,
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Images, one subfolder a class: instance, augmentation, generation."
        ),
    ] = None,
    viewpoints: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Views, one subfolder an object: viewpoint.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(metavar="FILE|embedded", help="An IC-GAN: generation, of each image from its features."),
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(metavar="FILE|embedded", help="The checkpoint that its features come from.")
    ] = None,
    truncation: Annotated[float, typer.Option(help="Of the generator: noise is N(0, 1) cut at twice this.")] = 0.7,
    views: Annotated[int, typer.Option(min=2, help="Augmented or generated images of each.")] = 4,
    rate: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of images on which a unit fires (Goodfellow et al. 2009).")
    ] = 0.01,
    k: Annotated[int, typer.Option("--k", min=1, help="How many of the most invariant units (arXiv 2007.13916).")] = 25,
    seed: Annotated[int, typer.Option(help="Of crops and of the generator's noise.")] = 0,
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 256,
    resize: Resize = 256,
    crop: Crop = 224,
    exif: Exif = False,
) -> None:
    """Mean cosine, retrieval R@1 and firing units, for instance, viewpoint, augmentation and generation."""
    from dali_icgan.evaluate.run_invariance import Invariance, evaluate_invariance

    if (generator is None) != (extractor is None):
        raise ValueError("--generator and --extractor must be given together, got one of them")
    with _how(model, checkpoint, device, dtype, batch_size, resize, crop, exif) as how:
        augment = None
        if generator is not None and extractor is not None:
            from dali_icgan.augment import DAICGAN
            from dali_icgan.engine import load_extractor, load_generator

            where = str(how.model.device)
            pair = load_generator(generator, where), load_extractor(extractor, where)
            augment = DAICGAN(generator=pair[0], extractor=pair[1], p=1.0, truncation=truncation)
        measure = Invariance(views=views, rate=rate, k=k, seed=seed)
        evaluate_invariance(how, out, data=data, viewpoints=viewpoints, augment=augment, measure=measure, limit=limit)
        _report(out, how)


Train = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Images with labels.", show_default="train in --data")
]
Test = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Images to classify.", show_default="val in --data")]
Both = Annotated[
    Path | None, typer.Option("--data", metavar="FOLDER", help="Holds train and val, each with one subfolder a class.")
]


def _both(data: Path | None, train: Path | None, test: Path | None) -> tuple[Path, Path]:
    if data is None and (train is None or test is None):
        raise ValueError("--data must be given, or --train and --test, got neither")
    return (train or Path(str(data)) / "train", test or Path(str(data)) / "val")


@app.command("linear")
def linear_command(
    model: Model,
    out: Out,
    data: Both = None,
    train: Train = None,
    test: Test = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="crops|cached",
            help="crops: random crops and flips, anew in each pass, as papers have it; each pass costs a pass of the network over all "
            "images. cached: features of the centre crop, computed once: quick, for other figures.",
        ),
    ] = "crops",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images (SimCLR, arXiv 2002.05709).")] = 90,
    lr: Annotated[float, typer.Option(help="For 256 images a step (the same).")] = 0.1,
    step: Annotated[int, typer.Option(min=1, help="Images a step.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the first weights, the order and the crops.")] = 0,
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 256,
    resize: Resize = 256,
    crop: Crop = 224,
    exif: Exif = False,
) -> None:
    """A linear classifier on frozen features, by lightly's LinearClassifier; tested on centre crops."""
    from dali_icgan.evaluate.run_probe import Linear, evaluate_probe

    folders = _both(data, train, test)
    with _how(model, checkpoint, device, dtype, batch_size, resize, crop, exif) as how:
        evaluate_probe(how, *folders, out, Linear(protocol, epochs, step, lr, seed), limit)
        _report(out, how)


@app.command("knn")
def knn_command(
    model: Model,
    out: Out,
    data: Both = None,
    train: Train = None,
    test: Test = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote (arXiv 1805.01978).")] = 200,
    temperature: Annotated[float, typer.Option(help="Of their votes, exp(cosine / T) (the same).")] = 0.07,
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 256,
    resize: Resize = 256,
    crop: Crop = 224,
    exif: Exif = False,
) -> None:
    """Weighted nearest neighbours in frozen features, by lightly's knn_predict."""
    from dali_icgan.evaluate.run_probe import Knn, evaluate_probe

    folders = _both(data, train, test)
    with _how(model, checkpoint, device, dtype, batch_size, resize, crop, exif) as how:
        evaluate_probe(how, *folders, out, Knn(k, temperature), limit)
        _report(out, how)


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, on the same images.")],
    out: Out,
) -> None:
    """B - A of every figure, with paired bootstrap intervals over images and McNemar's exact p."""
    from dali_icgan.evaluate.compare import compare

    compare(a, b, out)
    _report(out)
