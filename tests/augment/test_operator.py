import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import dali_icgan as di
from dali_icgan.augment.generation import Generation, Job
from dali_icgan.augment.plan import RowKeys
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from tests.photos import make_folder, patch

SIZE = 32


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


def features(n, d, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(scope="module")
def bank(generator):
    return di.FeatureBank.from_arrays(features(12, generator.feature_dim), [f"{i}.jpg" for i in range(12)])


@pytest.fixture(scope="module")
def images():
    return [torch.from_numpy(patch("coffee", i).copy()) for i in range(12)]


def keys(n=12):
    return torch.arange(n)


TRANSFORM = di.TrainTransform(SIZE)


def test_what_is_not_replaced_is_a_plain_crop(generator, bank, images):
    plain, labels, info = di.DAICGAN(generator=generator, bank=bank, p=0.0)(
        images, keys(), list(range(12)), 0, TRANSFORM
    )
    half, _, chosen = di.DAICGAN(generator=generator, bank=bank, p=0.5)(images, keys(), list(range(12)), 0, TRANSFORM)
    assert not info["replaced"].any()
    assert labels.tolist() == list(range(12))
    assert 2 < chosen["replaced"].sum() < 10
    for i, replaced in enumerate(chosen["replaced"]):
        assert torch.equal(plain[i], half[i]) != replaced


def test_a_generation_is_the_generators_own_image(generator, bank, images):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0, microbatch=4)
    whole = di.EvalTransform(generator.resolution, generator.resolution, mean=(0, 0, 0), std=(1, 1, 1))
    out, _, _ = augment(images, keys(), None, 7, whole)
    z = augment.noise(RowKeys(0, 7, np.arange(12), np.zeros(12, np.int64)))
    for begin in (0, 4, 8):
        want = generator(z[begin : begin + 4], bank.gather(np.arange(begin, begin + 4), torch.device("cpu")))
        assert (out[begin : begin + 4] - (want * 0.5 + 0.5)).abs().max() < 1e-6


@pytest.mark.parametrize("m", [1, 4, 32])
@pytest.mark.parametrize("given", ["bank", "extractor"])
def test_a_row_does_not_depend_on_its_batch(generator, extractor, bank, images, given, m):
    augment = di.DAICGAN(generator=generator, p=1.0, microbatch=m, **{given: bank if given == "bank" else extractor})
    together, _, _ = augment(images, keys(), None, 0, TRANSFORM)
    order = torch.tensor([7, 3, 11, 0, 5])
    shuffled, _, _ = augment([images[i] for i in order], order, None, 0, TRANSFORM)
    assert torch.equal(shuffled, together[order])
    for i in (0, 6):
        alone, _, _ = augment([images[i]], [i], None, 0, TRANSFORM)
        assert torch.equal(alone[0], together[i])


def test_repeats_views_epochs_and_seeds_differ(generator, bank, images):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0)
    base = augment(images, keys(), None, 0, TRANSFORM)[0]
    assert torch.equal(
        base, augment(images, torch.stack([keys(), torch.zeros(12, dtype=torch.int64)], 1), None, 0, TRANSFORM)[0]
    )
    others = [
        augment(images, torch.stack([keys(), torch.ones(12, dtype=torch.int64)], 1), None, 0, TRANSFORM)[0],
        augment(images, keys(), None, 1, TRANSFORM)[0],
        augment(images, keys(), None, 0, TRANSFORM, view=1)[0],
        di.DAICGAN(generator=generator, bank=bank, p=1.0, seed=1)(images, keys(), None, 0, TRANSFORM)[0],
    ]
    for other in others:
        assert all(not torch.equal(a, b) for a, b in zip(base, other, strict=True))


def test_every_form_of_images(generator, extractor):
    augment = di.DAICGAN(generator=generator, extractor=extractor, p=0.5)
    square = torch.stack(
        [torch.from_numpy(patch("astronaut", 1)[:40, :40].copy().transpose(2, 0, 1)) + i for i in range(12)]
    )
    listed = augment([image.permute(1, 2, 0) for image in square], keys(), None, 0, TRANSFORM)
    stacked = augment(square, keys(), None, 0, TRANSFORM)
    assert torch.equal(listed[0], stacked[0])
    floats, _, info = augment(square.float() / 255, keys(), None, 0, TRANSFORM)
    real = torch.from_numpy(~info["replaced"])
    assert real.any()
    assert (floats[real] - stacked[0][real]).abs().max() < 1e-5
    # uint8 images are resized with rounding for their features, floats without
    assert (floats[~real] - stacked[0][~real]).abs().max() < 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_layout(generator, bank, images, dtype, memory_format):
    augment = di.DAICGAN(generator=generator, bank=bank, p=0.5)
    want = augment(images, keys(), None, 0, TRANSFORM)[0]
    got = augment(images, keys(), None, 0, TRANSFORM, dtype=dtype, memory_format=memory_format)[0]
    assert got.is_contiguous(memory_format=memory_format)
    assert torch.equal(got, want.to(dtype))


def test_an_empty_batch(generator, bank):
    out, labels, info = di.DAICGAN(generator=generator, bank=bank)([], [], None, 0, TRANSFORM)
    assert out.shape == (0, 3, SIZE, SIZE)
    assert len(labels) == len(info["replaced"]) == 0


def test_generated_transform_is_for_generations_alone(generator, bank, images):
    plain = di.DAICGAN(generator=generator, bank=bank, p=0.5)
    own = di.DAICGAN(
        generator=generator,
        bank=bank,
        p=0.5,
        generated_transform=di.EvalTransform(SIZE, SIZE, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    a, _, info = plain(images, keys(), None, 0, TRANSFORM)
    b, _, other = own(images, keys(), None, 0, TRANSFORM)
    replaced = info["replaced"]
    assert torch.equal(a[~replaced], b[~replaced])
    assert (other["box"][replaced] == [0, 0, 32, 32]).all()
    assert 0 <= b[replaced].min() <= b[replaced].max() <= 1


def test_truncation_reaches_the_noise(generator, bank):
    row_keys = RowKeys(0, 0, np.arange(200), np.zeros(200, np.int64))
    spread = {}
    for mode in ("cut", "std", "scaled"):
        z = di.DAICGAN(generator=generator, bank=bank, truncation=0.5, truncation_mode=mode).noise(row_keys)
        spread[mode] = (z.abs().max().item(), z.std().item())
    assert spread["cut"][0] <= 1.0
    assert spread["scaled"][0] <= 1.0
    assert spread["std"][0] > 1.5
    assert spread["std"][1] == pytest.approx(0.5, rel=0.05)
    assert spread["cut"][1] > spread["scaled"][1]


def test_condition_neighbour_and_random(generator, bank, images):
    near = bank.neighbours(3)
    neighbour = di.DAICGAN(generator=generator, bank=bank, p=1.0, condition="neighbour", k=3)
    anyone = di.DAICGAN(generator=generator, bank=bank, p=1.0, condition="random")
    seen_near, seen_any = set(), set()
    for epoch in range(40):
        row_keys = RowKeys(0, epoch, np.arange(12), np.zeros(12, np.int64))
        chosen = neighbour.decide(neighbour._bind_alone(), row_keys, np.zeros(12, np.int64), 1.0).row
        assert all(chosen[i] in near[i] for i in range(12))
        seen_near.add(int(chosen[0]))
        seen_any.add(int(anyone.decide(anyone._bind_alone(), row_keys, np.zeros(12, np.int64), 1.0).row[0]))
    assert seen_near == set(near[0])
    assert seen_any == set(range(12))


def test_labels_of_a_class_conditional_generator(conditional, bank, images):
    own = di.DAICGAN(generator=conditional, bank=bank, p=1.0, class_map=[4, 3, 2])
    labels = torch.tensor([0, 1, 2] * 4)
    a, returned, _ = own(images, keys(), labels, 0, TRANSFORM)
    assert returned.tolist() == labels.tolist()
    b = di.DAICGAN(generator=conditional, bank=bank, p=1.0, class_map={0: 0, 1: 3, 2: 2})(
        images, keys(), labels, 0, TRANSFORM
    )[0]
    changed = [not torch.equal(x, y) for x, y in zip(a, b, strict=True)]
    assert changed == [True, False, False] * 4
    drawn = di.DAICGAN(generator=conditional, bank=bank, p=0.7, class_map=[4, 3, 2], labels="random")
    _, returned, info = drawn(images, keys(), labels, 0, TRANSFORM)
    assert (returned[~info["replaced"]] == labels[~info["replaced"]]).all()
    assert set(returned[info["replaced"]].tolist()) == {0, 1, 2}


def test_class_maps_that_are_found(conditional, bank, generator, tmp_path):
    samples = di.data.as_samples(make_folder(tmp_path / "three", 1))
    found = di.augment.classes.found_class_map
    assert found(["a", "b", "c"], 3, 3).tolist() == [0, 1, 2]
    assert found(["n01440764", "n15075141"], 2, 1000).tolist() == [0, 999]
    with pytest.raises(ValueError, match="n99999999 is not one of ImageNet's 1000 classes"):
        found(["n01440764", "n99999999"], 2, 1000)
    with pytest.raises(
        ValueError, match="class_map must be given: the generator knows 5 classes and the dataset has 3"
    ):
        di.DAICGAN(generator=conditional, extractor=di.load_extractor("embedded", device="cpu")).bind(samples, 0)


def test_retrieval_standalone(tmp_path, generator, extractor):
    folder = make_folder(tmp_path / "photos", 3)
    bank = di.FeatureBank.build(
        folder, extractor.at_resolution(generator.resolution), tmp_path / "bank", progress=False
    )
    augment = di.DAICGAN(generator=None, bank=bank, p=1.0, source="neighbour", k=2)
    whole = di.EvalTransform(SIZE, SIZE)
    originals = di.data.ImageDecoder(1).decode([Path(augment.bank_source(i)).read_bytes() for i in range(9)])
    shown, _, _ = augment(originals, range(9), None, 0, whole)
    alone, _, _ = di.DAICGAN(generator=generator, bank=bank, p=0.0)(originals, range(9), None, 0, whole)
    for i in range(9):
        (match,) = [j for j in range(9) if torch.equal(alone[j], shown[i])]
        assert match != i
        assert match in bank.neighbours(2)[i]


def job(rows, generator, bank):
    row_keys = RowKeys(0, 0, np.array(rows), np.zeros(len(rows), np.int64))
    return Job(row_keys, None, np.array(rows), [])


def test_background_generation_fills_microbatches_and_pads_only_at_the_end(generator, bank, monkeypatch):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0, microbatch=4)
    calls = []
    real = augment.generate
    monkeypatch.setattr(augment, "generate", lambda z, h, y: calls.append(len(z)) or real(z, h, y))
    generation = Generation(augment)
    jobs = [generation.submit(job([0, 1, 2], generator, bank))]
    time.sleep(0.2)
    assert calls == []  # three rows wait for a fourth
    jobs += [generation.submit(job(rows, generator, bank)) for rows in ([3, 4, 5, 6, 7], [8], [9])]
    first = generation.wait(jobs[0])
    generation.wait(jobs[1])
    assert calls == [4, 4]
    generation.look_ahead_is_full(True)
    last = generation.wait(jobs[3])
    assert calls == [4, 4, 2]
    z = augment.noise(RowKeys(0, 0, np.arange(12), np.zeros(12, np.int64)))
    h = bank.gather(np.arange(12), torch.device("cpu"))
    want = real(z, h, None)
    assert torch.equal(first, want[:3])
    assert torch.equal(generation.wait(jobs[1]), want[3:8])
    assert torch.equal(last, want[9:10])
    generation.close()


def test_background_generation_waits_for_rows_that_are_on_their_way(generator, bank, monkeypatch):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0, microbatch=4)
    calls = []
    real = augment.generate
    monkeypatch.setattr(augment, "generate", lambda z, h, y: calls.append(len(z)) or real(z, h, y))
    generation = Generation(augment)
    for _ in range(3):
        generation.expect()
    generation.look_ahead_is_full(True)
    first = generation.submit(job([0, 1], generator, bank))
    generation.arrived()
    waiter = threading.Thread(target=generation.wait, args=(first,), daemon=True)
    waiter.start()
    time.sleep(0.2)
    assert calls == []  # two more batches are being decoded
    second = generation.submit(job([2], generator, bank))
    generation.arrived()
    time.sleep(0.2)
    assert calls == []
    generation.arrived()  # with nothing to generate
    waiter.join(60)
    assert calls == [3]
    assert len(generation.wait(second)) == 1
    # One that fails will not arrive, nor will those behind it.
    generation.expect()
    generation.cut_off()
    assert len(generation.wait(generation.submit(job([3], generator, bank)))) == 1
    generation.close()


def test_plans_are_made_before_anything_runs_beside_them(generator, extractor, bank, monkeypatch):
    asked = []
    for model in (generator, extractor):
        monkeypatch.setattr(
            type(model), "prepare", lambda *given, **more: asked.append((type(given[0]).__name__, given[1], more))
        )
    for embed_bank in (False, True):
        Generation(di.DAICGAN(generator=generator, bank=bank, microbatch=5, embed_bank=embed_bank)).close()
        assert asked == [("Generator", 5, {"embedded": embed_bank})]
        asked.clear()
    Generation(di.DAICGAN(generator=generator, extractor=extractor, microbatch=5)).close()
    assert asked == [("Generator", 5, {"embedded": False}), ("Extractor", 5, {})]


def test_background_generation_that_is_closed_says_so(generator, bank):
    augment = di.DAICGAN(generator=generator, bank=bank, microbatch=4)
    generation = Generation(augment)
    waiting = generation.submit(job([0], generator, bank))
    generation.close()
    with pytest.raises(RuntimeError, match="the loader was closed"):
        generation.wait(waiting)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"generator": 3}, TypeError, "generator must come from load_generator, got int"),
        ({"extractor": 3}, TypeError, "extractor must come from load_extractor, got int"),
        ({"bank": 3}, TypeError, "bank must be a FeatureBank or its path, got int"),
        ({"bank": None}, ValueError, "extractor or bank must be given"),
        ({"p": 1.5}, ValueError, r"p must be a number in \[0, 1\] or a function of the epoch, got 1.5"),
        ({"p": "half"}, ValueError, r"p must be a number in \[0, 1\]"),
        ({"view_p": [0.5, -1]}, ValueError, r"view_p\[1\] must be a number in \[0, 1\]"),
        ({"truncation": 0}, ValueError, "truncation must be a positive number, got 0"),
        ({"truncation_mode": "hard"}, ValueError, "truncation_mode must be one of 'cut', 'std', 'scaled', got 'hard'"),
        ({"condition": "self"}, ValueError, "condition must be one of 'instance', 'neighbour', 'random', got 'self'"),
        ({"k": 0}, ValueError, "k must be a positive integer, got 0"),
        ({"labels": "any"}, ValueError, "labels must be one of 'own', 'random', got 'any'"),
        ({"labels": "random"}, ValueError, 'labels="random" needs a class-conditional generator'),
        ({"source": "web"}, ValueError, "source must be one of 'generator', 'neighbour', got 'web'"),
        ({"class_map": [0]}, ValueError, "class_map is for a class-conditional generator"),
        ({"microbatch": 0}, ValueError, "microbatch must be a positive integer or None, got 0"),
        (
            {"generated_transform": 224},
            TypeError,
            "generated_transform must be a TrainTransform or EvalTransform, got int",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(generator, bank, change, error, message):
    with pytest.raises(error, match=message):
        di.DAICGAN(**{"generator": generator, "bank": bank, **change})


def test_what_does_not_belong_together_is_named(generator, extractor, conditional):
    wrong = di.FeatureBank.from_arrays(features(4, 7), list("abcd"))
    with pytest.raises(ValueError, match=rf"generator {generator.feature_dim}, bank 7"):
        di.DAICGAN(generator=generator, bank=wrong)
    with pytest.raises(ValueError, match="extractor must see images at the generator's resolution 32, got 64"):
        di.DAICGAN(generator=generator, extractor=extractor.at_resolution(64))
    for extra in ({"condition": "neighbour"}, {"source": "neighbour"}):
        few = di.FeatureBank.from_arrays(features(4, generator.feature_dim), list("abcd"))
        with pytest.raises(ValueError, match=r"k must be an integer in 1..3, the other rows that are present, got 4"):
            di.DAICGAN(generator=generator, bank=few, k=4, **extra)
    for extra in ({"condition": "neighbour"}, {"condition": "random"}, {"source": "neighbour"}):
        with pytest.raises(ValueError, match="bank must be given, got None"):
            di.DAICGAN(generator=generator, extractor=extractor, **extra)
    with pytest.raises(ValueError, match=r"class_map must give classes in 0..4, got 0..9"):
        di.DAICGAN(generator=conditional, extractor=extractor, class_map=[0, 9])
    with pytest.raises(ValueError, match=r"class_map must map every class 0..1"):
        di.DAICGAN(generator=conditional, extractor=extractor, class_map={0: 0, 2: 1})
    with pytest.raises(TypeError, match="class_map must be a sequence or mapping of integers"):
        di.DAICGAN(generator=conditional, extractor=extractor, class_map=[0.5])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda a, x: a(x, [0], None, 0, TRANSFORM),
            ValueError,
            r"keys must be \[12\] or \[12, 2\] \(index, repeat\), got \[1\]",
        ),
        (lambda a, x: a(x, [0.5] * 12, None, 0, TRANSFORM), TypeError, "keys must be integers, got float64"),
        (lambda a, x: a(x, [-1] * 12, None, 0, TRANSFORM), ValueError, "keys must not be negative, got -1"),
        (lambda a, x: a(x, [12] * 12, None, 0, TRANSFORM), ValueError, r"keys must lie in the bank's 0..11, got 12"),
        (lambda a, x: a(x, range(12), [0], 0, TRANSFORM), ValueError, r"labels must have shape \[12\], got \[1\]"),
        (lambda a, x: a(x, range(12), [0.5] * 12, 0, TRANSFORM), TypeError, "labels must be integers, got float64"),
        (
            lambda a, x: a([x[0].float()], [0], None, 0, TRANSFORM),
            TypeError,
            r"images\[0\] must be a uint8 tensor \[h, w, 3\], got torch.float32",
        ),
        (
            lambda a, x: a(torch.zeros(2, 4, 8, 8), [0, 1], None, 0, TRANSFORM),
            ValueError,
            r"images must be \[n, 3, h, w\], got \[2, 4, 8, 8\]",
        ),
        (
            lambda a, x: a(torch.zeros(2, 3, 8, 8, dtype=torch.int64), [0, 1], None, 0, TRANSFORM),
            TypeError,
            "images must be uint8, float32",
        ),
        (lambda a, x: a(x, range(12), None, -1, TRANSFORM), ValueError, "epoch"),
        (
            lambda a, x: a(x, range(12), None, 0, 224),
            TypeError,
            "transform must be a TrainTransform or EvalTransform, got int",
        ),
        (
            lambda a, x: a(x, range(12), None, 0, TRANSFORM, dtype="float16"),
            ValueError,
            "dtype must be torch.float32, float16, bfloat16 or None, got 'float16'",
        ),
        (
            lambda a, x: a(torch.full((1, 3, 8, 8), 255.0), [0], None, 0, TRANSFORM),
            ValueError,
            r"images must be in \[0, 1\] and not normalised yet",
        ),
    ],
)
def test_wrong_calls_are_named(generator, bank, images, call, error, message):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0)
    with pytest.raises(error, match=message):
        call(augment, images)


def test_class_map_is_demanded_outside_a_loader(conditional, bank, images):
    with pytest.raises(
        ValueError, match="class_map must be given for a class-conditional generator outside a DataLoader"
    ):
        di.DAICGAN(generator=conditional, bank=bank)(images, range(12), [0] * 12, 0, TRANSFORM)


def test_in_a_training_loop_behind_torchs_loader(generator, extractor, images):
    augment = di.DAICGAN(generator=generator, extractor=extractor, p=0.5, microbatch=2)
    dataset = [(image, i % 3, i) for i, image in enumerate(images)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=5, shuffle=True, collate_fn=lambda rows: tuple(zip(*rows, strict=True))
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 3))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model[1].weight.detach().clone()
    for epoch in range(2):
        want = augment(images, keys(), None, epoch, TRANSFORM)[0]
        for photographs, labels, index in loader:
            with torch.autocast("cpu", torch.bfloat16):
                batch, targets, _ = augment(photographs, index, labels, epoch, TRANSFORM)
                loss = torch.nn.functional.cross_entropy(model(batch), targets)
            assert torch.equal(batch, want[list(index)])
            assert batch.dtype == torch.float32
            assert not batch.requires_grad
            assert targets.tolist() == list(labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert loss.isfinite()
    assert not torch.equal(model[1].weight, before)


def test_inference_mode_and_gradients_around_a_call_change_nothing(generator, extractor, images):
    augment = di.DAICGAN(generator=generator, extractor=extractor, p=1.0, microbatch=2)
    want = augment(images, keys(), None, 0, TRANSFORM)[0]
    with torch.inference_mode():
        assert torch.equal(augment(images, keys(), None, 0, TRANSFORM)[0], want)
    with torch.no_grad():
        assert torch.equal(augment(images, keys(), None, 0, TRANSFORM)[0], want)
    square = torch.stack([image[:40, :40].permute(2, 0, 1) for image in images]).float() / 255
    out = augment(square.requires_grad_(), keys(), None, 0, TRANSFORM)[0]
    assert not out.requires_grad


def test_labels_epoch_and_transform_are_never_assumed(generator, bank, images, conditional, extractor):
    augment = di.DAICGAN(generator=generator, bank=bank)
    with pytest.raises(TypeError, match="'labels', 'epoch', and 'transform'"):
        augment(images, keys())
    classy = di.DAICGAN(generator=conditional, extractor=extractor, class_map=range(5))
    with pytest.raises(ValueError, match="labels must be given: the generator is class-conditional"):
        classy(images, keys(), None, 0, TRANSFORM)


def test_what_is_no_probability_is_named(generator, bank, images):
    with pytest.raises(TypeError, match="view_p must be a sequence with one p a view, got float"):
        di.DAICGAN(generator=generator, bank=bank, view_p=0.5)
    with pytest.raises(TypeError, match=r"p must be a number, or a function of the epoch alone: .*takes 0 positional"):
        di.DAICGAN(generator=generator, bank=bank, p=lambda: 0.5)(images, keys(), None, 0, TRANSFORM)
