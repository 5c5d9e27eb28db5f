import pytest
import torch

from dali_icgan.ops.bias_add_relu import bias_add_relu, bias_add_relu_reference
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
    (2, 7, 7, 64),
    (1, 11, 13, 24),
    (1, 1, 3, 2056),
]


def arguments(shape, dtype, with_residual=True, device="cpu"):
    residual = random(shape, dtype, 3, device) if with_residual else None
    return {
        "x": random(shape, dtype, 1, device),
        "bias": random(shape[3:], wide(dtype), 2, device),
        "residual": residual,
    }


def check_against_float64(given, relu):
    want = bias_add_relu_reference(**given, relu=relu)
    got = bias_add_relu(**given, relu=relu)
    assert got.dtype == given["x"].dtype
    assert got.shape == want.shape
    if got.numel():
        largest = sum(float(t.abs().max()) for t in given.values() if t is not None)
        assert_rounded(got, want, largest, 2)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype, with_residual, relu):
    check_against_float64(arguments(shape, dtype, with_residual), relu)


@pytest.mark.gpu
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64_on_cuda(shape, dtype, with_residual, relu):
    check_against_float64(arguments(shape, dtype, with_residual, "cuda"), relu)


def test_the_relu_is_there_unless_it_is_declined():
    x = torch.full((1, 1, 1, 8), -2.0)
    assert (bias_add_relu(x, torch.ones(8)) == 0).all()
    assert (bias_add_relu(x, torch.ones(8), relu=False) == -1).all()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, dtype, with_residual, relu, on_emulated_cuda):
    given = arguments(shape, dtype, with_residual)
    room = Guarded(shape, dtype)
    with on_emulated_cuda():
        bias_add_relu(**given, relu=relu, out=room.tensor)
    assert same_bits(room.tensor, bias_add_relu(**given, relu=relu))
    assert room.untouched_around()


# Extra channels and offsets of x, residual and out; such as allow packets, and such that do not.
LAYOUTS = [
    ((8, 0), (16, 8), (24, 0)),
    ((3, 0), (0, 0), (0, 0)),
    ((0, 0), (0, 1), (0, 0)),
    ((0, 0), (0, 0), (5, 2)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits_and_nothing_else_is_written(layout, dtype, on_emulated_cuda):
    given = arguments((2, 5, 7, 24), dtype)
    want = bias_add_relu(**given)
    moved = {**given, "x": padded(given["x"], *layout[0]), "residual": padded(given["residual"], *layout[1])}
    for emulated in (False, True):
        room = Guarded(want.shape, dtype, *layout[2])
        with on_emulated_cuda() if emulated else torch.no_grad():
            assert bias_add_relu(**moved, out=room.tensor) is room.tensor
        assert same_bits(room.tensor, want)
        assert room.untouched_around()


def test_a_bias_that_forbids_packets(on_emulated_cuda):
    given = arguments((1, 2, 3, 24), torch.float16)
    moved = {**given, "bias": torch.zeros(25)[1:].copy_(given["bias"])}
    with on_emulated_cuda():
        assert same_bits(bias_add_relu(**moved), bias_add_relu(**given))


@pytest.mark.parametrize("name", ["x", "residual"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [24, 7])
def test_may_write_in_place(c, dtype, name, on_emulated_cuda):
    want = bias_add_relu(**arguments((2, 11, 13, c), dtype))
    for emulated in (False, True):
        given = arguments((2, 11, 13, c), dtype)
        with on_emulated_cuda() if emulated else torch.no_grad():
            bias_add_relu(**given, out=given[name])
        assert same_bits(given[name], want)


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    given = arguments((3, 57, 41, 19), dtype)
    torch.set_num_threads(1)
    want = bias_add_relu(**given)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert same_bits(bias_add_relu(**given), want)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(value, relu, on_emulated_cuda):
    given = arguments((1, 2, 2, 8), torch.float16)
    given["x"][0, 1, 1, :4] = value
    got = bias_add_relu(**given, relu=relu)
    want = bias_add_relu_reference(**given, relu=relu).half()
    assert torch.equal(got[0, 1, 1, :4].nan_to_num(7), want[0, 1, 1, :4].nan_to_num(7))
    with on_emulated_cuda():
        assert same_bits(bias_add_relu(**given, relu=relu), got)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_and_cuda_agree_bit_for_bit(shape, dtype):
    given = arguments(shape, dtype)
    moved = {name: t.cuda() for name, t in given.items()}
    assert same_bits(bias_add_relu(**moved).cpu(), bias_add_relu(**given))


@pytest.mark.parametrize("with_residual", [True, False])
def test_is_a_torch_operator(with_residual, device):
    given = arguments((1, 2, 2, 8), torch.float16, with_residual, device)
    torch.library.opcheck(torch.ops.dali_icgan.bias_add_relu.default, (*given.values(), True))


def test_backward_raises_rather_than_dropping_the_gradient():
    given = arguments((1, 2, 2, 8), torch.float32)
    given["x"].requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        bias_add_relu(**given).sum().backward()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(4, 6, 3)}, r"x must have 4 dimensions, got \[4, 6, 3\]"),
        ({"x": torch.ones(65536, 1, 1, 3)}, "x must hold at most 65535 images, got 65536"),
        (
            {"x": torch.ones(2, 6, 4, 3).transpose(1, 2)},
            "x must have channels side by side and pixels equally far apart",
        ),
        ({"x": torch.ones(2, 3, 4, 6).permute(0, 2, 3, 1)}, "x must have channels side by side and pixels equally far"),
        ({"bias": torch.ones(4)}, r"bias must have shape \[3\], got \[4\]"),
        ({"bias": torch.ones(3).half()}, "bias must be float32, got float16"),
        ({"bias": torch.ones(6)[::2]}, r"bias must be contiguous, got strides \[2\]"),
        ({"residual": torch.ones(2, 4, 6, 4)}, r"residual must have shape \[2, 4, 6, 3\], got \[2, 4, 6, 4\]"),
        ({"residual": torch.ones(2, 4, 6, 3).half()}, "residual must be float32, got float16"),
        (
            {"residual": torch.ones(1, 4, 6, 3).expand(2, 4, 6, 3)},
            "residual must have channels side by side and pixels",
        ),
        ({"out": torch.ones(2, 4, 6, 4)}, r"out must have shape \[2, 4, 6, 3\], got \[2, 4, 6, 4\]"),
        ({"out": torch.ones(2, 4, 6, 3).half()}, "out must be float32, got float16"),
        ({"out": torch.ones(2, 6, 4, 3).transpose(1, 2)}, "out must have channels side by side and pixels equally far"),
    ],
)
def test_a_wrong_argument_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        bias_add_relu(**{**arguments((2, 4, 6, 3), torch.float32), **changed})


def test_an_x_of_integers_is_named():
    with pytest.raises(ValueError, match="x must be float32, float64, float16 or bfloat16, got uint8"):
        bias_add_relu(torch.ones(1, 2, 2, 3, dtype=torch.uint8), torch.ones(3))


def test_float64_is_the_cpus_alone(on_emulated_cuda):
    with on_emulated_cuda(), pytest.raises(ValueError, match="x must be float32, float16 or bfloat16, got float64"):
        bias_add_relu(**arguments((1, 2, 2, 8), torch.float64))
