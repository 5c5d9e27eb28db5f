import gc
import itertools
import weakref
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dali_icgan._native import native, ref
from dali_icgan.ops.instructions import instruction_sets
from dali_icgan.ops.winograd import (
    TILES,
    PackedConvolution,
    channel_multiple,
    transforms,
    upsampled_weight,
    winograd_reference,
)

# Side of the kernel, tile, doubled: every form there is.
FORMS = [(r, tile, False) for r, tiles in TILES.items() for tile in tiles] + [(3, tile, True) for tile in TILES[2]]
# Side, tile, doubled, and what else a convolution without a transform can have; tiles at other paddings.
OTHERS = [
    (1, 1, False, {"stride": 2}),
    (1, 1, False, {"stride": 3, "padding": 1}),
    (3, 1, False, {"stride": 2}),
    (3, 1, False, {"unpadded": True}),
    (7, 1, False, {"stride": 2, "unpadded": True}),
    (4, 1, False, {"stride": 3}),
    (5, 1, False, {"padding": 0}),
    (2, 1, False, {"stride": 2, "padding": 0, "unpadded": True}),
    (3, 2, False, {"padding": 0}),
    (3, 4, False, {"padding": 2}),
    (2, 3, False, {"padding": 0}),
]
# Kernels of bfloat16: by its instructions where the processor has them, and those that compute the same without.
BFLOAT16 = [(torch.bfloat16, instructions) for instructions in (*instruction_sets(torch.bfloat16), "generic")]
SETS = [(dtype, instructions) for dtype in (torch.float32, torch.float64) for instructions in instruction_sets()]
SETS += BFLOAT16
# n, height, width, in, out: one of everything, primes, beside the vector widths, several blocks of tiles, depths of several pieces
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 1, 5, 3, 2),
    (3, 7, 2, 17, 33),
    (1, 13, 11, 8, 16),
    (2, 5, 6, 31, 70),
    (1, 4, 4, 300, 5),
    (2, 19, 20, 4, 9),
]
# Relative error in the 2-norm, by type and side of the input tile (1: no transform). The largest seen here are 2.1e-6 and 4.6e-15, of
# bfloat16 3.3e-3, 5.9e-3 and 1.9e-2.
ALLOWED = {
    torch.float32: {1: 1e-6, 4: 1e-6, 6: 4e-6},
    torch.float64: {1: 1e-14, 4: 1e-14, 6: 1e-14},
    torch.bfloat16: {1: 4e-3, 4: 8e-3, 6: 2e-2},
}
GUARD = 64


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(outputs, inputs, r, seed=1):
    return random(outputs, inputs, r, r, seed=seed) / (inputs * r * r) ** 0.5


def wide(dtype):
    """Of scale, shift and bias."""
    return torch.promote_types(dtype, torch.float32)


def padded(x, dtype, channels):
    return F.pad(x, (0, channels - x.shape[-1])).to(dtype).contiguous()


def guarded(shape, dtype):
    """A tensor of NaN with guard bands, and a check that these are whole."""
    count = torch.Size(shape).numel()
    room = torch.full((count + 2 * GUARD,), float("nan"), dtype=dtype)
    room[:GUARD] = room[GUARD + count :] = -7.0

    def check():
        assert (room[:GUARD] == -7).all()
        assert (room[GUARD + count :] == -7).all()

    return room[GUARD : GUARD + count].view(shape), check


def walled(x):
    """The same between infinities, which would show in the result if anything beside x were read and counted."""
    room = torch.full((x.numel() + 2 * GUARD,), float("inf"), dtype=x.dtype)
    return room[GUARD : GUARD + x.numel()].view(x.shape).copy_(x)


def run(convolution, x, *, threads=1, relu=False, **tensors):
    """The convolution of tensors without padded channels, into poisoned memory with guards, its channels' padding cut off."""
    dtype = convolution.dtype
    n, height, width, _ = x.shape
    torch.set_num_threads(threads)
    out, check_out = guarded((n, *convolution.output_size(height, width), convolution.padded_outputs), dtype)
    size = convolution.workspace(n, height, width, threads)
    room = torch.full((size + 2 * GUARD,), 255, dtype=torch.uint8)
    padding = {
        name: convolution.padded_inputs if name in ("scale", "shift") else convolution.padded_outputs
        for name in tensors
    }
    types = {name: wide(dtype) if name in ("scale", "shift", "bias") else dtype for name in tensors}
    given = {name: padded(t, types[name], padding[name]) for name, t in tensors.items()}
    returned = convolution(
        walled(padded(x, dtype, convolution.padded_inputs)), out, room[GUARD : GUARD + size], relu=relu, **given
    )
    assert returned is out
    check_out()
    assert (room[:GUARD] == 255).all()
    assert (room[GUARD + size :] == 255).all()
    assert not out[..., convolution.outputs :].nan_to_num().any()  # zero times what is no number
    return out[..., : convolution.outputs]


def allowed(convolution):
    side = 1 if convolution.tile == 1 else convolution.tile + convolution.r - 1
    return ALLOWED[convolution.dtype][side]


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def surroundings(n, size, inputs, outputs, dtype):
    """scale and shift, bias, residual, and a shortcut where the map can have one; rounded as they will be, so that the reference is
    exact."""
    height, width = size
    tensors = {
        "scale": random(n, inputs, seed=2),
        "shift": random(n, inputs, seed=3),
        "bias": random(outputs, seed=4),
        "residual": random(n, height, width, outputs, seed=5),
    }
    if height % 2 == 0 and width % 2 == 0:
        tensors["shortcut"] = random(n, height // 2, width // 2, outputs, seed=6)
    narrow = "residual", "shortcut"
    return {name: t.to(dtype if name in narrow else wide(dtype)).double() for name, t in tensors.items()}


@pytest.mark.parametrize(("tile", "r"), [(2, 3), (3, 2), (4, 3), (5, 2)])
def test_transforms_convolve_exactly(tile, r):
    at, g, bt = transforms(tile, r)
    d = [Fraction(i * i - 7 * i + 2, 3) for i in range(tile + r - 1)]
    k = [Fraction(5 - 2 * i, 7) for i in range(r)]

    def apply(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [a * b for a, b in zip(apply(g, k), apply(bt, d), strict=True)]
    assert apply(at, products) == [sum(d[i + j] * k[j] for j in range(r)) for i in range(tile)]


def test_upsampled_weight_is_the_convolution_behind_upsampling():
    x, weight = random(2, 3, 4, 5), random(7, 3, 3, 3)
    want = F.conv2d(F.interpolate(x, scale_factor=2.0), weight, padding=1)
    z = F.conv2d(x, upsampled_weight(weight), padding=1).unflatten(1, (2, 2, 7))
    for p, q in itertools.product(range(2), range(2)):
        got = z[:, p, q, :, p : p + 4, q : q + 5]
        torch.testing.assert_close(got, want[:, :, p::2, q::2], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
@pytest.mark.parametrize(("r", "tile", "doubled"), FORMS)
def test_plain_convolution(r, tile, doubled, dtype, instructions):
    for n, height, width, inputs, outputs in SHAPES:
        weight = weights(outputs, inputs, r)
        x = random(n, height, width, inputs).to(dtype)
        convolution = PackedConvolution(weight, tile, dtype, instructions, doubled=doubled)
        want = winograd_reference(x, weight, doubled=doubled)
        assert relative(run(convolution, x), want) < allowed(convolution), (n, height, width, inputs, outputs)


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
@pytest.mark.parametrize(("r", "tile", "doubled"), FORMS)
def test_everything_around_it(r, tile, doubled, dtype, instructions):
    for n, height, width, inputs, outputs in ((2, 6, 4, 19, 21), (3, 3, 5, 40, 3)):
        weight = weights(outputs, inputs, r)
        x = random(n, height, width, inputs).to(dtype)
        convolution = PackedConvolution(weight, tile, dtype, instructions, doubled=doubled)
        around = surroundings(n, convolution.output_size(height, width), inputs, outputs, dtype)
        want = winograd_reference(x, weight, doubled=doubled, relu=True, **around)
        got = run(convolution, x, relu=True, **around)
        assert relative(got, want) < allowed(convolution), (n, height, width, inputs, outputs)
        assert (got == 0).sum() > got.numel() / 4


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
@pytest.mark.parametrize(("r", "tile", "doubled", "options"), OTHERS)
def test_strides_sides_and_paddings(r, tile, doubled, options, dtype, instructions):
    for n, height, width, inputs, outputs in SHAPES:
        if min(height, width) + 2 * options.get("padding", r // 2) < r:
            continue
        weight = weights(outputs, inputs, r)
        x = random(n, height, width, inputs).to(dtype)
        convolution = PackedConvolution(weight, tile, dtype, instructions, **options)
        around = surroundings(n, convolution.output_size(height, width), inputs, outputs, dtype)
        if convolution.unpadded:
            del around["scale"], around["shift"]
        where = {name: value for name, value in options.items() if name != "unpadded"}
        want = winograd_reference(x, weight, **where, **around)
        got = run(convolution, x, **around)
        assert got.shape == want.shape
        assert relative(got, want) < allowed(convolution), (n, height, width, inputs, outputs)


def test_a_map_smaller_than_the_kernel():
    convolution = PackedConvolution(weights(4, 4, 5), 1, instructions="generic", padding=1)
    workspace = torch.empty(convolution.workspace(1, 3, 4), dtype=torch.uint8)
    assert convolution(torch.ones(1, 3, 4, 4), torch.empty(1, 1, 2, 4), workspace).isfinite().all()
    with pytest.raises(ValueError, match=r"x must have a height and width of at least 3, got \[1, 3, 2, 4\]"):
        convolution.bind(torch.ones(1, 3, 2, 4), torch.empty(1, 1, 1, 4), workspace)


def test_unpadded_inputs_take_no_scale():
    convolution = PackedConvolution(weights(4, 3, 3), 1, instructions="generic", unpadded=True)
    workspace = torch.empty(convolution.workspace(1, 3, 3), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"scale must be None for unpadded inputs, got \[1, 3\]"):
        convolution.bind(
            torch.ones(1, 3, 3, 3), torch.empty(1, 3, 3, 4), workspace, scale=torch.ones(1, 3), shift=torch.ones(1, 3)
        )


@pytest.mark.parametrize("names", [("bias",), ("residual",), ("shortcut",), ("scale", "shift"), ()])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("r", "tile", "doubled"), [(3, 4, False), (3, 3, True), (1, 1, False)])
def test_each_surrounding_alone(r, tile, doubled, names, relu):
    weight, x = weights(9, 7, r), random(2, 4, 6, 7).float()
    convolution = PackedConvolution(weight, tile, doubled=doubled)
    every = surroundings(2, convolution.output_size(4, 6), 7, 9, torch.float32)
    around = {name: every[name] for name in names}
    want = winograd_reference(x, weight, doubled=doubled, relu=relu, **around)
    assert relative(run(convolution, x, relu=relu, **around), want) < 1e-6


@pytest.mark.parametrize(
    ("r", "tile", "doubled", "most"),
    [
        (1, 1, False, 6e-7),
        (3, 1, False, 1e-6),
        (3, 2, False, 1e-6),
        (3, 4, False, 3e-6),
        (3, 1, True, 1e-6),
        (3, 3, True, 1e-6),
        (3, 5, True, 3e-6),
    ],
)
@pytest.mark.parametrize("instructions", instruction_sets())
def test_error_at_many_channels(r, tile, doubled, most, instructions):
    weight, x = weights(24, 512, r), random(1, 8, 8, 512).relu().float()
    convolution = PackedConvolution(weight, tile, torch.float32, instructions, doubled=doubled)
    assert relative(run(convolution, x), winograd_reference(x, weight, doubled=doubled)) < most


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
@pytest.mark.parametrize(("r", "tile", "doubled", "options"), [*((*form, {}) for form in FORMS), *OTHERS])
def test_a_sample_has_its_own_bits(r, tile, doubled, options, dtype, instructions):
    """Whatever its place, the batch around it, the threads, and whether what is added lies elsewhere."""
    n, height, width, inputs, outputs = 7, 5, 6, 20, 50
    convolution = PackedConvolution(weights(outputs, inputs, r), tile, dtype, instructions, doubled=doubled, **options)
    x = random(n, height, width, inputs)
    around = surroundings(n, convolution.output_size(height, width), inputs, outputs, dtype)
    if convolution.unpadded:
        del around["scale"], around["shift"]
    of_samples = [name for name in around if name != "bias"]
    want = run(convolution, x, **around)
    for threads in (1, 2, 3):
        assert torch.equal(run(convolution, x, threads=threads, **around), want)
    for i in (0, 3, 6):
        alone = {name: t[i : i + 1] if name in of_samples else t for name, t in around.items()}
        assert torch.equal(run(convolution, x[i : i + 1], threads=2, **alone), want[i : i + 1])
    back = {name: t.flip(0) if name in of_samples else t for name, t in around.items()}
    assert torch.equal(run(convolution, x.flip(0), **back), want.flip(0))


@pytest.mark.skipif("avx512" not in instruction_sets(), reason="this processor has one of the two at most")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("r", "tile", "doubled", "inputs", "options"),
    [*((*form, 304, {}) for form in FORMS), (3, 1, False, 304, {"stride": 2}), (7, 1, False, 3, {"unpadded": True})],
)
def test_avx2_and_avx512_give_the_same_bits(r, tile, doubled, inputs, options, dtype):
    """Where both pad the inputs alike, or neither does: chains of a sum over taps are cut by their padded number."""
    x, weight = random(2, 7, 6, inputs), weights(20, inputs, r)
    one, other = (
        PackedConvolution(weight, tile, dtype, name, doubled=doubled, **options) for name in ("avx2", "avx512")
    )
    around = surroundings(2, one.output_size(7, 6), inputs, 20, dtype)
    if options.get("unpadded"):
        del around["scale"], around["shift"]
    assert torch.equal(run(one, x, **around), run(other, x, **around))


@pytest.mark.parametrize(("dtype", "instructions"), BFLOAT16)
@pytest.mark.parametrize("channels", [64, 1024])
@pytest.mark.parametrize(("r", "tile", "doubled"), FORMS)
def test_bfloat16_at_many_channels(r, tile, doubled, channels, dtype, instructions):
    """Without a transform as exact as rounding weights and result once; tiles as their docstring says."""
    weight, x = weights(24, channels, r), random(1, 8, 8, channels).relu().bfloat16()
    convolution = PackedConvolution(weight, tile, dtype, instructions, doubled=doubled)
    most = {1: 3e-3, 4: 4.5e-3, 6: 1.2e-2}[1 if tile == 1 else tile + convolution.r - 1]
    assert relative(run(convolution, x), winograd_reference(x, weight, doubled=doubled)) < most


@pytest.mark.parametrize(("r", "tile", "doubled"), FORMS)
@pytest.mark.parametrize("instructions", instruction_sets(torch.bfloat16))
def test_the_kernels_of_bfloat16_agree(r, tile, doubled, instructions):
    """Products are exact and sums rounded alike; so without a transform, whose multiply-adds round once or twice, all bits are the same."""
    x, weight = random(2, 7, 6, 304), weights(20, 304, r)
    one, other = (
        PackedConvolution(weight, tile, torch.bfloat16, name, doubled=doubled) for name in (instructions, "generic")
    )
    around = surroundings(2, one.output_size(7, 6), 304, 20, torch.bfloat16)
    del around["scale"], around["shift"]
    got, want = run(one, x, **around), run(other, x, **around)
    if tile == 1:
        assert torch.equal(got, want)
    else:
        # "avx512" does not round the transformed inputs to bfloat16, as "generic" does.
        most = 2e-3 if instructions == "avx512_bf16" else {4: 4.5e-3, 6: 1.2e-2}[tile + one.r - 1]
        assert relative(got, want.double()) < most


@pytest.mark.parametrize(("dtype", "instructions"), BFLOAT16)
def test_the_second_product_of_a_pair_is_added_first(dtype, instructions):
    """And each sum is rounded to float: 2^24 + 1 is none, 1 - 2^24 is."""
    convolution = PackedConvolution(torch.ones(1, 4, 1, 1), 1, dtype, instructions)
    large = 2.0**24
    x = torch.tensor([[1, 0, -large, large], [1, 0, large, -large], [0, 1, -large, large]]).view(1, 1, 3, 4)
    assert run(convolution, x).flatten().tolist() == [0, 1, 0]


def test_results_in_bfloat16_are_rounded_to_nearest_even():
    for _, instructions in BFLOAT16:
        convolution = PackedConvolution(torch.ones(1, 1, 1, 1), 1, torch.bfloat16, instructions)
        x = torch.tensor([1.0, float("inf"), float("-inf"), float("nan"), -0.0, 3e38, 2e-38]).view(1, 1, 7, 1)
        got = run(convolution, x).flatten()
        assert torch.equal(got.nan_to_num(7), x.bfloat16().flatten().nan_to_num(7))
        # Halfway between two numbers: to the even one.
        bias, x = torch.tensor([2.0**-8]), torch.tensor([1.0, 1.0 + 2.0**-7]).view(1, 1, 2, 1)
        assert run(convolution, x, bias=bias).flatten().tolist() == [1.0, 1.0 + 2.0**-6]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_share_outputs_where_tiles_are_few(threads):
    convolution = PackedConvolution(weights(300, 40, 3), 4)
    x = random(1, 4, 4, 40)
    assert torch.equal(run(convolution, x, threads=threads), run(convolution, x))


def test_other_samples_infinities_stay_theirs():
    convolution = PackedConvolution(weights(16, 16, 3), 4)
    x = random(3, 8, 8, 16).float()
    want = run(convolution, x)
    x[1] = float("nan")
    got = run(convolution, x)
    assert torch.equal(got[[0, 2]], want[[0, 2]])
    assert got[1].isnan().all()


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
def test_relu_keeps_nan(dtype, instructions):
    convolution = PackedConvolution(torch.ones(1, 1, 1, 1), 1, dtype, instructions)
    x = torch.tensor([float("nan"), -1.0, 2.0]).view(1, 1, 3, 1)
    ones = torch.ones(1, 1)
    for got in (run(convolution, x, relu=True), run(convolution, x, scale=ones, shift=0 * ones)):
        assert got.flatten().isnan().tolist() == [True, False, False]
        assert got.flatten()[1:].tolist() == [0, 2]


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "instructions"), [(torch.float32, None), *BFLOAT16])
def test_any_address_gives_the_same_bits(offset, dtype, instructions):
    convolution = PackedConvolution(weights(20, 20, 3), 2, dtype, instructions)
    c_in, c_out = convolution.padded_inputs, convolution.padded_outputs

    def moved(x):
        room = torch.empty(x.numel() + offset, dtype=x.dtype)
        return room[offset:].view(x.shape).copy_(x)

    x = padded(random(2, 6, 6, 20), dtype, c_in)
    around = {
        name: padded(t, dtype if t.ndim == 4 else wide(dtype), c_in if name in ("scale", "shift") else c_out)
        for name, t in surroundings(2, (6, 6), 20, 20, dtype).items()
    }
    size = convolution.workspace(2, 6, 6)
    out = torch.empty(2, 6, 6, c_out, dtype=dtype)
    want = convolution(x, out.clone(), torch.empty(size, dtype=torch.uint8), **around)
    room = torch.empty(size + 8 * offset, dtype=torch.uint8)[8 * offset :]
    got = convolution(moved(x), moved(out), room, **{name: moved(t) for name, t in around.items()})
    assert torch.equal(got, want)


def test_rows_of_scale_may_be_any_distance_apart():
    weight, x = weights(16, 16, 3), random(3, 4, 4, 16).float()
    convolution = PackedConvolution(weight, 2, instructions="generic")
    steer = random(3, 48).float()
    one = random(1, 16).float()
    out = torch.empty(3, 4, 4, 16)
    workspace = torch.empty(convolution.workspace(3, 4, 4), dtype=torch.uint8)
    for scale, shift in ((steer[:, :16], steer[:, 16:32]), (one.expand(3, 16), one.expand(3, 16))):
        convolution(x, out, workspace, scale=scale, shift=shift)
        assert relative(out, winograd_reference(x, weight, scale=scale, shift=shift)) < 1e-6


def test_residual_may_be_the_result():
    convolution = PackedConvolution(weights(16, 16, 3), 4, instructions="generic")
    x, out = random(1, 9, 9, 16).float(), random(1, 9, 9, 16, seed=8).float()
    want = run(convolution, x, residual=out.clone())
    workspace = torch.empty(convolution.workspace(1, 9, 9), dtype=torch.uint8)
    assert torch.equal(convolution(x, out, workspace, residual=out), want)


def test_a_bound_call_reads_what_its_tensors_hold_then():
    weight = weights(16, 16, 3)
    convolution = PackedConvolution(weight, 2, instructions="generic")
    x, out = torch.zeros(1, 5, 5, 16), torch.empty(1, 5, 5, 16)
    workspace = torch.empty(convolution.workspace(1, 5, 5), dtype=torch.uint8)
    bound = convolution.bind(x, out, workspace)
    bound()
    assert not out.any()
    x.copy_(random(1, 5, 5, 16))
    bound()
    assert relative(out, winograd_reference(x, weight)) < 1e-6


def test_a_bound_call_keeps_its_tensors():
    convolution = PackedConvolution(weights(16, 16, 3), 2)
    x = random(1, 5, 5, 16).float()
    alive = weakref.ref(convolution)
    workspace = torch.empty(convolution.workspace(1, 5, 5), dtype=torch.uint8)
    bound = convolution.bind(x, torch.empty(1, 5, 5, 16), workspace)
    del convolution
    gc.collect()
    assert alive() is not None
    del bound
    gc.collect()
    assert alive() is None


def test_an_empty_batch():
    convolution = PackedConvolution(weights(16, 16, 3), 2)
    assert run(convolution, random(0, 5, 5, 16), scale=random(0, 16), shift=random(0, 16)).shape == (0, 5, 5, 16)


def test_a_small_workspace_means_fewer_threads():
    convolution = PackedConvolution(weights(64, 16, 3), 2)
    c = convolution.padded_outputs
    x = random(2, 16, 16, 16).float()
    assert convolution.workspace(2, 16, 16, 3) == 3 * convolution.workspace(2, 16, 16)
    want = run(convolution, x)
    torch.set_num_threads(4)
    size = convolution.workspace(2, 16, 16, 2)
    room = torch.full((size + GUARD,), 255, dtype=torch.uint8)
    got = convolution(x, torch.empty(2, 16, 16, c), room[:size])
    assert torch.equal(got, want)
    assert (room[size:] == 255).all()


def test_packing_does_not_depend_on_threads():
    packed = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        packed.append(PackedConvolution(weights(65, 67, 3), 4)._weight)
    assert torch.equal(*packed)


def test_widths():
    assert instruction_sets()[-1] == "generic"
    assert channel_multiple(torch.float32) == channel_multiple(torch.float32, instruction_sets()[0])
    for instructions, width in (("avx512", 16), ("avx2", 8), ("generic", 4)):
        if instructions in instruction_sets():
            assert channel_multiple(torch.float32, instructions) == width
            assert channel_multiple(torch.float64, instructions) == width // 2
    for instructions in instruction_sets(torch.bfloat16):
        assert channel_multiple(torch.bfloat16) == channel_multiple(torch.bfloat16, instructions) == 16
    assert channel_multiple(torch.bfloat16, "generic") == 4
    convolution = PackedConvolution(weights(5, 9, 3), 3, torch.float32, "generic", doubled=True)
    assert (convolution.inputs, convolution.outputs) == (9, 5)
    assert (convolution.padded_inputs, convolution.padded_outputs) == (12, 8)
    assert (convolution.r, convolution.tile, convolution.doubled) == (2, 3, True)
    assert (convolution.dtype, convolution.instructions) == (torch.float32, "generic")
    assert repr(convolution) == "PackedConvolution(9 -> 5, F(3, 2) doubled, torch.float32, generic)"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], 2), {}, TypeError, "weight must be a floating-point tensor, got list"),
        ((torch.ones(1, 1, 3, 3, dtype=torch.int64), 2), {}, TypeError, "weight must be a .*tensor, got torch.int64"),
        ((torch.ones(1, 1, 3), 2), {}, ValueError, r"weight must have shape \[out, in, r, r\], got \[1, 1, 3\]"),
        ((torch.ones(1, 1, 3, 2), 2), {}, ValueError, r"weight must have shape \[out, in, r, r\], got \[1, 1, 3, 2\]"),
        ((torch.ones(1, 0, 3, 3), 2), {}, ValueError, r"weight must have shape \[out, in, r, r\], got \[1, 0, 3, 3\]"),
        ((torch.ones(1, 1, 2, 2), 3), {"doubled": True}, ValueError, r"weight must have shape \[out, in, 3, 3\], got \[1, 1, 2, 2\]"),
        ((torch.ones(1, 1, 3, 3, device="meta"), 2), {}, ValueError, "weight must be on cpu, got meta"),
        ((torch.ones(1, 1, 3, 3), 3), {}, ValueError, "tile must be one of 1, 2, 4 at r = 3, got 3"),
        ((torch.ones(1, 1, 3, 3), 4), {"doubled": True}, ValueError, "tile must be one of 1, 3, 5 at r = 2, got 4"),
        ((torch.ones(1, 1, 1, 1), 2), {}, ValueError, "tile must be one of 1 at r = 1, got 2"),
        ((torch.ones(1, 1, 5, 5), 2), {}, ValueError, "tile must be one of 1 at r = 5, got 2"),
        ((torch.ones(1, 1, 3, 3), 1), {"stride": 0}, ValueError, "stride must be 1 or more, got 0"),
        ((torch.ones(1, 1, 3, 3), 2), {"stride": 2}, ValueError, "stride must be 1, got 2"),
        ((torch.ones(1, 1, 3, 3), 1), {"stride": 2, "doubled": True}, ValueError, "stride must be 1, got 2"),
        ((torch.ones(1, 1, 3, 3), 2), {"padding": -1}, ValueError, "padding must be 0 or more, got -1"),
        ((torch.ones(1, 1, 3, 3), 1), {"padding": 1, "doubled": True}, ValueError, "padding must be None for a doubled map, got 1"),
        ((torch.ones(1, 1, 3, 3), 2), {"unpadded": True}, ValueError, "unpadded must be False where the map is doubled or a tile larger than 1"),
        ((torch.ones(1, 1, 3, 3), 1), {"unpadded": True, "doubled": True}, ValueError, "unpadded must be False where the map is doubled"),
        ((torch.ones(1, 1, 3, 3), 2, torch.float16), {}, ValueError, "dtype must be float32, float64 or bfloat16, got torch.float16"),
        (
            (torch.ones(1, 1, 3, 3), 2, torch.bfloat16, "avx2"),
            {},
            ValueError,
            r"instructions must be one of this processor's \(generic.*\) in bfloat16, got avx2",
        ),
        (
            (torch.ones(1, 1, 3, 3), 2, torch.float32, "mmx"),
            {},
            ValueError,
            r"instructions must be one of this processor's \(generic.*\) in float32, got mmx",
        ),
    ],
)  # fmt: skip
def test_a_wrong_weight_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        PackedConvolution(*arguments, **options)


def test_a_wrong_type_of_channel_multiple_is_named():
    with pytest.raises(ValueError, match=r"dtype must be float32, float64 or bfloat16, got torch.int8"):
        channel_multiple(torch.int8)


def test_bfloat16_needs_its_instructions(monkeypatch):
    processor = SimpleNamespace(
        instruction_sets=lambda: ["avx2", "generic"], processor_multiplies_bfloat16_faster=lambda: False
    )
    monkeypatch.setattr("dali_icgan.ops.instructions.native", lambda: processor)
    assert instruction_sets(torch.float64) == ("avx2", "generic")
    message = "dtype must be float32 or float64 on a processor without avx512, got torch.bfloat16"
    with pytest.raises(ValueError, match=message):
        PackedConvolution(torch.ones(1, 1, 3, 3), 2, torch.bfloat16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(2, 4, 6, 4)}, "x must be bfloat16, got float32"),
        ({"out": torch.ones(2, 4, 6, 8)}, "out must be bfloat16, got float32"),
        ({"scale": torch.ones(2, 4).bfloat16()}, "scale must be float32, got bfloat16"),
        ({"shift": torch.ones(2, 4).bfloat16()}, "shift must be float32, got bfloat16"),
        ({"bias": torch.ones(8).bfloat16()}, "bias must be float32, got bfloat16"),
        ({"shortcut": torch.ones(2, 2, 3, 8)}, "shortcut must be bfloat16, got float32"),
        ({"residual": torch.ones(2, 4, 6, 8)}, "residual must be bfloat16, got float32"),
    ],
)
def test_a_wrong_tensor_beside_bfloat16_is_named(changed, message):
    convolution = PackedConvolution(torch.ones(8, 4, 3, 3), 2, torch.bfloat16, "generic")
    tensors = {
        "x": torch.ones(2, 4, 6, 4).bfloat16(),
        "out": torch.empty(2, 4, 6, 8).bfloat16(),
        "workspace": torch.empty(convolution.workspace(2, 4, 6), dtype=torch.uint8),
        "scale": torch.ones(2, 4),
        "shift": torch.ones(2, 4),
    }
    convolution.bind(**tensors)
    with pytest.raises(ValueError, match=message):
        convolution.bind(**{**tensors, **changed})


def test_memory_shared_with_bfloat16_is_refused():
    convolution = PackedConvolution(torch.ones(4, 4, 3, 3), 2, torch.bfloat16, "generic")
    both = torch.empty(2 * 96 - 1, dtype=torch.bfloat16)  # the last element of out is the first of x
    workspace = torch.empty(convolution.workspace(1, 4, 6), dtype=torch.uint8)
    with pytest.raises(ValueError, match="out must not share memory with x, got an overlap"):
        convolution.bind(both[95:].view(1, 4, 6, 4), both[:96].view(1, 4, 6, 4), workspace)


BYTES = PackedConvolution(torch.ones(8, 4, 3, 3), 2, torch.float32, "generic").workspace(2, 4, 6)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.ones(4, 6, 4)}, ValueError, r"x must have 4 dimensions, got \[4, 6, 4\]"),
        ({"x": torch.ones(2, 0, 6, 4)}, ValueError, r"x must have a height and width of at least 1, got \[2, 0, 6, 4\]"),
        ({"x": torch.ones(2, 4, 6, 3)}, ValueError, r"x must have shape \[2, 4, 6, 4\], got \[2, 4, 6, 3\]"),
        ({"x": torch.ones(2, 4, 6, 4).double()}, ValueError, "x must be float32, got float64"),
        ({"x": torch.ones(2, 4, 4, 6).transpose(2, 3)}, ValueError, "x must be contiguous, got strides"),
        ({"out": torch.ones(2, 4, 6, 4)}, ValueError, r"out must have shape \[2, 4, 6, 8\], got \[2, 4, 6, 4\]"),
        ({"out": torch.ones(2, 4, 6, 8).double()}, ValueError, "out must be float32, got float64"),
        ({"out": torch.ones(2, 6, 4, 8).transpose(1, 2)}, ValueError, "out must be contiguous, got strides"),
        ({"workspace": torch.ones(9)}, ValueError, "workspace must be uint8, got float32"),
        ({"workspace": torch.ones(9, 9, dtype=torch.uint8)}, ValueError, "workspace must have 1 dimensions, got"),
        ({"workspace": torch.ones(2 * BYTES, dtype=torch.uint8)[::2]}, ValueError, "workspace must be contiguous, got"),
        ({"workspace": torch.ones(2 * BYTES, dtype=torch.uint8)[1:]}, ValueError, "workspace must be aligned to 8 bytes, got an offset of 1"),
        ({"workspace": torch.ones(BYTES - 1, dtype=torch.uint8)}, ValueError, f"workspace must have at least {BYTES} bytes, got {BYTES - 1}"),
        ({"scale": torch.ones(2, 4)}, ValueError, "shift must be given with scale, got None"),
        ({"shift": torch.ones(2, 4)}, ValueError, "scale must be given with shift, got None"),
        ({"scale": torch.ones(1, 4), "shift": torch.ones(2, 4)}, ValueError, r"scale must have shape \[2, 4\], got \[1, 4\]"),
        ({"scale": torch.ones(2, 4), "shift": torch.ones(2, 3)}, ValueError, r"shift must have shape \[2, 4\], got \[2, 3\]"),
        ({"scale": torch.ones(2, 4).double(), "shift": torch.ones(2, 4)}, ValueError, "scale must be float32, got float64"),
        ({"scale": torch.ones(4, 2).t(), "shift": torch.ones(2, 4)}, ValueError, r"scale must have contiguous rows, got strides \[1, 2\]"),
        ({"bias": torch.ones(7)}, ValueError, r"bias must have shape \[8\], got \[7\]"),
        ({"bias": torch.ones(16)[::2]}, ValueError, r"bias must be contiguous, got strides \[2\]"),
        ({"bias": torch.ones(8).double()}, ValueError, "bias must be float32, got float64"),
        ({"shortcut": torch.ones(2, 4, 6, 8)}, ValueError, r"shortcut must have shape \[2, 2, 3, 8\], got \[2, 4, 6, 8\]"),
        ({"residual": torch.ones(2, 2, 3, 8)}, ValueError, r"residual must have shape \[2, 4, 6, 8\], got \[2, 2, 3, 8\]"),
        ({"residual": torch.ones(2, 4, 6, 8).int()}, ValueError, "residual must be float32, got int32"),
        ({"residual": torch.ones(2, 4, 6, 8).bool()}, TypeError, "residual must be one of .*, got torch.bool"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named(changed, error, message):
    convolution = PackedConvolution(torch.ones(8, 4, 3, 3), 2, torch.float32, "generic")
    tensors = {
        "x": torch.ones(2, 4, 6, 4),
        "out": torch.empty(2, 4, 6, 8),
        "workspace": torch.empty(BYTES, dtype=torch.uint8),
    }
    with pytest.raises(error, match=message):
        convolution.bind(**{**tensors, **changed})


def test_odd_maps_have_no_shortcut():
    convolution = PackedConvolution(torch.ones(8, 4, 3, 3), 2, torch.float32, "generic")
    workspace = torch.empty(convolution.workspace(1, 5, 6), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"shortcut must be None for a map of odd height or width, got \[1, 2, 3, 8\]"):
        convolution.bind(torch.ones(1, 5, 6, 4), torch.empty(1, 5, 6, 8), workspace, shortcut=torch.ones(1, 2, 3, 8))


@pytest.mark.parametrize("name", ["x", "residual", "shortcut", "bias", "scale", "shift", "workspace"])
@pytest.mark.parametrize("target", ["out", "workspace"])
def test_shared_memory_is_refused(name, target):
    if name == target:
        return
    convolution = PackedConvolution(torch.ones(4, 4, 3, 3), 2, torch.float32, "generic")
    tensors = {
        "x": torch.ones(2, 4, 6, 4),
        "out": torch.empty(2, 4, 6, 4),
        "workspace": torch.empty(convolution.workspace(2, 4, 6), dtype=torch.uint8),
        "scale": torch.ones(2, 4),
        "shift": torch.ones(2, 4),
        "bias": torch.ones(4),
        "shortcut": torch.ones(2, 2, 3, 4),
        "residual": torch.ones(2, 4, 6, 4),
    }
    here, there = tensors[name], tensors[target]
    # The last element of one is the first of the other.
    both = torch.empty(here.nbytes + there.nbytes, dtype=torch.uint8)
    begin = there.nbytes - 8 if name == "workspace" or target == "workspace" else there.nbytes - 4
    tensors[target] = both[: there.nbytes].view(there.dtype).view(there.shape)
    tensors[name] = both[begin : begin + here.nbytes].view(here.dtype).view(here.shape)
    first = "workspace" if target == "workspace" or name == "workspace" else "out"
    second = "out" if first == "workspace" and target == "out" else name
    with pytest.raises(ValueError, match=f"{first} must not share memory with {second}, got an overlap"):
        convolution.bind(**tensors)


def test_the_binding_wants_a_thread():
    convolution = PackedConvolution(torch.ones(4, 4, 3, 3), 2, torch.float32, "generic")
    x, out = torch.ones(1, 2, 2, 4), torch.empty(1, 2, 2, 4)
    workspace = torch.empty(convolution.workspace(1, 2, 2), dtype=torch.uint8)
    bound = native().WinogradBound(
        convolution._native, ref("x", x), ref("out", out), ref("w", workspace), None, None, None, None, None, False
    )
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        bound.run(0)
