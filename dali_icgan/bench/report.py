"""A run for people: report.md with its plots, and report.html, the same in one file that needs nothing else."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from dali_icgan.bench import plots, tables
from dali_icgan.bench.results import OURS, Record, Run, read_run
from dali_icgan.bench.tables import Table
from dali_icgan.training.state import write_whole

_HOW = (
    "Rates are images a second, the median of windows in which all contestants of a table take turns; a ratio is the median of the windows' "
    f"ratios. A peer whose median is above ours is marked: ⚠ {tables.AHEAD}. CPU seconds and memory, its peak beyond what was there before, are of worker processes too. "
    "JPEGs made offline are of one epoch: their rate is that of decoding alone, and what making them took is beside it."
)
_TRAINING = (
    'Images a second of training, fed by one batch again and again and by each loader. "Waiting" is the share of the time in which a step '
    'waits for its batch. "What the arithmetic leaves" is the speed that would be kept if generating and decoding cost what they cost by '
    "themselves, and nothing else were lost."
)
_CONTRACT = "Before it is measured, every contestant must deliver the same files, crops, mirroring and normalisation."


def write_report(folder: Path) -> Path:
    """Write report.md, its plots and report.html beside bench.jsonl; returns the last.

    Raises:
        FileNotFoundError, ValueError: there is no run, or a damaged one.
        OSError: it could not be written.
    """
    run = read_run(folder)
    pictures: dict[str, bytes] = {}
    text = markdown(run, pictures)
    for name, content in pictures.items():
        _write(run.folder / name, content)
    _write(run.folder / "report.md", text.encode())
    path = run.folder / "report.html"
    _write(path, page(text, pictures).encode())
    return path


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda file: file.write(content))


def markdown(run: Run, pictures: dict[str, bytes]) -> str:
    """The report as Markdown.

    Args:
        pictures: receives its plots, PNG by the name that the text has for them.
    """

    def picture(name: str, said: str, content: bytes | None) -> list[str]:
        if content is None:
            return []
        pictures[name] = content
        return [f"![{said}]({name})"]

    def section(title: str, said: str, found: Sequence[Table], drawn: Sequence[str] = ()) -> list[str]:
        return [f"## {title}", *([said] if said else []), *drawn, *(each.markdown() for each in found)] if found else []

    def contests(axis: str) -> list[str]:
        return [
            line
            for number, (said, content) in enumerate(plots.rates(run, axis), 1)
            for line in picture(f"{axis}-{number}.png", said, content)
        ]

    def alternating(title: str, axis: str, said: str) -> list[str]:
        found, drawn = tables.rates(run, axis), contests(axis)
        if not found:
            return []
        parts = [part for table, plot in zip(found, drawn, strict=True) for part in (table.markdown(), plot)]
        return [f"## {title}", *([said] if said else []), *parts]

    scaled = [each for axis in ("batch_size", "threads", "size", "p") for each in tables.rates(run, axis)]
    parts = [
        "# dali-icgan bench",
        *summary(run),
        *alternating("Photographs, p = 0", "peers", _HOW),
        *alternating("With generations", "generators", _HOW if not tables.rates(run, "peers") else ""),
        *section(
            "Training", _TRAINING, tables.training(run), picture("training.png", "speed kept", plots.training(run))
        ),
        *section("How it scales", "", scaled, picture("scaling.png", "images a second", plots.scaling(run))),
        *section("Start-up", "", tables.startup(run), picture("startup.png", "start-up", plots.startup(run))),
        *section("Stages", "", tables.stages(run)),
        *section("The same work", _CONTRACT, tables.contract(run)),
        *section("Peers", "", [*tables.missing(run), *tables.settings(run)]),
        Table("Machine", ["", ""], tables.machine(run), words=2).markdown(2),
    ]
    parts += again(run)
    return "\n\n".join(parts) + "\n"


def again(run: Run) -> list[str]:
    """How to repeat a run."""
    return ["Again:", "```sh\n" + "\n".join(run.commands) + "\n```"] if run.commands else []


def summary(run: Run) -> list[str]:
    """The run in a few lines: each contest at p = 0, how far ahead or behind."""
    lines = []
    for contest in tables.contests(run, "peers"):
        ours = next((each for each in contest if each["peer"] == OURS), None)
        if ours is None:
            continue
        peers = [each for each in contest if each["peer"] != OURS]
        said = f"- {tables.place(ours)}: **{tables.rate(tables.median(ours))} images/s**"
        base = tables.baseline(peers)
        if base is not None:
            said += f", {tables.times(tables.ratios(ours, base))} times {tables.contestant(run, base)}"
        ahead = [tables.contestant(run, each) for each in peers if tables.is_ahead(each, ours)]
        said += f"; **behind {', '.join(ahead)}**" if ahead else f"; ahead of every peer ({len(peers)})" * bool(peers)
        lines.append(said)
    return ["\n".join(lines)] if lines else []


def peers_table(run: Run) -> str:
    """The contests of photographs in one table, as Markdown, for pages outside a run's folder.

    Columns: the contestants' rates at p = 0 by the number of cores, in the C library's allocator as it is, beside DataLoader + PIL.

    Raises:
        ValueError: the run has none.
    """
    groups = [each for each in tables.contests(run, "peers") if _stock(each)]
    if not groups:
        raise ValueError(f"{run.folder} must hold rates of peers, got none")
    names = list(dict.fromkeys(each["peer"] for group in groups[::-1] for each in group))
    head, rows = ["photographs, p = 0"], [[f"**{n}**" if n == OURS else tables.plain(run.title(n))] for n in names]
    for group in groups:
        base, by_peer = tables.baseline(group), {each["peer"]: each for each in group}
        head += [f"{tables.where(group[0])}, images/s", "times DataLoader + PIL"]
        for row, name in zip(rows, names, strict=True):
            row += _cells(by_peer.get(name), base, by_peer.get(OURS))
    absent = [f"{each['title']} ({each['reason']})" for each in run.of("peer", installed=False) if each.get("reason")]
    one, machine = groups[0][0], run.machine
    note = (
        f"{one['size']} px, batch {one['batch_size']}; {tables.plain(machine['processor'])}, {machine['date'][:10]}, commit "
        f"{machine.get('commit')}; medians of alternating windows, in brackets the range of their ratios."
    )
    note += f" Not measured: {tables.plain(', '.join(absent))}." if absent else ""
    return "\n\n".join([Table("", head, rows).markdown(0), note])


def generations_table(run: Run) -> str:
    """The contests with generations, features from a bank, in one table, as Markdown: ours beside DataLoader + PIL + eager generator.

    "" of a run without.
    """
    rows = []
    for group in tables.contests(run, "generators"):
        base, ours = tables.baseline(group), next((each for each in group if each["peer"] == OURS), None)
        if _stock(group) and group[0].get("source") == "bank" and base is not None and ours is not None:
            one = [f"{ours['p']:g}", str(ours.get("case") or ""), str(ours["size"]), tables.where(ours)]
            rates = [tables.rate(tables.median(each)) for each in (base, ours)]
            rows.append([*one, *rates, f"**{tables.times(tables.ratios(ours, base))}**"])
    head = ["p", "generator", "px", "", "DataLoader + PIL + eager generator, images/s", "dali_icgan, images/s", "ratio"]
    return Table("", head, rows, words=4).markdown(0) if rows else ""


def tables_alone(run: Run) -> str:
    """The report's tables of rates and of training, for a page outside the run's folder."""
    found = [*tables.rates(run, "peers"), *tables.rates(run, "generators"), *tables.training(run)]
    return "\n\n".join([_HOW, *(each.markdown() for each in [*found, *tables.startup(run), *tables.missing(run)])])


def _stock(group: Sequence[Record]) -> bool:
    return group[0].get("allocator") in (None, "stock", "torch")


def _cells(record: Record | None, base: Record | None, ours: Record | None) -> list[str]:
    if record is None:
        return ["", ""]
    mark = f" ⚠ {tables.AHEAD}" if tables.is_ahead(record, ours) else ""
    return [
        tables.rate(tables.median(record)) + mark,
        "1" if record is base else tables.times(tables.ratios(record, base)),
    ]


# ---------------------------------------------------------------------- one file

_STYLE = """
:root { color-scheme: light dark; --ink: #212529; --paper: #fff; --soft: #f1f3f5; --line: #ced4da; --warn: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9ecef; --paper: #141517; --soft: #25262b; --line: #495057; --warn: #ff8787; } }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .6rem; }
h1 { margin-top: .5rem; } h2 { border-top: 1px solid var(--line); padding-top: 1.2rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; margin: .6rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); } td:first-child { min-width: 9rem; }
td[style*=right] { white-space: nowrap; }
tr.ahead td { color: var(--warn); } tr.ours td { background: var(--soft); }
p:has(> img) { overflow-x: auto; }
img { max-width: 100%; min-width: 34rem; height: auto; background: #fff; border-radius: 4px; }
pre { overflow-x: auto; padding: .7rem; background: var(--soft); border-radius: 4px; font-size: .85rem; }
"""


def page(text: str, pictures: dict[str, bytes]) -> str:
    """Markdown as an HTML page in one file: its style and pictures are in it, and it asks no network for anything."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            end = next(j for j in range(i, len(tokens)) if tokens[j].type == "tr_close")
            said = " ".join(each.content for each in tokens[i:end] if each.type == "inline")
            if tables.AHEAD in said:
                token.attrSet("class", "ahead")
            elif f"**{OURS}" in said:
                token.attrSet("class", "ours")
        for child in token.children or ():
            name = str(child.attrGet("src") or "")
            if child.type == "image" and name in pictures:
                child.attrSet("src", f"data:image/png;base64,{base64.b64encode(pictures[name]).decode()}")
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    title = html.escape(next(line for line in text.splitlines() if line.startswith("# "))[2:])
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<body>\n{body}</body>\n</html>\n"
    )
