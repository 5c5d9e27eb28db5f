import functools
import gc
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.dlpack import to_dlpack

import dali_icgan as di
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from tests.photos import jpeg, make_folder, patch

pytestmark = pytest.mark.dali
dali = pytest.importorskip("nvidia.dali")

N, SIZE = 12, 32
daicgan = functools.partial(di.DAICGAN, microbatch=2)  # quick
TRANSFORM = di.TrainTransform(SIZE)
INT64 = np.int64


@pytest.fixture(scope="module")
def images():
    return [patch("coffee", i).copy() for i in range(N)]


@pytest.fixture(scope="module")
def bank(generator):
    features = torch.randn(N, generator.feature_dim, generator=torch.Generator().manual_seed(0))
    return di.FeatureBank.from_arrays(torch.nn.functional.normalize(features, dim=1), [f"{i}.jpg" for i in range(N)])


@pytest.fixture(scope="module")
def conditional(generator):
    torch.manual_seed(0)
    config = GeneratorConfig(
        resolution=32,
        channels=8,
        z_chunk=4,
        feature_dim=generator.feature_dim,
        shared_dim_feat=16,
        n_classes=5,
        shared_dim=8,
        class_conditional=True,
    )
    return di.load_generator(ICGenerator(config).eval().state_dict(), device="cpu")


def batches(values, size):
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


def pipeline(images, keys, *, size=5, threads=2, depth=2, exec_dynamic=True, epoch=0, labels=None, **node):
    """A pipeline over lists of samples; the last batch is smaller. ``epoch`` and ``labels`` may be lists as well."""

    @dali.pipeline_def(
        batch_size=size, num_threads=threads, device_id=None, prefetch_queue_depth=depth, exec_dynamic=exec_dynamic
    )
    def graph():
        def source(values):
            return dali.fn.external_source(source=batches(values, size))

        return di.fn.icgan_augment(
            source(images),
            source(keys),
            epoch=source(epoch) if isinstance(epoch, list) else epoch,
            labels=None if labels is None else source(labels),
            **{"transform": TRANSFORM, **node},
        )

    pipe = graph()
    pipe.build()
    return pipe


def everything(pipe):
    """All batches: images, and labels if there are any."""
    found = []
    while True:
        try:
            outputs = pipe.run()
        except StopIteration:
            return tuple(map(torch.cat, zip(*found, strict=True)))
        found.append([torch.from_dlpack(output.as_tensor()).clone() for output in outputs])


def numbers(values, dtype=INT64):
    return [np.array(value, dtype) for value in values]


def alone(augment, images, keys=None, labels=None, epoch=0, transform=TRANSFORM, **more):
    return augment(
        [torch.from_numpy(x) for x in images], range(N) if keys is None else keys, labels, epoch, transform, **more
    )


# ---------------------------------------------------------------------- the same pixels


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("given", ["bank", "extractor"])
def test_pixels_are_the_standalone_operators(request, generator, images, given, p):
    augment = daicgan(generator=generator, p=p, seed=5, **{given: request.getfixturevalue(given)})
    want, _, info = alone(augment, images, epoch=3)
    assert info["replaced"].any() == (p > 0)
    (got,) = everything(pipeline(images, numbers(range(N)), epoch=3, augment=augment))
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1},
        {"size": 7, "threads": 3},
        {"size": 12, "depth": 1},
        {"exec_dynamic": False},
        {"exec_dynamic": False, "depth": 1, "threads": 1},
        {"depth": 4},
    ],
    ids=str,
)
def test_nothing_but_the_key_matters(generator, bank, images, change):
    augment = daicgan(generator=generator, bank=bank, p=0.5)
    (got,) = everything(pipeline(images, numbers(range(N)), augment=augment, **change))
    assert torch.equal(got, alone(augment, images)[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_every_form_of_keys(generator, bank, images, shape, dtype):
    augment = daicgan(generator=generator, bank=bank, p=1.0)
    order = [7, 3, 11, 0, 5, 1, 2, 4, 6, 8, 9, 10]
    pairs = [(i, i % 3 if shape == (2,) else 0) for i in order]
    keys = [np.array(pair if shape == (2,) else pair[0], dtype).reshape(shape) for pair in pairs]
    (got,) = everything(pipeline([images[i] for i in order], keys, augment=augment))
    assert torch.equal(got, alone(augment, [images[i] for i in order], np.array(pairs))[0])


@pytest.mark.parametrize("labels", ["own", "random"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_labels_of_a_class_conditional_generator(conditional, bank, images, labels, shape):
    augment = daicgan(generator=conditional, bank=bank, p=0.7, class_map=[4, 3, 2], labels=labels)
    own = [i % 3 for i in range(N)]
    want, want_labels, info = alone(augment, images, labels=own, epoch=1)
    given = [np.full(shape, label, np.int32) for label in own]
    got, got_labels = everything(pipeline(images, numbers(range(N)), labels=given, epoch=1, augment=augment))
    assert torch.equal(got, want)
    assert torch.equal(got_labels, want_labels)
    assert got_labels.dtype == torch.int64
    assert (got_labels.tolist() == own) == (labels == "own")
    assert info["replaced"].any()


def test_any_label_passes(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank, p=0.5)
    own = [-100, 2**62, -(2**63), *range(N - 3)]
    _, labels = everything(pipeline(images, numbers(range(N)), labels=numbers(own), augment=augment))
    assert labels.tolist() == own


def test_retrieval(tmp_path, generator, extractor):
    folder = make_folder(tmp_path / "photos", 4)
    bank = di.FeatureBank.build(
        folder, extractor.at_resolution(generator.resolution), tmp_path / "bank", progress=False
    )
    augment = daicgan(generator=None, bank=bank, p=0.5, source="neighbour", k=2)
    decoded = di.data.ImageDecoder(1).decode([Path(augment.bank_source(i)).read_bytes() for i in range(N)])
    images = [pixels.numpy().copy() for pixels in decoded]
    want, _, info = alone(augment, images)
    assert 0 < info["replaced"].sum() < N
    (got,) = everything(pipeline(images, numbers(range(N)), augment=augment))
    assert torch.equal(got, want)


def test_view_dtype_and_transforms(generator, bank, images):
    other = di.EvalTransform(40, SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    augment = daicgan(generator=generator, bank=bank, view_p=[0.0, 0.5], generated_transform=other)
    want, _, info = alone(augment, images, view=1, dtype=torch.float16)
    assert 0 < info["replaced"].sum() < N
    (got,) = everything(pipeline(images, numbers(range(N)), augment=augment, view=1, dtype=torch.float16))
    assert got.dtype == torch.float16
    assert torch.equal(got, want)


def test_floating_point_images(generator, extractor, images):
    augment = daicgan(generator=generator, extractor=extractor, p=0.5)
    square = [np.ascontiguousarray(image[:40, :40].transpose(2, 0, 1), np.float32) / 255 for image in images]
    (got,) = everything(pipeline(square, numbers(range(N)), augment=augment))
    assert torch.equal(got, augment(torch.from_numpy(np.stack(square)), range(N), None, 0, TRANSFORM)[0])


def test_the_layout_is_known_downstream(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank)
    outputs = pipeline(images, numbers(range(N)), labels=numbers(range(N)), augment=augment).run()
    assert [output.layout() for output in outputs] == ["CHW", ""]


def test_the_epoch_may_change_within_a_batch(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank, p=lambda epoch: epoch / 4)
    epochs = [0, 0, 0, 4, 4, 1, 4, 2, 2, 2, 2, 2]
    own = list(range(100, 100 + N))
    labels = numbers(own)
    got, got_labels = everything(
        pipeline(images, numbers(range(N)), epoch=[INT64(e) for e in epochs], labels=labels, augment=augment)
    )
    for i, epoch in enumerate(epochs):
        want, _, info = augment([torch.from_numpy(images[i])], [i], None, epoch, TRANSFORM)
        assert torch.equal(got[i], want[0])
        assert info["replaced"][0] == (epoch == 4) or 0 < epoch < 4
    assert got_labels.tolist() == own


def test_behind_a_reader_and_a_decoder(tmp_path, generator, bank, images):
    files = [tmp_path / f"{i:02d}.jpg" for i in range(N)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(jpeg(image))
    augment = daicgan(generator=generator, bank=bank, p=0.5)

    @dali.pipeline_def(batch_size=5, num_threads=2, device_id=None)
    def graph():
        encoded, index = dali.fn.readers.file(files=[str(f) for f in files], labels=list(range(N)), random_shuffle=True)
        decoded = dali.fn.decoders.image(encoded)
        small = dali.fn.resize(decoded, resize_shorter=48)
        out = di.fn.icgan_augment(small, index, epoch=2, transform=TRANSFORM, augment=augment)
        return out, small, index

    pipe = graph()
    pipe.build()
    seen = set()
    for _ in range(6):
        out, small, index = pipe.run()
        keys = [int(np.asarray(i)[0]) for i in index]
        want = augment([torch.from_dlpack(image) for image in small], keys, None, 2, TRANSFORM)[0]
        assert torch.equal(torch.from_dlpack(out.as_tensor()), want)
        seen |= set(keys)
    assert seen == set(range(N))


def test_within_a_branch(generator, bank, images):
    files = set()

    def always(epoch):
        files.add(sys._getframe().f_code.co_filename)
        return 1.0

    shown = daicgan(generator=generator, bank=bank, p=always)
    plain = daicgan(generator=generator, bank=bank, p=0.0)

    @dali.pipeline_def(batch_size=4, num_threads=2, device_id=None, enable_conditionals=True)
    def graph():
        image = dali.fn.external_source(source=batches(images, 4))
        key = dali.fn.external_source(source=batches(numbers(range(N)), 4))
        if key < 6:  # all of a batch, some, none
            out = di.fn.icgan_augment(image, key, epoch=0, transform=TRANSFORM, augment=shown)
        else:
            out = di.fn.icgan_augment(image, key, epoch=0, transform=TRANSFORM, augment=plain)
        return out

    pipe = graph()
    pipe.build()
    (got,) = everything(pipe)
    assert torch.equal(got[:6], alone(shown, images)[0][:6])
    assert torch.equal(got[6:], alone(plain, images)[0][6:])
    assert files == {__file__}  # DALI has rewritten the pipeline's function, nothing that it calls


def test_the_consumers_settings_change_nothing(generator, extractor, images):
    augment = daicgan(generator=generator, extractor=extractor, p=1.0)
    want = alone(augment, images)[0]
    with torch.inference_mode(), torch.autocast("cpu"):
        (got,) = everything(pipeline(images, numbers(range(N)), augment=augment))
    assert torch.equal(got, want)
    assert not got.requires_grad


def test_several_pipelines_side_by_side(generator, extractor, images):
    augments = [daicgan(generator=generator, extractor=extractor, p=0.5, seed=seed) for seed in range(3)]
    pipes = [pipeline(images, numbers(range(N)), size=4, augment=a) for a in (*augments, augments[0])]
    got = [[] for _ in pipes]

    def consume(pipe, into):
        into.append(everything(pipe)[0])

    threads = [threading.Thread(target=consume, args=pair) for pair in zip(pipes, got, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for (images_got,), augment in zip(got, (*augments, augments[0]), strict=True):
        assert torch.equal(images_got, alone(augment, images)[0])


def test_two_nodes_in_one_graph_are_two_views(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank, p=0.5)

    @dali.pipeline_def(batch_size=5, num_threads=2, device_id=None)
    def graph():
        image = dali.fn.external_source(source=batches(images, 5))
        key = dali.fn.external_source(source=batches(numbers(range(N)), 5))
        return tuple(
            di.fn.icgan_augment(image, key, epoch=0, transform=TRANSFORM, augment=augment, view=view) for view in (0, 1)
        )

    pipe = graph()
    pipe.build()
    for view, got in enumerate(everything(pipe)):
        assert torch.equal(got, alone(augment, images, view=view)[0])


# ---------------------------------------------------------------------- wrong arguments


def graph_with(pixels, change):
    """A graph with some arguments changed; a lambda makes one of the others."""

    @dali.pipeline_def(batch_size=2, num_threads=1, device_id=0)
    def graph():
        given = {
            "images": dali.fn.external_source(source=[pixels]),
            "keys": dali.fn.external_source(source=[numbers(range(N))]),
            "epoch": 0,
            "transform": TRANSFORM,
        }
        given |= {
            name: value(given) if isinstance(value, types.FunctionType) else value for name, value in change.items()
        }
        out = di.fn.icgan_augment(**given)
        return out if isinstance(out, tuple) else (out,)

    return graph()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": 3}, TypeError, "images must be a DataNode, got int"),
        ({"keys": np.arange(N)}, TypeError, "keys must be a DataNode, got ndarray"),
        ({"labels": [0]}, TypeError, "labels must be a DataNode, got list"),
        ({"epoch": 0.5}, TypeError, "epoch must be an integer or a DataNode, got float"),
        ({"epoch": None}, TypeError, "epoch must be an integer or a DataNode, got NoneType"),
        ({"epoch": -1}, ValueError, r"epoch must be in \[0, 2\^32\), got -1"),
        ({"view": 256}, ValueError, r"view must be in \[0, 2\^8\), got 256"),
        ({"transform": 224}, TypeError, "transform must be a TrainTransform or EvalTransform, got int"),
        ({"transform": None}, TypeError, "transform must be a TrainTransform or EvalTransform, got NoneType"),
        ({"augment": 0.5}, TypeError, "augment must be a DAICGAN, got float"),
        ({"dtype": torch.bfloat16}, ValueError, "dtype must be torch.float32 or torch.float16, .* got torch.bfloat16"),
        ({"keys": lambda g: g["keys"].gpu()}, ValueError, "keys must be on the CPU, .*; got a GPU node"),
        ({"labels": lambda g: g["keys"].gpu()}, ValueError, "labels must be on the CPU"),
        ({"epoch": lambda g: g["keys"].gpu()}, ValueError, "epoch must be on the CPU"),
        (
            {"images": lambda g: g["images"].gpu()},
            ValueError,
            "images must be on the generator's device cpu, got a node on cuda:0",
        ),
    ],
)
def test_wrong_arguments_are_named_while_the_graph_is_made(generator, bank, images, change, error, message):
    augment = daicgan(generator=generator, bank=bank)
    with pytest.raises(error, match=message):
        graph_with(images, {"augment": augment, **change})


def test_what_a_class_conditional_generator_needs(conditional, bank, images):
    augment = daicgan(generator=conditional, bank=bank, class_map=[0, 1])
    with pytest.raises(ValueError, match="labels must be given: the generator is class-conditional"):
        graph_with(images, {"augment": augment})
    with pytest.raises(ValueError, match="class_map must be given for a class-conditional generator"):
        graph_with(
            images, {"augment": daicgan(generator=conditional, bank=bank), "labels": lambda given: given["keys"]}
        )


def test_epoch_must_be_given(generator, bank):
    with pytest.raises(TypeError, match="epoch"):
        di.fn.icgan_augment(None, None, transform=TRANSFORM, augment=daicgan(generator=generator, bank=bank))


def test_outside_a_pipeline(generator, bank):
    with pytest.raises(RuntimeError, match="icgan_augment must be called while a DALI pipeline is being defined"):
        di.fn.icgan_augment(None, None, epoch=0, transform=TRANSFORM, augment=daicgan(generator=generator, bank=bank))


def test_without_dali():
    code = """
import sys
sys.modules["nvidia.dali"] = None
import dali_icgan as di
try:
    di.fn.icgan_augment(None, None, epoch=0, transform=None, augment=None)
except di.DeviceError as error:
    assert "pip install 'dali-icgan[cu13]'" in str(error)
else:
    raise AssertionError("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_gpu_graph(bank):
    # A generator on the CPU is refused here; retrieval has none.
    augment = daicgan(generator=None, bank=bank, source="neighbour", k=2)
    made = []

    @dali.pipeline_def(batch_size=4, num_threads=2, device_id=0)
    def graph():
        encoded = dali.fn.external_source(name="files", dtype=dali.types.UINT8, ndim=1)
        keys = dali.fn.external_source(name="keys")
        decoded = dali.fn.decoders.image(encoded, device="mixed")
        made.extend(di.fn.icgan_augment(decoded, keys, labels=keys, epoch=keys, transform=TRANSFORM, augment=augment))
        return tuple(made)

    graph()
    assert [node.device for node in made] == ["gpu", "gpu"]
    pixels = made[0].source
    assert [node.device for node in pixels.inputs] == ["gpu", "gpu"]
    spec = str(pixels.spec)
    assert "device: gpu" in spec
    assert "synchronize_stream: False" in spec
    assert "batch_processing: True" in spec
    plan = pixels.inputs[1].source
    assert "device: cpu" in str(plan.spec)
    assert [node.device for node in plan.inputs] == ["cpu"] * 3
    assert "PythonFunction" not in str(pixels.inputs[0].source.spec)


# ---------------------------------------------------------------------- errors under way


@pytest.mark.parametrize("exec_dynamic", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keys": INT64(-1)}, "ValueError: keys must not be negative, got -1"),
        ({"images": np.zeros((4, 5, 1), np.uint8)}, r"TypeError: images\[2\] must be a uint8 tensor \[h, w, 3\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_error_reaches_run_and_nothing_hangs(generator, bank, images, wrong, message, depth, exec_dynamic):
    augment = daicgan(generator=generator, bank=bank, p=0.5)
    given = {"images": images, "keys": numbers(range(N)), "labels": numbers(range(N)), "epoch": [INT64(0)] * N}
    for name, value in wrong.items():
        given[name] = [*given[name][:6], value, *given[name][7:]]
    want = alone(augment, images)[0]
    pipe = pipeline(**given, size=4, augment=augment, depth=depth, exec_dynamic=exec_dynamic)
    if exec_dynamic:
        assert torch.equal(torch.from_dlpack(pipe.run()[0].as_tensor()), want[:4])
    with pytest.raises(RuntimeError, match=message):  # the other executor may meet it while it looks ahead
        everything(pipe)
    if exec_dynamic:  # it goes on with the next batch, and in step
        assert torch.equal(torch.from_dlpack(pipe.run()[0].as_tensor()), want[8:])
    del pipe
    gc.collect()
    assert torch.equal(everything(pipeline(images, numbers(range(N)), augment=augment))[0], want)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keys": [np.array(0.5)] * 2}, "TypeError: keys must be integers, got float64"),
        (
            {"keys": [np.arange(3)] * 2},
            r"ValueError: keys must be one integer a sample, or two \(index, repeat\), got shapes \[\(3,\)\]",
        ),
        (
            {"keys": [np.arange(1), np.arange(2)]},
            r"ValueError: keys must be one integer a sample, or two .*, got shapes \[\(1,\), \(2,\)\]",
        ),
        ({"labels": [np.arange(2)] * 2}, r"ValueError: labels must be one integer a sample, got shapes \[\(2,\)\]"),
        ({"epoch": [np.arange(2)] * 2}, r"ValueError: epoch must be one integer a sample, got shapes \[\(2,\)\]"),
        ({"labels": [np.array([0.5])] * 2}, "TypeError: labels must be integers, got float64"),
        ({"epoch": [np.array(0.5)] * 2}, "TypeError: epoch must be integers, got float64"),
        ({"epoch": [INT64(-1)] * 2}, r"ValueError: epoch must be in \[0, 2\^32\), got -1"),
        ({"keys": numbers([0, N])}, rf"ValueError: keys must lie in the bank's 0..{N - 1}, got {N}"),
        (
            {"images": [np.zeros((3, 8, 8), np.float32), np.zeros((3, 8, 9), np.float32)]},
            "ValueError: images must all have one size where they are floating point",
        ),
        ({"images": [np.full((3, 8, 8), 2, np.float32)] * 2}, r"ValueError: images must be in \[0, 1\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_batches_of_the_wrong_kind(generator, bank, images, wrong, message):
    given = {"images": images[:2], "keys": numbers(range(2)), "labels": numbers(range(2)), "epoch": [INT64(0)] * 2}
    pipe = pipeline(**{**given, **wrong}, augment=daicgan(generator=generator, bank=bank))
    with pytest.raises(RuntimeError, match=message):
        pipe.run()


def test_a_row_that_the_bank_lacks(generator, images, tmp_path):
    features = torch.nn.functional.normalize(torch.randn(N, generator.feature_dim), dim=1)
    bank = di.FeatureBank.from_arrays(features, [f"{i}.jpg" for i in range(N)])
    bank.present[3] = False
    pipe = pipeline(images, numbers(range(N)), augment=daicgan(generator=generator, bank=bank, p=1.0))
    with pytest.raises(RuntimeError, match=r"DecodeError: .*3\.jpg.* has no feature in the bank"):
        pipe.run()


def test_an_iteration_that_fails_between_the_two_nodes_takes_nobody_elses_numbers(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank, p=0.5)
    files = [np.frombuffer(jpeg(image), np.uint8) for image in images]
    decoded = di.data.ImageDecoder(1).decode([file.tobytes() for file in files])
    want = augment(decoded, range(N), None, 0, TRANSFORM)[0]
    bad = [*files[:4], files[4][:300], *files[5:]]  # the third batch of two

    @dali.pipeline_def(batch_size=2, num_threads=2, device_id=None, exec_dynamic=True, prefetch_queue_depth=2)
    def graph():
        image = dali.fn.decoders.image(dali.fn.external_source(source=batches(bad, 2)))
        key = dali.fn.external_source(source=batches(numbers(range(N)), 2))
        return di.fn.icgan_augment(image, key, epoch=0, transform=TRANSFORM, augment=augment)

    pipe = graph()
    pipe.build()
    for i in range(0, N, 2):
        if i == 4:
            with pytest.raises(RuntimeError, match="decode"):
                pipe.run()
        else:
            assert torch.equal(torch.from_dlpack(pipe.run()[0].as_tensor()), want[i : i + 2])


def test_numbers_wait_in_their_slots(generator, bank, images, monkeypatch):
    augment = daicgan(generator=generator, bank=bank, p=0.5)
    want = alone(augment, images)[0]
    monkeypatch.setattr(di.fn, "_SLOTS", 3)
    node = di.fn._Node(augment, TRANSFORM, 0, None, 0, ["keys"], None)

    def plan(row):
        return [to_dlpack(torch.from_numpy(ticket)) for ticket in node.plan(numbers([row]))]

    def pixels(row, ticket):
        return torch.from_dlpack(node.pixels([to_dlpack(torch.from_numpy(images[row]))], ticket)[0])

    lost, second, third = plan(0), plan(1), plan(2)
    assert torch.equal(pixels(1, second), want[1])
    fourth = plan(3)  # where the numbers of an iteration that failed still lie
    assert torch.equal(pixels(2, third), want[2])
    assert torch.equal(pixels(3, fourth), want[3])
    assert len(lost) == 1


# ---------------------------------------------------------------------- lifetime


def test_the_pipeline_keeps_the_operator_alive_and_lets_it_go(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank, p=0.5)
    want, dead = alone(augment, images)[0], weakref.ref(augment)
    pipe = pipeline(images, numbers(range(N)), augment=augment)
    del augment
    gc.collect()
    assert torch.equal(everything(pipe)[0], want)
    del pipe
    gc.collect()
    assert dead() is None


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_iterations_leave_nothing_behind(generator, bank, images):
    augment = daicgan(generator=generator, bank=bank, p=0.2)

    @dali.pipeline_def(batch_size=4, num_threads=1, device_id=None)
    def graph():
        image = dali.fn.external_source(source=batches(images, 4), cycle="quiet")
        key = dali.fn.external_source(source=batches(numbers(range(N)), 4), cycle="quiet")
        return di.fn.icgan_augment(image, key, epoch=0, labels=key, transform=TRANSFORM, augment=augment)

    pipe = graph()
    pipe.build()

    def run(times):
        for _ in range(times):
            pipe.run()
        gc.collect()
        return sys.getallocatedblocks(), resident()

    run(50)
    blocks, memory = run(50)
    later_blocks, later_memory = run(200)
    assert later_blocks - blocks < 200  # not one an iteration
    assert later_memory - memory < 5 << 20  # the images of 200 batches are 10 MB


def test_the_process_ends_with_pipelines_in_globals():
    code = """
import numpy as np, torch, dali_icgan as di
from nvidia.dali import fn, pipeline_def
augment = di.DAICGAN(
    microbatch=1, generator=di.load_generator("embedded", device="cpu"), extractor=di.load_extractor("embedded", device="cpu"), p=1.0
)

@pipeline_def(batch_size=2, num_threads=2, device_id=None)
def graph(key):
    images = fn.external_source(lambda i: [np.full((40, 50, 3), i, np.uint8)] * 2)
    keys = fn.external_source(lambda i: [np.int64(key)] * 2)
    return di.fn.icgan_augment(images, keys, epoch=0, transform=di.TrainTransform(32), augment=augment)

pipes = [graph(0), graph(-1)]
for pipe in pipes:
    pipe.build()
    pipe.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ValueError: keys must not be negative, got -1" in done.stderr
