import dataclasses
import functools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from dali_icgan.ops.assemble import assemble, assemble_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
KINDS = ["real", "generated"]
# Of the sum, in units of [0, 1], before the last rounding: 6.2e-7 is the largest seen, over 10,000 taps.
BOUND = 1e-6
# torch makes its weights in float32 from absolute positions: its own distance from the float64 reference is up to 1.7e-5.
TORCH_BOUND = 2e-5

UNIT = {"real_mean": (0, 0, 0), "real_std": (1, 1, 1), "generated_mean": (0, 0, 0), "generated_std": (1, 1, 1)}
NORMAL = {
    "real_mean": (0.485, 0.456, 0.406),
    "real_std": (0.229, 0.224, 0.225),
    "generated_mean": (0.5, 0.4, 0.3),
    "generated_std": (0.3, 0.5, 0.7),
}

# source height and width; window: top, left, height, width; output height and width
CROPS = [
    ((35, 33), (0, 0, 35, 33), (22, 22)),  # the usual: a little smaller
    ((40, 50), (3, 5, 17, 19), (24, 32)),  # larger, inside
    ((40, 50), (7, 11, 29, 31), (29, 31)),  # as it is
    ((90, 70), (1, 2, 80, 66), (8, 8)),  # ten taps and more
    ((9, 9), (4, 4, 1, 1), (5, 7)),  # one pixel
    ((11, 13), (0, 0, 11, 13), (1, 1)),  # to one pixel
    ((37, 41), (0, 3, 37, 2), (1, 64)),  # smaller one way, larger the other
    ((5, 10000), (1, 0, 3, 10000), (3, 10)),
    ((10000, 3), (0, 0, 10000, 3), (10, 3)),
    ((3, 1400), (0, 100, 3, 1300), (6, 131)),  # more source columns than a chunk of the kernel, taps across its seams
    ((8, 300), (0, 0, 8, 300), (9, 261)),  # more output columns than a tile of the kernel
]
SMALL = [crop for crop in CROPS if max(crop[0]) < 10000]


@dataclasses.dataclass
class Batch:
    regions: list
    generated: torch.Tensor | None
    arrays: dict
    size: tuple

    def __call__(self, out=None, dtype=torch.float32, layout=torch.contiguous_format, device="cpu", normalise=UNIT):
        if out is None:
            out = torch.full((len(self.arrays["source"]), 3, *self.size), float("nan"), dtype=dtype, device=device)
            out = out.contiguous(memory_format=layout)
        generated = self.generated if self.generated is None else self.generated.to(device)
        return assemble([r.to(device) for r in self.regions], generated, **self.arrays, **normalise, out=out)

    def reference(self, normalise=UNIT):
        return assemble_reference(self.regions, self.generated, **self.arrays, **normalise, size=self.size)

    def rows(self, order):
        return dataclasses.replace(self, arrays={name: array[order] for name, array in self.arrays.items()})


def arrays(source, windows, size, flip=None, offset=None, scale=None):
    windows = np.array(windows, dtype=np.int32).reshape(-1, 4)
    return {
        "source": np.array(source, dtype=np.int64),
        "window": windows,
        "offset": np.zeros((len(windows), 2)) if offset is None else np.array(offset, dtype=np.float64),
        "scale": windows[:, 2:] / np.array(size) if scale is None else np.array(scale, dtype=np.float64),
        "flip": np.zeros(len(windows), dtype=bool) if flip is None else np.array(flip),
    }


@functools.cache
def pixels(height, width, seed=0):
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@functools.cache
def images(n, height, width, dtype=torch.float32):
    values = torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(n)) * 2 - 1
    values[:, :, ::3, ::2] = -0.0  # whose sign a sum that starts otherwise would keep
    return values.to(dtype)


def crop_of(kind, source, window, size, flip=True):
    """One row upright, one mirrored."""
    flips = [False, flip]
    if kind == "real":
        return Batch([pixels(*source)], None, arrays([0, 0], [window] * 2, size, flips), size)
    return Batch([], images(2, *source), arrays([-1, -2], [window] * 2, size, flips), size)


def mixed(dtype=torch.float32, layout=torch.contiguous_format, size=(12, 16)):
    """Five rows of both kinds, of every shape of window, flipped or not, with an offset or not."""
    regions = [pixels(20, 30), pixels(41, 37, seed=1), pixels(7, 5, seed=2)]
    windows = [(2, 3, 17, 21), (0, 0, 16, 16), (1, 1, 5, 3), (4, 2, 9, 11), (0, 0, 41, 37)]
    batch = arrays([0, -2, 2, -1, 1], windows, size, [True, False, True, True, False])
    batch["offset"][4], batch["scale"][4] = (3.25, 1.5), (2.75, 1.6)
    return Batch(regions, images(2, 16, 16, dtype).contiguous(memory_format=layout), batch, size)


def guarded(n, size, dtype, layout, start):
    """An output full of NaN inside a buffer of sevens, ``start`` values from a 16-byte boundary; and a check of the sevens."""
    count, margin = n * 3 * size[0] * size[1], 64
    buffer = torch.full((count + 2 * margin + start,), 7.0, dtype=dtype)
    inside = buffer[margin + start : margin + start + count]
    inside.fill_(float("nan"))
    out = inside.view(n, *size, 3).permute(0, 3, 1, 2) if layout == torch.channels_last else inside.view(n, 3, *size)

    def check():
        assert (buffer[: margin + start] == 7).all()
        assert (buffer[margin + start + count :] == 7).all()
        assert not out.isnan().any()

    return out, check


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "window", "size"), CROPS)
def test_sum_is_exact_to_a_millionth(source, window, size, kind, device):
    batch = crop_of(kind, source, window, size)
    got = batch(device=device).cpu().numpy()
    assert np.abs(got - batch.reference()).max() < BOUND


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "window", "size"), SMALL[:4])
def test_normalised_and_rounded_once(source, window, size, kind, dtype, layout, device):
    batch = crop_of(kind, source, window, size)
    out = batch(dtype=dtype, layout=layout, device=device, normalise=NORMAL)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    want = batch.reference(NORMAL)
    before_rounding = BOUND / min(NORMAL[f"{kind}_std"])
    assert (np.abs(out.double().cpu().numpy() - want) <= before_rounding + np.abs(want) * ROUNDING[dtype] * 1.001).all()


@pytest.mark.parametrize("kind", KINDS)
# torch 2.14 gets an output of width 1 wrong (by 0.2) where the input is contiguous; its float64 and float32 alike.
@pytest.mark.parametrize(("source", "window", "size"), [crop for crop in CROPS if crop[2][1] > 1])
def test_agrees_with_torchvision_on_floats(source, window, size, kind):
    batch = crop_of(kind, source, window, size)
    image = pixels(*source).permute(2, 0, 1) / 255.0 if kind == "real" else images(2, *source) * 0.5 + 0.5
    top, left, height, width = window
    want = torchvision.resized_crop(image, top, left, height, width, list(size), antialias=True).expand(2, 3, *size)
    got = batch()
    assert (got[0] - want[0]).abs().max() < TORCH_BOUND
    assert (got[1] - want[1].flip(2)).abs().max() < TORCH_BOUND


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resize", [(64, 85), (200, 266)])
def test_offset_is_resize_of_the_whole_then_crop(kind, resize):
    source, crop, top, left = (120, 160), (56, 48), 4, 15
    scale = np.array(source) / resize
    reach = np.maximum(scale, 1) + 1
    begin = np.floor(scale * (top, left) - reach).clip(0).astype(int)
    end = np.ceil(scale * (top + crop[0], left + crop[1]) + reach).clip(None, source).astype(int)
    part = crop_of(kind, source, (*begin, *(end - begin)), crop, flip=False)
    part.arrays["offset"][:] = scale * (top, left) - begin
    part.arrays["scale"][:] = scale
    whole = crop_of(kind, source, (0, 0, *source), resize, flip=False)()
    assert (part() - whole[:, :, top : top + crop[0], left : left + crop[1]]).abs().max() < BOUND
    assert np.abs(part().numpy() - part.reference()).max() < BOUND


def test_pixels_at_their_own_size_are_only_normalised():
    image = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).contiguous()
    batch = Batch([image], None, arrays([0], [(0, 0, 16, 16)], (16, 16)), (16, 16))
    scale, shift = (
        np.float32(1 / (255 * np.array(NORMAL["real_std"]))),
        np.float32(-np.divide(NORMAL["real_mean"], NORMAL["real_std"])),
    )
    assert np.array_equal(batch(normalise=NORMAL)[0].permute(1, 2, 0), image.numpy() * scale + shift)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flip_mirrors_the_output(layout, device):
    batch = mixed()
    mirrored = dataclasses.replace(batch, arrays={**batch.arrays, "flip": ~batch.arrays["flip"]})
    assert torch.equal(mirrored(layout=layout, device=device), batch(layout=layout, device=device).flip(3))


def test_nothing_outside_the_window_counts(device):
    batch = mixed()
    want = batch(device=device)
    batch.regions = [region.clone() for region in batch.regions]
    for region, (top, left, height, width) in zip(batch.regions, batch.arrays["window"][[0, 4, 2]], strict=True):
        outside = torch.ones(region.shape[:2], dtype=torch.bool)
        outside[top : top + height, left : left + width] = False
        region[outside] = 255 - region[outside]
    assert torch.equal(batch(device=device), want)


def test_rows_of_a_region_may_be_apart(device):
    batch = mixed()
    wide = [torch.full((r.shape[0], r.shape[1] + 9, 3), 99, dtype=torch.uint8, device=device) for r in batch.regions]
    for room, region in zip(wide, batch.regions, strict=True):
        room[:, 4:-5] = region
    apart = dataclasses.replace(batch, regions=[room[:, 4:-5] for room in wide])
    assert torch.equal(apart(device=device), batch(device=device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_hold_the_same_values(dtype, device):
    want = mixed(dtype)(device=device)
    for source_layout in LAYOUTS:
        for layout in LAYOUTS:
            assert torch.equal(mixed(dtype, source_layout)(layout=layout, device=device), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_generated_halves_are_read_as_the_floats_they_are(dtype, device):
    batch = mixed(dtype)
    assert torch.equal(
        batch(device=device), dataclasses.replace(batch, generated=batch.generated.float())(device=device)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeats_exactly_whatever_the_threads_and_the_batch(dtype, device):
    batch = mixed()
    torch.set_num_threads(1)
    want = batch(dtype=dtype, device=device)
    assert torch.equal(batch(dtype=dtype, device=device), want)
    torch.set_num_threads(2)
    order = np.array([3, 1, 4, 4, 0, 2, 1] * 5)
    assert torch.equal(batch.rows(order)(dtype=dtype, device=device), want[order])
    for i in range(5):
        assert torch.equal(batch.rows([i])(dtype=dtype, device=device), want[[i]])


def test_no_rows(device):
    for regions, generated in [([], None), ([pixels(4, 4)], images(2, 4, 4)[:0])]:
        batch = Batch(regions, generated, arrays([], [], (3, 5)), (3, 5))
        assert batch(device=device).shape == (0, 3, 3, 5)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 8), (9, 21)])
def test_writes_all_of_the_output_and_nothing_else(size, dtype, layout, start):
    out, check = guarded(5, size, dtype, layout, start)
    mixed(size=size).rows(range(4))(out=out[:4])
    mixed(size=size).rows([0])(out=out[4:])
    check()


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_kernel_run_on_the_cpu_agrees_bit_for_bit(dtype, layout, start, on_emulated_cuda):
    for size in [(12, 16), (5, 9), (1, 1)]:
        for source_dtype in DTYPES:
            batch = mixed(source_dtype, layout, size)
            batch = batch if size == (12, 16) else batch.rows(range(4))
            out, check = guarded(len(batch.arrays["source"]), size, dtype, layout, start)
            with on_emulated_cuda():
                batch(out=out, normalise=NORMAL)
            check()
            assert torch.equal(out, batch(dtype=dtype, normalise=NORMAL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "window", "size"), CROPS)
def test_cuda_kernel_run_on_the_cpu_agrees_on_every_crop(source, window, size, kind, dtype, on_emulated_cuda):
    batch = crop_of(kind, source, window, size)
    out, check = guarded(2, size, dtype, torch.contiguous_format, 0)
    with on_emulated_cuda():
        batch(out=out)
    check()
    assert torch.equal(out, batch(dtype=dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpu_and_cuda_agree_bit_for_bit(dtype, layout):
    for batch in [mixed(), mixed(torch.float16), *(crop_of(kind, *crop) for crop in CROPS for kind in KINDS)]:
        got = batch(dtype=dtype, layout=layout, device="cuda", normalise=NORMAL)
        assert torch.equal(got.cpu(), batch(dtype=dtype, normalise=NORMAL))


@pytest.mark.gpu
def test_runs_on_a_side_stream_without_waiting():
    batch, side = mixed(), torch.cuda.Stream()
    want = batch(device="cuda")
    regions, generated = [r.cuda() for r in batch.regions], batch.generated.cuda()
    out = torch.zeros_like(want)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        assemble(regions, generated, **batch.arrays, **UNIT, out=out)
        assert not side.query()
    side.synchronize()
    assert torch.equal(out, want)


def call(**changes):
    """A good call of one row a kind, changed."""
    good = {
        "regions": [pixels(40, 30)],
        "generated": images(1, 16, 16),
        **arrays([0, -1], [(0, 0, 40, 30), (0, 0, 16, 16)], (8, 8)),
        **UNIT,
        "out": torch.empty(2, 3, 8, 8),
    }
    changed = {**good, **changes}
    assemble(changed.pop("regions"), changed.pop("generated"), **changed)


def windows(*second):
    return np.array([(0, 0, 40, 30), second], dtype=np.int32)


def test_good_call_is_good():
    call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": torch.empty(2, 8, 8, 3)}, r"out must have 3 channels, got \[2, 8, 8, 3\]"),
        ({"out": torch.empty(2, 3, 8)}, r"out must have 4 dimensions, got \[2, 3, 8\]"),
        ({"out": torch.empty(2, 3, 0, 8)}, r"out must have a height and width of 1 to 65535, got \[2, 3, 0, 8\]"),
        ({"out": torch.empty(2, 3, 8, 16)[..., ::2]}, r"out must be contiguous or channels_last, got shape \[2, 3, 8, 8\] with strides \[384, 128, 16, 2\]"),
        ({"out": torch.empty(2, 3, 8, 8, dtype=torch.float64)}, "out must be float32, float16 or bfloat16, got float64"),
        ({"out": torch.empty(2, 3, 8, 8, dtype=torch.complex64)}, "out must be one of .*, got torch.complex64"),
        ({"out": torch.empty(3, 3, 8, 8)}, r"source must have shape \[3\], got \[2\]"),
        ({"regions": [pixels(40, 30).float()]}, r"regions\[0\] must be a uint8 tensor .height, width, 3., got torch.float32 \[40, 30, 3\]"),
        ({"regions": [pixels(40, 30).numpy()]}, r"regions\[0\] must be a uint8 tensor .height, width, 3., got ndarray"),
        ({"regions": [pixels(40, 30)[0]]}, r"regions\[0\] must be a uint8 tensor .height, width, 3., got torch.uint8 \[30, 3\]"),
        ({"regions": [pixels(40, 30), pixels(40, 30).permute(2, 0, 1)]}, r"regions\[1\] must have shape .height, width, 3., got \[3, 40, 30\]"),
        ({"regions": [pixels(40, 30)[:0]]}, r"regions\[0\] must have shape .height, width, 3., got \[0, 30, 3\]"),
        ({"regions": [pixels(30, 40).transpose(0, 1)]}, r"regions\[0\] must have contiguous rows, got strides \[3, 120, 1\]"),
        ({"regions": [pixels(40, 30).to("meta")]}, r"regions\[0\] must be on cpu, got meta"),
        ({"generated": images(1, 16, 16)[:, :2]}, r"generated must have 3 channels, got \[1, 2, 16, 16\]"),
        ({"generated": images(1, 16, 16)[0]}, "generated must have 4 dimensions"),
        ({"generated": images(1, 16, 32)[..., ::2]}, "generated must be contiguous or channels_last"),
        ({"generated": images(1, 16, 16).double()}, "generated must be float32, float16 or bfloat16, got float64"),
        ({"source": [0, -1]}, "source must be a numpy array, got list"),
        ({"source": np.array([0, -1], dtype=np.int32)}, "source must be int64, got int32"),
        ({"source": np.array([[0], [-1]])}, r"source must have shape \[2\], got \[2, 1\]"),
        ({"source": np.array([0, 7, -1, 7])[::2]}, r"source must be C-contiguous, got strides \[16\]"),
        ({"source": np.array([0, 1])}, r"source\[1\] must name one of 1 regions \(from 0\) or of 1 generated images \(from -1 down\), got 1"),
        ({"source": np.array([-2, 0])}, r"source\[0\] must name one of 1 regions .*, got -2"),
        ({"generated": None}, r"source\[1\] must name one of 1 regions .* or of 0 generated images .*, got -1"),
        ({"regions": []}, r"source\[0\] must name one of 0 regions .*, got 0"),
        ({"window": np.zeros((2, 4))}, "window must be int32, got float64"),
        ({"window": np.zeros((2, 3), dtype=np.int32)}, r"window must have shape \[2, 4\], got \[2, 3\]"),
        ({"window": windows(0, 0, 17, 16)}, r"window\[1\] must lie inside its source of 16 x 16, got 17 x 16 at \[0, 0\]"),
        ({"window": windows(0, 1, 16, 16)}, r"window\[1\] must lie inside its source of 16 x 16, got 16 x 16 at \[0, 1\]"),
        ({"window": windows(-1, 0, 16, 16)}, r"window\[1\] must lie .*, got 16 x 16 at \[-1, 0\]"),
        ({"window": windows(0, -1, 16, 16)}, r"window\[1\] must lie .*, got 16 x 16 at \[0, -1\]"),
        ({"window": windows(0, 0, 0, 16)}, r"window\[1\] must lie .*, got 0 x 16 at \[0, 0\]"),
        ({"window": windows(0, 0, 16, 0)}, r"window\[1\] must lie .*, got 16 x 0 at \[0, 0\]"),
        ({"window": windows(1, 0, 2**31 - 1, 16)}, r"window\[1\] must lie .*, got 2147483647 x 16 at \[1, 0\]"),
        ({"offset": np.zeros((2, 2), dtype=np.float32)}, "offset must be float64, got float32"),
        ({"offset": np.zeros(2)}, r"offset must have shape \[2, 2\], got \[2\]"),
        ({"offset": np.array([[0, 0], [0, np.nan]])}, r"offset\[1\] must keep the centres of 8 x 8 output pixels in the window of 16 x 16, got \[0.0\d*, nan\]"),
        ({"offset": np.array([[0, 0], [1.5, 0]])}, r"offset\[1\] must keep the centres .* with scale \[2.0\d*, 2.0\d*\]"),
        ({"offset": np.array([[0, -2.0], [0, 0]])}, r"offset\[0\] must keep the centres .* in the window of 40 x 30"),
        ({"scale": np.zeros((2, 2), dtype=np.int64)}, "scale must be float64, got int64"),
        ({"scale": np.ones((1, 2))}, r"scale must have shape \[2, 2\], got \[1, 2\]"),
        ({"scale": np.array([[1.0, 1], [1, 0]])}, r"scale\[1\] must be positive and finite, got \[1.0\d*, 0.0\d*\]"),
        ({"scale": np.array([[np.nan, 1], [1, 1]])}, r"scale\[0\] must be positive and finite, got \[nan, 1.0\d*\]"),
        ({"scale": np.array([[1.0, 1], [1, np.inf]])}, r"scale\[1\] must be positive and finite, got \[1.0\d*, inf\]"),
        ({"flip": np.zeros(2, dtype=np.uint8)}, "flip must be bool, got uint8"),
        ({"flip": np.zeros(3, dtype=bool)}, r"flip must have shape \[2\], got \[3\]"),
        ({"real_mean": (0, 0)}, "real_mean must have 3 values, got 2"),
        ({"real_std": (1, 1, 1, 1)}, "real_std must have 3 values, got 4"),
        ({"generated_mean": ()}, "generated_mean must have 3 values, got 0"),
        ({"generated_std": (1,)}, "generated_std must have 3 values, got 1"),
        ({"real_mean": (0, float("inf"), 0)}, "real_mean must be finite, got inf"),
        ({"real_std": (1, 1, 0)}, "real_std must be positive and finite, got 0"),
        ({"generated_mean": (float("nan"), 0, 0)}, "generated_mean must be finite, got nan"),
        ({"generated_std": (1, -1, 1)}, "generated_std must be positive and finite, got -1"),
        ({"generated_std": (1, 1, 1e-300)}, "generated_std must be positive and finite"),
        ({"generated_std": (1, float("nan"), 1)}, "generated_std must be positive and finite, got nan"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(**changes)


def test_output_may_not_be_a_source():
    block = images(2, 8, 8).clone()
    with pytest.raises(ValueError, match="out must not share memory with generated, got an overlap"):
        call(generated=block, out=block)
    bytes_of_both = torch.zeros(40 * 30 * 3 + 4, dtype=torch.uint8)
    region = bytes_of_both[: 40 * 30 * 3].view(40, 30, 3)
    out = bytes_of_both.view(torch.float32)[-2 * 3 * 8 * 8 :].view(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"out must not share memory with regions\[1\], got an overlap"):
        call(regions=[pixels(40, 30), region], out=out)


def test_too_many_images():
    n = 65536
    batch = Batch([pixels(1, 1)], None, arrays([0] * n, [(0, 0, 1, 1)] * n, (1, 1)), (1, 1))
    with pytest.raises(ValueError, match="out must hold at most 65535 images, got 65536"):
        batch()
