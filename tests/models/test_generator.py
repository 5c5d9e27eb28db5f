import pytest
import torch
from torch.nn import functional as F

from dali_icgan.models.generator import GeneratorConfig, ICGenerator, SpectralLinear, count_parameters, power_step
from tests.golden import FOLDER, OWN, load, needs_shared, own
from tests.golden.reference import generate, shapes, sigma

FULL = {"z_chunk": 17, "resolution": 256, "channels": 96, "attention": (64,)}
SMALL = {
    "resolution": 32,
    "channels": 2,
    "z_chunk": 3,
    "feature_dim": 9,
    "shared_dim_feat": 4,
    "n_classes": 5,
    "shared_dim": 6,
}


def config_of(golden):
    names = {"ch": "channels", "chunk": "z_chunk", "hier": "hierarchical", "class_cond": "class_conditional"}
    return GeneratorConfig(**{names.get(name, name): value for name, value in golden["config"].items()})


def build(golden, dtype=torch.float64):
    model = ICGenerator(config_of(golden), device="meta")
    model.load_state_dict({k: t.to(dtype) for k, t in golden["state_dict"].items()}, assign=True)
    return model.eval()


def inputs(config, n=6, dtype=torch.float64):
    torch.manual_seed(3)
    z, h = torch.randn(n, config.dim_z, dtype=dtype), F.normalize(torch.randn(n, config.feature_dim, dtype=dtype))
    return z, h, torch.randint(config.n_classes, (n,)) if config.class_conditional else None


@needs_shared
@pytest.mark.parametrize(("name", "class_conditional"), [("ic", False), ("cc", True)])
def test_keys_and_shapes_are_the_official_ones(name, class_conditional):
    model = ICGenerator(GeneratorConfig(**FULL, class_conditional=class_conditional), device="meta")
    mine = [f"{key}\t{list(t.shape)}\t{str(t.dtype).removeprefix('torch.')}" for key, t in model.state_dict().items()]
    assert mine == (FOLDER / f"state_dict_{name}256.txt").read_text().splitlines()


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_keys_and_shapes_are_those_of_the_reference(path):
    golden = load(path)
    model = ICGenerator(config_of(golden), device="meta")
    assert {k: tuple(t.shape) for k, t in model.state_dict().items()} == shapes(golden["config"])


@pytest.mark.parametrize(
    ("resolution", "channels", "chunk", "attention", "class_conditional", "millions"),
    [
        (256, 96, 17, 64, False, 90.014),
        (256, 96, 17, 64, True, 92.300),
        (256, 64, 17, 64, False, 42.861),
        (128, 96, 20, 64, False, 77.160),
        (128, 96, 20, 64, True, 79.052),
        (64, 64, 24, 32, False, 36.656),
        (64, 64, 24, 32, True, 37.868),
    ],
)
def test_released_architectures_have_the_published_size(
    resolution, channels, chunk, attention, class_conditional, millions
):
    config = GeneratorConfig(resolution, channels, chunk, attention=(attention,), class_conditional=class_conditional)
    assert round(count_parameters(ICGenerator(config, device="meta").state_dict()) / 1e6, 3) == millions
    assert config.dim_z == {256: 119, 128: 120, 64: 120}[resolution]


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_golden_outputs(path):
    golden = load(path)
    y = golden["y"]
    with torch.no_grad():
        images = build(golden)(golden["z"].double(), golden["h"].double(), y)
    assert (images.flatten()[:: golden["stride"]] - golden["output64"]).abs().max() < 1e-10


def test_evaluation_mutates_nothing():
    model = build(own("cc_res64"))
    before = {k: t.clone() for k, t in model.state_dict().items()}
    first, again = (model(*inputs(model.config)) for _ in range(2))
    assert torch.equal(first, again)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_training_uses_batch_statistics():
    golden = own("cc_res64")
    model = build(golden).train()
    z, h, y = inputs(model.config)
    want = generate(golden["config"], golden["state_dict"], z, h, y, batch_statistics={})
    assert (model(z, h, y) - want).abs().max() < 1e-10
    assert (want - generate(golden["config"], golden["state_dict"], z, h, y)).abs().max() > 0.1


def test_training_stores_the_power_step_and_the_statistics():
    golden = own("ic_res64_unsettled_u")
    model = build(golden).train()
    before = {k: t.clone() for k, t in model.state_dict().items()}
    statistics = {}
    z, h, _ = inputs(model.config)
    generate(golden["config"], golden["state_dict"], z, h, batch_statistics=statistics)
    model(z, h)
    after = model.state_dict()
    for name in [k.removesuffix(".u0") for k in before if k.endswith(".u0")]:
        matrix = before[f"{name}.weight"].flatten(1)
        u = F.normalize(F.normalize(before[f"{name}.u0"] @ matrix) @ matrix.T)
        assert (after[f"{name}.u0"] - u).abs().max() < 1e-12
        assert (after[f"{name}.sv0"] - sigma(matrix, before[f"{name}.u0"])).abs() < 1e-12
    pixels = {"blocks.0.0.bn1": 6 * 4 * 4, "blocks.2.0.bn2": 6 * 32 * 32, "output_layer.0": 6 * 64 * 64}
    for name, count in pixels.items():
        mean, var = statistics[name]
        wanted = (
            0.9 * before[f"{name}.stored_mean"] + 0.1 * mean,
            0.9 * before[f"{name}.stored_var"] + 0.1 * var * count / (count - 1),
        )
        assert torch.allclose(after[f"{name}.stored_mean"], wanted[0], atol=1e-12)
        assert torch.allclose(after[f"{name}.stored_var"], wanted[1], atol=1e-12)


@pytest.mark.parametrize("class_conditional", [False, True])
def test_gradients_reach_every_parameter_in_use(class_conditional):
    torch.manual_seed(0)
    model = ICGenerator(GeneratorConfig(**SMALL, attention=(16,), class_conditional=class_conditional)).double()
    model.blocks[1][1].gamma.data.fill_(0.5)
    model(*inputs(model.config)).square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == (set() if class_conditional else {"shared.weight"})


def test_the_gradient_goes_through_sigma():
    # The output does not change with the length of the weight, so its gradient has no part along the weight. That holds once u
    # has settled: only there a step's vectors stay put.
    torch.manual_seed(0)
    layer = SpectralLinear(5, 4).double()
    for _ in range(500):
        layer.normalised_weight()
    (layer(torch.randn(3, 5, dtype=torch.float64)) ** 3).sum().backward()
    assert layer.weight.grad.norm() > 1
    assert (layer.weight * layer.weight.grad).sum().abs() < 1e-10


def test_power_step_survives_a_zero_matrix():
    value, u = power_step(torch.zeros(3, 4), torch.ones(1, 3))
    assert value == 0
    assert torch.equal(u, torch.zeros(1, 3))


def test_weights_begin_orthogonal():
    torch.manual_seed(0)
    weight = ICGenerator(GeneratorConfig(**SMALL)).blocks[0][0].conv1.weight.flatten(1)
    assert torch.allclose(weight @ weight.T, torch.eye(len(weight)), atol=1e-5)


def test_extra_columns_of_z_are_not_read():
    model = build(own("ic_res32"))
    z, h, _ = inputs(model.config)
    assert torch.equal(model(z, h), model(torch.cat([z, torch.full((len(z), 9), torch.nan)], 1), h))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 48}, "resolution must be one of 32, 64, 128, 256, got 48"),
        ({"channels": 0}, "channels must be an integer in 1..1048576, got 0"),
        ({"z_chunk": 0}, "z_chunk must be an integer in 1..1048576, got 0"),
        ({"n_classes": -1}, "n_classes must be an integer in 1..1048576, got -1"),
        ({"channels": 16.0}, "channels must be an integer in 1..1048576, got 16.0"),
        ({"feature_dim": 1 << 21}, "feature_dim must be an integer in 1..1048576, got 2097152"),
        ({"hierarchical": 1}, "hierarchical must be True or False, got 1"),
        ({"attention": (16.0,)}, r"attention must be among the resolutions \(8, 16, 32\), got \(16\.0,\)"),
        ({"channels": 1, "attention": (16,)}, "channels must give attention at least 8, got 4 at 16 pixels"),
        ({"attention": (64,)}, r"attention must be among the resolutions \(8, 16, 32\), got \(64,\)"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**SMALL | change)


@pytest.mark.parametrize(("class_conditional", "message"), [(True, "y must be given"), (False, "y must be None")])
def test_labels_belong_to_classes(class_conditional, message):
    model = ICGenerator(GeneratorConfig(**SMALL, class_conditional=class_conditional))
    z, h, _ = inputs(model.config, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        model(z, h, None if class_conditional else torch.zeros(len(z), dtype=torch.int64))
