"""Probes against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from dali_icgan.evaluate.probe import linear_probe, nearest_neighbours

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
    found = linear_probe(TRAIN, LABELS, TEST, 6, **settings)
    assert torch.equal(before, torch.get_rng_state())
    reference = LogisticRegression(C=1, max_iter=1000).fit(TRAIN, LABELS)
    own, sklearns = found["top"][:, 0], reference.predict(TEST)
    assert (own == sklearns).mean() > 0.9
    assert abs((own == ASKED).mean() - (sklearns == ASKED).mean()) < 0.04
    assert found["confidence"].shape == (150,)
    again = linear_probe(TRAIN, LABELS, TEST, 6, **settings)
    assert np.array_equal(found["confidence"], again["confidence"])
