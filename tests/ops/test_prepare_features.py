import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dali_icgan.ops.prepare_features import IMAGENET_MEAN, IMAGENET_STD, prepare_features, prepare_features_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# One rounding to the result's type, of values up to about 4, beside what float32 arithmetic leaves (measured below 1.2e-6).
ROUNDING = {torch.float32: 2e-6, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}
SIZES = [(1, 1), (2, 3), (7, 5), (31, 64), (64, 64), (97, 101), (100, 33)]


def image(h, w, seed=0):
    return torch.randint(
        0, 256, (h, w, 3), generator=torch.Generator().manual_seed(1000 * seed + 100 * h + w), dtype=torch.uint8
    )


def ragged(device="cpu"):
    return [image(h, w).to(device) for h, w in SIZES]


def block(n, h, w, dtype=torch.float32, device="cpu"):
    pixels = torch.stack([image(h, w, seed) for seed in range(n)]).permute(0, 3, 1, 2)
    return (pixels if dtype == torch.uint8 else pixels.to(dtype) / 255).to(device)


def resized_by_us(pixels, resolution):
    """The first resize alone: no second one, and a normalisation that undoes the division by 255."""
    return prepare_features([pixels], resolution=resolution, input_size=resolution, mean=(0, 0, 0), std=(1 / 255,) * 3)[
        0
    ]


def resized_by_pillow(pixels, resolution):
    edge = min(pixels.shape[:2])
    top, left = (round((size - edge) / 2) for size in pixels.shape[:2])
    square = Image.fromarray(pixels[top : top + edge, left : left + edge].cpu().numpy())
    resized = np.array(square.resize((resolution, resolution), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1)


@pytest.mark.parametrize("resolution", [1, 2, 17, 64, 129])
@pytest.mark.parametrize("size", [*SIZES, (3, 10000), (10000, 3), (375, 500), (128, 128), (1031, 1024)])
def test_first_resize_is_pillows_bit_for_bit(size, resolution, device):
    pixels = image(*size).to(device)
    got = resized_by_us(pixels, resolution).cpu()
    assert (got - got.round()).abs().max() < 1e-4
    assert torch.equal(got.round().byte(), resized_by_pillow(pixels, resolution))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 150), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_first_resize_is_pillows_for_any_size(h, w, resolution, seed):
    pixels = image(h, w, seed)
    assert torch.equal(resized_by_us(pixels, resolution).round().byte(), resized_by_pillow(pixels, resolution))


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(50, 50, 3),
        torch.full((50, 50, 3), 255),
        torch.tensor([0, 255]).repeat(1250)[:, None].expand(2500, 3),
    ],
)
def test_first_resize_keeps_extreme_pixels(pixels):
    pixels = pixels.reshape(50, 50, 3).byte()
    for resolution in (7, 50, 113):
        assert torch.equal(resized_by_us(pixels, resolution).round().byte(), resized_by_pillow(pixels, resolution))


@pytest.mark.parametrize("height", range(8, 17))
def test_centre_crop_rounds_as_torchvision(height):
    from torchvision.transforms.v2 import functional

    for pixels in (image(height, 8), image(8, height)):
        want = functional.center_crop(pixels.permute(2, 0, 1), [8, 8])
        assert torch.equal(resized_by_us(pixels, 8).round().byte(), want)


def test_an_image_at_model_resolution_is_only_normalised(device):
    pixels = image(64, 64).to(device)
    mean, std = torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)
    got = prepare_features([pixels], resolution=64, input_size=64)[0].permute(1, 2, 0)
    assert torch.equal(got, (pixels.float() / 255 - mean) / std)
    floats = pixels.permute(2, 0, 1)[None].float() / 255
    assert torch.equal(prepare_features(floats, resolution=64, input_size=64)[0].permute(1, 2, 0), got)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "sizes", [(64, 224), (128, 224), (256, 224), (224, 224), (5, 3), (7, 1), (1, 7), (61, 20), (2, 3)]
)
def test_bicubic_agrees_with_torch_in_float64(sizes, align_corners, device):
    resolution, size = sizes
    pixels = block(2, resolution, resolution, torch.uint8, device)
    got = prepare_features(pixels, resolution=resolution, input_size=size, align_corners=align_corners)
    mean, std = (
        torch.tensor(v, dtype=torch.float64, device=device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    want = (pixels.double() / 255 - mean) / std
    want = torch.nn.functional.interpolate(want, (size, size), mode="bicubic", align_corners=align_corners)
    assert (got.double() - want).abs().max() < ROUNDING[torch.float32]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_chain_agrees_with_the_reference(dtype, align_corners, device):
    options = {"resolution": 48, "input_size": 67, "align_corners": align_corners}
    images = ragged(device)
    got = prepare_features(images, dtype=dtype, **options)
    assert got.dtype == dtype
    assert got.device == images[0].device
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert (got.double().cpu() - prepare_features_reference(images, **options)).abs().max() < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (30, 41), (48, 48), (150, 131), (200, 3)])
def test_float_images_are_resized_without_rounding(size, dtype, device):
    images = block(3, *size, dtype, device)
    got = prepare_features(images, resolution=48, input_size=67)
    want = prepare_features_reference(images, resolution=48, input_size=67)
    assert (got.double().cpu() - want).abs().max() < ROUNDING[torch.float32]


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_photographs_agree_with_torchvision_and_pillow(name, resolution):
    data = pytest.importorskip("skimage.data")
    from torchvision import transforms

    photo = torch.from_numpy(getattr(data, name)().copy())
    chain = transforms.Compose(
        [
            transforms.CenterCrop(min(photo.shape[:2])),
            transforms.Resize((resolution, resolution)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    resized = chain(Image.fromarray(photo.numpy()))[None]
    assert torch.equal(prepare_features([photo], resolution=resolution, input_size=resolution), resized)

    got = prepare_features([photo], resolution=resolution)
    bicubic = {"size": (224, 224), "mode": "bicubic", "align_corners": False}
    assert (got - torch.nn.functional.interpolate(resized.double(), **bicubic)).abs().max() < ROUNDING[torch.float32]
    # torch's own float32 is 50 times further from float64 (measured 5e-5): it rounds the position, not only the weights.
    assert (got - torch.nn.functional.interpolate(resized, **bicubic)).abs().max() < 1e-4
    assert torch.equal(prepare_features(photo.permute(2, 0, 1)[None], resolution=resolution), got)


def test_a_list_a_tensor_and_their_views_give_the_same_bits(device):
    images = block(3, 50, 70, torch.uint8, device)
    want = prepare_features(list(images.permute(0, 2, 3, 1)), resolution=32, input_size=40)
    room = torch.zeros(3, 5, 60, 90, dtype=torch.uint8, device=device)
    room[:, 1:4, 5:55, 10:80] = images
    flipped = [i.flip(1).contiguous() for i in images.permute(0, 2, 3, 1)]
    for same in (images, images.contiguous(memory_format=torch.channels_last), room[:, 1:4, 5:55, 10:80]):
        assert torch.equal(prepare_features(same, resolution=32, input_size=40), want)
    assert not torch.equal(prepare_features(flipped, resolution=32, input_size=40), want)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_and_the_company_of_other_images_do_not_change_a_bit(count):
    images = ragged()
    want = [prepare_features([i], resolution=32, input_size=40) for i in images]
    torch.set_num_threads(count)
    assert torch.equal(prepare_features(images, resolution=32, input_size=40), torch.cat(want))
    assert torch.equal(prepare_features(images[::-1], resolution=32, input_size=40), torch.cat(want[::-1]))


def test_no_images_give_an_empty_batch(device):
    got = prepare_features([], resolution=32, input_size=40, device=device, dtype=torch.float16)
    assert got.shape == (0, 3, 40, 40)
    assert got.dtype == torch.float16
    assert got.device.type == device
    assert prepare_features(torch.empty(0, 3, 8, 8, device=device), resolution=32).shape == (0, 3, 224, 224)
    out = torch.empty(0, 3, 40, 40, device=device).to(memory_format=torch.channels_last)
    assert prepare_features([], resolution=32, input_size=40, out=out) is out


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_into_out_and_nothing_else(dtype, device):
    images = ragged(device)
    count = len(images) * 40 * 40 * 3
    room = torch.full((count + 32,), -7.0, dtype=dtype, device=device)
    out = room[16 : 16 + count].view(len(images), 40, 40, 3).permute(0, 3, 1, 2)
    assert prepare_features(images, resolution=33, input_size=40, out=out) is out
    assert torch.equal(out, prepare_features(images, resolution=33, input_size=40, dtype=dtype))
    assert (room[:16] == -7).all()
    assert (room[16 + count :] == -7).all()


def poisoned_run(monkeypatch, images, **options):
    """With NaN in the result and garbage in the workspaces, and guard bands around all of them."""
    bands = []

    def guarded(*shape, dtype=torch.float32, device=None, memory_format=torch.contiguous_format):
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        count = int(np.prod(shape))
        room = torch.full(
            (count + 64,),
            float("nan") if dtype.is_floating_point else 0x7F7F7F7F if dtype == torch.int32 else 7,
            dtype=dtype,
        )
        bands.append((room, count, room[:32].clone(), room[32 + count :].clone()))
        inside = room[32 : 32 + count]
        if memory_format == torch.channels_last:
            n, c, h, w = shape
            return inside.view(n, h, w, c).permute(0, 3, 1, 2)
        return inside.view(shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", guarded)
        got = prepare_features(images, device="cpu", **options)
    assert len(bands) == 4  # the device's name, the result, two workspaces
    for room, count, before, after in bands:
        assert torch.equal(room[:32].nan_to_num(), before.nan_to_num())
        assert torch.equal(room[32 + count :].nan_to_num(), after.nan_to_num())
    return got


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 33, "input_size": 41},
        {"resolution": 8, "input_size": 13, "align_corners": True},
        {"resolution": 1, "input_size": 3},
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_kernels_run_on_the_cpu_agree_bit_for_bit(options, dtype, on_emulated_cuda, monkeypatch):
    want = prepare_features(ragged(), dtype=dtype, **options)
    with on_emulated_cuda():
        got = poisoned_run(monkeypatch, ragged(), dtype=dtype, **options)
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.uint8, *DTYPES])
@pytest.mark.parametrize("size", [(1, 1), (9, 20), (33, 33), (90, 85)])
def test_cuda_kernels_agree_bit_for_bit_on_tensors(size, dtype, on_emulated_cuda, monkeypatch):
    images = block(2, *size, dtype)
    want = prepare_features(images, resolution=33, input_size=20)
    with on_emulated_cuda():
        assert torch.equal(poisoned_run(monkeypatch, images, resolution=33, input_size=20), want)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpu_and_cuda_agree_bit_for_bit(dtype):
    want = prepare_features(ragged(), resolution=64, dtype=dtype)
    assert torch.equal(prepare_features(ragged("cuda"), resolution=64, dtype=dtype).cpu(), want)
    assert torch.equal(prepare_features(ragged(), resolution=64, dtype=dtype, device="cuda").cpu(), want)
    floats = block(3, 90, 85, dtype)
    assert torch.equal(prepare_features(floats.cuda(), resolution=64).cpu(), prepare_features(floats, resolution=64))


@pytest.mark.gpu
def test_runs_on_the_current_stream_without_synchronising():
    images = ragged("cuda")
    want = prepare_features(images, resolution=64)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = prepare_features(images, resolution=64)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(got, want)


ONE = [image(8, 8)]


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (3, {}, TypeError, "images must be a tensor or a list of tensors, got int"),
        ([np.zeros((8, 8, 3), np.uint8)], {}, TypeError, "images must be a tensor or a list of tensors, got list"),
        (
            [*ONE, torch.zeros(8, 8, 3)],
            {},
            ValueError,
            r"images\[1\] must be uint8 \[h, w, 3\], got torch.float32 \[8, 8, 3\]",
        ),
        ([image(8, 8)[..., :1]], {}, ValueError, r"images\[0\] must be uint8 \[h, w, 3\], got torch.uint8 \[8, 8, 1\]"),
        ([*ONE, image(8, 8)[:0]], {}, ValueError, r"images\[1\] must be .*\[0, 8, 3\]"),
        (torch.zeros(2, 4, 8, 8), {}, ValueError, r"images must be .* got a tensor of torch.float32 \[2, 4, 8, 8\]"),
        (torch.zeros(3, 8, 8), {}, ValueError, r"images must be .* got a tensor of torch.float32 \[3, 8, 8\]"),
        (torch.zeros(2, 3, 0, 8), {}, ValueError, r"images must be .*\[2, 3, 0, 8\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float64), {}, ValueError, "images must be .* torch.float64"),
        (ONE * 65536, {}, ValueError, "images must be at most 65535, got 65536"),
        (ONE, {"resolution": 0}, ValueError, "resolution must be an integer in 1 to 16384, got 0"),
        (ONE, {"resolution": 64.0}, ValueError, r"resolution must be an integer in 1 to 16384, got 64\.0"),
        (ONE, {"input_size": 16385}, ValueError, "input_size must be an integer in 1 to 16384, got 16385"),
        (ONE, {"mean": (0.5,)}, ValueError, "mean must have 3 values, got 1"),
        (ONE, {"std": (1, 1, 1, 1)}, ValueError, "std must have 3 values, got 4"),
        (ONE, {"std": (1, 0, 1)}, ValueError, r"std must be positive, got \(1.0, 0.0, 1.0\)"),
        (
            ONE,
            {"dtype": torch.float64},
            ValueError,
            "dtype must be torch.float32, torch.float16 or torch.bfloat16, got torch.float64",
        ),
        (ONE, {"out": torch.empty(2, 3, 9, 9)}, ValueError, r"out must have shape \[1, 3, 9, 9\], got \[2, 3, 9, 9\]"),
        (ONE, {"out": torch.empty(1, 3, 9, 9)}, ValueError, "out must be in channels_last memory, got strides"),
        (
            ONE,
            {"out": torch.empty(1, 3, 9, 9, device="meta").to(memory_format=torch.channels_last)},
            ValueError,
            "out must be on cpu, got meta",
        ),
    ],
)
def test_wrong_arguments_are_named(images, options, error, message):
    with pytest.raises(error, match=message):
        prepare_features(images, **{"resolution": 8, "input_size": 9, **options})
