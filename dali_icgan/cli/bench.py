"""``dali-icgan bench``. What is heavy is imported when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dali_icgan.cli import bench_results

app = typer.Typer(
    invoke_without_command=True,
    help="Measure the loader on this machine beside the others that are installed, and read what was measured. See docs/benchmark.md.",
)
for _name in ("report", "compare", "profile", "simulate"):
    app.command(_name)(getattr(bench_results, _name))


@app.callback()
def bench_command(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="bench.jsonl goes there, one line a figure.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|synthetic",
            help="Images, one subfolder a class, or tar shards; or photographs made of scikit-image's.",
        ),
    ] = "synthetic",
    quick: Annotated[
        bool, typer.Option("--quick", help="Under two minutes: fewer images, windows and contests.")
    ] = False,
    peers: Annotated[
        str,
        typer.Option(
            metavar="all|none|NAME,...",
            help="Beside which loaders: pil, torchvision.io, timm, dali, spdl, webdataset, streaming, ffcv.",
        ),
    ] = "all",
    p: Annotated[str, typer.Option("--p", metavar="P,P,...", help="How often images are replaced.")] = "0,0.25,0.5,1",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...",
            help="Some of peers, generators, scaling, stages, training, startup.",
            show_default="all",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="cuda where there is one")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    seconds: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    rounds: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
) -> None:
    """Measure the loader on this machine beside the others that are installed, and read what was measured. See docs/benchmark.md."""
    if ctx.invoked_subcommand is not None:
        return
    if out is None:
        raise ValueError("--out must name the folder that the figures go to, got none")
    from dataclasses import replace

    from dali_icgan.bench.peers import chosen
    from dali_icgan.bench.run import Run
    from dali_icgan.bench.settings import PARTS, settings
    from dali_icgan.engine.placement import resolve_device

    chances = []
    for each in p.split(","):
        try:
            chances.append(float(each))
        except ValueError:
            raise ValueError(f"--p must be numbers in [0, 1], such as 0,0.5, got {p!r}") from None
    names = tuple(peer.id for peer in chosen(peers.split(",")) if not (quick and peers == "all" and peer.slow_to_begin))
    parts = tuple(only.split(",")) if only else PARTS
    folder = None if data == "synthetic" else Path(data)
    asked = settings(out, folder, resolve_device(device), names, parts, tuple(chances), quick)
    changed: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "training_seconds": seconds}
    if images is not None:  # a trial
        few = max(1, images // 2)
        changed |= {"images": images, "training_images": images, "training_size": 32, "batch_sizes": (few,)}
        changed |= {"batch_size": images, "training_batch": few, "verified": images}
    asked = replace(asked, **{name: value for name, value in changed.items() if value is not None})
    _show(asked, Run)


def _show(asked: Any, run: Any) -> None:
    """Run, with what is done now in a line that changes, and each figure as it comes."""
    import statistics

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with console.status("") as status:

        def shown(record: dict[str, Any]) -> None:
            generator = record.get("generator")
            name = str(record.get("peer", "")) + (
                f" + {generator}" if generator not in (None, record.get("peer")) else ""
            )
            if record.get("compaction") is False:
                name += ", every row"
            if record["kind"] == "peer" and not record["installed"]:
                console.print(f"[dim]{record['title']}: {record['reason']}[/]")
            elif record["kind"] == "contract":
                levels = record["mean_levels"]
                said = (
                    ""
                    if levels is None
                    else f"{levels:.2f} levels of 255 on average, {record['largest_levels']:.1f} at most"
                )
                good = "same batches" if record["accepted"] else "[red]not the same batches, left out[/]"
                console.print(f"{name:<28} {good}: {said} {record['note'] or ''}")
            elif record["kind"] in ("throughput", "training"):
                rate = statistics.median(record["images_per_s"])
                kept = f", {record['kept']:.0%} kept" if record["kind"] == "training" else ""
                console.print(
                    f"{name:<28} {rate:>10,.4g} images/s{kept}   [dim]{record['contest']}, p = {record['p']:g}[/]"
                )
            elif record["kind"] == "startup":
                console.print(
                    f"{record['source']} of {record['entries']:,}: first batch after {record['first_batch_s']:.2f} s, {record['memory_mb']:.0f} MB"
                )

        path = run(asked, status.update, shown)()
    from dali_icgan.bench.report import write_report

    console.print(f"[bold]{write_report(path.parent)}[/], from {path}")
