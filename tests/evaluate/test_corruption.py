"""Corruptions as images are read."""

import io

import numpy as np
import pytest
from PIL import Image

from dali_icgan.evaluate.corruption import corrupted
from dali_icgan.evaluate.sets import CORRUPTIONS, folder_set
from tests.evaluate.conftest import fill

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    fill(root / "a", 2)
    (root / "a" / "2.jpg").write_bytes((root / "a" / "0.jpg").read_bytes())
    return folder_set("corrupted", root, {"a": 0})


def pixels(images, index):
    return np.asarray(Image.open(io.BytesIO(images.samples.read(index))), np.float64)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_pixels_are_a_function_of_image_corruption_and_severity(clean, corruption):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, five = (corrupted(clean, corruption, severity, 72, 64) for severity in (1, 5))
    assert one.name == f"corrupted/{corruption}/1"
    assert one.cropped
    first = pixels(one, 0)
    assert first.shape == (64, 64, 3)
    pixels(one, 1)
    assert np.array_equal(pixels(one, 0), first)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    whole = Image.open(clean.samples.path(0))
    short = min(whole.size)
    whole = whole.resize((72 * whole.width // short, 72 * whole.height // short), Image.Resampling.BILINEAR)
    left, top = (whole.width - 64) / 2, (whole.height - 64) / 2
    plain = np.asarray(whole.crop((round(left), round(top), round(left) + 64, round(top) + 64)), np.float64)
    strong = pixels(five, 0)
    assert not np.array_equal(first, strong)
    assert 0.1 < np.abs(first - plain).mean() < 128  # the same photograph still


def test_two_images_have_other_noise(clean):
    # The same photograph under two names.
    noisy = corrupted(clean, "gaussian_noise", 3, 72, 64)
    assert not np.array_equal(pixels(noisy, 0), pixels(noisy, 2))


@pytest.mark.parametrize(
    ("corruption", "severity", "crop", "said"),
    [
        ("rain", 1, 64, "corruption and severity must be one of gaussian_noise.* got rain, 1"),
        ("fog", 6, 64, "1 to 5, got fog, 6"),
        ("fog", 1, 31, "crop must be at least 32 pixels"),
    ],
)
def test_what_there_is_not(clean, corruption, severity, crop, said):
    with pytest.raises(ValueError, match=said):
        corrupted(clean, corruption, severity, 72, crop)
