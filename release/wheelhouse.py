"""A folder of wheels from which ``pip install --no-index`` installs everything, for nodes without a network or a compiler."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def collect(wheel: Path, extras: str, folder: Path, constraints: Sequence[str] = ()) -> list[Path]:
    """Put ``wheel`` and all that it needs with these extras ("cu13", "cu12,knn") into ``folder``; returns the wheels there.

    Packages that come as source alone are built here, so that nothing is compiled where they are installed. Wheels of an earlier
    call that are no longer asked for are removed: the folder holds one consistent set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheelhouse-") as scratch:
        limits = Path(scratch) / "constraints.txt"
        limits.write_text("\n".join(constraints) + "\n")
        # What is already there need not come again.
        known = ["--find-links", str(folder)]
        what = f"dali-icgan[{extras}] @ {wheel.resolve().as_uri()}"
        target = Path(scratch) / "wheels"
        command = [sys.executable, "-m", "pip", "wheel", "-q", *known, "-c", str(limits), "-w", str(target), what]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not collect dali-icgan[{extras}]:\n{done.stderr[-3000:]}")
        for path in folder.glob("*.whl"):
            path.unlink()
        for path in target.glob("*.whl"):
            path.rename(folder / path.name)
    return sorted(folder.glob("*.whl"))
