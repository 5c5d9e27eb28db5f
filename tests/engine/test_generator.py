import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from dali_icgan.engine import Generator, load_generator, placement
from dali_icgan.engine.layers import Convolution
from dali_icgan.errors import DeviceError
from dali_icgan.models.checkpoint import read_generator
from dali_icgan.models.generator import GeneratorConfig, ICGenerator, power_step
from tests.golden import OWN, SHARED, load, needs_shared, own
from tests.golden.reference import generate
from tests.untrained import FOLDER

# Largest difference seen between float32 and float64 on all golden files: 1e-5.
BOUNDS = {torch.float32: 5e-5, torch.float64: 1e-10}


def inputs(generator, n, seed=0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(n, generator.dim_z, generator=random, dtype=dtype)
    h = F.normalize(torch.randn(n, generator.feature_dim, generator=random, dtype=dtype))
    return (z, h, torch.randint(generator.n_classes, (n,), generator=random)) if generator.n_classes else (z, h)


def random_generator(resolution, channels, attention=(), dtype=torch.float32, **change):
    torch.manual_seed(0)
    wide = {"z_chunk": 5, "feature_dim": 40, "shared_dim_feat": 12, "n_classes": 6, "shared_dim": 7}
    model = ICGenerator(GeneratorConfig(resolution, channels, attention=attention, **wide | change)).train()
    for module in model.modules():
        if hasattr(module, "gamma"):
            module.gamma.data.fill_(0.7)
    z, h = torch.randn(8, model.config.dim_z), F.normalize(torch.randn(8, 40))
    with torch.no_grad():
        model(z, h, torch.arange(8) % 6 if model.config.class_conditional else None)
    return load_generator(model.state_dict(), "cpu", dtype)


@pytest.fixture(scope="module")
def plain():
    return load_generator(own("ic_res32")["state_dict"], "cpu")


@pytest.fixture(scope="module")
def conditional():
    return load_generator(own("cc_res64")["state_dict"], "cpu")


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_golden_outputs(path, dtype):
    golden = load(path)
    images = load_generator(golden["state_dict"], "cpu", dtype)(golden["z"], golden["h"], golden["y"])
    assert images.dtype == dtype
    assert (images.flatten()[:: golden["stride"]] - golden["output64"]).abs().max() < BOUNDS[dtype]


@needs_shared
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("path", SHARED, ids=lambda p: p.stem)
def test_golden_outputs_of_the_reference_implementation(path, dtype):
    golden = load(path)
    generator = load_generator(golden["state_dict"], "cpu", dtype)
    images = generator(golden["z"], golden["h"], golden["y"])
    assert (images - golden["output64"]).abs().max() < BOUNDS[dtype]
    assert (generator.dim_z, generator.parameters_count) == (golden["derived"]["dim_z"], golden["derived"]["n_params"])


@needs_shared
@pytest.mark.parametrize("path", SHARED, ids=lambda p: p.stem)
def test_sigmas_of_the_reference_implementation(path):
    golden = load(path)
    for name, wanted in golden["sigma64"].items():
        weight, u = (golden["state_dict"][f"{name}.{part}"].double() for part in ("weight", "u0"))
        assert abs(power_step(weight, u)[0].item() / wanted - 1) < 1e-12, name


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_equals_the_reference_on_other_inputs(path):
    golden = load(path)
    generator = load_generator(golden["state_dict"], "cpu", torch.float64)
    arguments = inputs(generator, 3, seed=5, dtype=torch.float64)
    want = generate(golden["config"], golden["state_dict"], *arguments)
    assert (generator(*arguments) - want).abs().max() < 1e-10


def test_spectral_norm_is_one_step_from_u0_and_nothing_else():
    golden = own("ic_res64_unsettled_u")
    state = {k: t.double() for k, t in golden["state_dict"].items()}
    arguments = golden["z"], golden["h"]
    right = load_generator(state, "cpu")(*arguments)

    def changed(change):
        return load_generator({k: change(k, t) for k, t in state.items()}, "cpu")(*arguments)

    def advanced(key, tensor):
        return power_step(state[key.replace("u0", "weight")], tensor)[1] if key.endswith(".u0") else tensor

    # sv0 is never read, and the length of u0 (an average in EMA files) does not matter.
    assert torch.equal(changed(lambda k, t: torch.full_like(t, 9) if k.endswith(".sv0") else t), right)
    assert (changed(lambda k, t: t * 7 if k.endswith(".u0") else t) - right).abs().max() < 1e-5
    # One step more shows.
    assert (changed(advanced) - right).abs().max() > 0.1


def test_says_what_it_is(plain, conditional):
    assert (plain.resolution, plain.dim_z, plain.feature_dim, plain.n_classes) == (32, 12, 24, 0)
    assert (conditional.resolution, conditional.dim_z, conditional.feature_dim, conditional.n_classes) == (
        64,
        20,
        24,
        7,
    )
    assert (plain.class_conditional, conditional.class_conditional) == (False, True)
    assert (plain.device, plain.dtype) == (torch.device("cpu"), torch.float32)
    assert plain.config == read_generator(own("ic_res32")["state_dict"]).config
    assert plain.trained
    assert repr(plain) == "Generator('the given mapping', 32 px, 0.0M parameters, no classes, torch.float32, cpu)"
    assert "7 classes" in repr(conditional)


def test_images_are_channels_last_and_in_range(plain):
    images = plain(*inputs(plain, 3))
    assert images.shape == (3, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= images.min() < -0.5 < 0.5 < images.max() <= 1


def test_no_rows(plain, conditional):
    for generator in (plain, conditional):
        images = generator(*inputs(generator, 0))
        assert (images.shape, images.dtype) == ((0, 3, generator.resolution, generator.resolution), torch.float32)


def test_extra_columns_of_z_are_not_read(plain):
    z, h = inputs(plain, 2)
    assert torch.equal(plain(torch.cat([z, torch.full((2, 9), torch.nan)], 1), h), plain(z, h))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu_is_float32_rounded_once(dtype, monkeypatch):
    monkeypatch.setenv("DALI_ICGAN_INSTRUCTIONS", "generic")  # on any processor: no kernels of bfloat16 there
    state = own("ic_res32")["state_dict"]
    exact, half = load_generator(state, "cpu", torch.float32), load_generator(state, "cpu", dtype)
    assert torch.equal(half(*inputs(half, 2)), exact(*inputs(exact, 2)).to(dtype))
    # Noise and features may be half precision too.
    z, h = inputs(half, 2)
    assert torch.equal(half(z.to(dtype), h.to(dtype)), half(z.to(dtype).float(), h.to(dtype).float()))


def test_inputs_are_left_alone(conditional):
    arguments = inputs(conditional, 3)
    before = [a.clone() for a in arguments]
    conditional(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_state_dict_is_copied(dtype):
    state = {k: t.to(dtype) for k, t in own("ic_res32")["state_dict"].items()}
    generator = load_generator(state, "cpu", dtype)
    before = generator(*inputs(generator, 1))
    for tensor in state.values():
        tensor.fill_(3)
    assert torch.equal(generator(*inputs(generator, 1)), before)


@pytest.mark.parametrize(
    "around", ["autocast", "inference_mode", "no_grad", "gradients", "float64 by default", "meta by default"]
)
def test_nothing_around_it_changes_it(conditional, around):
    z, h, y = inputs(conditional, 3)
    want = conditional(z, h, y)
    context = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference_mode": torch.inference_mode,
        "no_grad": torch.no_grad,
        "gradients": torch.enable_grad,
        "meta by default": lambda: torch.device("meta"),
    }
    try:
        if around in context:
            with context[around]():
                got = conditional(z.clone().requires_grad_(around == "gradients"), h.clone(), y.clone())
                state = (
                    {k: t.clone() for k, t in own("cc_res64")["state_dict"].items()} if "meta" not in around else None
                )
                if state:
                    assert torch.equal(load_generator(state, "cpu")(z, h, y), want)
        else:
            torch.set_default_dtype(torch.float64)
            got = conditional(z, h, y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, want)
    assert not got.requires_grad
    assert not got.is_inference()
    got.add_(1)  # a tensor like any other


def test_training_with_its_images_works(plain):
    images = plain(*inputs(plain, 2))
    weight = torch.ones(3, requires_grad=True)
    (images * weight[:, None, None]).sum().backward()
    assert weight.grad.abs().min() > 0


CONTRACT = {
    "32 px": lambda: random_generator(32, 8),
    "32 px, classes, float64": lambda: random_generator(32, 3, (16,), torch.float64, class_conditional=True),
    "64 px": lambda: random_generator(64, 4, (32,), shared_dim_feat=13),
    "256 px": lambda: random_generator(256, 2, (64,)),
    "embedded": lambda: load_generator("embedded", "cpu"),
}


def other_company(rows, strangers):
    """Every second row of a batch at another place, among strangers, in memory that is not aligned as a tensor of its own is."""
    m = len(rows)
    there = torch.arange(0, m, 2)
    here = (m - 1 - there).flip(0).roll(1)
    batch = strangers.clone()
    batch[there] = rows[here]
    return torch.cat([batch.reshape(-1)[:1], batch.reshape(-1)])[1:].view_as(batch), there, here


@pytest.mark.parametrize("name", CONTRACT)
def test_a_row_depends_on_nothing_but_itself(name):
    generator = CONTRACT[name]()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for m in (4,) if generator.resolution > 64 else (4, 32):
            arguments = inputs(generator, m)
            moved = [other_company(a, b) for a, b in zip(arguments, inputs(generator, m, seed=1), strict=True)]
            _, there, here = moved[0]
            assert (there != here).any()
            assert torch.equal(generator(*(batch for batch, _, _ in moved))[there], generator(*arguments)[here])


def test_cudnn_is_told_outright(monkeypatch):
    """The CUDA path without a GPU: shapes, dtypes and arguments, on tensors without data."""
    schema = torch.ops.aten.cudnn_convolution.default._schema

    def cudnn_convolution(x, weight, **told):
        assert {a.name for a in schema.arguments} == {"self", "weight", *told}
        assert (told["benchmark"], told["deterministic"], told["allow_tf32"]) == (False, True, False)
        assert x.is_contiguous(memory_format=torch.channels_last)
        out = F.conv2d(x, weight, None, told["stride"], told["padding"], told["dilation"], told["groups"])
        return out.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(torch, "cudnn_convolution", cudnn_convolution)
    convolution = Convolution(torch.empty(6, 4, 3, 3, device="meta"), stride=2)
    x = torch.empty(2, 4, 9, 9, device="meta", memory_format=torch.channels_last)
    assert convolution(x).shape == (2, 6, 5, 5)


def test_the_fingerprint_is_the_models():
    state = own("cc_res64")["state_dict"]
    wanted = load_generator(state, "cpu").fingerprint
    assert len(wanted) == 64
    int(wanted, 16)
    assert (
        load_generator({f"module.{k}": t.float() for k, t in state.items()}, "cpu", torch.float64).fingerprint == wanted
    )
    assert load_generator(own("ic_res64")["state_dict"], "cpu").fingerprint != wanted


def test_copies_work(plain):
    for other in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(other(*inputs(plain, 2)), plain(*inputs(plain, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, h, y: (z[0], h, y), r"z must have shape \[n, 20 or more\], got \[20\]"),
        (lambda z, h, y: (z[:, :19], h, y), r"z must have shape \[n, 20 or more\], got \[3, 19\]"),
        (lambda z, h, y: (z, h[:2], y), r"h must have shape \[3, 24\], got \[2, 24\]"),
        (lambda z, h, y: (z, h[:, :5], y), r"h must have shape \[3, 24\], got \[3, 5\]"),
        (lambda z, h, y: (z.int(), h, y), "z must be floating point, got torch.int32"),
        (lambda z, h, y: (z, h.to(torch.uint8), y), "h must be floating point, got torch.uint8"),
        (lambda z, h, y: (z.to("meta"), h, y), "z must be on cpu, got meta"),
        (lambda z, h, y: (z, h.to("meta"), y), "h must be on cpu, got meta"),
        (lambda z, h, y: (z, h, y.to("meta")), "y must be on cpu or the CPU, got meta"),
        (lambda z, h, y: (z, h, None), "y must be given: this generator is class-conditional"),
        (lambda z, h, y: (z, h, y[:2]), r"y must have shape \[3\], got \[2\]"),
        (lambda z, h, y: (z, h, y.float()), "y must be integers, got torch.float32"),
        (lambda z, h, y: (z, h, y > 0), "y must be integers, got torch.bool"),
        (lambda z, h, y: (z, h, y * 0 + 7), r"y must be in \[0, 7\), got 7 to 7"),
        (lambda z, h, y: (z, h, y * 0 - 1), r"y must be in \[0, 7\), got -1 to -1"),
    ],
)
def test_wrong_arguments_are_named(conditional, change, message):
    with pytest.raises(ValueError, match=message):
        conditional(*change(*inputs(conditional, 3)))


def test_a_plain_generator_takes_no_labels(plain):
    with pytest.raises(ValueError, match="y must be None: this generator has no classes"):
        plain(*inputs(plain, 2), torch.zeros(2, dtype=torch.int64))


def test_where_and_in_what(monkeypatch):
    checkpoint = read_generator(own("ic_res32")["state_dict"])
    with pytest.raises(ValueError, match="device must be cpu or cuda, got meta"):
        Generator(checkpoint, "meta")
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'tpu'"):
        Generator(checkpoint, "tpu")
    with pytest.raises(ValueError, match=r"dtype must be one of torch.float16, .*, got torch.int8"):
        Generator(checkpoint, "cpu", torch.int8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device='cuda:3' needs a CUDA device, and torch sees none"):
        Generator(checkpoint, "cuda:3")
    assert Generator(checkpoint).device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(DeviceError, match="device='cuda:3' must be one of 3 CUDA devices"):
        Generator(checkpoint, "cuda:3")
    assert placement.resolve(None, None) == (torch.device("cuda:2"), torch.float16, torch.float16)
    assert placement.resolve("cuda:1", torch.float32) == (torch.device("cuda:1"), torch.float32, torch.float32)


def test_a_notice_is_said_once(caplog):
    for _ in range(2):
        placement.say_once("only for this test")
        placement.say_once("")
    assert [(r.name, r.message) for r in caplog.records] == [("dali_icgan", "only for this test")]


def test_a_released_architecture_is_announced(caplog, monkeypatch):
    monkeypatch.setattr("dali_icgan.models.checkpoint._RELEASED", {(32, 1)})
    torch.manual_seed(0)
    state = ICGenerator(GeneratorConfig(32, 1, z_chunk=2)).state_dict()
    load_generator(state, "cpu")
    load_generator(state, "cpu")
    (record,) = caplog.records
    assert "the given mapping has the architecture of a released IC-GAN generator" in record.message
    assert "non-commercial" in record.message


def test_the_untrained_one_says_so_and_reacts():
    generator = load_generator(FOLDER / "generator.safetensors", "cpu")
    assert not generator.trained
    assert "UNTRAINED" in repr(generator)
    z, h = inputs(generator, 8)
    images = generator(z.clamp(-1.4, 1.4).repeat_interleave(8, 0), h.repeat(8, 1)).unflatten(0, (8, 8))
    # Uses its range without sticking to its ends, and differs over z and over h.
    assert (images.abs() > 0.98).float().mean() < 0.05
    assert images.std() > 0.3
    assert images.std(0).mean() > 0.1
    assert images.std(1).mean() > 0.1
