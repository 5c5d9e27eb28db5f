"""An extractor's checkpoint as convolutions and biases alone: batch norm is folded in, in float64."""

from dataclasses import dataclass

from torch import Tensor

from dali_icgan.models.checkpoint import Checkpoint
from dali_icgan.models.resnet import BN_EPS, ResNetConfig


@dataclass(frozen=True)
class FoldedConvolution:
    """``weight`` ``[out, in, k, k]``, ``bias`` ``[out]``, at this stride with padding ``k // 2``."""

    weight: Tensor
    bias: Tensor
    stride: int


@dataclass(frozen=True)
class FoldedResidual:
    """``relu(convolutions(x) + shortcut(x))``, a ReLU between convolutions.

    Attributes:
        name: of the block in the checkpoint.
        size: side of x, in pixels.
        convolutions: two or three; the bias of the last is that of the shortcut, too.
        shortcut: ``[out, in, 1, 1]``, at the block's stride; None: x itself.
    """

    name: str
    size: int
    convolutions: tuple[FoldedConvolution, ...]
    shortcut: Tensor | None

    @property
    def stride(self) -> int:
        """Of the block."""
        return max(convolution.stride for convolution in self.convolutions)

    @property
    def outputs(self) -> int:
        """Channels of its result."""
        return len(self.convolutions[-1].bias)


@dataclass(frozen=True)
class FoldedTrunk:
    """All tensors float64 on the CPU.

    Attributes:
        config: the architecture.
        stem: of 3 channels; a ReLU follows, then the maximum if the architecture has it.
        blocks: in order.
    """

    config: ResNetConfig
    stem: FoldedConvolution
    blocks: tuple[FoldedResidual, ...]

    @property
    def stem_size(self) -> int:
        """Side of the stem's result, before the maximum."""
        return halved(self.config.input_size, self.config.stem_stride)


def fold_trunk(checkpoint: Checkpoint[ResNetConfig]) -> FoldedTrunk:
    """Fold an extractor's checkpoint."""
    config, tensors = checkpoint.config, checkpoint.tensors

    def exact(name: str) -> Tensor:
        return tensors[name].detach().cpu().double()

    def folded(convolution: str, norm: str, stride: int) -> FoldedConvolution:
        scale = exact(f"{norm}.weight") * (exact(f"{norm}.running_var") + BN_EPS).rsqrt()
        weight = exact(f"{convolution}.weight") * scale[:, None, None, None]
        return FoldedConvolution(weight, exact(f"{norm}.bias") - exact(f"{norm}.running_mean") * scale, stride)

    def block(name: str, size: int, stride: int) -> FoldedResidual:
        strides = (1, stride, 1) if config.block == "bottleneck" else (stride, 1)
        convolutions = [folded(f"{name}.conv{k}", f"{name}.bn{k}", s) for k, s in enumerate(strides, start=1)]
        if f"{name}.downsample.0.weight" not in tensors:
            return FoldedResidual(name, size, tuple(convolutions), None)
        shortcut = folded(f"{name}.downsample.0", f"{name}.downsample.1", stride)
        last = convolutions.pop()
        convolutions.append(FoldedConvolution(last.weight, last.bias + shortcut.bias, last.stride))
        return FoldedResidual(name, size, tuple(convolutions), shortcut.weight)

    stem, blocks = folded("conv1", "bn1", config.stem_stride), []
    size = halved(config.input_size, config.stem_stride)
    if config.stem_pool:
        size = halved(size)
    for stage, depth in enumerate(config.depths):
        for i in range(depth):
            stride = 2 if stage and not i else 1
            blocks.append(block(f"layer{stage + 1}.{i}", size, stride))
            size = halved(size, stride)
    return FoldedTrunk(config, stem, tuple(blocks))


def halved(size: int, stride: int = 2) -> int:
    """Pixels of an odd kernel's result with padding ``k // 2``."""
    return (size - 1) // stride + 1
