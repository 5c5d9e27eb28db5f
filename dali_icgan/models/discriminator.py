"""The discriminator that an IC-GAN generator is trained against: BigGAN blocks with a projection of class and feature."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dali_icgan.models.generator import Attention, SpectralConv2d, SpectralEmbedding, SpectralLinear

# Multiples of ``channels`` at the output of each block, and whether it halves the resolution.
_WIDTHS = {
    32: ((4, 4, 4, 4), (True, True, False, False)),
    64: ((1, 2, 4, 8, 16), (True,) * 4 + (False,)),
    128: ((1, 2, 4, 8, 16, 16), (True,) * 5 + (False,)),
    256: ((1, 2, 4, 8, 8, 16, 16), (True,) * 6 + (False,)),
}


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The architecture of one discriminator.

    Args:
        resolution: side of the image in pixels: 32, 64, 128 or 256.
        channels: width multiplier.
        feature_dim: columns of the instance feature h.
        n_classes: rows of the class embedding, where it is class-conditional.
        class_conditional: whether half of the projection is the class's.
        attention: resolutions after whose block self-attention follows.
    """

    resolution: int
    channels: int
    feature_dim: int
    n_classes: int = 1
    class_conditional: bool = False
    attention: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.resolution not in _WIDTHS:
            raise ValueError(f"resolution must be one of {', '.join(map(str, _WIDTHS))}, got {self.resolution}")
        for name in ("channels", "feature_dim", "n_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        object.__setattr__(self, "attention", tuple(self.attention))
        if not set(self.attention) <= set(self.block_resolutions):
            raise ValueError(f"attention must be among the resolutions {self.block_resolutions}, got {self.attention}")
        for resolution, width in zip(self.block_resolutions, self.out_channels, strict=True):
            if resolution in self.attention and width < 8:
                raise ValueError(f"channels must give attention at least 8, got {width} at {resolution} pixels")
        if self.class_conditional and self.out_channels[-1] % 2:
            raise ValueError(f"channels must give an even width to halve, got {self.out_channels[-1]}")

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(self.channels * m for m in _WIDTHS[self.resolution][0])

    @property
    def halves(self) -> tuple[bool, ...]:
        return _WIDTHS[self.resolution][1]

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """Of the output of each block."""
        side, sides = self.resolution, []
        for halves in self.halves:
            side //= 2 if halves else 1
            sides.append(side)
        return tuple(sides)


class DiscriminatorBlock(nn.Module):
    """A residual block; ``halves``: followed by 2x2 average pooling. The first block of all has no activation before it."""

    def __init__(
        self, inputs: int, outputs: int, *, halves: bool, first: bool, device: torch.device | str | None
    ) -> None:
        super().__init__()
        self.halves = halves
        self.first = first
        self.conv1 = SpectralConv2d(inputs, outputs, 3, device=device)
        self.conv2 = SpectralConv2d(outputs, outputs, 3, device=device)
        self.conv_sc = SpectralConv2d(inputs, outputs, 1, device=device) if halves or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.conv1(x if self.first else F.relu(x)))
        if self.halves:
            a = pooled_conv2d(a, self.conv2.normalised_weight(), self.conv2.bias)
            x = F.avg_pool2d(x, 2)  # a 1x1 convolution commutes with it, and costs a quarter behind it
        else:
            a = self.conv2(a)
        return a + (x if self.conv_sc is None else self.conv_sc(x))


def pooled_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``avg_pool2d(conv2d(x, weight, bias, padding=1), 2)`` of a 3x3 convolution, as one 4x4 convolution of stride 2: the same function
    at 4/9 of the multiplications."""
    kernel = (
        F.pad(weight, (0, 1, 0, 1))
        + F.pad(weight, (1, 0, 0, 1))
        + F.pad(weight, (0, 1, 1, 0))
        + F.pad(weight, (1, 0, 1, 0))
    )
    return F.conv2d(x, kernel / 4, bias, stride=2, padding=1)


class ICDiscriminator(nn.Module):
    """``forward(images, h, y)``: scores ``[n]``, higher for real: ``w . phi + b + <V(h, y), phi>``, phi the pooled features.

    Args:
        config: the architecture.
        device: where parameters are made.

    Class-conditional, one half of V is an embedding of the class and the other a linear map of the feature; otherwise all of it is
    the feature's.

    Source: Casanova et al. 2021 (arXiv 2109.05070); Miyato & Koyama 2018 (arXiv 1802.05637); Brock et al. 2018 (arXiv 1809.11096).
    """

    def __init__(self, config: DiscriminatorConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        blocks, inputs = [], 3
        for i, (outputs, halves, side) in enumerate(
            zip(config.out_channels, config.halves, config.block_resolutions, strict=True)
        ):
            block: list[nn.Module] = [DiscriminatorBlock(inputs, outputs, halves=halves, first=i == 0, device=device)]
            if side in config.attention:
                block.append(Attention(outputs, device))
            blocks.append(nn.Sequential(*block))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.linear = SpectralLinear(inputs, 1, device=device)
        width = inputs // 2 if config.class_conditional else inputs
        self.embed = SpectralEmbedding(config.n_classes, width, device=device) if config.class_conditional else None
        self.linear_feat = SpectralLinear(config.feature_dim, width, device=device)
        for module in self.modules():
            if isinstance(module, SpectralLinear | SpectralConv2d | SpectralEmbedding):
                nn.init.orthogonal_(module.weight)
            if isinstance(module, SpectralLinear | SpectralConv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, h: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is None) == self.config.class_conditional:
            raise ValueError(
                "y must be given to a class-conditional discriminator"
                if self.config.class_conditional
                else "y must be None for a discriminator without classes"
            )
        phi = F.relu(self.blocks(images)).sum((2, 3))
        condition = self.linear_feat(h)
        if self.embed is not None and y is not None:
            condition = torch.cat([self.embed(y), condition], dim=1)
        return self.linear(phi).squeeze(1) + (condition * phi).sum(1)
