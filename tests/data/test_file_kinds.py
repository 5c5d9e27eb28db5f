"""Every kind of file of tests/file_kinds.py, decoded alone, by region and by the loader."""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

import dali_icgan as di
from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.data.read import Reader, encoded
from tests.file_kinds import KINDS, MARK, PAGE, PIXELS, RGB, by_pillow, encode, jpeg, rotated, table, unreadable

pytestmark = pytest.mark.dali

GOOD = [kind for kind in KINDS if kind.pixels is not None]
BAD = [kind for kind in KINDS if kind.pixels is None]


def names(kinds):
    return [f"{kind.group}, {kind.name}" for kind in kinds]


@pytest.fixture(scope="module")
def decoders():
    """By device; building one takes a while."""
    made = {}
    yield lambda device: made.setdefault(device, ImageDecoder(2, device=device))
    for decoder in made.values():
        decoder.close()


def check_pixels(kind, got, want, device):
    assert not isinstance(got, str), got
    assert got.shape == want.shape
    if device == "cpu" or kind.lossless:
        assert np.array_equal(got.cpu().numpy(), want)
    elif "damaged" not in kind.group:  # what stands where data are missing is each decoder's own
        # The GPU's JPEG decoder has another inverse DCT and, for unusual samplings, other chroma upsampling.
        difference = np.abs(got.cpu().numpy().astype(int) - want)
        assert difference.mean() < 3
        assert difference.max() < 64


def has_header(kind):
    try:
        encoded(kind.data)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", GOOD, ids=names(GOOD))
def test_a_good_file_gives_pillows_pixels(kind, decoders, device):
    decoder = decoders(device)
    before = decoder.pillow_decoded
    (got,) = decoder.decode([kind.data])
    check_pixels(kind, got, kind.pixels, device)
    # On the GPU what the mixed decoder refuses goes to Pillow as well.
    assert decoder.pillow_decoded - before == kind.pillow or (device == "cuda" and not kind.pillow)


@pytest.mark.parametrize("kind", BAD, ids=names(BAD))
def test_a_bad_file_gives_the_reason(kind, decoders, device):
    (got,) = decoders(device).decode([kind.data])
    assert isinstance(got, str)
    assert re.search(kind.error, got), got


@pytest.mark.parametrize("kind", KINDS, ids=names(KINDS))
def test_no_crop_makes_a_file_better_or_worse(kind, decoders):
    if not has_header(kind):
        return  # bad before there is a crop
    image = encoded(kind.data)
    h, w = image.height, image.width
    random = np.random.default_rng(0)
    tops, lefts = random.integers(0, h, 4), random.integers(0, w, 4)
    regions = [
        (top, left, random.integers(1, h - top + 1), random.integers(1, w - left + 1))
        for top, left in zip(tops, lefts, strict=True)
    ]
    regions += [(0, 0, 1, 1), (0, 0, 1, w), (h - 1, 0, 1, w), (0, w - 1, h, 1), (h - 1, w - 1, 1, 1)]
    for top, left, height, width in regions:
        (got,) = decoders("cpu").decode_regions([image], [(int(top), int(left), int(height), int(width))])
        if kind.pixels is None:
            assert isinstance(got, str)
        else:
            assert np.array_equal(got.numpy(), kind.pixels[top : top + height, left : left + width])


def test_all_kinds_in_one_batch(decoders, device):
    before = decoders(device).pillow_decoded
    results = decoders(device).decode([kind.data for kind in KINDS])
    if device == "cpu":  # good files do not follow the bad ones of their batch to Pillow
        by_pillow = sum(kind.pillow for kind in GOOD) + sum(has_header(kind) for kind in BAD)
        assert decoders(device).pillow_decoded - before == by_pillow
    for kind, got in zip(KINDS, results, strict=True):
        if kind.pixels is None:
            assert re.search(kind.error, got), got
        else:
            check_pixels(kind, got, kind.pixels, device)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_loader_by_content_not_by_name(tmp_path, batch_size, device):
    """Beside a folder of PNGs that hold the expected pixels: the same crops of the same pixels."""
    for i, kind in enumerate(KINDS):
        for root, data in (
            ("files", kind.data),
            ("expected", b"" if kind.pixels is None else encode(Image.fromarray(kind.pixels), "PNG")),
        ):
            path = tmp_path / root / "some" / f"{i:03d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    rows, errors = {}, {}
    for root in ("files", "expected"):
        arguments = {"seed": 1, "transform": di.TrainTransform(32), "return_info": True, "device": device}
        with di.DataLoader(tmp_path / root, batch_size, dtype=torch.float32, **arguments) as loader:
            with pytest.warns(UserWarning, match="it is replaced by the next readable sample"):
                batches = list(loader)
            if root == "files" and device == "cpu":
                assert loader.pillow_decoded >= sum(kind.pillow for kind in KINDS)
            errors[root] = sorted(int(Path(error.path).stem) for error in loader.errors)
        assert [len(labels) for _, labels, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
        for images, _, info in batches:
            for row, key in enumerate(zip(info["index"].tolist(), info["repeat"].tolist(), strict=True)):
                rows.setdefault(key, {})[root] = images[row].cpu()
    assert errors["files"] == errors["expected"] == [i for i, kind in enumerate(KINDS) if kind.pixels is None]
    assert sum(len(row) for row in rows.values()) == 2 * len(KINDS)
    for (index, _), row in rows.items():
        if device == "cpu" or KINDS[index].lossless:
            assert torch.equal(row["files"], row["expected"]), KINDS[index].name


def test_the_readme_shows_these_results():
    shown = PAGE.read_text().split(MARK[0])[1].split(MARK[1])[0].strip()
    assert shown == table(), "python -m tests.file_kinds writes it"


# ---------------------------------------------------------------------- paths


def test_what_cannot_be_read_is_named(tmp_path):
    paths = unreadable(tmp_path)
    reader = Reader(as_samples([(path, 0) for path in paths.values()]), 1, max_pixels=PIXELS[..., 0].size - 1)
    reasons = [item.reason for item in reader.read(range(len(paths)))]
    assert reasons == [
        "No such file or directory",
        "Is a directory",
        "not a regular file",
        "No such file or directory",
        "75 x 60 pixels, more than max_pixels = 4499",
    ]


@contextmanager
def without_privileges():
    """As a user whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permission_denied():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to everybody else
        os.chmod(folder, 0o755)
        path = Path(folder) / "secret.jpg"
        path.write_bytes(jpeg(PIXELS))
        path.chmod(0)
        with without_privileges():
            (item,) = Reader(as_samples([(path, 0)]), 1).read([0])
    assert item.reason == "Permission denied"
    assert (item.path, item.index) == (str(path), 0)


@pytest.mark.parametrize(
    "name", ["grün 照片 🙂.jpg", "with\nnewline.jpg", os.fsdecode(b"not-utf8-\xff\xfe.jpg"), "-o %s {}.jpg"]
)
def test_any_path(tmp_path, name, generator, extractor):
    folder = tmp_path / "some class é"
    folder.mkdir()
    (folder / name).write_bytes(jpeg(PIXELS))
    (folder / "bad.jpg").symlink_to(folder / ("bad" + name))
    (folder / "link.jpg").symlink_to(folder / name)
    (folder / ("bad" + name)).write_bytes(b"garbage")
    with di.DataLoader(tmp_path, 4, device="cpu", transform=di.EvalTransform(32, 32), return_info=True) as loader:
        with pytest.warns(UserWarning, match="bad"):
            ((images, _, info),) = list(loader)
        assert {os.path.basename(error.path) for error in loader.errors} == {"bad.jpg", "bad" + name}
        assert set(map(os.path.basename, info["path"])) == {name, "link.jpg"}
        assert all(torch.equal(image, images[0]) for image in images)
        loader.state_dict()
    if "\n" in name:
        return  # a bank refuses line breaks by name: tests/augment/test_bank.py
    at = extractor.at_resolution(generator.resolution)
    bank = di.FeatureBank.build(tmp_path, at, tmp_path.parent / f"{tmp_path.name}-bank", progress=False)
    assert bank.present.sum() == 2
    assert f"some class é/{name}" in bank.keys


def test_a_file_that_changes_or_vanishes_between_epochs(tmp_path):
    (tmp_path / "one").mkdir()
    for i in range(4):
        (tmp_path / "one" / f"{i}.jpg").write_bytes(jpeg(np.roll(PIXELS, i, 0)))
    with di.DataLoader(tmp_path, 4, device="cpu", transform=di.EvalTransform(32, 32), return_info=True) as loader:
        ((before, _, _),) = list(loader)
        (tmp_path / "one" / "1.jpg").write_bytes(encode(RGB.resize((41, 200)), "PNG"))
        (tmp_path / "one" / "2.jpg").unlink()
        with pytest.warns(UserWarning, match=r"2\.jpg \(index 2\): No such file or directory"):
            ((after, _, info),) = list(loader)
        assert info["index"].tolist() == [0, 1, 3, 3]
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[3], after[3])
        assert not torch.equal(before[1], after[1])
        (tmp_path / "one" / "2.jpg").write_bytes(jpeg(np.roll(PIXELS, 2, 0)))  # and back again
        ((again, _, info),) = list(loader)
        assert info["index"].tolist() == [0, 1, 2, 3]
        assert torch.equal(again[2], before[2])


# ---------------------------------------------------------------------- rotation


ROTATED = [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG2000", {})]


@pytest.mark.parametrize(("kind", "options"), ROTATED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_is_off_unless_asked_for(kind, options, orientation):
    data = rotated(kind, orientation, **options)
    for exif in (False, True):
        decoder = ImageDecoder(1, exif=exif)
        want = by_pillow(data, exif)
        (got,) = decoder.decode([data])
        assert np.array_equal(got.numpy(), want)
        image = encoded(data, exif=exif)
        assert (image.height, image.width) == want.shape[:2]
        (part,) = decoder.decode_regions([image], [(3, 5, 20, 30)])
        assert np.array_equal(part.numpy(), want[3:23, 5:35])
        decoder.close()


# ---------------------------------------------------------------------- memory


EPOCHS = """
import resource, sys
import dali_icgan as di
for folder in sys.argv[1:]:
    for transform in (di.EvalTransform(256, 224), di.TrainTransform(224)):
        with di.DataLoader(folder, 4, device="cpu", transform=transform) as loader:
            rows = sum(len(labels) for _, labels in loader)
        assert rows == 4, rows
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # bytes, the most so far
"""


def test_size_alone_costs_no_memory(tmp_path):
    """14,000 x 14,000 pixels in 2 MB are refused by their header; 500 x 1 never becomes 128,000 x 256."""
    folders = []
    for name, size in (("usual", (75, 60)), ("stripe", (500, 1)), ("column", (1, 500)), ("bomb", (14_000, 14_000))):
        folders.append(tmp_path / name / "one")
        folders[-1].mkdir(parents=True)
        for i in range(4):
            width, height = size if i == 0 else (75, 60)
            (folders[-1] / f"{i}.jpg").write_bytes(jpeg(np.full((height, width, 3), 90, np.uint8)))
    assert (folders[-1] / "0.jpg").stat().st_size > 1_000_000
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EPOCHS, *[folder.parent for folder in folders]],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=PAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    usual, *others = map(int, done.stdout.split())
    assert max(others) < usual + 60e6


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused_before_it_is_decoded(decoders):
    gif = bytearray(next(kind.data for kind in KINDS if kind.group == "GIF"))
    gif[6:10] = b"\x05\0\x05\0"  # the screen
    (got,) = decoders("cpu").decode([bytes(gif)])
    assert got == "its header says 5 x 5 pixels, it holds 75 x 60"


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 1000), (1, 1), (167, 166), (255, 257)])
@pytest.mark.parametrize("geometry", [(256, 224), (32, 32), (37, 23)])
def test_eval_geometry_is_torchvisions(size, geometry):
    h, w = size
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    resize, crop = geometry
    data = encode(Image.fromarray(pixels), "PNG")
    with di.DataLoader([(data, 0)], device="cpu", transform=di.EvalTransform(resize, crop)) as loader:
        ((images, _),) = list(loader)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    resized = tv.resize(image, [resize], antialias=True)
    cropped = tv.center_crop(resized, [crop])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (di.EvalTransform().mean, di.EvalTransform().std))
    assert torch.allclose(images, (cropped - mean) / std, atol=2e-4)
