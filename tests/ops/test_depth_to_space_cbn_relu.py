import pytest
import torch

from dali_icgan.ops.depth_to_space_cbn_relu import depth_to_space_cbn_relu, depth_to_space_cbn_relu_reference
from tests.ops.channels_last import CPU_DTYPES, DTYPES, Guarded, assert_rounded, padded, random, same_bits, wide

# n, h, w, c: empty, 1, prime, beside a packet's width, more groups than a block has threads.
SHAPES = [
    (0, 2, 3, 8),
    (1, 0, 3, 8),
    (2, 3, 2, 0),
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 2, 3, 8),
    (3, 5, 1, 9),
    (2, 4, 7, 24),
    (1, 7, 11, 96),
    (1, 1, 2, 2056),
]


def arguments(shape, dtype, device="cpu"):
    n, h, w, c = shape
    z = random((n, h + 1, w + 1, 4 * c), dtype, 1, device)
    scale, shift = (random((n, c), wide(dtype), seed, device) for seed in (2, 3))
    return z, scale, shift


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype):
    check_against_float64(*arguments(shape, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64_on_cuda(shape, dtype):
    check_against_float64(*arguments(shape, dtype, "cuda"))


def check_against_float64(z, scale, shift):
    want = depth_to_space_cbn_relu_reference(z, scale, shift)
    got = depth_to_space_cbn_relu(z, scale, shift)
    assert got.dtype == z.dtype
    assert got.shape == want.shape
    largest = (z.double().abs().max() * scale.abs().max() + shift.abs().max()) if got.numel() else 0.0
    assert_rounded(got, want, largest, 2)


def test_is_an_upsampled_convolution():
    n, h, w, c, inputs = 2, 3, 5, 4, 6
    x, weight = random((n, inputs, h, w), torch.float64, 1), random((c, inputs, 3, 3), torch.float64, 2)
    scale, shift = random((n, c), torch.float64, 3), random((n, c), torch.float64, 4)
    doubled = torch.nn.functional.interpolate(x, scale_factor=2.0)
    want = torch.nn.functional.conv2d(doubled, weight, padding=1)
    want = torch.relu(want * scale[:, :, None, None] + shift[:, :, None, None])
    # Phase 0 sees taps {0}, {1, 2} of the pixel before and its own; phase 1 {0, 1}, {2} of its own and the one after.
    fold = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float64)
    phases = torch.einsum("pak,qbl,oikl->pqoiab", fold, fold, weight).flatten(0, 2)
    z = torch.nn.functional.conv2d(x, phases, padding=1)
    got = depth_to_space_cbn_relu(z.permute(0, 2, 3, 1).contiguous(), scale, shift)
    torch.testing.assert_close(got.permute(0, 3, 1, 2), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, dtype, on_emulated_cuda):
    z, scale, shift = arguments(shape, dtype)
    want = depth_to_space_cbn_relu(z, scale, shift)
    room = Guarded(want.shape, dtype)
    with on_emulated_cuda():
        depth_to_space_cbn_relu(z, scale, shift, out=room.tensor)
    assert same_bits(room.tensor, want)
    assert room.untouched_around()


# Extra channels and offsets that allow packets, and such that do not.
LAYOUTS = [(8, 0, 8, 0), (3, 0, 0, 0), (0, 1, 0, 0), (0, 0, 5, 0), (0, 0, 0, 2), (16, 8, 24, 8)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits_and_nothing_else_is_written(layout, dtype, on_emulated_cuda):
    z, scale, shift = arguments((2, 3, 5, 24), dtype)
    want = depth_to_space_cbn_relu(z, scale, shift)
    z_extra, z_offset, out_extra, out_offset = layout
    moved = padded(z, z_extra, z_offset)
    for emulated in (False, True):
        room = Guarded(want.shape, dtype, out_extra, out_offset)
        if emulated:
            with on_emulated_cuda():
                depth_to_space_cbn_relu(moved, scale, shift, out=room.tensor)
        else:
            assert depth_to_space_cbn_relu(moved, scale, shift, out=room.tensor) is room.tensor
        assert same_bits(room.tensor, want)
        assert room.untouched_around()


@pytest.mark.parametrize("first", [(0, 32), (8, 40), (3, 32), (0, 33)])
def test_scale_and_shift_may_be_columns_of_a_table(first, on_emulated_cuda):
    z, scale, shift = arguments((3, 2, 3, 24), torch.float16)
    table = torch.full((3, 72), float("nan"))
    columns = [table[:, i : i + 24].copy_(rows) for i, rows in zip(first, (scale, shift), strict=True)]
    want = depth_to_space_cbn_relu(z, scale, shift)
    assert same_bits(depth_to_space_cbn_relu(z, *columns), want)
    with on_emulated_cuda():
        assert same_bits(depth_to_space_cbn_relu(z, *columns), want)


def test_one_row_serves_all_images(on_emulated_cuda):
    z, scale, shift = arguments((3, 2, 3, 8), torch.float32)
    rows = scale[:1].expand(3, 8), shift[:1].expand(3, 8)
    want = depth_to_space_cbn_relu(z, rows[0].contiguous(), rows[1].contiguous())
    assert same_bits(depth_to_space_cbn_relu(z, *rows), want)
    with on_emulated_cuda():
        assert same_bits(depth_to_space_cbn_relu(z, *rows), want)


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    tensors = arguments((3, 37, 41, 19), dtype)
    torch.set_num_threads(1)
    want = depth_to_space_cbn_relu(*tensors)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert same_bits(depth_to_space_cbn_relu(*tensors), want)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(value, on_emulated_cuda):
    z, scale, shift = arguments((1, 2, 2, 8), torch.float16)
    z[0, 1, 1, :8] = value  # of phase (0, 0), the pixel (2, 2)
    want = depth_to_space_cbn_relu_reference(z, scale, shift)
    got = depth_to_space_cbn_relu(z, scale, shift)
    torch.testing.assert_close(got[0, 2, 2].double(), want[0, 2, 2], equal_nan=True)
    with on_emulated_cuda():
        assert same_bits(depth_to_space_cbn_relu(z, scale, shift), got)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_and_cuda_agree_bit_for_bit(shape, dtype):
    tensors = arguments(shape, dtype)
    assert same_bits(depth_to_space_cbn_relu(*(t.cuda() for t in tensors)).cpu(), depth_to_space_cbn_relu(*tensors))


def test_is_a_torch_operator(device):
    torch.library.opcheck(
        torch.ops.dali_icgan.depth_to_space_cbn_relu.default, arguments((1, 2, 2, 8), torch.float16, device)
    )


def test_backward_raises_rather_than_dropping_the_gradient():
    z, scale, shift = arguments((1, 2, 2, 8), torch.float32)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        depth_to_space_cbn_relu(z.requires_grad_(), scale, shift).sum().backward()


Z, ROWS = torch.ones(2, 3, 4, 8), torch.ones(2, 2)


@pytest.mark.parametrize(
    ("z", "scale", "shift", "message"),
    [
        (Z[0], ROWS, ROWS, r"z must be \[n, h \+ 1, w \+ 1, 4 c\], got \[3, 4, 8\]"),
        (Z[:, :0], ROWS, ROWS, r"z must be \[n, h \+ 1, w \+ 1, 4 c\], got \[2, 0, 4, 8\]"),
        (Z[..., :6].contiguous(), ROWS, ROWS, r"z must have 4 times as many channels as out, got \[2, 3, 4, 6\]"),
        (torch.ones(65536, 1, 1, 4), ROWS, ROWS, "z must hold at most 65535 images, got 65536"),
        (Z.to(torch.uint8), ROWS, ROWS, "z must be float32, float64, float16 or bfloat16, got uint8"),
        (Z.transpose(1, 2), ROWS, ROWS[:, :1], r"z must have channels side by side and pixels equally far apart"),
        (Z.transpose(1, 3), ROWS, ROWS, r"z must have 4 times|z must have channels side by side"),
        (Z, ROWS[:1], ROWS, r"scale must have shape \[2, 2\], got \[1, 2\]"),
        (Z, ROWS, ROWS[:, :1], r"shift must have shape \[2, 2\], got \[2, 1\]"),
        (Z, ROWS.double(), ROWS, "scale must be float32, got float64"),
        (Z, ROWS, ROWS.half(), "shift must be float32, got float16"),
        (Z.double(), ROWS, ROWS, "scale must be float64, got float32"),
        (Z, ROWS.t(), ROWS, r"scale must have each row contiguous, got strides \[1, 2\]"),
    ],
)
def test_a_wrong_argument_is_named(z, scale, shift, message):
    with pytest.raises(ValueError, match=message):
        depth_to_space_cbn_relu(z, scale, shift)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(2, 4, 6, 3), r"out must have shape \[2, 4, 6, 2\], got \[2, 4, 6, 3\]"),
        (torch.empty(2, 4, 6, 2).half(), "out must be float32, got float16"),
        (torch.empty(2, 6, 4, 2).transpose(1, 2), "out must have channels side by side and pixels equally far apart"),
    ],
)
def test_a_wrong_result_is_named(out, message):
    with pytest.raises(ValueError, match=message):
        depth_to_space_cbn_relu(Z, ROWS, ROWS, out=out)


def test_float64_is_the_cpus_alone(on_emulated_cuda):
    with on_emulated_cuda(), pytest.raises(ValueError, match="z must be float32, float16 or bfloat16, got float64"):
        depth_to_space_cbn_relu(*arguments((1, 2, 2, 8), torch.float64))
