"""The generator on a GPU: cuDNN's convolutions in their cheapest form, our kernels between them, replayed as one CUDA graph."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dali_icgan import ops
from dali_icgan.engine.folding import FoldedBlock, FoldedGenerator, all_conditions
from dali_icgan.engine.generator_plan import GeneratorPlan
from dali_icgan.engine.graph import Graph
from dali_icgan.engine.layers import Convolution
from dali_icgan.engine.plan import Step
from dali_icgan.models.generator import BOTTOM
from dali_icgan.ops.winograd import upsampled_weight

_ALIGN = 8  # halves in 16 bytes: widths that attention's kernels like


@dataclass(frozen=True)
class _Attention:
    d: int
    qkv: Convolution
    out: Convolution


@dataclass(frozen=True)
class _Block:
    conv1: Convolution  # 2x2 with padding 1, four phases side by side
    conv2: Convolution
    shortcut: Convolution
    bias: Tensor
    attention: _Attention | None


class CudaWeights:
    """A generator's weights as a GPU computes with them; shared by the plans of all numbers of rows.

    Args:
        folded: the generator.
        device: where.
        dtype: float16, bfloat16 or float32: of convolutions and activations. What steers the norms is float32.
    """

    def __init__(self, folded: FoldedGenerator, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = folded.config, device, dtype

        def wide(x: Tensor) -> Tensor:
            return x.to(device, torch.float32).contiguous()

        def convolution(weight: Tensor) -> Convolution:
            weight = weight if weight.ndim == 4 else weight[:, :, None, None]
            return Convolution(weight.to(device, dtype).contiguous(memory_format=torch.channels_last))

        def attention(block: FoldedBlock) -> _Attention | None:
            if block.attention is None:
                return None
            qkv, out = block.attention.qkv, block.attention.out
            return _Attention((len(qkv) - out.shape[1]) // 2, convolution(qkv), convolution(out))

        self.embedding = None if folded.embedding is None else wide(folded.embedding)
        self.embed = folded.feature
        self.feature, self.feature_bias = wide(folded.feature.weight), wide(folded.feature.bias)
        self.first, self.first_bias = wide(folded.first), wide(folded.first_bias)
        weight, bias, self.steers = all_conditions(folded)
        self.steer, self.steer_bias = wide(weight), wide(bias)
        self.blocks = [
            _Block(
                convolution(upsampled_weight(block.conv1)),
                convolution(block.conv2),
                convolution(block.shortcut),
                wide(block.bias),
                attention(block),
            )
            for block in folded.blocks
        ]
        self.last_scale, self.last_shift = wide(folded.last_scale), wide(folded.last_shift)
        self.last, self.last_bias = wide(folded.last), wide(folded.last_bias)


class CudaPlan(GeneratorPlan):
    """``plan(z, h, y)`` for ``n`` rows; one CUDA graph.

    Args:
        weights: of the generator.
        n: rows.
        dtype: of the images.
        embedded: whether features are given as ``weights.embed`` embeds them.

    Not for two threads at once: it owns its buffers. Calls on several streams are put one behind the other.
    """

    def __init__(self, weights: CudaWeights, n: int, dtype: torch.dtype, embedded: bool = False) -> None:
        super().__init__(weights.device, weights.dtype)
        self._weights, self.n = weights, n
        self.embed = weights.embed if embedded else None
        config = self.config = weights.config
        device = weights.device
        columns = weights.steer.shape[1]
        self._h = torch.zeros(n, config.shared_dim_feat if embedded else config.feature_dim, device=device)
        self._z = torch.zeros(n, config.dim_z, device=device)
        self._y = torch.zeros(n, dtype=torch.int64, device=device)
        self._condition = torch.zeros(n, columns, device=device)
        self._images = torch.empty(n, config.resolution, config.resolution, 3, dtype=dtype, device=device)
        self._make_steps()
        if device.type == "cuda":
            self.calibrate()  # before the capture: what it leaves in ``found`` would else stay beside the graph's own memory
        self._graph = Graph(device, self.steps)

    def __call__(self, z: Tensor, h: Tensor, y: Tensor | None) -> Tensor:
        """Images ``[n, 3, r, r]`` in channels-last memory; arguments as the generator checks them."""
        with self._graph.turn():
            self.put(z, h, y)
            self._graph.replay()
            return self._images.permute(0, 3, 1, 2).clone(memory_format=torch.channels_last)

    def put(self, z: Tensor, h: Tensor, y: Tensor | None) -> None:
        self._z.copy_(z[:, : self._z.shape[1]])
        self._h.copy_(h)
        if y is not None:
            self._y.copy_(y, non_blocking=True)

    # ------------------------------------------------------------------ steps
    #
    # Activations are contiguous [n, h, w, c]; convolutions see them permuted, as channels-last images. What a step makes stands in
    # ``found`` until a later one replaces it: in the graph's memory pool its place is used again.

    def _make_steps(self) -> None:
        weights, config, n = self._weights, self._weights.config, self.n
        found: dict[str, Tensor] = {}
        classes = config.shared_dim if config.class_conditional else 0
        feature = self._condition[:, classes : classes + config.shared_dim_feat]
        chunks = self._condition[:, classes + config.shared_dim_feat :]

        def condition() -> None:
            if weights.embedding is not None:
                self._condition[:, :classes].copy_(F.embedding(self._y, weights.embedding))
            feature.copy_(self._h if self.embed else F.linear(self._h, weights.feature, weights.feature_bias))
            chunks.copy_(self._z[:, config.z_chunk :])

        def steer() -> None:
            found["steer"] = F.linear(self._condition, weights.steer, weights.steer_bias)

        def first() -> None:
            x = F.linear(self._z[:, : config.z_chunk], weights.first, weights.first_bias).to(weights.dtype)
            found["x"] = x.view(n, BOTTOM, BOTTOM, config.in_channels[0])
            scale, shift = columns(0, 0)
            _, a = ops.add_upsampled_cbn_relu(found["x"], scale=scale, shift=shift, with_sum=False)
            assert a is not None
            found["a"] = a

        def columns(block: int, norm: int) -> tuple[Tensor, Tensor]:
            scale, shift = self._weights.steers[block][2 * norm : 2 * norm + 2]
            return found["steer"][:, scale], found["steer"][:, shift]

        if self.embed:
            self._step("condition", "copy", condition)
        else:
            self._step("feature", "linear", condition, n * weights.feature.numel())
        self._step("scales and shifts", "linear", steer, n * weights.steer.numel())
        self._step("first", "linear", first, n * weights.first.numel())
        for i, block in enumerate(weights.blocks):
            self._block(i, block, found, columns)

    def _step(
        self,
        name: str,
        form: str,
        run: Callable[[], None],
        count: int = 0,
        published: int | None = None,
        traffic: int = 0,
        stream: Callable[[], Tensor] | None = None,
    ) -> None:
        published = count if published is None else published
        self.steps.append(Step(name, form, run, count, published, traffic, stream=stream))

    def _block(
        self, i: int, block: _Block, found: dict[str, Tensor], columns: Callable[[int, int], tuple[Tensor, Tensor]]
    ) -> None:
        weights, config, name = self._weights, self._weights.config, f"block {i}"
        is_last = i + 1 == config.blocks
        size, inputs, outputs = config.block_resolutions[i], config.in_channels[i], config.out_channels[i]
        low, high = self.n * (size // 2) ** 2, self.n * size**2
        each = weights.dtype.itemsize

        def convolve(source: str, target: str, convolution: Convolution) -> Callable[[], None]:
            def run() -> None:
                found[target] = convolution(found[source].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

            return run

        def middle() -> None:
            found["a"] = ops.depth_to_space_cbn_relu(found.pop("z"), *columns(i, 1))

        def end() -> None:
            both = found.pop("c"), found.pop("s")
            if block.attention is not None:
                found["x"], _ = ops.add_upsampled_cbn_relu(*both, block.bias)  # type: ignore[assignment]
            elif is_last:
                self._tail(both[0], shortcut=both[1], bias=block.bias)
            else:
                found["x"], found["a"] = ops.add_upsampled_cbn_relu(*both, block.bias, *columns(i + 1, 0))  # type: ignore[assignment]

        z = self.n * (size // 2 + 1) ** 2
        form = "2x2, four phases"
        self._step(
            f"{name} conv1",
            form,
            convolve("a", "z", block.conv1),
            16 * z * inputs * outputs,
            9 * high * inputs * outputs,
            each * (low * inputs + 4 * z * outputs + 16 * inputs * outputs),
        )
        self._step(f"{name} depth to space, norm", "kernel", middle, traffic=2 * each * high * outputs)
        count = 9 * high * outputs**2
        traffic = each * (2 * high * outputs + 9 * outputs**2)
        self._step(f"{name} conv2", "3x3", convolve("a", "c", block.conv2), count, traffic=traffic)
        count, traffic = inputs * outputs, each * (low * (inputs + outputs) + inputs * outputs)

        # The last sum is never stored: its kernel adds in float32.
        def unstored() -> Tensor:
            return found["c"].float() + found["s"].float().repeat_interleave(2, 1).repeat_interleave(2, 2) + block.bias

        self._step(
            f"{name} shortcut",
            "1x1",
            convolve("x", "s", block.shortcut),
            low * count,
            high * count,
            traffic,
            unstored if is_last and block.attention is None else None,
        )
        traffic = each * outputs * (3 * high + low)
        ends = "tail" if is_last and block.attention is None else f"{name} shortcut, norm"
        count = 27 * high * outputs if ends == "tail" else 0
        stream = None if is_last or block.attention is not None else lambda: found["x"]
        self._step(ends, "kernel", end, count, traffic=traffic, stream=stream)
        if block.attention is not None:
            self._attention(i, block.attention, found, columns)

    def _attention(
        self,
        i: int,
        attention: _Attention,
        found: dict[str, Tensor],
        columns: Callable[[int, int], tuple[Tensor, Tensor]],
    ) -> None:
        config, name = self._weights.config, f"block {i} attention"
        pixels, c, d = self.n * config.block_resolutions[i] ** 2, config.out_channels[i], attention.d
        e = attention.out.weight.shape[1]
        width = -(-max(d, e) // _ALIGN) * _ALIGN

        def project() -> None:
            found["qkv"] = attention.qkv(found["x"].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

        def attend() -> None:
            q, k, v = ops.pool_qkv(found.pop("qkv"), d, key_width=width, value_width=width)
            found["o"] = _attend(q, k, v)[..., :e].reshape(*found["x"].shape[:3], e)

        def add() -> None:
            o = attention.out(found.pop("o").permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            if i + 1 == config.blocks:
                x, _ = ops.add_upsampled_cbn_relu(o, found["x"])
                assert x is not None
                found["x"] = x
                self._tail(x)
            else:
                found["x"], found["a"] = ops.add_upsampled_cbn_relu(o, found["x"], None, *columns(i + 1, 0))  # type: ignore[assignment]

        self._step(f"{name} qkv", "1x1", project, pixels * c * (2 * d + e))
        self._step(name, "softmax(q k) v", attend, pixels * pixels // (4 * self.n) * (d + e))
        self._step(
            f"{name} out",
            "1x1",
            add,
            pixels * c * e + (27 * pixels * c if i + 1 == config.blocks else 0),
            stream=lambda: found["x"],
        )

    def _tail(self, conv: Tensor, shortcut: Tensor | None = None, bias: Tensor | None = None) -> None:
        weights = self._weights
        steer = weights.last_scale, weights.last_shift
        ops.tail(conv, *steer, weights.last, weights.last_bias, shortcut=shortcut, bias=bias, out=self._images)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T) v`` of ``[n, pixels, width]``. Logits are unscaled dot products, which in half precision would overflow: of half,
    only implementations that keep them in float32 are allowed."""
    if q.device.type != "cuda":
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)[:, 0]
    half = q.dtype.itemsize == 2
    backends = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION if half else SDPBackend.MATH]
    with sdpa_kernel(backends):
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)[:, 0]
