"""The loader with device="cuda": what only a GPU can show. Run by benchmarks/gpu_gate.sh."""

import pytest
import torch

import dali_icgan as di
from tests.photos import make_folder

pytestmark = [pytest.mark.gpu, pytest.mark.dali]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def augment():
    return di.DAICGAN(
        generator=di.load_generator("embedded", device="cuda"),
        extractor=di.load_extractor("embedded", device="cuda"),
        p=0.5,
    )


@pytest.fixture
def load(folder):
    made = []

    def make(**arguments):
        base = {"batch_size": 5, "seed": 3, "device": "cuda", "transform": di.TrainTransform(32), "return_info": True}
        made.append(di.DataLoader(folder, **{**base, **arguments}))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def rows_of(loader):
    return {int(index): images[i].clone() for images, _, info in loader for i, index in enumerate(info["index"])}


def test_batches_arrive_on_the_device_in_half_precision(load, augment):
    for images, labels, _ in load(augment=augment):
        assert images.device.type == labels.device.type == "cuda"
        assert images.dtype == torch.float16


def test_real_rows_agree_with_the_cpu(load):
    on_gpu = rows_of(load(dtype=torch.float32))
    on_cpu = rows_of(load(device="cpu", dtype=torch.float32))
    for index, pixels in on_cpu.items():
        # JPEG decoders differ by some levels in places; the crop, resize and normalisation do not.
        difference = (on_gpu[index].cpu() - pixels).abs() * 0.229
        assert difference.mean() < 1 / 255
        assert difference.max() < 16 / 255


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"batch_size": 24}, {"prefetch_factor": 5}], ids=str)
def test_nothing_but_the_key_matters(load, augment, change):
    want, got = rows_of(load(augment=augment)), rows_of(load(augment=augment, **change))
    assert all(torch.equal(want[index], got[index]) for index in want)


def test_replay(load, augment):
    loader = load(augment=augment)
    for images, _, info in loader:
        assert torch.equal(loader.replay(0, int(info["index"][0]))[0], images[0])


def test_a_consumer_on_a_stream_of_its_own(load, augment):
    want = rows_of(load(augment=augment))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = rows_of(load(augment=augment))
    stream.synchronize()
    assert all(torch.equal(want[index], got[index]) for index in want)


def test_a_kept_batch_never_changes(load, augment):
    loader = load(augment=augment)
    kept = [images for images, *_ in loader]
    sums = [images.double().sum() for images in kept]
    for _ in range(3):
        for _ in loader:
            torch.empty(1 << 20, device="cuda").fill_(float("nan"))
    assert all(torch.equal(before, images.double().sum()) for before, images in zip(sums, kept, strict=True))


def test_no_step_waits_for_the_device(load, augment):
    loader = load(augment=augment)
    for _ in loader:  # whatever is set up once
        pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in loader:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_bad_file_leaves_its_neighbours_alone(load, tmp_path):
    photos = make_folder(tmp_path / "photos")
    path = photos / "coffee" / "003.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with di.DataLoader(photos, 5, device="cuda", transform=di.TrainTransform(32)) as loader:
        with pytest.warns(UserWarning, match=r"003\.jpg"):
            batches = list(loader)
        assert sum(len(labels) for _, labels in batches) == 24
        assert [error.path for error in loader.errors] == [str(path)]
