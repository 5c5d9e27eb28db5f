"""Generator and extractor as published, but honest: what folds into weights is folded, channels-last memory, one dtype; torch's own calls,
one by one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dali_icgan.engine.folding import FoldedBlock, FoldedGenerator
from dali_icgan.engine.trunk_folding import FoldedResidual, FoldedTrunk
from dali_icgan.models.generator import BOTTOM


class _Block(nn.Module):
    def __init__(self, block: FoldedBlock) -> None:
        super().__init__()
        inputs, outputs = block.conv1.shape[1], block.conv1.shape[0]
        self.widths = [inputs, inputs, outputs, outputs]
        self.steer = _linear(block.condition, block.condition_bias)
        self.conv1, self.conv2 = _convolution(block.conv1), _convolution(block.conv2, block.bias)
        self.shortcut = _convolution(block.shortcut[:, :, None, None])
        self.attention = None
        if block.attention is not None:
            d = (len(block.attention.qkv) - block.attention.out.shape[1]) // 2
            self.attention = nn.ModuleList(
                _convolution(part[:, :, None, None])
                for part in (*block.attention.qkv.split([d, d, len(block.attention.qkv) - 2 * d]), block.attention.out)
            )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        steer = self.steer(condition)[:, :, None, None]
        scale1, shift1, scale2, shift2 = steer.split(self.widths, dim=1)
        a = self.conv1(F.interpolate(F.relu(x * scale1 + shift1), scale_factor=2.0))
        x = self.conv2(F.relu(a * scale2 + shift2)) + self.shortcut(F.interpolate(x, scale_factor=2.0))
        if self.attention is None:
            return x
        theta, phi, g, o = self.attention
        q = theta(x).flatten(2)
        k, v = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (phi, g))
        logits = (q.transpose(1, 2) @ k).to(torch.promote_types(x.dtype, torch.float32))
        weights = torch.softmax(logits, dim=-1).to(x.dtype)
        return x + o((v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


class EagerGenerator(nn.Module):
    """``eager(z, h, y)``; what a plan is measured beside."""

    def __init__(self, folded: FoldedGenerator, memory_format: torch.memory_format = torch.channels_last) -> None:
        super().__init__()
        self.config = folded.config
        self.memory_format = memory_format
        self.embedding = None if folded.embedding is None else nn.Parameter(folded.embedding)
        self.feature = _linear(folded.feature.weight, folded.feature.bias)
        first = folded.config.in_channels[0]
        order = torch.arange(BOTTOM**2 * first).view(BOTTOM**2, first).T.flatten()  # channel, pixel: as published
        self.first = _linear(folded.first[order], folded.first_bias[order])
        self.blocks = nn.ModuleList(_Block(block) for block in folded.blocks)
        self.last_scale, self.last_shift = nn.Parameter(folded.last_scale), nn.Parameter(folded.last_shift)
        self.last = _convolution(folded.last, folded.last_bias)

    def forward(self, z: Tensor, h: Tensor, y: Tensor | None = None) -> Tensor:
        config = self.config
        chunks = z[:, : config.dim_z].split(config.z_chunk, dim=1)
        c = self.feature(h)
        if self.embedding is not None and y is not None:
            c = torch.cat([F.embedding(y, self.embedding), c], dim=1)
        x = self.first(chunks[0]).unflatten(1, (config.in_channels[0], BOTTOM, BOTTOM))
        x = x.contiguous(memory_format=self.memory_format)
        for i, block in enumerate(self.blocks):
            x = block(x, torch.cat([c, chunks[i + 1]], dim=1) if config.hierarchical else c)
        scale, shift = self.last_scale[:, None, None], self.last_shift[:, None, None]
        return torch.tanh(self.last(F.relu(x * scale + shift)))


class _Residual(nn.Module):
    def __init__(self, block: FoldedResidual) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(c.weight, c.bias, c.stride) for c in block.convolutions)
        self.shortcut = None if block.shortcut is None else _convolution(block.shortcut, stride=block.stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for convolution in self.convolutions[:-1]:
            x = F.relu(convolution(x), inplace=True)
        return F.relu(self.convolutions[-1](x).add_(shortcut), inplace=True)


class EagerExtractor(nn.Module):
    """``eager(prepared)``: unit features; the trunk with its batch norms folded in, in channels-last memory."""

    def __init__(self, folded: FoldedTrunk, memory_format: torch.memory_format = torch.channels_last) -> None:
        super().__init__()
        self.stem = _convolution(folded.stem.weight, folded.stem.bias, folded.stem.stride)
        self.stem_pool, self.memory_format = folded.config.stem_pool, memory_format
        self.blocks = nn.Sequential(*map(_Residual, folded.blocks))

    def forward(self, prepared: Tensor) -> Tensor:
        x = F.relu(self.stem(prepared.contiguous(memory_format=self.memory_format)), inplace=True)
        if self.stem_pool:
            x = F.max_pool2d(x, 3, 2, padding=1)
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.normalize(self.blocks(x).mean((2, 3), dtype=wide), eps=0.0)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, dtype=weight.dtype)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _convolution(weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> nn.Conv2d:
    outputs, inputs, size, _ = weight.shape
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias is not None, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer
