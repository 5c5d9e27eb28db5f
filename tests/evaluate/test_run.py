"""Whole evaluations by the command line: what they leave, what they refuse, how they go on."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dali_icgan.cli import app
from dali_icgan.evaluate import run
from dali_icgan.evaluate.metrics import mcnemar
from dali_icgan.evaluate.record import Record
from dali_icgan.evaluate.sets import CORRUPTIONS, imagenet_classes, subset
from tests.evaluate.conftest import fill
from tests.untrained import FOLDER

pytestmark = pytest.mark.dali


def evaluate(*arguments, code=0):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def of_model(checkpoint):
    return ("--model", f"timm:test_resnet@{checkpoint}", "--device", "cpu", "--resize", 64, "--crop", 64)


def lines_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def values(out):
    return {(line["set"], line["figure"]): line["value"] for line in lines_of(out) if line["kind"] == "figure"}


def check_page(out, *pictures):
    """report.md with pictures that are there and are none of one colour."""
    page = (out / "report.md").read_text()
    for name in pictures:
        assert f"]({name})" in page
        assert np.asarray(Image.open(out / name).convert("L")).std() > 5
    return page


def test_imagenet(of_model, validation, tmp_path):
    out = tmp_path / "out"
    said = evaluate("imagenet", *of_model, "--data", validation, "--out", out, "--batch-size", 9)
    record = Record.read(out / "predictions" / "imagenet.safetensors")
    known = list(imagenet_classes())
    truth = [known.index(key.split("/")[0]) for key in record.keys]
    right = record.columns["top"][:, 0] == truth
    assert len(record) == 40
    assert values(out)["imagenet", "top1 (1000-way)"] == right.sum() / 40
    assert f"{100 * right.mean():.2f} %" in said
    page = check_page(out, "accuracy.png", "calibration.png", "classes.png")
    assert f"| {known[0]} | {right[:5].sum()} | 5 |" in page


def test_an_unfinished_run_goes_on(of_model, validation, tmp_path, monkeypatch):
    arguments = ("imagenet", *of_model, "--data", validation, "--out", tmp_path / "out")
    evaluate(*arguments)
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    (tmp_path / "out" / "results.jsonl").unlink()
    monkeypatch.setattr(run, "classify", lambda *_: pytest.fail("computed again"))
    evaluate(*arguments)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    said = evaluate(*arguments, "--limit", 3, code=2)
    assert "out must be a new folder or one of the same settings" in said
    assert "whose limit is None, not 3" in said


def test_a_folder_of_others_is_left_alone(of_model, validation, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    said = evaluate("imagenet", *of_model, "--data", validation, "--out", tmp_path, code=2)
    assert "out must be a new or empty folder" in said
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_images_that_changed_are_seen(of_model, tmp_path):
    fill(tmp_path / "val" / "n01440764", 2)
    arguments = ("imagenet", *of_model, "--data", tmp_path / "val", "--out", tmp_path / "out")
    evaluate(*arguments)
    fill(tmp_path / "val" / "n01443537", 1)
    assert "must be of the same images as imagenet, got others" in evaluate(*arguments, code=2)


def test_an_unknown_folder_is_refused_before_anything_is_computed(of_model, tmp_path):
    fill(tmp_path / "val" / "n01440764", 1)
    fill(tmp_path / "val" / "tench", 1)
    said = evaluate("imagenet", *of_model, "--data", tmp_path / "val", "--out", tmp_path / "out", code=2)
    assert "imagenet must have subfolders that name its 1000 classes" in said
    assert "tench" in said
    assert not (tmp_path / "out").exists()


def test_classes_of_ones_own(of_model, tmp_path):
    names = [f"class{i}" for i in range(1000)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    for number in (3, 10):
        fill(tmp_path / "mine" / f"class{number}", 2, number)
    arguments = (*of_model, "--data", tmp_path / "mine")
    evaluate("imagenet", *arguments, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "out")
    record = Record.read(tmp_path / "out" / "predictions" / "mine.safetensors")
    truth = [int(key.split("/")[0].removeprefix("class")) for key in record.keys]
    assert record.scores["top1 (1000-way)"].tolist() == (record.columns["top"][:, 0] == truth).tolist()
    (tmp_path / "few.txt").write_text("class3\nclass10\n")
    said = evaluate("imagenet", *arguments, "--classes", tmp_path / "few.txt", "--out", tmp_path / "b", code=2)
    assert "model must have the 2 classes" in said
    said = evaluate("imagenet", *arguments, "--classes", tmp_path / "no.txt", "--out", tmp_path / "b", code=2)
    assert f"classes must be a file, got {tmp_path / 'no.txt'}, which is none" in " ".join(said.split())


@pytest.fixture
def robustness(tmp_path):
    """Three of the sets."""
    root = tmp_path / "sets"
    for number, name in enumerate(subset("a")[:3]):
        fill(root / "imagenet-a" / name, 2, number)
    for number in (0, 2, 10):
        fill(root / "imagenetv2-matched-frequency-format-val" / str(number), 2, number)
    for corruption in ("fog", "snow"):
        for severity in (1, 4):
            fill(root / "imagenet-c" / corruption / str(severity) / "n01440764", 2, severity)
    return root


def test_robustness(of_model, robustness, tmp_path):
    out = tmp_path / "out"
    said = evaluate("robustness", *of_model, "--data", robustness, "--out", out)
    missing = "imagenet-r, imagenet-sketch, objectnet, stylized"
    assert f"Not measured, because missing: {missing}." in said
    found = values(out)
    of_a = Record.read(out / "predictions" / "imagenet-a.safetensors")
    known = imagenet_classes()
    truth = np.array([known[key.split("/")[0]] for key in of_a.keys])
    assert found["imagenet-a", "top1 (200-way)"] == (of_a.columns["top/among"][:, 0] == truth).mean()
    assert found["imagenet-a", "top1 (1000-way)"] == (of_a.columns["top"][:, 0] == truth).mean()
    assert set(of_a.columns["top/among"].ravel()) < {known[name] for name in subset("a")}
    assert ("imagenet-c", "mCE (AlexNet: 100)") not in found  # 13 corruptions are missing
    errors = {}
    for corruption in ("snow", "fog"):
        for severity in (1, 4):
            record = Record.read(out / "predictions" / "imagenet-c" / corruption / f"{severity}.safetensors")
            errors[corruption, severity] = 1 - (record.columns["top"][:, 0] == 0).mean()
    expected = sum(errors.values()) / 4
    assert found["imagenet-c", "mean top-1 error over 4 corruptions and severities"] == pytest.approx(expected)
    page = check_page(out, "accuracy.png", "calibration.png", "classes.png", "imagenet-c.png")
    assert "**imagenet-c lacks gaussian_noise/1, " in page
    assert "so there is no mCE" in page
    assert "**imagenet-a: 3 of its 200 classes are there.**" in page
    assert "**imagenet-c: classes are missing in 4 of its 4 parts.**" in page
    assert "Recht et al. 2019" in page


def test_robustness_of_a_model_with_other_classes(robustness, tmp_path):
    arguments = (
        "--model",
        f"extractor:{FOLDER / 'extractor.safetensors'}",
        "--device",
        "cpu",
        "--crop",
        32,
        "--resize",
        32,
    )
    said = evaluate("robustness", *arguments, "--data", robustness, "--out", tmp_path / "out", code=2)
    assert "imagenet-v2 needs a model of ImageNet's 1000 classes" in said


def test_a_run_that_ended_before_it_began_is_begun_anew(of_model, robustness, checkpoint, tmp_path):
    test_robustness_of_a_model_with_other_classes(robustness, tmp_path)
    assert (tmp_path / "out" / "settings.json").exists()
    evaluate("robustness", *of_model, "--data", robustness, "--limit", 1, "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out")[0]["model"] == f"timm:test_resnet@{checkpoint}"


def test_what_is_not_installed_is_named(of_model, validation, tmp_path, monkeypatch):
    monkeypatch.setattr("dali_icgan.cli.evaluate.find_spec", lambda name: None)
    said = evaluate("imagenet", *of_model, "--data", validation, "--out", tmp_path / "out", code=1)
    assert "evaluations need timm, which pip install 'dali-icgan[cu13,train]' brings" in said


def test_corrupted_as_they_are_read(of_model, robustness, validation, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CORRUPTIONS", ("contrast",))
    monkeypatch.setattr(run, "SEVERITIES", (3, 5))
    out = tmp_path / "out"
    evaluate("robustness", *of_model, "--data", robustness, "--corrupt", validation, "--limit", 6, "--out", out)
    found = values(out)
    assert ("corrupted", "mean top-1 error over 2 corruptions and severities") in found
    assert not any(name == "corrupted" and figure.startswith("mCE") for name, figure in found)
    assert Record.read(out / "predictions" / "corrupted" / "contrast" / "5.safetensors").keys[0].startswith("n01440764")
    check_page(out, "corrupted.png")
    assert len(CORRUPTIONS) == 15
    assert lines_of(out)[0]["corrupted_by"].startswith("imagecorruptions-imaug ")


def test_invariance(of_model, validation, tmp_path):
    out = tmp_path / "out"
    pair = ("--generator", FOLDER / "generator.safetensors", "--extractor", FOLDER / "extractor.safetensors")
    evaluate("invariance", *of_model, "--data", validation, *pair, "--views", 2, "--rate", 0.05, "--out", out)
    found = values(out)
    for name in ("instance", "augmentation", "generation"):
        assert 0 <= found[name, "retrieval R@1"] <= 1
        assert -1 <= found[name, "mean cosine"] <= 1
        assert found[name, "firing together, top 25 units at 5 %"] >= 0
    record = Record.read(out / "predictions" / "augmentation.safetensors")
    assert found["augmentation", "mean cosine"] == record.scores["mean cosine"].mean()
    assert found["augmentation", "mean cosine"] > found["generation", "mean cosine"]  # of an untrained generator
    page = check_page(out, "firing.png")
    assert "because missing: viewpoint" in page


def test_invariance_says_what_too_few_images_do_not_tell(of_model, validation, tmp_path):
    out = tmp_path / "out"
    said = evaluate("invariance", *of_model, "--viewpoints", validation, "--out", out)
    assert "viewpoint: units that fire on 1 % of 40 images fire on fewer than two" in said
    assert "missing: instance, augmentation, generation" in said
    assert not any(figure.startswith("firing") for _, figure in values(out))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--generator", "embedded"), "must be given together"),
        ((), "data or viewpoints must be given, got neither"),
    ],
)
def test_invariance_needs(of_model, tmp_path, arguments, said):
    assert said in evaluate("invariance", *of_model, *arguments, "--out", tmp_path / "out", code=2)


def test_probes(of_model, validation, tmp_path):
    fill(tmp_path / "test" / "n01443537", 3, 1)  # the second class, which is its only one
    folders = ("--train", validation, "--test", tmp_path / "test")
    evaluate("knn", *of_model, *folders, "--k", 1, "--out", tmp_path / "knn")
    for protocol in ("crops", "cached"):
        out = tmp_path / f"linear-{protocol}"
        evaluate("linear", *of_model, *folders, "--protocol", protocol, "--epochs", 2, "--out", out)
    for name, says in (
        ("knn", "The nearest"),
        ("linear-crops", "anew in each pass"),
        ("linear-cached", "computed once"),
    ):
        record = Record.read(tmp_path / name / "predictions" / f"{name}.safetensors")
        assert record.columns["label"].tolist() == [0, 0, 0]
        assert record.scores["top1 (8-way)"].tolist() == (record.columns["top"][:, 0] == 1).tolist()
        assert says in check_page(tmp_path / name, "accuracy.png")
    # They are three images of the training set.
    assert values(tmp_path / "knn")["knn", "top1 (8-way)"] == 1
    # One probe is not compared with another.
    said = evaluate("compare", tmp_path / "linear-crops", tmp_path / "linear-cached", "-o", tmp_path / "both", code=2)
    assert "must have a set in common, got linear-crops in" in said
    said = evaluate("knn", *of_model, *folders, "--k", 41, "--out", tmp_path / "c", code=2)
    assert "k must be in 1..40" in said
    assert not (tmp_path / "c").exists()  # refused before the work
    fill(tmp_path / "test" / "n99999999", 1)
    said = evaluate("knn", *of_model, *folders, "--out", tmp_path / "d", code=2)
    assert "test must have subfolders that name its 8 classes" in said


@pytest.mark.parametrize(("dtype", "within"), [("float16", 0.01), ("bfloat16", 0.1)])
def test_half_precision(of_model, validation, tmp_path, dtype, within):
    found = {}
    for each in ("float32", dtype):
        out = tmp_path / each
        evaluate("imagenet", *of_model, "--data", validation, "--dtype", each, "--out", out)
        found[each] = Record.read(out / "predictions" / "imagenet.safetensors").columns
        assert lines_of(out)[0]["dtype"] == each
        assert f"in {each} on cpu" in (out / "report.md").read_text()
    full, half = (found[each]["confidence"] for each in ("float32", dtype))
    assert half == pytest.approx(full, abs=within)
    assert not np.array_equal(half, full)  # it was the other precision
    assert (found[dtype]["top"][:, 0] == found["float32"]["top"][:, 0]).mean() > 0.9
    folders = ("--train", validation, "--test", validation, "--dtype", dtype)
    evaluate("knn", *of_model, *folders, "--k", 1, "--out", tmp_path / "knn")
    assert values(tmp_path / "knn")["knn", "top1 (8-way)"] == 1  # each image is its own neighbour
    evaluate("invariance", *of_model, "--data", validation, "--dtype", dtype, "--views", 2, "--out", tmp_path / "alike")
    columns = Record.read(tmp_path / "alike" / "predictions" / "augmentation.safetensors").columns
    assert (columns["h"].dtype, columns["views"].dtype) == (np.float32, np.float32)
    assert np.isfinite(columns["score/mean cosine"]).all()


def written(folder, name, right, keys=None, **columns):
    keys = keys or [f"a/{i}.jpg" for i in range(len(right))]
    columns = {"score/top1 (10-way)": np.array(right, np.uint8), **columns}
    Record(name, keys, columns).write(folder / "predictions" / f"{name}.safetensors")
    (folder / "settings.json").write_text(json.dumps({"command": "imagenet", "model": folder.name}))


def test_compare_by_hand(tmp_path):
    a, b = [1, 1, 0, 0, 1, 0, 0, 1] * 5, [1, 0, 1, 1, 1, 1, 1, 0] * 5
    keys = [f"a/{i}.jpg" for i in range(40)]
    written(tmp_path / "a", "test", a, keys)
    written(tmp_path / "b", "test", b[::-1], keys[::-1])  # the same images in another order
    written(tmp_path / "a", "only-a", a)
    said = evaluate("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    (line,) = [line for line in lines_of(tmp_path / "out") if line["kind"] == "difference"]
    assert (line["a"], line["b"]) == (0.5, 0.75)
    assert line["difference"] == 0.25
    assert (line["only_a"], line["only_b"]) == (10, 20)
    assert line["p"] == mcnemar(10, 20)
    deviation = (np.array(b) - np.array(a)).std() / np.sqrt(40)
    assert line["high"] - line["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert "missing: only-a (in B)" in said
    assert "+0.2500" in check_page(tmp_path / "out", "differences.png")


def test_compare_counts_an_image_of_75_versions_as_one(tmp_path):
    random = np.random.default_rng(0)
    a, b = random.integers(0, 2, 60), random.integers(0, 2, 60)
    for name in ("c/fog/1", "c/fog/2", "c/fog/3", "c/snow/1"):
        written(tmp_path / "a", name, a)
        written(tmp_path / "b", name, b)
    written(tmp_path / "a", "plain", a)
    written(tmp_path / "b", "plain", b)
    evaluate("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    first, second = (line for line in lines_of(tmp_path / "out") if line["kind"] == "difference")
    assert (first["set"], first["images"]) == ("c, all 4", 240)
    assert first["difference"] == pytest.approx(second["difference"])
    assert (first["low"], first["high"]) == pytest.approx((second["low"], second["high"]))


@pytest.mark.parametrize("keys", [["a/0.jpg", "a/2.jpg"], ["a/0.jpg"], ["a/0.jpg", "a/1.jpg", "a/2.jpg"]])
def test_compare_refuses_other_images(tmp_path, keys):
    written(tmp_path / "a", "test", [1, 0])
    written(tmp_path / "b", "test", [1] * len(keys), keys)
    said = evaluate("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", code=2)
    assert "test must be the same images in both runs" in said


def test_compare_refuses_what_it_cannot_read(tmp_path):
    written(tmp_path / "a", "test", [1, 0])
    written(tmp_path / "b", "other", [1, 0])
    said = evaluate("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", code=2)
    assert "the runs must have a set in common" in said
    assert "must be the folder of an evaluation" in evaluate(
        "compare", tmp_path / "a", tmp_path, "--out", tmp_path / "out", code=2
    )
    said = evaluate("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "a", code=2)
    assert "out must be another folder than the runs'" in said
    written(tmp_path / "b", "test", [1, 0])
    (tmp_path / "b" / "predictions" / "test.safetensors").write_bytes(b"damaged")
    said = evaluate("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", code=2)
    assert "must be a file of an evaluation, got another or a damaged one" in said


def test_a_mistake_in_the_options_is_one_line(of_model, tmp_path):
    out = ("--out", tmp_path / "out")
    said = evaluate("linear", *of_model, *out, code=2)
    assert said == "error: --data must be given, or --train and --test, got neither\n"
    said = evaluate("robustness", *of_model, "--data", tmp_path, "--set", "imagenet-a", *out, code=2)
    assert said == "error: --set must be NAME=FOLDER, got imagenet-a\n"


def test_help_names_the_evaluations():
    said = evaluate("--help")
    for name in ("imagenet", "robustness", "invariance", "linear", "knn", "compare"):
        assert name in said
        assert "--out" in evaluate(name, "--help")
