"""``python -m release``: see docs/cluster.md; ``make wheels`` and ``make wheelhouse`` call it."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from release import record
from release.contents import contents, faults
from release.toolkit import cuda12
from release.trial import try_out
from release.wheel import BUILD, FLOOR, ROOT, build_sdist, build_wheel
from release.wheelhouse import collect

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
DIST = ROOT / "dist"
Cuda = Annotated[Path | None, typer.Option(help="a CUDA toolkit's folder; by default CUDA 12.4 is put together")]
Record = Annotated[bool, typer.Option("--record", help="add what was seen to benchmarks/results/wheels.jsonl")]
Keep = Annotated[list[str] | None, typer.Option(help='a version for pip to keep to, such as "torch==2.9.1"')]


@app.command()
def toolkit() -> None:
    """Put a CUDA 12 compiler together out of packages, and print its folder of programs."""
    print(_programs(None))


@app.command()
def wheel(cuda: Cuda = None, record_it: Record = False) -> None:
    """Build dist/*.tar.gz and out of it dist/*.whl, and check what is in it."""
    DIST.mkdir(exist_ok=True)
    programs = _programs(cuda)
    built = build_wheel(build_sdist(DIST), DIST, programs)
    facts = examine(built, programs)
    print(
        f"{built.relative_to(ROOT)}: {facts['bytes'] / 1e6:.1f} MB, glibc {facts['glibc']}, {', '.join(facts['gpu_code'])}"
    )
    if record_it:
        if (made := _made())["commit"].endswith("-dirty"):
            raise SystemExit(f"--record must be of a committed state, got {made['commit']}")
        record.note("wheel", facts | {"members": len(facts["members"])} | identity(built) | made)


@app.command()
def wheelhouse(
    extras: Annotated[str, typer.Option(help="of the package: cu13 or cu12, and others behind a comma")] = "cu13",
    keep: Keep = None,
    out: Path = DIST / "wheelhouse",
    record_it: Record = False,
) -> None:
    """Collect the wheel in dist/ and everything that it needs, for an installation without a network."""
    built = newest_wheel()
    wheels = collect(built, extras, out, keep or ())
    size = sum(path.stat().st_size for path in wheels)
    print(f"{out}: {len(wheels)} wheels, {size / 1e9:.2f} GB")
    if record_it:
        facts = {"extras": extras, "constraints": keep or [], "wheels": len(wheels), "bytes": size}
        record.note("wheelhouse", facts | identity(built))


@app.command("try")
def try_wheel(
    extras: str = "cu13",
    keep: Keep = None,
    offline: Annotated[Path | None, typer.Option(help="a wheelhouse: nothing comes from a network")] = None,
    record_it: Record = False,
) -> None:
    """Install the wheel in dist/ into an empty environment and use it there."""
    built = newest_wheel()
    what = f"dali-icgan[{extras}] @ {built.resolve().as_uri()}" if offline is None else f"dali-icgan[{extras}]"
    seen = try_out(what, keep or (), offline)
    print(f"torch {seen['torch']}, {seen['dali']}: works")
    if record_it:
        record.note("trial", {"extras": extras, **seen} | identity(built))


@app.command()
def page(
    check: Annotated[bool, typer.Option(help="write nothing, fail if the page is not the records'")] = False,
) -> None:
    """Write the table of docs/cluster.md."""
    text = record.page()
    if not check:
        record.PAGE.write_text(text)
    elif text != record.PAGE.read_text():
        raise SystemExit("docs/cluster.md: the table is not what was recorded: run python -m release page")


def newest_wheel() -> Path:
    """The last wheel that was built into dist/."""
    found = sorted(DIST.glob("dali_icgan-*.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit("there is no wheel in dist/: run make wheels")
    return found[-1]


def examine(built: Path, programs: Path) -> dict[str, Any]:
    """The wheel's facts; ends the command where something is wrong with it."""
    cuobjdump = shutil.which("cuobjdump", path=programs) or shutil.which("cuobjdump")
    facts = contents(built, Path(cuobjdump) if cuobjdump else None)
    if wrong := faults(facts, FLOOR):
        raise SystemExit("\n".join(wrong))
    return facts


def identity(built: Path) -> dict[str, str]:
    """What tells one build of a wheel from another."""
    return {"wheel": built.name, "sha256": hashlib.sha256(built.read_bytes()).hexdigest()}


def _made() -> dict[str, str]:
    values = (BUILD / "source" / "build" / "cuda" / "build_info_values.h").read_text()
    said = dict(re.findall(r'#define DI_(\w+) "(.*)"', values))
    found = re.search(r"cuda_(\d+\.\d+)", said["CUDA_COMPILER"])
    return {
        "compiler": said["COMPILER"],
        "cuda": found[1] if found else said["CUDA_COMPILER"],
        "commit": said["COMMIT"],
    }


def _programs(cuda: Path | None) -> Path:
    programs = cuda / "bin" if cuda else cuda12(BUILD / "cuda12")
    if not (programs / "nvcc").exists():
        raise SystemExit(f"--cuda must be a CUDA toolkit's folder, with bin/nvcc, got {cuda}")
    return programs


if __name__ == "__main__":
    app()
