"""The command line, ``dali-icgan``. What is heavy is imported by the command that needs it."""

import warnings
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from dali_icgan.cli.bench import app as benchmarks
from dali_icgan.cli.evaluate import app as evaluations
from dali_icgan.cli.face import Device, OneLineErrors
from dali_icgan.cli.recipe import app as recipes

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class StoredAs(str, Enum):
    """How a bank holds its numbers."""

    fp16 = "fp16"
    fp32 = "fp32"


Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="Images, one subfolder a class, as torchvision's ImageFolder; or tar shards."
    ),
]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"dali-icgan {version('dali-icgan')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train vision models with generative data augmentation (DA_IC-GAN).

    Start with `dali-icgan demo`; then `dali-icgan preview FOLDER` on your own images.
    """


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to draw.")] = Path("demo.png"),
    folder: Annotated[Path, typer.Option(help="Where images and bank go; used again by the next run.")] = Path("demo"),
    device: Device = None,
    per_photograph: Annotated[int, typer.Option(min=2, hidden=True)] = 375,
    seconds: Annotated[float, typer.Option(min=0, hidden=True)] = 1.0,
) -> None:
    """Real photographs, an epoch of augmented batches, images/s of each stage, and a page to look at. 1 to 2 minutes."""
    from dali_icgan.cli.demo import run

    run(out, folder, device, per_photograph, seconds)


_PAGE, _WHAT, _HOW = "The page", "What images are replaced by", "How often, and how they are cropped"


@app.command("preview")
def preview_command(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The page to draw.",
            show_default="page.png; preview.html with --html",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="A page for the browser instead of a picture: choose image, p, truncation and epoch. One file, no network.",
            rich_help_panel=_PAGE,
        ),
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="How many of your images are shown.", rich_help_panel=_PAGE)] = 8,
    size: Annotated[int, typer.Option(min=8, help="Pixels of the training crop.", rich_help_panel=_PAGE)] = 224,
    epoch: Annotated[int, typer.Option(min=0, help="The first epoch shown.", rich_help_panel=_PAGE)] = 0,
    seed: Annotated[int, typer.Option(help="Of the choice of samples and of every draw.", rich_help_panel=_PAGE)] = 0,
    generator: Annotated[
        str,
        typer.Option(
            metavar="FILE|embedded",
            help="An IC-GAN checkpoint, or the small one inside the package.",
            rich_help_panel=_WHAT,
        ),
    ] = "embedded",
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|embedded",
            help="The checkpoint that features come from.",
            show_default="embedded, with its generator",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Stored features, of `dali-icgan features`.", rich_help_panel=_WHAT)
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            metavar="generator|neighbour",
            help="Generations, or real neighbours (the retrieval control; needs --bank).",
            rich_help_panel=_WHAT,
        ),
    ] = "generator",
    condition: Annotated[
        str,
        typer.Option(
            metavar="instance|neighbour|random",
            help="Whose features: the image's own, a near one's, any one's (both need --bank).",
            rich_help_panel=_WHAT,
        ),
    ] = "instance",
    k: Annotated[
        int | None,
        typer.Option(
            help="How many nearest neighbours are drawn from. \\[default: 50, or as many as there are]",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    same_class: Annotated[
        bool, typer.Option("--same-class", help="Only neighbours of the image's own class.", rich_help_panel=_WHAT)
    ] = False,
    labels: Annotated[
        str,
        typer.Option(
            metavar="own|random",
            help="The class that a class-conditional generator is given.",
            rich_help_panel=_WHAT,
        ),
    ] = "own",
    class_map: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='The generator\'s class of each folder, as JSON: {"cat": 281, ...}.',
            show_default="by WordNet ids, or the same number",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    truncation: Annotated[float, typer.Option(help="Noise is N(0, 1) cut at twice this.", rich_help_panel=_WHAT)] = 0.7,
    p: Annotated[
        float | None,
        typer.Option(
            help="How often an image is replaced: 0 to 1.", show_default="1; 0.5 with --html", rich_help_panel=_HOW
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Differently augmented images of each sample.",
            show_default="1, or as many as --view-p has",
            rich_help_panel=_HOW,
        ),
    ] = None,
    view_p: Annotated[
        str | None, typer.Option(metavar="P,P,...", help="A p for each view, in place of --p.", rich_help_panel=_HOW)
    ] = None,
    generated_scale: Annotated[
        str | None,
        typer.Option(
            metavar="LEAST,MOST",
            help="Area of the crop of what replaces an image.",
            show_default="as images, 0.08,1",
            rich_help_panel=_HOW,
        ),
    ] = None,
    exif: Annotated[bool, typer.Option("--exif", help="Rotate images as EXIF says.")] = False,
    device: Device = None,
) -> None:
    """Draw what training would see of your images: originals, training crops, generations."""
    from dali_icgan.cli.preview import run

    run(
        folder,
        out,
        html=html,
        generator=generator,
        extractor=extractor,
        bank=bank,
        class_map=class_map,
        settings={
            "p": p,
            "truncation": truncation,
            "source": source,
            "condition": condition,
            "k": k,
            "same_class": same_class,
            "labels": labels,
        },
        generated_scale=generated_scale,
        views=views,
        view_p=view_p,
        samples=samples,
        size=size,
        epoch=epoch,
        seed=seed,
        exif=exif,
        device=device,
    )


@app.command("features")
def features_command(
    folder: Folder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="BANK", help="The bank's folder; an unfinished one goes on.")
    ],
    extractor: Annotated[
        str, typer.Option(metavar="FILE|embedded", help="Such as swav_800ep_pretrain.pth.tar or resnet50-19c8e357.pth.")
    ],
    resolution: Annotated[int, typer.Option(min=1, help="Of the generator that the features are for, in pixels.")],
    align_corners: Annotated[
        bool, typer.Option("--align-corners", help="Enlarge images as IC-GAN's notebooks do, not as its training does.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images an extractor call.")] = 64,
    device: Device = None,
    dtype: Annotated[StoredAs, typer.Option(help="How the bank holds numbers.")] = StoredAs.fp16,
    exif: Annotated[bool, typer.Option("--exif", help="Rotate images as EXIF says.")] = False,
    embed: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|embedded", help="Store them also as this generator embeds them, for DAICGAN(embed_bank=True)."
        ),
    ] = None,
) -> None:
    """Compute every image's features once; a replaced image is then not even read. torchrun spreads the work over ranks:

    torchrun --nproc-per-node 8 -m dali_icgan.cli features ...
    """
    from dali_icgan.cli.features import run

    run(folder, out, extractor, resolution, align_corners, batch_size, device, dtype.value, exif, embed)


@app.command("train")
def train_command(
    folder: Folder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="RUN", help="The run's folder; an unfinished one goes on.")
    ],
    config: Annotated[Path | None, typer.Option(help="Settings in YAML, see docs/training.md.")] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Of the generator: 32, 64, 128 or 256. \\[default: 32]")
    ] = None,
    class_conditional: Annotated[bool, typer.Option("--class-conditional", help="It takes classes too.")] = False,
    extractor: Annotated[
        str | None, typer.Option(metavar="FILE|embedded", help="Take features with this one instead of training one.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of the generator.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short, to see that everything works.")] = False,
    exif: Annotated[bool, typer.Option("--exif", help="Rotate images as EXIF says.")] = False,
    device: Device = None,
) -> None:
    """Train an extractor and a generator on your own images; the same command goes on after a stop."""
    from dali_icgan.cli.train import run

    run(
        folder,
        out,
        config=config,
        resolution=resolution,
        class_conditional=class_conditional,
        extractor=extractor,
        steps=steps,
        quick=quick,
        exif=exif,
        device=device,
    )


@app.command("shard")
def shard_command(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, new or empty.")],
    size: Annotated[str, typer.Option(metavar="SIZE", help="What a tar may have, such as 512MB or 1GiB.")] = "512MB",
) -> None:
    """Write a dataset as tar shards, which this loader, WebDataset and DALI read: few large files instead of many small ones."""
    from dali_icgan.cli.shard import run

    run(folder, out, size)


@app.command("convert")
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.pth|embedded",
            help="An official generator or extractor checkpoint; or the small generator inside the package.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
) -> None:
    """Write a checkpoint as safetensors, which load quickly and cannot hold code; nothing is rounded."""
    from dali_icgan.cli.convert import run

    run(source, out)


@app.command("tune")
def tune_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Checkpoints of generators and extractors; embedded: both inside the package."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FORMS.json", help="The table; what it holds already stays.")
    ],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows of a call.", show_default="a loader's microbatch")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each form is measured.")] = 7,
) -> None:
    """Measure which tile of each convolution is the fastest on this CPU in float32, for load_generator(..., forms=FORMS.json).

    Tiles are Winograd's: 4 is F(4, 3) of a 3x3, 5 is F(5, 2) of a 2x2, as generator.prepare(n).describe() names them; 1 has no transform.

    Pixels change by rounding: every rank and every resumed run needs the same table, and a loader's state holds it.
    """
    from dali_icgan.cli.tune import run

    run(models, out, batch_size, rounds)


@app.command("doctor")
def doctor_command(
    generator: Annotated[str | None, typer.Option(metavar="FILE|embedded", help="Say what this checkpoint is.")] = None,
    extractor: Annotated[str | None, typer.Option(metavar="FILE|embedded", help="Say what this checkpoint is.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the self-test.")] = False,
) -> None:
    """Say what this machine has, and test that it works."""
    from dali_icgan.cli.doctor import run

    if not run(generator, extractor, quick):
        raise typer.Exit(1)


app.add_typer(recipes, name="recipe")
app.add_typer(evaluations, name="evaluate")
app.add_typer(benchmarks, name="bench")


def main() -> None:
    """The installed script."""
    # A user needs what a warning says, not which line said it.
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
    app()
