"""Measures which tile of each convolution is the fastest on this machine: opt-in, its result is a table (forms.py)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dali_icgan.engine.cpu_plan import CpuPlan, CpuWeights
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms, rule
from dali_icgan.engine.placement import default_microbatch, undisturbed
from dali_icgan.engine.plan import Plan
from dali_icgan.engine.trunk_cpu_plan import CpuTrunkPlan, CpuTrunkWeights
from dali_icgan.engine.trunk_folding import fold_trunk
from dali_icgan.models.checkpoint import Checkpoint
from dali_icgan.models.generator import GeneratorConfig
from dali_icgan.models.resnet import ResNetConfig
from dali_icgan.ops.winograd import TILES

# What another tile must save before it is taken instead of the rule's: less is noise.
_GAIN = 0.03
_IMAGES = 16  # of an extractor's call; it does not know whose generator's microbatch it will get


@dataclass(frozen=True)
class Measured:
    """One convolution.

    Attributes:
        key: its name in a table.
        seconds: what it takes at the least, by tile; all layers of this shape together. The least, since whatever else the machine does
            only adds.
    """

    key: str
    seconds: dict[int, float]

    @property
    def default(self) -> int:
        """The tile that it takes without a table."""
        return rule(int(self.key[0]), int(self.key.rpartition("@")[2]))

    @property
    def fastest(self) -> int:
        """The tile to take: the default unless another saves more than noise."""
        best = min(self.seconds, key=self.seconds.__getitem__)
        return best if self.seconds[best] < (1 - _GAIN) * self.seconds[self.default] else self.default


def tune(
    checkpoint: Checkpoint[GeneratorConfig] | Checkpoint[ResNetConfig],
    rows: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    rounds: int = 7,
) -> list[Measured]:
    """Every tile of every convolution of a model on this machine's CPU, on as many threads as torch has.

    Args:
        checkpoint: a generator or a feature extractor.
        rows: of a call; None: a loader's microbatch.
        dtype: float32 or float64.
        rounds: how often each is measured.
    """
    with undisturbed(torch.device("cpu")):
        return measure(_maker(checkpoint, rows, dtype), dtype, rounds)


def _maker(
    checkpoint: Checkpoint[GeneratorConfig] | Checkpoint[ResNetConfig], rows: int | None, dtype: torch.dtype
) -> Callable[[Forms], Plan]:
    if isinstance(checkpoint.config, ResNetConfig):
        trunk = fold_trunk(checkpoint)
        return lambda forms: CpuTrunkPlan(CpuTrunkWeights(trunk, dtype, forms), rows or _IMAGES)
    folded = fold(checkpoint)
    n = rows or default_microbatch(torch.device("cpu"), folded.config.resolution)
    return lambda forms: CpuPlan(CpuWeights(folded, dtype, forms), n, dtype)


def measure(make: Callable[[Forms], Plan], dtype: torch.dtype, rounds: int = 7) -> list[Measured]:
    """Every tile of every convolution of a plan, each where it stands in the plan: with the caches as its neighbours leave them.

    Args:
        make: a plan with these forms.
        dtype: float32 or float64.
        rounds: runs of each plan, one after the other in turn, so that a drift of the machine meets all alike.
    """
    instructions = Forms.of(dtype).instructions
    plans = [make(_Nth(i, instructions, dtype)) for i in range(max(map(len, TILES.values())))]
    for plan in plans:
        plan.calibrate()
    best: list[list[float]] = [plan.seconds() for plan in plans]
    for _ in range(rounds):
        for i, plan in enumerate(plans):
            best[i] = list(map(min, best[i], plan.seconds()))
    found: dict[str, dict[int, float]] = {}
    for i, plan in enumerate(plans):
        spent: dict[str, float] = {}
        for step, seconds in zip(plan.steps, best[i], strict=True):
            if step.key:
                spent[step.key] = spent.get(step.key, 0.0) + seconds
        for name, seconds in spent.items():
            by_tile = found.setdefault(name, {})
            tile = _nth(int(name[0]), i)
            by_tile[tile] = min(seconds, by_tile.get(tile, seconds))
    return [Measured(name, by_tile) for name, by_tile in found.items()]


class _Nth(Forms):
    """The i-th tile of every convolution."""

    def __init__(self, i: int, instructions: str, dtype: torch.dtype) -> None:
        super().__init__(instructions, dtype)
        self._i = i

    def tile(self, r: int, inputs: int, outputs: int, size: int) -> int:
        return _nth(r, self._i)


def _nth(r: int, i: int) -> int:
    return TILES[r][min(i, len(TILES[r]) - 1)]
