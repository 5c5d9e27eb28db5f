"""Runs a domain's mutants in child processes, so that a crash or a hang costs one mutant and is known for what it is."""

import importlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.child import mutant

PATIENCE = 60.0  # seconds for one mutant, on a busy machine
_MOST = 10  # findings after which a domain is left


@dataclass
class Report:
    """What became of a domain's mutants.

    Attributes:
        outcomes: how often each.
        findings: what is wrong, by the file that shows it.
        seconds: how long it took.
    """

    domain: str
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[Path, str] = field(default_factory=dict)
    seconds: float = 0.0
    kinds: set[str] = field(default_factory=set, repr=False)


class _Child:
    def __init__(self, domain: str, *arguments: object) -> None:
        self.scratch = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", domain, *map(str, arguments), self.scratch.name],
            stdout=subprocess.PIPE,
            stderr=self.said,
            cwd=Path(__file__).parents[2],
            # Lightning, where a test has imported it, has torch ask the driver's library for GPUs, which the child takes for a finding.
            env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTORCH_NVML_BASED_CUDA_CHECK": "0"},
        )
        self._rest = b""

    def line(self, patience: float) -> str | None:
        """Its next answer; None where it ended or hangs."""
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + patience
        while b"\n" not in self._rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(descriptor, 1 << 16) if ready else b""
            if not more:
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")

    def end(self) -> str:
        """End it; why it had ended or would not."""
        try:
            status = self.process.wait(1)
            why = (
                f"a crash: {signal.Signals(-status).name}" if status < 0 else f"its process ended with status {status}"
            )
        except subprocess.TimeoutExpired:
            why = "no answer"
            self.process.kill()
            self.process.wait()
        self.said.seek(0)
        last = self.said.read()[-2000:].decode(errors="replace")
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.said.close()
        self.scratch.cleanup()
        return f"{why}; {last}"


def fuzz(domain: str, mutants: int, seed: int, keep: Path, patience: float = PATIENCE) -> Report:
    """Check mutants 0 to ``mutants`` of a domain; those that show something wrong are kept in a folder.

    Raises:
        RuntimeError: a sound file is not read.
    """
    report, begun, first = Report(domain, seed), time.monotonic(), 0
    module: Any = importlib.import_module(f"tests.fuzz.{domain}")
    while first < mutants and len(report.findings) < _MOST:
        child = _Child(domain, seed, first, mutants)
        wait = 4 * patience  # imports and seeds
        while (line := child.line(wait)) is not None:
            number, _, said = line.partition(" ")
            if number == "seed":
                child.end()
                raise RuntimeError(f"{domain}: a sound file is not read: {said}")
            first, wait = int(number) + 1, patience
            if said.startswith("!"):
                _keep(report, module, int(number), said[1:], keep)
                if len(report.findings) >= _MOST:
                    break
            else:
                report.outcomes[said] += 1
        done = first >= mutants or len(report.findings) >= _MOST
        why = child.end()
        if not done:
            _keep(report, module, first, why, keep)
            first += 1
    report.seconds = time.monotonic() - begun
    return report


def check_file(domain: str, file: Path, patience: float = PATIENCE) -> str:
    """What becomes of one file; a finding begins with ``!``."""
    child = _Child(domain, file.absolute())
    line = child.line(5 * patience)
    why = child.end()
    return f"!{why}" if line is None else line.partition(" ")[2]


def _keep(report: Report, module: Any, number: int, why: str, keep: Path) -> None:
    report.outcomes["wrong"] += 1
    kind = re.sub(r"'.*?'|\d+", "", why)[:60] + why[-60:]
    if kind in report.kinds:
        return  # one of each kind will do
    report.kinds.add(kind)
    keep.mkdir(parents=True, exist_ok=True)
    file = keep / f"{report.domain}-{report.seed}-{number}"
    file.write_bytes(mutant(module, report.seed, number))
    report.findings[file] = why
