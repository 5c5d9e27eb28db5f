import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from dali_icgan.augment import bank as bank_module
from dali_icgan.augment import bank_files
from dali_icgan.augment.bank import FeatureBank
from dali_icgan.data import ImageDecoder, as_samples
from dali_icgan.engine import load_extractor
from tests.photos import make_folder

DTYPES = [torch.float32, torch.float16]


class FakeExtractor:
    """Unit rows of a few statistics of the image; counts the images it has seen, and may raise at a call."""

    def __init__(self, dim=12, resolution=32, align_corners=False, fingerprint="fake", fail_at=None):
        self.dim, self.resolution, self.align_corners, self.fingerprint = dim, resolution, align_corners, fingerprint
        self.source, self.device = "fake.pth", torch.device("cpu")
        self.calls, self.sizes, self.fail_at = 0, [], fail_at
        self.prepared_before = []

    def prepare(self, n):
        self.prepared_before.append((n, self.calls))

    def __call__(self, images):
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.sizes.append(len(images))
        rows = []
        for image in images:
            x = image.double() / 255
            rows.append(torch.cat([x.mean((0, 1)), x.std((0, 1)), x[0, 0], x[-1, -1]])[: self.dim])
        return torch.nn.functional.normalize(torch.stack(rows), dim=1).float()


def unit(n, d, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos") / "train", 7)  # 21 images


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    return FeatureBank.build(
        photos, FakeExtractor(), tmp_path_factory.mktemp("banks") / "bank", batch_size=4, progress=False
    )


@pytest.fixture
def copy(built, tmp_path):
    """A bank's folder to be damaged."""
    return Path(shutil.copytree(built.path, tmp_path / "copy"))


def edit(folder, **changes):
    meta = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps({**meta, **changes}))


def lose(folder, name):
    meta = json.loads((folder / "bank.json").read_text())
    del meta[name]
    (folder / "bank.json").write_text(json.dumps(meta))


def header(folder, text):
    """Another header for the features."""
    words = text.encode()
    (folder / "features.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words + bytes(504))


# ---------------------------------------------------------------------- building


@pytest.mark.parametrize("dtype", DTYPES)
def test_holds_the_extractors_features_in_the_datasets_order(photos, tmp_path, dtype):
    samples, extractor = as_samples(photos), FakeExtractor()
    bank = FeatureBank.build(photos, extractor, tmp_path / "bank", dtype=dtype, batch_size=5, progress=False)
    decoder = ImageDecoder(1)
    want = extractor(decoder.decode([samples.read(i) for i in range(len(samples))]))
    assert (bank.n, bank.dim, len(bank)) == (21, 12, 21)
    assert bank.keys == samples.keys
    assert bank.keys[8] == "chelsea/001.jpg"
    assert bank.labels.tolist() == samples.labels.tolist()
    assert bank.present.all()
    assert (bank.resolution, bank.align_corners, bank.exif, bank.dtype) == (32, False, False, dtype)
    assert (bank.extractor_fingerprint, bank.dataset_fingerprint) == ("fake", samples.fingerprint)
    assert (bank.root, bank.path) == (str(photos), str(tmp_path / "bank"))
    assert "21 x 12" in repr(bank)
    got = bank.gather(np.arange(21), "cpu")
    if dtype == torch.float32:
        assert torch.equal(got, want)
    assert (got - want).abs().max() < 2.0**-11
    assert sorted(p.name for p in (tmp_path / "bank").iterdir()) == [
        ".lock",
        "bank.json",
        "features.npy",
        "keys.txt",
        "labels.npy",
    ]


def test_every_extractor_call_has_the_same_number_of_images(photos, tmp_path):
    extractor = FakeExtractor()
    FeatureBank.build(photos, extractor, tmp_path / "a", batch_size=8, progress=False)
    assert extractor.sizes == [8, 8, 8]
    assert extractor.prepared_before == [(8, 0)]  # its plan, before a thread reads ahead
    FeatureBank.build(photos, small := FakeExtractor(), tmp_path / "b", batch_size=64, progress=False)
    assert small.sizes == [21]
    assert small.prepared_before == [(21, 0)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_the_real_extractor(photos, tmp_path, dtype):
    extractor = load_extractor("embedded", device="cpu", resolution=32)
    bank = FeatureBank.build(photos, extractor, tmp_path / "bank", dtype=dtype, batch_size=8, progress=False)
    samples = as_samples(photos)
    images = ImageDecoder(1).decode([samples.read(i) for i in range(8)])
    assert (bank.gather(range(8), "cpu") - extractor(images)).abs().max() < (1e-6 if dtype == torch.float32 else 1e-3)
    bank.check_against(samples, extractor)
    with pytest.raises(ValueError, match="extractor's resolution 64, got 32"):
        bank.check_against(samples, load_extractor("embedded", device="cpu", resolution=64))


@pytest.mark.parametrize("fail_at", [0, 1, 3, 5])
def test_an_interrupted_build_goes_on_where_it_was(photos, built, tmp_path, fail_at):
    path = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        FeatureBank.build(photos, FakeExtractor(fail_at=fail_at), path, batch_size=4, progress=False)
    with pytest.raises(ValueError, match=rf"must be finished, got {4 * fail_at} of 21 rows"):
        FeatureBank.open(path)
    with (path / "features.npy.part").open("ab") as part:
        part.write(b"rows that were written but not counted")
    rest = FakeExtractor()
    bank = FeatureBank.build(photos, rest, path, batch_size=4, progress=False)
    assert rest.calls == 6 - fail_at
    assert (path / "features.npy").read_bytes() == (Path(built.path) / "features.npy").read_bytes()
    assert bank.keys == built.keys


def test_a_killed_build_goes_on(photos, built, tmp_path):
    path = tmp_path / "bank"
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from dali_icgan.augment import bank, bank_build
from tests.augment.test_bank import FakeExtractor
bank_build._SAVE_SECONDS = 0
class Killed(FakeExtractor):
    def __call__(self, images):
        if self.calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)
bank.FeatureBank.build({str(photos)!r}, Killed(), {str(path)!r}, batch_size=4, progress=False)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    rest = FakeExtractor()
    FeatureBank.build(photos, rest, path, batch_size=4, progress=False)
    assert rest.calls == 2
    assert (path / "features.npy").read_bytes() == (Path(built.path) / "features.npy").read_bytes()


def kill_at(monkeypatch, step):
    """Cut the build off before its step-th change of a file's name: all that it does to the folder is such a change or a write to the
    unfinished array."""
    real, count = os.replace, iter(range(1000))

    def replace(*names):
        if next(count) == step:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr(bank_files.os, "replace", replace)
    return lambda: next(count)


@pytest.mark.parametrize("step", range(9))
def test_a_build_cut_off_between_any_two_files_goes_on(photos, built, tmp_path, monkeypatch, step):
    path = tmp_path / "bank"
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        if step < 7:
            with pytest.raises(KeyboardInterrupt):
                FeatureBank.build(photos, FakeExtractor(), path, batch_size=4, progress=False)
        else:  # by then it is done
            FeatureBank.build(photos, FakeExtractor(), path, batch_size=4, progress=False)
    FeatureBank.build(photos, FakeExtractor(), path, batch_size=4, progress=False)
    for name in ("features.npy", "keys.txt", "labels.npy", "bank.json"):
        assert (path / name).read_bytes() == (Path(built.path) / name).read_bytes(), name
    assert not list(path.glob("*.new"))


def test_a_finished_bank_is_opened_not_computed(photos, copy):
    extractor = FakeExtractor()
    before = (copy / "features.npy").stat().st_mtime_ns
    bank = FeatureBank.build(photos, extractor, copy, batch_size=3, progress=False)
    assert extractor.calls == 0
    assert bank.n == 21
    assert (copy / "features.npy").stat().st_mtime_ns == before


def test_a_second_builder_waits_for_the_first(photos, tmp_path, caplog):
    path = tmp_path / "bank"
    started, go_on = threading.Event(), threading.Event()

    class Slow(FakeExtractor):
        def __call__(self, images):
            started.set()
            go_on.wait(60)
            return super().__call__(images)

    first = threading.Thread(target=FeatureBank.build, args=(photos, Slow(), path), kwargs={"progress": False})
    first.start()
    assert started.wait(60)
    other, banks = FakeExtractor(), []
    second = threading.Thread(target=lambda: banks.append(FeatureBank.build(photos, other, path, progress=False)))
    second.start()
    while "is being built by another process" not in caplog.text:
        time.sleep(0.01)
    go_on.set()
    first.join(60)
    second.join(60)
    assert banks[0].n == 21
    assert other.calls == 0


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "extractor_fingerprint must be other, got fake"),
        ({"resolution": 64}, "resolution must be 64, got 32"),
        ({"align_corners": True}, "align_corners must be True, got False"),
        ({"dim": 6}, "dim must be 6, got 12"),
    ],
)
def test_a_bank_of_another_extractor_is_refused_and_kept(photos, tmp_path, copy, change, message, finished):
    if not finished:
        copy = tmp_path / "part"
        with pytest.raises(KeyboardInterrupt):
            FeatureBank.build(photos, FakeExtractor(fail_at=2), copy, batch_size=4, progress=False)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    with pytest.raises(ValueError, match=rf"{copy} holds another bank, of {photos}, and is left as it is: .*{message}"):
        FeatureBank.build(photos, FakeExtractor(**change), copy, progress=False)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before


def test_a_bank_of_another_dataset_or_kind_is_refused(photos, copy):
    subset = [(str(photos / "coffee" / "000.jpg"), 0)]
    with pytest.raises(ValueError, match=r"dataset_fingerprint must be \w+, got \w+; n must be 1, got 21"):
        FeatureBank.build(subset, FakeExtractor(), copy, progress=False)
    with pytest.raises(ValueError, match="dtype must be float32, got float16"):
        FeatureBank.build(photos, FakeExtractor(), copy, dtype=torch.float32, progress=False)
    with pytest.raises(ValueError, match="exif must be True, got False"):
        FeatureBank.build(photos, FakeExtractor(), copy, exif=True, progress=False)


def test_a_part_is_not_continued_with_files_from_elsewhere(photos, tmp_path, copy):
    moved = shutil.copytree(photos, tmp_path / "moved" / "train")
    assert FeatureBank.build(moved, FakeExtractor(), copy, progress=False).n == 21
    path = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        FeatureBank.build(photos, FakeExtractor(fail_at=1), path, batch_size=4, progress=False)
    with pytest.raises(ValueError, match=f"root must be {moved}, got {photos}"):
        FeatureBank.build(moved, FakeExtractor(), path, batch_size=4, progress=False)


def test_unreadable_files_are_absent_with_their_reasons(photos, tmp_path, caplog):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "astronaut" / "001.jpg").write_bytes(b"")
    (folder / "chelsea" / "002.jpg").write_bytes(b"not an image")
    (folder / "coffee" / "006.jpg").unlink()
    (folder / "coffee" / "006.jpg").symlink_to(tmp_path / "nowhere")
    extractor = FakeExtractor()
    bank = FeatureBank.build(folder, extractor, tmp_path / "bank", batch_size=4, progress=False)
    assert np.flatnonzero(~bank.present).tolist() == [1, 9, 20] == sorted(bank.absent)
    assert "No such file" in bank.absent[20]
    assert "3 of 21 images could not be read, the first astronaut/001.jpg: " in caplog.text
    assert set(extractor.sizes) == {4}
    assert bank.n == 21
    assert (bank.gather(np.flatnonzero(bank.present), "cpu").norm(dim=1) - 1).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"rows must be present, got 9 \(chelsea/002.jpg\), which is not: "):
        bank.gather([0, 9], "cpu")
    near = bank.neighbours(17)
    assert (near[[1, 9, 20]] == -1).all()
    assert not np.isin(near[bank.present], [1, 9, 20, -1]).any()
    with pytest.raises(ValueError, match=r"k must be an integer in 1..17, the other rows that are present, got 18"):
        bank.neighbours(18)


def test_a_dataset_in_memory(photos, tmp_path):
    samples = as_samples(photos)
    pairs = [(samples.read(i), int(samples.labels[i])) for i in range(5)]
    bank = FeatureBank.build(pairs, FakeExtractor(), tmp_path / "bank", progress=False)
    assert bank.keys[0].startswith("sha256:")
    assert bank.root is None
    bank.check_against(as_samples(pairs[2:4]))
    assert bank.rows_for(as_samples(pairs[2:4])).tolist() == [2, 3]


def test_progress_is_shown_on_the_terminal(photos, tmp_path, capsys):
    FeatureBank.build(photos, FakeExtractor(), tmp_path / "bank", batch_size=4)
    shown = capsys.readouterr()
    assert "21/21" in shown.err
    assert "images/s" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.bfloat16}, "dtype must be torch.float16 or torch.float32, got torch.bfloat16"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"extractor": FakeExtractor(resolution=None)}, "extractor must know its resolution, got None"),
        ({"path": __file__}, "path must be a folder, got .*test_bank.py, which is a file"),
    ],
)
def test_wrong_arguments_of_build_are_named(photos, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FeatureBank.build(
            photos, **{"extractor": FakeExtractor(), "path": tmp_path / "bank", "progress": False, **options}
        )


def test_a_folder_with_something_else_is_left_alone(photos, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(
        ValueError, match=rf"path must be a folder that is new, empty or a bank, got {tmp_path} with thesis.tex"
    ):
        FeatureBank.build(photos, FakeExtractor(), tmp_path, progress=False)


def test_an_extractor_without_direction_is_named(photos, tmp_path):
    class Broken(FakeExtractor):
        def __call__(self, images):
            rows = super().__call__(images)
            rows[2] *= self.factor
            return rows

    for factor in (0.0, float("nan"), 2.0):
        Broken.factor = factor
        with pytest.raises(
            ValueError,
            match=rf"extractor must give rows of unit length, got norm {factor}.* for {photos}/astronaut/002.jpg",
        ):
            FeatureBank.build(photos, Broken(), tmp_path / str(factor), batch_size=4, progress=False)


def test_a_dataset_without_a_readable_image_is_refused(tmp_path):
    (tmp_path / "d" / "a").mkdir(parents=True)
    (tmp_path / "d" / "a" / "x.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"dataset must hold a readable image, got none of 1: a/x\.jpg: "):
        FeatureBank.build(tmp_path / "d", FakeExtractor(), tmp_path / "bank", progress=False)


def test_a_path_with_a_line_break_is_refused(photos, tmp_path):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "coffee" / "000.jpg").rename(folder / "coffee" / "0\n0.jpg")
    with pytest.raises(ValueError, match=r"dataset must have paths without line breaks, got 'coffee/0\\n0.jpg'"):
        FeatureBank.build(folder, FakeExtractor(), tmp_path / "bank", progress=False)


def test_a_damaged_part_is_refused(photos, tmp_path):
    path = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        FeatureBank.build(photos, FakeExtractor(fail_at=3), path, batch_size=4, progress=False)
    part = path / "features.npy.part"
    whole = part.read_bytes()
    for damaged, message in [
        (whole[:-20], "must hold 12 rows of 12 float16, got less"),
        (whole[:10], "must be an array, got something damaged"),
        (b"x" * 300, "must be an array"),
    ]:
        part.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            FeatureBank.build(photos, FakeExtractor(), path, batch_size=4, progress=False)


# ---------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "bank.json").write_text('{"version": 1'), "bank.json must be JSON, got something damaged"),
        (lambda d: (d / "bank.json").write_text("[]"), "bank.json must be of version 1, got None"),
        (lambda d: edit(d, version=2), "bank.json must be of version 1, got 2"),
        (lambda d: edit(d, resolution="big"), r"bank.json must have resolution \(int\), got 'big'"),
        (lambda d: edit(d, n=True), r"bank.json must have n \(int\), got True"),
        (lambda d: edit(d, n=0), "bank.json must have n of at least 1, got 0"),
        (lambda d: edit(d, dim=-1), "bank.json must have dim of at least 1, got -1"),
        (lambda d: lose(d, "root"), r"bank.json must have root \(str or NoneType\), got none"),
        (lambda d: lose(d, "checked"), r"bank.json must have checked \(str or NoneType\), got none"),
        (lambda d: edit(d, absent=[[1, "x"]]), r"bank.json must list rows that are absent as .*, got \[1, 'x'\]"),
        (lambda d: edit(d, absent=[[21, "x", "y"]]), "bank.json must list rows that are absent as"),
        (lambda d: edit(d, absent=["gone"]), "bank.json must list rows that are absent as .*, got 'gone'"),
        (
            lambda d: (d / "bank.json").write_text("[" * 100_000),
            "bank.json must be JSON, got lists or objects nested too deep",
        ),
        (
            lambda d: header(d, "__import__('os').system('true')"),
            "features.npy must be an array .* got something damaged",
        ),
        (lambda d: header(d, "["), "features.npy must be an array .* got something damaged"),
        (
            lambda d: header(d, "{'descr': '<f2', 'fortran_order': False, 'shape': (-21, 12)}"),
            "features.npy must be an array .* got something damaged",
        ),
        (lambda d: edit(d, dtype="int8"), "bank.json must have dtype float16 or float32, got 'int8'"),
        (lambda d: edit(d, complete=False, done=7), "must be finished, got 7 of 21 rows"),
        (lambda d: edit(d, n=20), r"features.npy must be an array float16 \[20, 12\], got float16 \[21, 12\]"),
        (lambda d: (d / "features.npy").unlink(), "must have features.npy, got none"),
        (lambda d: os.truncate(d / "features.npy", 300), "features.npy must be an array .* got something damaged"),
        (lambda d: os.truncate(d / "features.npy", 0), "features.npy must be an array .* got something damaged"),
        (
            lambda d: (d / "features.npy").write_bytes(b"PK\x03\x04"),
            "features.npy must be an array .* got something damaged",
        ),
        (lambda d: (d / "keys.txt").unlink(), "must have keys.txt, got none"),
        (lambda d: os.truncate(d / "keys.txt", 40), "keys.txt must have 21 lines, got 2: it is damaged"),
        (lambda d: (d / "keys.txt").write_text("x\n" * 21), "must hold the keys and labels it was built with"),
        (lambda d: (d / "labels.npy").unlink(), "must have labels.npy, got none"),
        (
            lambda d: np.save(d / "labels.npy", np.zeros(21, np.int64)),
            "must hold the keys and labels it was built with",
        ),
        (lambda d: os.truncate(d / "labels.npy", 140), "labels.npy must be an array .* got something damaged"),
    ],
)
def test_a_damaged_bank_says_what_is_wrong(copy, damage, message):
    damage(copy)
    with pytest.raises(ValueError, match=message):
        FeatureBank.open(copy)


def test_no_bank_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{path} must be a feature bank"):
            FeatureBank.open(path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_not_unit_are_normalised_with_one_notice(photos, tmp_path, dtype, caplog, monkeypatch):
    path = tmp_path / "bank"
    want = FeatureBank.build(photos, FakeExtractor(), path, dtype=dtype, progress=False).gather(np.arange(21), "cpu")
    np.save(path / "features.npy", np.load(path / "features.npy") * np.array(3, bank_files.DTYPES[dtype]))
    assert not caplog.records
    bank = FeatureBank.open(path)
    assert [r.message for r in caplog.records] == [
        f"{path}: rows are not of unit length, they are normalised when they are gathered"
    ]
    assert (bank.gather(np.arange(21), "cpu") - want).abs().max() < (1e-6 if dtype == torch.float32 else 2e-3)
    assert (bank.gather(np.arange(21), "cpu").double().norm(dim=1) - 1).abs().max() < 1e-6
    # That they were checked is remembered, the notice is not.
    monkeypatch.setattr(bank_files, "check_rows", lambda *_: pytest.fail("checked again"))
    FeatureBank.open(path)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("value", "said"), [(0.0, "0.0"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_rows_without_direction_are_refused_by_index(copy, value, said, monkeypatch):
    monkeypatch.setattr(bank_files, "CHECK_ROWS", 4)
    features = np.load(copy / "features.npy")
    features[13] = value
    np.save(copy / "features.npy", features)
    with pytest.raises(
        ValueError,
        match=rf"features.npy must have rows that are finite and not zero, got row 13 \(chelsea/006.jpg\) with norm {said}",
    ):
        FeatureBank.open(copy)


def test_a_checked_bank_is_not_read_again(copy, monkeypatch):
    edit(copy, checked=None)
    FeatureBank.open(copy)
    monkeypatch.setattr(bank_files, "check_rows", lambda *_: pytest.fail("checked again"))
    assert FeatureBank.open(copy).n == 21


def test_a_read_only_bank_opens(copy, monkeypatch, photos):
    edit(copy, checked=None)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bank_files, "write_whole", refuse)
    bank = FeatureBank.open(copy)
    assert bank.neighbours(3).shape == (21, 3)
    assert FeatureBank.build(photos, FakeExtractor(), copy, progress=False).n == 21


# ---------------------------------------------------------------------- using


def test_from_arrays(caplog):
    x = unit(5, 8)
    bank = FeatureBank.from_arrays(
        x, list("abcde"), [4, 3, 2, 1, 0], resolution=32, align_corners=True, root="/data", absent={2: "lost"}
    )
    assert torch.equal(bank.gather([4, 0], "cpu"), x[[4, 0]])
    assert bank.labels.tolist() == [4, 3, 2, 1, 0]
    assert bank.present.tolist() == [True, True, False, True, True]
    assert (bank.path, bank.root, bank.resolution, bank.align_corners) == (None, "/data", 32, True)
    assert not caplog.records
    raw = FeatureBank.from_arrays((5 * x).double().numpy(), list("abcde"))
    assert (raw.gather(range(5), "cpu") - x).abs().max() < 1e-6
    assert "features: rows are not of unit length" in caplog.text
    assert raw.labels.tolist() == [0] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), list("abc")), r"features must be float16, float32 or float64 \[n, dim\], got float32 \[3\]"),
        ((np.ones((3, 2), np.int64), list("abc")), r"features must be .* got int64 \[3, 2\]"),
        ((torch.ones(3, 0), list("abc")), r"features must be .* got float32 \[3, 0\]"),
        ((torch.ones(3, 2), list("ab")), "keys must be one a row: 3, got 2"),
        ((torch.ones(3, 2), list("abc"), [1, 2]), r"labels must have shape \[3\], got \[2\]"),
        (
            (torch.tensor([[1.0, 0], [0, 0]]), list("ab")),
            r"features must have rows that are finite and not zero, got row 1 \(b\) with norm 0.0",
        ),
    ],
)
def test_wrong_arrays_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureBank.from_arrays(*arguments)


def test_absent_rows_must_exist():
    with pytest.raises(ValueError, match=r"absent must name rows in 0..1, got \[2\]"):
        FeatureBank.from_arrays(unit(2, 4), list("ab"), absent={2: "lost"})


def test_rows_of_keys(built, photos):
    assert built.rows_of(["coffee/001.jpg", "nothing.jpg", "astronaut/000.jpg"]).tolist() == [15, -1, 0]
    assert built.rows_of([]).tolist() == []
    twice = FeatureBank.from_arrays(unit(3, 4), ["a", "b", "a"])
    assert twice.rows_of(["a", "b"]).tolist() == [0, 1]


def test_a_subset_and_a_moved_dataset_find_their_rows(built, photos, tmp_path):
    from torchvision.datasets import ImageFolder

    built.check_against(as_samples(photos), FakeExtractor())
    subset = as_samples(Subset(ImageFolder(photos), [20, 3, 3]))
    built.check_against(subset)
    assert built.rows_for(subset).tolist() == [20, 3, 3]
    one_class = as_samples([(str(photos / "coffee" / f"00{i}.jpg"), 0) for i in range(3)])  # has another root
    assert built.rows_for(one_class).tolist() == [14, 15, 16]
    moved = as_samples(shutil.copytree(photos, tmp_path / "elsewhere"))
    with pytest.warns(
        UserWarning, match="are taken for the same, since they have the same names. If they are others, build"
    ):
        built.check_against(moved)
    assert built.rows_for(moved).tolist() == list(range(21))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 6}, r"bank \S+ must have the extractor's number of features 6, got 12"),
        ({"resolution": 64}, "must be of images seen at the extractor's resolution 64, got 32"),
        ({"align_corners": True}, "must be of images seen at the extractor's align_corners True, got False"),
        (
            {"fingerprint": "other"},
            r"must be by the extractor that is given \(fake.pth, fingerprint other\), got one of fingerprint fake",
        ),
    ],
)
def test_another_extractor_is_named(built, photos, change, message):
    with pytest.raises(ValueError, match=message):
        built.check_against(as_samples(photos), FakeExtractor(**change))


def test_missing_images_are_counted_and_the_first_is_named(built, photos, tmp_path):
    folder = Path(shutil.copytree(photos, tmp_path / "more"))
    for name in ("astronaut/new.jpg", "coffee/new.jpg"):
        shutil.copy(folder / "coffee" / "000.jpg", folder / name)
    with pytest.raises(
        ValueError,
        match=rf"must hold every image of {folder}, got none for 2 of 23, the first {folder}/astronaut/new.jpg; it is of {photos}, 21 images",
    ):
        built.check_against(as_samples(folder), None)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gather_gives_unit_rows(stored, dtype, device):
    x = unit(50, 64)
    bank = FeatureBank.from_arrays(x.to(stored), [str(i) for i in range(50)])
    rows = np.array([49, 0, 7, 7], np.int64)
    for given in (rows, torch.from_numpy(rows), rows.tolist()):
        got = bank.gather(given, device, dtype)
        assert got.dtype == dtype
        assert got.device.type == device
        assert (got.float().cpu() - x[rows]).abs().max() < 4e-3
    if dtype == torch.float32:
        assert (bank.gather(rows, device).double().norm(dim=1) - 1).abs().max() < 1e-6
    assert bank.gather([], device, dtype).shape == (0, 64)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 21], r"rows must lie in 0..20, got 0..21"),
        ([-1], r"rows must lie in 0..20, got -1..-1"),
        ([[0]], r"rows must have shape \[m\], got \[1, 1\]"),
    ],
)
def test_wrong_rows_are_named(built, rows, message):
    with pytest.raises(ValueError, match=message):
        built.gather(rows, "cpu")


# ---------------------------------------------------------------------- neighbours


@pytest.fixture(params=["faiss", "torch"])
def search(request, monkeypatch):
    """Both ways of searching, over several blocks."""
    monkeypatch.setattr(bank_module, "_QUERIES", 16)
    monkeypatch.setattr(bank_module, "_BASE", 23)
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "faiss", None)
    else:
        pytest.importorskip("faiss")
    return request.param


def brute_force(x, present, k):
    distance = torch.cdist(x.double(), x.double())
    distance.fill_diagonal_(float("inf"))
    distance[:, ~torch.as_tensor(present)] = float("inf")
    return distance, distance.sort(dim=1).indices[:, :k].numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 59])
def test_neighbours_are_those_of_brute_force(search, dtype, k):
    bank = FeatureBank.from_arrays((3 * unit(61, 16)).to(dtype), [str(i) for i in range(61)], absent={17: "lost"})
    x = torch.zeros(61, 16)
    x[bank.present] = bank.gather(np.flatnonzero(bank.present), "cpu")
    _, want = brute_force(x, bank.present, k)
    got = bank.neighbours(k)
    assert got.dtype == np.int64
    assert (got[17] == -1).all()
    assert np.array_equal(got[bank.present], want[bank.present])


@pytest.mark.parametrize("k", [3, 8])
def test_duplicates_never_bring_back_the_row_itself(search, k):
    x = torch.cat([unit(4, 8)] * 9)
    near = FeatureBank.from_arrays(x, [str(i) for i in range(36)]).neighbours(k)
    for i, row in enumerate(near):
        assert i not in row
        assert (row % 4 == i % 4).all()
        assert len(set(row)) == k


@pytest.mark.parametrize("k", [0, 21, 1.5])
def test_a_wrong_k_is_named(built, k):
    with pytest.raises(ValueError, match=rf"k must be an integer in 1..20, the other rows that are present, got {k}"):
        built.neighbours(k)


def test_neighbours_are_kept_next_to_the_bank(copy, monkeypatch):
    bank = FeatureBank.open(copy)
    want = np.array(bank.neighbours(6))
    assert [p.name.split("_")[:2] for p in copy.glob("neighbours*")] == [["neighbours", "6"]]
    more = FeatureBank.open(copy).neighbours(9)
    assert more.shape == (21, 9)
    assert np.array_equal(more[:, :6], want)
    monkeypatch.setattr(FeatureBank, "_found_neighbours", lambda *_: pytest.fail("searched again"))
    assert np.array_equal(bank.neighbours(2), want[:, :2])
    assert np.array_equal(FeatureBank.open(copy).neighbours(6), want)
    assert np.array_equal(FeatureBank.open(copy).neighbours(4), want[:, :4])


def test_kept_neighbours_of_other_features_are_not_used(copy):
    FeatureBank.open(copy).neighbours(6)
    np.save(copy / "features.npy", np.load(copy / "features.npy")[::-1])
    bank = FeatureBank.open(copy)
    _, want = brute_force(bank.gather(np.arange(21), "cpu"), bank.present, 6)
    assert np.array_equal(bank.neighbours(6), want)


def test_kept_neighbours_that_are_damaged_say_so(copy):
    FeatureBank.open(copy).neighbours(6)
    (file,) = copy.glob("neighbours*")
    os.truncate(file, 200)
    with pytest.raises(ValueError, match=f"{file} must be an array int64 .*, got something damaged"):
        FeatureBank.open(copy).neighbours(6)


@pytest.mark.parametrize("same_class", [False, True])
@pytest.mark.parametrize("wrong", [-1, -2, 4, 20, 21, 2**62])
def test_kept_neighbours_that_are_none_say_so(copy, wrong, same_class):
    bank = FeatureBank.open(copy)
    near = np.array(bank.neighbours(3, same_class))
    (file,) = copy.glob("class_neighbours*" if same_class else "neighbours*")
    assert np.array_equal(FeatureBank.open(copy).neighbours(3, same_class), near)
    near[4, 1] = wrong  # none, out of range, itself, or of another class
    np.save(file, near)
    opened = FeatureBank.open(copy)
    if wrong == 20 and not same_class:
        assert opened.neighbours(3)[4, 1] == 20
        return
    with pytest.raises(
        ValueError, match=r"neighbours_3_\S+.npy must hold the neighbours of every row, got \[.*\] for row 4"
    ):
        opened.neighbours(3, same_class)


def test_rows_that_were_damaged_since_they_were_checked(copy):
    rows = np.lib.format.open_memmap(copy / "features.npy", mode="r+")
    bank = FeatureBank.open(copy)
    for value in (np.nan, 0):
        rows[3] = value
        with pytest.raises(ValueError, match=r"copy must hold rows that are finite and not zero, got row 3 \("):
            bank.gather([1, 3], "cpu")


def test_neighbours_that_cannot_be_kept_are_said(copy, monkeypatch, caplog):
    bank = FeatureBank.open(copy)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_files, "write_whole", refuse)
    with caplog.at_level(logging.WARNING):
        assert bank.neighbours(2).shape == (21, 2)
    assert "the neighbours could not be kept ([Errno 28] No space left on device)" in caplog.text


# ---------------------------------------------------------------------- neighbours of the same class


def of_classes(sizes, dtype=torch.float32, **arguments):
    """A bank with classes of these sizes, shuffled; labels are not 0, 1, 2, ..."""
    labels = np.random.default_rng(0).permutation(np.repeat(7 * np.arange(len(sizes)) - 5, sizes))
    x = unit(len(labels), 16).to(dtype)
    return FeatureBank.from_arrays(x, [str(i) for i in range(len(labels))], labels, **arguments)


def check_same_class(bank, k):
    """Against brute force in float64; features must be distinct."""
    x = torch.zeros(bank.n, bank.dim)
    x[bank.present] = bank.gather(np.flatnonzero(bank.present), "cpu")
    distance = torch.cdist(x.double(), x.double()).numpy()
    got = bank.neighbours(k, same_class=True)
    assert got.shape == (bank.n, k)
    assert got.dtype == np.int64
    for i in range(bank.n):
        others = np.flatnonzero((bank.labels == bank.labels[i]) & bank.present)
        others = others[others != i] if bank.present[i] else others[:0]
        want = others[np.argsort(distance[i, others])][:k]
        assert got[i].tolist() == want.tolist() + [-1] * (k - len(want))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 59])
def test_same_class_neighbours_are_those_of_brute_force(search, dtype, k):
    # k = 5: classes of 1, 2, k, k + 1, k + 2 and several blocks.
    check_same_class(of_classes([1, 2, 5, 6, 7, 41], dtype, absent={3: "lost", 17: "lost"}), k)


@pytest.mark.parametrize("k", [3, 8])
def test_duplicates_of_the_same_class_never_bring_back_the_row_itself(search, k):
    x = torch.cat([unit(4, 8)] * 9)  # nine copies of four rows
    labels = np.arange(36) // 18  # every copy is in both classes
    near = FeatureBank.from_arrays(x, [str(i) for i in range(36)], labels).neighbours(k, same_class=True)
    for i, row in enumerate(near):
        assert i not in row
        assert (labels[row] == labels[i]).all()
        assert len(set(row)) == k
        copies = int((np.arange(36)[labels == labels[i]] % 4 == i % 4).sum()) - 1
        assert (row % 4 == i % 4).sum() == min(k, copies)
        assert (row[: min(k, copies)] % 4 == i % 4).all()


def test_a_class_that_only_absent_rows_share_has_no_neighbour(search):
    bank = FeatureBank.from_arrays(unit(5, 16), list("abcde"), [4, 2, 4, 2, 4], absent={1: "lost"})
    assert bank.neighbours(3, same_class=True)[[1, 3]].tolist() == [[-1] * 3] * 2


def test_who_is_alone_in_its_class():
    bank = FeatureBank.from_arrays(unit(6, 4), list("abcdef"), [3, -1, 3, 9, 8, 8], absent={4: "lost"})
    assert bank.alone().tolist() == [False, True, False, True, False, True]
    assert FeatureBank.from_arrays(unit(1, 4), ["a"]).alone().tolist() == [True]
    assert FeatureBank.from_arrays(unit(1, 4), ["a"], absent={0: "lost"}).alone().tolist() == [False]


def test_one_class_is_the_whole_bank(search):
    bank = FeatureBank.from_arrays(unit(50, 16), [str(i) for i in range(50)])
    assert np.array_equal(bank.neighbours(7, same_class=True), bank.neighbours(7))


def test_same_class_neighbours_are_kept_and_never_mixed_up_with_the_plain_ones(copy, monkeypatch):
    bank = FeatureBank.open(copy)
    within, plain = np.array(bank.neighbours(6, same_class=True)), np.array(bank.neighbours(6))
    assert not np.array_equal(within, plain)
    assert sorted(p.name.split("_6_")[0] for p in copy.glob("*neighbours*")) == ["class_neighbours", "neighbours"]
    assert np.array_equal(FeatureBank.open(copy).neighbours(8, same_class=True)[:, :6], within)
    check_same_class(FeatureBank.open(copy), 8)
    monkeypatch.setattr(FeatureBank, "_found_neighbours", lambda *_: pytest.fail("searched again"))
    again = FeatureBank.open(copy)
    for k in (6, 2):
        assert np.array_equal(bank.neighbours(k, same_class=True), within[:, :k])
        assert np.array_equal(again.neighbours(k, same_class=True), within[:, :k])
        assert np.array_equal(again.neighbours(k), plain[:, :k])


def test_kept_same_class_neighbours_of_other_labels_are_not_used(copy):
    FeatureBank.open(copy).neighbours(6, same_class=True)
    labels = np.load(copy / "labels.npy")[np.random.default_rng(0).permutation(21)]
    np.save(copy / "labels.npy", labels)
    edit(copy, list_digest=bank_files.digest_of_list((copy / "keys.txt").read_text().split("\n")[:-1], labels))
    check_same_class(FeatureBank.open(copy), 6)


def test_kept_same_class_neighbours_of_other_absent_rows_are_not_used(copy):
    FeatureBank.open(copy).neighbours(6, same_class=True)
    edit(copy, absent=[[4, FeatureBank.open(copy).keys[4], "lost"]])
    check_same_class(FeatureBank.open(copy), 6)


def test_same_class_neighbours_of_a_read_only_bank(copy, monkeypatch, caplog):
    bank = FeatureBank.open(copy)

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(bank_files, "write_whole", refuse)
    with caplog.at_level(logging.WARNING):
        check_same_class(bank, 4)
    assert "the neighbours could not be kept ([Errno 30] Read-only file system)" in caplog.text
    assert list(copy.glob("*neighbours*")) == []


@pytest.mark.parametrize("k", [0, 21, 1.5])
def test_a_wrong_k_of_the_same_class_is_named(built, k):
    with pytest.raises(ValueError, match=rf"k must be an integer in 1..20, the other rows that are present, got {k}"):
        built.neighbours(k, same_class=True)


def test_exif_is_compared_where_it_is_known(built, photos):
    samples = as_samples(photos)
    built.check_against(samples, exif=False)
    with pytest.raises(
        ValueError, match=rf"bank {built.path} must be of images seen with exif=True, .* got exif=False"
    ):
        built.check_against(samples, exif=True)
    unknown = FeatureBank.from_arrays(unit(21, 4), samples.keys, samples.labels)
    assert unknown.exif is None
    unknown.check_against(samples, exif=True)
    known = FeatureBank.from_arrays(unit(21, 4), samples.keys, samples.labels, exif=True)
    with pytest.raises(ValueError, match=r"bank must be of images seen with exif=False, .* got exif=True"):
        known.check_against(samples, exif=False)
