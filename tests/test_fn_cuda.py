"""The node in a pipeline on a GPU: what only a GPU can show. Run by benchmarks/gpu_gate.sh."""

import gc
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import dali_icgan as di
from tests.photos import jpeg, patch

pytestmark = [pytest.mark.gpu, pytest.mark.dali]
dali = pytest.importorskip("nvidia.dali")

N, SIZE = 12, 32
TRANSFORM = di.TrainTransform(SIZE)


@pytest.fixture(scope="module")
def models():
    return {
        "generator": di.load_generator("embedded", device="cuda"),
        "extractor": di.load_extractor("embedded", device="cuda"),
    }


@pytest.fixture(scope="module")
def bank(models):
    features = torch.randn(N, models["generator"].feature_dim, generator=torch.Generator().manual_seed(0))
    return di.FeatureBank.from_arrays(torch.nn.functional.normalize(features, dim=1), [f"{i}.jpg" for i in range(N)])


@pytest.fixture(scope="module")
def images():
    return [patch("coffee", i).copy() for i in range(N)]


def batches(values, size):
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


def pipeline(images, augment, *, size=5, threads=2, depth=2, exec_dynamic=True, keys=None, cycle=None, **node):
    keys = [np.int64(i) for i in range(len(images))] if keys is None else keys

    @dali.pipeline_def(
        batch_size=size, num_threads=threads, device_id=0, prefetch_queue_depth=depth, exec_dynamic=exec_dynamic
    )
    def graph():
        image = dali.fn.external_source(source=batches(images, size), cycle=cycle)
        key = dali.fn.external_source(source=batches(keys, size), cycle=cycle)
        return di.fn.icgan_augment(
            image.gpu(), key, epoch=key * 0 + 3, labels=key, transform=TRANSFORM, augment=augment, **node
        )

    pipe = graph()
    pipe.build()
    return pipe


def tensors(outputs):
    return [torch.from_dlpack(output.as_tensor()).clone() for output in outputs]


def everything(pipe):
    found = []
    while True:
        try:
            outputs = pipe.run()
        except StopIteration:
            return tuple(map(torch.cat, zip(*found, strict=True)))
        found.append(tensors(outputs))


def alone(augment, images, **more):
    return augment([torch.from_numpy(image).cuda() for image in images], range(N), range(N), 3, TRANSFORM, **more)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("given", ["bank", "extractor"])
def test_pixels_are_the_standalone_operators(models, bank, images, given, p):
    augment = di.DAICGAN(
        generator=models["generator"], p=p, **{given: bank if given == "bank" else models["extractor"]}
    )
    got, labels = everything(pipeline(images, augment))
    want, want_labels, _ = alone(augment, images)
    assert got.is_cuda
    assert labels.is_cuda
    assert got.dtype == torch.float16
    assert torch.equal(got, want)
    assert torch.equal(labels, want_labels)


@pytest.mark.parametrize(
    "change",
    [{"size": 1}, {"size": 12, "depth": 1}, {"exec_dynamic": False}, {"exec_dynamic": False, "depth": 1}, {"depth": 4}],
    ids=str,
)
def test_nothing_but_the_key_matters(models, images, change):
    augment = di.DAICGAN(p=0.5, **models)
    assert torch.equal(everything(pipeline(images, augment, **change))[0], alone(augment, images)[0])


def test_dtype_and_view(models, images):
    augment = di.DAICGAN(p=0.5, **models)
    want = alone(augment, images, view=1, dtype=torch.float32)[0]
    assert torch.equal(everything(pipeline(images, augment, view=1, dtype=torch.float32))[0], want)


def test_behind_a_reader_and_the_mixed_decoder(tmp_path, models, images):
    files = [tmp_path / f"{i:02d}.jpg" for i in range(N)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(jpeg(image))
    augment = di.DAICGAN(p=0.5, **models)

    @dali.pipeline_def(batch_size=5, num_threads=2, device_id=0)
    def graph():
        encoded, index = dali.fn.readers.file(files=[str(f) for f in files], labels=list(range(N)), random_shuffle=True)
        decoded = dali.fn.decoders.image(encoded, device="mixed")
        return di.fn.icgan_augment(decoded, index, epoch=2, transform=TRANSFORM, augment=augment), decoded, index

    pipe = graph()
    pipe.build()
    for _ in range(6):
        out, decoded, index = pipe.run()
        keys = [int(np.asarray(i)[0]) for i in index]
        want = augment([torch.from_dlpack(image) for image in decoded], keys, None, 2, TRANSFORM)[0]
        assert torch.equal(torch.from_dlpack(out.as_tensor()), want)


def test_floating_point_images(models, images):
    augment = di.DAICGAN(p=0.5, **models)
    square = [np.ascontiguousarray(image[:40, :40].transpose(2, 0, 1), np.float32) / 255 for image in images]
    want = augment(torch.from_numpy(np.stack(square)).cuda(), range(N), range(N), 3, TRANSFORM)[0]
    assert torch.equal(everything(pipeline(square, augment))[0], want)


@pytest.fixture(scope="module")
def retrieval(models, tmp_path_factory, images):
    root = tmp_path_factory.mktemp("photos")
    files = [(str(root / f"{i:02d}.jpg"), 0) for i in range(N)]
    for (path, _), image in zip(files, images, strict=True):
        Path(path).write_bytes(jpeg(image))
    extractor = models["extractor"].at_resolution(models["generator"].resolution)
    bank = di.FeatureBank.build(files, extractor, root / "bank", progress=False)
    return di.DAICGAN(generator=None, bank=bank, p=0.5, source="neighbour", k=2)


def test_retrieval(retrieval, images):
    assert torch.equal(everything(pipeline(images, retrieval))[0], alone(retrieval, images)[0])


def test_a_generator_that_was_just_loaded(images):
    for _ in range(5):
        augment = di.DAICGAN(
            generator=di.load_generator("embedded", device="cuda"),
            extractor=di.load_extractor("embedded", device="cuda"),
            p=1.0,
        )
        got = everything(pipeline(images, augment, size=12))[0]
        assert torch.equal(got, alone(augment, images)[0])


def test_no_iteration_waits_for_the_device(models, bank, retrieval, images):
    with_bank = di.DAICGAN(generator=models["generator"], bank=bank, p=0.5)
    for augment in (di.DAICGAN(p=0.5, **models), with_bank, retrieval):
        pipe = pipeline(images, augment, size=4, cycle="quiet")
        for _ in range(6):  # whatever is set up once
            pipe.run()
        torch.cuda.set_sync_debug_mode("error")  # raised within the node, it would come out of run()
        try:
            for _ in range(6):
                pipe.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("exec_dynamic", [True, False])
def test_an_error_reaches_run_and_nothing_hangs(models, bank, images, exec_dynamic):
    augment = di.DAICGAN(generator=models["generator"], bank=bank, p=0.5)
    keys = [np.int64(-1 if i == 6 else i) for i in range(N)]
    want = alone(augment, images)[0]
    pipe = pipeline(images, augment, size=4, keys=keys, exec_dynamic=exec_dynamic)
    if exec_dynamic:
        assert torch.equal(tensors(pipe.run())[0], want[:4])
    with pytest.raises(RuntimeError, match="ValueError: keys must not be negative, got -1"):
        everything(pipe)
    if exec_dynamic:
        assert torch.equal(tensors(pipe.run())[0], want[8:])
    del pipe
    gc.collect()
    assert torch.equal(everything(pipeline(images, augment))[0], want)


def test_an_iteration_that_fails_between_the_two_nodes_takes_nobody_elses_numbers(models, images):
    augment = di.DAICGAN(p=0.5, **models)
    files = [np.frombuffer(jpeg(image), np.uint8) for image in images]

    def run_all(files):
        @dali.pipeline_def(batch_size=2, num_threads=2, device_id=0, exec_dynamic=True, prefetch_queue_depth=2)
        def graph():
            image = dali.fn.decoders.image(dali.fn.external_source(source=batches(files, 2)), device="mixed")
            key = dali.fn.external_source(source=batches([np.int64(i) for i in range(N)], 2))
            return di.fn.icgan_augment(image, key, epoch=0, transform=TRANSFORM, augment=augment)

        pipe, found = graph(), []
        pipe.build()
        for _ in range(0, N, 2):
            try:
                found.append(tensors(pipe.run())[0])
            except RuntimeError:
                found.append(None)
        return found

    want = run_all(files)
    assert all(batch is not None for batch in want)
    got = run_all([*files[:4], np.frombuffer(b"not an image at all", np.uint8), *files[5:]])
    assert got[2] is None
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(got, want, strict=True)) if i != 2)


def test_the_node_shares_the_device_with_a_busy_default_stream(models, images):
    augment = di.DAICGAN(p=0.5, **models)
    want = alone(augment, images)[0]
    pipe = pipeline(images, augment, size=4, cycle="quiet")
    for i in range(9):
        torch.cuda._sleep(20_000_000)
        noise = torch.full((64, 3, SIZE, SIZE), float("nan"), device="cuda", dtype=torch.float16)
        got = tensors(pipe.run())[0]
        del noise
        assert torch.equal(got, want[4 * (i % 3) : 4 * (i % 3) + 4])


def test_iterations_leave_nothing_behind(models, images):
    pipe = pipeline(images, di.DAICGAN(p=0.5, **models), size=4, cycle="quiet")

    def run(times):
        for _ in range(times):
            pipe.run()
        time.sleep(1)  # until those that DALI has looked ahead for are done
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    run(30)
    assert run(150) == run(30)


def test_a_generator_on_another_device_is_refused(images, models):
    on_cpu = di.DAICGAN(
        generator=di.load_generator("embedded", device="cpu"), extractor=di.load_extractor("embedded", device="cpu")
    )
    with pytest.raises(ValueError, match="images must be on the generator's device cpu, got a node on cuda:0"):
        pipeline(images, on_cpu)
