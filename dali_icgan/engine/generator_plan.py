"""What the generator's plans have in common, whatever they run on: how their activations are calibrated."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.engine.folding import FeatureEmbedding
from dali_icgan.engine.plan import Plan
from dali_icgan.models.generator import GeneratorConfig


class GeneratorPlan(Plan):
    """A plan of a generator for ``n`` rows.

    Attributes:
        config: of the generator.
        n: rows.
        embed: of a plan that is given embedded features: how a feature is embedded. None: it is given features.
    """

    config: GeneratorConfig
    n: int
    embed: FeatureEmbedding | None

    @abstractmethod
    def put(self, z: Tensor, h: Tensor, y: Tensor | None) -> None:
        """Fill the buffers that the first steps read."""

    def calibrate(self) -> None:
        """Measure the residual stream on calibration noise: z of a normal distribution, not truncated, which goes further than what a
        loader draws; h as features are, unit rows without negative numbers; every class in turn."""
        config = self.config
        random = torch.Generator().manual_seed(0)
        z = torch.randn(self.n, config.dim_z, generator=random)
        h = F.normalize(torch.randn(self.n, config.feature_dim, generator=random).abs())
        if self.embed is not None:
            h = self.embed(h)
        y = torch.arange(self.n) % config.n_classes if config.class_conditional else None
        self.put(z.to(self.device), h.to(self.device), None if y is None else y.to(self.device))
        self.measure_stream()

    def overflow(self) -> str:
        """Which block is the first whose stream is not finite on calibration noise, in a sentence; "" if all are."""
        for name, largest in self.largest.items():
            if not largest <= torch.finfo(self.compute).max:
                return (
                    f"computed in {self.compute}, whose largest number is {torch.finfo(self.compute).max:.4g}, the residual stream is not "
                    f"finite from {name} on: images will be damaged; bfloat16 and float32 reach further"
                )
        return ""
