import pytest
import torch

from dali_icgan._native import native, ref, stream, threads
from dali_icgan.ops.unit_rows import unit_rows, unit_rows_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [
    (0, 8),
    (1, 1),
    (3, 7),
    (2, 8),
    (9, 255),
    (8, 256),
    (17, 264),
    (5, 2048),
    (2, 2049),
]  # beside the width, the lanes, the block


def features(n, d, dtype, device="cpu", seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def into(x, out):
    """The binding itself, which takes the result's memory."""
    native().unit_rows(ref("x", x), ref("out", out), threads(), stream(x))
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_one_rounding_away_from_float64(shape, dtype, device):
    x = features(*shape, dtype, device)
    want = unit_rows_reference(x)
    got = unit_rows(x)
    assert got.dtype == torch.float32
    assert got.shape == x.shape
    assert ((got.double() - want).abs() <= want.abs() * 2.0**-24 * 1.0001).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_is_one_within_1e_6(dtype, device):
    x = features(100, 2048, dtype, device).relu()  # pooled features after a ReLU
    assert (unit_rows(x).double().norm(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1e20, 3e38])
def test_neither_overflows_nor_vanishes(scale, device):
    x = torch.full((1, 300), scale, device=device)
    torch.testing.assert_close(unit_rows(x).double(), unit_rows_reference(x), rtol=1e-7, atol=0)


@pytest.mark.parametrize("offset", [0, 1, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_address_gives_the_same_bits_and_nothing_else_is_written(dtype, offset, device):
    x = features(5, 264, dtype, device)
    room = torch.full((x.numel() + 64,), -7.0, device=device)
    source = torch.zeros(x.numel() + 64, dtype=dtype, device=device)
    moved = source[offset : offset + x.numel()].view(x.shape).copy_(x)
    out = room[16 + offset : 16 + offset + x.numel()].view(x.shape)
    assert torch.equal(into(moved, out), unit_rows(x))
    assert (room[: 16 + offset] == -7).all()
    assert (room[16 + offset + x.numel() :] == -7).all()


def test_may_write_in_place(device):
    x = features(9, 100, torch.float32, device)
    want = unit_rows(x)
    assert torch.equal(into(x, x), want)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_do_not_change_a_bit(count):
    x = features(301, 500, torch.float32)
    want = unit_rows(x)
    torch.set_num_threads(count)
    assert torch.equal(unit_rows(x), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, dtype, on_emulated_cuda):
    x = features(*shape, dtype)
    room = torch.full((x.numel() + 32,), float("nan"))
    out = room[16 : 16 + x.numel()].view(x.shape)
    with on_emulated_cuda():
        into(x, out)
    assert torch.equal(out, unit_rows(x))
    assert room[:16].isnan().all()
    assert room[16 + x.numel() :].isnan().all()


@pytest.mark.parametrize("offset", [1, 4])
def test_cuda_kernel_takes_any_address(offset, on_emulated_cuda):
    x = features(3, 264, torch.float16)
    moved = torch.zeros(x.numel() + 8, dtype=x.dtype)[offset : offset + x.numel()].view(x.shape).copy_(x)
    with on_emulated_cuda():
        got = unit_rows(moved)
    assert torch.equal(got, unit_rows(x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_and_cuda_agree_bit_for_bit(shape, dtype):
    x = features(*shape, dtype)
    assert torch.equal(unit_rows(x.cuda()).cpu(), unit_rows(x))


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    x = features(64, 2048, torch.float32)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        moved = x.cuda()
        torch.cuda._sleep(10_000_000)
        moved.mul_(2)  # a kernel on another stream would see it before
        got = unit_rows(moved)
    side.synchronize()
    assert torch.equal(got.cpu(), unit_rows(x * 2))


BAD_ROWS = [0.0, float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("value", BAD_ROWS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_first_row_without_a_direction_is_named(value, count):
    torch.set_num_threads(count)
    x = features(1000, 300, torch.float32)
    x[[613, 990]] = value
    with pytest.raises(ValueError, match="x must have rows that are finite and not zero, got a row 613 that is not"):
        unit_rows(x)


@pytest.mark.parametrize("value", BAD_ROWS)
def test_cuda_kernel_makes_such_a_row_nan_and_leaves_the_others(value, on_emulated_cuda):
    x = features(10, 264, torch.float32)
    want = unit_rows(x)
    x[3] = 0
    x[3, 40] = value
    with on_emulated_cuda():
        got = unit_rows(x)
    assert got[3].isnan().all()
    assert torch.equal(got[[0, 1, 2, 4, 5, 6, 7, 8, 9]], want[[0, 1, 2, 4, 5, 6, 7, 8, 9]])


def test_is_a_torch_operator(device):
    torch.library.opcheck(torch.ops.dali_icgan.unit_rows.default, (features(4, 16, torch.float16, device),))


def test_backward_raises_rather_than_dropping_the_gradient():
    x = features(2, 8, torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        unit_rows(x).sum().backward()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(8), ValueError, r"x must have 2 dimensions, got \[8\]"),
        (torch.ones(2, 8, dtype=torch.uint8), ValueError, "x must be float32, float16 or bfloat16, got uint8"),
        (torch.ones(2, 8, dtype=torch.bool), TypeError, "x must be one of .*, got torch.bool"),
        (torch.ones(8, 2).t(), ValueError, r"x must be contiguous, got strides \[1, 2\]"),
        (torch.ones(2, 0), ValueError, r"x must have at least one column, got \[2, 0\]"),
    ],
)
def test_a_wrong_x_is_named(x, error, message):
    with pytest.raises(error, match=message):
        unit_rows(x)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(2, 7), r"out must have shape \[2, 8\], got \[2, 7\]"),
        (torch.empty(2, 8, dtype=torch.float16), "out must be float32, got float16"),
        (torch.empty(8, 2).t(), r"out must be contiguous, got strides \[1, 2\]"),
    ],
)
def test_a_wrong_result_is_named_by_the_binding(out, message):
    with pytest.raises(ValueError, match=message):
        into(torch.ones(2, 8), out)
