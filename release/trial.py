"""Installs a wheel into an empty environment and uses it there, with no compiler in reach."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMOKE = Path(__file__).with_name("smoke.py")
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "nvcc", "ninja", "cmake", "make")


def try_out(what: str, constraints: Sequence[str] = (), wheelhouse: Path | None = None) -> dict[str, Any]:
    """Install ``what`` (as pip names it, such as "dist/x.whl[cu13]") and run the smoke test, torch first and torch last.

    Args:
        constraints: versions for pip to keep to, such as "torch==2.9.1".
        wheelhouse: take every package from this folder and nothing from a network.

    Raises:
        RuntimeError: the installation or the smoke test failed; what they wrote is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="wheel-trial-") as scratch:
        home = Path(scratch)
        subprocess.run([sys.executable, "-m", "venv", home / "env"], check=True)
        environment = isolated(home / "env" / "bin", offline=wheelhouse is not None)
        (home / "constraints.txt").write_text("\n".join(constraints) + "\n")
        source = ["--no-index", "--find-links", str(wheelhouse.resolve())] if wheelhouse else []
        python = home / "env" / "bin" / "python"
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--only-binary=:all:",
            "-c",
            home / "constraints.txt",
            *source,
            what,
        ]
        _run(pip, environment, home)
        return {**use(home / "env" / "bin", environment, home), "offline": wheelhouse is not None}


def use(programs: Path, environment: dict[str, str], home: Path) -> dict[str, Any]:
    """Run the smoke test and ``doctor`` of the environment whose ``programs`` these are, in the folder ``home``."""
    seen = []
    for order in ("before torch", "after torch"):
        folder = home / order.split()[0]
        folder.mkdir()
        said = _run([programs / "python", SMOKE, folder, *order.split()], environment, home)
        seen.append(json.loads(said.splitlines()[-1]))
    _run([programs / "dali-icgan", "doctor"], environment, home)
    return {
        **{name: seen[0][name] for name in ("python", "glibc", "torch", "torch_cuda", "dali", "build")},
        "imports": [each["import"] for each in seen],
    }


def isolated(programs: Path, offline: bool) -> dict[str, str]:
    """An environment whose PATH holds ``programs`` and no compiler, and in which pip and Python look at nothing of ours."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR", "OMP_WAIT_POLICY")}
    if not offline:
        kept |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "http", "HTTP"))}
    else:
        kept["PIP_CONFIG_FILE"] = os.devnull
    kept["PATH"] = str(programs)
    if found := [path for name in COMPILERS if (path := shutil.which(name, path=kept["PATH"]))]:
        raise RuntimeError(f"an empty environment must have no compiler in reach, got {', '.join(found)}")
    return kept


def _run(command: Sequence[str | Path], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), env=environment, cwd=cwd, capture_output=True, text=True, timeout=3600
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command[1:6]))} ... failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout
