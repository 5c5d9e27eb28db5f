import pytest
import torch
from torchvision.models import resnet as torchvision_resnet
from torchvision.models import resnet50

from dali_icgan.models.resnet import ResNet, ResNetConfig

KINDS = {"bottleneck": torchvision_resnet.Bottleneck, "basic": torchvision_resnet.BasicBlock}


def torchvision_trunk(block, depths, seed=0):
    """torchvision's network without its classifier, every batch norm with statistics and weights of its own."""
    torch.manual_seed(seed)
    model = torchvision_resnet.ResNet(KINDS[block], list(depths)).eval()
    model.fc = torch.nn.Identity()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return model


def test_resnet_50_has_torchvisions_keys_and_shapes():
    with torch.device("meta"):
        theirs = {k: t.shape for k, t in resnet50().state_dict().items() if not k.startswith("fc.")}
    assert {k: t.shape for k, t in ResNet(ResNetConfig(), device="meta").state_dict().items()} == theirs


@pytest.mark.parametrize(("block", "depths"), [("bottleneck", (1, 2, 1, 1)), ("basic", (1, 1, 1, 2))])
@pytest.mark.parametrize("training", [False, True])
def test_equals_torchvision(block, depths, training):
    theirs = torchvision_trunk(block, depths).train(training).double()
    mine = ResNet(ResNetConfig(block, depths), device="meta")
    mine.load_state_dict({k: t.clone() for k, t in theirs.state_dict().items()}, assign=True)
    x = torch.randn(2, 3, 64, 72, dtype=torch.float64)
    with torch.no_grad():
        assert (mine.train(training)(x) - theirs(x)).abs().max() < 1e-10


@pytest.mark.parametrize(("block", "dim"), [("basic", 32), ("bottleneck", 128)])
def test_narrow_variants(block, dim):
    config = ResNetConfig(block, (1, 2, 1), 8, stem_kernel=3, stem_stride=1, stem_pool=False, input_size=16)
    assert config.dim == dim
    assert ResNet(config)(torch.randn(3, 3, 16, 16)).shape == (3, dim)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "wide"}, "block must be 'bottleneck' or 'basic', got 'wide'"),
        ({"depths": ()}, r"depths must be 1 to 8 positive numbers, got \(\)"),
        ({"depths": (2, 0)}, "depths must be 1 to 8 positive numbers"),
        ({"stem_kernel": 4}, "stem_kernel must be odd, got 4"),
        ({"width": 0}, "width must be an integer in 1..1048576, got 0"),
        ({"input_size": 0}, "input_size must be an integer in 1..1048576, got 0"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**change)
