import pytest
import torch

from dali_icgan.ops.average_pool_normalize import average_pool_normalize, average_pool_normalize_reference
from dali_icgan.ops.unit_rows import unit_rows
from tests.ops.channels_last import CPU_DTYPES, DTYPES, Guarded, padded, random, same_bits

# n, h, w, c: empty, 1, prime, beside a packet's width, the flight of loads, more groups than a block has threads.
SHAPES = [
    (0, 2, 3, 8),
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (3, 1, 8, 8),
    (2, 3, 3, 9),
    (2, 7, 7, 264),
    (1, 1, 17, 520),
    (3, 2, 2, 2048),
]


def features(shape, dtype, device="cpu"):
    return random(shape, dtype, 1, device).relu() + 0.25  # as after a ReLU


def check_against_float64(x):
    want = average_pool_normalize_reference(x)
    got = average_pool_normalize(x)
    assert got.dtype == torch.float32
    assert got.shape == want.shape
    # The mean is rounded to float32, then the result; the norm's own error is below a rounding of the mean.
    assert ((got.double() - want).abs() <= 3 * 2.0**-24 * want.abs()).all()


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype):
    check_against_float64(features(shape, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64_on_cuda(shape, dtype):
    check_against_float64(features(shape, dtype, "cuda"))


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1e20, 3e38])
def test_neither_overflows_nor_vanishes(scale):
    x = torch.full((1, 3, 3, 300), scale)
    torch.testing.assert_close(
        average_pool_normalize(x).double(), average_pool_normalize_reference(x), rtol=2e-7, atol=0
    )


def test_is_the_mean_then_unit_rows():
    x = random((3, 7, 7, 96), torch.float16, 1)  # of both signs
    assert same_bits(average_pool_normalize(x), unit_rows(x.double().mean((1, 2)).float()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, dtype, on_emulated_cuda):
    x = features(shape, dtype)
    room = Guarded((shape[0], shape[3]), torch.float32)
    with on_emulated_cuda():
        average_pool_normalize(x, out=room.tensor)
    assert same_bits(room.tensor, average_pool_normalize(x))
    assert room.untouched_around()


# Extra channels and offset of x, and the result's offset.
@pytest.mark.parametrize("layout", [(8, 0, 0), (3, 0, 0), (0, 1, 0), (16, 8, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_layout_gives_the_same_bits_and_nothing_else_is_written(layout, dtype, on_emulated_cuda):
    x = features((2, 3, 5, 24), dtype)
    want = average_pool_normalize(x)
    extra, offset, out_offset = layout
    moved = padded(x, extra, offset)
    for emulated in (False, True):
        room = Guarded(want.shape, torch.float32, offset=out_offset)
        with on_emulated_cuda() if emulated else torch.no_grad():
            assert average_pool_normalize(moved, out=room.tensor) is room.tensor
        assert same_bits(room.tensor, want)
        assert room.untouched_around()


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    x = features((301, 3, 5, 50), dtype)
    torch.set_num_threads(1)
    want = average_pool_normalize(x)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert same_bits(average_pool_normalize(x), want)


BAD = [0.0, float("nan"), float("inf"), -float("inf")]


def with_a_bad_image(value):
    x = features((10, 3, 3, 264), torch.float32)
    x[[3, 7]] = 0
    x[[3, 7], 1, 2, 40] = value
    return x


@pytest.mark.parametrize("value", BAD)
def test_the_first_image_without_a_direction_is_named(value):
    message = "x must have means that are finite and not all zero, got an image 3 whose are not"
    with pytest.raises(ValueError, match=message):
        average_pool_normalize(with_a_bad_image(value))


@pytest.mark.parametrize("value", BAD)
def test_cuda_kernel_makes_such_a_row_nan_and_leaves_the_others(value, on_emulated_cuda):
    want = average_pool_normalize(features((10, 3, 3, 264), torch.float32))
    with on_emulated_cuda():
        got = average_pool_normalize(with_a_bad_image(value))
    good = [0, 1, 2, 4, 5, 6, 8, 9]
    assert got[[3, 7]].isnan().all()
    assert same_bits(got[good], want[good])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_and_cuda_agree_bit_for_bit(shape, dtype):
    x = features(shape, dtype)
    assert same_bits(average_pool_normalize(x.cuda()).cpu(), average_pool_normalize(x))


def test_is_a_torch_operator(device):
    x = features((2, 3, 3, 16), torch.float16, device)
    torch.library.opcheck(torch.ops.dali_icgan.average_pool_normalize.default, (x,))


def test_backward_raises_rather_than_dropping_the_gradient():
    x = features((2, 3, 3, 16), torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        average_pool_normalize(x).sum().backward()


X = torch.ones(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], r"x must have 4 dimensions, got \[3, 4, 5\]"),
        (X[:, :0], r"x must have at least one pixel and channel, got \[2, 0, 4, 5\]"),
        (X[..., :0], r"x must have at least one pixel and channel, got \[2, 3, 4, 0\]"),
        (X.to(torch.uint8), "x must be float32, float64, float16 or bfloat16, got uint8"),
        (X.transpose(1, 2), "x must have channels side by side and pixels equally far apart"),
        (X.transpose(2, 3), "x must have channels side by side and pixels equally far apart"),
        (X[:, :, 1:], "x must have channels side by side and pixels equally far apart"),
        (torch.ones(65536, 1, 1, 1), "x must hold at most 65535 images, got 65536"),
    ],
)
def test_a_wrong_x_is_named(x, message):
    with pytest.raises(ValueError, match=message):
        average_pool_normalize(x)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(2, 4), r"out must have shape \[2, 5\], got \[2, 4\]"),
        (torch.empty(2, 5, dtype=torch.float64), "out must be float32, got float64"),
        (torch.empty(5, 2).t(), r"out must be contiguous, got strides \[1, 2\]"),
    ],
)
def test_a_wrong_result_is_named(out, message):
    with pytest.raises(ValueError, match=message):
        average_pool_normalize(X, out=out)


def test_float64_is_the_cpus_alone(on_emulated_cuda):
    with on_emulated_cuda(), pytest.raises(ValueError, match="x must be float32, float16 or bfloat16, got float64"):
        average_pool_normalize(X.double())
