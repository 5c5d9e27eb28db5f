import math

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms.v2 import functional as tv

from dali_icgan.augment.plan import RowKeys
from dali_icgan.augment.transform import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform
from dali_icgan.ops.assemble import assemble
from dali_icgan.ops.random_resized_crop import random_resized_crop


def row_keys(n, seed=7, epoch=0, view=0):
    return RowKeys(seed, epoch, np.arange(n), np.zeros(n, np.int64), view)


def picture(height, width):
    return torch.rand(
        3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width), dtype=torch.float64
    )


def taps(size, offset, scale, length):
    """The antialiased triangle filter's weights, [length, size], of output pixels centred at offset + scale (i + 1/2)."""
    support = max(scale, 1.0)
    centre = offset + scale * (np.arange(length)[:, None] + 0.5)
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centre) / support)
    return weights / weights.sum(1, keepdims=True)


def resample(image, windows, row, length):
    """What the batch is to hold: a resample of the window that sees nothing outside it."""
    top, left, height, width = windows.window[row]
    part = image.numpy()[:, top : top + height, left : left + width]
    assert part.shape[1:] == (height, width)
    (y, x), (scale_y, scale_x) = windows.offset[row], windows.scale[row]
    out = taps(height, y, scale_y, length) @ part @ taps(width, x, scale_x, length).T
    return out[:, :, ::-1] if windows.flip[row] else out


SHAPES = [
    (300, 400),
    (400, 300),
    (256, 256),
    (257, 256),
    (224, 500),
    (64, 48),
    (31, 47),
    (1, 1),
    (1, 9),
    (9, 1),
    (500, 1),
    (2, 300),
    (167, 166),
]


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 64), (65, 32), (33, 32), (7, 3), (1, 1)])
def test_eval_is_torchvisions_resize_and_center_crop(height, width, resize, crop):
    image = picture(height, width)
    want = tv.center_crop(tv.resize(image, [resize], antialias=True), [crop, crop]).numpy()
    windows = EvalTransform(resize, crop).windows(row_keys(1), np.array([height]), np.array([width]))
    np.testing.assert_allclose(resample(image, windows, 0, crop), want, rtol=0, atol=1e-11)


def test_eval_windows_hold_the_taps_and_no_more():
    rng = np.random.default_rng(0)
    height, width = rng.integers(1, 700, (2, 300))
    transform = EvalTransform(97, 64)
    windows = transform.windows(row_keys(300), height, width)
    assert windows.window.dtype == np.int32
    assert windows.offset.dtype == windows.scale.dtype == np.float64
    assert not windows.flip.any()
    for row in range(300):
        for axis, size in enumerate((height[row], width[row])):
            first, length = windows.window[row, axis], windows.window[row, axis + 2]
            weights = taps(size, windows.offset[row, axis] + first, windows.scale[row, axis], 64)
            seen = np.flatnonzero((weights > 1e-12).any(0))
            assert first <= seen[0]
            assert seen[-1] < first + length <= size
            # A tap on the filter's very edge weighs nothing, yet torch counts it.
            assert seen[0] - first + first + length - 1 - seen[-1] <= 2


def test_eval_of_a_sliver_needs_only_a_sliver():
    windows = EvalTransform().windows(row_keys(2), np.array([500, 1]), np.array([1, 500]))
    assert windows.window.tolist() == [[249, 0, 2, 1], [0, 249, 1, 2]]


@pytest.mark.parametrize(("height", "width"), [(300, 400), (40, 30), (1, 9), (224, 224)])
@pytest.mark.parametrize("size", [224, 32, 1])
def test_train_is_torchvisions_resized_crop_and_flip(height, width, size):
    image, n = picture(height, width), 8
    windows = TrainTransform(size, flip=0.5).windows(row_keys(n), np.full(n, height), np.full(n, width))
    assert windows.flip.any()
    assert not windows.flip.all()
    for row in range(n):
        want = tv.resized_crop(image, *windows.window[row].tolist(), [size, size], antialias=True)
        want = tv.horizontal_flip(want) if windows.flip[row] else want
        np.testing.assert_allclose(resample(image, windows, row, size), want.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("transform", [TrainTransform(32), EvalTransform(40, 32), EvalTransform(31, 31)])
def test_assemble_does_what_the_windows_say(transform):
    sizes = [(300, 400), (40, 30), (1, 9), (500, 1), (33, 31), (224, 224)]
    images = [(picture(height, width) * 255).byte() for height, width in sizes]
    windows = transform.windows(row_keys(len(sizes), seed=1), *np.transpose(sizes))
    out = assemble(
        [image.permute(1, 2, 0).contiguous() for image in images],
        None,
        source=np.arange(len(sizes)),
        window=windows.window,
        offset=windows.offset,
        scale=windows.scale,
        flip=windows.flip,
        real_mean=(0, 0, 0),
        real_std=(1, 1, 1),
        generated_mean=(0, 0, 0),
        generated_std=(1, 1, 1),
        out=torch.empty(len(sizes), 3, transform.output_size, transform.output_size),
    )
    for row, image in enumerate(images):
        want = resample(image.double() / 255, windows, row, transform.output_size)
        np.testing.assert_allclose(out[row].numpy(), want, rtol=0, atol=2e-6)


def test_train_crops_by_its_own_law_and_flips_as_often_as_asked():
    n = 5000
    height, width = np.full(n, 120), np.full(n, 90)
    for flip in (0.0, 0.2, 1.0):
        transform = TrainTransform(64, (0.2, 0.4), (0.9, 1.2), flip)
        windows = transform.windows(row_keys(n), height, width)
        assert np.array_equal(windows.window, random_resized_crop(row_keys(n), height, width, (0.2, 0.4), (0.9, 1.2)))
        assert np.array_equal(windows.scale, windows.window[:, 2:] / 64)
        assert not windows.offset.any()
        assert scipy.stats.binomtest(int(windows.flip.sum()), n, flip).pvalue > 1e-3
    windows = TrainTransform(64).windows(row_keys(n), height, width)
    assert abs(np.corrcoef(windows.flip, windows.window[:, 1])[0, 1]) < 4 / math.sqrt(n)


@pytest.mark.parametrize("transform", [TrainTransform(32), EvalTransform(40, 32)])
def test_a_row_depends_on_its_key_and_size_only(transform):
    height, width = np.arange(50, 81), np.arange(90, 59, -1)
    keys = row_keys(31)
    whole = transform.windows(keys, height, width)
    assert len(whole) == 31
    for i in range(31):
        one, same = transform.windows(keys[i : i + 1], height[i : i + 1], width[i : i + 1]), whole.take(slice(i, i + 1))
        for field in ("window", "offset", "scale", "flip"):
            assert np.array_equal(getattr(one, field), getattr(same, field))
    assert len(transform.windows(row_keys(0), [], [])) == 0


def test_defaults_are_imagenets():
    train, evaluate = TrainTransform(), EvalTransform()
    assert (train.output_size, train.scale, train.ratio, train.flip) == (224, (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    assert (evaluate.output_size, evaluate.resize, evaluate.crop) == (224, 256, 224)
    assert train.mean == evaluate.mean == IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert train.std == evaluate.std == IMAGENET_STD == (0.229, 0.224, 0.225)
    assert TrainTransform(mean=np.zeros(3), std=[1, 1, 1]) == TrainTransform(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert hash(TrainTransform()) == hash(TrainTransform(224))


COMMON = [
    ({"mean": 0.5}, TypeError, "mean must be three finite numbers, got 0.5"),
    ({"mean": (0.1, 0.2)}, ValueError, r"mean must be three finite numbers, got \(0.1, 0.2\)"),
    ({"mean": (0.1, 0.2, math.nan)}, ValueError, "mean must be three finite numbers"),
    ({"std": (0.1, 0.2, 0.0)}, ValueError, r"std must be three positive numbers, got \(0.1, 0.2, 0.0\)"),
    ({"std": (0.1, 0.2, math.inf)}, ValueError, "std must be three positive numbers"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *COMMON,
        ({"size": 0}, ValueError, r"size must be in \[1, 2\^15\), got 0"),
        ({"size": 2**15}, ValueError, r"size must be in \[1, 2\^15\), got 32768"),
        ({"size": 224.0}, TypeError, "size must be an integer, got 224.0"),
        ({"size": (224, 224)}, TypeError, r"size must be an integer, got \(224, 224\)"),
        (
            {"scale": (0.0, 1.0)},
            ValueError,
            r"scale must be \(low, high\) with 0 < low <= high, <= 1, got \(0.0, 1.0\)",
        ),
        (
            {"ratio": (2.0, 1.0)},
            ValueError,
            r"ratio must be \(low, high\) with 0 < low <= high, finite, got \(2.0, 1.0\)",
        ),
        ({"flip": 1.1}, ValueError, r"flip must be in \[0, 1\], got 1.1"),
        ({"flip": math.nan}, ValueError, r"flip must be in \[0, 1\], got nan"),
        ({"flip": "yes"}, TypeError, r"flip must be a number in \[0, 1\], got 'yes'"),
    ],
)
def test_wrong_train_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        TrainTransform(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *COMMON,
        ({"resize": 0, "crop": 0}, ValueError, r"resize must be in \[1, 2\^15\), got 0"),
        ({"crop": -1}, ValueError, r"crop must be in \[1, 2\^15\), got -1"),
        ({"resize": (256, 256)}, TypeError, r"resize must be an integer, got \(256, 256\)"),
        ({"crop": 257}, ValueError, "crop must be at most resize = 256, got 257"),
    ],
)
def test_wrong_eval_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        EvalTransform(**arguments)


@pytest.mark.parametrize("transform", [TrainTransform(32), EvalTransform(40, 32)])
@pytest.mark.parametrize(
    ("height", "width", "error", "message"),
    [
        ([5, 0], [5, 5], ValueError, r"height must be in \[1, 2\^31\), got 0"),
        ([5, 5], [5, 2**31], ValueError, r"width must be in \[1, 2\^31\), got .*2147483648"),
        ([5, 5], [5], ValueError, r"width must have shape \[2\], got \[1\]"),
        ([5.0, 5.0], [5, 5], TypeError, "height must be integers, got float64"),
    ],
)
def test_wrong_sizes_are_named(transform, height, width, error, message):
    with pytest.raises(error, match=message):
        transform.windows(row_keys(2), height, width)
