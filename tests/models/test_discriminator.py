import pytest
import torch
from torch.nn import functional as F

from dali_icgan.models.discriminator import DiscriminatorConfig, ICDiscriminator, pooled_conv2d
from dali_icgan.models.generator import power_step, upsampled_conv2d


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(2, 2), (6, 10), (16, 4)])
def test_a_pooled_convolution_is_the_convolution_then_the_pooling(size, bias):
    torch.manual_seed(0)
    x, w = torch.randn(3, 5, *size, dtype=torch.float64), torch.randn(7, 5, 3, 3, dtype=torch.float64)
    b = torch.randn(7, dtype=torch.float64) if bias else None
    want = F.avg_pool2d(F.conv2d(x, w, b, padding=1), 2)
    assert torch.allclose(pooled_conv2d(x, w, b), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 2)])
def test_an_upsampled_convolution_is_the_upsampling_then_the_convolution(size, bias):
    torch.manual_seed(0)
    x, w = torch.randn(3, 5, *size, dtype=torch.float64), torch.randn(7, 5, 3, 3, dtype=torch.float64)
    b = torch.randn(7, dtype=torch.float64) if bias else None
    want = F.conv2d(F.interpolate(x, scale_factor=2.0), w, b, padding=1)
    assert torch.allclose(upsampled_conv2d(x, w, b), want, rtol=0, atol=1e-12)


def test_their_gradients_are_the_same_too():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    plain = {
        pooled_conv2d: lambda: F.avg_pool2d(F.conv2d(x, w, padding=1), 2),
        upsampled_conv2d: lambda: F.conv2d(F.interpolate(x, scale_factor=2.0), w, padding=1),
    }
    for fused, two_steps in plain.items():
        got = torch.autograd.grad(fused(x, w, None).square().sum(), (x, w))
        want = torch.autograd.grad(two_steps().square().sum(), (x, w))
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-10) for a, b in zip(got, want, strict=True))


def effective(layer):
    return layer.weight / power_step(layer.weight, layer.u0)[0]


def score_reference(model, x, h, y):
    """The scores, every step written out."""
    for i, sequence in enumerate(model.blocks):
        block = sequence[0]
        a = x if i == 0 else F.relu(x)
        a = F.conv2d(a, effective(block.conv1), block.conv1.bias, padding=1)
        a = F.conv2d(F.relu(a), effective(block.conv2), block.conv2.bias, padding=1)
        if block.conv_sc is not None:
            x = F.conv2d(x, effective(block.conv_sc), block.conv_sc.bias)
        if block.halves:
            a, x = F.avg_pool2d(a, 2), F.avg_pool2d(x, 2)
        x = a + x
    phi = F.relu(x).sum((2, 3))
    condition = F.linear(h, effective(model.linear_feat), model.linear_feat.bias)
    if y is not None:
        condition = torch.cat([effective(model.embed)[y], condition], 1)
    return F.linear(phi, effective(model.linear), model.linear.bias)[:, 0] + (condition * phi).sum(1)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("classes", [False, True])
def test_scores_are_the_references(resolution, classes):
    torch.manual_seed(0)
    config = DiscriminatorConfig(resolution, 2, 6, n_classes=3, class_conditional=classes)
    model = ICDiscriminator(config).double().eval()
    x, h = torch.randn(3, 3, resolution, resolution, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    y = torch.tensor([0, 2, 1]) if classes else None
    with torch.no_grad():
        assert torch.allclose(model(x, h, y), score_reference(model, x, h, y), rtol=1e-10, atol=1e-10)


def test_attention_follows_its_block():
    model = ICDiscriminator(DiscriminatorConfig(32, 2, 6, attention=(8,)))
    assert [len(block) for block in model.blocks] == [1, 2, 2, 2]
    assert model(torch.randn(2, 3, 32, 32), torch.randn(2, 6)).shape == (2,)


def test_evaluation_changes_nothing_and_training_follows_the_norm():
    model = ICDiscriminator(DiscriminatorConfig(32, 2, 6))
    x, h = torch.randn(2, 3, 32, 32), torch.randn(2, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()(x, h)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.train()(x, h)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in before if name.endswith("u0")} <= changed
    assert all(name.endswith(("u0", "sv0")) for name in changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 48}, "resolution must be one of 32, 64, 128, 256, got 48"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"attention": (16,), "channels": 1}, "channels must give attention at least 8, got 4 at 16 pixels"),
        ({"attention": (7,)}, r"attention must be among the resolutions \(16, 8, 8, 8\), got \(7,\)"),
    ],
)
def test_wrong_architectures_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(**{"resolution": 32, "channels": 2, "feature_dim": 6, **arguments})


def test_labels_must_be_there_or_not():
    x, h, y = torch.randn(2, 3, 32, 32), torch.randn(2, 6), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="y must be None for a discriminator without classes"):
        ICDiscriminator(DiscriminatorConfig(32, 2, 6))(x, h, y)
    with pytest.raises(ValueError, match="y must be given to a class-conditional discriminator"):
        ICDiscriminator(DiscriminatorConfig(32, 2, 6, class_conditional=True))(x, h)
