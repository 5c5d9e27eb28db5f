"""``dali-icgan recipe ...``. What is heavy is imported by the command that needs it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dali_icgan.cli.face import Device


class _WithSettings(TyperCommand):
    """Its help ends with the settings of the recipe that the command runs by default."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        typer.echo(_settings_of({"resnet": "resnet50", "deit": "deit-s"}.get(self.name or "", self.name or "")))


app = typer.Typer(
    no_args_is_help=True,
    help="Train a network on ImageNet or the like, with DA_IC-GAN or one of its controls; docs/recipes.md.",
)

_Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.NAME=VALUE", help="Settings to change, such as optimizer.lr=0.2."),
]
_Data = Annotated[
    Path | None, typer.Option("--data", help="Holds train and val, each one subfolder a class.", show_default=False)
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="RUN", help="The run's folder; an unfinished one goes on.", show_default=False),
]
_Config = Annotated[Path | None, typer.Option(help="Some of the settings, in YAML.")]
_Arm = Annotated[
    str | None,
    typer.Option(
        metavar="generated|plain|retrieval|random|matched",
        help="DA_IC-GAN, or which control: sets generate.arm.",
        show_default="generated",
    ),
]
_Steps = Annotated[int | None, typer.Option(min=1, help="A trial: so many steps, and a validation of as many batches.")]
_PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print all settings as YAML, and end.")]


def _add_recipe(family: str, models: str, default: str, said: str) -> None:
    @app.command(family, cls=_WithSettings, help=said)
    def command(
        options: _Options = None,
        model: Annotated[str, typer.Option(metavar=models)] = default,
        data: _Data = None,
        out: _Out = None,
        config: _Config = None,
        arm: _Arm = None,
        steps: _Steps = None,
        print_config: _PrintConfig = False,
        device: Device = None,
    ) -> None:
        if model not in models.split("|"):
            raise ValueError(f"--model must be one of {models.replace('|', ', ')}, got {model!r}")
        _run(model, data, out, config, arm, options or [], steps, print_config, device)


_add_recipe("resnet", "resnet50|resnet101|resnet152", "resnet50", "A ResNet, 90 epochs.")
_add_recipe("deit", "deit-s|deit-b", "deit-s", "A DeiT without distillation, 300 epochs.")
_add_recipe("swav", "swav", "swav", "SwAV with a ResNet-50, self-supervised, 200 epochs.")


@contextmanager
def _extra() -> Iterator[None]:
    """Names what brings the modules that recipes need."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"recipes need {error.name}, which pip install 'dali-icgan[cu13,train]' brings") from error


def _settings_of(name: str) -> str:
    """The end of a recipe's help: its settings, their defaults and sources."""
    with _extra():
        from dali_icgan.recipes.config import packaged
    return f"Settings (section.name=value changes one), their defaults and where these come from:\n\n{packaged(name)}"


def _run(
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
    with _extra():
        from dali_icgan.recipes.config import read_recipe, render
    recipe = read_recipe(name, config, [*([] if arm is None else [f"generate.arm={arm}"]), *options])
    if print_config:
        print(render(name, recipe), end="")
        return
    if data is None or out is None:
        raise ValueError(f"{'--data' if data is None else '--out'} must be given, got none")
    from rich.console import Console

    from dali_icgan.cli.facts import grid
    from dali_icgan.ranks import Ranks, joined

    with _extra():
        from dali_icgan.recipes.trainer import train_recipe

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
