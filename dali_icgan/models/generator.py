"""The IC-GAN generator on BigGAN blocks, trainable, with the parameter names of the official checkpoints.

Inference goes through :mod:`dali_icgan.engine`, which bakes these tensors once; this module is what training updates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Multiples of ``channels`` at the input and output of each block; every block doubles the resolution, the first starts at 4 x 4.
_WIDTHS = {
    32: ((4, 4, 4), (4, 4, 4)),
    64: ((16, 16, 8, 4), (16, 8, 4, 2)),
    128: ((16, 16, 8, 4, 2), (16, 8, 4, 2, 1)),
    256: ((16, 16, 8, 8, 4, 2), (16, 8, 8, 4, 2, 1)),
}
_MOST = 1 << 20  # of any width: products of two are still sizes of tensors
BOTTOM = 4
BN_EPS = 1e-5
SN_EPS = 1e-6


def check_config(config: Any, sizes: Sequence[str], flags: Sequence[str]) -> None:
    """What an architecture's fields must be, whoever wrote them.

    Raises:
        ValueError: a size is no integer in 1..1048576, or a flag neither True nor False; the message names it.
    """
    for name in sizes:
        if type(value := getattr(config, name)) is not int or not 1 <= value <= _MOST:
            raise ValueError(f"{name} must be an integer in 1..{_MOST}, got {value!r}")
    for name in flags:
        if type(value := getattr(config, name)) is not bool:
            raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class GeneratorConfig:
    """The architecture of one IC-GAN generator.

    Args:
        resolution: side of the image in pixels: 32, 64, 128 or 256.
        channels: width multiplier (96 in the released full models).
        z_chunk: columns of z that each layer reads; without ``hierarchical`` all of z goes to the first layer.
        feature_dim: columns of the instance feature h.
        shared_dim_feat: width of the feature's embedding.
        n_classes: rows of the class embedding; a plain generator owns an unused one.
        shared_dim: width of the class embedding.
        class_conditional: whether the blocks read the class embedding.
        hierarchical: whether every block reads its own chunk of z.
        attention: resolutions after whose block self-attention follows.
    """

    resolution: int
    channels: int
    z_chunk: int
    feature_dim: int = 2048
    shared_dim_feat: int = 512
    n_classes: int = 1000
    shared_dim: int = 128
    class_conditional: bool = False
    hierarchical: bool = True
    attention: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if type(self.resolution) is not int or self.resolution not in _WIDTHS:
            raise ValueError(f"resolution must be one of {', '.join(map(str, _WIDTHS))}, got {self.resolution!r}")
        sizes = ("channels", "z_chunk", "feature_dim", "shared_dim_feat", "n_classes", "shared_dim")
        check_config(self, sizes, ("class_conditional", "hierarchical"))
        # Lists come out of JSON.
        object.__setattr__(self, "attention", tuple(self.attention))
        if not all(type(n) is int for n in self.attention) or not set(self.attention) <= set(self.block_resolutions):
            raise ValueError(f"attention must be among the resolutions {self.block_resolutions}, got {self.attention}")
        for resolution, width in zip(self.block_resolutions, self.out_channels, strict=True):
            if resolution in self.attention and width < 8:
                raise ValueError(f"channels must give attention at least 8, got {width} at {resolution} pixels")

    @property
    def blocks(self) -> int:
        return len(_WIDTHS[self.resolution][0])

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        return tuple(BOTTOM << (i + 1) for i in range(self.blocks))

    @property
    def in_channels(self) -> tuple[int, ...]:
        return tuple(self.channels * m for m in _WIDTHS[self.resolution][0])

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(self.channels * m for m in _WIDTHS[self.resolution][1])

    @property
    def dim_z(self) -> int:
        """Columns of z that are read."""
        return self.z_chunk * (self.blocks + 1) if self.hierarchical else self.z_chunk

    @property
    def condition_dim(self) -> int:
        """Columns of the vector that each conditional batch norm reads: class, feature, chunk of z, in this order."""
        class_dim = self.shared_dim if self.class_conditional else 0
        return class_dim + self.shared_dim_feat + (self.z_chunk if self.hierarchical else 0)

    @staticmethod
    def channels_from_output(resolution: int, width: int) -> int | None:
        """The width multiplier of a generator whose last block has ``width`` channels; None where there is none."""
        multiple = _WIDTHS[resolution][1][-1]
        return width // multiple if width % multiple == 0 else None

    @staticmethod
    def resolution_from_blocks(blocks: int) -> int | None:
        return next((r for r, (widths, _) in _WIDTHS.items() if len(widths) == blocks), None)


def power_step(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One step of power iteration: ``v = normalize(u M)``, ``u' = normalize(v M^T)``, ``sigma = v M^T u'^T``.

    Args:
        weight: ``[out, ...]``, read as the matrix M ``[out, -1]``.
        u: ``[1, out]``, the stored left vector, of any length.

    Returns:
        sigma (0-d, differentiable in ``weight``) and u' ``[1, out]``.

    Source: Miyato et al. 2018 (arXiv 1802.05957), algorithm 1; IC-GAN takes exactly one step in every forward, also in evaluation.
    """
    matrix = weight.flatten(1)
    with torch.no_grad():
        v = F.normalize(u @ matrix, eps=SN_EPS)
        new_u = F.normalize(v @ matrix.T, eps=SN_EPS)
    return (v @ matrix.T @ new_u.T).squeeze(), new_u


class _SpectralNorm(nn.Module):
    """Divides ``weight`` by one power step's estimate of its largest singular value.

    ``follow = False``: in training u0 stays as it is, so that the estimate is the gain along one fixed direction and other directions
    may grow beyond it. What is computed in evaluation, and the file, are the same.
    """

    follow = True
    weight: Tensor
    u0: Tensor
    sv0: Tensor

    def _add_buffers(self, out: int, device: torch.device | str | None) -> None:
        self.register_buffer("u0", torch.randn(1, out, device=device))
        self.register_buffer("sv0", torch.ones(1, device=device))

    def normalised_weight(self) -> Tensor:
        sigma, u = power_step(self.weight, self.u0)
        if self.training and self.follow:
            with torch.no_grad():
                self.u0.copy_(u)
                self.sv0.copy_(sigma)
        return self.weight / sigma


class SpectralLinear(_SpectralNorm, nn.Linear):
    def __init__(self, inputs: int, outputs: int, bias: bool = True, device: torch.device | str | None = None) -> None:
        nn.Linear.__init__(self, inputs, outputs, bias, device=device)
        self._add_buffers(outputs, device)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised_weight(), self.bias)


class SpectralEmbedding(_SpectralNorm, nn.Embedding):
    def __init__(self, rows: int, columns: int, device: torch.device | str | None = None) -> None:
        nn.Embedding.__init__(self, rows, columns, device=device)
        self._add_buffers(rows, device)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.normalised_weight())


class SpectralConv2d(_SpectralNorm, nn.Conv2d):
    """Stride 1, padded to keep the size."""

    def __init__(
        self, inputs: int, outputs: int, size: int, bias: bool = True, device: torch.device | str | None = None
    ) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, size, padding=size // 2, bias=bias, device=device)
        self._add_buffers(outputs, device)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.padding)


class _BatchNorm(nn.Module):
    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, device: torch.device | str | None) -> None:
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("stored_mean", torch.zeros(channels, device=device))
        self.register_buffer("stored_var", torch.ones(channels, device=device))

    def normalise(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.batch_norm(
            x, self.stored_mean, self.stored_var, gain, bias, self.training, momentum=self.momentum, eps=BN_EPS
        )


class ConditionalBatchNorm(_BatchNorm):
    """``(x - mean) / sqrt(var + eps) * (1 + gain(y)) + bias(y)``."""

    def __init__(self, channels: int, condition: int, device: torch.device | str | None) -> None:
        super().__init__(channels, device)
        self.gain = SpectralLinear(condition, channels, bias=False, device=device)
        self.bias = SpectralLinear(condition, channels, bias=False, device=device)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, bias = 1 + self.gain(y), self.bias(y)
        return self.normalise(x) * gain[:, :, None, None] + bias[:, :, None, None]


class BatchNorm(_BatchNorm):
    """Batch norm whose statistics are named as in :class:`ConditionalBatchNorm`."""

    def __init__(self, channels: int, device: torch.device | str | None) -> None:
        super().__init__(channels, device)
        self.gain = nn.Parameter(torch.ones(channels, device=device))
        self.bias = nn.Parameter(torch.zeros(channels, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.gain, self.bias)


class GeneratorBlock(nn.Module):
    """A residual block that doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, condition: int, device: torch.device | str | None) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(inputs, outputs, 3, device=device)
        self.conv2 = SpectralConv2d(outputs, outputs, 3, device=device)
        self.conv_sc = SpectralConv2d(inputs, outputs, 1, device=device)
        self.bn1 = ConditionalBatchNorm(inputs, condition, device)
        self.bn2 = ConditionalBatchNorm(outputs, condition, device)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a = upsampled_conv2d(F.relu(self.bn1(x, y)), self.conv1.normalised_weight(), self.conv1.bias)
        a = self.conv2(F.relu(self.bn2(a, y)))
        # A 1x1 convolution commutes with nearest upsampling, and costs a quarter before it.
        return a + F.interpolate(self.conv_sc(x), scale_factor=2.0)


def upsampled_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(interpolate(x, scale_factor=2), weight, bias, padding=1)`` of a 3x3 convolution, as one transposed 4x4 convolution of
    stride 2: the same function at 4/9 of the multiplications."""
    kernel = (
        F.pad(weight, (0, 1, 0, 1))
        + F.pad(weight, (1, 0, 0, 1))
        + F.pad(weight, (0, 1, 1, 0))
        + F.pad(weight, (1, 0, 1, 0))
    )
    return F.conv_transpose2d(x, kernel.flip(2, 3).transpose(0, 1), bias, stride=2, padding=1)


class Attention(nn.Module):
    """Self-attention over pixels, keys and values pooled 2x2, logits unscaled: ``gamma * o + x``."""

    def __init__(self, channels: int, device: torch.device | str | None) -> None:
        super().__init__()
        self.theta = SpectralConv2d(channels, channels // 8, 1, bias=False, device=device)
        self.phi = SpectralConv2d(channels, channels // 8, 1, bias=False, device=device)
        self.g = SpectralConv2d(channels, channels // 2, 1, bias=False, device=device)
        self.o = SpectralConv2d(channels // 2, channels, 1, bias=False, device=device)
        self.gamma = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(x).flatten(2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        # float32 or better: the logits are unscaled dot products.
        beta = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        o = (g @ beta.to(g.dtype).transpose(1, 2)).unflatten(2, x.shape[2:])
        return self.gamma * self.o(o) + x


class ICGenerator(nn.Module):
    """``forward(z, h, y)`` gives images in [-1, 1]; state-dict keys and shapes are the official ones.

    Args:
        config: the architecture.
        device: where parameters are made; ``"meta"`` makes none, for loading with ``assign=True``.

    In training mode every forward takes one power step per layer and stores it (``u0``, ``sv0``), and batch norms use and update
    batch statistics. In evaluation mode the same step is taken and forgotten: nothing is mutated.

    Source: Casanova et al. 2021 (arXiv 2109.05070); Brock et al. 2018 (arXiv 1809.11096).
    """

    def __init__(self, config: GeneratorConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        first = config.in_channels[0]
        self.shared = nn.Embedding(config.n_classes, config.shared_dim, device=device)
        self.shared_feat = SpectralLinear(config.feature_dim, config.shared_dim_feat, device=device)
        self.linear = SpectralLinear(config.z_chunk, first * BOTTOM**2, device=device)
        blocks = []
        for inputs, outputs, resolution in zip(
            config.in_channels, config.out_channels, config.block_resolutions, strict=True
        ):
            block: list[nn.Module] = [GeneratorBlock(inputs, outputs, config.condition_dim, device)]
            if resolution in config.attention:
                block.append(Attention(outputs, device))
            blocks.append(nn.ModuleList(block))
        self.blocks = nn.ModuleList(blocks)
        last = config.out_channels[-1]
        self.output_layer = nn.Sequential(BatchNorm(last, device), nn.ReLU(), SpectralConv2d(last, 3, 3, device=device))
        if torch.device(device or "cpu").type != "meta":
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal weights, zero biases, as BigGAN is trained from."""
        for module in self.modules():
            if isinstance(module, SpectralLinear | SpectralConv2d | nn.Embedding):
                nn.init.orthogonal_(module.weight)
            if isinstance(module, SpectralLinear | SpectralConv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, h: Tensor, y: Tensor | None = None) -> Tensor:
        """Images ``[n, 3, r, r]`` from noise ``[n, >= dim_z]``, unit features ``[n, feature_dim]`` and labels ``[n]`` int64."""
        config = self.config
        if (y is None) == config.class_conditional:
            raise ValueError(
                "y must be given to a class-conditional generator"
                if config.class_conditional
                else "y must be None for a generator without classes"
            )
        c = self.shared_feat(h)
        if y is not None:
            c = torch.cat([self.shared(y), c], dim=1)
        chunks = z[:, : config.dim_z].split(config.z_chunk, dim=1)
        x = self.linear(chunks[0]).unflatten(1, (config.in_channels[0], BOTTOM, BOTTOM))
        for i, block in enumerate(self.blocks):
            assert isinstance(block, nn.ModuleList)
            x = block[0](x, torch.cat([c, chunks[i + 1]], dim=1) if config.hierarchical else c)
            for attention in block[1:]:
                x = attention(x)
        return torch.tanh(self.output_layer(x))


def spectral_layers(model: nn.Module) -> list[_SpectralNorm]:
    """The layers of a model that have spectral norm."""
    return [module for module in model.modules() if isinstance(module, _SpectralNorm)]


def count_parameters(tensors: dict[str, Tensor]) -> int:
    """Numbers that training learns, in a state dict of :class:`ICGenerator`."""
    buffers = ("u0", "sv0", "stored_mean", "stored_var")
    return sum(math.prod(t.shape) for name, t in tensors.items() if not name.endswith(buffers))
