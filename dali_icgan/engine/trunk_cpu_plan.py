"""The extractor on a CPU: convolutions with bias, residual and ReLU fused in, over buffers that are made once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dali_icgan import ops
from dali_icgan.engine.cpu_plan import convolution_step
from dali_icgan.engine.folding import pad_to, padded
from dali_icgan.engine.forms import Forms
from dali_icgan.engine.plan import Plan, Step
from dali_icgan.engine.trunk_folding import FoldedConvolution, FoldedResidual, FoldedTrunk, halved
from dali_icgan.ops.winograd import PackedConvolution

_CACHE = 8 << 20  # bytes of activations that are worth keeping near


@dataclass(frozen=True)
class _Layer:
    convolution: PackedConvolution
    bias: Tensor | None
    size: int  # side of its input


@dataclass(frozen=True)
class _Block:
    name: str
    layers: tuple[_Layer, ...]
    shortcut: _Layer | None
    size: int  # sides of its input
    out_size: int  # and its result
    channels: int  # of its result, with padding

    @property
    def largest(self) -> int:
        """Numbers of a row's largest map."""
        return max(
            math.prod(layer.convolution.output_size(layer.size, layer.size)) * layer.convolution.padded_outputs
            for layer in self.layers
        )


class CpuTrunkWeights:
    """An extractor's weights as a CPU computes with them; shared by the plans of all numbers of rows.

    Args:
        folded: the trunk.
        dtype: float32 or float64.
        forms: which tile each 3x3 convolution of stride 1 takes.

    All layers are ``PackedConvolution``. Channels are padded to whole vectors, but for the image's three.
    """

    def __init__(self, folded: FoldedTrunk, dtype: torch.dtype, forms: Forms) -> None:
        self.config, self.dtype, self.forms = folded.config, dtype, forms
        self.stem = self._layer(folded.stem, folded.config.input_size, unpadded=True)
        self.stem_size = folded.stem_size
        self.blocks = [self._block(block) for block in folded.blocks]

    def _layer(self, folded: FoldedConvolution, size: int, unpadded: bool = False) -> _Layer:
        outputs, inputs, r, _ = folded.weight.shape
        tile = self.forms.tile(r, inputs, outputs, size) if r == 3 and folded.stride == 1 and not unpadded else 1
        convolution = PackedConvolution(
            folded.weight, tile, self.dtype, self.forms.instructions, stride=folded.stride, unpadded=unpadded
        )
        return _Layer(convolution, pad_to(folded.bias, convolution.padded_outputs).to(self.dtype), size)

    def _block(self, block: FoldedResidual) -> _Block:
        layers, size = [], block.size
        for convolution in block.convolutions:
            layers.append(self._layer(convolution, size))
            size = halved(size, convolution.stride)
        shortcut = None
        if block.shortcut is not None:
            packed = PackedConvolution(block.shortcut, 1, self.dtype, self.forms.instructions, stride=block.stride)
            shortcut = _Layer(packed, None, block.size)
        multiple = ops.winograd.channel_multiple(self.dtype, self.forms.instructions)
        return _Block(block.name, tuple(layers), shortcut, block.size, size, padded(block.outputs, multiple))


class CpuTrunkPlan(Plan):
    """``plan(prepared)`` for ``n`` images.

    Args:
        weights: of the extractor.
        n: images.

    Not for two threads at once: it owns its buffers. While it runs, nothing is allocated but the features that it returns.

    Early blocks have large maps and few weights: a few images at a time go through all of them. Late blocks have more weights than an
    image has activations: all images go through one after the other. A block's result stands where its input or shortcut stood.
    """

    def __init__(self, weights: CpuTrunkWeights, n: int) -> None:
        super().__init__(torch.device("cpu"), weights.dtype)
        self._weights, self.n = weights, n
        config, blocks = weights.config, weights.blocks
        early, rows = _stages(weights, n)
        self._workspace = torch.empty(_workspace(weights, n, early, rows), dtype=torch.uint8)
        self._images = self._empty(n, config.input_size, config.input_size, 3)
        self._features = torch.empty(n, config.dim)
        largest = max(
            rows * _stem_numel(weights),
            *(rows * b.largest for b in blocks[:early]),
            *(n * b.largest for b in blocks[early:]),
        )
        self._rooms = {name: self._empty(largest) for name in ("in", "out", "first", "second")}
        between = self._empty(n, *_map_before(weights, early))
        for begin in range(0, n, rows):
            some = slice(begin, min(begin + rows, n))
            x = self._stem(self._images[some], None if early else between[some])
            if early:
                self._blocks(blocks[:early], x, between[some])
        self._map = x = self._blocks(blocks[early:], between)[..., : config.dim]
        features = self._features
        traffic = x.numel() * x.element_size()
        self.steps.append(
            Step("mean, unit rows", "kernel", lambda: ops.average_pool_normalize(x, out=features), traffic=traffic)
        )

    def __call__(self, prepared: Tensor) -> Tensor:
        """Unit features, float32 ``[n, dim]``; ``prepared`` as the extractor makes it."""
        self._images.copy_(prepared.permute(0, 2, 3, 1))
        for step in self.steps:
            step.run()
        return self._features.clone()

    def pooled(self, prepared: Tensor) -> Tensor:
        """The same before it is made a unit row, in the dtype of the arithmetic."""
        self._images.copy_(prepared.permute(0, 2, 3, 1))
        for step in self.steps[:-1]:
            step.run()
        return mean_of_pixels(self._map)

    def calibrate(self) -> None:
        """Noise for images."""
        self._images.copy_(torch.randn(self._images.shape, generator=torch.Generator().manual_seed(0)))

    # ------------------------------------------------------------------ steps

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._weights.dtype)

    def _room(self, name: str, *shape: int) -> Tensor:
        return self._rooms[name][: math.prod(shape)].view(shape)

    def _convolution(
        self, name: str, layer: _Layer, x: Tensor, out: Tensor, residual: Tensor | None = None, relu: bool = True
    ) -> None:
        options = {"bias": layer.bias, "residual": residual, "relu": relu}
        self.steps.append(convolution_step(name, layer.convolution, x, out, self._workspace, **options))

    def _stem(self, images: Tensor, target: Tensor | None) -> Tensor:
        weights, n = self._weights, len(images)
        size, channels = weights.stem_size, weights.stem.convolution.padded_outputs
        if not weights.config.stem_pool:
            out = self._room("in", n, size, size, channels) if target is None else target
            self._convolution("stem", weights.stem, images, out)
            return out
        small = halved(size)
        x, rows = self._room("first", n, size, size, channels), self._room("second", n, small, size, channels)
        out = self._room("in", n, small, small, channels) if target is None else target
        self._convolution("stem", weights.stem, images, x)

        def pool() -> None:
            maximum_of_three(x, rows, 1)
            maximum_of_three(rows, out, 2)

        self.steps.append(Step("maximum", "3x3, stride 2", pool, traffic=(x.numel() + out.numel()) * x.element_size()))
        return out

    def _blocks(self, blocks: list[_Block], x: Tensor, target: Tensor | None = None) -> Tensor:
        """Through these blocks; the last one's result in ``target`` if there is one."""
        n = len(x)
        for block in blocks:
            shape = (n, block.out_size, block.out_size, block.channels)
            if target is not None and block is blocks[-1]:
                out = target
            elif block.shortcut is None:
                out = x
            else:
                out = self._room("in" if x.data_ptr() == self._rooms["out"].data_ptr() else "out", *shape)
            residual = x
            if block.shortcut is not None:
                self._convolution(f"{block.name} shortcut", block.shortcut, x, out, relu=False)
                residual = out
            *firsts, last = block.layers
            for k, (layer, room) in enumerate(zip(firsts, ("first", "second"), strict=False), start=1):
                sides = layer.convolution.output_size(layer.size, layer.size)
                a = self._room(room, n, *sides, layer.convolution.padded_outputs)
                self._convolution(f"{block.name} conv{k}", layer, x, a)
                x = a
            self._convolution(f"{block.name} conv{len(block.layers)}", last, x, out, residual)
            x = out
        return x


def maximum_of_three(x: Tensor, out: Tensor, dim: int) -> None:
    """``out[j]`` is the largest of ``x[2 j - 1]`` to ``x[2 j + 1]`` along a dimension, of those that there are."""
    pairs, half = x.shape[dim] // 2, out.shape[dim]

    def every_other(begin: int, count: int) -> Tensor:
        index = [slice(None)] * x.ndim
        index[dim] = slice(begin, begin + 2 * count, 2)
        return x[tuple(index)]

    torch.maximum(every_other(0, pairs), every_other(1, pairs), out=out.narrow(dim, 0, pairs))
    if pairs < half:
        out.select(dim, -1).copy_(x.select(dim, -1))
    left = out.narrow(dim, 1, half - 1)
    torch.maximum(left, every_other(1, half - 1), out=left)


def mean_of_pixels(x: Tensor) -> Tensor:
    """``[n, h, w, c]`` to ``[n, c]``, summed in float64 pixel after pixel: no library's order, which may hang on n and threads."""
    pixels = x.flatten(1, 2).unbind(1)
    total = pixels[0].double()
    for pixel in pixels[1:]:
        total += pixel
    return (total / len(pixels)).to(x.dtype)


def _stem_numel(weights: CpuTrunkWeights) -> int:
    return weights.stem_size**2 * weights.stem.convolution.padded_outputs


def _map_before(weights: CpuTrunkWeights, i: int) -> tuple[int, int, int]:
    """Height, width and padded channels of what block i gets; of the last result where there is no such block."""
    before = weights.blocks[i - 1]
    size, channels = before.out_size, before.channels
    if not i:
        size, channels = weights.blocks[0].size, weights.stem.convolution.padded_outputs
    return size, size, channels


def _stages(weights: CpuTrunkWeights, n: int) -> tuple[int, int]:
    """How many blocks take few images at a time, and how many these are."""
    each = weights.dtype.itemsize
    rows = _CACHE // (2 * each * max(_stem_numel(weights), *(block.largest for block in weights.blocks)))
    if rows >= n:
        return 0, n
    early = 0
    for block in weights.blocks:
        if sum(layer.convolution.numel for layer in block.layers) > 2 * block.largest:
            break
        early += 1
    return early, max(1, rows)


def _workspace(weights: CpuTrunkWeights, n: int, early: int, rows: int) -> int:
    """Bytes that the most demanding layer needs; fewer images may need more, since tiles are then cut otherwise."""
    threads = torch.get_num_threads()
    few = {rows, n % rows or rows}
    needed = [(weights.stem, many) for many in few]
    for i, block in enumerate(weights.blocks):
        layers = [*block.layers, *([block.shortcut] if block.shortcut is not None else [])]
        needed += [(layer, many) for layer in layers for many in (few if i < early else {n})]
    return max(layer.convolution.workspace(many, layer.size, layer.size, threads) for layer, many in needed)
