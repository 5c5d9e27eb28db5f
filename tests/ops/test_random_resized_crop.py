import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms import RandomResizedCrop

from dali_icgan._native import emulated_cuda
from dali_icgan.augment.plan import RowKeys
from dali_icgan.ops.random_resized_crop import random_resized_crop, random_resized_crop_reference
from tests.emulation import emulated_module

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def row_keys(n, seed=3, epoch=0, view=0):
    return RowKeys(seed, epoch, np.arange(n) * 11, np.arange(n) % 3, view)


def crops(n, height, width, scale=SCALE, ratio=RATIO, seed=3):
    return random_resized_crop(row_keys(n, seed), np.full(n, height), np.full(n, width), scale, ratio)


def torchvision_crops(n, height, width, scale=SCALE, ratio=RATIO):
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    return np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)])


def test_known_boxes_never_change():
    keys = RowKeys(2024, 3, [0, 1, 2**40 + 5], [0, 2, 1], 1)
    boxes = random_resized_crop(keys, np.array([333, 500, 1000]), np.array([500, 375, 10]))
    assert boxes.tolist() == [[4, 90, 326, 305], [144, 181, 176, 136], [493, 0, 13, 10]]


@pytest.mark.parametrize("n", [0, 1, 500])
@pytest.mark.parametrize(
    ("scale", "ratio"), [(SCALE, RATIO), ((1.0, 1.0), (1.0, 1.0)), ((0.01, 0.3), (0.2, 9.0)), ((0.5, 0.9), (3.0, 3.0))]
)
def test_equals_the_reference(n, scale, ratio):
    rng = np.random.default_rng(n)
    height, width = np.exp(rng.uniform(0, 9, (2, n))).astype(np.int64)
    got = random_resized_crop(row_keys(n), height, width, scale, ratio)
    assert got.dtype == np.int32
    assert np.array_equal(got, random_resized_crop_reference(row_keys(n), height, width, scale, ratio))
    with emulated_cuda(emulated_module()):  # the build that `make sanitize` checks
        assert np.array_equal(random_resized_crop(row_keys(n), height, width, scale, ratio), got)


@pytest.mark.parametrize("size", [1, 2, 3, 2**31 - 1])
def test_boxes_lie_within_any_image(size):
    for height, width in [(size, 1), (1, size), (size, size), (size, 7)]:
        for ratio in [RATIO, (5.0, 6.0), (0.1, 0.2)]:
            top, left, h, w = crops(200, height, width, ratio=ratio).T.astype(np.int64)
            assert min(top.min(), left.min()) >= 0
            assert min(h.min(), w.min()) >= 1
            assert (top + h).max() <= height
            assert (left + w).max() <= width


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, SCALE, RATIO),
        (500, 333, SCALE, RATIO),
        (64, 64, SCALE, RATIO),
        (300, 400, (0.3, 0.6), (0.5, 1.5)),
        (100, 260, SCALE, RATIO),
    ],
)
def test_follows_torchvisions_law(height, width, scale, ratio):
    ours, theirs = crops(20_000, height, width, scale, ratio), torchvision_crops(3_000, height, width, scale, ratio)

    def statistics(boxes):
        top, left, h, w = boxes.T.astype(float)
        return {
            "area": h * w,
            "aspect": np.log(w / h),
            "top": top,
            "left": left,
            "room below": height - h - top,
            "room right": width - w - left,
            "relative top": (top + 0.5) / (height - h + 1),
        }

    for name, values in statistics(ours).items():
        assert scipy.stats.ks_2samp(values, statistics(theirs)[name]).pvalue > 1e-3, name


@pytest.mark.parametrize(("height", "width"), [(100, 500), (600, 100)])
def test_falls_back_as_often_and_to_the_same_box_as_torchvision(height, width):
    ours, theirs = (
        crops(20_000, height, width, scale=(0.2, 1.0)),
        torchvision_crops(3_000, height, width, scale=(0.2, 1.0)),
    )
    aspect = RATIO[0] if width < height else RATIO[1]
    h, w = (height, round(height * aspect)) if width > height else (round(width / aspect), width)
    central = [(height - h) // 2, (width - w) // 2, h, w]
    counts = [[int((boxes == central).all(1).sum()) for boxes in (ours, theirs)], [len(ours), len(theirs)]]
    assert min(counts[0]) > 100
    assert scipy.stats.chi2_contingency([counts[0], np.subtract(counts[1], counts[0])]).pvalue > 1e-3


def test_an_impossible_crop_is_torchvisions_central_one():
    assert crops(50, 1000, 10).tolist() == [list(box) for box in torchvision_crops(50, 1000, 10)]
    assert crops(50, 10, 1000).tolist() == [list(box) for box in torchvision_crops(50, 10, 1000)]


def test_an_image_of_a_possible_aspect_is_taken_whole_when_no_try_fits():
    # All of the area, at an aspect that is hardly ever the image's own: ten tries fail in 29 of 30 rows.
    ours = crops(400, 1000, 1001, scale=(1.0, 1.0))
    assert (ours == [0, 0, 1000, 1001]).all(1).mean() > 0.9
    assert (torchvision_crops(400, 1000, 1001, scale=(1.0, 1.0)) == [0, 0, 1000, 1001]).all(1).mean() > 0.9


def test_a_row_depends_on_its_key_and_size_only():
    keys = row_keys(31)
    height, width = np.arange(100, 131), np.arange(300, 269, -1)
    whole = random_resized_crop(keys, height, width)
    for i in range(31):
        assert np.array_equal(random_resized_crop(keys[i : i + 1], height[i : i + 1], width[i : i + 1])[0], whole[i])
    assert not np.array_equal(random_resized_crop(row_keys(31, view=1), height, width), whole)
    assert not np.array_equal(random_resized_crop(row_keys(31, epoch=1), height, width), whole)


ONES = np.ones(3, np.int64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"height": ONES * 0}, ValueError, r"height must be in \[1, 2\^31\), got 0 at row 0"),
        ({"width": ONES * 2**31}, ValueError, r"width must be in \[1, 2\^31\), got 2147483648 at row 0"),
        ({"width": ONES[:2]}, ValueError, r"width must have shape \[3\], got \[2\]"),
        ({"height": ONES * 0.5}, TypeError, "height must be integers, got float64"),
        (
            {"scale": (0.0, 1.0)},
            ValueError,
            r"scale must be \(low, high\) with 0 < low <= high, <= 1, got \(0.0, 1.0\)",
        ),
        ({"scale": (0.5, 1.5)}, ValueError, "scale must be .low, high. with 0 < low <= high, <= 1"),
        ({"scale": (0.5, 0.4)}, ValueError, "scale must be .low, high. with 0 < low <= high, <= 1"),
        ({"scale": 0.5}, TypeError, "scale must be two numbers, got 0.5"),
        ({"ratio": (1.0, float("inf"))}, ValueError, "ratio must be .low, high. with 0 < low <= high, finite"),
        ({"ratio": (float("nan"), 1.0)}, ValueError, "ratio must be .low, high. with 0 < low <= high, finite"),
        ({"ratio": (1.0, 2.0, 3.0)}, TypeError, "ratio must be two numbers"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        random_resized_crop(**{"keys": row_keys(3), "height": ONES, "width": ONES} | change)
