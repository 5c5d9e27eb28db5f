"""Inference form of the feature extractor: batch norm folded into the convolutions in float64, then cast."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan import ops
from dali_icgan.engine.layers import Convolution
from dali_icgan.engine.placement import resolve, say_once, undisturbed
from dali_icgan.models.checkpoint import Checkpoint, Source, read_extractor
from dali_icgan.models.resnet import BN_EPS, ResNetConfig


@dataclass(frozen=True)
class _Block:
    convolutions: tuple[Convolution, ...]
    downsample: Convolution | None

    def __call__(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for convolution in self.convolutions[:-1]:
            x = convolution(x).relu_()
        return self.convolutions[-1](x).add_(shortcut).relu_()


class Extractor:
    """``extractor(images)``: the unit features that condition a generator. Made by :func:`load_extractor`; immutable.

    Attributes:
        dim: columns of a feature.
        resolution: the generator's resolution, at which images are seen before they are enlarged; None until it is known.
        align_corners: how they are enlarged: False as in training and stored features, True as in the official notebooks.
        input_size: side of the trunk's input, in pixels.
        device, dtype: where it runs and what it computes in (half precision: on the CPU, float32).
        config: the trunk's architecture.
        parameters_count, fingerprint, source, trained: as of a :class:`Generator`.

    For one batch size, a row's bits depend on that row alone: not on the others, nor on its place in the batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint[ResNetConfig],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        resolution: int | None = None,
        align_corners: bool = False,
    ) -> None:
        if resolution is not None and resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.device, self.dtype, self._compute = resolve(device, dtype)
        self.config = checkpoint.config
        self.dim = checkpoint.config.dim
        self.input_size = checkpoint.config.input_size
        self.resolution = resolution
        self.align_corners = align_corners
        self.parameters_count = checkpoint.parameters_count
        self.fingerprint = checkpoint.fingerprint
        self.source = checkpoint.source
        self.trained = checkpoint.trained
        with undisturbed(self.device):
            self._fold(checkpoint.tensors)

    def __repr__(self) -> str:
        return (
            f"Extractor({self.source!r}, dim {self.dim}, seen at {self.resolution} px, {self.dtype}, {self.device}"
            f"{'' if self.trained else ', UNTRAINED'})"
        )

    def __call__(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """Features of images.

        Args:
            images: a list of uint8 ``[h, w, 3]`` of any sizes, or uint8 ``[n, 3, h, w]``, or floating point ``[n, 3, h, w]`` in
                [0, 1]; copied to ``device`` from elsewhere.

        Returns:
            ``[n, dim]`` float32, rows of unit length.

        Raises:
            ValueError: the resolution is not known yet, or images are not as above.

        Numerics: repeats exactly at equal n, threads and library versions; gradient mode, inference mode and autocast around it
        change nothing. Stream: torch's current stream of ``device``; no synchronisation.
        Source: the preprocessing of Casanova et al. 2021 (arXiv 2109.05070): centre crop, model resolution, bicubic input size.
        """
        if self.resolution is None:
            raise ValueError("resolution must be given: features depend on the generator's, use at_resolution(...)")
        with undisturbed(self.device):
            prepared = ops.prepare_features(
                images,
                resolution=self.resolution,
                input_size=self.input_size,
                align_corners=self.align_corners,
                # Preprocessing is float32 at best, as it was when the weights were trained.
                dtype=torch.float32 if self._compute == torch.float64 else self._compute,
                device=self.device,
            )
            return ops.unit_rows(self._trunk(prepared).float())

    def trunk(self, prepared: Tensor) -> Tensor:
        """Pooled features, not of unit length.

        Args:
            prepared: normalised images ``[n, 3, input_size, input_size]``, floating point, on ``device``.

        Returns:
            ``[n, dim]``, float32, or float64 of a float64 extractor.
        """
        if prepared.ndim != 4 or prepared.shape[1:] != (3, self.input_size, self.input_size):
            raise ValueError(
                f"prepared must have shape [n, 3, {self.input_size}, {self.input_size}], got {list(prepared.shape)}"
            )
        if not prepared.is_floating_point() or prepared.device != self.device:
            raise ValueError(
                f"prepared must be floating point on {self.device}, got {prepared.dtype} on {prepared.device}"
            )
        with undisturbed(self.device):
            return self._trunk(prepared)

    def at_resolution(self, resolution: int) -> "Extractor":
        """The same extractor for a generator of this resolution; shares its tensors.

        Raises:
            ValueError: it is made for another resolution already.
        """
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        if self.resolution not in (None, resolution):
            raise ValueError(
                f"resolution must be {self.resolution}, for which this extractor was loaded, got {resolution}"
            )
        other = copy.copy(self)
        other.resolution = resolution
        return other

    def _fold(self, tensors: dict[str, Tensor]) -> None:
        def convolution(conv: str, norm: str, stride: int = 1) -> Convolution:
            scale = tensors[f"{norm}.weight"].double() * (tensors[f"{norm}.running_var"].double() + BN_EPS).rsqrt()
            weight = tensors[f"{conv}.weight"].double() * scale[:, None, None, None]
            bias = tensors[f"{norm}.bias"].double() - tensors[f"{norm}.running_mean"].double() * scale
            return Convolution(
                weight.to(self.device, self._compute).contiguous(memory_format=torch.channels_last),
                bias.to(self.device, self._compute),
                stride,
            )

        self._stem = convolution("conv1", "bn1", self.config.stem_stride)
        self._blocks = []
        bottleneck = self.config.block == "bottleneck"
        for stage, depth in enumerate(self.config.depths):
            for i in range(depth):
                name, stride = f"layer{stage + 1}.{i}", 2 if stage and not i else 1
                strides = (1, stride, 1) if bottleneck else (stride, 1)
                self._blocks.append(
                    _Block(
                        tuple(
                            convolution(f"{name}.conv{k}", f"{name}.bn{k}", s) for k, s in enumerate(strides, start=1)
                        ),
                        convolution(f"{name}.downsample.0", f"{name}.downsample.1", stride)
                        if f"{name}.downsample.0.weight" in tensors
                        else None,
                    )
                )

    def _trunk(self, prepared: Tensor) -> Tensor:
        wide = torch.promote_types(self._compute, torch.float32)
        if not len(prepared):
            return torch.empty(0, self.dim, dtype=wide, device=self.device)
        x = self._stem(prepared.to(self._compute).contiguous(memory_format=torch.channels_last)).relu_()
        if self.config.stem_pool:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for block in self._blocks:
            x = block(x)
        return x.mean((2, 3), dtype=wide)


def load_extractor(
    source: Source,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    resolution: int | None = None,
    align_corners: bool = False,
) -> Extractor:
    """A feature extractor for inference.

    Args:
        source: the path of torchvision's ``resnet50-19c8e357.pth`` (IMAGENET1K_V1), SwAV's ``swav_800ep_pretrain.pth.tar``,
            ImageNet-LT's ``resnet50_uniform_e90.pth`` or a file of our own, a state dict, or ``"embedded"``: the small one that
            comes with the package. Nothing in the file is run.
        device: None is the current CUDA device, else the CPU.
        dtype: what it computes in; None is float16 on CUDA and float32 on the CPU.
        resolution: of the generator that the features are for: images are seen at it first. None: set later.
        align_corners: False, as features are made in training and stored; True, as the official notebooks make them.

    Raises:
        ValueError: the file is of another kind, ambiguous, or keys are missing, unknown or misshaped; the message names all.
        FileNotFoundError: there is no such file.
        DeviceError: there is no such device.
    """
    checkpoint = read_extractor(source)
    say_once(checkpoint.notice and f"{checkpoint.source} {checkpoint.notice}")
    return Extractor(checkpoint, device, dtype, resolution=resolution, align_corners=align_corners)
