"""The extractor on a GPU: cuDNN's convolutions, our kernels behind them, replayed as one CUDA graph."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan import ops
from dali_icgan.engine.graph import Graph
from dali_icgan.engine.layers import Convolution
from dali_icgan.engine.plan import Plan, Step
from dali_icgan.engine.trunk_folding import FoldedTrunk, halved


@dataclass(frozen=True)
class _Block:
    name: str
    convolutions: tuple[Convolution, ...]
    biases: tuple[Tensor, ...]
    shortcut: Convolution | None


class CudaTrunkWeights:
    """An extractor's weights as a GPU computes with them; shared by the plans of all numbers of rows.

    Args:
        folded: the trunk.
        device: where.
        dtype: float16, bfloat16 or float32: of convolutions and activations. Biases are float32.
    """

    def __init__(self, folded: FoldedTrunk, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = folded.config, device, dtype

        def convolution(weight: Tensor, stride: int) -> Convolution:
            return Convolution(weight.to(device, dtype).contiguous(memory_format=torch.channels_last), stride)

        def wide(bias: Tensor) -> Tensor:
            return bias.to(device, torch.float32).contiguous()

        self.stem, self.stem_bias = convolution(folded.stem.weight, folded.stem.stride), wide(folded.stem.bias)
        self.blocks = [
            _Block(
                block.name,
                tuple(convolution(layer.weight, layer.stride) for layer in block.convolutions),
                tuple(wide(layer.bias) for layer in block.convolutions),
                None if block.shortcut is None else convolution(block.shortcut, block.stride),
            )
            for block in folded.blocks
        ]


class CudaTrunkPlan(Plan):
    """``plan(prepared)`` for ``n`` images; one CUDA graph.

    Args:
        weights: of the extractor.
        n: images.

    Not for two threads at once: it owns its buffers. Calls on several streams are put one behind the other.
    """

    def __init__(self, weights: CudaTrunkWeights, n: int) -> None:
        super().__init__(weights.device, weights.dtype)
        self._weights, self.n = weights, n
        size = weights.config.input_size
        self._images = torch.zeros(n, size, size, 3, dtype=weights.dtype, device=weights.device)
        self._features = torch.zeros(n, weights.config.dim, device=weights.device)
        self._found = {"images": self._images}
        self._make_steps()
        self._graph = Graph(weights.device, self.steps)

    def __call__(self, prepared: Tensor) -> Tensor:
        """Unit features, float32 ``[n, dim]``; ``prepared`` as the extractor makes it."""
        with self._graph.turn():
            self._images.copy_(prepared.permute(0, 2, 3, 1))
            self._graph.replay()
            return self._features.clone()

    def pooled(self, prepared: Tensor) -> Tensor:
        """The same before it is made a unit row: float32. Its calls are made one by one."""
        with self._graph.turn():
            self._images.copy_(prepared.permute(0, 2, 3, 1))
            for step in self.steps[:-1]:
                step.run()
            return self._found.pop("x").mean((1, 2), dtype=torch.float32)

    def calibrate(self) -> None:
        """Noise for images."""
        self._images.copy_(torch.randn(self._images.shape, generator=torch.Generator().manual_seed(0)))

    # ------------------------------------------------------------------ steps
    #
    # Activations are contiguous [n, h, w, c]; convolutions see them permuted, as channels-last images. What a step makes stands in
    # ``found`` until a later one replaces it: in the graph's memory pool its place is used again.

    def _make_steps(self) -> None:
        weights, found, features = self._weights, self._found, self._features
        each, size = weights.dtype.itemsize, weights.config.input_size

        def pool() -> None:
            found["x"] = F.max_pool2d(found["x"].permute(0, 3, 1, 2), 3, 2, padding=1).permute(0, 2, 3, 1)

        def end() -> None:
            ops.average_pool_normalize(found["x"], out=features)

        size = self._convolution("stem", weights.stem, "images", "x", size)
        self._addition("stem", weights.stem_bias, "x", size)
        if weights.config.stem_pool:
            before, size = size, halved(size)
            traffic = each * self.n * (before**2 + size**2) * weights.config.width
            self.steps.append(Step("maximum", "3x3, stride 2", pool, traffic=traffic))
        for block in weights.blocks:
            source, residual, last = "x", "x", len(block.convolutions)
            if block.shortcut is not None:
                residual = "shortcut"
                self._convolution(f"{block.name} shortcut", block.shortcut, source, residual, size)
            for k, (convolution, bias) in enumerate(zip(block.convolutions, block.biases, strict=True), start=1):
                name = f"{block.name} conv{k}"
                size = self._convolution(name, convolution, source, "a", size)
                self._addition(name, bias, "a", size, residual if k == last else None, "x" if k == last else "a")
                source = "a"
        self.steps.append(Step("mean, unit rows", "kernel", end, traffic=each * self.n * size**2 * weights.config.dim))

    def _convolution(self, name: str, convolution: Convolution, source: str, target: str, size: int) -> int:
        """The side of its result, from that of its input."""
        found = self._found
        outputs, inputs, r, _ = convolution.weight.shape
        out_size = halved(size, convolution.stride)
        pixels = self.n * out_size**2

        def run() -> None:
            found[target] = convolution(found[source].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

        form = f"{r}x{r}" + (f", stride {convolution.stride}" if convolution.stride > 1 else "")
        count = pixels * outputs * inputs * r * r
        numbers = self.n * size**2 * inputs + pixels * outputs + convolution.weight.numel()
        self.steps.append(Step(name, form, run, count, count, self._weights.dtype.itemsize * numbers))
        return out_size

    def _addition(
        self, name: str, bias: Tensor, source: str, size: int, residual: str | None = None, target: str = "x"
    ) -> None:
        """Of bias and residual, then the ReLU, in place."""
        found = self._found

        def run() -> None:
            x = found.pop(source)
            found[target] = ops.bias_add_relu(x, bias, None if residual is None else found.pop(residual), out=x)

        numbers = self.n * size**2 * len(bias) * (2 + (residual is not None))
        self.steps.append(Step(name, "kernel", run, traffic=self._weights.dtype.itemsize * numbers))
