"""Inference form of the generator: spectral norm and batch-norm statistics baked in float64, then cast."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.engine.layers import Convolution, row_linear
from dali_icgan.engine.placement import resolve, say_once, undisturbed
from dali_icgan.models.checkpoint import Checkpoint, Source, read_generator
from dali_icgan.models.generator import BN_EPS, BOTTOM, GeneratorConfig, power_step


@dataclass(frozen=True)
class _Attention:
    theta: Convolution
    phi: Convolution
    g: Convolution
    o: Convolution  # times gamma


@dataclass(frozen=True)
class _Block:
    condition: Tensor  # [2 * (in + out), condition_dim]: scale and shift of the first norm, then of the second
    condition_bias: Tensor
    widths: tuple[int, int, int, int]
    conv1: Convolution
    conv2: Convolution
    shortcut: Convolution
    attention: _Attention | None


class Generator:
    """``generator(z, h, y=None)``: instance-conditioned images. Made by :func:`load_generator`; immutable.

    Attributes:
        resolution: side of the images, in pixels.
        dim_z: columns of z that are read.
        feature_dim: columns of h.
        n_classes: classes it can be asked for; 0 for a plain generator.
        class_conditional: whether it takes labels.
        device, dtype: where it runs and what it returns.
        config: the whole architecture.
        parameters_count: numbers that were learnt.
        fingerprint: SHA-256 of the model in hexadecimal, the same for every file, device and dtype of it.
        source: the file it came from.
        trained: False if its weights are random on purpose.

    For one batch size, a row's bits depend on that row alone: not on the others, nor on its place in the batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint[GeneratorConfig],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = checkpoint.config
        self.device, self.dtype, self._compute = resolve(device, dtype)
        self.config = config
        self.resolution = config.resolution
        self.dim_z = config.dim_z
        self.feature_dim = config.feature_dim
        self.class_conditional = config.class_conditional
        self.n_classes = config.n_classes if config.class_conditional else 0
        self.parameters_count = checkpoint.parameters_count
        self.fingerprint = checkpoint.fingerprint
        self.source = checkpoint.source
        self.trained = checkpoint.trained
        with undisturbed(self.device):
            self._bake(checkpoint.tensors)

    def __repr__(self) -> str:
        classes = f"{self.n_classes} classes" if self.class_conditional else "no classes"
        return (
            f"Generator({self.source!r}, {self.resolution} px, {self.parameters_count / 1e6:.1f}M parameters, {classes}, "
            f"{self.dtype}, {self.device}{'' if self.trained else ', UNTRAINED'})"
        )

    def __call__(self, z: Tensor, h: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images.

        Args:
            z: noise ``[n, >= dim_z]``, floating point; columns beyond ``dim_z`` are not read (official code passes 128).
            h: features ``[n, feature_dim]``, floating point, rows of unit length.
            y: labels ``[n]``, integers in ``[0, n_classes)``; None for a generator without classes. May be on the CPU, where
                the range is checked; on CUDA a check would wait for the device, and a label out of range is an error of the device.

        Returns:
            ``[n, 3, resolution, resolution]`` in [-1, 1], of ``dtype``, in channels-last memory, without gradient.

        Raises:
            ValueError: a shape, dtype, device or label is not as above, or y is given (not given) to a plain (class-conditional)
                generator; the message names the argument.

        Numerics: within 5e-5 of float64 in float32, 1e-10 in float64. The CPU computes float16 and bfloat16 in float32. Runs
        repeat exactly at equal n, threads and library versions; gradient mode, inference mode and autocast around it change nothing.
            On CUDA convolutions are never TF32; the few matrix products follow ``torch.backends.cuda.matmul`` (float32 unless set).
        Stream: torch's current stream of ``device``; no synchronisation.
        Source: Casanova et al. 2021 (arXiv 2109.05070), with one power step from the stored u in every layer.
        """
        self._check(z, h, y)
        if not len(z):
            size = (0, 3, self.resolution, self.resolution)
            return torch.empty(size, dtype=self.dtype, device=self.device, memory_format=torch.channels_last)
        with undisturbed(self.device):
            return self._generate(z, h, y)

    def _check(self, z: Tensor, h: Tensor, y: Tensor | None) -> None:
        n = len(z) if z.ndim else 0
        if z.ndim != 2 or z.shape[1] < self.dim_z:
            raise ValueError(f"z must have shape [n, {self.dim_z} or more], got {list(z.shape)}")
        if h.shape != (n, self.feature_dim):
            raise ValueError(f"h must have shape [{n}, {self.feature_dim}], got {list(h.shape)}")
        for name, tensor in (("z", z), ("h", h)):
            if not tensor.is_floating_point():
                raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
            if tensor.device != self.device:
                raise ValueError(f"{name} must be on {self.device}, got {tensor.device}")
        if y is None:
            if self.class_conditional:
                raise ValueError("y must be given: this generator is class-conditional")
            return
        if not self.class_conditional:
            raise ValueError("y must be None: this generator has no classes")
        if y.shape != (n,):
            raise ValueError(f"y must have shape [{n}], got {list(y.shape)}")
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise ValueError(f"y must be integers, got {y.dtype}")
        if y.device.type == "cpu":
            if n and not 0 <= int(y.min()) <= int(y.max()) < self.n_classes:
                raise ValueError(f"y must be in [0, {self.n_classes}), got {int(y.min())} to {int(y.max())}")
        elif y.device != self.device:
            raise ValueError(f"y must be on {self.device} or the CPU, got {y.device}")

    def _bake(self, tensors: dict[str, Tensor]) -> None:
        config = self.config
        # The vectors that steer every layer cost nothing; half precision is for the images.
        self._wide = torch.promote_types(self._compute, torch.float32)

        def exact(name: str) -> Tensor:
            return tensors[name].double()

        def normalised(name: str) -> Tensor:
            weight = exact(f"{name}.weight")
            return weight / power_step(weight, exact(f"{name}.u0"))[0]

        def place(x: Tensor, dtype: torch.dtype) -> Tensor:
            layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
            return x.to(self.device, dtype, copy=True).contiguous(memory_format=layout)

        def convolution(name: str, factor: Tensor | float = 1.0) -> Convolution:
            bias = place(exact(f"{name}.bias"), self._compute) if f"{name}.bias" in tensors else None
            return Convolution(place(normalised(name) * factor, self._compute), bias)

        def statistics(name: str) -> tuple[Tensor, Tensor]:
            """``(x - mean) / sqrt(var + eps)`` is ``x * scale + shift``."""
            scale = (exact(f"{name}.stored_var") + BN_EPS).rsqrt()
            return scale, -exact(f"{name}.stored_mean") * scale

        def block(i: int) -> _Block:
            rows, biases = [], []
            for norm in (f"blocks.{i}.0.bn1", f"blocks.{i}.0.bn2"):
                # (x * scale + shift) * (1 + gain y) + bias y is one scale and one shift, both affine in y.
                scale, shift = statistics(norm)
                gain, bias = normalised(f"{norm}.gain"), normalised(f"{norm}.bias")
                rows += [scale[:, None] * gain, shift[:, None] * gain + bias]
                biases += [scale, shift]
            inputs, outputs = config.in_channels[i], config.out_channels[i]
            attention = None
            if config.block_resolutions[i] in config.attention:
                name = f"blocks.{i}.1"
                attention = _Attention(
                    convolution(f"{name}.theta"),
                    convolution(f"{name}.phi"),
                    convolution(f"{name}.g"),
                    convolution(f"{name}.o", exact(f"{name}.gamma")),
                )
            return _Block(
                place(torch.cat(rows), self._wide),
                place(torch.cat(biases), self._wide),
                (inputs, inputs, outputs, outputs),
                convolution(f"blocks.{i}.0.conv1"),
                convolution(f"blocks.{i}.0.conv2"),
                convolution(f"blocks.{i}.0.conv_sc"),
                attention,
            )

        self._embedding = place(exact("shared.weight"), self._wide) if self.class_conditional else None
        self._feature = place(normalised("shared_feat"), self._wide), place(exact("shared_feat.bias"), self._wide)

        # Rows of the first layer in the order of channels-last memory.
        def pixels_first(x: Tensor) -> Tensor:
            return x.unflatten(0, (config.in_channels[0], BOTTOM**2)).transpose(0, 1).flatten(0, 1)

        self._first = (
            place(pixels_first(normalised("linear")), self._wide),
            place(pixels_first(exact("linear.bias")), self._wide),
        )
        self._blocks = [block(i) for i in range(config.blocks)]
        scale, shift = statistics("output_layer.0")
        gain = exact("output_layer.0.gain")
        self._last_norm = (
            place(scale * gain, self._wide)[None],
            place(shift * gain + exact("output_layer.0.bias"), self._wide)[None],
        )
        self._last = convolution("output_layer.2")

    def _generate(self, z: Tensor, h: Tensor, y: Tensor | None) -> Tensor:
        config = self.config
        chunks = z[:, : self.dim_z].to(self._wide).split(config.z_chunk, dim=1)
        c = row_linear(h.to(self._wide), *self._feature)
        if y is not None and self._embedding is not None:
            c = torch.cat([F.embedding(y.to(self.device, torch.int64), self._embedding), c], dim=1)
        x = row_linear(chunks[0], *self._first).to(self._compute)
        x = x.view(len(z), BOTTOM, BOTTOM, config.in_channels[0]).permute(0, 3, 1, 2)
        for i, block in enumerate(self._blocks):
            condition = torch.cat([c, chunks[i + 1]], dim=1) if config.hierarchical else c
            steer = row_linear(condition, block.condition, block.condition_bias)
            scale1, shift1, scale2, shift2 = steer.split(block.widths, dim=1)
            a = block.conv1(_double(self._scale_shift_relu(x, scale1, shift1)))
            a = block.conv2(self._scale_shift_relu(a, scale2, shift2))
            # A 1x1 convolution commutes with nearest upsampling, and costs a quarter before it.
            x = a.add_(_double(block.shortcut(x)))
            if block.attention is not None:
                x = self._attend(x, block.attention)
        x = self._last(self._scale_shift_relu(x, *self._last_norm))
        return torch.tanh(x).to(self.dtype)

    def _scale_shift_relu(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        # Product and sum apart: fused, they may round differently in a vector loop and in its remainder.
        return (x * scale[:, :, None, None]).add_(shift[:, :, None, None]).relu_().to(self._compute)

    def _attend(self, x: Tensor, attention: _Attention) -> Tensor:
        theta = attention.theta(x).flatten(2)
        phi = F.max_pool2d(attention.phi(x), 2).flatten(2)
        g = F.max_pool2d(attention.g(x), 2).flatten(2)
        # The logits are unscaled dot products: in half precision they would overflow.
        beta = torch.softmax(theta.transpose(1, 2).to(self._wide) @ phi.to(self._wide), dim=-1)
        o = (beta.to(self._compute) @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return x.add_(attention.o(o))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def load_generator(
    source: Source, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Generator:
    """A generator for inference.

    Args:
        source: the path of an official ``G_ema_best0.pth`` or of a file of our own, a state dict, or ``"embedded"``: the small
            one that comes with the package. Every width is read off the tensors; nothing in the file is run.
        device: None is the current CUDA device, else the CPU.
        dtype: float16, bfloat16, float32 or float64; None is float16 on CUDA and float32 on the CPU.

    Raises:
        ValueError: the file is of another kind, ambiguous, or keys are missing, unknown or misshaped; the message names all.
        FileNotFoundError: there is no such file.
        DeviceError: there is no such device.
    """
    checkpoint = read_generator(source)
    say_once(checkpoint.notice and f"{checkpoint.source} {checkpoint.notice}")
    return Generator(checkpoint, device, dtype)
