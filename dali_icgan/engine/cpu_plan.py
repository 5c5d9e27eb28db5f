"""The generator on a CPU: Winograd convolutions with everything around them fused in, over buffers that are made once."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dali_icgan import ops
from dali_icgan.engine.folding import FoldedBlock, FoldedGenerator, all_conditions, pad_to, padded
from dali_icgan.engine.forms import Forms, key
from dali_icgan.engine.generator_plan import GeneratorPlan
from dali_icgan.engine.plan import Step
from dali_icgan.models.generator import BOTTOM
from dali_icgan.ops.winograd import PackedConvolution

_CACHE = 8 << 20  # bytes of activations that are worth keeping near


@dataclass(frozen=True)
class _Attention:
    qkv: PackedConvolution
    out: PackedConvolution


@dataclass(frozen=True)
class _Block:
    conv1: PackedConvolution
    conv2: PackedConvolution
    shortcut: PackedConvolution
    bias: Tensor
    attention: _Attention | None


class CpuWeights:
    """A generator's weights as a CPU computes with them; shared by the plans of all numbers of rows.

    Args:
        folded: the generator.
        dtype: float32, float64 or bfloat16: of activations and of what multiplies them. Beside bfloat16, conditions and what they
            make (norms' scales and shifts), biases and attention are float32.
        forms: which tile each layer takes.

    All layers are ``PackedConvolution``: a linear layer is a 1x1 convolution of a map that is as wide as there are rows.
    Channels are padded to whole vectors.
    """

    def __init__(self, folded: FoldedGenerator, dtype: torch.dtype, forms: Forms) -> None:
        config = self.config = folded.config
        self.dtype = dtype
        self.wide_dtype = torch.promote_types(dtype, torch.float32)
        self.forms = forms
        self.multiple = ops.winograd.channel_multiple(dtype, forms.instructions)
        self.embedding = None if folded.embedding is None else folded.embedding.to(self.wide_dtype)
        self.embed = folded.feature
        self.feature = self._linear(folded.feature.weight, self.wide_dtype)
        self.feature_bias = self._row(folded.feature.bias)
        width = self.wide(config.in_channels[0])

        def padded_pixels(x: Tensor) -> Tensor:
            x = x.unflatten(0, (BOTTOM**2, config.in_channels[0]))
            return pad_to(x, BOTTOM**2, width, *x.shape[2:]).flatten(0, 1)

        self.first = self._linear(padded_pixels(folded.first), dtype)
        self.first_bias = padded_pixels(folded.first_bias).to(self.wide_dtype)
        weight, bias, self.steers = all_conditions(folded, self.multiple)
        self.steer, self.steer_bias = self._linear(weight, self.wide_dtype), bias.to(self.wide_dtype)
        self.blocks = [self._block(i, block) for i, block in enumerate(folded.blocks)]
        last = folded.last_scale, folded.last_shift, folded.last, folded.last_bias
        self.last_scale, self.last_shift, self.last, self.last_bias = (x.to(self.wide_dtype) for x in last)

    def wide(self, channels: int) -> int:
        """Channels with their padding."""
        return padded(channels, self.multiple)

    def _row(self, x: Tensor) -> Tensor:
        return pad_to(x, self.wide(len(x))).to(self.wide_dtype)

    def _linear(self, weight: Tensor, dtype: torch.dtype) -> PackedConvolution:
        return PackedConvolution(weight[:, :, None, None], 1, dtype, self.forms.instructions_of(dtype))

    def _block(self, i: int, block: FoldedBlock) -> _Block:
        size = self.config.block_resolutions[i]
        out, inputs = block.conv2.shape[0], block.conv1.shape[1]

        def packed(weight: Tensor, tile: int, doubled: bool = False) -> PackedConvolution:
            return PackedConvolution(weight, tile, self.dtype, self.forms.instructions, doubled=doubled)

        attention = None
        if block.attention is not None:
            qkv, o = block.attention.qkv, block.attention.out
            attention = _Attention(packed(qkv[:, :, None, None], 1), packed(o[:, :, None, None], 1))
        return _Block(
            packed(block.conv1, self.forms.tile(2, inputs, 4 * out, size // 2), doubled=True),
            packed(block.conv2, self.forms.tile(3, out, out, size)),
            packed(block.shortcut[:, :, None, None], 1),
            self._row(block.bias),
            attention,
        )


class CpuPlan(GeneratorPlan):
    """``plan(z, h, y)`` for ``n`` rows.

    Args:
        weights: of the generator.
        n: rows.
        dtype: of the images.
        embedded: whether features are given as ``weights.embed`` embeds them.

    Not for two threads at once: it owns its buffers. While it runs, nothing is allocated but the images that it returns.

    Early blocks have many weights and few pixels: all rows go through one block after the other. Late blocks have more pixels than the
    caches hold: few rows at a time go through all of them.
    """

    def __init__(self, weights: CpuWeights, n: int, dtype: torch.dtype, embedded: bool = False) -> None:
        super().__init__(torch.device("cpu"), weights.dtype)
        self._weights, self.n = weights, n
        self.embed = weights.embed if embedded else None
        config = self.config = weights.config
        together, rows = _stages(weights, n)
        self._workspace = torch.empty(_workspace(weights, n, together, rows), dtype=torch.uint8)
        self._dtype = dtype
        self._images = self._fresh()

        # Padding is zero for good.
        inputs = weights.first, weights.steer
        self._z, self._condition = (torch.zeros(n, x.padded_inputs, dtype=x.dtype) for x in inputs)
        wide = weights.wide_dtype
        steer = torch.empty(n, weights.steer.padded_outputs, dtype=wide)
        classes = config.shared_dim if config.class_conditional else 0
        self._class = torch.empty(n, classes, dtype=wide)
        condition = self._condition[:, classes : classes + config.shared_dim_feat]
        self._chunks = self._condition[:, classes + config.shared_dim_feat :]
        if embedded:
            self._h = condition
        else:
            given = torch.zeros(n, weights.feature.padded_inputs, dtype=wide)
            self._h = given[:, : config.feature_dim]
            feature = torch.empty(n, weights.feature.padded_outputs, dtype=wide)
            self._linear("feature", weights.feature, given, feature, weights.feature_bias)
            width = config.shared_dim_feat
            self.steps.append(Step("feature to condition", "copy", lambda: condition.copy_(feature[:, :width])))
        self._linear("scales and shifts", weights.steer, self._condition, steer, weights.steer_bias)
        x = self._empty(n, BOTTOM, BOTTOM, weights.wide(config.in_channels[0]))
        self._linear("first", weights.first, self._z, x.view(n, -1), weights.first_bias)

        for i in range(together):
            x = self._block(i, x, steer, self._buffers(i, n))
        late = [self._buffers(i, rows) for i in range(together, config.blocks)]
        for begin in range(0, n, rows):
            some = slice(begin, min(begin + rows, n))
            part = x[some]
            for i, buffers in enumerate(late, start=together):
                part = self._block(i, part, steer[some], [b[: len(part)] for b in buffers])
            self._tail(part, some)

    def __call__(self, z: Tensor, h: Tensor, y: Tensor | None) -> Tensor:
        """Images ``[n, 3, r, r]`` in channels-last memory; arguments as the generator checks them."""
        self.put(z, h, y)
        # Written where they stay: a copy would be torch's, whose threads then spin for milliseconds where ours have work. The plan's
        # own images are put back for `describe()`, which must not write into what was handed out.
        own, images = self._images, self._fresh()
        self._images = images
        try:
            for step in self.steps:
                step.run()
        finally:
            self._images = own
        return images.permute(0, 3, 1, 2)

    def put(self, z: Tensor, h: Tensor, y: Tensor | None) -> None:
        config, embedding = self._weights.config, self._weights.embedding
        self._h.copy_(h)
        self._z[:, : config.z_chunk].copy_(z[:, : config.z_chunk])
        rest = z[:, config.z_chunk : config.dim_z]  # none unless hierarchical
        self._chunks[:, : rest.shape[1]].copy_(rest)
        if y is not None and embedding is not None:
            torch.index_select(embedding, 0, y.to(torch.int64), out=self._class)
            self._condition[:, : config.shared_dim].copy_(self._class)

    # ------------------------------------------------------------------ steps

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._weights.dtype)

    def _convolution(self, name: str, layer: PackedConvolution, x: Tensor, out: Tensor, **options: Any) -> None:
        self.steps.append(convolution_step(name, layer, x, out, self._workspace, **options))

    def _linear(self, name: str, layer: PackedConvolution, x: Tensor, out: Tensor, bias: Tensor) -> None:
        self._convolution(name, layer, x[None, None], out[None, None], bias=bias)

    def _buffers(self, i: int, rows: int) -> list[Tensor]:
        """Of block i: between its convolutions, its shortcut, its output; what attention needs."""
        config, block = self._weights.config, self._weights.blocks[i]
        size, wide = config.block_resolutions[i], self._weights.wide(config.out_channels[i])
        large, small = (rows, size, size, wide), (rows, size // 2, size // 2, wide)
        buffers = [self._empty(*shape) for shape in (large, small, large)]
        if block.attention is not None:
            d, e = config.out_channels[i] // 8, config.out_channels[i] // 2
            pixels, pooled = size**2, size**2 // 4
            qkv = (rows, size, size, block.attention.qkv.padded_outputs)
            out = (rows, pixels, block.attention.out.padded_inputs)
            shapes = [qkv, (rows, pixels, d), (rows, pooled, d), (rows, pooled, e), out]
            buffers += [torch.zeros(shape, dtype=self._weights.wide_dtype) for shape in shapes]
            if self._weights.dtype != self._weights.wide_dtype:
                buffers += [torch.zeros(shape, dtype=self._weights.dtype) for shape in (qkv, out)]
        return buffers

    def _block(self, i: int, x: Tensor, steer: Tensor, buffers: list[Tensor]) -> Tensor:
        block, name = self._weights.blocks[i], f"block {i}"
        scale1, shift1, scale2, shift2 = (steer[:, columns] for columns in self._weights.steers[i])
        middle, small, out, *rest = buffers
        self._convolution(f"{name} conv1", block.conv1, x, middle, scale=scale1, shift=shift1)
        self._convolution(f"{name} shortcut", block.shortcut, x, small)
        options = {"scale": scale2, "shift": shift2, "shortcut": small, "bias": block.bias}
        self._convolution(f"{name} conv2", block.conv2, middle, out, **options)
        if block.attention is not None:
            self._attention(name, block.attention, out, rest)
        self.steps[-1] = replace(self.steps[-1], stream=lambda: out)
        return out

    def _attention(self, name: str, attention: _Attention, x: Tensor, buffers: list[Tensor]) -> None:
        qkv, q, k, v, o, *narrow = buffers
        d, e = q.shape[2], v.shape[2]
        narrow_qkv, narrow_o = narrow or (qkv, o)
        self._convolution(f"{name} attention qkv", attention.qkv, x, narrow_qkv)
        self._convert(f"{name} attention qkv, widened", narrow_qkv, qkv)
        whole = qkv[..., : 2 * d + e]
        traffic = sum(tensor.numel() for tensor in (whole, q, k, v)) * q.element_size()
        pool = Step(f"{name} attention pool", "maxima", lambda: ops.pool_qkv(whole, d, out=(q, k, v)), traffic=traffic)
        instructions = self._weights.forms.instructions_of(q.dtype)
        attend = ops.BoundAttention(q, k, v, o[:, :, :e], self._workspace, instructions)
        count = q.shape[0] * q.shape[1] * k.shape[1] * (d + e)
        traffic = sum(tensor.numel() for tensor in (q, k, v, o)) * o.element_size()
        self.steps += [pool, Step(f"{name} attention", "softmax(q k) v", attend, count, count, traffic)]
        self._convert(f"{name} attention, rounded", o, narrow_o)
        self._convolution(f"{name} attention out", attention.out, narrow_o.view(*x.shape[:3], -1), x, residual=x)

    def _convert(self, name: str, x: Tensor, out: Tensor) -> None:
        """From one dtype to another; nothing where there is only one."""
        if x is not out:
            traffic = x.numel() * (x.element_size() + out.element_size())
            self.steps.append(Step(name, "copy", lambda: out.copy_(x), traffic=traffic))

    def _fresh(self) -> Tensor:
        return torch.empty(self.n, self.config.resolution, self.config.resolution, 3, dtype=self._dtype, device="cpu")

    def _tail(self, x: Tensor, some: slice) -> None:
        weights, channels = self._weights, self._weights.config.out_channels[-1]
        parts = (x[..., :channels], weights.last_scale, weights.last_shift, weights.last, weights.last_bias)
        out = self._images[some]
        count = out.numel() * 9 * channels
        traffic = x.numel() * x.element_size() + out.numel() * out.element_size()
        self.steps.append(Step("tail", "3x3", lambda: ops.tail(*parts, out=self._images[some]), count, count, traffic))


def convolution_step(
    name: str, layer: PackedConvolution, x: Tensor, out: Tensor, workspace: Tensor, **options: Any
) -> Step:
    """``layer.bind(x, out, workspace, **options)`` as a step, with its counts."""
    n, height, width, _ = x.shape
    high, across = layer.output_size(height, width)
    pixels = n * high * across
    taps = 9 if layer.doubled else layer.r**2  # of the published form
    # Multiplications of the transformed tiles; a tile at the border counts whole. By taps: of every pixel of x, before the doubling.
    side = layer.tile + layer.r - 1
    if layer.doubled and layer.tile == 1:
        products = 9 * n * height * width
    else:
        done, phases = ((height + 1, width + 1), 4) if layer.doubled else ((high, across), 1)
        products = n * math.prod(-(-size // layer.tile) for size in done) * side**2 * phases
    return Step(
        name,
        _form(layer),
        layer.bind(x, out, workspace, **options),
        products * layer.inputs * layer.outputs,
        pixels * taps * layer.inputs * layer.outputs,
        (x.numel() + out.numel() + layer.numel) * x.element_size(),
        key(layer.r, layer.inputs, (4 if layer.doubled else 1) * layer.outputs, height)
        if layer.r in (2, 3) and layer.stride == 1 and not layer.unpadded
        else "",
    )


def _form(layer: PackedConvolution) -> str:
    if layer.doubled and layer.tile == 1:
        return "3x3 by taps, doubled"
    kind = "linear" if layer.r == 1 else f"F({layer.tile}, {layer.r})" if layer.tile > 1 else f"{layer.r}x{layer.r}"
    if layer.stride > 1:
        kind += f", stride {layer.stride}"
    return f"{kind}, doubled" if layer.doubled else kind


def _stages(weights: CpuWeights, n: int) -> tuple[int, int]:
    """How many blocks take all rows at once, and how many rows go through the others at a time."""
    config = weights.config
    for i in range(config.blocks):
        each = 3 * config.block_resolutions[i] ** 2 * weights.wide(config.out_channels[i]) * weights.dtype.itemsize
        rows = _CACHE // each
        if rows < n:
            return i, max(1, rows)
    return config.blocks, n


def _workspace(weights: CpuWeights, n: int, together: int, rows: int) -> int:
    """Bytes that the most demanding layer needs; fewer rows may need more, since tiles are then cut otherwise."""
    threads, instructions = torch.get_num_threads(), weights.forms.instructions_of(weights.wide_dtype)
    needed = [layer.workspace(1, 1, n, threads) for layer in (weights.feature, weights.steer, weights.first)]
    for i, block in enumerate(weights.blocks):
        size = weights.config.block_resolutions[i]
        for many in {n} if i < together else {rows, n % rows or rows}:
            needed += [layer.workspace(many, size // 2, size // 2, threads) for layer in (block.conv1, block.shortcut)]
            needed += [block.conv2.workspace(many, size, size, threads)]
            if block.attention is not None:
                layers = block.attention.qkv, block.attention.out
                needed += [layer.workspace(many, size, size, threads) for layer in layers]
        if block.attention is not None:
            d, e = weights.config.out_channels[i] // 8, weights.config.out_channels[i] // 2
            needed += [ops.attention_workspace(weights.wide_dtype, size**2 // 4, d, e, threads, instructions)]
    return max(needed)
