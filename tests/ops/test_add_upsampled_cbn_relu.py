import pytest
import torch

from dali_icgan.ops.add_upsampled_cbn_relu import add_upsampled_cbn_relu, add_upsampled_cbn_relu_reference
from tests.ops.channels_last import CPU_DTYPES, DTYPES, Guarded, assert_rounded, padded, random, same_bits, wide

# n, h, w, c: empty, smallest, primes doubled, beside a packet's width, more groups than a block has threads.
SHAPES = [
    (0, 2, 4, 8),
    (1, 0, 4, 8),
    (2, 2, 2, 0),
    (1, 2, 2, 1),
    (2, 6, 10, 7),
    (1, 4, 6, 8),
    (3, 10, 2, 9),
    (2, 8, 14, 24),
    (1, 14, 22, 96),
    (1, 2, 4, 2056),
]
KINDS = ["none", "half", "full"]


def arguments(shape, dtype, kind="half", bias=True, device="cpu"):
    n, h, w, c = shape
    sizes = {"none": None, "half": (n, h // 2, w // 2, c), "full": shape}[kind]
    return {
        "conv": random(shape, dtype, 1, device),
        "shortcut": None if sizes is None else random(sizes, dtype, 2, device),
        "bias": random((c,), wide(dtype), 3, device) if bias else None,
        "scale": random((n, c), wide(dtype), 4, device),
        "shift": random((n, c), wide(dtype), 5, device),
    }


def without_activation(given):
    return {**given, "scale": None, "shift": None}


def check_against_float64(given):
    want_y, want_a = add_upsampled_cbn_relu_reference(**given)
    y, a = add_upsampled_cbn_relu(**given)
    assert y.dtype == a.dtype == given["conv"].dtype
    assert y.shape == a.shape == given["conv"].shape
    if not y.numel():
        return
    largest = float(
        sum(t.abs().max().double() for t in (given["conv"], given["shortcut"], given["bias"]) if t is not None)
    )
    assert_rounded(y, want_y, largest, 2)
    scaled = largest * float(given["scale"].abs().max())
    assert_rounded(a, want_a, scaled + float(given["shift"].abs().max()), 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype, kind, bias):
    check_against_float64(arguments(shape, dtype, kind, bias))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64_on_cuda(shape, dtype, kind):
    check_against_float64(arguments(shape, dtype, kind, device="cuda"))


def test_the_activation_is_of_the_sum_before_rounding():
    conv = torch.full((1, 2, 2, 8), 1.0, dtype=torch.bfloat16)
    bias, scale = torch.full((8,), 2.0**-10), torch.full((1, 8), 1024.0)
    y, a = add_upsampled_cbn_relu(conv, None, bias, scale, torch.full((1, 8), -1024.0))
    assert (y == 1).all()
    assert (a == 1).all()


def test_each_result_may_be_absent(on_emulated_cuda):
    given = arguments((2, 4, 6, 24), torch.float16)
    y, a = add_upsampled_cbn_relu(**given)
    for emulated in (False, True):
        with on_emulated_cuda() if emulated else torch.no_grad():
            only_y = add_upsampled_cbn_relu(**without_activation(given))
            only_a = add_upsampled_cbn_relu(**given, with_sum=False)
        assert same_bits(only_y[0], y)
        assert only_y[1] is None
        assert only_a[0] is None
        assert same_bits(only_a[1], a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(shape, dtype, kind, on_emulated_cuda):
    given = arguments(shape, dtype, kind, bias=kind != "none")
    y, a = add_upsampled_cbn_relu(**given)
    rooms = Guarded(shape, dtype), Guarded(shape, dtype)
    with on_emulated_cuda():
        add_upsampled_cbn_relu(**given, out=(rooms[0].tensor, rooms[1].tensor))
    assert same_bits(rooms[0].tensor, y)
    assert same_bits(rooms[1].tensor, a)
    assert rooms[0].untouched_around()
    assert rooms[1].untouched_around()


# Extra channels and offsets of conv, shortcut, y and a; such as allow packets, and such that do not.
LAYOUTS = [
    ((8, 0), (16, 8), (24, 0), (8, 16)),
    ((3, 0), (0, 0), (0, 0), (0, 0)),
    ((0, 0), (0, 1), (0, 0), (0, 0)),
    ((0, 0), (0, 0), (5, 2), (0, 0)),
    ((0, 0), (0, 0), (0, 0), (1, 0)),
]


@pytest.mark.parametrize("kind", ["half", "full"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits_and_nothing_else_is_written(layout, dtype, kind, on_emulated_cuda):
    given = arguments((2, 6, 10, 24), dtype, kind)
    y, a = add_upsampled_cbn_relu(**given)
    moved = {**given, "conv": padded(given["conv"], *layout[0]), "shortcut": padded(given["shortcut"], *layout[1])}
    for emulated in (False, True):
        rooms = [Guarded(y.shape, dtype, *where) for where in layout[2:]]
        with on_emulated_cuda() if emulated else torch.no_grad():
            got = add_upsampled_cbn_relu(**moved, out=(rooms[0].tensor, rooms[1].tensor))
        assert got[0] is rooms[0].tensor
        assert got[1] is rooms[1].tensor
        assert same_bits(rooms[0].tensor, y)
        assert same_bits(rooms[1].tensor, a)
        assert all(room.untouched_around() for room in rooms)


@pytest.mark.parametrize("first", [(0, 32), (3, 32), (0, 33)])
def test_scale_and_shift_may_be_columns_of_a_table_or_one_row(first, on_emulated_cuda):
    given = arguments((3, 4, 6, 24), torch.float16)
    table = torch.full((3, 72), float("nan"))
    places = dict(zip(("scale", "shift"), first, strict=True))
    columns = {name: table[:, i : i + 24].copy_(given[name]) for name, i in places.items()}
    rows = {name: given[name][:1].expand(3, 24) for name in columns}
    whole = {name: row.contiguous() for name, row in rows.items()}
    for emulated in (False, True):
        with on_emulated_cuda() if emulated else torch.no_grad():
            assert same_bits(add_upsampled_cbn_relu(**{**given, **columns})[1], add_upsampled_cbn_relu(**given)[1])
            assert same_bits(
                add_upsampled_cbn_relu(**{**given, **rows})[1], add_upsampled_cbn_relu(**{**given, **whole})[1]
            )


def test_a_bias_that_forbids_packets(on_emulated_cuda):
    given = arguments((1, 4, 6, 24), torch.float16)
    moved = {**given, "bias": torch.zeros(25)[1:].copy_(given["bias"])}
    with on_emulated_cuda():
        assert same_bits(add_upsampled_cbn_relu(**moved)[0], add_upsampled_cbn_relu(**given)[0])


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    given = arguments((3, 38, 42, 19), dtype)
    torch.set_num_threads(1)
    y, a = add_upsampled_cbn_relu(**given)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        got = add_upsampled_cbn_relu(**given)
        assert same_bits(got[0], y)
        assert same_bits(got[1], a)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(value, on_emulated_cuda):
    given = arguments((1, 4, 4, 8), torch.float16)
    given["shortcut"][0, 1, 1] = value
    want_y, want_a = add_upsampled_cbn_relu_reference(**given)
    y, a = add_upsampled_cbn_relu(**given)
    torch.testing.assert_close(y[0, 2:, 2:].double(), want_y[0, 2:, 2:], equal_nan=True)
    torch.testing.assert_close(a[0, 2:, 2:].double(), want_a[0, 2:, 2:], equal_nan=True)
    with on_emulated_cuda():
        again = add_upsampled_cbn_relu(**given)
    assert same_bits(again[0], y)
    assert same_bits(again[1], a)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_and_cuda_agree_bit_for_bit(shape, dtype, kind):
    given = arguments(shape, dtype, kind)
    moved = {name: None if t is None else t.cuda() for name, t in given.items()}
    for here, there in zip(add_upsampled_cbn_relu(**given), add_upsampled_cbn_relu(**moved), strict=True):
        assert same_bits(there.cpu(), here)


@pytest.mark.parametrize("with_sum", [True, False])
def test_is_a_torch_operator(with_sum, device):
    given = arguments((1, 2, 2, 8), torch.float16, device=device)
    operator = torch.ops.dali_icgan.add_upsampled_cbn_relu.default
    torch.library.opcheck(operator, (*given.values(), with_sum))
    torch.library.opcheck(operator, (*without_activation(given).values(), True))


def test_backward_raises_rather_than_dropping_the_gradient():
    given = arguments((1, 2, 2, 8), torch.float32)
    given["conv"].requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        add_upsampled_cbn_relu(**given)[0].sum().backward()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conv": torch.ones(4, 6, 3)}, r"conv must have 4 dimensions, got \[4, 6, 3\]"),
        ({"conv": torch.ones(2, 3, 6, 3)}, r"conv must have an even height and width, got \[2, 3, 6, 3\]"),
        ({"conv": torch.ones(2, 4, 5, 3)}, r"conv must have an even height and width, got \[2, 4, 5, 3\]"),
        ({"conv": torch.ones(65536, 2, 2, 1)}, "conv must hold at most 65535 images, got 65536"),
        (
            {"conv": torch.ones(2, 6, 4, 3).transpose(1, 2)},
            "conv must have channels side by side and pixels equally far",
        ),
        ({"shortcut": torch.ones(2, 2, 2, 3)}, r"shortcut must have shape \[2, 2, 3, 3\], got \[2, 2, 2, 3\]"),
        ({"shortcut": torch.ones(2, 2, 3, 3).half()}, "shortcut must be float32, got float16"),
        ({"bias": torch.ones(4)}, r"bias must have shape \[3\], got \[4\]"),
        ({"bias": torch.ones(3).double()}, "bias must be float32, got float64"),
        ({"bias": torch.ones(6)[::2]}, r"bias must be contiguous, got strides \[2\]"),
        ({"scale": None}, "scale must be given where a is, got None"),
        ({"shift": None}, "shift must be given where a is, got None"),
        ({"scale": torch.ones(2, 2)}, r"scale must have shape \[2, 3\], got \[2, 2\]"),
        ({"shift": torch.ones(3, 2).t()}, r"shift must have each row contiguous, got strides \[1, 2\]"),
    ],
)
def test_a_wrong_argument_is_named(changed, message):
    given = arguments((2, 4, 6, 3), torch.float32)
    with pytest.raises(ValueError, match=message):
        add_upsampled_cbn_relu(**{**given, **changed})


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ((None, None), "y must be given where a is not, got None"),
        ((torch.empty(2, 4, 6, 3), None), "scale must be None where a is, got a tensor"),
        ((torch.empty(2, 4, 6, 4), torch.empty(2, 4, 6, 3)), r"y must have shape \[2, 4, 6, 3\], got \[2, 4, 6, 4\]"),
        ((torch.empty(2, 4, 6, 3), torch.empty(2, 4, 6, 3).half()), "a must be float32, got float16"),
        (
            (None, torch.empty(2, 6, 4, 3).transpose(1, 2)),
            "a must have channels side by side and pixels equally far apart",
        ),
    ],
)
def test_a_wrong_result_is_named(out, message):
    with pytest.raises(ValueError, match=message):
        add_upsampled_cbn_relu(**arguments((2, 4, 6, 3), torch.float32), out=out)


def test_one_of_scale_and_shift_without_its_result_is_named():
    given = {**arguments((2, 4, 6, 3), torch.float32), "scale": None}
    with pytest.raises(ValueError, match="shift must be None where a is, got a tensor"):
        add_upsampled_cbn_relu(**given, out=(torch.empty(2, 4, 6, 3), None))


def test_nothing_asked_for_is_an_error():
    with pytest.raises(ValueError, match="y must be given where a is not"):
        add_upsampled_cbn_relu(torch.ones(1, 2, 2, 8), with_sum=False)


def test_float64_is_the_cpus_alone(on_emulated_cuda):
    with on_emulated_cuda(), pytest.raises(ValueError, match="conv must be float32, float16 or bfloat16, got float64"):
        add_upsampled_cbn_relu(**arguments((1, 2, 2, 8), torch.float64))
