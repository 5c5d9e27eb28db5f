"""A recipe: all of its settings together, and how long a run of it is."""

import math
from dataclasses import dataclass, fields
from typing import Any

from dali_icgan.recipes.settings import (
    Augmentation,
    Colour,
    Crop,
    Data,
    Ema,
    Generate,
    Model,
    MultiCrop,
    Optimizer,
    Run,
    Schedule,
    Swav,
)


class _Lengths:
    """How long a run is, which its arm decides too."""

    generate: Generate
    schedule: Schedule

    @property
    def stretch(self) -> float:
        """How much longer than its schedule the run is: more than 1 in the arm "matched" alone, by what the mean p would have cost."""
        generate, epochs = self.generate, self.schedule.epochs
        if generate.arm != "matched":
            return 1.0
        mean = sum(generate.p_of(epoch) for epoch in range(epochs)) / epochs
        return 1 + mean * generate.cost * self._generations / self._passes

    @property
    def _passes(self) -> float:
        """Of an image in a step, counted in those of a large view."""
        raise NotImplementedError

    @property
    def _generations(self) -> int:
        """Of an image in a step at p = 1."""
        raise NotImplementedError

    @property
    def epochs(self) -> int:
        """Of the run."""
        return math.ceil(self.schedule.epochs * self.stretch - 1e-9)


@dataclass(frozen=True)
class Recipe(_Lengths):
    """All settings of a run of classification."""

    model: Model
    data: Data
    crop: Crop
    augment: Augmentation
    generate: Generate
    optimizer: Optimizer
    schedule: Schedule
    ema: Ema
    run: Run

    @property
    def _passes(self) -> float:
        return 1.0

    @property
    def _generations(self) -> int:
        return int(self.generate.views != "none")


@dataclass(frozen=True)
class SwavRecipe(_Lengths):
    """All settings of a run of SwAV."""

    model: Model
    data: Data
    views: MultiCrop
    colour: Colour
    generate: Generate
    optimizer: Optimizer
    schedule: Schedule
    ema: Ema
    swav: Swav
    run: Run

    @property
    def _passes(self) -> float:
        views = self.views
        return views.global_views + views.local_views * (views.local_size / views.global_size) ** 2

    @property
    def _generations(self) -> int:
        counts = {"one": 1, "global": self.views.global_views, "all": self.views.count, "none": 0}
        return counts[self.generate.views]


AnyRecipe = Recipe | SwavRecipe


def plain(recipe: AnyRecipe) -> dict[str, dict[str, Any]]:
    """Settings by section and name, as YAML holds them."""
    return {
        section.name: {
            each.name: list(value) if isinstance(value := getattr(part, each.name), tuple) else value
            for each in fields(part)
        }
        for section in fields(recipe)
        for part in [getattr(recipe, section.name)]
    }
