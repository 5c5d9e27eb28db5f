"""`dali-icgan preview --html`: what its page holds, without a browser. In one: test_preview_browser.py."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dali_icgan.augment import DAICGAN, FeatureBank, TrainTransform
from dali_icgan.augment.plan import RowKeys
from dali_icgan.cli import preview
from dali_icgan.cli.page import displayed
from dali_icgan.cli.preview_html import LONGEST, fill, make_grid, make_html
from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.loader import DataLoader
from dali_icgan.models.checkpoint import Checkpoint, write_checkpoint
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from tests import photos
from tests.cli.test_commands import error, run
from tests.untrained import FOLDER

pytestmark = pytest.mark.dali
SEED, TRANSFORM = 3, TrainTransform(48)
SHAPE = {"epochs": range(2, 4), "truncations": [0.5, 1.0], "seed": SEED, "device": "cpu"}
MODELS = ["--generator", FOLDER / "generator.safetensors", "--extractor", FOLDER / "extractor.safetensors"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos.make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=3)


@pytest.fixture(scope="module")
def bank(folder):
    at = load_extractor(FOLDER / "extractor.safetensors", "cpu", resolution=32)
    return FeatureBank.build(folder, at, folder.parent / "bank", progress=False)


@pytest.fixture(scope="module")
def classy(generator, tmp_path_factory):
    """A class-conditional generator of three classes, with random weights."""
    config = GeneratorConfig(32, 8, 4, generator.feature_dim, 16, n_classes=3, shared_dim=8, class_conditional=True)
    tensors = {name: t for name, t in ICGenerator(config).state_dict().items() if t.is_floating_point()}
    file = tmp_path_factory.mktemp("classes") / "classes.safetensors"
    write_checkpoint(file, Checkpoint("generator", config, tensors, source=file.name, trained=False))
    return load_generator(file, "cpu")


def data_of(page):
    """What a page holds."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def page_of(folder, augment, samples=4, **more):
    return make_html(as_samples(folder), augment, TRANSFORM, title="", samples=samples, **{**SHAPE, **more})[0]


def decoded(source):
    """A data URL's pixels."""
    head, text = source.split(",", 1)
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")).astype(int)


def sources(value):
    """All data URLs within JSON."""
    if isinstance(value, str):
        return [value] if value.startswith("data:") else []
    return (
        [each for part in (value.values() if isinstance(value, dict) else value) for each in sources(part)]
        if isinstance(value, (dict, list))
        else []
    )


def delivered(folder, augment, epoch, index, view=0, views=1):
    with DataLoader(folder, augment=augment, transform=TRANSFORM, views=views, seed=SEED, device="cpu") as loader:
        delivery = loader.replay_batch(epoch, index, view=view)
        return displayed(delivery.images[0], augment.generated_transform or TRANSFORM), delivery.info


# ---------------------------------------------------------------------- what it shows is what training sees


def test_who_is_replaced_is_the_loaders_own_decision(folder, bank, generator):
    data = data_of(page_of(folder, DAICGAN(generator=generator, bank=bank), samples=9, views=2))
    samples, index = as_samples(folder), np.array([sample["index"] for sample in data["samples"]])
    assert len(index) == 9
    draws = [row["u"] for sample in data["samples"] for view in sample["views"] for row in view]
    assert len(set(draws)) == 9 * 2 * 2
    some = draws[5]  # u < p: at p = u itself it is not replaced, at the next number it is
    decided = set()
    for p in (0.0, 0.25, 0.5, 0.8, 1.0, some, float(np.nextafter(some, 1))):
        augment = DAICGAN(generator=generator, bank=bank, p=p)
        binding = augment.bind(samples, SEED)
        for place, epoch in enumerate(data["epochs"]):
            for view in range(2):
                says = [sample["views"][view][place]["u"] < p for sample in data["samples"]]
                keys = RowKeys(SEED, epoch, index, np.zeros_like(index), view)
                assert augment.decide(binding, keys, samples.labels[index], p).replaced.tolist() == says
                assert delivered(folder, augment, epoch, index, view, views=2)[1]["replaced"].tolist() == says
                decided.add((p, tuple(says)))
    assert len(decided) > 12


@pytest.mark.parametrize("case", ["plain", "classes", "neighbour", "views", "retrieval"])
def test_its_rows_are_the_loaders(folder, bank, generator, extractor, classy, case):
    settings = {
        "plain": {"generator": generator, "extractor": extractor.at_resolution(32)},
        "classes": {"generator": classy, "bank": bank, "labels": "random", "class_map": [2, 0, 1]},
        "neighbour": {
            "generator": generator,
            "bank": bank,
            "condition": "neighbour",
            "k": 4,
            "generated_transform": TrainTransform(48, scale=(0.9, 1), mean=(0.1, 0.2, 0.3)),
        },
        "views": {"generator": generator, "bank": bank, "view_p": (0.1, 0.9)},
        "retrieval": {"generator": None, "bank": bank, "source": "neighbour", "k": 4},
    }[case]
    samples, chosen, views = as_samples(folder), [0, 4, 7, 8], 2 if case == "views" else 1
    truncations = [0.7] if case == "retrieval" else [0.5, 1.0]
    grid = make_grid(
        samples,
        DAICGAN(**settings),
        TRANSFORM,
        chosen,
        **{**SHAPE, "truncations": truncations},
        views=views,
        exif=False,
    )
    kinds = set()
    for t, truncation in enumerate(truncations):
        # A loader as somebody would make it: p as a number, or one a view.
        p = {"view_p": (0.4, 0.6)} if views == 2 else {"p": 0.5}
        augment = DAICGAN(**{**settings, "truncation": truncation, **p})
        for view in range(views):
            for e, epoch in enumerate(SHAPE["epochs"]):
                with DataLoader(
                    folder, augment=augment, transform=TRANSFORM, views=views, seed=SEED, device="cpu"
                ) as loader:
                    delivery = loader.replay_batch(epoch, chosen, view=view)
                info = delivery.info
                real = displayed(delivery.images[0], TRANSFORM)
                style = augment.generated_transform or TRANSFORM
                made = real if case == "retrieval" else displayed(delivery.images[0], style)
                for i, hit in enumerate(info["replaced"]):
                    shown = grid.made[view][e][t][i] if hit else grid.real[view][e][i]
                    assert hit == (grid.u[view, e, i] < augment.p_of(epoch, view))
                    assert (shown.pixels == (made if hit else real)[i]).all()
                    assert shown.box == tuple(info["box"][i])
                    assert shown.flip == info["flip"][i]
                    assert shown.label == samples.classes[info["label"][i]]
                    kinds.add(bool(hit))
    assert kinds == {True, False}


def test_whole_generations_are_the_generators(folder, bank, generator):
    samples, chosen = as_samples(folder), [1, 5]
    augment = DAICGAN(generator=generator, bank=bank, generated_transform=TrainTransform(48, scale=(0.9, 1)))
    grid = make_grid(samples, augment, TRANSFORM, chosen, **SHAPE, views=1, exif=False)
    for t, truncation in enumerate(SHAPE["truncations"]):
        plain = DAICGAN(generator=generator, bank=bank, truncation=truncation)
        for e, epoch in enumerate(SHAPE["epochs"]):
            keys = RowKeys(SEED, epoch, np.array(chosen), np.zeros(2, np.int64))
            made = plain.generate(plain.noise(keys), plain.gather(np.array(chosen)), None)
            pixels = ((made + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
            for whole, want in zip(grid.whole[0][e][t], pixels, strict=True):
                assert whole.shape == (32, 32, 3)
                assert np.abs(whole - want).max() < 0.51


def test_retrieval_shows_the_neighbours_photograph_and_where_it_is_cropped(folder, bank):
    samples = as_samples(folder)
    augment = DAICGAN(generator=None, bank=bank, p=1.0, source="neighbour", k=3)
    data = data_of(page_of(folder, augment, truncations=[0.7]))
    assert not data["generated"]
    assert data["neighbours"] == "its 3 nearest neighbours"
    near, decoder = bank.neighbours(3), ImageDecoder(1)
    for sample in data["samples"]:
        assert len(sample["near"]) == 3
        for row in sample["views"][0]:
            made = row["made"]
            other = near[sample["index"], int(made["note"].removeprefix("neighbour ")) - 1]
            pixels = decoder.decode([samples.read(int(other))])[0].numpy()
            (whole,) = made["whole"]
            assert (whole["height"], whole["width"]) == pixels.shape[:2]
            assert np.abs(decoded(whole["src"]) - pixels).mean() < 6
            top, left, height, width = made["box"]
            assert 0 <= top < top + height <= whole["height"]
            assert 0 <= left < left + width <= whole["width"]


def test_its_pictures_are_the_rows_but_for_compression(folder, bank, generator):
    augment = DAICGAN(generator=generator, bank=bank, p=0.5, truncation=1.0)
    data = data_of(page_of(folder, augment))
    index = [sample["index"] for sample in data["samples"]]
    originals = ImageDecoder(1).decode([as_samples(folder).read(i) for i in index])
    for sample, original in zip(data["samples"], originals, strict=True):
        picture = sample["original"]
        assert (picture["height"], picture["width"]) == original.shape[:2]
        assert np.abs(decoded(picture["src"]) - original.numpy()).mean() < 6
    for e, epoch in enumerate(data["epochs"]):
        pixels, info = delivered(folder, augment, epoch, index)
        for i, sample in enumerate(data["samples"]):
            row = sample["views"][0][e]
            shown = row["made"]["rows"][1] if row["u"] < 0.5 else row["real"]["row"]
            assert np.abs(decoded(shown) - pixels[i]).mean() < 6
            kind = row["made"] if row["u"] < 0.5 else row["real"]
            assert kind["box"] == info["box"][i].tolist()
            assert kind["flip"] == info["flip"][i]


def test_a_large_photograph_is_reduced_and_its_size_is_said(tmp_path, generator, extractor):
    (tmp_path / "a").mkdir()
    Image.fromarray(photos.photograph("coffee")).resize((1000, 300)).save(tmp_path / "a" / "wide.jpg")
    data = data_of(page_of(tmp_path, DAICGAN(generator=generator, extractor=extractor.at_resolution(32))))
    (sample,) = data["samples"]
    assert (sample["original"]["height"], sample["original"]["width"]) == (300, 1000)
    assert decoded(sample["original"]["src"]).shape == (round(300 * LONGEST / 1000), LONGEST, 3)
    top, left, height, width = sample["views"][0][0]["real"]["box"]  # in the photograph's own pixels
    assert top + height <= 300
    assert left + width <= 1000


# ---------------------------------------------------------------------- one file that loads nothing


class Elements(HTMLParser):
    """What a browser finds in a page: elements and their attributes, and the text of those named."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._inside = [], {}, ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, text):
        self.text.setdefault(self._inside, []).append(text)

    def names(self):
        return [tag for tag, _ in self.elements]


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "p.html"
    run("preview", folder, "--html", "-o", file, "--samples", 3, "--size", 48, "--device", "cpu", *MODELS)
    return file.read_text("utf-8")


def test_it_loads_nothing_and_runs_nothing_but_its_own(page):
    found = Elements(page)
    for tag, attributes in found.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    pictures = re.compile('"data:image/webp;base64,[^"]*"')
    text = pictures.sub("", page)
    assert len(text) < 40_000
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|innerHTML|eval\(", text)
    (policy,) = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for element in ("script", "style"):
        (inside,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{element}-src"] == f"'sha256-{digest}'"
    assert "{{" not in page


def test_all_of_its_pictures_decode(page):
    data = data_of(page)
    found = sources(data)
    epochs, truncations = len(data["epochs"]), len(data["truncations"])
    assert (epochs, truncations) == (5, 4)
    # Of each sample the original, and in each epoch the photograph's row, and at each truncation a generation and its row.
    assert len(found) == 3 * (1 + epochs * (1 + 2 * truncations))
    shapes = {decoded(source).shape for source in found}
    assert (48, 48, 3) in shapes
    assert (32, 32, 3) in shapes


EVIL = "<img src=x onerror=alert(1)>", "<!--<script>'\"&amp;{{DATA}}{{POLICY}}", "a\udcffb"


def test_names_are_text_and_nothing_else(tmp_path, generator, extractor):
    root = tmp_path / "<script>alert(1)<i>{{DATA}}&"
    for name in EVIL[:2]:
        (root / name).mkdir(parents=True)
        (root / name / f"{EVIL[1]}{EVIL[2]}.jpg").write_bytes(photos.jpeg(photos.patch("coffee", 1)))
    out = tmp_path / "page.html"
    run("preview", root, "--html", "-o", out, "--size", 32, "--device", "cpu", *MODELS)
    page = out.read_text("utf-8")
    found, plain = Elements(page), Elements(fill((preview_template()), "", {}))
    assert found.names() == plain.names()  # not an element more
    assert found.text["title"] == found.text["h1"] == [f"{root.name}: what training sees"]
    data = data_of(page)
    assert {sample["name"] for sample in data["samples"]} == set(EVIL[:2])
    assert {sample["file"] for sample in data["samples"]} == {f"{EVIL[1]}{EVIL[2]}.jpg"}
    assert data["title"] == f"{root.name}: what training sees"


def preview_template():
    return (preview.Path(preview.__file__).parent / "preview.html").read_text("utf-8")


def test_nothing_in_the_data_ends_its_element():
    text = "</script><script>alert(1)</script>]]><!-- \u2028 {{TITLE}}"
    page = fill(preview_template(), text, {"name": text})
    assert Elements(page).names() == Elements(fill(preview_template(), "", {})).names()
    assert data_of(page) == {"name": text}


# ---------------------------------------------------------------------- the command


def test_html_takes_the_place_of_the_picture(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("preview", folder, "--html", "--samples", 2, "--size", 32, "--device", "cpu", *MODELS)
    (file,) = tmp_path.iterdir()
    assert file.name == "preview.html"
    size = file.stat().st_size
    assert size > 20_000
    assert (
        f"preview.html: {size / 1e6:,.1f} MB, 2 samples of 9" in said or f"{size / 1e3:,.1f} KB, 2 samples of 9" in said
    )
    assert "UNTRAINED" in said
    data = data_of(file.read_text("utf-8"))
    assert (data["epochs"], data["truncations"], data["p"], data["truncation"]) == (
        [0, 1, 2, 3, 4],
        [0.3, 0.5, 0.7, 1],
        [0.5],
        0.7,
    )
    assert "UNTRAINED" in data["warning"]


def test_options_are_what_is_picked_at_first(folder, bank, tmp_path):
    more = ["--bank", bank.path, "--condition", "neighbour", "--k", 2, "--view-p", "0.25,1", "--truncation", 0.6]
    more += ["--epoch", 7, "--generated-scale", "0.9,1", "--seed", 5]
    out = tmp_path / "p.html"
    run("preview", folder, "--html", "-o", out, "--samples", 1, "--size", 32, "--device", "cpu", *MODELS[:2], *more)
    data = data_of(out.read_text("utf-8"))
    assert (data["p"], data["views"], data["truncation"]) == ([0.25, 1], 2, 0.6)
    assert (data["epochs"], data["truncations"]) == ([7, 8, 9, 10, 11], [0.3, 0.5, 0.6, 0.7, 1])
    assert data["neighbours"] == "its 2 nearest neighbours"
    assert (
        "the features of one of its 2 nearest neighbours, then cropped (32 px, area 0.08 to 1; generations 0.9 to 1)"
        in data["lead"]
    )
    assert "seed 5" in data["made_by"]
    assert {row["made"]["note"] for row in data["samples"][0]["views"][0]} <= {"neighbour 1", "neighbour 2"}
    more = ["--bank", bank.path, "--source", "neighbour", "--k", 2, "--p", 0.1]
    run("preview", folder, "--html", "-o", out, "--samples", 1, "--size", 32, "--device", "cpu", *more)
    data = data_of(out.read_text("utf-8"))
    assert (data["p"], data["truncations"], data["generated"]) == ([0.1], [0.7], False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--html", "-o", "page.png"], "--out must end in .html, got page.png"),
        (["-o", "page.html"], "--out must end in .png, got page.html"),
        (["--html", "-o", "nowhere/page.html"], "--out must be in an existing folder, and there is no"),
        (["--html", "--p", "2"], "p must be a number in [0, 1]"),
    ],
)
def test_bad_input_is_named(folder, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    assert message in error("preview", folder, "--device", "cpu", *more)
    assert list(tmp_path.iterdir()) == []
