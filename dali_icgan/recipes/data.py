"""Loaders of a recipe: training views with their generative part, and validation images."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from dali_icgan.augment import DAICGAN, EvalTransform, TrainTransform
from dali_icgan.data import Samples, as_samples
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.loader import DataLoader
from dali_icgan.ops.permutation import permutation
from dali_icgan.ranks import Ranks
from dali_icgan.recipes.recipe import AnyRecipe, Recipe, SwavRecipe
from dali_icgan.recipes.settings import Data, Generate

RAW: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class RepeatedAugmentation(Sampler[tuple[int, int]]):
    """Each image ``repeats`` times in a row of the shuffled order, spread over ranks, so that a batch of all ranks holds them together;
    an epoch is as many images as without, of fewer files.

    Yields (index, repeat): the repeat makes each of them another draw.
    """

    def __init__(self, n: int, repeats: int, seed: int, ranks: Ranks) -> None:
        self.n, self.repeats, self.seed, self.ranks, self.epoch = n, repeats, seed, ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Name the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.ranks.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        place = self.ranks.rank + self.ranks.world * np.arange(len(self), dtype=np.int64)
        order = permutation(self.seed, self.epoch, self.n, place // self.repeats)
        yield from zip(order.tolist(), (place % self.repeats).tolist(), strict=True)


def generative(recipe: AnyRecipe, device: torch.device, raw: bool = False) -> DAICGAN | None:
    """DA_IC-GAN as the recipe's arm has it; None where no row is ever replaced. ``raw``: as of :func:`train_loader`."""
    given, views = recipe.generate, _view_count(recipe)
    if given.arm in ("plain", "matched") or given.views == "none":
        return None
    p = partial(_p_of, given)
    chosen = {"one": 1, "global": recipe.views.global_views, "all": views} if isinstance(recipe, SwavRecipe) else {}
    # The retrieval control knows no generator, and none need be there.
    generates = given.arm != "retrieval"
    return DAICGAN(
        generator=load_generator(given.generator, device=device) if generates and given.generator else None,
        extractor=load_extractor(given.extractor, device=device) if generates and given.extractor else None,
        bank=given.bank,
        p=p,
        view_p=[p if view < chosen[given.views] else 0.0 for view in range(views)] if chosen else None,
        truncation=given.truncation,
        truncation_mode=given.truncation_mode,
        condition="random" if given.arm == "random" else given.condition if generates else "instance",
        k=given.k,
        same_class=given.same_class,
        source="generator" if generates else "neighbour",
        generated_transform=_generated_transforms(recipe, raw),
        embed_bank=generates and given.embed_bank,
    )


def train_loader(recipe: AnyRecipe, samples: Samples, device: torch.device, ranks: Ranks, *, raw: bool) -> DataLoader:
    """Shuffled views of the training images; each rank gets the same number of batches, all of them whole.

    Args:
        raw: pixels in [0, 1], for what is to be done to them; else normalised.
    """
    run, augment = recipe.run, generative(recipe, device, raw)
    repeated = recipe.data.repeats > 1
    sampler = RepeatedAugmentation(len(samples), recipe.data.repeats, run.seed, ranks) if repeated else None
    loader = DataLoader(
        samples,
        batch_size=run.batch_size // (ranks.world * run.accumulate),
        shuffle=None if repeated else True,
        sampler=sampler,
        shard=None if repeated else (ranks.rank, ranks.world),
        remainder="drop",
        drop_last=True,
        augment=augment,
        transform=_train_transforms(recipe, raw),
        views=_view_count(recipe),
        return_info=True,
        seed=run.seed,
        **_common(recipe, device),
    )
    if len(loader) < run.accumulate:
        raise ValueError(
            f"run.batch_size must be at most the {len(samples)} images of {samples.name}, got {run.batch_size} "
            f"(over {ranks.world} ranks)"
        )
    return loader


def eval_loader(recipe: AnyRecipe, samples: Samples, device: torch.device, ranks: Ranks) -> DataLoader:
    """Each image exactly once over all ranks, its centre; an unreadable one is an error."""
    return DataLoader(
        samples,
        batch_size=max(1, recipe.run.batch_size // (ranks.world * recipe.run.accumulate)),
        shard=(ranks.rank, ranks.world),
        remainder="uneven",
        on_error="raise",
        transform=EvalTransform(recipe.data.val_resize, recipe.data.val_crop),
        seed=0,
        **_common(recipe, device),
    )


def folders(recipe: AnyRecipe, root: Path) -> tuple[Samples, Samples]:
    """Training and validation images.

    Raises:
        ValueError: their classes differ.
    """
    trained, validated = as_samples(root / recipe.data.train), as_samples(root / recipe.data.val)
    if trained.classes != validated.classes:
        differ = sorted(set(validated.classes or ()) ^ set(trained.classes or ()))
        raise ValueError(
            f"{validated.name} must have the classes of {trained.name}, got others: {', '.join(differ[:5])}"
        )
    return trained, validated


def _common(recipe: AnyRecipe, device: torch.device) -> dict[str, Any]:
    data: Data = recipe.data
    return {
        "num_workers": data.threads,
        "exif": data.exif,
        "device": device,
        "dtype": torch.float32,  # what is done to pixels needs it; autocast takes it from there
        "memory_format": torch.channels_last if recipe.model.channels_last else torch.contiguous_format,
    }


def _view_count(recipe: AnyRecipe) -> int:
    return recipe.views.count if isinstance(recipe, SwavRecipe) else 1


def _train_transforms(recipe: AnyRecipe, raw: bool) -> list[TrainTransform]:
    style = RAW if raw else {}
    if isinstance(recipe, Recipe):
        crop = recipe.crop
        return [TrainTransform(crop.size, crop.scale, crop.ratio, crop.flip, **style)]
    views = recipe.views
    make: Callable[..., TrainTransform] = partial(TrainTransform, ratio=views.ratio, flip=views.flip, **style)
    large, small = make(views.global_size, views.global_scale), make(views.local_size, views.local_scale)
    return [large] * views.global_views + [small] * views.local_views


def _generated_transforms(recipe: AnyRecipe, raw: bool) -> list[TrainTransform | None]:
    """Of generated images, one a view; None: as of photographs."""
    if isinstance(recipe, Recipe):
        scales = [recipe.crop.generated_scale]
    else:
        views = recipe.views
        scales = [views.global_generated_scale] * views.global_views + [views.local_generated_scale] * views.local_views
    each = zip(_train_transforms(recipe, raw), scales, strict=True)
    return [None if scale is None else replace(transform, scale=scale) for transform, scale in each]


def _p_of(given: Generate, epoch: int) -> float:
    return given.p_of(epoch)
