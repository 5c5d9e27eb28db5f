import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from dali_icgan._native import native, ref
from dali_icgan.augment.plan import RowKeys
from dali_icgan.ops.truncated_normal import MODES, truncated_normal, truncated_normal_, truncated_normal_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(0, 5), (5, 0), (1, 1), (1, 2), (3, 119), (17, 8), (257, 3)]


def row_keys(n, seed=5, epoch=1, view=2):
    return RowKeys(seed, epoch, np.arange(n) * 3 + 2**33, np.arange(n) % 4, view)


def quantile(p):
    p = torch.as_tensor(p, dtype=torch.float64)
    out = torch.empty_like(p)
    native().normal_quantile(ref("probability", p), ref("out", out))
    return out.numpy()


def test_known_noise_never_changes():
    keys = RowKeys(2024, 3, [0, 1, 2**40 + 5], [0, 2, 1], 1)
    assert truncated_normal(keys, 3, truncation=0.7, dtype=torch.float64).tolist() == [
        [0.4596854920042808, 0.572531142183551, -0.9952288160530842],
        [-1.2932985894390086, 1.2798062313159388, 0.13854037274289158],
        [0.5683155373208435, 0.33039814998060474, -0.16755846821773293],
    ]


def test_quantile_is_within_1e_12_everywhere():
    rng = np.random.default_rng(0)
    p = np.concatenate(
        [10.0 ** rng.uniform(-300, 0, 200_000), rng.random(200_000), 1 - 10.0 ** rng.uniform(-15.9, 0, 100_000)]
    )
    # around the branches of the approximation
    p = np.concatenate(
        [
            p,
            0.075 + np.arange(-500, 500) * 1e-17,
            0.925 + np.arange(-500, 500) * 1e-16,
            math.exp(-25) * (1 + np.arange(-500, 500) * 1e-15),
        ]
    )
    p = p[(p > 0) & (p < 1)]
    assert np.abs(quantile(p) - scipy.special.ndtri(p)).max() < 1e-13  # 4e-14 was measured
    assert quantile([0.5]) == 0


@pytest.mark.parametrize("bound", [1e-300, 1e-3, 0.5, 1.4, 2, 5, 8, 8.29, 9, math.inf])
def test_mass_within_the_cut(bound):
    mass = native().mass_within(bound)
    assert mass == pytest.approx(math.erf(bound / math.sqrt(2)), rel=1e-15)
    if mass < 1 and bound > 1e-10:  # 1/2 + mass / 2 as a probability
        assert quantile([0.5 + mass / 2]) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncation", [1e-3, 0.7, 1.0, 3.0, 100.0])
def test_agrees_with_float64_in_plain_torch(mode, truncation, device):
    keys = row_keys(200)
    got = truncated_normal(keys, 119, truncation=truncation, mode=mode, dtype=torch.float64, device=device)
    want = truncated_normal_reference(keys, 119, truncation=truncation, mode=mode)
    # The quantile's own error, and what half a unit in the last place of the probability means where the density is low.
    density = torch.exp(-((want / (1 if mode == "cut" else truncation)) ** 2) / 2) / math.sqrt(2 * math.pi)
    assert ((got.cpu() - want).abs() <= max(1.0, truncation) * (1e-13 + 2.0**-53 / density)).all()


LAWS = {
    "cut": lambda t: scipy.stats.truncnorm(-2 * t, 2 * t),
    "std": lambda t: scipy.stats.norm(scale=t),
    "scaled": lambda t: scipy.stats.truncnorm(-2, 2, scale=t),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncation", [0.2, 0.7, 1.5])
def test_follows_its_law(mode, truncation):
    law = LAWS[mode](truncation)
    z = truncated_normal(row_keys(1000), 100, truncation=truncation, mode=mode, dtype=torch.float64)
    flat = z.flatten().numpy()
    assert scipy.stats.kstest(flat, law.cdf).pvalue > 1e-3
    n, variance = flat.size, law.var()
    fourth = law.moment(4)
    assert abs(flat.mean()) < 4 * math.sqrt(variance / n)
    assert abs((flat**2).mean() - variance) < 4 * math.sqrt((fourth - variance**2) / n)
    assert scipy.stats.kstest(z.numpy()[:, 0], law.cdf).pvalue > 1e-3  # over rows, too
    columns = np.corrcoef(z.numpy(), rowvar=False) - np.eye(100)
    assert np.abs(columns).max() < 5.5 / math.sqrt(1000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["cut", "scaled"])
@pytest.mark.parametrize("truncation", [1e-3, 0.35, 0.7, 1.0])
def test_stays_within_the_cut_and_comes_close_to_it(mode, truncation, dtype):
    bound = torch.tensor(2 * truncation, dtype=torch.float64).to(dtype)
    z = truncated_normal(row_keys(1000), 40, truncation=truncation, mode=mode, dtype=dtype)
    assert z.abs().max() <= bound
    assert z.abs().max() >= 0.99 * bound


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_other_dtypes_are_the_rounded_float64(dtype, device):
    keys = row_keys(50)
    exact = truncated_normal(keys, 120, truncation=0.7, dtype=torch.float64, device=device)
    got = truncated_normal(keys, 120, truncation=0.7, dtype=dtype, device=device)
    assert torch.equal(got, exact.float().to(dtype))


def test_a_row_depends_on_its_key_only():
    keys = row_keys(31)
    whole = truncated_normal(keys, 9, truncation=0.7)
    for i in range(31):
        assert torch.equal(truncated_normal(keys[i : i + 1], 9, truncation=0.7)[0], whole[i])
    assert torch.equal(truncated_normal(keys, 4, truncation=0.7), whole[:, :4])
    assert not torch.equal(truncated_normal(RowKeys(5, 1, keys.index, keys.repeat, 3), 9, truncation=0.7), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, mode, dtype, on_emulated_cuda):
    n, count = shape
    keys = row_keys(n)
    guarded = torch.full((n * count + 32,), math.nan, dtype=dtype)
    out = guarded[16 : 16 + n * count].view(n, count)
    with on_emulated_cuda():
        assert truncated_normal_(out, keys, truncation=0.7, mode=mode) is out
    assert torch.equal(out, truncated_normal(keys, count, truncation=0.7, mode=mode, dtype=dtype))
    assert guarded[:16].isnan().all()
    assert guarded[16 + n * count :].isnan().all()


def test_cuda_kernel_walks_a_grid_smaller_than_its_work(on_emulated_cuda):
    keys = row_keys(130)
    with on_emulated_cuda():
        got = truncated_normal(keys, 257, truncation=3.0, mode="std", dtype=torch.float64)
    assert torch.equal(got, truncated_normal(keys, 257, truncation=3.0, mode="std", dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_cpu_and_cuda_agree_bit_for_bit(mode, dtype):
    keys = row_keys(1000)
    got = truncated_normal(keys, 121, truncation=0.7, mode=mode, dtype=dtype, device="cuda")
    assert got.is_cuda
    assert torch.equal(got.cpu(), truncated_normal(keys, 121, truncation=0.7, mode=mode, dtype=dtype))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"truncation": 0.0}, ValueError, "truncation must be positive and finite, got 0.0"),
        ({"truncation": -1}, ValueError, "truncation must be positive and finite, got -1.0"),
        ({"truncation": math.inf}, ValueError, "truncation must be positive and finite, got inf"),
        ({"truncation": math.nan}, ValueError, "truncation must be positive and finite, got nan"),
        ({"truncation": "low"}, TypeError, "truncation must be a number, got 'low'"),
        ({"mode": "clip"}, ValueError, "mode must be one of cut, std, scaled, got 'clip'"),
        ({"count": -1}, ValueError, r"count must be in \[0, 2\^32\), got -1"),
        ({"count": 1.5}, TypeError, "count must be an integer, got float"),
        ({"dtype": torch.int64}, ValueError, "out must be float32, float16 or bfloat16, got int64"),
        ({"dtype": torch.int16}, TypeError, "out must be one of"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        truncated_normal(**{"keys": row_keys(3), "count": 4, "truncation": 0.7} | arguments)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(3), r"out must have 2 dimensions, got \[3\]"),
        (torch.empty(4, 5), r"index must have shape \[4\], got \[3\]"),
        (torch.empty(5, 3).t(), "out must be contiguous, got strides"),
    ],
)
def test_a_wrong_destination_is_named(out, message):
    with pytest.raises(ValueError, match=message):
        truncated_normal_(out, row_keys(3), truncation=0.7)
