"""A generator's checkpoint as the fewest numbers that inference needs: everything that folds exactly is folded, in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.models.checkpoint import Checkpoint
from dali_icgan.models.generator import BN_EPS, BOTTOM, GeneratorConfig, power_step


@dataclass(frozen=True)
class FoldedAttention:
    """``qkv`` ``[2 * (c // 8) + c // 2, c]``: theta, phi and g, one below the other. ``out`` ``[c, c // 2]``: o times gamma."""

    qkv: Tensor
    out: Tensor


@dataclass(frozen=True)
class FoldedBlock:
    """One block: ``x [n, in, r, r]`` to ``[n, out, 2r, 2r]``.

    Attributes:
        condition, condition_bias: ``[2 * (in + out), condition_dim]``, ``[2 * (in + out)]``: of the block's condition vector they make
            scale and shift of the first norm, then of the second. The second shift holds ``conv1``'s bias.
        conv1: ``[out, in, 3, 3]``, behind nearest upsampling.
        conv2: ``[out, out, 3, 3]``.
        shortcut: ``[out, in]``, before upsampling.
        bias: ``[out]``, of conv2 and shortcut together.
        attention: follows the block, or None.
    """

    condition: Tensor
    condition_bias: Tensor
    conv1: Tensor
    conv2: Tensor
    shortcut: Tensor
    bias: Tensor
    attention: FoldedAttention | None


@dataclass(frozen=True)
class FeatureEmbedding:
    """What a generator makes of a feature before anything else (``shared_feat``): ``weight`` ``[shared_dim_feat, feature_dim]``, ``bias``;
    float64 on the CPU."""

    weight: Tensor
    bias: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """float32 ``[n, shared_dim_feat]`` of ``[n, feature_dim]`` on the CPU, rounded once."""
        return F.linear(h.double(), self.weight, self.bias).float()


@dataclass(frozen=True)
class FoldedGenerator:
    """All tensors float64 on the CPU.

    Attributes:
        config: the architecture.
        embedding: ``[n_classes, shared_dim]``, or None.
        feature: of the instance's feature.
        first, first_bias: ``[16 * in, z_chunk]``, of the first chunk of z; rows in the order pixel, channel.
        blocks: from 4 x 4 pixels up.
        last_scale, last_shift: ``[c]``, the norm before the last convolution.
        last, last_bias: ``[3, c, 3, 3]``, ``[3]``.

    What is folded: spectral norm (one power step from the stored u, Miyato et al. 2018), batch-norm statistics, the biases of
    convolutions that a norm follows, attention's gamma.
    """

    config: GeneratorConfig
    embedding: Tensor | None
    feature: FeatureEmbedding
    first: Tensor
    first_bias: Tensor
    blocks: tuple[FoldedBlock, ...]
    last_scale: Tensor
    last_shift: Tensor
    last: Tensor
    last_bias: Tensor


def fold(checkpoint: Checkpoint[GeneratorConfig]) -> FoldedGenerator:
    """Fold a generator's checkpoint."""
    config, tensors = checkpoint.config, checkpoint.tensors

    def exact(name: str) -> Tensor:
        return tensors[name].detach().to("cpu", torch.float64, copy=True)

    def normalised(name: str) -> Tensor:
        weight = exact(f"{name}.weight")
        return weight / power_step(weight, exact(f"{name}.u0"))[0]

    def statistics(name: str) -> tuple[Tensor, Tensor]:
        """``(x - mean) / sqrt(var + eps)`` is ``x * scale + shift``."""
        scale = (exact(f"{name}.stored_var") + BN_EPS).rsqrt()
        return scale, -exact(f"{name}.stored_mean") * scale

    def block(i: int) -> FoldedBlock:
        name, rows, biases = f"blocks.{i}.0", [], []
        for norm, before in (("bn1", None), ("bn2", exact(f"{name}.conv1.bias"))):
            scale, shift = statistics(f"{name}.{norm}")
            if before is not None:
                shift = shift + before * scale
            # (x * scale + shift) * (1 + gain y) + bias y is one scale and one shift, both affine in y.
            gain, bias = normalised(f"{name}.{norm}.gain"), normalised(f"{name}.{norm}.bias")
            rows += [scale[:, None] * gain, shift[:, None] * gain + bias]
            biases += [scale, shift]
        attention = None
        if config.block_resolutions[i] in config.attention:
            parts = [normalised(f"blocks.{i}.1.{part}").flatten(1) for part in ("theta", "phi", "g", "o")]
            attention = FoldedAttention(torch.cat(parts[:3]), parts[3] * exact(f"blocks.{i}.1.gamma"))
        return FoldedBlock(
            torch.cat(rows),
            torch.cat(biases),
            normalised(f"{name}.conv1"),
            normalised(f"{name}.conv2"),
            normalised(f"{name}.conv_sc").flatten(1),
            exact(f"{name}.conv2.bias") + exact(f"{name}.conv_sc.bias"),
            attention,
        )

    def pixels_first(x: Tensor) -> Tensor:
        return x.unflatten(0, (config.in_channels[0], BOTTOM**2)).transpose(0, 1).flatten(0, 1)

    scale, shift = statistics("output_layer.0")
    gain = exact("output_layer.0.gain")
    return FoldedGenerator(
        config,
        exact("shared.weight") if config.class_conditional else None,
        FeatureEmbedding(normalised("shared_feat"), exact("shared_feat.bias")),
        pixels_first(normalised("linear")),
        pixels_first(exact("linear.bias")),
        tuple(block(i) for i in range(config.blocks)),
        scale * gain,
        shift * gain + exact("output_layer.0.bias"),
        normalised("output_layer.2"),
        exact("output_layer.2.bias"),
    )


def all_conditions(folded: FoldedGenerator, multiple: int = 1) -> tuple[Tensor, Tensor, list[list[slice]]]:
    """Scales and shifts of all blocks as one linear layer of (class, feature, all chunks of z but the first).

    Args:
        folded: the generator.
        multiple: each scale and shift is padded with zeros to a multiple of so many columns.

    Returns:
        weight ``[columns, condition]``, bias ``[columns]``, and which columns are whose: scale and shift of a block's first norm, then
        of its second. Other blocks' chunks have weight zero: that costs less than a call a block.
    """
    config = folded.config
    chunk = config.z_chunk if config.hierarchical else 0
    common = config.condition_dim - chunk
    rows, biases, slices, begin = [], [], [], 0
    for i, block in enumerate(folded.blocks):
        widths = [config.in_channels[i]] * 2 + [config.out_channels[i]] * 2
        own = []
        for weight, bias in zip(block.condition.split(widths), block.condition_bias.split(widths), strict=True):
            wide = padded(len(weight), multiple)
            placed = weight.new_zeros(wide, common + chunk * config.blocks)
            placed[: len(weight), :common] = weight[:, :common]
            placed[: len(weight), common + i * chunk : common + (i + 1) * chunk] = weight[:, common:]
            rows.append(placed)
            biases.append(pad_to(bias, wide))
            own.append(slice(begin, begin + wide))
            begin += wide
        slices.append(own)
    return torch.cat(rows), torch.cat(biases), slices


def padded(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def pad_to(x: Tensor, *sizes: int) -> Tensor:
    """``x`` with zeros behind it, up to these sizes."""
    out = x.new_zeros(sizes)
    out[tuple(slice(size) for size in x.shape)] = x
    return out
