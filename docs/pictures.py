"""Draws the pictures of docs/augmentation.md, by the product's own page code: ``python docs/pictures.py [OUT]``.

``python docs/pictures.py --preview [FILE]`` takes the picture of docs/preview.md instead, in a headless Chromium.

Photographs, bank and generators are kept under build/pictures; a second run is quick.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from dali_icgan.augment import DAICGAN, FeatureBank, TrainTransform
from dali_icgan.cli.page import Page
from dali_icgan.cli.photographs import PHOTOGRAPHS, cut
from dali_icgan.cli.preview import HTML_EPOCHS, HTML_TRUNCATIONS, make_page
from dali_icgan.cli.preview_html import make_html
from dali_icgan.data import Samples, as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.models.checkpoint import Checkpoint, write_checkpoint

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser import Browser  # noqa: E402
from tests.untrained import GENERATOR, coloured_noise, floats, make_generator  # noqa: E402

TRANSFORM = TrainTransform(96, scale=(0.35, 1.0))
# What ImageNet calls some of the photographs: tabby cat, espresso, stone wall, missile.
WORDNET_IDS = {"brick": "n04326547", "cat": "n02123045", "coffee": "n07920052", "rocket": "n03773504"}


def untrained_class_conditional(file: Path) -> Path:
    """A generator of 1000 classes with random weights, for the pictures that need classes."""
    if not file.exists():
        config = replace(GENERATOR, resolution=64, channels=8, n_classes=1000, shared_dim=48, class_conditional=True)
        random = torch.Generator().manual_seed(0)
        extractor = load_extractor("embedded", "cpu", resolution=config.resolution)
        with torch.no_grad():
            noise = coloured_noise(256, config.resolution, random)
            images = noise.mul(0.25).add(0.5).clamp(0, 1).mul(255).to(torch.uint8).permute(0, 2, 3, 1)
            features = F.normalize(extractor(list(images)))
            torch.manual_seed(0)
            model = make_generator(features, random, config)
        write_checkpoint(file, Checkpoint("generator", config, floats(model), source=file.name, trained=False))
    return file


def pages(folder: Path, per_photograph: int) -> Iterator[tuple[str, Page]]:
    """Each picture's name and its page."""
    cut(folder / "images", per_photograph, lambda _: None)
    (folder / "wordnet").mkdir(exist_ok=True)
    for name, wordnet in WORDNET_IDS.items():
        link = folder / "wordnet" / wordnet
        if not link.exists():
            link.symlink_to((folder / "images" / name).absolute())
    samples = as_samples(folder / "images")
    generator = load_generator("embedded", "cpu")
    extractor = load_extractor("embedded", "cpu", resolution=generator.resolution)
    bank = FeatureBank.build(samples, extractor, folder / "bank", progress=False)
    classes = load_generator(untrained_class_conditional(folder / "class-conditional.safetensors"), "cpu")

    def page(title: str, *, dataset: Samples = samples, epochs: int = 4, **settings: Any) -> Page:
        more = {name: settings.pop(name) for name in ("views", "draws") if name in settings}
        augment = DAICGAN(**{"generator": generator, "extractor": extractor, "bank": bank, "p": 0.5, **settings})
        arguments = {"samples": 3, "epochs": range(epochs), "draws": 0, "seed": 0, "device": "cpu", **more}
        return make_page(dataset, augment, TRANSFORM, title=title, **arguments)[0]

    yield "instance", page("DAICGAN(p=0.5)", epochs=6)
    yield "epoch", page("DAICGAN(p=lambda epoch: epoch / 4)", p=lambda epoch: epoch / 4, epochs=5)
    yield "views", page("DAICGAN(view_p=(0, 1)), DataLoader(views=2)", view_p=(0, 1), views=2, epochs=3)
    yield (
        "generated_transform",
        page(
            "generated_transform=TrainTransform(96, scale=(0.9, 1))",
            generated_transform=TrainTransform(96, scale=(0.9, 1.0)),
            draws=3,
        ),
    )
    yield "neighbour", page('DAICGAN(condition="neighbour", k=5)', condition="neighbour", k=5, epochs=3)
    random_labels = {"generator": classes, "labels": "random", "class_map": list(range(len(PHOTOGRAPHS)))}
    yield "random_labels", page('DAICGAN(labels="random")', epochs=6, **random_labels)
    yield (
        "class_map",
        page(
            "DAICGAN(): classes found by the folders' WordNet ids",
            dataset=as_samples(folder / "wordnet"),
            generator=classes,
            bank=None,
            epochs=6,
        ),
    )
    retrieval = {"generator": None, "source": "neighbour", "k": 5, "epochs": 3}
    yield "retrieval", page('DAICGAN(source="neighbour", k=5)', **retrieval)
    yield "same_class", page('DAICGAN(source="neighbour", k=5, same_class=True)', same_class=True, **retrieval)


def take_preview(out: Path, folder: Path) -> None:
    """The page of ``dali-icgan preview --html`` as a browser shows it."""
    cut(folder / "images", 40, lambda _: None)
    augment = DAICGAN(
        generator=load_generator("embedded", "cpu"), extractor=load_extractor("embedded", "cpu"), p=0.5, truncation=0.7
    )
    text, _ = make_html(
        as_samples(folder / "images"),
        augment,
        TRANSFORM,
        title="images: what training sees",
        samples=8,
        epochs=range(HTML_EPOCHS),
        truncations=HTML_TRUNCATIONS,
        seed=0,
        device="cpu",
    )
    page = folder / "preview.html"
    page.write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        browser.open(page, "#image=93&p=0.55&truncation=0.7&epoch=2")
        picture = Image.open(io.BytesIO(browser.look(1120, 1000, whole=True))).convert("RGB")
    picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=20_000).save(out, optimize=True)
    print(f"{out.name}: {picture.width} x {picture.height} px, {out.stat().st_size:,} bytes")


def main(out: Path, folder: Path, per_photograph: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages(folder, per_photograph):
        # A palette: a third of the size.
        page.draw().quantize(256, Image.Quantize.MEDIANCUT, kmeans=20_000).save(out / f"{name}.png", optimize=True)
        print(f"{name}.png: {page.width} x {page.height} px, {(out / f'{name}.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    kept = ROOT / "build" / "pictures"
    if sys.argv[1:2] == ["--preview"]:
        take_preview(Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "preview.png", kept)
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "augmentation", kept)
