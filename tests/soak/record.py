"""A soak in a process of its own, and what is made of it."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.file_kinds import KINDS
from tests.photos import jpeg, patch

ROOT = Path(__file__).parents[2]
GROWTH = 0.01  # what RSS may gain after the warm-up
WARM_UP = 0.2  # the share of the cycles that is


@dataclass(frozen=True)
class Soaked:
    """A soak.

    Attributes:
        batches, cycles, seconds: how long it was.
        before, after: RSS in bytes: the median of the fifth of the cycles after the warm-up, and of the last fifth.
        threads, descriptors: every number of them that was seen after the warm-up.
    """

    batches: int
    cycles: int
    seconds: float
    before: float
    after: float
    threads: tuple[int, ...]
    descriptors: tuple[int, ...]

    def faults(self) -> list[str]:
        """What is not as it must be."""
        found = []
        if self.after > self.before * (1 + GROWTH):
            found.append(f"RSS grew from {self.before / 2**20:.1f} to {self.after / 2**20:.1f} MiB")
        for name, seen in (("threads", self.threads), ("descriptors", self.descriptors)):
            if len(seen) != 1:
                found.append(f"{name} were {', '.join(map(str, seen))}")
        return found


def make_mixed(root: Path) -> Path:
    """Photographs, and every kind of file that is known, good and bad, two classes of them."""
    for name in ("photographs", "kinds"):
        (root / name).mkdir(parents=True)
    for i in range(24):
        (root / "photographs" / f"{i:02d}.jpg").write_bytes(jpeg(patch("chelsea", i)[:64, :64]))
    for i, kind in enumerate(KINDS):
        if len(kind.data) < 1 << 16:
            (root / "kinds" / f"{i:02d}.jpg").write_bytes(kind.data)
    return root


def soak(folder: Path, seconds: float, batches: int) -> Soaked:
    """At least so many seconds and batches of loaders over a folder.

    Raises:
        RuntimeError: the process failed.
    """
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.soak.life", str(folder), str(seconds), str(batches)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},  # glibc's arenas, one a thread, grow and shrink as they like
    ) as process:
        try:
            assert process.stdout is not None
            lines = [tuple(map(int, line.split())) for line in process.stdout]
        finally:
            process.kill()
    if process.returncode != 0 or len(lines) < 10:
        raise RuntimeError(f"the soak ended with status {process.returncode} after {len(lines)} cycles")
    fifth = max(len(lines) // 5, 1)
    rest = lines[int(WARM_UP * len(lines)) :]
    return Soaked(
        lines[-1][0],
        len(lines),
        time.monotonic() - begun,
        statistics.median(line[1] for line in rest[:fifth]),
        statistics.median(line[1] for line in rest[-fifth:]),
        tuple(sorted({line[2] for line in rest})),
        tuple(sorted({line[3] for line in rest})),
    )
