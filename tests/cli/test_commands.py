"""Each command on tiny data, and what it says of bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dali_icgan.cli.doctor
from dali_icgan.augment import DAICGAN, FeatureBank, TrainTransform
from dali_icgan.cli import app, photographs, preview
from dali_icgan.cli.page import FRAME, GENERATED, displayed
from dali_icgan.data import as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.errors import DecodeError, DeviceError
from dali_icgan.loader import DataLoader
from dali_icgan.models.checkpoint import read_extractor, read_generator
from tests import photos
from tests.golden import own

EMBEDDED = Path(dali_icgan.__file__).parent / "embedded"
UNTRAINED = Path(__file__).parents[1] / "files" / "untrained"


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def error(*arguments, code=2):
    """The one line that a failing command says."""
    lines = run(*arguments, code=code).strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos.make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=4)


@pytest.fixture(scope="module")
def bank(folder):
    path = folder.parent / "bank"
    FeatureBank.build(folder, load_extractor("embedded", "cpu", resolution=64), path, progress=False)
    return path


# ---------------------------------------------------------------------- the program


def test_help_names_every_command():
    said = run("--help")
    for command in ("demo", "preview", "features", "train", "convert", "tune", "doctor"):
        assert command in said
        assert "--help" in run(command, "--help")


def test_version():
    assert run("--version").startswith("dali-icgan 0.")


def test_the_installed_script_says_errors_in_one_line(tmp_path):
    script = Path(sys.executable).with_name("dali-icgan")
    if not script.exists():
        pytest.skip(f"the package is not installed beside {sys.executable}")
    done = subprocess.run([script, "preview", "nowhere"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().splitlines() == [
        "error: dataset must be a folder with one subfolder a class, or of tar shards, got 'nowhere', which is not a folder"
    ]


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ValueError("x must be 1,\n got 2"), 2),
        (TypeError("x must be"), 2),
        (IndexError("index must be"), 2),
        (FileNotFoundError(2, "No such file", "x"), 2),
        (DeviceError("no device"), 1),
        (DecodeError("a.jpg", 3, "is damaged"), 1),
        (OSError(28, "No space left on device"), 1),
        (ImportError("no module"), 1),
        (MemoryError(), 1),
    ],
)
def test_the_exit_code_says_who_is_wrong(monkeypatch, raised, code):
    def fail(*_):
        raise raised

    monkeypatch.setattr(dali_icgan.cli.doctor, "run", fail)
    said = error("doctor", code=code)
    assert said == "error: " + (" ".join(str(raised).split()) or type(raised).__name__)


def test_debug_lets_the_error_through(monkeypatch):
    def fail(*_):
        raise DeviceError("no device")

    monkeypatch.setattr(dali_icgan.cli.doctor, "run", fail)
    result = CliRunner().invoke(app, ["--debug", "doctor"])
    assert isinstance(result.exception, DeviceError)


# ---------------------------------------------------------------------- preview


@pytest.mark.dali
def test_preview_frames_what_info_calls_replaced(folder):
    samples, transform = as_samples(folder), TrainTransform(96)
    augment = DAICGAN(generator=load_generator("embedded", "cpu"), extractor=load_extractor("embedded", "cpu"), p=0.5)
    page, shown = preview.make_page(
        samples, augment, transform, title="", samples=5, epochs=range(2, 5), draws=1, seed=3, device="cpu"
    )
    assert shown == 5
    drawn = np.asarray(page.draw())
    chosen = [int(row.detail.split(":")[0].removeprefix("sample ")) for row in page.rows]
    replaced = []
    with DataLoader(samples, augment=augment, transform=transform, seed=3, device="cpu") as loader:
        for column, epoch in enumerate(range(2, 5), start=1):
            again = loader.replay_batch(epoch, chosen)
            replaced += again.info["replaced"].tolist()
            for row, pixels in enumerate(displayed(again.images[0], transform)):
                left, top, right, bottom = page.place(row, column)
                assert (drawn[top:bottom, left:right] == pixels).all()
                framed = (drawn[top - FRAME : top, left:right] == GENERATED).all()
                assert framed == again.info["replaced"][row]
    assert any(replaced)
    assert not all(replaced)
    for row in range(5):  # whole generations are framed whether or not they took the place
        left, top, right, _ = page.place(row, 4)
        assert (drawn[top - FRAME : top, left:right] == GENERATED).all()


@pytest.mark.dali
@pytest.mark.parametrize("seed", [-1, 0, 1, 2**63])
def test_classes_take_turns_in_the_choice_of_samples(folder, seed):
    samples = as_samples(folder)
    chosen, originals = preview.readable(samples, 6, seed)
    assert np.bincount(samples.labels[chosen]).tolist() == [2, 2, 2]
    assert [original.tobytes() for original in originals] == [
        np.asarray(Image.open(samples.path(index))).tobytes() for index in chosen
    ]


@pytest.mark.dali
@pytest.mark.parametrize("with_bank", [False, True])
def test_preview_writes_a_page(folder, bank, tmp_path, with_bank):
    page = tmp_path / "page.png"
    more = ["--bank", bank] if with_bank else []
    said = run("preview", folder, "-o", page, "--samples", 3, "--size", 64, "--device", "cpu", *more)
    with Image.open(page) as image:
        assert f"{image.width} x {image.height} px" in said
        assert image.size > (600, 400)
    assert "embedded, it knows the photographs of `dali-icgan demo` and not these" in said


@pytest.mark.dali
def test_preview_with_a_bank_shows_the_same_as_without(folder, bank, tmp_path):
    for name, more in (("with", ["--bank", bank]), ("without", [])):
        run("preview", folder, "-o", tmp_path / f"{name}.png", "--samples", 2, "--size", 48, "--device", "cpu", *more)
    a, b = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("with", "without"))
    # The lines above say which of the two it is; the pictures differ by the bank's half precision only.
    assert np.abs(a - b)[-150:].max() <= 8


@pytest.mark.dali
def test_preview_takes_a_flat_folder_and_leaves_out_what_cannot_be_read(tmp_path):
    flat = tmp_path / "holiday"
    flat.mkdir()
    for number in range(3):
        (flat / f"{number}.jpg").write_bytes(photos.jpeg(photos.patch("coffee", number)))
    (flat / "bad.jpg").write_bytes(b"no image")
    said = run("preview", flat, "-o", tmp_path / "page.png", "--samples", 9, "--size", 48, "--device", "cpu")
    assert "3 samples of 4" in said
    assert "left out: " in said
    assert "bad.jpg" in said


@pytest.mark.dali
def test_preview_of_nothing_readable(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.jpg").write_bytes(b"no image")
    said = run("preview", tmp_path, "-o", tmp_path / "page.png", "--device", "cpu", code=1)
    assert "no image of" in said
    assert "bad.jpg" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "page.jpg"], "--out must end in .png, got page.jpg"),
        (["-o", "nowhere/page.png"], "--out must be in an existing folder, and there is no"),
        (["--generator", "G.pth"], "--extractor or --bank must be given with --generator FILE"),
        (["--generator", "nowhere.pth", "--extractor", "embedded"], "there is no nowhere.pth"),
        (["--p", "1.5"], "p must be a number in [0, 1]"),
        (["--truncation", "0"], "truncation must be a positive number, got 0"),
        (["--bank", "nowhere"], "nowhere must be a feature bank"),
        (["--device", "tpu"], None),
        (["--samples", "0"], None),
        (["--size", "1"], None),
        (["--epoch", "-1"], None),
    ],
)
def test_preview_of_bad_input(folder, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    if message is None:
        assert "Invalid value" in run("preview", folder, *more, code=2)
    else:
        assert message in error("preview", folder, *more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["empty", "a folder without images"])
def test_preview_of_an_empty_folder(tmp_path, inside):
    if inside != "empty":
        (tmp_path / "a").mkdir()
    assert "must hold" in error("preview", tmp_path, "-o", tmp_path / "page.png")


# ---------------------------------------------------------------------- features


@pytest.mark.dali
def test_features_builds_a_bank_and_says_what_is_absent(tmp_path):
    folder = photos.make_folder(tmp_path / "images", per_class=3)
    for number in range(7):
        (folder / "coffee" / f"bad{number}.jpg").write_bytes(b"no image")
    out = tmp_path / "bank"
    options = ["--extractor", "embedded", "--resolution", 32, "--dtype", "fp32", "--batch-size", 5, "--device", "cpu"]
    said = run("features", folder, "-o", out, *options, "--align-corners")
    bank = FeatureBank.open(out)
    assert (bank.n, bank.resolution, bank.align_corners, bank.dtype.itemsize) == (16, 32, True, 4)
    assert f"16 x {bank.dim}, fp32" in said
    assert "7 images could not be read" in said
    assert said.count("coffee/bad") == 5
    assert "and 2 more" in said
    assert "images/s" in said
    assert "with what was there already" in run("features", folder, "-o", out, *options, "--align-corners")
    assert "holds another bank" in error("features", folder, "-o", out, *options)
    assert not list(out.glob("embedded_*"))
    other = tmp_path / "other.pth"
    torch.save(own("ic_res32")["state_dict"], other)
    wrong = error("features", folder, "-o", tmp_path / "other", *options, "--embed", other)
    assert f"must name a generator of the extractor's {bank.dim} features" in wrong
    assert not (tmp_path / "other").exists()
    embed = ["--align-corners", "--embed", UNTRAINED / "generator.safetensors"]
    wrong = error("features", folder, "-o", tmp_path / "other", *options, *embed, "--resolution", 64)
    assert "--resolution must be the generator's that --embed names, 32, got 64" in wrong
    said = run("features", folder, "-o", tmp_path / "other", *options, *embed)
    assert len(list((tmp_path / "other").glob("embedded_*"))) == 1
    assert "embedded" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nowhere", "-o", "bank", "--extractor", "embedded", "--resolution", "32"],
            "got 'nowhere', which is not a folder",
        ),
        (["FOLDER", "-o", "bank", "--extractor", "nowhere.pth", "--resolution", "32"], "there is no nowhere.pth"),
        (["FOLDER", "-o", "file", "--extractor", "embedded", "--resolution", "32"], "path must be a folder"),
        (["FOLDER", "-o", "bank", "--extractor", "embedded"], "--resolution"),
        (["FOLDER", "-o", "bank", "--resolution", "32"], "--extractor"),
        (["FOLDER", "--extractor", "embedded", "--resolution", "32"], "--out"),
        (["FOLDER", "-o", "bank", "--extractor", "embedded", "--resolution", "32", "--dtype", "int8"], "int8"),
    ],
)
def test_features_of_bad_input(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    said = run("features", *(str(folder) if a == "FOLDER" else a for a in arguments), code=2)
    assert message in said


# ---------------------------------------------------------------------- tune


def test_tune_writes_a_table_that_models_are_loaded_with(tmp_path):
    out = tmp_path / "tables" / "forms.json"
    models = [UNTRAINED / "generator.safetensors", UNTRAINED / "extractor.safetensors"]
    said = run("tune", models[0], "-o", out, "--batch-size", 1, "--rounds", 1)
    generator = load_generator(models[0], "cpu")
    (name, mine), *_ = generator.forms.items()
    table = json.loads(out.read_text())
    assert table[name].keys() == mine.keys()
    assert all(convolution in said for convolution in mine)
    table["generic float64"] = {"3x3 1->1 @8": 2}
    out.write_text(json.dumps(table))
    run("tune", models[1], "-o", out, "--batch-size", 1, "--rounds", 1)
    both = json.loads(out.read_text())
    assert both["generic float64"] == table["generic float64"]  # what others measured stays
    assert both[name].items() > table[name].items()
    assert load_generator(models[0], "cpu", forms=out).forms[name] == table[name]
    assert load_extractor(models[1], "cpu", forms=out).forms[name].items() <= both[name].items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pth", "-o", "forms.json"], "there is no nowhere.pth"),
        (["embedded", "-o", "file"], "must be a table of forms in JSON"),
        (["embedded"], "--out"),
        (["-o", "forms.json"], "MODEL"),
        (["embedded", "-o", "forms.json", "--rounds", "0"], "--rounds"),
    ],
)
def test_tune_of_bad_input(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("{")
    assert message in run("tune", *arguments, code=2)
    assert not Path("forms.json").exists()


# ---------------------------------------------------------------------- convert


@pytest.mark.parametrize(("kind", "read"), [("generator", read_generator), ("extractor", read_extractor)])
def test_convert_says_what_it_recognised(tmp_path, kind, read):
    source, out = EMBEDDED / f"{kind}.safetensors", tmp_path / "out.safetensors"
    said = run("convert", source, out)
    before, after = read(source), read(out)
    assert before.fingerprint == after.fingerprint
    assert before.fingerprint[:16] in said
    assert f"{before.parameters_count:,}" in said
    assert kind in said
    assert "->" in said


def test_convert_writes_the_embedded_generator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("convert", "embedded", "out.safetensors")
    assert "generator" in said
    assert "UNTRAINED" not in said
    assert "->" not in said
    assert read_generator("out.safetensors").fingerprint == read_generator("embedded").fingerprint
    assert load_generator("out.safetensors", "cpu").trained


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("nowhere.pth", "out.safetensors", "there is no nowhere.pth"),
        ("text.pth", "out.safetensors", "text.pth is damaged, or no checkpoint of torch"),
        (str(EMBEDDED / "generator.safetensors"), "out.pth", "path must end in .safetensors, got out.pth"),
        ("embedded", "out.pth", "path must end in .safetensors, got out.pth"),
    ],
)
def test_convert_of_bad_input(tmp_path, monkeypatch, source, out, message):
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("not a checkpoint, but long enough to look at")
    assert message in error("convert", source, out)
    assert not Path(out).exists()


# ---------------------------------------------------------------------- demo


@pytest.mark.dali
def test_demo_draws_its_page_and_uses_its_folder_again(tmp_path):
    page, folder = tmp_path / "demo.png", tmp_path / "demo"
    options = ["--out", page, "--folder", folder, "--per-photograph", 3, "--seconds", 0, "--device", "cpu"]
    said = run("demo", *options)
    with Image.open(page) as image:
        assert image.width > 1200
        assert image.height > 1300  # two rows of each photograph
        assert image.mode == "RGB"
    for stage in ("read", "decode", "features", "generate", "assemble", "loader, p = 0 ", "loader, p = 0.5"):
        assert stage in said
    assert "UNTRAINED" not in said
    samples = as_samples(folder / "images")
    assert samples.classes == sorted(photographs.PHOTOGRAPHS)
    assert len(samples) == 3 * len(photographs.PHOTOGRAPHS)
    (bank,) = folder.glob("bank-*")
    assert json.loads((bank / "bank.json").read_text())["n"] == len(samples)

    first = samples.sources[0]
    Path(first).unlink()
    before = {p: p.stat().st_mtime_ns for p in (folder / "images").rglob("*.jpg")}
    run("demo", *options)
    assert Path(first).exists()
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_demo_of_bad_input(tmp_path, monkeypatch):
    assert "--out must end in .png" in error("demo", "--out", tmp_path / "demo.gif")
    monkeypatch.setitem(photographs.PHOTOGRAPHS, "another", ("missing.png", "CC0"))
    said = run("demo", "--out", tmp_path / "demo.png", "--folder", tmp_path / "demo", code=1)
    assert "pip install 'dali-icgan[demo]'" in said.strip().splitlines()[-1]


@pytest.mark.parametrize("name", sorted(photographs.PHOTOGRAPHS))
def test_photographs_are_inside_the_wheel_and_patches_vary(name):
    image = photographs.photograph(name)
    patches = [photographs.patch(image, number) for number in range(4)]
    assert [p.tobytes() for p in patches] == [photographs.patch(image, number).tobytes() for number in range(4)]
    assert len({p.tobytes() for p in patches}) == 4
    for part in patches:
        assert min(part.size) >= 0.7 * photographs.SHORTEST
        assert max(part.size) <= photographs.LONGEST
