"""What every benchmark shares: where it ran, alternating windows, one JSON object a line."""

import ctypes
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dali_icgan as di


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _instruction_sets() -> list[str]:
    text = Path("/proc/cpuinfo").read_text()
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    return [name for name in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def _command() -> str:
    """As it was typed; but where somebody keeps files is nobody's business."""
    module = sys.modules["__main__"].__spec__
    program = sys.argv[:1] if module is None else ["-m", module.name.removesuffix(".__main__")]
    return shlex.join(["python", *(Path(a).name if a.startswith("/") else a for a in [*program, *sys.argv[1:]])])


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip()


def _dali() -> str | None:
    try:
        import nvidia.dali
    except ImportError:
        return None
    return nvidia.dali.__version__


def environment() -> dict[str, Any]:
    """Where and with what a figure was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        "commit": _commit(),
        "processor": _processor(),
        "instruction_sets": _instruction_sets(),
        "threads": torch.get_num_threads(),
        "mkl": os.environ.get("MKL_ENABLE_INSTRUCTIONS"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "dali": _dali(),
        "python": platform.python_version(),
        "build": di.build_info(),
    }


def raise_allocator_thresholds() -> None:
    """From now on the C library keeps the memory that it has, instead of mapping large pieces anew each time."""
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(mmap, 1 << 30)
    libc.mallopt(trim, (1 << 31) - 1)


def windows(contestants: dict[str, Callable[[], int]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Rates of each contestant in alternating windows.

    Args:
        contestants: each call does some work and returns how many items it did.
        seconds: a window's least length.
        rounds: windows of each.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        # Back and forth, so that a drift of the machine meets all alike.
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            begun, items = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                items += contestants[name]()
            rates[name].append(items / (time.perf_counter() - begun))
    return rates


def summary(values: list[float], digits: int = 2) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def emit(record: dict[str, Any], out: Path | None) -> None:
    """Print one line, and append it to ``out``."""
    line = json.dumps(record)
    print(line, flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(line + "\n")
