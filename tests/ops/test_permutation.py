import itertools
import math

import numpy as np
import pytest
import scipy.stats

from dali_icgan._native import emulated_cuda
from dali_icgan.ops.permutation import permutation, permutation_reference
from tests.emulation import emulated_module


def order(n, seed=0, epoch=0):
    return permutation(seed, epoch, n, np.arange(n))


def test_known_orders_never_change():
    first = {n: permutation(2024, 3, n, np.arange(min(n, 6))).tolist() for n in (1, 2, 5, 1281167, 2**40)}
    assert first == {
        1: [0],
        2: [1, 0],
        5: [0, 1, 4, 3, 2],
        1281167: [996302, 45892, 155413, 225370, 808170, 150091],
        2**40: [501016773751, 809415754261, 544602386785, 542134698799, 293944271158, 903855574],
    }


def test_is_a_bijection_of_every_small_length():
    for n in range(1, 301):
        for seed in (0, 1):
            assert np.array_equal(np.sort(order(n, seed, epoch=n)), np.arange(n))


@pytest.mark.parametrize("n", [1000, 2**12, 65537, 300_000])
def test_is_a_bijection_of_larger_lengths(n):
    assert np.array_equal(np.sort(order(n, seed=-7)), np.arange(n))


def test_windows_of_huge_orders_hold_distinct_indices():
    rng = np.random.default_rng(0)
    for n in [*(2 ** rng.uniform(20, 40, 20)).astype(np.int64), 2**40, 2**32, 2**32 + 1]:
        start = int(rng.integers(0, n - 5000))
        got = permutation(1, 2, int(n), np.arange(start, start + 5000))
        assert len(np.unique(got)) == 5000
        assert 0 <= got.min() <= got.max() < n
        # Spread evenly over the range, wherever the window lies.
        assert scipy.stats.kstest(got / n, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000, 1281167, 2**33 + 5, 2**40])
def test_equals_the_reference(n):
    positions = np.random.default_rng(0).integers(0, n, 40)
    got = permutation(-5, 2**32 - 1, n, positions)
    assert np.array_equal(got, permutation_reference(-5, 2**32 - 1, n, positions))
    with emulated_cuda(emulated_module()):  # the build that `make sanitize` checks
        assert np.array_equal(permutation(-5, 2**32 - 1, n, positions), got)


@pytest.mark.parametrize("by", ["seed", "epoch"])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_a_tiny_set_is_equally_likely(n, by):
    number = {p: i for i, p in enumerate(itertools.permutations(range(n)))}
    draws = 60 * math.factorial(n) + 2000
    found = [number[tuple(order(n, **{by: i}).tolist())] for i in range(draws)]
    assert scipy.stats.chisquare(np.bincount(found, minlength=len(number))).pvalue > 1e-3


def test_larger_orders_look_random():
    n, draws = 1000, 200
    orders = np.stack([order(n, seed) for seed in range(draws)])
    # Fixed points and kept neighbours of a random order: Poisson, mean 1 and (n - 1) / n.
    for events in [(orders == np.arange(n)).sum(), (np.diff(orders) == 1).sum()]:
        assert abs(events - draws) < 4 * math.sqrt(draws)
    inversions = sum((orders[:, i + 1 :] < orders[:, i : i + 1]).sum() for i in range(n - 1)) / draws
    assert abs(inversions - n * (n - 1) / 4) < 4 * math.sqrt(n * (n - 1) * (2 * n + 5) / 72 / draws)
    assert scipy.stats.chisquare(np.bincount(orders[:, :50].ravel() // 100, minlength=10)).pvalue > 1e-3
    parities = [sum(1 for _ in cycles(p)) % 2 for p in orders]
    assert scipy.stats.binomtest(sum(parities), draws).pvalue > 1e-3


def cycles(p):
    seen = np.zeros(len(p), bool)
    for start in range(len(p)):
        if not seen[start]:
            i = start
            while not seen[i]:
                seen[i] = True
                i = p[i]
            yield start


def test_seeds_and_epochs_give_unrelated_orders():
    n = 10_000
    a = order(n)
    for b in (order(n, seed=1), order(n, epoch=1), order(n, seed=-1)):
        assert (a == b).sum() < 10  # Poisson with mean 1
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(n)


def test_a_position_depends_on_nothing_else():
    whole = order(1000, 3, 4)
    for begin in range(0, 1000, 77):
        assert np.array_equal(
            permutation(3, 4, 1000, np.arange(begin, min(begin + 77, 1000))), whole[begin : begin + 77]
        )
    assert np.array_equal(permutation(3, 4, 1000, [999, 0, 999]), whole[[999, 0, 999]])
    assert len(permutation(3, 4, 1000, [])) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0, 0, [0]), ValueError, r"n must be in \[1, 2\^40\], got 0"),
        ((0, 0, 2**40 + 1, [0]), ValueError, r"n must be in \[1, 2\^40\], got 1099511627777"),
        ((0, 0, 2**70, [0]), ValueError, r"n must be in \[0, 2\^63\), got 1180591620717411303424"),
        ((0, 0, 1.0, [0]), TypeError, "n must be an integer, got float"),
        ((0, 0, 5, [0, 5]), ValueError, r"positions must be in \[0, 5\), got 5 at row 1"),
        ((0, 0, 5, [-1]), ValueError, r"positions must be in \[0, 5\), got -1 at row 0"),
        ((0, 0, 5, [[1]]), ValueError, r"positions must have 1 dimension, got \[1, 1\]"),
        ((0, 0, 5, [1.0]), TypeError, "positions must be integers, got float64"),
        ((2**64, 0, 5, [1]), ValueError, "seed must be in"),
        ((0, 2**32, 5, [1]), ValueError, r"epoch must be in \[0, 2\^32\), got 4294967296"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        permutation(*arguments)
