"""What `dali-icgan preview` shows of each setting. What else it does: test_commands.py."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dali_icgan.augment import DAICGAN, EvalTransform, FeatureBank, TrainTransform
from dali_icgan.cli import preview
from dali_icgan.cli.page import displayed
from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.loader import DataLoader
from dali_icgan.models.checkpoint import Checkpoint, write_checkpoint
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from tests import photos
from tests.cli.test_commands import error, run
from tests.untrained import FOLDER

pytestmark = pytest.mark.dali
SHAPE = {"samples": 3, "epochs": range(3), "draws": 0, "seed": 1, "device": "cpu"}
TRANSFORM = TrainTransform(96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos.make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=4)


@pytest.fixture(scope="module")
def bank(folder):
    path = folder.parent / "bank"
    return FeatureBank.build(
        folder, load_extractor(FOLDER / "extractor.safetensors", "cpu", resolution=32), path, progress=False
    )


@pytest.fixture(scope="module")
def classy(generator, tmp_path_factory):
    """A file of a class-conditional generator of three classes, with random weights."""
    torch.manual_seed(0)
    config = GeneratorConfig(32, 8, 4, generator.feature_dim, 16, n_classes=3, shared_dim=8, class_conditional=True)
    tensors = {name: t for name, t in ICGenerator(config).state_dict().items() if t.is_floating_point()}
    file = tmp_path_factory.mktemp("classes") / "classes.safetensors"
    write_checkpoint(file, Checkpoint("generator", config, tensors, source=file.name, trained=False))
    return file


def page_of(folder, augment, transform=TRANSFORM, **shape):
    return preview.make_page(as_samples(folder), augment, transform, title="", **{**SHAPE, **shape})[0]


def chosen(page):
    return [int(row.detail.split(":")[0].removeprefix("sample ")) for row in page.rows]


def sections(page):
    return [(section.heading, list(section.columns)) for section in page._sections]


def seen(folder, augment, epoch, index, view=0, views=1, transform=TRANSFORM):
    with DataLoader(folder, augment=augment, transform=transform, views=views, seed=1, device="cpu") as loader:
        delivery = loader.replay_batch(epoch, index, view=view)
        return displayed(delivery.images[0], transform), delivery.info


def test_views_stand_side_by_side_with_their_p(folder, bank, generator):
    augment = DAICGAN(generator=generator, bank=bank, view_p=(0, lambda epoch: epoch / 2))
    page = page_of(folder, augment, views=2)
    assert sections(page) == [
        ("", ["original"]),
        ("view 0, p = 0", ["epoch 0", "epoch 1", "epoch 2"]),
        ("view 1, p = 0", ["epoch 0"]),
        ("view 1, p = 0.5", ["epoch 1"]),
        ("view 1, p = 1", ["epoch 2"]),
    ]
    index = chosen(page)
    for view in range(2):
        for epoch in range(3):
            pixels, info = seen(folder, augment, epoch, index, view, views=2)
            for row, want, hit in zip(page.rows, pixels, info["replaced"], strict=True):
                cell = row.cells[1 + 3 * view + epoch]
                assert (cell.pixels == want).all()
                assert cell.generated == hit
    assert "with the probability p above its column" in page._lines[0]


def test_p_of_the_epoch_stands_above_the_epochs(folder, bank, generator):
    page = page_of(folder, DAICGAN(generator=generator, bank=bank, p=lambda epoch: 0.2 if epoch < 2 else 0.75))
    assert sections(page)[1:] == [("p = 0.2", ["epoch 0", "epoch 1"]), ("p = 0.75", ["epoch 2"])]


@pytest.mark.parametrize("same_class", [False, True])
def test_neighbours_are_shown_and_numbered(folder, bank, same_class):
    augment = DAICGAN(generator=None, bank=bank, p=0.6, source="neighbour", k=7, same_class=same_class)
    whole = EvalTransform(96, 96)
    page = page_of(folder, augment)
    of = " of its own class" if same_class else ""
    assert sections(page)[1] == (f"the 5 nearest of its 7 neighbours{of}", ["1", "2", "3", "4", "5"])
    samples, near = as_samples(folder), bank.neighbours(7, same_class=same_class)
    original = ImageDecoder(1).decode([samples.read(i) for i in range(12)])
    numbered = 0
    for row, index in zip(page.rows, chosen(page), strict=True):
        for cell, other in zip(row.cells[1:6], near[index], strict=False):
            if other < 0:  # a class of four has three others
                assert same_class
                assert cell is None
                continue
            assert cell.note == samples.classes[bank.labels[other]]
            assert (cell.pixels == original[other].numpy()).all()
        for epoch, cell in enumerate(row.cells[6:]):
            assert cell.generated == (cell.note != "")
            if cell.generated:
                other = near[index, int(cell.note.removeprefix("neighbour ")) - 1]
                again, _ = seen(folder, augment, epoch, [index], transform=whole)
                plain, _ = seen(folder, None, epoch, [int(other)], transform=whole)
                assert (again[0] == plain[0]).all()
                numbered += 1
    assert numbered
    page.draw()


def test_neighbours_of_classes_that_the_folder_lacks(folder, bank, tmp_path):
    # The same files, but class 0 is coffee here, which is 2 in the bank.
    (tmp_path / "coffee").symlink_to(folder / "coffee")
    augment = DAICGAN(generator=None, bank=bank, p=1.0, source="neighbour", k=11)
    page, names = page_of(tmp_path, augment), as_samples(folder).classes
    for row, index in zip(page.rows, chosen(page), strict=True):
        near = bank.neighbours(5)[8 + index]
        assert [cell.note for cell in row.cells[1:6]] == [names[bank.labels[other]] for other in near]


def test_an_untrained_extractor_is_said_of_retrieval(folder, bank, extractor):
    augment = DAICGAN(generator=None, bank=bank, extractor=extractor.at_resolution(32), source="neighbour", k=3)
    page = page_of(folder, augment)
    assert page._warning[0].startswith("extractor: extractor.safetensors, UNTRAINED random weights")


def test_a_generations_neighbour_is_numbered_and_a_random_one_named(folder, bank, generator):
    page = page_of(folder, DAICGAN(generator=generator, bank=bank, p=1.0, condition="neighbour", k=2))
    assert sections(page)[1] == ("its 2 nearest neighbours", ["1", "2"])
    assert {cell.note for row in page.rows for cell in row.cells[3:]} == {"neighbour 1", "neighbour 2"}
    page = page_of(folder, DAICGAN(generator=generator, bank=bank, p=1.0, condition="random"))
    assert all(cell.note.removeprefix("of ") in bank.keys for row in page.rows for cell in row.cells[1:])


@pytest.mark.parametrize("labels", ["own", "random"])
def test_classes_stand_below_generations(folder, bank, classy, labels):
    model = load_generator(classy, "cpu")
    augment = DAICGAN(generator=model, bank=bank, p=0.5, labels=labels, class_map=[2, 0, 1])
    page, samples = page_of(folder, augment), as_samples(folder)
    notes = set()
    for epoch in range(3):
        _, info = seen(folder, augment, epoch, chosen(page))
        for row, label, hit in zip(page.rows, info["label"], info["replaced"], strict=True):
            want = f"label: {samples.classes[label]}" if labels == "random" else f"class {[2, 0, 1][label]}"
            assert row.cells[1 + epoch].note == (want if hit else "")
            notes.add(row.cells[1 + epoch].note)
    assert len(notes) > 2


def test_classes_beyond_the_folders_are_never_drawn(folder, bank, classy):
    augment = DAICGAN(generator=load_generator(classy, "cpu"), bank=bank, p=1.0, labels="random", class_map=[0] * 40)
    notes = {cell.note for row in page_of(folder, augment).rows for cell in row.cells[1:]}
    assert notes
    assert not any(note.startswith("label: class ") for note in notes)


def test_whole_generations_are_of_the_same_settings(folder, bank, classy):
    # Rows that were replaced are seen whole as the same draw: the same note, and the same pixels where the crop is the whole.
    augment = DAICGAN(
        generator=load_generator(classy, "cpu"),
        bank=bank,
        p=0.5,
        labels="random",
        condition="neighbour",
        k=3,
        truncation=0.2,
        generated_transform=EvalTransform(96, 96),
    )
    page = page_of(folder, augment, draws=3)
    same = 0
    for row in page.rows:
        for cell, whole in zip(row.cells[4:7], row.cells[7:10], strict=True):
            assert whole.generated
            assert whole.note
            if cell.generated:
                assert cell.note == whole.note
                assert np.array_equal(cell.pixels, whole.pixels)
                same += 1
    assert same


def test_a_generated_transforms_normalisation_is_undone(folder, bank, generator):
    own = TrainTransform(96, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    a = page_of(folder, DAICGAN(generator=generator, bank=bank, p=0.5))
    b = page_of(folder, DAICGAN(generator=generator, bank=bank, p=0.5, generated_transform=own))
    for row, other in zip(a.rows, b.rows, strict=True):
        for cell, again in zip(row.cells, other.cells, strict=True):
            assert np.abs(cell.pixels.astype(int) - again.pixels).max() <= 1


def test_exif_turns_originals_neighbours_and_crops(folder, tmp_path, generator):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in range(4):
        pixels = Image.fromarray(photos.patch("coffee", i))
        pixels.save(tmp_path / "images" / "a" / f"{i}.jpg", exif=exif)
    at = load_extractor(FOLDER / "extractor.safetensors", "cpu", resolution=32)
    banks = {
        turned: FeatureBank.build(tmp_path / "images", at, tmp_path / f"{turned}", exif=turned, progress=False)
        for turned in (False, True)
    }
    sizes = {}
    for turned, bank in banks.items():
        augment = DAICGAN(generator=None, bank=bank, p=0.5, source="neighbour", k=3)
        page = page_of(tmp_path / "images", augment, exif=turned)
        # Original and three neighbours are the four images, whatever the order.
        sizes[turned] = sorted(cell.pixels.shape[:2] for cell in page.rows[0].cells[:4])
    assert sizes[True] == sorted((w, h) for h, w in sizes[False])
    assert sizes[True] != sizes[False]
    for turned in (False, True):
        more = ["--bank", tmp_path / f"{turned}", "-o", tmp_path / "page.png", "--size", 48, "--device", "cpu"]
        more += ["--generator", FOLDER / "generator.safetensors"]
        run("preview", tmp_path / "images", *more, *(["--exif"] if turned else []))
        said = error("preview", tmp_path / "images", *more, *([] if turned else ["--exif"]))
        assert f"must be of images seen with exif={not turned}" in said


# ---------------------------------------------------------------------- options


@pytest.fixture
def drawn(folder, bank, tmp_path, monkeypatch):
    """Runs the command; returns the DAICGAN, the transform and the keywords that its page is made of."""
    pages = []
    real = preview.make_page

    def make_page(dataset, augment, transform, **arguments):
        pages.append((augment, transform, arguments))
        return real(dataset, augment, transform, **arguments)

    monkeypatch.setattr(preview, "make_page", make_page)

    def draw(*more, bank=bank.path):
        options = [] if bank is None else ["--bank", bank, "--generator", FOLDER / "generator.safetensors"]
        run(
            "preview",
            folder,
            "-o",
            tmp_path / "page.png",
            "--samples",
            1,
            "--size",
            32,
            "--device",
            "cpu",
            *options,
            *more,
        )
        return pages[-1]

    return draw


def test_options_are_the_arguments(drawn):
    augment, transform, page = drawn()
    assert (augment.p, augment.truncation, augment.source, augment.condition) == (1.0, 0.7, "generator", "instance")
    assert (augment.k, augment.same_class, augment.labels, augment.view_p) == (
        11,
        False,
        "own",
        None,
    )  # k: 50, or all there are
    assert (augment.generated_transform, augment.class_map, transform) == (None, None, TrainTransform(32))
    assert (page["views"], page["exif"], page["draws"]) == (1, False, 3)
    augment, _, _ = drawn("--condition", "neighbour", "--k", 3, "--same-class", "--p", 0.25, "--truncation", 0.5)
    assert (augment.p, augment.truncation, augment.condition) == (0.25, 0.5, "neighbour")
    assert (augment.k, augment.same_class) == (3, True)
    augment, _, page = drawn("--view-p", "0,0.5,1", "--generated-scale", "0.5,0.75")
    assert (augment.view_p, page["views"], page["draws"]) == ((0, 0.5, 1), 3, 0)
    assert augment.generated_transform == TrainTransform(32, scale=(0.5, 0.75))
    assert drawn("--views", 2)[2]["views"] == 2
    augment, _, page = drawn("--source", "neighbour", "--k", 3)
    assert (augment.source, augment.generator, page["draws"]) == ("neighbour", None, 0)


def test_class_conditional_options(drawn, classy, tmp_path):
    augment, _, _ = drawn("--generator", classy, "--labels", "random")
    assert (augment.labels, augment.class_map) == ("random", None)
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"coffee": 0, "astronaut": 2, "chelsea": 1}))
    augment, _, _ = drawn("--generator", classy, "--class-map", file)
    assert augment.class_map.tolist() == [2, 1, 0]  # astronaut, chelsea, coffee


def test_retrieval_needs_no_generator(folder, bank, tmp_path):
    page = tmp_path / "page.png"
    more = ["--source", "neighbour", "--k", 3, "--generator", "nowhere.pth", "--bank", bank.path]
    said = run("preview", folder, "-o", page, "--samples", 2, "--size", 32, "--device", "cpu", *more)
    assert "UNTRAINED" not in said
    assert page.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source", "neighbour"], "--bank must be given with --source neighbour and --condition neighbour or random"),
        (["--condition", "random"], "which `dali-icgan features` makes; got none"),
        (["BANK", "--source", "web"], "source must be one of 'generator', 'neighbour', got 'web'"),
        (["BANK", "--condition", "self"], "condition must be one of 'instance', 'neighbour', 'random', got 'self'"),
        (
            ["BANK", "--condition", "neighbour", "--k", "50"],
            "k must be an integer in 1..11, the other rows that are present, got 50",
        ),
        (["BANK", "--condition", "neighbour", "--k", "0"], "k must be a positive integer, got 0"),
        (["BANK", "--same-class"], 'same_class=True limits neighbours: condition or source must be "neighbour"'),
        (["--labels", "any"], "labels must be one of 'own', 'random', got 'any'"),
        (["--labels", "random"], 'labels="random" needs a class-conditional generator'),
        (["--view-p", "0;1"], "--view-p must be numbers with commas between them, got '0;1'"),
        (["--view-p", "0,2"], "view_p[1] must be a number in [0, 1]"),
        (["--view-p", "0,1", "--views", "3"], "view_p must give one p a view: views is 3, got 2"),
        (["--generated-scale", "half"], "--generated-scale must be numbers with commas between them, got 'half'"),
        (["--generated-scale", "0.5"], "scale must be"),
        (["--generated-scale", "0.9,0.5"], "scale must be"),
        (["--class-map", "nowhere.json"], "nowhere.json"),
        (["--class-map", "text.json"], "text.json must be a class map in JSON, got something damaged"),
        (["--class-map", "list.json"], '--class-map must be an object {"folder name": class, ...} of integers'),
        (["--class-map", "half.json"], '--class-map must be an object {"folder name": class, ...} of integers'),
        (["--class-map", "large.json"], '--class-map must be an object {"folder name": class, ...} of integers from 0'),
        (["--class-map", "deep.json"], "deep.json must be a class map in JSON, got lists or objects nested too deep"),
        (["--class-map", "others.json"], "too many ['dog'] in others.json"),
        (["--class-map", "others.json"], "got none for ['astronaut', 'coffee'], too many ['dog']"),
        (["--class-map", "right.json"], "class_map is for a class-conditional generator, got a plain one"),
        (["--views", "0"], None),
    ],
)
def test_bad_options_are_named(folder, bank, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    files = {
        "text": "cat 281",
        "list": "[1, 2, 3]",
        "half": '{"astronaut": 0.5, "chelsea": 1, "coffee": true}',
        "large": f'{{"astronaut": {2**64}, "chelsea": 1, "coffee": 2}}',
        "deep": "[" * 100_000,
        "others": '{"chelsea": 0, "dog": 1}',
        "right": '{"astronaut": 0, "chelsea": 1, "coffee": 2}',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    options = (
        ["--bank", bank.path, "--generator", FOLDER / "generator.safetensors", *more[1:]] if more[0] == "BANK" else more
    )
    arguments = ["preview", folder, "-o", tmp_path / "page.png", "--device", "cpu", *options]
    if message is None:
        assert "Invalid value" in run(*arguments, code=2)
    else:
        assert message in error(*arguments)
    assert not (tmp_path / "page.png").exists()
