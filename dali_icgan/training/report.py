"""Pictures of a run, and its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image
from torch import Tensor

from dali_icgan.drawing import axes as new_axes
from dali_icgan.drawing import png
from dali_icgan.training.quality import FIGURES
from dali_icgan.training.state import write_whole

_CELL = 96  # pixels of a cell, at least
_FRAME, _GAP, _WIDE, _MARGIN = 4, 6, 30, 16
_INK, _PAPER = (27, 31, 36), (255, 255, 255)
_LINE, _BESIDE = "#e8590c", "#5c6670"
_DISTANCE = "feature_frechet_distance"


def sample_grid(photographs: Tensor, generations: Tensor) -> Image.Image:
    """A picture without words: a row an instance, its photograph first, framed and apart, then generations over several z.

    Args:
        photographs: floating point ``[n, 3, h, w]`` in [-1, 1], n >= 1.
        generations: floating point ``[n, z, 3, h, w]`` in [-1, 1], z >= 1; values beyond are clipped.

    Returns:
        RGB. Every pixel is repeated a whole number of times, so that a cell has at least 96.

    Raises:
        ValueError: an argument is not as above.
    """
    if photographs.ndim != 4 or photographs.shape[1] != 3 or 0 in photographs.shape:
        raise ValueError(f"photographs must have shape [n, 3, h, w], got {list(photographs.shape)}")
    n, _, height, width = photographs.shape
    shape = generations.shape
    if generations.ndim != 5 or 0 in shape or (shape[0], *shape[2:]) != (n, 3, height, width):
        raise ValueError(f"generations must have shape [{n}, z, 3, {height}, {width}], got {list(shape)}")
    scale = max(-(-_CELL // max(height, width)), 1)
    high, wide = scale * height, scale * width
    first = _MARGIN + _FRAME
    lefts = [first] + [first + wide + _WIDE + z * (wide + _GAP) for z in range(shape[1])]
    down = high + 2 * _FRAME + _GAP
    page = np.empty((2 * _MARGIN - _GAP + n * down, lefts[-1] + wide + _MARGIN, 3), np.uint8)
    page[:] = _PAPER
    cells = _pixels(torch.cat([photographs[:, None].to(generations), generations], 1))
    for row in range(n):
        top = _MARGIN + row * down + _FRAME
        page[top - _FRAME : top + high + _FRAME, first - _FRAME : first + wide + _FRAME] = _INK
        for left, cell in zip(lefts, cells[row], strict=True):
            page[top : top + high, left : left + wide] = cell.repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(page)


def save_samples(run: Path, step: int, photographs: Tensor, generations: Tensor) -> Path:
    """Write :func:`sample_grid` as ``run/samples/step_00001000.png``, whole or not at all.

    Raises:
        ValueError: an argument is not as there.
        OSError: it could not be written.
    """
    path = run / "samples" / f"step_{step:08d}.png"
    picture = sample_grid(photographs, generations)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: picture.save(file, "PNG"))
    return path


def write_report(
    path: Path,
    config: Mapping[str, Any],
    figures: Mapping[str, float],
    history: Sequence[Mapping[str, float]],
    grids: Mapping[str, Path],
    *,
    model: str,
    dataset: str,
    images: int,
    steps: int,
    seconds: float,
    device: str,
    losses: Sequence[Mapping[str, float]] = (),
) -> None:
    """Write a run's report in Markdown, and beside it ``frechet_distance.png`` and ``losses.png`` where there is something to plot.

    Args:
        path: of the report, such as ``RUN/report.md``.
        config: all settings: plain values, lists and mappings.
        figures: of :func:`dali_icgan.training.quality.evaluate`, or some of them.
        history: figures on the way: each with ``step`` and, where it was measured, ``feature_frechet_distance`` and its yardstick.
        grids: caption and file of each sample grid.
        model: what was trained, in words such as "32 px, 0.7M parameters".
        dataset: what it was trained on; images: how many there are.
        steps, seconds, device: how long, where.
        losses: on the way: each with ``step`` and a number for each loss, the same ones in all.

    Raises:
        ValueError: a figure is not one of evaluate's, or config holds other things than plain values.
        OSError: it could not be written; an earlier report is untouched.
    """
    known = {*FIGURES, *(figure.beside for figure in FIGURES.values()), "instances", "samples"}
    strange = sorted(set(figures) - known)
    if strange:
        raise ValueError(f"figures must be those of evaluate, got {', '.join(strange)} too")
    try:
        settings = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    except yaml.representer.RepresenterError as error:
        raise ValueError(f"config must hold plain values, got {error.args[-1]!r}") from error
    measured = [row for row in history if _DISTANCE in row]
    lines = [
        "# A trained IC-GAN",
        "",
        f"{model}, trained on `{dataset}`, {images:,} images, for {steps:,} steps in {_duration(seconds)} on {device}.",
        "",
    ]
    if grids:
        said = "Framed: the photograph of an instance. Beside it: generations from its features, each with another z."
        lines += ["## Samples", "", said, ""]
    for caption, grid in grids.items():
        lines += [f"![{caption}]({_link(grid, path.parent)})", "", f"*{caption}*", ""]
    lines += ["## Figures", "", *_table(figures)]
    if measured or losses:
        lines += ["## On the way", ""]
    if measured:
        plot = path.with_name("frechet_distance.png")
        picture = _plot(measured)
        write_whole(plot, lambda file: file.write(picture))
        lines += [f"![Fréchet distance over steps, in extractor features]({plot.name})", ""]
    if losses:
        plot = path.with_name("losses.png")
        picture = _plot_losses(losses)
        write_whole(plot, lambda file: file.write(picture))
        lines += [f"![Losses over steps]({plot.name})", ""]
    lines += ["## Settings", "", "```yaml", settings.rstrip(), "```", ""]
    text = "\n".join(lines).encode()
    write_whole(path, lambda file: file.write(text))


def _table(figures: Mapping[str, float]) -> list[str]:
    shown = {name: figure for name, figure in FIGURES.items() if name in figures}
    if not shown:
        return ["None were computed.", ""]
    count = f" {figures['samples']:,.0f} generations" if "samples" in figures else "Generations"
    of = f", of {figures['instances']:,.0f} instances" if "instances" in figures else ""
    lines = [
        "**Everything called a feature here is one of this run's own extractor, of unit length. These are not Inception figures: no FID, "
        "nothing to compare with papers or with runs that have another extractor. And they flatter: the generator was trained on these "
        "very features.**",
        "",
        f"{count.strip()}{of}. The yardstick is what real photographs get in the generations' place; of the conditioning, what chance gives.",
        "",
        "| figure | generations | yardstick | better | meaning |",
        "|---|---:|---:|---|---|",
    ]
    for name, figure in shown.items():
        beside = _number(figures[figure.beside]) if figure.beside in figures else ""
        lines.append(f"| {figure.title} | {_number(figures[name])} | {beside} | {figure.better} | {figure.meaning} |")
    return [*lines, ""]


def _plot(history: Sequence[Mapping[str, float]]) -> bytes:
    """The Fréchet distance over steps, PNG."""
    drawing, axes = _axes("Fréchet distance", "Fréchet distance in the extractor's features (not FID); lower is better")
    axes.plot(
        [row["step"] for row in history],
        [row[_DISTANCE] for row in history],
        color=_LINE,
        marker="o",
        markersize=4,
        label="generations against photographs",
    )
    beside = FIGURES[_DISTANCE].beside
    real = [row for row in history if beside in row]
    if real:
        axes.plot(
            [row["step"] for row in real],
            [row[beside] for row in real],
            color=_BESIDE,
            linewidth=1,
            marker="o",
            markersize=2,
            label="photographs against photographs",
        )
    axes.set_yscale("log", nonpositive="clip")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter("")
    return _png(drawing, axes)


def _plot_losses(losses: Sequence[Mapping[str, float]]) -> bytes:
    """Every loss over steps, PNG."""
    drawing, axes = _axes("loss", "Losses, means between two looks")
    for name in (name for name in losses[0] if name != "step"):
        axes.plot(
            [row["step"] for row in losses], [row[name] for row in losses], linewidth=1, label=name.replace("_", " ")
        )
    return _png(drawing, axes)


def _axes(what: str, title: str) -> tuple[Drawing, Axes]:
    drawing, axes = new_axes(8, 4.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("training step")
    axes.set_ylabel(what)
    axes.set_title(title, fontsize=11, loc="left")
    return drawing, axes


def _png(drawing: Drawing, axes: Axes) -> bytes:
    axes.legend(frameon=False)
    return png(drawing)


def _pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """[-1, 1] to uint8, channels last."""
    values = images.detach().float().cpu().clamp(-1, 1).movedim(-3, -1)
    return ((values + 1) * 127.5).round().to(torch.uint8).contiguous().numpy()


def _link(file: Path, folder: Path) -> str:
    """As seen from the report, so that a run's folder can be moved."""
    file, folder = file.absolute(), folder.absolute()
    return quote(str(file.relative_to(folder) if file.is_relative_to(folder) else file))


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
