"""What is done to finished batches: which rows, which draws, which targets."""

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dali_icgan.augment.transform import IMAGENET_MEAN, IMAGENET_STD
from dali_icgan.recipes.batches import ClassificationBatches, ColourBatches, on_rows, seed_step
from dali_icgan.recipes.config import read_recipe

REPLACED = np.array([False, True, True, False, True, False])
MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))


def settings(*options, recipe="resnet50"):
    return read_recipe(recipe, None, ["generate.arm=plain", *options])


def images(n=6, size=24):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def batches(*options):
    return ClassificationBatches(settings(*options).augment, 4, torch.device("cpu"))


def changed(after, before):
    return [bool((a != b).any()) for a, b in zip(after, before, strict=True)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [("all", [1] * 6), ("real", [1, 0, 0, 1, 0, 1]), ("generated", [0, 1, 1, 0, 1, 0]), ("none", [0] * 6)],
)
@pytest.mark.parametrize("share", [1, 2, 5])
def test_rows_are_chosen_and_share_calls(rows, expected, share):
    calls = []

    def operation(part):
        calls.append(len(part))
        return part + 1

    given = images()
    result = given.clone()
    on_rows(operation, result, REPLACED, rows, share)
    assert torch.equal(result, given + torch.tensor(expected).view(6, 1, 1, 1))
    count = sum(expected)
    assert calls == [share] * (count // share) + ([count % share] if count % share else [])


def test_nothing_asked_leaves_a_batch_as_it_is():
    given = images()
    made = batches()
    assert not made.raw
    assert not made.soft
    result, targets = made(given.clone(), torch.arange(6) % 4, REPLACED)
    assert torch.equal(result, given)
    assert targets.tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("rows", ["all", "real", "generated"])
def test_randaugment_changes_the_chosen_rows_and_normalises_all(rows):
    given = images()
    made = batches("augment.randaugment=2", "augment.magnitude=20", f"augment.randaugment_rows={rows}")
    assert made.raw
    mask = {"all": [True] * 6, "real": (~REPLACED).tolist(), "generated": REPLACED.tolist()}[rows]
    ever = np.zeros(6, bool)
    for step in range(8):  # a draw may be of the identity
        seed_step(0, step, 0)
        result, _ = made(given.clone(), torch.zeros(6, dtype=torch.int64), REPLACED)
        back = result * STD + MEAN
        assert back.min() > -1e-5
        assert back.max() < 1 + 1e-5
        ever |= (back - given).abs().amax((1, 2, 3)).numpy() > 1e-3
        expected = (given - MEAN) / STD
        assert (result - expected)[~np.array(mask)].abs().sum() < 1e-3
    assert ever.tolist() == mask


def test_each_drawn_operation_has_its_chance_and_its_own_magnitude(monkeypatch):
    """As timm's RandAugment: an operation is left out with probability 1 - p, its magnitude normal and kept within 0..30."""
    magnitudes = []
    monkeypatch.setattr(v2.RandAugment, "forward", lambda self, image: (magnitudes.append(self.magnitude), image)[1])

    def drawn(*options):
        magnitudes.clear()
        made = batches("augment.randaugment=2", *options)
        seed_step(0, 0, 0)
        for _ in range(100):
            made(images(6, 2), torch.zeros(6, dtype=torch.int64), REPLACED)
        return len(magnitudes), np.mean(magnitudes or [0]), np.std(magnitudes or [0])

    assert drawn("augment.randaugment_p=0") == (0, 0, 0)
    assert drawn("augment.magnitude=20") == (1200, 20, 0)
    count, mean, deviation = drawn("augment.magnitude=20", "augment.magnitude_std=1.5", "augment.randaugment_p=0.5")
    assert count == pytest.approx(600, abs=60)
    assert mean == pytest.approx(20, abs=0.3)
    assert deviation == pytest.approx(1.5, abs=0.2)
    drawn("augment.magnitude=30", "augment.magnitude_std=20")
    assert (min(magnitudes), max(magnitudes)) == (0, 30)


def test_rows_draw_differently_unless_they_share():
    same = images(1).expand(6, 3, 24, 24)
    real = np.zeros(6, bool)

    def distinct(share):
        made = batches("augment.randaugment=2", "augment.magnitude=20", f"augment.share={share}")
        seed_step(0, 3, 0)
        result, _ = made(same.clone(), torch.zeros(6, dtype=torch.int64), real)
        return len({row.numpy().tobytes() for row in result})

    assert distinct(1) >= 5
    assert distinct(6) == 1


@pytest.mark.parametrize("rows", ["real", "generated"])
def test_erasing_by_rows(rows):
    given = images()
    seed_step(0, 0, 0)
    result, _ = batches("augment.erasing=1", "augment.erasing_mode=const", f"augment.erasing_rows={rows}")(
        given.clone(), torch.zeros(6, dtype=torch.int64), REPLACED
    )
    mask = ~REPLACED if rows == "real" else REPLACED
    assert changed(result, given) == mask.tolist()
    assert (result[mask] == 0).any(1).any(1).any(1).all()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_gives_targets_of_what_is_shown(kind):
    """Images of one colour a row: what a row shows of its partner is what its target says."""
    given = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 24, 24).clone()
    labels = torch.tensor([0, 1, 2, 3, 3, 3])
    made = batches("augment.mix=1", f"augment.{kind}=1", "augment.smoothing=0")
    assert made.soft
    seed_step(0, 1, 0)
    result, targets = made(given.clone(), labels, REPLACED)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    weight = targets[0, 0]  # of row 0's own class; its partner is row 5
    assert 0.02 < weight < 0.98
    assert result[0].mean() == pytest.approx(5 * (1 - float(weight)), abs=1e-4)


def test_smoothing_of_mixed_targets():
    made = batches("augment.mix=1", "augment.mixup=1", "augment.smoothing=0.2")
    _, targets = made(images(), torch.zeros(6, dtype=torch.int64), REPLACED)
    assert torch.allclose(targets, torch.tensor([0.85, 0.05, 0.05, 0.05]).expand(6, 4))


def test_a_steps_draws_are_a_function_of_seed_step_and_rank():
    made = batches(
        "augment.randaugment=2", "augment.erasing=1", "augment.mix=1", "augment.mixup=0.8", "augment.cutmix=1"
    )

    def drawn(*key):
        seed_step(*key)
        result, targets = made(images(), torch.arange(6) % 4, REPLACED)
        return result.numpy().tobytes() + targets.numpy().tobytes()

    first = drawn(0, 5, 0)
    torch.rand(7)
    np.random.rand(3)  # noqa: NPY002
    random.random()
    assert drawn(0, 5, 0) == first
    assert len({first, drawn(1, 5, 0), drawn(0, 6, 0), drawn(0, 5, 1)}) == 4


@pytest.mark.parametrize("rows", ["all", "real", "generated", "none"])
def test_colour_of_views(rows):
    colour = settings("colour.jitter=1", "colour.blur=1", f"colour.rows={rows}", recipe="swav").colour
    views = [images(4, 32), images(4, 16)]
    replaced = np.array([[True, True, False, False], [False] * 4])
    result = ColourBatches(colour)([view.clone() for view in views], replaced)
    for view, after, mask in zip(views, result, replaced, strict=True):
        chosen = {"all": mask | True, "none": mask & False, "real": ~mask, "generated": mask}[rows]
        assert after.shape == view.shape
        assert ((after - (view - MEAN) / STD).abs().amax((1, 2, 3)) > 1e-4).tolist() == chosen.tolist()
