"""Losses, differentiable augmentation, moving average, files and random numbers."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from dali_icgan.training.differentiable import POLICIES, augment_differentiably
from dali_icgan.training.ema import ExponentialMovingAverage
from dali_icgan.training.losses import discriminator_hinge, finite, generator_hinge, mode_seeking
from dali_icgan.training.state import load_state, random_of, save_state, write_whole

# ---------------------------------------------------------------------- losses


def test_hinge_losses_in_float64():
    random = np.random.default_rng(0)
    real, generated = random.normal(0, 2, 50), random.normal(0, 2, 50)
    want = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + generated).mean()
    got = discriminator_hinge(torch.from_numpy(real), torch.from_numpy(generated))
    assert float(got) == pytest.approx(want, abs=1e-14)
    assert float(generator_hinge(torch.from_numpy(generated))) == pytest.approx(-generated.mean(), abs=1e-14)


def test_scores_beyond_the_margin_have_no_gradient():
    real = torch.tensor([2.0, 0.5], requires_grad=True)
    generated = torch.tensor([-3.0, 0.0], requires_grad=True)
    discriminator_hinge(real, generated).backward()
    assert real.grad.tolist() == [0, -0.5]
    assert generated.grad.tolist() == [0, 0.5]


def test_mode_seeking_is_the_distance_of_pairs_up_to_that_of_real_ones():
    generated, real = torch.rand(2, 6, 3, 4, 4, dtype=torch.float64)
    generated[3] = generated[0]  # noise changes nothing
    generated[4] = generated[1] + 5  # noise changes more than real images differ by
    generated[5] = generated[2] + 0.01  # and less
    generated.requires_grad_()
    loss = mode_seeking(generated, real.requires_grad_())
    assert loss.item() == pytest.approx(-(0 + (real[4] - real[1]).abs().mean().item() + 0.01) / 3, abs=1e-15)
    loss.backward()
    assert real.grad is None
    assert generated.grad[1].abs().sum() == generated.grad[4].abs().sum() == 0  # far enough apart
    assert torch.allclose(generated.grad[5], torch.tensor(-1 / 3 / 48, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_named(value):
    finite("after step 3", generator=torch.tensor(1.0))
    with pytest.raises(FloatingPointError, match=f"loss of generator must be finite, got {value} after step 3"):
        finite("after step 3", discriminator=torch.tensor(1.0), generator=torch.tensor(value))


# ---------------------------------------------------------------------- differentiable augmentation


@pytest.mark.parametrize("policies", [*((policy,) for policy in POLICIES), POLICIES, ()])
def test_gradients_pass_and_draws_repeat(policies):
    images = (torch.rand(5, 3, 16, 16, dtype=torch.float64) * 2 - 1).requires_grad_()
    out = augment_differentiably(images, policies, random_of(0, "test"))
    assert out.shape == images.shape
    assert torch.equal(out, augment_differentiably(images, policies, random_of(0, "test")))
    if policies:
        assert not torch.equal(out, augment_differentiably(images, policies, random_of(1, "test")))
    assert torch.autograd.gradcheck(
        lambda x: augment_differentiably(x, policies, random_of(0, "test")), (images[:2, :, :8, :8],)
    )


def test_translation_moves_by_up_to_an_eighth_and_zeros_come_in():
    images = torch.arange(1.0, 1 + 40 * 3 * 16 * 16).view(40, 3, 16, 16)
    out = augment_differentiably(images, ("translation",), random_of(0, "test"))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for i in range(40):
        moves = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(out[i], padded[i, :, y : y + 16, x : x + 16])
        ]
        assert len(moves) == 1
        seen |= set(moves)
    assert len(seen) > 15  # of 25


def test_cutout_takes_a_square_of_half_the_side():
    out = augment_differentiably(torch.ones(200, 3, 16, 16), ("cutout",), random_of(0, "test"))
    gone = (out == 0).all(1)
    assert torch.equal(gone, (out == 0).any(1))
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 8
    assert rows.min() >= 4  # at the border half of it lies outside


def test_colour_keeps_what_it_must():
    images = torch.rand(50, 3, 8, 8, dtype=torch.float64) * 2 - 1
    out = augment_differentiably(images, ("colour",), random_of(0, "test"))
    gray, gray_out = images.mean(1), out.mean(1)
    # Brightness shifts and contrast scales: gray images stay an affine function of what they were.
    for before, after in zip(gray, gray_out, strict=True):
        assert abs(np.corrcoef(before.flatten(), after.flatten())[0, 1]) == pytest.approx(1, abs=1e-9)
    assert (out.mean((1, 2, 3)) - images.mean((1, 2, 3))).abs().max() <= 0.5 + 1e-9


# ---------------------------------------------------------------------- moving average


def test_the_average_in_float64_by_hand():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average = ExponentialMovingAverage(model, 0.24, start=2)
    want = {}
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(8, 3, dtype=torch.float64))  # moves the buffers
        average.update(model, step)
        for name, tensor in model.state_dict().items():
            if step < 2 or not tensor.is_floating_point():
                want[name] = tensor.clone()
            else:
                d = (0.1, 2 / 11, 0.24, 0.24)[step - 2]  # rises to the decay that was asked for
                want[name] = d * want[name] + (1 - d) * tensor
    for name, tensor in average.model.state_dict().items():
        assert torch.allclose(tensor, want[name], rtol=0, atol=1e-14), name
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        ExponentialMovingAverage(model, 1, 0)


# ---------------------------------------------------------------------- files, random numbers


def test_a_state_comes_back(tmp_path):
    state = {"tensor": torch.randn(3), "step": 7, "list": [{"a": 1.5}], "name": "x"}
    save_state(tmp_path / "state.pt", state)
    got = load_state(tmp_path / "state.pt")
    assert torch.equal(got.pop("tensor"), state.pop("tensor"))
    assert got == state
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})

    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, full)
    assert load_state(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None, b"list"])
def test_a_damaged_state_is_refused_and_nothing_executed(tmp_path, content):
    path = tmp_path / "state.pt"
    if content is None:
        torch.save({"evil": Evil(tmp_path / "executed")}, path)
    elif content == b"list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt must be a state of a training run"):
        load_state(path)
    assert not (tmp_path / "executed").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_random_numbers_are_of_the_seed_and_the_purpose():
    def draw(*purpose):
        return torch.rand(4, generator=random_of(*purpose)).tolist()

    assert draw(0, "noise", 3) == draw(0, "noise", 3)
    others = [draw(0, "noise", 4), draw(1, "noise", 3), draw(0, "mirror", 3), draw(0, "noise", 3, 1), draw(0, "noise3")]
    assert all(other != draw(0, "noise", 3) for other in others)
    assert draw(2**63, "x") != draw(-1, "x")
