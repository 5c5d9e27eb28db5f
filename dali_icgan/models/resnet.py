"""The ResNet trunk that features are taken from, with torchvision's parameter names (v1.5: the stride is on the 3x3)."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dali_icgan.models.generator import check_config

BN_EPS = 1e-5
_MOST_STAGES = 8  # each doubles the width
_MOST_PIXELS = 4096  # a side


@dataclass(frozen=True)
class ResNetConfig:
    """The architecture of one trunk; the defaults are ResNet-50's.

    Args:
        block: "bottleneck" (1x1, 3x3, 1x1; four times wider at its end) or "basic" (3x3, 3x3).
        depths: blocks in each stage; each stage but the first halves the size and doubles the width.
        width: channels of the stem and of the first stage.
        stem_kernel: side of the first convolution, odd.
        stem_stride: its stride.
        stem_pool: whether a 3x3 maximum with stride 2 follows it.
        input_size: side of the images it is meant for, in pixels.
    """

    block: str = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True
    input_size: int = 224

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        if self.block not in ("bottleneck", "basic"):
            raise ValueError(f"block must be 'bottleneck' or 'basic', got {self.block!r}")
        if not 1 <= len(self.depths) <= _MOST_STAGES or not all(type(n) is int and n >= 1 for n in self.depths):
            raise ValueError(f"depths must be 1 to {_MOST_STAGES} positive numbers, got {self.depths!r:.200}")
        check_config(self, ("width", "stem_kernel", "stem_stride", "input_size"), ("stem_pool",))
        if self.input_size > _MOST_PIXELS:
            raise ValueError(f"input_size must be at most {_MOST_PIXELS}, got {self.input_size}")
        if self.stem_kernel % 2 == 0:
            raise ValueError(f"stem_kernel must be odd, got {self.stem_kernel}")

    @property
    def expansion(self) -> int:
        return 4 if self.block == "bottleneck" else 1

    @property
    def dim(self) -> int:
        """Columns of the feature."""
        return (self.width << (len(self.depths) - 1)) * self.expansion


def _conv(inputs: int, outputs: int, size: int, stride: int, device: torch.device | str | None) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False, device=device)


class _Block(nn.Module):
    def __init__(
        self, config: ResNetConfig, inputs: int, width: int, stride: int, device: torch.device | str | None
    ) -> None:
        super().__init__()
        outputs = width * config.expansion
        bottleneck = config.block == "bottleneck"
        self.convolutions = 3 if bottleneck else 2
        self.conv1 = _conv(inputs, width, 1, 1, device) if bottleneck else _conv(inputs, width, 3, stride, device)
        self.bn1 = nn.BatchNorm2d(width, BN_EPS, device=device)
        self.conv2 = _conv(width, width, 3, stride if bottleneck else 1, device)
        self.bn2 = nn.BatchNorm2d(width, BN_EPS, device=device)
        if bottleneck:
            self.conv3 = _conv(width, outputs, 1, 1, device)
            self.bn3 = nn.BatchNorm2d(outputs, BN_EPS, device=device)
        self.downsample = (
            nn.Sequential(_conv(inputs, outputs, 1, stride, device), nn.BatchNorm2d(outputs, BN_EPS, device=device))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        a = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.convolutions == 3:
            a = self.bn3(self.conv3(F.relu(a)))
        return F.relu(a + shortcut)


class ResNet(nn.Module):
    """``forward(x)``: normalised images ``[n, 3, h, w]`` to pooled features ``[n, dim]``, not yet of unit length.

    Args:
        config: the architecture.
        device: where parameters are made; ``"meta"`` makes none, for loading with ``assign=True``.

    Source: He et al. 2015 (arXiv 1512.03385).
    """

    def __init__(self, config: ResNetConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        self.conv1 = _conv(3, config.width, config.stem_kernel, config.stem_stride, device)
        self.bn1 = nn.BatchNorm2d(config.width, BN_EPS, device=device)
        inputs = config.width
        for stage, depth in enumerate(config.depths):
            width, blocks = config.width << stage, OrderedDict[str, nn.Module]()
            for i in range(depth):
                blocks[str(i)] = _Block(config, inputs, width, 2 if stage and not i else 1, device)
                inputs = width * config.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(blocks))
        if torch.device(device or "cpu").type != "meta":
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's normal initialisation over the fan-out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.config.stem_pool:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for stage in range(len(self.config.depths)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x.mean((2, 3))
