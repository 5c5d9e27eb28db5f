"""Extractors trained on small patches of photographs; tiny ones, but really trained."""

import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dali_icgan as di
from dali_icgan import ops
from dali_icgan.models.checkpoint import read_extractor
from dali_icgan.training import extractor as training
from dali_icgan.training.extractor import ExtractorTraining, train_extractor
from dali_icgan.training.state import load_state
from tests.photos import NAMES, photograph

pytestmark = [pytest.mark.dali]
QUICK = ExtractorTraining(width=8, depths=(1, 1), steps=6, batch_size=16)
RESOLUTION = 16


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def patches():
    """180 small PNG files in memory, patches of three photographs, each labelled with its photograph: 0, 1, 2."""
    pairs = []
    random = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        whole = Image.fromarray(photograph(name))
        for _ in range(60):
            side = int(random.integers(80, 160))
            left, top = (int(random.integers(size - side)) for size in whole.size)
            part = whole.crop((left, top, left + side, top + side)).resize((24, 24), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            part.save(stream, "PNG")
            pairs.append((stream.getvalue(), label))
    return pairs


def train(dataset, folder, settings=QUICK, **changes):
    return train_extractor(dataset, folder, settings, resolution=RESOLUTION, device="cpu", progress=False, **changes)


def report(folder):
    return json.loads((folder / "extractor.json").read_text())


class CutOff(Exception):
    pass


class Scalars:
    """Takes the place of a SummaryWriter; may stop the run when it is told of a step."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def add_scalar(self, name, value, step):
        self.seen.append((name, value, step))
        if step == self.stop:
            raise CutOff


@pytest.fixture
def often(monkeypatch):
    """Look and save every second step."""
    monkeypatch.setattr(training, "_LOOK", 2)
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)


# ---------------------------------------------------------------- what is learnt


@pytest.fixture(scope="module")
def learnt(patches, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("learnt")
    path = train(patches, folder, ExtractorTraining(width=8, depths=(1, 1, 1), steps=80, batch_size=60))
    return path, report(folder)


def test_the_loss_falls_and_neighbours_become_those_of_the_same_photograph(patches, learnt, tmp_path):
    _, about = learnt
    losses = [loss for _, loss in about["losses"]]
    assert losses[-1] < losses[0] - 0.7
    untrained = ExtractorTraining(width=8, depths=(1, 1, 1), steps=20, batch_size=60, lr=1e-12)
    train(patches, tmp_path, untrained)
    before, after = report(tmp_path)["quality"], about["quality"]
    assert after["share_of_own_class"] > before["share_of_own_class"] + 0.12
    assert after["nearest_is_other_crop"] > before["nearest_is_other_crop"] + 0.1
    assert after["share_by_chance"] == pytest.approx(59 / 179)


def test_the_file_is_an_extractor_and_its_figures_are_those_of_brute_force(patches, learnt):
    path, about = learnt
    extractor = di.load_extractor(path, "cpu", resolution=RESOLUTION)
    assert extractor.trained
    assert extractor.dim == about["dim"] == 32
    assert extractor.fingerprint == about["fingerprint"]
    pixels = [torch.from_numpy(np.array(Image.open(io.BytesIO(data)))) for data, _ in patches]
    features, labels = extractor(pixels).double(), torch.tensor([label for _, label in patches])
    distance = torch.cdist(features, features).fill_diagonal_(math.inf)
    own = labels[distance.argsort(1)[:, :10]] == labels[:, None]
    # The loader does not round resized pixels to 8 bits, as prepare_features does.
    assert own.double().mean().item() == pytest.approx(about["quality"]["share_of_own_class"], abs=0.02)
    assert own[:, 0].double().mean().item() == pytest.approx(about["quality"]["nearest_is_own_class"], abs=0.02)


def test_by_labels(patches, tmp_path):
    # Labels need not be 0, 1, 2.
    renamed = [(data, (40, 7, -3)[label]) for data, label in patches]
    settings = ExtractorTraining(True, width=8, depths=(1, 1, 1), steps=40, batch_size=60)
    train(renamed, tmp_path, settings)
    about = report(tmp_path)
    assert about["losses"][-1][1] < 0.5 * math.log(3)
    assert about["quality"]["share_of_own_class"] > 0.75


# ---------------------------------------------------------------- training sees what inference sees


def test_crops_go_the_way_of_inference(patches, tmp_path, monkeypatch):
    settings = ExtractorTraining(
        width=8, depths=(1, 1), input_size=24, steps=1, batch_size=8, crop_scale=(1, 1), flip=0, colour_jitter=0
    )
    seen = []
    forward = training.ResNet.forward
    monkeypatch.setattr(training.ResNet, "forward", lambda self, x: seen.append(x.detach().clone()) or forward(self, x))
    train(patches, tmp_path, settings)
    pixels = [torch.from_numpy(np.array(Image.open(io.BytesIO(data)))) for data, _ in patches]
    whole = ops.prepare_features(pixels, resolution=RESOLUTION, input_size=24)
    (crops,) = seen
    assert crops.shape == (16, 3, 24, 24)
    # A crop of the whole square is the whole image, but for rounding to 8 bits; other ratios differ.
    nearest = (crops[:, None] - whole[None]).abs().amax((2, 3, 4)).amin(1)
    assert (nearest < 0.03).sum() >= 1


# ---------------------------------------------------------------- restarts


def tensors_of(path):
    return read_extractor(path).tensors


def assert_equal_results(first, second):
    one, other = tensors_of(first), tensors_of(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.keys() == other.keys()
    about = [report(path.parent) for path in (first, second)]
    for a in about:
        a.pop("seconds")
    assert about[0] == about[1]
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("supervised", [False, True])
def test_a_run_that_was_cut_off_ends_bit_equal(patches, tmp_path, often, supervised):
    # 180 images are 4 batches of 45: step 6 lies within the second epoch.
    settings = ExtractorTraining(supervised, width=8, depths=(1, 1), steps=11, batch_size=45)
    unbroken = train(patches, tmp_path / "unbroken", settings)
    broken = tmp_path / "broken"
    for stop in (4, 8):
        with pytest.raises(CutOff):
            train(patches, broken, settings, writer=Scalars(stop))
        assert load_state(broken / "extractor-state.pt")["step"] == stop - 2
    torch.rand(3)  # the global generator has no part in it
    scalars = Scalars()
    assert_equal_results(unbroken, train(patches, broken, settings, writer=scalars))
    assert [step for name, _, step in scalars.seen if name == "extractor/loss"] == [8, 10, 11]
    assert sorted(file.name for file in broken.iterdir()) == [
        ".extractor.lock",
        "extractor.json",
        "extractor.safetensors",
    ]


def test_killed_before_its_report_it_is_judged_again(patches, tmp_path, monkeypatch):
    unbroken = train(patches, tmp_path / "unbroken")
    monkeypatch.setattr(training, "write_whole", lambda *_: (_ for _ in ()).throw(CutOff))
    with pytest.raises(CutOff):
        train(patches, tmp_path / "broken")
    monkeypatch.undo()
    assert (tmp_path / "broken/extractor.safetensors").exists()
    assert_equal_results(unbroken, train(patches, tmp_path / "broken"))


KILLED = """
import pickle, sys, torch
from dali_icgan.training import extractor as training
torch.set_num_threads(1)
training._LOOK, training._SAVE_SECONDS = 1, 0.0
training.train_extractor(
    pickle.load(sys.stdin.buffer), sys.argv[1],
    training.ExtractorTraining(width=8, depths=(1, 1), steps=12, batch_size=16),
    resolution=16, device="cpu", progress=False,
    writer=type("Slow", (), {"add_scalar": lambda *_: __import__("time").sleep(0.1)})(),
)
"""


@pytest.mark.full
def test_killed_by_the_system_it_goes_on(patches, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_LOOK", 1)
    settings = ExtractorTraining(width=8, depths=(1, 1), steps=12, batch_size=16)
    unbroken = train(patches, tmp_path / "unbroken", settings)
    folder = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdin=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(patches))
        process.stdin.close()
        while not (folder / "extractor-state.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert 1 <= load_state(folder / "extractor-state.pt")["step"] < 12
    assert not (folder / "extractor.safetensors").exists()
    assert_equal_results(unbroken, train(patches, folder, settings))


def test_a_finished_folder_is_returned_at_once(patches, tmp_path, monkeypatch):
    path = train(patches, tmp_path)
    monkeypatch.setattr(training._Run, "train", lambda *_: pytest.fail("it trained again"))
    before = path.stat().st_mtime_ns
    assert train(patches, tmp_path) == path == tmp_path / "extractor.safetensors"
    assert path.stat().st_mtime_ns == before


def test_other_settings_and_images_are_refused(patches, tmp_path, often):
    with pytest.raises(CutOff):
        train(patches, tmp_path / "begun", writer=Scalars(4))
    train(patches, tmp_path / "done")
    for folder, file in (("begun", "extractor-state.pt"), ("done", "extractor.json")):
        where = rf"{file} is of another extractor and is left as it is: "
        other = ExtractorTraining(width=8, depths=(1, 1), steps=6, batch_size=16, lr=0.5, seed=3)
        with pytest.raises(ValueError, match=where + r"lr must be 0\.5, got 0\.005; seed must be 3, got 0"):
            train(patches, tmp_path / folder, other)
        with pytest.raises(ValueError, match=where + r"dataset must be '\w+', got '\w+'$"):
            train(patches[1:], tmp_path / folder)
        with pytest.raises(ValueError, match=where + "resolution must be 8, got 16"):
            train_extractor(patches, tmp_path / folder, QUICK, resolution=8, device="cpu", progress=False)


def test_strange_files_are_not_overwritten(patches, tmp_path):
    path = tmp_path / "extractor.safetensors"
    path.write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=r"must come with its extractor\.json: an extractor from elsewhere"):
        train(patches, tmp_path)
    assert path.read_bytes() == b"of somebody else"
    done = train(patches, tmp_path / "done")
    other = train(patches, tmp_path / "other", ExtractorTraining(width=8, depths=(1, 1), steps=2, batch_size=16))
    done.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"must be the extractor that extractor\.json describes, got another"):
        train(patches, done.parent)
    (done.parent / "extractor.json").write_bytes(b"{")
    with pytest.raises(
        ValueError, match=r"extractor\.json must be the report of a training in JSON, got something damaged"
    ):
        train(patches, done.parent)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/extractor-state.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"extractor-state\.pt must be a state of a training run"):
        train(patches, tmp_path / "damaged")


# ---------------------------------------------------------------- when it goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(patches, tmp_path, often, monkeypatch, value):
    real = training.NTXentLoss.forward
    steps = iter(range(1, 100))
    monkeypatch.setattr(
        training.NTXentLoss,
        "forward",
        lambda self, a, b: real(self, a, b) * (value if next(steps) == 5 else 1),
    )
    with pytest.raises(
        FloatingPointError, match=rf"loss must be finite, got {value} in step 5; a lower lr .* of step 4"
    ):
        train(patches, tmp_path)
    state = load_state(tmp_path / "extractor-state.pt")
    assert state["step"] == 4
    assert all(t.isfinite().all() for t in state["networks"].values())
    assert not (tmp_path / "extractor.safetensors").exists()


def test_weights_that_are_no_numbers_are_not_saved(patches, tmp_path, often, monkeypatch):
    real = training._Run._train_step

    def step(run, *given):
        loss = real(run, *given)
        if run.step == 3:
            run.trunk.conv1.weight.data[0] = math.inf
        return loss

    monkeypatch.setattr(training._Run, "_train_step", step)
    with pytest.raises(FloatingPointError, match=r"weights must be finite, got others after step 4; .* of step 2"):
        train(patches, tmp_path)
    assert load_state(tmp_path / "extractor-state.pt")["step"] == 2


def test_a_full_disk_keeps_the_state_before(patches, tmp_path, often, monkeypatch):
    real, calls = training.save_state, []

    def save(path, state):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(path, state)

    monkeypatch.setattr(training, "save_state", save)
    with pytest.raises(OSError, match="No space left"):
        train(patches, tmp_path)
    monkeypatch.undo()
    assert load_state(tmp_path / "extractor-state.pt")["step"] == 2


# ---------------------------------------------------------------- what it is given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"supervised": 1}, "supervised must be True or False, got 1"),
        ({"depths": "11"}, "depths must be a list, each an integer, got '11'"),
        ({"crop_scale": "0.3"}, r"crop_scale must be two numbers, got '0\.3'"),
        ({"lr": "high"}, "lr must be a number, got 'high'"),
        ({"width": 7}, "width must be an integer >= 8, got 7"),
        ({"depths": ()}, "depths must be 1 to 8 positive numbers"),
        ({"steps": True}, "steps must be an integer >= 1, got True"),
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"batch_size": 1}, "batch_size must be an integer >= 2, got 1"),
        ({"input_size": 2.5}, r"input_size must be an integer >= 1, got 2\.5"),
        ({"lr": 0.0}, r"lr must be positive and finite, got 0\.0"),
        ({"lr": math.nan}, "lr must be positive and finite, got nan"),
        ({"temperature": -1}, "temperature must be positive and finite, got -1"),
        ({"weight_decay": -1}, "weight_decay must be finite and not negative, got -1"),
        ({"crop_scale": (0.5, 2)}, "scale"),
        ({"flip": 1.5}, r"flip must be in \[0, 1\], got 1\.5"),
        ({"colour_jitter": -0.1}, r"colour_jitter must be in \[0, 1\], got -0\.1"),
        ({"seed": 1.0}, "seed must be an integer"),
    ],
)
def test_settings_are_checked(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ExtractorTraining(**given)


def test_lists_of_a_file_are_taken():
    assert ExtractorTraining(depths=[1, 2], crop_scale=[0.5, 1]) == ExtractorTraining(
        depths=(1, 2), crop_scale=(0.5, 1)
    )


def test_the_trunk_at_32_pixels_is_the_embedded_one():
    assert ExtractorTraining().trunk(32) == read_extractor("embedded").config
    assert ExtractorTraining(input_size=48).trunk(128).input_size == 48
    assert ExtractorTraining().trunk(128).stem_pool


def test_arguments_are_checked(patches, tmp_path):
    with pytest.raises(TypeError, match="settings must be an ExtractorTraining or None, got dict"):
        train(patches, tmp_path, {})
    with pytest.raises(ValueError, match="resolution must be an integer >= 1, got 0"):
        train_extractor(patches, tmp_path, QUICK, resolution=0)
    with pytest.raises(ValueError, match="dataset must hold at least two images, got 1"):
        train(patches[:1], tmp_path)
    with pytest.raises(ValueError, match="dataset must have at least two classes with supervised=True, got one"):
        train(patches[:60], tmp_path, ExtractorTraining(True))


def test_fewer_images_than_a_batch_are_one_batch(patches, tmp_path):
    train(patches[:5], tmp_path, ExtractorTraining(width=8, depths=(1, 1), epochs=3))
    about = report(tmp_path)
    assert (about["batch_size"], about["steps"], about["images"]) == (5, 3, 5)
    # One class only: every neighbour is of it.
    assert about["quality"].keys() == {"images", "k", "nearest_is_other_crop"}


def test_epochs_count_whole_batches(patches, tmp_path):
    train(patches[:50], tmp_path, ExtractorTraining(width=8, depths=(1, 1), epochs=2, batch_size=16))
    assert report(tmp_path)["steps"] == 6


def test_unreadable_images_are_left_out_and_counted(patches, tmp_path):
    (tmp_path / "images/a").mkdir(parents=True)
    for i, (data, _) in enumerate(patches[:20]):
        (tmp_path / f"images/a/{i:02d}.png").write_bytes(data if i != 7 else b"no image")
    with pytest.warns(UserWarning, match=r"07\.png"):
        train(tmp_path / "images", tmp_path / "run")
    about = report(tmp_path / "run")
    assert [Path(path).name for path in about["unreadable"]] == ["07.png"]
    assert about["quality"]["images"] <= 19
    for file in (tmp_path / "images/a").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(RuntimeError, match="0 of 20 samples could be read"):
        train(tmp_path / "images", tmp_path / "none")


def test_colours_stay_in_range_and_strength_zero_changes_nothing():
    images = torch.rand(5, 3, 4, 4)
    changed = training._jitter(images, 0.9, torch.Generator().manual_seed(0))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed - images).abs().amax((1, 2, 3)).min() > 0.05
    assert torch.allclose(training._jitter(images, 0.0, torch.Generator()), images, atol=1e-6)
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    after = training._jitter(grey, 0.9, torch.Generator().manual_seed(0))
    assert torch.allclose(after[:, 0], after[:, 2], atol=1e-6)  # no hue comes from nothing


@pytest.mark.gpu
def test_on_a_gpu(patches, tmp_path):
    settings = ExtractorTraining(width=16, depths=(1, 1, 1), steps=120, batch_size=60)
    path = train_extractor(patches, tmp_path, settings, resolution=RESOLUTION, device="cuda", progress=False)
    about = report(tmp_path)
    assert about["losses"][-1][1] < about["losses"][0][1] - 0.5
    assert all(t.dtype == torch.float32 for t in tensors_of(path).values())
