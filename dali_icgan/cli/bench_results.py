"""``dali-icgan bench report | compare | profile | simulate``. What is heavy is imported by the command that needs it."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dali_icgan.bench.profile import Timeline
    from dali_icgan.bench.simulate import Prediction, Target

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run of `dali-icgan bench`.")]


def report(folder: Folder) -> None:
    """Make report.html, one file that needs nothing else, and report.md of a run."""
    from dali_icgan.bench.report import write_report

    path = write_report(folder)
    typer.echo(f"{path}: to look at; {path.with_suffix('.md')}: the same as Markdown")


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The folder of a run.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another one, on the same machine.")],
    threshold: Annotated[
        float, typer.Option(help="How far from 1 a ratio's whole 95 % interval must be to count.")
    ] = 0.05,
) -> None:
    """What changed beyond noise; exit status 1 where this package became slower.

    The ratio of the medians of both runs' windows has a bootstrap interval of 95 %. A change counts if all of it is further from 1 than
    the threshold.
    """
    from dali_icgan.bench.compare import SAME, SLOWER, UNKNOWN, compare, named
    from dali_icgan.bench.results import read_run
    from dali_icgan.bench.tables import rate

    found = compare(read_run(old), read_run(new), threshold)
    for said in found.warnings:
        typer.secho(f"note: {said}", fg=typer.colors.YELLOW, err=True)
    table = Table("case", box=None, padding=(0, 2), pad_edge=False)
    for name in ("old", "new", "new / old", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in found.changes:
        style = {SAME: "", UNKNOWN: "dim", SLOWER: "bold red" if each.ours else "red"}.get(each.verdict, "green")
        interval = f"{each.low:.2f} to {each.high:.2f}"
        row = [each.name, rate(each.old), rate(each.new), f"{each.ratio:.2f}", interval, each.verdict]
        table.add_row(*map(Text, row), style=style)
    _console().print(table)
    for said, cases in (("missing in NEW", found.missing), ("only in NEW", found.added)):
        for name in cases:
            typer.echo(f"{said}: {name}")
    typer.echo(named(found, threshold))
    if found.regressions:
        raise typer.Exit(1)


def profile(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="A folder for trace.json and bench.jsonl, new or without them."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Images or tar shards.", show_default="made from scikit-image's photographs"
        ),
    ] = None,
    p: Annotated[float, typer.Option(min=0, max=1, help="How often an image is replaced.")] = 0.0,
    batches: Annotated[int, typer.Option(min=1, help="How many are looked at.")] = 30,
    step: Annotated[
        bool,
        typer.Option(
            "--step", help="Beside training steps of a ResNet-18, on a GPU a ResNet-50; otherwise of nothing."
        ),
    ] = False,
    size: Annotated[int, typer.Option(min=1, help="Pixels of the training crop.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the loader.", show_default="one a core")] = None,
    generator: Annotated[
        str, typer.Option(metavar="FILE|embedded", help="An IC-GAN checkpoint, where p > 0.")
    ] = "embedded",
    extractor: Annotated[str, typer.Option(metavar="FILE|embedded", help="What its features come from.")] = "embedded",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="cuda where there is one")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, hidden=True)] = 0.5,
) -> None:
    """Where the time goes: a timeline for ui.perfetto.dev, a table, and what each stage takes by itself, for `bench simulate`.

    With DALI_ICGAN_NVTX=1 in the environment Nsight Systems shows the same spans, of this command and of any training script.
    """
    from dali_icgan.bench.results import LINES

    trace = out / "trace.json"
    for path in (trace, out / LINES):
        if path.exists():
            raise ValueError(f"--out must be a folder without {path.name}, which is not written over, got {out}")
    console = _console()
    with tempfile.TemporaryDirectory(prefix="dali-icgan-bench-") as scratch:
        from dali_icgan.bench.profile_run import profile_loader

        with console.status("") as status:
            seen, lines = profile_loader(
                data,
                Path(scratch),
                p=p,
                batches=batches,
                step=step,
                size=size,
                batch_size=batch_size,
                threads=threads,
                generator=generator,
                extractor=extractor,
                device=device,
                seconds=seconds,
                told=status.update,
            )
    from dali_icgan.spans import chrome_trace

    out.mkdir(parents=True, exist_ok=True)
    trace.write_text(json.dumps(chrome_trace(seen.spans)))
    (out / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    console.print(_shares(seen))
    console.print(_pace(seen))
    console.print(f"[bold]{trace}[/]: the timeline, open it at ui.perfetto.dev; {out / LINES}: for `dali-icgan bench simulate --rates {out}`")  # fmt: skip


def _shares(seen: "Timeline") -> Table:
    from dali_icgan.bench.profile import shares

    took = seen.end - seen.begin
    table = Table(
        title=f"{seen.images:,} images in {took:.2f} s: {seen.images_per_s:,.0f} images/s, {seen.cpu / took:.1f} cores busy",
        title_justify="left", title_style="bold", box=None, padding=(0, 2), pad_edge=False,
    )  # fmt: skip
    for name in ("stage", "thread"):
        table.add_column(name)
    for name in ("calls", "total s", "ms an image", "busy"):
        table.add_column(name, justify="right")
    for each in shares(seen.spans, seen.begin, seen.end):
        an_image = f"{1e3 * each.seconds / each.images:.3f}" if each.images else ""
        cells = [each.stage, each.thread, f"{each.calls}", f"{each.seconds:.2f}", an_image, f"{each.busy:.0%}"]
        table.add_row(*map(Text, cells), style="dim" if each.stage == "wait" else "")
    return table


def _pace(seen: "Timeline") -> str:
    from dali_icgan.bench.profile import STEP, WAIT, pace, shares

    found = shares(seen.spans, seen.begin, seen.end)
    slowest = pace(found)
    what = "the training step" if slowest.stage == STEP else f'"{slowest.stage}"'
    waited = sum(each.busy for each in found if each.stage == WAIT and each.thread == seen.consumer)
    return f"{what} sets the pace: its thread is busy {slowest.busy:.0%} of the time. The consumer waits for a batch {waited:.0%} of it."  # fmt: skip


def _on_gpu(given: list[str]) -> dict[str, float]:
    found = {}
    for each in given:
        name, _, rate = each.partition("=")
        try:
            found[name] = float(rate)
        except ValueError:
            raise typer.BadParameter(f"--on-gpu must be STAGE=IMAGES/S, such as generate=900, got {each}") from None
    return found


def _step(given: str | None) -> dict[str, Any]:
    if given is None or given == "measured":
        return {"train_here": given == "measured"}
    try:
        return {"step": float(given)}
    except ValueError:
        raise typer.BadParameter(f'--step must be images a second or "measured", got {given}') from None


def simulate(
    rates: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of `dali-icgan bench` or `bench profile`, on the processor in question."),
    ] = None,
    gpus: Annotated[int, typer.Option(help="Of the node, a process each.")] = 1,
    cores_per_gpu: Annotated[int, typer.Option(help="Cores that each process has.")] = 8,
    storage: Annotated[
        float | None,
        typer.Option(metavar="MB/S", help="What the storage gives to all of them.", show_default="no limit"),
    ] = None,
    p: Annotated[float, typer.Option("--p", help="How often an image is replaced, features from a bank.")] = 0.0,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES/S|measured",
            help="What training alone takes on a GPU; or as it was measured.",
            show_default="no training",
        ),
    ] = None,
    on_gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=IMAGES/S", help="A stage that runs on the GPU, at this rate: decode, generate, assemble."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels, where several were measured.")] = None,
    case: Annotated[str | None, typer.Option(help="The generator, where several were measured.")] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Instead: predicted beside measured rates of a run.")
    ] = None,
) -> None:
    """Which resource limits, how many images/s, and whether training starves, on machines that are not at hand.

    The model is in docs/performance.md.
    """
    from dali_icgan.bench.results import read_run
    from dali_icgan.bench.simulate import Target, chosen, simulate

    if (check is None) == (rates is None):
        raise typer.BadParameter("one of --rates and --check must be given")
    if check is not None:
        _console().print(_checked(check))
        return
    assert rates is not None
    target = Target(gpus, cores_per_gpu, p, storage, on_gpu=_on_gpu(on_gpu or []), **_step(step))
    found = simulate(chosen(read_run(rates).records, size, case), target)
    _console().print(_limits(found))
    typer.echo(_verdict(found, target))


def _limits(found: "Prediction") -> Table:
    from dali_icgan.bench.tables import rate

    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("resource")
    table.add_column("allows images/s", justify="right")
    table.add_column("in use", justify="right")
    table.add_column("")
    for name, limit in sorted(found.limits.items(), key=lambda each: each[1]):
        limiting = name == found.limit
        cells = [name, rate(limit), f"{found.used[name]:.0%}", "limits" if limiting else ""]
        table.add_row(*map(Text, cells), style="bold" if limiting else "")
    return table


def _verdict(found: "Prediction", target: "Target") -> str:
    from dali_icgan.bench.tables import rate

    said = [f"{rate(found.images_per_s)} images/s ({rate(found.least)} to {rate(found.most)}); {found.limit} limits."]
    if found.training is not None:
        kept = found.images_per_s / found.training
        said.append(f"Training alone would take {rate(found.training)} images/s: it keeps {kept:.0%} of its speed.")
        if found.starves > 0.005:
            said.append(f"It starves: {found.starves:.0%} of the time it waits for images.")
        else:
            said.append("It does not starve: images are there when it wants them.")
    return "\n".join(said)


def _checked(folder: Path) -> Table:
    from dali_icgan.bench.results import read_run
    from dali_icgan.bench.simulate import check
    from dali_icgan.bench.tables import rate

    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("case")
    for name in ("predicted", "range", "measured", "range", "predicted / measured"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("limits")
    for each in check(read_run(folder).records):
        said, measured = each.prediction, sorted(each.measured)
        table.add_row(
            each.case,
            rate(said.images_per_s),
            f"{rate(said.least)} to {rate(said.most)}",
            rate(each.median),
            f"{rate(measured[0])} to {rate(measured[-1])}",
            f"{each.ratio:.2f}",
            said.limit,
        )
    return table


def _console() -> Console:
    """As wide as the terminal; where there is none, as its lines are long."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
