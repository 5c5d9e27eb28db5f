"""Pictures of a run, drawn from its lines alone."""

from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter

from dali_icgan.bench.results import OURS, Record, Run, distinct
from dali_icgan.bench.tables import contestant, contests, median, place, rate
from dali_icgan.drawing import axes as new_axes
from dali_icgan.drawing import plain, png

_COLOUR, _OTHER = "#e8590c", "#868e96"
_AXES = {"batch_size": "batch size", "threads": "threads, on as many cores", "size": "pixels of a crop", "p": "p"}
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def rates(run: Run, axis: str) -> list[tuple[str, bytes]]:
    """Each contest of an axis: a bar a contestant, a dot a window; (title, PNG)."""
    drawn = []
    for lines in contests(run, axis):
        drawing, axes = new_axes(8, 1.2 + 0.4 * len(lines))
        most = max(max(each["images_per_s"]) for each in lines)
        for row, each in enumerate(lines):
            axes.barh(row, median(each), color=_colour(each), height=0.62)
            axes.scatter(each["images_per_s"], [row] * len(each["images_per_s"]), s=9, color="black", zorder=3)
            axes.text(max(each["images_per_s"]) + 0.012 * most, row, rate(median(each)), va="center", fontsize=9)
        axes.set_yticks(range(len(lines)), [contestant(run, each) for each in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(0, 1.1 * most)
        axes.xaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel("images/s; a dot is a window")
        drawing.suptitle(place(lines[0]), fontsize=10, x=0.01, ha="left")
        axes.grid(axis="y", visible=False)
        drawn.append((place(lines[0]), png(drawing)))
    return drawn


def scaling(run: Run) -> bytes | None:
    """Images a second over batch size, threads, pixels and p, PNG; None where nothing was measured so."""
    there = [axis for axis in _AXES if run.of("throughput", axis=axis)]
    if not there:
        return None
    drawing = Drawing(figsize=(max(4.2 * len(there), 5.5), 3.8), dpi=120, layout="constrained")
    for axes, axis in zip(drawing.subplots(1, len(there), squeeze=False).flat, there, strict=True):
        lines = run.of("throughput", axis=axis)
        for name in dict.fromkeys(contestant(run, {**each, "p": 0}) for each in lines):
            mine = sorted((r for r in lines if contestant(run, {**r, "p": 0}) == name), key=lambda r: r[axis])
            mine = [each for each in mine if each.get("compaction") is not False and each.get("generator") in (None, "eager", OURS)]  # fmt: skip
            x, y = [each[axis] for each in mine], [median(each) for each in mine]
            spread = [[m - min(r["images_per_s"]) for m, r in zip(y, mine, strict=True)], [max(r["images_per_s"]) - m for m, r in zip(y, mine, strict=True)]]  # fmt: skip
            axes.errorbar(x, y, yerr=spread, marker="o", markersize=4, capsize=3, color=_colour(mine[0]), label=name)
        values = sorted({each[axis] for each in lines})
        if axis in ("batch_size", "size") and len(values) > 1:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{each:g}" for each in values])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel(_AXES[axis])
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("images/s")
            axes.legend(frameon=False, fontsize=8)
        plain(axes)
    return png(drawing)


def startup(run: Run) -> bytes | None:
    """Seconds to the first batch and memory over the number of entries, PNG; None without."""
    lines = run.of("startup")
    if not lines:
        return None
    drawing = Drawing(figsize=(9, 3.6), dpi=120, layout="constrained")
    fields = {"first_batch_s": "seconds to the first batch", "memory_mb": "memory beyond the caller's own, MB"}
    for axes, (field, said) in zip(drawing.subplots(1, 2), fields.items(), strict=True):
        for number, (source,) in enumerate(distinct(lines, "source")):
            points = sorted((r["entries"], r[field]) for r in lines if r["source"] == source and r.get(field) is not None)  # fmt: skip
            if points:
                axes.plot(*zip(*points, strict=True), marker="os^D"[number % 4], markersize=4, color=f"C{number}", label=source)  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("entries of the dataset")
        axes.set_title(said, fontsize=10, loc="left")
        plain(axes)
    axes.legend(frameon=False, fontsize=8)
    return png(drawing)


def training(run: Run) -> bytes | None:
    """Speed kept of a training step, with what the arithmetic of generation leaves, PNG; None without."""
    lines = run.of("training")
    if not lines:
        return None
    drawing, axes = new_axes(8, 1.2 + 0.4 * len(lines))
    for row, each in enumerate(lines):
        axes.barh(row, each["kept"], color=_colour(each), height=0.62)
        if each.get("predicted_kept") is not None:
            axes.plot([each["predicted_kept"]] * 2, [row - 0.38, row + 0.38], color="black", linewidth=2)
        label = max(each["kept"], each.get("predicted_kept") or 0) + 0.015
        axes.text(label, row, f"{100 * each['kept']:.0f} %", va="center", fontsize=9)
    several = len(distinct(lines, "network", "size", "threads")) > 1
    names = [f"{contestant(run, each)}, p = {each['p']:g}" + (f"\n{each['network']}, {each['size']} px, {each['threads']} threads" if several else "") for each in lines]  # fmt: skip
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, max(1.12, *(each["kept"] + 0.12 for each in lines)))
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlabel("speed kept beside one batch; black: what the arithmetic leaves")
    axes.grid(axis="y", visible=False)
    return png(drawing)


def _colour(record: Record) -> str:
    return _COLOUR if record["peer"] == OURS else _OTHER
