"""The generator for inference: what can be called, and the plans behind it."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dali_icgan.engine.cpu_plan import CpuPlan, CpuWeights
from dali_icgan.engine.cuda_plan import CudaPlan, CudaWeights
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms, Table
from dali_icgan.engine.placement import resolve, say_once, undisturbed
from dali_icgan.engine.plans import Plans
from dali_icgan.models.checkpoint import Checkpoint, Source, read_generator
from dali_icgan.models.generator import GeneratorConfig


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
        forms: the tiles of its convolutions, a table as ``dali-icgan tune`` writes it; None on CUDA, where cuDNN chooses.

    For one batch size, a row's bits depend on that row alone: not on the others, nor on its place in the batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint[GeneratorConfig],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        forms: Table | str | Path | None = None,
    ) -> None:
        config = checkpoint.config
        self.device, self.dtype, self._compute = resolve(device, dtype, bfloat16_on_cpu=True)
        if self.device.type == "cuda" and self.dtype == torch.float64:
            raise ValueError("dtype must be float16, bfloat16 or float32 on CUDA, got torch.float64")
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
            folded = fold(checkpoint)
            self._weights: CpuWeights | CudaWeights
            self._plans: Plans[CpuPlan] | Plans[CudaPlan]
            self._embedded_plans: Plans[CpuPlan] | Plans[CudaPlan]
            self.forms: dict[str, dict[str, int]] | None = None
            if self.device.type == "cpu":
                self._weights = CpuWeights(folded, self._compute, Forms.of(self._compute, forms))
                self.forms = self._weights.forms.table()
                on_cpu = partial(CpuPlan, self._weights, dtype=self.dtype)
                self._plans = Plans(self.device, on_cpu)
                self._embedded_plans = Plans(self.device, partial(on_cpu, embedded=True))
            else:
                self._weights = CudaWeights(folded, self.device, self._compute)
                on_cuda = partial(_calibrated, self._weights, self.source, dtype=self.dtype)
                self._plans = Plans(self.device, on_cuda)
                self._embedded_plans = Plans(self.device, partial(on_cuda, embedded=True))

    def __repr__(self) -> str:
        classes = f"{self.n_classes} classes" if self.class_conditional else "no classes"
        return (
            f"Generator({self.source!r}, {self.resolution} px, {self.parameters_count / 1e6:.1f}M parameters, {classes}, "
            f"{self.dtype}, {self.device}{'' if self.trained else ', UNTRAINED'})"
        )

    def __call__(self, z: Tensor, h: Tensor, y: Tensor | None = None, *, embedded: bool = False) -> Tensor:
        """Generate images.

        Args:
            z: noise ``[n, >= dim_z]``, floating point; columns beyond ``dim_z`` are not read (official code passes 128).
            h: features ``[n, feature_dim]``, floating point, rows of unit length.
            y: labels ``[n]``, integers in ``[0, n_classes)``; None for a generator without classes. May be on the CPU, where
                the range is checked; on CUDA a check would wait for the device, and a label out of range is an error of the device.
            embedded: h is what :meth:`embed` makes of features, ``[n, shared_dim_feat]``; the same images, but for rounding.

        Returns:
            ``[n, 3, resolution, resolution]`` in [-1, 1], of ``dtype``, in channels-last memory, without gradient.

        Raises:
            ValueError: a shape, dtype, device or label is not as above, or y is given (not given) to a plain (class-conditional)
                generator; the message names the argument.

        Numerics: within 5e-5 of float64 in float32, 1e-10 in float64. The CPU computes float16 in float32, and
            bfloat16 too on a processor without AVX-512 (docs/numerics.md); with it, bfloat16 is within 2e-2, or 1.2 times what the
            network as published errs by in bfloat16, if that is more. Runs repeat
            exactly: on the CPU at equal instruction set and forms, on CUDA at equal n and library versions. Gradient mode, inference
            mode and autocast around it change nothing. On CUDA convolutions are never TF32; the few matrix products follow
            ``torch.backends.cuda.matmul`` as it was when the plan was made (float32 unless set).
        Stream: torch's current stream of ``device``; no synchronisation.
        Source: Casanova et al. 2021 (arXiv 2109.05070), with one power step from the stored u in every layer.
        """
        self._check(z, h, y, embedded)
        if not len(z):
            size = (0, 3, self.resolution, self.resolution)
            return torch.empty(size, dtype=self.dtype, device=self.device, memory_format=torch.channels_last)
        with (self._embedded_plans if embedded else self._plans).taken(len(z)) as plan:
            return plan(z, h, y)

    def embed(self, h: Tensor) -> Tensor:
        """What the generator first makes of features (``shared_feat``, a linear layer): for who stores that instead of them.

        Args:
            h: features ``[n, feature_dim]``, floating point, rows of unit length, on the CPU.

        Returns:
            float32 ``[n, config.shared_dim_feat]``, computed in float64.

        Raises:
            ValueError: h is not as above.

        Source: Casanova et al. 2021 (arXiv 2109.05070), its spectral norm as in the generator.
        """
        if h.ndim != 2 or h.shape[1] != self.feature_dim:
            raise ValueError(f"h must have shape [n, {self.feature_dim}], got {list(h.shape)}")
        if not h.is_floating_point() or h.device.type != "cpu":
            raise ValueError(f"h must be floating point on cpu, got {h.dtype} on {h.device}")
        with undisturbed(torch.device("cpu")):
            return self._weights.embed(h)

    def _check(self, z: Tensor, h: Tensor, y: Tensor | None, embedded: bool) -> None:
        n = len(z) if z.ndim else 0
        if z.ndim != 2 or z.shape[1] < self.dim_z:
            raise ValueError(f"z must have shape [n, {self.dim_z} or more], got {list(z.shape)}")
        width = self.config.shared_dim_feat if embedded else self.feature_dim
        if h.shape != (n, width):
            raise ValueError(f"h must have shape [{n}, {width}]{', embedded' * embedded}, got {list(h.shape)}")
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

    def prepare(self, n: int, *, embedded: bool = False) -> "CpuPlan | CudaPlan":
        """The plan of calls with ``n`` rows, of embedded features or plain ones; kept for the next such call.

        ``generator(...)`` does this on first use of a number of rows, a loader before it begins. The last few plans are kept: each
        owns its buffers. ``prepare(n).describe()`` measures its layers. On CUDA it waits for the device: a graph is captured.

        Raises:
            ValueError: ``n`` is no positive integer.
        """
        return (self._embedded_plans if embedded else self._plans).prepare(n)


def _calibrated(weights: CudaWeights, source: str, n: int, dtype: torch.dtype, embedded: bool = False) -> CudaPlan:
    """A plan, and a word in the log if its dtype does not hold the activations."""
    plan = CudaPlan(weights, n, dtype, embedded)
    overflow = plan.overflow()
    say_once(overflow and f"{source}: {overflow}")
    return plan


def load_generator(
    source: Source,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    forms: Table | str | Path | None = None,
) -> Generator:
    """A generator for inference.

    Args:
        source: the path of an official ``G_ema_best0.pth`` or of a file of our own, a state dict, or ``"embedded"``: the small
            one that comes with the package. Every width is read off the tensors; nothing in the file is run.
        device: None is the current CUDA device, else the CPU.
        dtype: float16, bfloat16, float32 or, on the CPU, float64; None is float16 on CUDA and float32 on the CPU.
        forms: on the CPU, the file that ``dali-icgan tune`` wrote, or a table out of a loader's state (``state["forms"]["generator"]``):
            which tile each convolution takes. None: the package's table.

    Raises:
        ValueError: the file is of another kind, ambiguous, or keys are missing, unknown or misshaped; the message names all. ``forms`` is
            no such table.
        FileNotFoundError: there is no such file.
        DeviceError: there is no such device.
    """
    checkpoint = read_generator(source)
    say_once(checkpoint.notice and f"{checkpoint.source} {checkpoint.notice}")
    return Generator(checkpoint, device, dtype, forms=forms)
