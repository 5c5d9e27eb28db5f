import dataclasses
import types

import numpy as np
import pytest
import scipy.stats

from dali_icgan._native import emulated_cuda, native
from dali_icgan.augment.plan import RowKeys
from dali_icgan.ops.uniform import Stream, philox_reference, randint, uniform, uniform_reference
from tests.emulation import emulated_module

# Random123's kat_vectors, the lines "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def row_keys(n, seed=11, epoch=2, view=0, stride=1, repeat=0):
    return RowKeys(seed, epoch, np.arange(n) * stride, np.full(n, repeat), view)


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, result):
    low, high = words(key)
    assert native().philox4x32_10(words(counter), low | high << 32) == words(result)
    assert philox_reference(np.array(words(counter)), low | high << 32).tolist() == words(result)


def test_known_bits_never_change():
    keys = RowKeys(2024, 3, [0, 1, 2**40 + 5], [0, 2, 1], 1)
    assert uniform(keys, Stream.REPLACE, 2).tolist() == [
        [0.9646879653260154, 0.9606008825990239],
        [0.5030885105894306, 0.3144928170591115],
        [0.8022858101522558, 0.5561254100720476],
    ]
    assert randint(keys, Stream.NEIGHBOUR, [50, 50, 2**62]).tolist() == [47, 20, 4113247217869578898]


def test_stream_numbers_never_change():
    names = ["REPLACE", "NOISE", "NEIGHBOUR", "CROP", "FLIP", "LABEL", "CONDITION", "ORDER"]
    assert {s.name: s.value for s in Stream} == {name: i for i, name in enumerate(names, 1)}


@pytest.mark.parametrize("n", [0, 1, 7, 257])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_equals_the_reference(n, count):
    keys = RowKeys(-(2**63) + 9, 2**32 - 1, np.arange(n) * 2**39 + n, np.arange(n) * 2**23 + 1, 255)
    got = uniform(keys, Stream.LABEL, count)
    assert got.dtype == np.float64
    assert got.shape == (n, count)
    assert np.array_equal(got, uniform_reference(keys, Stream.LABEL, count))
    with emulated_cuda(emulated_module()):  # the build that `make sanitize` checks
        assert np.array_equal(uniform(keys, Stream.LABEL, count), got)
        high = np.arange(1, n + 1) * 2**54
        drawn = randint(keys, Stream.LABEL, high)
    assert np.array_equal(drawn, randint(keys, Stream.LABEL, high))


def test_is_uniform():
    u = uniform(row_keys(50_000), Stream.REPLACE, 3)
    for column in u.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
    assert u.min() >= 0
    assert u.max() < 1
    lowest = (u.ravel() * 2.0**53).astype(np.int64) & 15  # the last four of 53 bits
    assert scipy.stats.chisquare(np.bincount(lowest, minlength=16)).pvalue > 1e-3


def test_streams_views_epochs_seeds_repeats_and_neighbours_are_independent():
    n = 20_000
    base = row_keys(n)
    columns = [uniform(base, stream)[:, 0] for stream in Stream]
    changes = [
        {"view": 1},
        {"epoch": 3},
        {"seed": 12},
        {"repeat": base.repeat + 1},
        {"index": base.index + 1},
        {"index": base.index + 2**32},
    ]
    columns += [uniform(dataclasses.replace(base, **change), Stream.REPLACE)[:, 0] for change in changes]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    # index + 1 is the same draws moved by a row: uncorrelated too. Each entry has a standard deviation of 1 / sqrt(n).
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)


def test_a_row_depends_on_its_key_only():
    keys = row_keys(31, stride=977)
    whole = uniform(keys, Stream.CROP, 4)
    for i in range(31):
        assert np.array_equal(uniform(keys[i : i + 1], Stream.CROP, 4)[0], whole[i])
    order = np.random.default_rng(0).permutation(31)
    assert np.array_equal(uniform(keys.take(order), Stream.CROP, 7)[:, :4], whole[order])


def test_a_negative_seed_is_its_64_bits():
    assert np.array_equal(uniform(row_keys(5, seed=-3), 1), uniform(row_keys(5, seed=2**64 - 3), 1))
    assert not np.array_equal(uniform(row_keys(5, seed=-3), 1), uniform(row_keys(5, seed=3), 1))


@pytest.mark.parametrize("high", [1, 2, 3, 7, 50])
def test_randint_is_uniform(high):
    got = randint(row_keys(20_000), Stream.NEIGHBOUR, high)
    assert got.dtype == np.int64
    assert got.min() >= 0
    assert got.max() < high
    assert high == 1 or scipy.stats.chisquare(np.bincount(got, minlength=high)).pvalue > 1e-3


def test_randint_is_unbiased_even_where_64_bits_do_not_divide_evenly():
    # Of 3 * 2^61 values, a plain product would give those that are 2 mod 3 two thirds of the others' probability.
    got = randint(row_keys(20_000), Stream.NEIGHBOUR, 3 * 2**61)
    assert scipy.stats.chisquare(np.bincount(got % 3, minlength=3)).pvalue > 1e-3
    assert got.max() > 2**62


def test_randint_takes_a_range_per_row():
    keys = row_keys(1000)
    high = np.arange(1, 1001)
    got = randint(keys, Stream.LABEL, high)
    assert ((got >= 0) & (got < high)).all()
    assert got[499] == randint(keys, Stream.LABEL, 500)[499]
    assert len(randint(row_keys(0), Stream.LABEL, 5)) == 0


FIELDS = {"seed": 1, "epoch": 0, "index": np.arange(3), "repeat": np.zeros(3, np.int64), "view": 0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": 2**64}, ValueError, r"seed must be in \[-2\^63, 2\^64\), got 18446744073709551616"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got float"),
        ({"epoch": -1}, ValueError, r"epoch must be in \[0, 2\^32\), got -1"),
        ({"epoch": 2**32}, ValueError, r"epoch must be in \[0, 2\^32\), got 4294967296"),
        ({"view": 256}, ValueError, r"view must be in \[0, 2\^8\), got 256"),
        (
            {"index": np.array([0, 2**48, 1])},
            ValueError,
            r"index must be in \[0, 2\^48\), got 281474976710656 at row 1",
        ),
        ({"index": np.array([0, 1, -1])}, ValueError, r"index must be in \[0, 2\^48\), got -1 at row 2"),
        ({"index": np.zeros((3, 1), np.int64)}, ValueError, r"index must have 1 dimension, got \[3, 1\]"),
        ({"index": np.zeros(3)}, ValueError, "index must be an int64 array, got float64"),
        ({"index": np.arange(6)[::2]}, ValueError, "index must be contiguous, got a strided view"),
        ({"repeat": np.zeros(2, np.int64)}, ValueError, r"repeat must have shape \[3\], got \[2\]"),
        ({"repeat": np.full(3, 2**32)}, ValueError, r"repeat must be in \[0, 2\^32\), got 4294967296 at row 0"),
    ],
)
def test_wrong_keys_are_named(change, error, message):
    with pytest.raises(error, match=message):
        uniform(types.SimpleNamespace(**FIELDS | change), Stream.CROP)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda keys: uniform(keys, 256), ValueError, r"stream must be in \[0, 2\^8\), got 256"),
        (lambda keys: uniform(keys, 1, -1), ValueError, r"count must be in \[0, 2\^32\), got -1"),
        (lambda keys: randint(keys, -1, 3), ValueError, r"stream must be in \[0, 2\^8\), got -1"),
        (lambda keys: randint(keys, 1, 0), ValueError, r"high must be in \[1, 2\^63\), got 0 at row 0"),
        (lambda keys: randint(keys, 1, [1, 0, 2]), ValueError, r"high must be in \[1, 2\^63\), got 0 at row 1"),
        (lambda keys: randint(keys, 1, [1, 2]), ValueError, r"high must have shape \[3\], got \[2\]"),
        (lambda keys: randint(keys, 1, [1.5, 2, 2]), TypeError, "high must be integers, got float64"),
        (lambda keys: randint(keys, 1, 2.0), TypeError, "high must be an integer, got float"),
        (lambda keys: randint(keys, 1, 2**63), ValueError, r"high must be in \[0, 2\^63\), got 9223372036854775808"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(row_keys(3))
