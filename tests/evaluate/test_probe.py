"""Probes against scikit-learn's, and against a training loop in plain torch."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.utils.data import RandomSampler

from dali_icgan.augment import EvalTransform, TrainTransform
from dali_icgan.data import as_samples
from dali_icgan.evaluate.probe import linear_probe, nearest_neighbours
from dali_icgan.evaluate.record import Record
from dali_icgan.evaluate.run_probe import Knn, Linear, evaluate_probe
from dali_icgan.loader import DataLoader

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(6, 16))
LABELS, ASKED = RANDOM.integers(0, 6, 300), RANDOM.integers(0, 6, 150)
TRAIN = (CENTRES[LABELS] + RANDOM.normal(size=(300, 16))).astype(np.float32)
TEST = (CENTRES[ASKED] + RANDOM.normal(size=(150, 16))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 20, 300])
def test_nearest_neighbours(k):
    found = nearest_neighbours(TRAIN, LABELS, TEST, 6, k, 0.07)["top"]

    def weights(distance):
        return np.exp((1 - distance**2 / 2) / 0.07)

    reference = KNeighborsClassifier(k, weights=weights, algorithm="brute")
    reference.fit(TRAIN / np.linalg.norm(TRAIN, axis=1, keepdims=True), LABELS)
    expected = reference.predict(TEST / np.linalg.norm(TEST, axis=1, keepdims=True))
    assert (found[:, 0] == expected).mean() > 0.99
    assert found.shape == (150, 5)


@pytest.mark.parametrize("k", [0, 301])
def test_more_neighbours_than_there_are(k):
    with pytest.raises(ValueError, match=rf"k must be in 1..300, the images with labels, got {k}"):
        nearest_neighbours(TRAIN, LABELS, TEST, 6, k, 0.07)


def test_linear_probe():
    settings = {"epochs": 10, "batch_size": 64, "lr": 0.5, "seed": 0, "device": torch.device("cpu")}
    before = torch.get_rng_state()
    found = linear_probe(lambda _: TRAIN, LABELS, TEST, 6, **settings)
    assert torch.equal(before, torch.get_rng_state())
    reference = LogisticRegression(C=1, max_iter=1000).fit(TRAIN, LABELS)
    own, sklearns = found["top"][:, 0], reference.predict(TEST)
    assert (own == sklearns).mean() > 0.9
    assert abs((own == ASKED).mean() - (sklearns == ASKED).mean()) < 0.04
    assert found["confidence"].shape == (150,)
    again = linear_probe(lambda _: TRAIN, LABELS, TEST, 6, **settings)
    assert np.array_equal(found["confidence"], again["confidence"])


@pytest.mark.dali
@pytest.mark.parametrize("protocol", ["crops", "cached"])
def test_linear_against_a_plain_loop(how, validation, tmp_path, protocol):
    """Features of crops of each pass, or of centre crops; SGD; from step to step the rate falls along a cosine to a thousandth."""
    asked = Linear(protocol, epochs=3, batch_size=16, lr=0.2, seed=5)
    evaluate_probe(how, validation, validation, tmp_path / "out", asked)
    samples = as_samples(validation)
    labels = torch.from_numpy(samples.labels)
    shape = {"mean": how.model.mean, "std": how.model.std}

    def features(transform, epoch):
        loader = DataLoader(samples, batch_size=8, transform=transform, device="cpu", seed=5)
        loader.set_epoch(epoch)
        images = torch.cat([batch for batch, _ in loader])
        padded = torch.cat([images, images[:24]])  # 40 images in calls of 32
        return torch.cat([how.model.features(padded[:32]), how.model.features(padded[32:])])[:40].clone()

    centre = features(EvalTransform(64, 64, **shape), 0)
    order, steps = torch.Generator().manual_seed(5), 3 * 3
    with torch.random.fork_rng():
        torch.manual_seed(5)
        head = nn.Linear(96, 8)
    optimizer = torch.optim.SGD(head.parameters(), 0.2 * 16 / 256, momentum=0.9)
    falling = [0.001 + 0.999 * (1 + np.cos(np.pi * step / (steps - 1))) / 2 for step in range(steps)]
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: falling[min(step, steps - 1)])
    for epoch in range(3):
        seen = features(TrainTransform(64, **shape), epoch) if protocol == "crops" else centre
        assert torch.equal(seen, centre) == (protocol == "cached")
        for rows in torch.tensor(list(RandomSampler(range(40), generator=order))).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(seen[rows]), labels[rows]).backward()
            optimizer.step()
            rates.step()
    expected = head(centre).softmax(1).detach()
    record = Record.read(tmp_path / "out" / "predictions" / f"linear-{protocol}.safetensors")
    assert record.columns["confidence"] == pytest.approx(expected.amax(1).double().numpy(), abs=1e-5)
    assert record.columns["top"][:, 0].tolist() == expected.argmax(1).tolist()
    assert np.unique(record.columns["confidence"]).size == 40  # no classifier that has learned nothing


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Linear("fresh"), "protocol must be crops or cached, got 'fresh'"),
        (lambda: Linear(epochs=0), "epochs must be greater than 0, got 0"),
        (lambda: Linear(lr=float("nan")), "lr must be greater than 0, got nan"),
        (lambda: Knn(temperature=0), "temperature must be greater than 0, got 0"),
    ],
)
def test_settings_that_there_are_not(make, said):
    with pytest.raises(ValueError, match=said):
        make()
