"""Pictures of a run, drawn from its lines alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter

from dali_icgan.drawing import axes as new_axes
from dali_icgan.drawing import plain, png

Line = Mapping[str, Any]
_COLOUR, _OTHER, _GRAY = "#e8590c", "#1c7ed6", "#868e96"
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")


def accuracies(lines: Sequence[Line]) -> bytes:
    """Top-1 of each set and number of ways with its interval, PNG."""
    shown = [line for line in lines if line["figure"].startswith("top1")]
    drawing, axes = new_axes(8, 1.1 + 0.42 * len(shown))
    for row, line in enumerate(shown):
        axes.barh(row, line["value"], color=_COLOUR, height=0.6)
        axes.plot([line["low"], line["high"]], [row, row], color="black", linewidth=1.2)
        place = max(line["value"], line["high"]) + 0.012
        axes.text(place, row, f"{100 * line['value']:.1f} %", va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [f"{line['set']}, {line['figure'].split(' ', 1)[1][1:-1]}" for line in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.set_xlabel("top-1 accuracy, with 95 % intervals")
    axes.grid(axis="y", visible=False)
    return png(drawing)


def corruptions(line: Line) -> bytes:
    """Top-1 error of each corruption over its severities, as a table in colours, PNG."""
    names = list(dict.fromkeys(corruption for corruption, _, _ in line["errors"]))
    table = np.full((len(names), 5), np.nan)
    for corruption, severity, error in line["errors"]:
        table[names.index(corruption), severity - 1] = error
    drawing = Drawing(figsize=(6.4, 1.6 + 0.32 * len(names)), dpi=120, layout="constrained")
    axes = drawing.add_subplot()
    shown = axes.imshow(table, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for (row, column), error in np.ndenumerate(table):
        if np.isfinite(error):
            colour = "white" if error > 0.65 else "black"
            axes.text(column, row, f"{100 * error:.1f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_xticks(range(5), ["1", "2", "3", "4", "5"])
    axes.set_xlabel("severity")
    axes.set_title(f"{line['set']}: top-1 error in %", fontsize=11, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    drawing.colorbar(shown, ax=axes, format=_PERCENT, shrink=0.8)
    return png(drawing)


def calibration(lines: Sequence[Line]) -> bytes:
    """Reliability diagrams, accuracy over confidence, one a set, PNG."""
    across = min(len(lines), 3 if len(lines) in (5, 6) else 4)
    down = -(-len(lines) // across)
    drawing = Drawing(figsize=(max(2.7 * across, 3.6), 3.0 * down + 0.3), dpi=120, layout="constrained")
    grid = drawing.subplots(down, across, squeeze=False)
    for axes, line in zip(grid.flat, lines, strict=False):
        images = np.array(line["images"])
        edges = np.linspace(0, 1, len(images) + 1)
        there = images > 0
        axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--")
        axes.bar(
            edges[:-1][there],
            np.array(line["accuracy"])[there],
            edges[1] - edges[0],
            align="edge",
            color=_COLOUR,
            alpha=0.35,
        )
        axes.scatter(np.array(line["confidence"])[there], np.array(line["accuracy"])[there], s=4 + 60 * images[there] / images.sum(), color=_COLOUR, zorder=3)  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1.03), aspect="equal")
        axes.set_title(f"{line['set']}\n{line['figure'].split(' ', 1)[1][1:-1]}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for axes in grid.flat[len(lines) :]:
        axes.set_visible(False)
    drawing.supxlabel("confidence (a dot a bin: the larger, the more images)", fontsize=9)
    drawing.supylabel("accuracy", fontsize=9)
    return png(drawing)


def classes(lines: Sequence[Line]) -> bytes:
    """Accuracy of each class, the best first, one curve a set, PNG."""
    drawing, axes = new_axes(8, 3.8)
    for line in lines:
        shares = sorted((r / n for r, n in zip(line["right"], line["images"], strict=True)), reverse=True)
        place = (np.arange(len(shares)) + 0.5) / len(shares)
        axes.plot(place, shares, linewidth=1.5, marker="." if len(shares) <= 40 else None, label=f"{line['set']}, {len(shares)} classes")  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="top-1 accuracy of a class")
    axes.set_xlabel("share of the classes, the best first")
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return png(drawing)


def invariances(lines: Sequence[Line]) -> bytes:
    """Firing over the target rate, for each kind of invariance: as often as by chance, and how often together, PNG."""
    drawing = Drawing(figsize=(9, 3.8), dpi=120, layout="constrained")
    said = {"score": "times as often as by chance (1: chance)", "local": "how often they fire together"}
    for axes, (name, title) in zip(drawing.subplots(1, 2), said.items(), strict=True):
        for number, line in enumerate([each for each in lines if each["figure"] == name]):
            rate, value, low, high = np.array(line["points"]).T
            axes.plot(rate, value, marker="o", markersize=4, color=f"C{number}", label=line["set"])
            axes.fill_between(rate, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        if name == "score":
            axes.axhline(1, color=_GRAY, linewidth=1, linestyle="--")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "25" else ""))
        else:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(_PERCENT)
            axes.legend(frameon=False, fontsize=9)
        axes.set_xscale("log")
        axes.set_xticks(rate, [f"{100 * each:g} %" for each in rate])
        axes.minorticks_off() if name == "local" else axes.xaxis.minorticks_off()
        axes.set_xlabel("global firing rate that thresholds aim at")
        axes.set_title(title, fontsize=10, loc="left")
        plain(axes)
    return png(drawing)


def differences(lines: Sequence[Line]) -> bytes:
    """B - A of each set and figure with its interval, PNG."""
    drawing, axes = new_axes(8, 1.1 + 0.36 * len(lines))
    for row, line in enumerate(lines):
        apart = line["low"] > 0 or line["high"] < 0
        colour = (_COLOUR if line["difference"] > 0 else _OTHER) if apart else _GRAY
        axes.plot([line["low"], line["high"]], [row, row], color=colour, linewidth=2)
        axes.plot(line["difference"], row, marker="o", color=colour, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [f"{line['set']}: {line['figure']}" for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel("B - A, with 95 % intervals (gray: 0 is within)")
    return png(drawing)
