"""The feature extractor for inference: what can be called, and the plans behind it."""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dali_icgan import ops
from dali_icgan.engine.forms import Forms, Table
from dali_icgan.engine.placement import resolve, say_once, undisturbed
from dali_icgan.engine.plans import Plans
from dali_icgan.engine.trunk_cpu_plan import CpuTrunkPlan, CpuTrunkWeights
from dali_icgan.engine.trunk_cuda_plan import CudaTrunkPlan, CudaTrunkWeights
from dali_icgan.engine.trunk_folding import fold_trunk
from dali_icgan.models.checkpoint import Checkpoint, Source, read_extractor
from dali_icgan.models.resnet import ResNetConfig


class Extractor:
    """``extractor(images)``: the unit features that condition a generator. Made by :func:`load_extractor`; immutable.

    Attributes:
        dim: columns of a feature.
        resolution: the generator's resolution, at which images are seen before they are enlarged; None until it is known.
        align_corners: how they are enlarged: False as in training and stored features, True as in the official notebooks.
        input_size: side of the trunk's input, in pixels.
        device, dtype: where it runs and what it computes in (half precision: on the CPU, float32).
        config: the trunk's architecture.
        parameters_count, fingerprint, source, trained, forms: as of a :class:`Generator`.

    On the CPU a row's bits depend on its image alone: not on the others, their number, its place among them, or threads. On CUDA that
    holds for calls of one number of images.
    """

    def __init__(
        self,
        checkpoint: Checkpoint[ResNetConfig],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        resolution: int | None = None,
        align_corners: bool = False,
        forms: Table | str | Path | None = None,
    ) -> None:
        if resolution is not None and resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.device, self.dtype, self._compute = resolve(device, dtype)
        if self.device.type == "cuda" and self.dtype == torch.float64:
            raise ValueError("dtype must be float16, bfloat16 or float32 on CUDA, got torch.float64")
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
            folded = fold_trunk(checkpoint)
            self._plans: Plans[CpuTrunkPlan] | Plans[CudaTrunkPlan]
            self.forms: dict[str, dict[str, int]] | None = None
            if self.device.type == "cpu":
                weights = CpuTrunkWeights(folded, self._compute, Forms.of(self._compute, forms))
                self._plans = Plans(self.device, partial(CpuTrunkPlan, weights))
                self.forms = weights.forms.table()
            else:
                on_cuda = CudaTrunkWeights(folded, self.device, self._compute)
                self._plans = Plans(self.device, partial(CudaTrunkPlan, on_cuda))

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
            ValueError: the resolution is not known yet, or images are not as above; on the CPU also an image whose features are all zero
                or not finite, which is named (on CUDA such a row is NaN).

        Numerics: cosine to float64 above 0.9999 in float32, above 0.999 in half precision. Runs repeat exactly: on the CPU at equal
            instruction set and forms, on CUDA at equal n and library versions. Gradient mode, inference mode and autocast around it
            change nothing. On CUDA convolutions are never TF32.
        Stream: torch's current stream of ``device``; no synchronisation.
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
        if not len(prepared):
            return torch.empty(0, self.dim, device=self.device)
        with self._plans.taken(len(prepared)) as plan:
            return plan(prepared)

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
        if not len(prepared):
            wide = torch.promote_types(self._compute, torch.float32)
            return torch.empty(0, self.dim, dtype=wide, device=self.device)
        with self._plans.taken(len(prepared)) as plan:
            return plan.pooled(prepared)

    def prepare(self, n: int) -> "CpuTrunkPlan | CudaTrunkPlan":
        """The plan of calls with ``n`` images; kept for the next such call.

        ``extractor(...)`` does this on first use of a number of images, a loader before it begins. The last few plans are kept: each
        owns its buffers. ``prepare(n).describe()`` measures its layers. On CUDA it waits for the device: a graph is captured.

        Raises:
            ValueError: ``n`` is no positive integer.
        """
        return self._plans.prepare(n)

    def at_resolution(self, resolution: int) -> "Extractor":
        """The same extractor for a generator of this resolution; shares weights and plans.

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


def load_extractor(
    source: Source,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    resolution: int | None = None,
    align_corners: bool = False,
    forms: Table | str | Path | None = None,
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
        forms: as of :func:`load_generator`.

    Raises:
        ValueError: the file is of another kind, ambiguous, or keys are missing, unknown or misshaped; the message names all. ``forms`` is
            no table of forms.
        FileNotFoundError: there is no such file.
        DeviceError: there is no such device.
    """
    checkpoint = read_extractor(source)
    say_once(checkpoint.notice and f"{checkpoint.source} {checkpoint.notice}")
    return Extractor(checkpoint, device, dtype, resolution=resolution, align_corners=align_corners, forms=forms)
