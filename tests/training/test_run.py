import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dali_icgan as di
from dali_icgan.cli import app
from dali_icgan.data import as_samples
from dali_icgan.ranks import Ranks
from dali_icgan.training.extractor import ExtractorTraining, train_extractor
from dali_icgan.training.gan import GanTraining
from dali_icgan.training.run import Training, _check_images, train
from dali_icgan.training.state import load_state
from tests.photos import jpeg, make_folder, patch

pytestmark = pytest.mark.dali
SETTINGS = """
gan: {channels: 4, z_chunk: 4, shared_dim_feat: 8, batch_size: 8, k: 5, steps: 6, ema_start: 2}
extractor: {steps: 4, batch_size: 8, width: 8}
look_every: 3
look_samples: 12
samples: 12
save_every: 0.001
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    path.write_text(SETTINGS)
    return Training.read(path)


@pytest.fixture(scope="module")
def finished(photos, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert train(photos, out, tiny, device="cpu", progress=False) == out / "report.md"
    return out


def test_a_run_leaves_all_that_augmentation_needs(finished, photos):
    augment = di.DAICGAN(
        generator=di.load_generator(finished / "generator.safetensors", device="cpu"),
        extractor=di.load_extractor(finished / "extractor.safetensors", device="cpu"),
        bank=finished / "bank",
        p=1.0,
    )
    with di.DataLoader(photos, 24, augment=augment, transform=di.TrainTransform(32), device="cpu") as loader:
        ((images, labels),) = list(loader)
    assert images.shape == (24, 3, 32, 32)
    assert sorted(labels.tolist()) == [0] * 8 + [1] * 8 + [2] * 8
    assert augment.generator.trained


def test_a_run_leaves_what_people_look_at(finished):
    assert sorted(path.name for path in (finished / "samples").iterdir()) == [
        "step_00000003.png",
        "step_00000006.png",
    ]
    report = (finished / "report.md").read_text()
    assert "24 images, for 6 steps" in report
    for word in ("samples/step_00000006.png", "frechet_distance.png", "losses.png", "channels: 4", "z_chunk: 4"):
        assert word in report
    for plot in ("frechet_distance.png", "losses.png"):
        with Image.open(finished / plot) as picture:
            assert picture.size == (960, 540)
    figures = json.loads((finished / "quality.json").read_text())
    assert figures["samples"] == 12
    assert [json.loads(line)["step"] for line in (finished / "looks.jsonl").read_text().splitlines()] == [3, 6]
    assert list((finished / "tensorboard").iterdir())


def test_the_same_call_changes_nothing(finished, photos, tiny):
    before = {path: path.read_bytes() for path in finished.glob("*.safetensors")}
    weights = (finished / "gan-state.pt").read_bytes()
    train(photos, finished, tiny, device="cpu", progress=False)
    assert before == {path: path.read_bytes() for path in finished.glob("*.safetensors")}
    assert (finished / "gan-state.pt").read_bytes() == weights
    assert [json.loads(line)["step"] for line in (finished / "looks.jsonl").read_text().splitlines()] == [3, 6]


def test_settings_that_change_no_weight_may_change(finished, photos, tiny, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    changed = replace(tiny, look_every=2, look_samples=8, samples=8, save_every=9.0, truncation=0.5)
    train(photos, out, changed, device="cpu", progress=False)
    assert json.loads((out / "quality.json").read_text())["samples"] == 8
    assert (out / "gan-state.pt").read_bytes() == (finished / "gan-state.pt").read_bytes()
    train(photos, out, replace(changed, gan=replace(tiny.gan, steps=7)), device="cpu", progress=False)
    assert load_state(out / "gan-state.pt")["step"] == 7


def test_a_second_process_waits_for_the_first(finished, photos, tiny, tmp_path, caplog):
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "report.md").unlink()
    second = threading.Thread(target=train, args=(photos, out, tiny), kwargs={"device": "cpu", "progress": False})
    with (out / ".train.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        deadline = time.monotonic() + 60
        while "waiting for it" not in caplog.text and second.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert f"{out} is being built by another process, waiting for it" in caplog.text
        assert second.is_alive()
        assert not (out / "report.md").exists()
    second.join(60)
    assert (out / "report.md").exists()


def test_images_are_turned_as_exif_says_where_that_is_asked_for(tmp_path, tiny, monkeypatch):
    asked_of_the_trainers_loader = []

    def loader(*arguments, **settings):
        asked_of_the_trainers_loader.append(settings["exif"])
        return di.DataLoader(*arguments, **settings)

    monkeypatch.setattr("dali_icgan.training.gan.DataLoader", loader)
    photos = make_folder(tmp_path / "photos")
    turned = photos / "coffee" / "000.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.write_bytes(jpeg(patch("coffee", 0), exif=exif))
    rows = []
    for asked in (False, True):
        out = tmp_path / f"exif-{asked}"
        settings = replace(tiny, exif=asked, gan=replace(tiny.gan, steps=1))
        train(photos, out, settings, extractor="embedded", device="cpu", progress=False)
        bank = di.FeatureBank.open(out / "bank")
        assert bank.exif == di.FeatureBank.open(out / "bank-mirrored").exif == asked
        rows.append(bank.gather(np.arange(24), "cpu"))
    same = (rows[0] == rows[1]).all(1).tolist()
    assert same.count(False) == 1
    assert asked_of_the_trainers_loader == [False, True]
    with pytest.raises(ValueError, match="it was begun with exif True, now False"):
        train(photos, out, replace(settings, exif=False), extractor="embedded", device="cpu", progress=False)
    train_extractor(photos, tmp_path, tiny.extractor, resolution=32, device="cpu", progress=False, exif=True)
    with pytest.raises(ValueError, match="exif must be False, got True"):
        train_extractor(photos, tmp_path, tiny.extractor, resolution=32, device="cpu", progress=False)


KILLED = """
import sys
from pathlib import Path
import torch
from dali_icgan.training.run import Training, train
torch.set_num_threads(1)
print("begun", flush=True)
train(sys.argv[1], sys.argv[2], Training.read(Path(sys.argv[3])), device="cpu", progress=False)
"""


@pytest.mark.parametrize(
    "until",
    ["extractor-state.pt", *(pytest.param(u, marks=pytest.mark.full) for u in ("bank", "gan-state.pt", "samples"))],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_end(photos, tmp_path, until):
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    for name in ("unbroken", "killed"):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            KILLED,
            str(photos),
            str(tmp_path / name),
            str(tmp_path / "tiny.yaml"),
        ]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
        if name == "killed":
            with subprocess.Popen(command, **options) as process:
                deadline = time.monotonic() + 100
                while not (tmp_path / name / until).exists() and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.001)
                assert process.poll() is None, process.stderr.read()
                process.send_signal(signal.SIGKILL)
        done = subprocess.run(command, timeout=200, **options)
        assert done.returncode == 0, done.stderr
    for file in ("extractor.safetensors", "generator.safetensors", "quality.json", "looks.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes(), file


def test_an_extractor_may_be_given_and_classes_be_learnt(photos, tiny, tmp_path):
    settings = replace(tiny, gan=replace(tiny.gan, class_conditional=True, shared_dim=4, mirror=False, steps=2))
    train(photos, tmp_path / "run", settings, extractor="embedded", device="cpu", progress=False)
    assert not (tmp_path / "run" / "extractor.safetensors").exists()
    assert not (tmp_path / "run" / "bank-mirrored").exists()
    generator = di.load_generator(tmp_path / "run" / "generator.safetensors", device="cpu")
    assert generator.n_classes == 3
    assert generator.feature_dim == 128


def test_bad_files_are_left_out(tmp_path, tiny):
    photos = make_folder(tmp_path / "photos")
    bad = photos / "coffee" / "bad.jpg"
    bad.write_bytes(jpeg(patch("coffee", 1))[:200])
    with pytest.warns(UserWarning, match="bad"):
        train(photos, tmp_path / "run", replace(tiny, gan=replace(tiny.gan, steps=2)), device="cpu", progress=False)
    assert json.loads((tmp_path / "run" / "quality.json").read_text())["instances"] == 24


# ---------------------------------------------------------------------- what is refused


def small_images(root):
    (root / "one").mkdir(parents=True)
    for i in range(10):
        (root / "one" / f"{i}.jpg").write_bytes(jpeg(np.full((20, 40 + i, 3), 9 * i, np.uint8)))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 24}, "k must be less than the 24 images that can be read, got 24: give more images or a lower k"),
        (
            {"resolution": 64},
            r"images of at least 64 pixels on their short side, got \d+ of 24 that are smaller, such as",
        ),
        (
            {"seed": 1},
            r"run must be a new folder or this very run's, it was begun with gan\.seed 0, now 1; other gan settings need a new folder, "
            r"and no new extractor: --extractor .*/extractor\.safetensors",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(photos, tiny, finished, tmp_path, change, message):
    out = finished if "seed" in change else tmp_path
    with pytest.raises(ValueError, match=message.replace("run must", f"{finished.name} must")):
        train(photos, out, replace(tiny, gan=replace(tiny.gan, **change)), device="cpu", progress=False)
    assert not (tmp_path / "run.json").exists()  # the corrected settings are taken


def test_too_few_images_and_a_wrong_extractor_leave_the_folder_free(photos, samples, tiny, tmp_path):
    few = [(samples.path(i), 0) for i in range(11)]
    with pytest.raises(ValueError, match="dataset must have at least 12 images that can be read, got 11"):
        train(few, tmp_path, tiny, device="cpu", progress=False)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="dataset must have at least 12 images that can be read, got 11"):
        train([*few, (tmp_path / "bad.jpg", 0)], tmp_path, tiny, device="cpu", progress=False)
    with pytest.raises(FileNotFoundError):
        train(photos, tmp_path, tiny, extractor=tmp_path / "none.safetensors", device="cpu", progress=False)
    settings = replace(tiny, extractor=replace(tiny.extractor, supervised=True))
    with pytest.raises(ValueError, match="at least two classes with supervised, got one in dataset"):
        train([(samples.path(i), 0) for i in range(24)], tmp_path, settings, device="cpu", progress=False)
    assert not (tmp_path / "run.json").exists()


def test_few_rows_a_rank_are_warned_of(photos, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("dali_icgan.training.run.Ranks.here", lambda: Ranks(0, 2))
    monkeypatch.setattr("dali_icgan.training.run._train", lambda *_: tmp_path)
    with pytest.warns(
        UserWarning, match="each rank's own 4 images, which are few: a batch_size of 32 or more is better"
    ):
        train(photos, tmp_path, tiny, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(photos, tmp_path, replace(tiny, gan=replace(tiny.gan, batch_size=32)), device="cpu")


def test_a_few_small_images_are_warned_of(samples, tiny, tmp_path):
    (tmp_path / "small.jpg").write_bytes(jpeg(patch("coffee", 1)[:20]))
    images = as_samples([*((samples.path(i), 0) for i in range(24)), (tmp_path / "small.jpg", 0)])
    with pytest.warns(
        UserWarning, match=r"at least 32 pixels on their short side, got 1 of 25 .* such as .*small\.jpg with"
    ):
        _check_images(images, tiny, own=True)


def test_one_class_and_classes_asked_for(tmp_path, tiny):
    photos = make_folder(tmp_path / "photos")
    one = [(path, 0) for path in sorted(photos.glob("*/*.jpg"))]
    settings = replace(tiny, gan=replace(tiny.gan, class_conditional=True))
    with pytest.raises(
        ValueError, match="at least two classes with class_conditional, got one in dataset: leave it out"
    ):
        train(one, tmp_path / "run", settings, device="cpu", progress=False)


def test_other_images_are_refused(finished, tiny, tmp_path):
    with pytest.raises(ValueError, match="must be a new folder or this very run's, it was begun with dataset"):
        train(make_folder(tmp_path / "others", 9), finished, tiny, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gan: {channel: 4}", r"gan must have settings among resolution, channels, .*, got 'channel'"),
        ("stepps: 4", r"must have settings among gan, extractor, .*, got 'stepps'"),
        ("gan: 4", "gan must hold settings by name, got 4"),
        ("- 1", "must hold settings by name, got list"),
        ("gan: {steps: 0}", "steps must be an integer >= 1, got 0"),
        ("extractor: {lr: -1}", "lr must be positive and finite, got -1"),
        ("look_every: 0", "look_every must be an integer >= 1, got 0"),
        ("truncation: 0", "truncation must be positive and finite, got 0"),
        ("samples: 5", "samples must be an integer >= 6, got 5"),
        ("look_samples: 5", "look_samples must be an integer >= 6, got 5"),
        ("gan: {", "must be YAML, got"),
    ],
)
def test_wrong_settings_files_are_named(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Training.read(path)


def test_an_empty_settings_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert Training.read(tmp_path / "empty.yaml") == Training() == Training(GanTraining(), ExtractorTraining())


# ---------------------------------------------------------------------- the command


def test_the_command_trains(photos, tmp_path):
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    arguments = [
        "train",
        photos,
        "--out",
        tmp_path / "run",
        "--config",
        tmp_path / "tiny.yaml",
        "--steps",
        "3",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    assert done.exit_code == 0, done.output
    assert "report.md: samples, figures and settings" in done.output
    assert "for 3 steps" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "x.yaml", "--quick"], "--quick must come without --config"),
        (["--resolution", "48"], "resolution must be one of 32, 64, 128, 256, got 48"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_the_command_names_mistakes(photos, tmp_path, arguments, message):
    done = CliRunner().invoke(
        app, ["train", str(photos), "--out", str(tmp_path / "run"), "--device", "cpu", *arguments]
    )
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_the_command_names_a_flat_folder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(patch("coffee", 1)))
    done = CliRunner().invoke(app, ["train", str(tmp_path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "move the images into one subfolder, such as" in " ".join(done.output.split())


def test_the_command_names_the_extra_that_is_not_installed(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    for name in ("dali_icgan.training.run", "dali_icgan.training.settings", "dali_icgan.cli.train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    done = CliRunner().invoke(app, ["train", str(photos), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "training needs yaml, which pip install 'dali-icgan[cu13,train]' brings" in " ".join(done.output.split())


def test_the_command_says_in_one_line_that_a_number_is_none(photos, tmp_path, monkeypatch):
    def no_number(folder, out, training, **_):
        assert training.exif
        raise FloatingPointError("the generator's weights must be finite")

    monkeypatch.setattr("dali_icgan.cli.train.train", no_number)
    done = CliRunner().invoke(app, ["train", str(photos), "--out", str(tmp_path / "run"), "--exif"])
    assert (done.exit_code, done.output) == (1, "error: the generator's weights must be finite\n")


def test_two_ranks_by_torchrun(photos, tmp_path):
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    out, root = tmp_path / "run", Path(__file__).parents[2]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "dali_icgan.cli", "train", str(photos), "--out", str(out)),
            *("--config", str(tmp_path / "tiny.yaml"), "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report.md: samples") == 1
    assert di.load_generator(out / "generator.safetensors", device="cpu").trained


def test_odd_rows_on_a_rank_are_named(photos, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("dali_icgan.training.run.Ranks.here", lambda: Ranks(0, 2))
    with pytest.raises(ValueError, match="batch_size must be even on each of the 2 ranks with mode_seeking, got 10"):
        train(photos, tmp_path, replace(tiny, gan=replace(tiny.gan, batch_size=10)), device="cpu")


@pytest.mark.gpu
def test_a_run_on_a_gpu_goes_on(photos, tiny, tmp_path):
    first = replace(tiny, gan=replace(tiny.gan, steps=3))
    train(photos, tmp_path, first, device="cuda", progress=False)
    train(photos, tmp_path, tiny, device="cuda", progress=False)
    generator = di.load_generator(tmp_path / "generator.safetensors", device="cpu")
    z, h = torch.randn(4, generator.dim_z), torch.nn.functional.normalize(torch.randn(4, generator.feature_dim))
    assert generator(z, h).isfinite().all()
    assert [json.loads(line)["step"] for line in (tmp_path / "looks.jsonl").read_text().splitlines()] == [3, 6]
