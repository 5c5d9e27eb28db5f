"""What one sees of a run: rates, waiting for data, figures in TensorBoard; by a clock that the test moves."""

from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dali_icgan.recipes import watch
from dali_icgan.recipes.supervised import Classification
from dali_icgan.recipes.trainer import Trainer
from tests.recipes.small import train

pytestmark = pytest.mark.dali


@pytest.fixture
def clock(monkeypatch):
    """Stands still unless ``now`` is moved."""
    clock = SimpleNamespace(now=1.0)
    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def scalars(out):
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_time_is_of_steps_after_the_first_and_not_of_validation(clock, tmp_path):
    seen = watch.Watch(tmp_path, True, False)
    seen.begin(0, 10, 1)

    def step(waited, worked):
        with seen.waits():
            clock.now += waited
        clock.now += worked
        seen.stepped(torch.zeros(()), 12)

    step(50, 5)
    assert (seen.images_per_second, seen.waiting) == (0, 0)
    step(1, 3)
    step(2, 2)
    assert (seen.images_per_second, seen.waiting) == (24 / 8, 3 / 8)
    seen.look(3, 0.5, 0.1)
    clock.now += 1000
    seen.note(3, 1.0, {"top1": 50.0})
    step(70, 7)  # the first after a validation
    step(3, 1)
    assert (seen.images_per_second, seen.waiting) == (36 / 12, 6 / 12)
    seen.look(5, 0.4, 0.1)
    seen.close()
    written = scalars(tmp_path)
    assert written["train/images_per_second"] == [(3, 3), (5, 3)]
    assert written["train/waiting"] == [(3, pytest.approx(3 / 8)), (5, 0.75)]  # each since the one before


@pytest.mark.parametrize("slow", [0, 3])
def test_a_slow_loader_shows(slow, clock, root, tmp_path, monkeypatch):
    """Each batch takes ``slow`` seconds to come, each step one to compute."""
    begin, loss = Trainer._epoch, Classification.loss

    def waited_for(self, resumed):
        for batch in begin(self, resumed):
            clock.now += slow
            yield batch

    def computed(self, *arguments):
        clock.now += 1
        return loss(self, *arguments)

    monkeypatch.setattr(Trainer, "_epoch", waited_for)
    monkeypatch.setattr(Classification, "loss", computed)
    summary = train("resnet", root, tmp_path)
    assert summary.waiting == pytest.approx(slow / (1 + slow))
    assert summary.images_per_second == pytest.approx(12 / (1 + slow))


def test_what_is_written_and_when(root, tmp_path):
    train("resnet", root, tmp_path, "ema.decay=0.9", "run.log_every=2")
    written = scalars(tmp_path)
    assert {tag: [step for step, _ in values] for tag, values in written.items()} == {
        **{f"train/{name}": [2, 4, 6, 8] for name in ("loss", "lr", "images_per_second", "waiting")},
        **{f"validation/{name}": [4, 8] for name in ("top1", "top5", "ema_top1", "ema_top5", "images")},
    }
