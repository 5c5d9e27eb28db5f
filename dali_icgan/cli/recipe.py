"""``dali-icgan recipe``."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dali_icgan.cli.facts import grid
from dali_icgan.ranks import Ranks, joined

try:
    from dali_icgan.recipes.config import packaged, read_recipe, render
except ModuleNotFoundError as error:
    raise ImportError(f"recipes need {error.name}, which pip install 'dali-icgan[cu13,train]' brings") from error


def settings_of(name: str) -> str:
    """The end of a recipe's help: its settings, their defaults and sources."""
    return f"Settings (section.name=value changes one), their defaults and where these come from:\n\n{packaged(name)}"


def run(
    name: str,
    data: Path | None,
    out: Path | None,
    config: Path | None,
    arm: str | None,
    options: Sequence[str],
    steps: int | None,
    print_config: bool,
    device: str | None,
) -> None:
    """Train by a recipe, or print it."""
    recipe = read_recipe(name, config, [*([] if arm is None else [f"generate.arm={arm}"]), *options])
    if print_config:
        print(render(name, recipe), end="")
        return
    if data is None or out is None:
        raise ValueError(f"{'--data' if data is None else '--out'} must be given, got none")
    try:
        from dali_icgan.recipes.trainer import train_recipe
    except ModuleNotFoundError as error:
        raise ImportError(f"recipes need {error.name}, which pip install 'dali-icgan[cu13,train]' brings") from error

    with joined(device) as mine:
        summary = train_recipe(recipe, name, data, out, steps=steps, device=mine)
        first = Ranks.here().rank == 0
    if not first:
        return
    facts = [("run", str(out)), ("steps", f"{summary.step:,} of {summary.steps:,}")]
    facts += [(key.replace("_", " "), f"{value:,.2f}".removesuffix(".00")) for key, value in summary.figures.items()]
    if summary.best is not None:
        facts.append(("best", f"{summary.best:.2f} %, {out / 'best.safetensors'}"))
    if summary.images_per_second:
        rate = f"{summary.images_per_second:,.0f} images/s, {summary.waiting:.0%} of the time waiting for data"
        facts.append(("training", rate))
    Console().print(grid(facts))
