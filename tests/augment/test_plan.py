import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from dali_icgan.augment.plan import RowKeys, replaced, resolve_p


def row_keys(n, seed=7, epoch=0, view=0):
    return RowKeys(seed, epoch, np.arange(n), np.zeros(n, np.int64), view)


def test_known_decisions_never_change():
    assert replaced(row_keys(20, 2024, 3), 0.5).astype(int).tolist() == [
        1,
        0,
        0,
        0,
        1,
        1,
        0,
        1,
        0,
        0,
        1,
        1,
        0,
        0,
        0,
        1,
        0,
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9])
def test_replaces_the_share_p(p):
    hits = replaced(row_keys(20_000), p)
    assert hits.dtype == bool
    assert scipy.stats.binomtest(int(hits.sum()), len(hits), p).pvalue > 1e-3


def test_nobody_at_0_and_everybody_at_1():
    assert not replaced(row_keys(20_000), 0).any()
    assert replaced(row_keys(20_000), 1).all()
    assert replaced(row_keys(0), 0.5).shape == (0,)


def test_sets_nest_as_p_grows():
    keys = row_keys(5000)
    sets = [replaced(keys, p) for p in np.linspace(0, 1, 41)]
    for smaller, larger in itertools.pairwise(sets):
        assert (smaller <= larger).all()
        assert smaller.sum() < larger.sum()


def test_other_epochs_views_and_repeats_decide_anew():
    keys, n = row_keys(10_000), 10_000
    base = replaced(keys, 0.5)
    for change in ({"epoch": 1}, {"view": 1}, {"repeat": keys.repeat + 1}, {"seed": 8}):
        same = int((replaced(dataclasses.replace(keys, **change), 0.5) == base).sum())
        assert scipy.stats.binomtest(same, n, 0.5).pvalue > 1e-3


def test_rows_can_be_taken_in_any_way():
    keys = RowKeys(1, 2, [5, 6, 7, 8], [0, 1, 2, 3], 4)
    assert len(keys) == 4
    for part in (keys[1:3], keys.take(np.array([1, 2])), keys.take(np.array([False, True, True, False]))):
        assert (part.seed, part.epoch, part.view) == (1, 2, 4)
        assert part.index.tolist() == [6, 7]
        assert part.repeat.tolist() == [1, 2]
    assert keys[::2].index.flags.c_contiguous
    assert len(keys[4:]) == 0


def test_keys_are_int64_whatever_integers_they_came_as():
    keys = RowKeys(np.int64(1), np.int32(2), np.arange(3, dtype=np.uint8), np.arange(3, dtype=np.int32))
    assert keys.index.dtype == keys.repeat.dtype == np.int64
    with pytest.raises(dataclasses.FrozenInstanceError):
        keys.seed = 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": -(2**63) - 1}, ValueError, r"seed must be in \[-2\^63, 2\^64\), got -9223372036854775809"),
        ({"epoch": 2**32}, ValueError, r"epoch must be in \[0, 2\^32\), got 4294967296"),
        ({"epoch": 0.0}, TypeError, "epoch must be an integer, got float"),
        ({"index": [0, 2**48]}, ValueError, r"index must be in \[0, 2\^48\), got 281474976710656 at row 1"),
        ({"index": [0.0, 1.0]}, TypeError, "index must be integers, got float64"),
        ({"index": 3}, ValueError, r"index must have 1 dimension, got \[\]"),
        ({"repeat": [0, 2**32]}, ValueError, r"repeat must be in \[0, 2\^32\), got 4294967296 at row 1"),
        ({"repeat": [0]}, ValueError, r"repeat must have shape \[2\], got \[1\]"),
        ({"view": 256}, ValueError, r"view must be in \[0, 2\^8\), got 256"),
        ({"view": -1}, ValueError, r"view must be in \[0, 2\^8\), got -1"),
    ],
)
def test_wrong_keys_are_named(change, error, message):
    with pytest.raises(error, match=message):
        RowKeys(**{"seed": 0, "epoch": 0, "index": [0, 1], "repeat": [0, 0], "view": 0} | change)


def test_p_may_be_a_function_of_the_epoch():
    assert resolve_p(0.25, 3) == 0.25
    assert resolve_p(np.float32(1), 3) == 1.0
    assert resolve_p(lambda epoch: epoch / 10, 3) == 0.3


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (1.5, ValueError, r"p must be in \[0, 1\], got 1.5"),
        (-0.1, ValueError, r"p must be in \[0, 1\], got -0.1"),
        (math.nan, ValueError, r"p must be in \[0, 1\], got nan"),
        ("half", TypeError, r"p must be a number in \[0, 1\], got 'half'"),
        (None, TypeError, r"p must be a number in \[0, 1\], got None"),
        (lambda epoch: 2, ValueError, r"p\(4\) must be in \[0, 1\], got 2"),
        (lambda epoch: None, TypeError, r"p\(4\) must be a number in \[0, 1\], got None"),
    ],
)
def test_a_wrong_p_is_named(p, error, message):
    with pytest.raises(error, match=message):
        resolve_p(p, 4)
    if not callable(p):
        with pytest.raises(error, match=message):
            replaced(row_keys(2), p)
