"""The loader with device="cuda": what only a GPU can show. Run by benchmarks/gpu_gate.sh."""

import itertools
import threading

import numpy as np
import pytest
import torch

import dali_icgan as di
from tests.photos import make_folder, patch
from tests.traces import calls, ids_of, traced

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


@pytest.fixture(scope="module")
def bank(folder, augment, tmp_path_factory):
    return di.FeatureBank.build(folder, augment.extractor, tmp_path_factory.mktemp("bank") / "bank", progress=False)


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


def steady(loader, path):
    """The trace of ten batches in the middle of a pass, and the threads that the loader has then."""
    batches = iter(loader)
    for _ in range(loader.prefetch_factor + 4):  # until the look-ahead is in its stride
        next(batches)
    trace = traced(lambda: list(itertools.islice(batches, 10)), path)
    threads = {thread.name: thread for thread in threading.enumerate() if thread.name.startswith("dali_icgan")}
    assert {"dali_icgan-decode", "dali_icgan-finish", "dali_icgan-generate"} <= threads.keys()
    return trace, {**threads, "main": threading.main_thread()}


def test_generating_copies_nothing_back_and_waits_for_nothing(load, augment, bank, tmp_path):
    """At p = 1 from a bank DALI has nothing to do: whatever the process calls is ours."""
    everything = di.DAICGAN(generator=augment.generator, bank=bank, p=1)
    sampler = [i % 24 for i in range(400)]
    trace, _ = steady(load(augment=everything, sampler=sampler), tmp_path / "trace.json")
    found = calls(trace)
    assert "cudaLaunchKernel" in found.made or "cudaGraphLaunch" in found.made
    assert found.to_host == []
    assert found.waits == []


def test_the_operator_copies_nothing_back_and_waits_for_nothing(augment, bank, tmp_path):
    """Photographs and generations in one batch, without DALI: again everything is ours."""
    half = di.DAICGAN(generator=augment.generator, bank=bank, p=0.5)
    images = [torch.from_numpy(patch("coffee", number).copy()).cuda() for number in range(24)]

    def step(epoch):
        _, _, info = half(images, np.arange(24), None, epoch, di.TrainTransform(32))
        assert 0 < info["replaced"].sum() < 24

    for epoch in range(3):
        step(epoch)
    found = calls(traced(lambda: [step(epoch) for epoch in range(3, 13)], tmp_path / "trace.json"))
    assert "cudaLaunchKernel" in found.made
    assert found.to_host == []
    assert found.waits == []


def test_the_loaders_threads_copy_nothing_back_and_wait_for_nothing(load, augment, bank, tmp_path):
    """At p = 0.5 from a bank. Left out is DALI: it runs its decoders in threads of its own, which may wait for their streams.

    The one thread of ours that calls into it is left out of the waits too, not of the copies. There DALI hands over a batch: the host
    waits until the decoder has been launched (a future, nothing of CUDA's), and the stream for its event (``PopOutputs`` of DALI's
    executor2); what else DALI may do within its calls is not ours. torch's part in that thread is held by
    test_no_step_waits_for_the_device.
    """
    half = di.DAICGAN(generator=augment.generator, bank=bank, p=0.5)
    sampler = [i % 24 for i in range(400)]
    trace, threads = steady(load(augment=half, sampler=sampler), tmp_path / "trace.json")
    for name in ("dali_icgan-generate", "dali_icgan-finish", "main"):
        # Each is found in the trace, or nothing would be seen here.
        assert calls(trace, ids_of([threads[name]])).made, name
    assert calls(trace, ids_of(threads.values())).to_host == []
    not_dali = [thread for name, thread in threads.items() if name != "dali_icgan-decode"]
    assert calls(trace, ids_of(not_dali)).waits == []


def test_a_bad_file_leaves_its_neighbours_alone(load, tmp_path):
    photos = make_folder(tmp_path / "photos")
    path = photos / "coffee" / "003.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with di.DataLoader(photos, 5, device="cuda", transform=di.TrainTransform(32)) as loader:
        with pytest.warns(UserWarning, match=r"003\.jpg"):
            batches = list(loader)
        assert sum(len(labels) for _, labels in batches) == 24
        assert [error.path for error in loader.errors] == [str(path)]
