"""One page a run, report.md, with its plots: made from results.jsonl alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dali_icgan.evaluate import plots
from dali_icgan.evaluate.classify import Figure
from dali_icgan.evaluate.results import read_lines
from dali_icgan.evaluate.sets import ROBUSTNESS
from dali_icgan.training.state import write_whole

_TITLES = {
    "imagenet": "Accuracy and calibration",
    "robustness": "Robustness",
    "invariance": "Invariance",
    "linear": "A linear classifier on frozen features",
    "knn": "Nearest neighbours in frozen features",
    "compare": "Two models on the same images",
}
_SHOWN = 5  # classes at each end
_PAIRED = (
    "Intervals: paired bootstrap over images, or over folders where images belong together. p: exact, two-sided (McNemar 1947); many "
    "lines are many tests."
)


def write_report(folder: Path) -> Path:
    """Write report.md and its plots beside results.jsonl.

    Raises:
        FileNotFoundError, ValueError: there are no results, or damaged ones.
        OSError: it could not be written.
    """
    run, *lines = read_lines(folder)
    if run["command"] == "compare":
        head = [f"A: `{run['a']}`, `{run['runs'][0]}`  ", f"B: `{run['b']}`, `{run['runs'][1]}`"]
        said = _table(_DIFFERENCES, _difference_rows(lines))
        shown = [each for each in lines if each["kind"] == "difference"]
        rest = [_PAIRED, "", *_picture(folder, "differences.png", "differences", plots.differences(shown))]
    else:
        head = [f"Model: `{run['model']}`, in {run['dtype']} on {run['device']}."]
        said = _table(_FIGURES, _figure_rows(lines))
        rest = _notes(lines) + _pictures(folder, run["command"], lines) + _settings(run)
    path = folder / "report.md"
    content = "\n".join([f"# {_TITLES[run['command']]}", "", *head, "", *_missing(lines), *said, *rest]).encode()
    write_whole(path, lambda file: file.write(content))
    return path


_FIGURES: tuple[str, ...] = ("set", "figure", "value", "95 % interval", "images")
_DIFFERENCES: tuple[str, ...] = (
    "set",
    "figure",
    "A",
    "B",
    "B - A",
    "95 % interval",
    "only A right",
    "only B right",
    "McNemar's p",
    "images",
)


def summary(folder: Path) -> str:
    """What is missing and the figures, in columns, for a terminal.

    Raises:
        FileNotFoundError, ValueError: there are no results, or damaged ones.
    """
    run, *lines = read_lines(folder)
    if run["command"] == "compare":
        head, rows, shown = _DIFFERENCES, _difference_rows(lines), (0, 1, 4, 5, 8)
    else:
        head, rows, shown = _FIGURES, _figure_rows(lines), (0, 1, 2, 3, 4)
    cells = [[row[i] for i in shown] for row in (list(head), *rows)]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    columns = [
        [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, wide, strict=True))] for row in cells
    ]
    return "\n".join(
        [each.replace("*", "") for each in _missing(lines) if each] + ["  ".join(row).rstrip() for row in columns]
    )


def _figure_rows(lines: Sequence[Figure]) -> list[list[str]]:
    rows = []
    before = None
    for line in [each for each in lines if each["kind"] == "figure"]:
        interval = f"{_said(line, 'low')} to {_said(line, 'high')}" if "low" in line else ""
        name = line["set"] if line["set"] != before else ""
        before = line["set"]
        rows.append([name, line["figure"], _said(line, "value"), interval, f"{line['images']:,}"])
    return rows


def _difference_rows(lines: Sequence[Figure]) -> list[list[str]]:
    rows = []
    for line in [each for each in lines if each["kind"] == "difference"]:
        sides = [str(line["only_a"]), str(line["only_b"]), f"{line['p']:.2g}"] if "p" in line else ["", "", ""]
        values = [f"{line['a']:.4f}", f"{line['b']:.4f}", f"{line['difference']:+.4f}"]
        interval = f"{line['low']:+.4f} to {line['high']:+.4f}"
        rows.append([line["set"], line["figure"], *values, interval, *sides, f"{line['images']:,}"])
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """In Markdown: two columns of words, then numbers."""
    aligned = ["---" if i < 2 else "---:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, aligned, *rows)] + [""]


def _missing(lines: Sequence[Figure]) -> list[str]:
    said = [
        each["set"] + (f" (in {each['from']})" if "from" in each else "") for each in lines if each["kind"] == "missing"
    ]
    text = [f"**Not measured, because missing: {', '.join(said)}.**"] if said else []
    for line in lines:
        if line["kind"] == "absent":
            text.append(f"**{line['set']} lacks {', '.join(line['names'])}**, so there is no mCE.")
        elif line["kind"] == "note":
            text.append(f"**{line['set']}: {line['text']}.**")
    return [each for line in text for each in (line, "")]


def _notes(lines: Sequence[Figure]) -> list[str]:
    """What the figures are, of those that are there."""
    said = {line["figure"].split(",")[0].split(" (")[0] for line in lines if line["kind"] == "figure"}
    notes = {
        "top1": "Intervals of accuracies are Wilson's.",
        "ECE": "ECE: expected calibration error, 15 bins (Guo et al. 2017, arXiv 1706.04599).",
        "mCE": "mCE: errors over AlexNet's published ones (Hendrycks and Dietterich 2019, arXiv 1903.12261), in percent; lower is better.",
        "mean cosine": "Mean cosine between features that belong together; 1 is the same direction.",
        "retrieval R@1": "R@1: how often the nearest by cosine is of the same folder, or the image itself.",
        "firing over chance": "Firing: a unit fires above a threshold; how often it fires on an image when it fires on another that belongs "
        "to it, over how often it fires at all (Goodfellow et al. 2009), in the units where that is greatest; 1 is chance.",
        "firing for its target over chance": "For its target: the units chosen for each folder anew (after Purushwalkam and Gupta 2020, "
        "arXiv 2007.13916).",
    }
    notes |= {
        "linear-crops": "linear-crops: trained on random crops and flips, drawn anew in each pass; tested on centre crops.",
        "linear-cached": "linear-cached: trained on features of centre crops, computed once; figures of papers are of fresh crops.",
        "knn": "knn: The nearest images vote (Wu et al. 2018, arXiv 1805.01978).",
    }
    said |= {line["set"] for line in lines}
    sources = [f"{n}: {ROBUSTNESS[n].source}" for n in dict.fromkeys(each["set"] for each in lines) if n in ROBUSTNESS]
    text = [note for name, note in notes.items() if name in said]
    return [" ".join(text), "", *([f"Sets: {'; '.join(sources)}.", ""] if sources else [])]


def _pictures(folder: Path, command: str, lines: Sequence[Figure]) -> list[str]:
    kinds: dict[str, list[Figure]] = {}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line)
    text: list[str] = []
    if command != "invariance":
        tops = [each for each in kinds.get("figure", []) if each["figure"].startswith("top1")]
        if tops:
            text += _picture(folder, "accuracy.png", "top-1 accuracy", plots.accuracies(tops))
    for line in kinds.get("corruptions", []):
        text += [f"## {line['set']}", ""]
        text += _picture(folder, f"{line['set']}.png", "error by corruption and severity", plots.corruptions(line))
        if line["relative"]:
            text += ["| corruption | CE, % of AlexNet's error |", "|---|---:|"]
            text += [f"| {name.replace('_', ' ')} | {ce:.1f} |" for name, ce in line["relative"].items()] + [""]
    if "reliability" in kinds:
        text += ["## Calibration", ""]
        text += _picture(folder, "calibration.png", "accuracy over confidence", plots.calibration(kinds["reliability"]))
    if "classes" in kinds:
        text += ["## Classes", ""]
        text += _picture(folder, "classes.png", "accuracy of each class", plots.classes(kinds["classes"]))
        for line in kinds["classes"]:
            text += _ends(line)
    if "curve" in kinds:
        text += ["## Firing", ""]
        said = "Rare firing singles out few images, and is invariant only where it is of the same ones; firing often is easily invariant."
        text += [
            said,
            "",
            *_picture(folder, "firing.png", "firing over the target rate", plots.invariances(kinds["curve"])),
        ]
    return text


def _ends(line: Figure) -> list[str]:
    """The best and the worst classes."""
    rows = list(zip(line["names"], line["right"], line["images"], strict=True))
    rows.sort(key=lambda row: -row[1] / row[2])
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], None, *rows[-_SHOWN:]]
    text = [f"{line['set']}, {line['figure']}:", "", "| class | right | images |", "|---|---:|---:|"]
    text += ["| ... | | |" if row is None else f"| {row[0]} | {row[1]} | {row[2]} |" for row in shown]
    return [*text, ""]


def _picture(folder: Path, name: str, said: str, content: bytes) -> list[str]:
    write_whole(folder / name, lambda file: file.write(content))
    return [f"![{said}]({name})", ""]


def _settings(run: Figure) -> list[str]:
    shown = {k: v for k, v in run.items() if k != "kind" and v not in (None, {}, [])}
    if isinstance(shown.get("classes"), list):
        shown["classes"] = len(shown["classes"])
    return ["## Settings", "", "| | |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in shown.items()), ""]


def _said(line: dict[str, Any], name: str) -> str:
    """A share in percent, a figure that is none as it is."""
    value = line[name]
    if line.get("percent"):
        return f"{value:.1f} %"
    share = line["figure"].startswith(("top", "mean over", "mean top", "ECE", "retrieval", "firing together"))
    return f"{100 * value:.2f} %" if share else f"{value:.3g}" if abs(value) >= 10 else f"{value:.3f}"
