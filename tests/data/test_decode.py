import io

import numpy as np
import pytest
import torch
from PIL import Image

from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.data.decode import build_graph
from dali_icgan.data.read import Reader, encoded
from dali_icgan.errors import DecodeError
from tests.photos import jpeg, patch, photograph

pytestmark = pytest.mark.dali


@pytest.fixture
def decoder():
    made = ImageDecoder(1)
    yield made
    made.close()


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


KINDS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "quality 30": {"quality": 30},
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_equal_pillows(decoder, kind):
    files = [jpeg(patch("coffee", i), **KINDS[kind]) for i in range(4)]
    for data, pixels in zip(files, decoder.decode(files), strict=True):
        assert np.array_equal(pixels.numpy(), pillow(data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_equals_the_whole_image_cut(decoder, kind):
    random = np.random.default_rng(0)
    images, regions = [], []
    for i in range(8):
        image = encoded(jpeg(patch("astronaut", i), **KINDS[kind]))
        top, left = random.integers(0, image.height), random.integers(0, image.width)
        regions.append(
            (top, left, random.integers(1, image.height - top + 1), random.integers(1, image.width - left + 1))
        )
        images.append(image)
    for image, (top, left, height, width), pixels in zip(
        images, regions, decoder.decode_regions(images, regions), strict=True
    ):
        assert np.array_equal(pixels.numpy(), pillow(image.data.tobytes())[top : top + height, left : left + width])


def test_bad_files_leave_their_neighbours_alone(decoder):
    good = [jpeg(patch("chelsea", i)) for i in range(4)]
    truncated = jpeg(photograph("chelsea"))[:20_000]
    broken = jpeg(patch("coffee", 3)).replace(b"\xff\xdb", b"\xff\xef")  # no quantisation tables
    results = decoder.decode([good[0], b"", truncated, good[1], b"garbage" * 30, good[2], broken, good[3]])
    for i, data in zip((0, 3, 5, 7), good, strict=True):
        assert np.array_equal(results[i].numpy(), pillow(data))
    assert results[1] == "empty file"
    assert "truncated" in results[2]
    assert "not a JPEG" in results[4]
    assert isinstance(results[6], str)


def test_an_image_above_max_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match=r"300 x 200 pixels, more than max_pixels = 1000"):
        encoded(jpeg(np.zeros((200, 300, 3), np.uint8)), max_pixels=1000)


def test_any_batch_size_and_none(decoder):
    data = jpeg(patch("coffee", 1))
    assert decoder.decode([]) == []
    for n in (1, 5, 2, 9):
        assert len(decoder.decode([data] * n)) == n


def test_the_gpu_graph_is_built_and_serialised_without_a_gpu():
    text = build_graph(8, 2, torch.device("cuda"), exif=False).serialize()
    assert b"mixed" in text
    assert b"jpeg_fancy_upsampling" in text


def test_readers_name_what_they_cannot_read(tmp_path):
    (tmp_path / "good.jpg").write_bytes(jpeg(patch("coffee", 1)))
    (tmp_path / "empty.jpg").write_bytes(b"")
    names = ["good.jpg", "empty.jpg", "missing.jpg"]
    reader = Reader(as_samples([(tmp_path / name, 0) for name in names]), 2)
    good, empty, missing = reader.read([0, 1, 2])
    assert good.data.nbytes == (tmp_path / "good.jpg").stat().st_size
    assert isinstance(empty, DecodeError)
    assert (empty.index, empty.reason) == (1, "empty file")
    assert missing.reason == "No such file or directory"
    assert str(missing) == f"{tmp_path / 'missing.jpg'} (index 2): No such file or directory"
    outside = reader.read([str(tmp_path / "good.jpg")])[0]
    assert np.array_equal(outside.data, good.data)
    reader.close()


def test_without_dali_the_extra_is_named(monkeypatch):
    import sys

    from dali_icgan.errors import DeviceError

    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(DeviceError, match=r"pip install 'dali-icgan\[cu13\]'"):
        build_graph(1, 1, torch.device("cpu"), exif=False)
