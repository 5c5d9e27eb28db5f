import pytest
import torch

from dali_icgan.ops.tail import tail, tail_reference
from tests.ops.channels_last import CPU_DTYPES, DTYPES, ROUNDING, SMALLEST, Guarded, padded, random, same_bits, wide

# n, h, w, c: empty, smallest, primes, beside a packet's width, a block's width of pixels, a chunk of channels, a tile.
SHAPES = [
    (0, 2, 3, 8),
    (1, 0, 3, 8),
    (2, 3, 2, 0),
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 2, 33, 8),
    (1, 33, 2, 9),
    (1, 7, 31, 16),
    (2, 5, 32, 17),
    (1, 34, 37, 24),
    (1, 5, 3, 96),
]
EVEN = [(2, 2, 2, 1), (2, 6, 10, 7), (1, 4, 34, 24), (1, 36, 6, 40)]


def arguments(shape, dtype, with_shortcut=False, device="cpu"):
    n, h, w, c = shape
    steering = wide(dtype)
    given = {
        "conv": random(shape, dtype, 1, device),
        "scale": random((c,), steering, 2, device),
        "shift": random((c,), steering, 3, device),
        "weight": random((3, c, 3, 3), steering, 4, device) / max(1, 9 * c) ** 0.5,
        "out_bias": random((3,), steering, 5, device),
    }
    if with_shortcut:
        given["shortcut"] = random((n, h // 2, w // 2, c), dtype, 6, device)
        given["bias"] = random((c,), steering, 7, device)
    return given


def check_against_float64(given, dtype=None):
    want = tail_reference(**given)
    got = tail(**given, dtype=dtype)
    assert got.dtype == (dtype or given["conv"].dtype)
    assert got.shape == want.shape
    assert got.is_contiguous()
    if not got.numel():
        return
    # Roundings of a sum of 27 c terms, which grow like a random walk, and of what the terms are made of.
    c = given["conv"].shape[3]
    parts = sum(float(given[name].abs().max()) for name in ("conv", "shortcut", "bias") if c and name in given)
    activation = parts * float(given["scale"].abs().max()) + float(given["shift"].abs().max()) if c else 0.0
    largest = activation * float(given["weight"].abs().sum((1, 2, 3)).max()) + float(given["out_bias"].abs().max())
    rounding = ROUNDING[wide(given["conv"].dtype)]
    error = rounding * (4 + (27 * c) ** 0.5 / 8) * largest + 3 * rounding
    allowed = error + ROUNDING[got.dtype] * (want.abs() + error) + SMALLEST[got.dtype]
    assert ((got.double() - want).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype):
    check_against_float64(arguments(shape, dtype))


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("shape", EVEN)
def test_adds_an_upsampled_shortcut(shape, dtype):
    given = arguments(shape, dtype, with_shortcut=True)
    check_against_float64(given)
    for absent in ("shortcut", "bias"):
        check_against_float64({name: t for name, t in given.items() if name != absent})


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_result_type(dtype, to, on_emulated_cuda):
    given = arguments((1, 4, 6, 24), dtype, with_shortcut=True)
    check_against_float64(given, to)
    with on_emulated_cuda():
        got = tail(**given, dtype=to)
    assert same_bits(got, tail(**given, dtype=to))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64_on_cuda(shape, dtype):
    check_against_float64(arguments(shape, dtype, device="cuda"))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-7), (torch.float64, 5e-16)])  # seen: 9e-8, 2.3e-16
def test_tanh_is_accurate_everywhere(dtype, bound, on_emulated_cuda):
    def through(x):
        """tanh x and tanh -x: an image a pixel."""
        one, nothing = torch.ones(1, dtype=dtype), torch.zeros(3, dtype=dtype)
        weight = torch.zeros(3, 1, 3, 3, dtype=dtype)
        weight[:, 0, 1, 1] = torch.tensor([1, -1, 1])
        return tail(x[:, None, None, None], one, nothing[:1], weight, nothing)[:, 0, 0, :2].unbind(1)

    edges = [0.0, 1e-45, 1e-30, 9.0, 10.0, 20.0, 100.0, 3e38, float("inf"), 0.34657359027997264, 1.0397207708399179]
    x = torch.cat([torch.tensor(edges, dtype=dtype), torch.linspace(0, 12, 40001, dtype=dtype)])
    positive, negative = through(x)
    assert (positive.double() - torch.tanh(x.double())).abs().max() < bound
    assert torch.equal(negative, -positive)
    assert positive.max() == 1
    if dtype == torch.float32:
        some = torch.cat([x[: len(edges)], x[len(edges) :: 397]])
        with on_emulated_cuda():
            got = through(some)[0]
        assert same_bits(got, through(some)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, dtype, on_emulated_cuda):
    given = arguments(shape, dtype)
    want = tail(**given)
    room = Guarded(want.shape, dtype)
    with on_emulated_cuda():
        tail(**given, out=room.tensor)
    assert same_bits(room.tensor, want)
    assert room.untouched_around()


# Extra channels and offsets of conv and shortcut, and the result's offset; such as allow packets, and such that do not.
LAYOUTS = [((8, 0), (16, 8), 0), ((3, 0), (0, 0), 1), ((0, 0), (0, 1), 0), ((0, 2), (0, 0), 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", EVEN)
def test_any_layout_gives_the_same_bits_and_nothing_else_is_written(shape, layout, dtype, on_emulated_cuda):
    given = arguments(shape, dtype, with_shortcut=True)
    want = tail(**given)
    moved = {**given, "conv": padded(given["conv"], *layout[0]), "shortcut": padded(given["shortcut"], *layout[1])}
    for emulated in (False, True):
        room = Guarded(want.shape, dtype, offset=layout[2])
        with on_emulated_cuda() if emulated else torch.no_grad():
            assert tail(**moved, out=room.tensor) is room.tensor
        assert same_bits(room.tensor, want)
        assert room.untouched_around()


@pytest.mark.parametrize("name", ["scale", "shift", "bias"])
def test_a_vector_that_forbids_packets(name, on_emulated_cuda):
    given = arguments((1, 4, 6, 24), torch.float16, with_shortcut=True)
    moved = {**given, name: torch.zeros(25)[1:].copy_(given[name])}
    want = tail(**given)
    with on_emulated_cuda():
        assert same_bits(tail(**moved), want)


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    given = arguments((3, 38, 42, 19), dtype, with_shortcut=True)
    torch.set_num_threads(1)
    want = tail(**given)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert same_bits(tail(**given), want)


def test_a_row_does_not_depend_on_its_batch():
    given = arguments((5, 18, 10, 9), torch.float32)
    whole = tail(**given)
    for i in range(5):
        assert same_bits(tail(**{**given, "conv": given["conv"][i : i + 1]}), whole[i : i + 1])


def test_nan_reaches_what_it_touches_and_nothing_else(on_emulated_cuda):
    given = arguments((1, 8, 40, 8), torch.float32)
    clean = tail(**given)
    given["conv"][0, 3, 31, 5] = float("nan")
    got = tail(**given)
    touched = torch.zeros(8, 40, dtype=torch.bool)
    touched[2:5, 30:33] = True
    assert got[0, touched].isnan().all()
    assert same_bits(got[0, ~touched], clean[0, ~touched])
    with on_emulated_cuda():
        assert same_bits(tail(**given), got)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", EVEN)
def test_cpu_and_cuda_agree_bit_for_bit(shape, dtype):
    given = arguments(shape, dtype, with_shortcut=True)
    assert same_bits(tail(**{name: t.cuda() for name, t in given.items()}).cpu(), tail(**given))


@pytest.mark.parametrize("with_shortcut", [True, False])
def test_is_a_torch_operator(with_shortcut, device):
    given = {"shortcut": None, "bias": None, **arguments((1, 2, 2, 8), torch.float16, with_shortcut, device)}
    order = ("conv", "scale", "shift", "weight", "out_bias", "shortcut", "bias")
    operator = torch.ops.dali_icgan.tail.default
    torch.library.opcheck(operator, (*(given[name] for name in order), torch.bfloat16))


def test_backward_raises_rather_than_dropping_the_gradient():
    given = arguments((1, 2, 2, 8), torch.float32)
    given["conv"].requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        tail(**given).sum().backward()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conv": torch.ones(4, 6, 3)}, r"conv must have 4 dimensions, got \[4, 6, 3\]"),
        ({"conv": torch.ones(65536, 2, 2, 3)}, "conv must hold at most 65535 images, got 65536"),
        (
            {"conv": torch.ones(2, 6, 4, 3).transpose(1, 2)},
            "conv must have channels side by side and pixels equally far",
        ),
        ({"conv": torch.ones(2, 5, 6, 3)}, r"conv must have an even height and width where there is a shortcut, got"),
        ({"conv": torch.ones(2, 4, 7, 3)}, r"conv must have an even height and width where there is a shortcut, got"),
        ({"shortcut": torch.ones(2, 4, 6, 3)}, r"shortcut must have shape \[2, 2, 3, 3\], got \[2, 4, 6, 3\]"),
        ({"shortcut": torch.ones(2, 2, 3, 3).half()}, "shortcut must be float32, got float16"),
        ({"bias": torch.ones(4)}, r"bias must have shape \[3\], got \[4\]"),
        ({"scale": torch.ones(2, 3)}, r"scale must have shape \[3\], got \[2, 3\]"),
        ({"shift": torch.ones(3).half()}, "shift must be float32, got float16"),
        ({"scale": torch.ones(6)[::2]}, r"scale must be contiguous, got strides \[2\]"),
        ({"weight": torch.ones(3, 4, 3, 3)}, r"weight must have shape \[3, 3, 3, 3\], got \[3, 4, 3, 3\]"),
        ({"weight": torch.ones(3, 3, 3, 3).half()}, "weight must be float32, got float16"),
        (
            {"weight": torch.ones(3, 3, 3, 3).contiguous(memory_format=torch.channels_last)},
            "weight must be contiguous, got strides",
        ),
        ({"out_bias": torch.ones(4)}, r"out_bias must have shape \[3\], got \[4\]"),
        ({"dtype": torch.float64}, "out must be float32, float16 or bfloat16, got float64"),
        ({"out": torch.empty(2, 4, 6, 4)}, r"out must have shape \[2, 4, 6, 3\], got \[2, 4, 6, 4\]"),
        ({"out": torch.empty(2, 3, 4, 6).permute(0, 2, 3, 1)}, "out must be contiguous, got strides"),
    ],
)
def test_a_wrong_argument_is_named(changed, message):
    given = arguments((2, 4, 6, 3), torch.float32, with_shortcut=True)
    with pytest.raises(ValueError, match=message):
        tail(**{**given, **changed})


def test_a_conv_of_integers_is_named():
    given = arguments((2, 4, 6, 3), torch.float32)
    with pytest.raises(ValueError, match="conv must be float32, float64, float16 or bfloat16, got int32"):
        tail(**{**given, "conv": torch.ones(2, 4, 6, 3, dtype=torch.int32)})


def test_float64_stays_float64_and_is_the_cpus_alone(on_emulated_cuda):
    given = arguments((2, 4, 6, 3), torch.float64)
    with pytest.raises(ValueError, match="out must be float64, got float32"):
        tail(**given, dtype=torch.float32)
    with on_emulated_cuda(), pytest.raises(ValueError, match="conv must be float32, float16 or bfloat16, got float64"):
        tail(**given)


def test_a_meta_tensor_is_refused():
    c = 8
    parts = torch.zeros(1, 4, 4, c), torch.ones(c), torch.ones(c), torch.zeros(3, c, 3, 3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"out must be on a CPU or a CUDA device, got meta"):
        tail(*parts, out=torch.empty(1, 4, 4, 3, device="meta"))
