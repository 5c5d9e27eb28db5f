"""What was built and tried, a JSON object a line, and the table of docs/cluster.md that is written from nothing else."""

import datetime
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "wheels.jsonl"
PAGE = ROOT / "docs" / "cluster.md"


def note(kind: str, facts: dict[str, Any], path: Path = RESULTS) -> None:
    """Append a line; ``kind`` is wheel, wheelhouse or trial."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with path.open("a") as stream:
        stream.write(json.dumps({"kind": kind, "date": now, **facts}) + "\n")


def newest(path: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Of the newest wheel: its own line and the trials and wheelhouses made with it, the last of each."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    wheels = [line for line in lines if line["kind"] == "wheel"]
    if not wheels:
        return {"wheel": [], "wheelhouse": [], "trial": []}
    same = [line for line in lines if line["sha256"] == wheels[-1]["sha256"]]
    last = {(line["kind"], line.get("torch"), line.get("extras")): line for line in same}
    return {kind: [line for line in last.values() if line["kind"] == kind] for kind in ("wheel", "wheelhouse", "trial")}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """As Markdown."""
    if not found["wheel"]:
        return "No wheel was recorded yet."
    (wheel,) = found["wheel"]
    (module,) = wheel["modules"].values()
    build = f"{wheel['compiler']}; CUDA {wheel['cuda']}; commit {wheel['commit']}"
    rows = [
        ("wheel", f"`{wheel['wheel']}`"),
        (
            "size",
            f"{_mb(wheel['bytes'])} MB; its module {_mb(module)} MB, the embedded model {_mb(wheel['model_bytes'])} MB",
        ),
        ("code", f"CPU; GPU {', '.join(wheel['gpu_code'])}"),
        ("needs", f"{', '.join(wheel['needs'])}; the newest symbol is of glibc {wheel['glibc']}"),
        ("exports", ", ".join(wheel["exports"])),
        ("built", f"{wheel['date'][:10]}, {build}"),
    ]
    rows += [
        (
            f"installed with torch {each['torch']}",
            f"extras `{each['extras']}`, {each['dali']}, Python {each['python']}, glibc {each['glibc']}"
            f"{', from the wheelhouse, without a network' if each['offline'] else ''}: "
            f"imported {' and '.join(each['imports'])}, generated, read JPEGs, `doctor` well; no GPU, no driver, no compiler",
        )
        for each in found["trial"]
    ]
    rows += [
        (f"wheelhouse `{each['extras']}`", f"{each['wheels']} wheels, {each['bytes'] / 1e9:.2f} GB{_with(each)}")
        for each in found["wheelhouse"]
    ]
    return "\n".join(["| what | seen |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows)])


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _with(each: dict[str, Any]) -> str:
    return f", with {', '.join(each['constraints'])}" if each["constraints"] else ""


def page(path: Path = PAGE, results: Path = RESULTS) -> str:
    """The page's text with the table as the records have it now."""
    text = path.read_text()
    written, count = re.subn(
        r"(<!-- wheels -->\n).*?(<!-- /wheels -->)",
        lambda found: f"{found[1]}{table(newest(results))}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"{path.name} must hold one <!-- wheels --> ... <!-- /wheels -->, got {count}")
    return written
