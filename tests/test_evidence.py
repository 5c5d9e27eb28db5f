"""The studies in benchmarks/: what is compared is comparable, and the page says what the lines say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_icgan.training.extractor import ExtractorTraining
from dali_icgan.training.gan import GanTraining
from dali_icgan.training.run import Training

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import evidence  # noqa: E402
import evidence_data  # noqa: E402
import evidence_page  # noqa: E402

ARMS = (
    evidence.Arm("features"),
    evidence.Arm("handcrafted"),
    evidence.Arm("longer"),
    evidence.Arm("daicgan", 0.5),
    evidence.Arm("retrieval", 0.5),
)


def tiny_study() -> evidence.Study:
    """The digits study at a size that takes seconds."""
    gan = GanTraining(channels=4, z_chunk=4, shared_dim_feat=8, batch_size=8, k=5, steps=3, ema_start=2, mirror=False)
    training = Training(
        gan=gan, extractor=ExtractorTraining(steps=4, batch_size=16, width=8), look_every=3, look_samples=12, samples=12
    )
    return replace(evidence.STUDIES["digits"], labelled=2, size=8, width=8, steps=4, batch_size=10, training=training)


@pytest.fixture
def tiny(monkeypatch):
    study = tiny_study()
    monkeypatch.setitem(evidence.STUDIES, "digits", study)
    monkeypatch.setattr(evidence, "ARMS", ARMS)
    return study


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Its images and models."""
    folder = tmp_path_factory.mktemp("study") / "work"
    evidence.prepared("digits", tiny_study(), folder, Path("nothing"), torch.device("cpu"))
    return folder


def go(folder: Path, work: Path, *more: str) -> list[dict]:
    out = folder / "lines.jsonl"
    evidence.main(["digits", "--out", str(out), "--work", str(work), "--device", "cpu", *more])
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.dali
def test_a_study_goes_on_where_it_was_stopped_and_refuses_another(tiny, work, tmp_path, monkeypatch):
    lines = go(tmp_path, work, "--seeds", "1")
    assert [line["kind"] for line in lines] == ["study", *["run"] * 5]
    assert lines[0]["images"] == {"validation": 300, "test": 497, "train": 1000, "labelled": 20}
    assert [(line["method"], line["p"], line["seed"]) for line in lines[1:]] == [(a.method, a.p, 0) for a in ARMS]
    assert lines[0]["arms"] == [[arm.method, arm.p] for arm in ARMS]
    assert lines[0]["cost_ratio"] >= 1
    assert [line["steps"] for line in lines[1:]] == [0, 4, round(4 * lines[0]["cost_ratio"]), 4, 4]
    # As if it had been killed before the last run: that one alone is run again, and comes out the same.
    out = tmp_path / "lines.jsonl"
    out.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    again = go(tmp_path, work, "--seeds", "1")
    same = ("method", "p", "seed", "validation_accuracy", "test_accuracy", "last_loss")
    assert [[line.get(key) for key in same] for line in again] == [[line.get(key) for key in same] for line in lines]
    assert again[:-1] == lines[:-1]
    monkeypatch.setitem(evidence.STUDIES, "digits", replace(tiny, lr=0.01))
    with pytest.raises(SystemExit, match="must hold runs of this study alone"):
        go(tmp_path, work, "--seeds", "1")


@pytest.mark.dali
def test_a_seed_draws_the_labelled_images(tiny, work):
    runs = evidence.Runs(tiny, work / "images", work / "models", torch.device("cpu"))
    first, second = runs.labelled(0), runs.labelled(1)
    assert np.bincount(runs.labels[first]).tolist() == [2] * 10
    assert first != second
    assert first == runs.labelled(0)


@pytest.mark.dali
def test_arms_of_a_seed_differ_by_the_augmentation_alone(tiny, work):
    """With p = 0 an arm is the handcrafted one, to the bit."""
    runs = evidence.Runs(tiny, work / "images", work / "models", torch.device("cpu"))

    def result(arm, seed=3):
        return {
            key: value
            for key, value in runs.run(arm, seed, tiny.steps).items()
            if key not in ("seconds", "ms_per_step")
        }

    plain = result(evidence.Arm("handcrafted"))
    for method in ("daicgan", "retrieval", "random"):
        assert result(evidence.Arm(method, 0.0)) == plain
        assert result(evidence.Arm(method, 1.0)) != plain
    assert result(evidence.Arm("daicgan", 1.0)) != result(evidence.Arm("random", 1.0))
    stronger = result(evidence.Arm("randaugment"))
    assert stronger != plain
    assert result(evidence.Arm("daicgan+randaugment", 0.0)) == stronger
    assert result(evidence.Arm("daicgan+randaugment", 1.0)) not in (stronger, result(evidence.Arm("daicgan", 1.0)))
    assert result(evidence.Arm("handcrafted"), seed=4) != plain
    alone = result(evidence.Arm("features"))
    assert 30 < alone["test_accuracy"] < 100  # of 20 labels; by chance 10
    assert alone == result(evidence.Arm("features")) != result(evidence.Arm("features"), seed=4)


def test_randaugment_is_a_function_of_the_seed():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first, second, other = (evidence._randaugment(seed)(images) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_pixel_of_a_photograph_is_in_two_splits(monkeypatch):
    """Every photograph is replaced by one whose grey levels name the region that may be seen."""
    seen: dict[str, set[int]] = {}

    def marked(path):
        image = Image.new("L", (600, 400), 60)
        image.paste(140, (300, 0, 600, 200))
        image.paste(220, (300, 200, 600, 400))
        return image

    monkeypatch.setattr(evidence_data.Image, "open", marked)
    monkeypatch.setattr(evidence_data, "_jpeg", lambda image: np.asarray(image).tobytes())
    monkeypatch.setattr(evidence_data, "_PATCHES", dict.fromkeys(evidence_data.SPLITS, 40))
    for split, _, data in evidence_data.patches():
        seen.setdefault(split, set()).update(data)
    assert seen == {"train": {60}, "validation": {140}, "test": {220}}


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.tar\.xz is missing: the study reads CIFAR-10 as JPEG files"):
        list(evidence_data.cifar10(tmp_path / "nothing.tar.xz"))


def lines(accuracies: dict[tuple[str, float], tuple[list[float], list[float]]]) -> list[dict]:
    """A study's lines, from (validation, test) by seed."""
    mine = {"study": "digits", "identity": "x"}
    head = {"kind": "study", "images": {"labelled": 10}, "arms": [list(arm) for arm in accuracies]}
    runs = [
        {
            "kind": "run",
            "method": method,
            "p": p,
            "seed": seed,
            "steps": 9,
            "validation_accuracy": v,
            "test_accuracy": t,
        }
        for (method, p), (validation, test) in accuracies.items()
        for seed, (v, t) in enumerate(zip(validation, test, strict=True))
    ]
    return [{**mine, **line} for line in (head, *runs)]


BASE = {
    ("handcrafted", 0.0): ([80.0, 81.0, 82.0, 83.0, 84.0], [81.0, 82.0, 83.0, 84.0, 85.0]),
    ("randaugment", 0.0): ([70.0] * 5, [91.0, 92.0, 93.0, 94.0, 95.0]),  # best on test, not on validation
    ("daicgan", 0.1): ([84.0, 85.0, 86.0, 87.0, 88.0], [84.0, 86.0, 86.5, 88.0, 88.5]),
    ("daicgan", 0.5): ([80.0] * 5, [95.0] * 5),
    ("daicgan+randaugment", 0.1): ([80.0] * 5, [94.0, 95.0, 96.0, 97.0, 98.0]),
    ("retrieval", 0.1): ([80.0] * 5, [84.5, 85.0, 87.0, 87.5, 88.0]),
    ("random", 0.1): ([60.0] * 5, [60.0, 62.0, 63.0, 64.0, 66.0]),
}


def test_choices_are_made_on_validation_images():
    results = evidence_page.Results("digits", lines(BASE))
    assert results.chosen(("daicgan",)) == ("daicgan", 0.1)
    assert results.chosen(evidence_page.CONTROLS) == ("handcrafted", 0.0)
    said = evidence_page.sentence(results)
    assert "p = 0.1 a classifier reaches 86.6%, above the best handcrafted arm (handcrafted, 83.0%): +3.6" in said
    assert "not distinguishable from retrieval of real neighbours at the same p: +0.2 (-0.6 to +1.0)" in said
    assert "Together with RandAugment, at p = 0.1, it is above RandAugment alone: +3.0 (+3.0 to +3.0) points." in said


def test_differences_are_of_pairs_and_incomplete_seeds_do_not_count():
    more = dict(BASE)
    more["handcrafted", 0.0] = ([80.0] * 5 + [99.0], [81.0, 82.0, 83.0, 84.0, 85.0, 99.0])
    results = evidence_page.Results("digits", lines(more))
    assert results.seeds == [0, 1, 2, 3, 4]
    difference = results.difference(("daicgan", 0.1), ("handcrafted", 0.0))
    assert difference.values.tolist() == [3.0, 4.0, 3.5, 4.0, 3.5]
    assert difference.verdict == "above"
    assert results.difference(("handcrafted", 0.0), ("daicgan", 0.1)).verdict == "below"
    few = {arm: (validation[:4], test[:4]) for arm, (validation, test) in BASE.items()}
    results = evidence_page.Results("digits", lines(few))
    verdict = results.difference(("daicgan", 0.1), ("handcrafted", 0.0)).verdict
    assert verdict == "not told apart (fewer than 5 seeds) from"


def test_a_study_in_its_first_seed_has_no_results_yet():
    begun = [line for line in lines(BASE) if line["kind"] == "study" or line["method"] == "handcrafted"]
    assert evidence_page.Results("digits", begun).seeds == []


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_interval_covers_the_mean_as_often_as_it_says(n):
    """Over many samples of normal numbers it misses the mean in about 5% of the cases; percentiles of means in more, of few values."""
    random = np.random.default_rng(0)
    missed, by_percentiles = 0, 0
    for _ in range(300):
        values = random.normal(3.0, 2.0, n)
        low, high = evidence_page.interval(values)
        missed += not low <= 3.0 <= high
        low, high = np.percentile(values[random.integers(n, size=(2000, n))].mean(1), (2.5, 97.5))
        by_percentiles += not low <= 3.0 <= high
    assert 0.005 < missed / 300 < 0.09
    assert n > 5 or by_percentiles / 300 > 0.12


def test_the_interval_of_one_value_and_of_equal_ones():
    assert evidence_page.interval(np.array([2.0])) == (-np.inf, np.inf)
    assert evidence_page.interval(np.array([2.0] * 5)) == (2.0, 2.0)


def test_a_plot_knows_what_it_shows(tmp_path):
    results = evidence_page.Results("digits", lines(BASE))
    other = evidence_page.Results("digits", lines({**BASE, ("random", 0.1): ([60.0] * 5, [61.0] * 5)}))
    path = tmp_path / "digits.png"
    assert not evidence_page.is_plotted(results, path)
    evidence_page.plot(results, path)
    assert evidence_page.is_plotted(results, path)
    assert not evidence_page.is_plotted(other, path)


def test_lines_of_two_studies_are_refused():
    mixed = lines(BASE)
    mixed[-1]["identity"] = "y"
    with pytest.raises(ValueError, match="all lines must be of one study"):
        evidence_page.Results("digits", mixed)


def test_the_page_is_the_recorded_runs():
    done = subprocess.run(
        [sys.executable, "benchmarks/evidence_page.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
