"""Formulas of invariance against loops, and on features that are known to be invariant or not."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from dali_icgan.evaluate import invariance
from dali_icgan.evaluate.invariance import (
    cosine_in_groups,
    cosine_to_views,
    dense,
    firing,
    firing_for_targets,
    firing_in_groups,
    firing_over_views,
    over_groups,
    retrieved_from_views,
    retrieved_in_groups,
    unit,
)

RANDOM = np.random.default_rng(0)
GROUPS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 1])
H = (RANDOM.normal(size=(10, 6)) + RANDOM.normal(size=(3, 6))[GROUPS]).astype(np.float32)
VIEWS = (H[:, None] + RANDOM.normal(size=(10, 3, 6))).astype(np.float32)


def test_cosine_in_groups():
    u = unit(H)
    expected = [np.mean([u[i] @ u[j] for j in range(10) if GROUPS[i] == GROUPS[j] and i != j]) for i in range(10)]
    assert cosine_in_groups(u, GROUPS) == pytest.approx(expected, abs=1e-6)


def test_cosine_to_views():
    u, v = unit(H), unit(VIEWS)
    assert cosine_to_views(u, v) == pytest.approx(
        [np.mean([u[i] @ each for each in v[i]]) for i in range(10)], abs=1e-6
    )


@pytest.mark.parametrize("chunk", [3, 1024])
def test_retrieval(monkeypatch, chunk):
    monkeypatch.setattr(invariance, "_CHUNK", chunk)
    u, v = unit(H), unit(VIEWS)
    near = NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(u)
    second = near.kneighbors(u, return_distance=False)[:, 1]
    assert retrieved_in_groups(u, GROUPS).tolist() == (GROUPS[second] == GROUPS).tolist()
    first = near.kneighbors(v.reshape(30, 6), 1, return_distance=False).reshape(10, 3)
    assert retrieved_from_views(u, v).tolist() == (first == np.arange(10)[:, None]).tolist()


@pytest.mark.parametrize("rate", [0.2, 0.3])
def test_units_fire_as_often_as_asked(rate):
    fires, on_views = firing(H, rate, VIEWS)
    assert fires.shape == (10, 12)
    assert on_views.shape == (10, 3, 12)
    assert (fires.sum(0) == round(10 * rate)).all()
    assert set(np.flatnonzero(fires[:, 0])) == set(np.argsort(-H[:, 0])[: round(10 * rate)])
    assert set(np.flatnonzero(fires[:, 6])) == set(np.argsort(H[:, 0])[: round(10 * rate)])  # of the other sign


def in_groups(fires, groups):
    """L / G of each unit, in loops."""
    scores = []
    for unit_fires in fires.T:
        rates = []
        for x in np.flatnonzero(unit_fires):
            others = [y for y in range(len(groups)) if groups[y] == groups[x] and y != x]
            rates.append(np.mean(unit_fires[others]))
        scores.append(np.mean(rates) / unit_fires.mean())
    return np.array(scores)


def test_firing_in_groups():
    (fires,) = firing(H, 0.3)
    scores = np.sort(in_groups(fires, GROUPS))[::-1]
    found = firing_in_groups(H, GROUPS, 0.3, 4)
    assert found.score.value == pytest.approx(scores[:4].mean())
    assert found.local.value == pytest.approx(scores[:4].mean() * 0.3)
    assert found.units == 12
    assert found.score.low <= found.score.value <= found.score.high


def test_firing_over_views():
    fires, on_views = firing(H, 0.3, VIEWS)
    scores = [np.mean([on_views[x, :, i].mean() for x in np.flatnonzero(fires[:, i])]) / 0.3 for i in range(12)]
    found = firing_over_views(H, VIEWS, 0.3, 5)
    assert found.score.value == pytest.approx(np.sort(scores)[::-1][:5].mean())


def test_firing_for_targets():
    (fires,) = firing(H, 0.3)
    expected = [np.sort(fires[g == GROUPS].mean(0) / 0.3)[::-1][:4].mean() for g in range(3)]
    assert firing_for_targets(H, GROUPS, 0.3, 4) == pytest.approx(expected)


def test_what_never_changes_is_wholly_invariant():
    h = np.eye(20, dtype=np.float32)[np.arange(100) % 20] + 1e-4 * RANDOM.normal(size=(100, 20)).astype(np.float32)
    found = firing_in_groups(h, np.arange(100) % 20, 0.05, 20)
    assert found.local.value == 1
    assert found.score.value == pytest.approx(20)
    views = np.repeat(h[:, None], 2, 1)
    assert firing_over_views(h, views, 0.05, 20).local.value == 1
    assert retrieved_in_groups(unit(h), np.arange(100) % 20).all()


def test_noise_is_at_chance():
    h = RANDOM.normal(size=(4000, 8)).astype(np.float32)
    found = firing_in_groups(h, np.arange(4000) % 8, 0.1, 16)
    assert found.score.value == pytest.approx(1, abs=0.05)


def test_a_unit_that_says_the_same_of_all_never_fires():
    h = np.concatenate([H, np.ones((10, 1), np.float32)], 1)
    assert firing_in_groups(h, GROUPS, 0.3, 4).units == 12
    with pytest.raises(ValueError, match="features must differ from image to image"):
        firing_in_groups(np.ones((10, 3), np.float32), GROUPS, 0.3, 4)


def test_images_alone_in_their_group_are_left_out():
    kept, groups = dense(np.array([5, 1, 5, 7, 1]))
    assert kept.tolist() == [0, 1, 2, 4]
    assert groups.tolist() == [1, 0, 1, 0]


def test_intervals_are_over_groups():
    values = np.repeat(RANDOM.normal(size=20), 50)
    found = over_groups(values, np.repeat(np.arange(20), 50))
    assert found.value == pytest.approx(values.mean())
    deviation = values[::50].std() / np.sqrt(20)
    assert found.high - found.low == pytest.approx(4 * deviation, rel=0.25)  # not of 1000 independent numbers
