"""Where a figure was measured, alternating windows, and one JSON object a line."""

import ctypes
import datetime
import importlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "pillow": "pillow",
    "numpy": "numpy",
    "timm": "timm",
    "webdataset": "webdataset",
    "spdl": "spdl",
    "streaming": "mosaicml-streaming",
    "ffcv": "ffcv",
}


def cpu_facts() -> dict[str, Any]:
    """The processor's name, its instructions and its clock now, as the kernel has them."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    clock = facts.get("cpu MHz")
    return {
        "processor": facts.get("model name", platform.processor()),
        "cpu_flags": facts.get("flags", "").split(),
        "cpu_mhz": None if clock is None else round(float(clock)),
    }


def command() -> str:
    """As it was typed; but where somebody keeps files is nobody's business."""
    module = sys.modules["__main__"].__spec__
    program = ["python", *sys.argv[:1]] if module is None else ["python", "-m", module.name.removesuffix(".__main__")]
    if module is None and Path(sys.argv[0]).name == "dali-icgan":
        program = ["dali-icgan"]
    return shlex.join(Path(a).name if a.startswith("/") else a for a in [*program, *sys.argv[1:]])


def commit() -> str | None:
    """Of the source tree; None where the package is installed elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or None


def dali_version() -> str | None:
    """None without DALI."""
    try:
        return str(importlib.import_module("nvidia.dali").__version__)
    except ImportError:
        return None


def package_version(package: str) -> str | None:
    """Of an installed package, by its name in the registry; None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def now() -> str:
    """In UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _gpu_clocks() -> str | None:
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def machine() -> dict[str, Any]:
    """The first line of a run: where and with what it was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "kind": "machine",
        "date": now(),
        "command": command(),
        "commit": commit(),
        "version": package_version("dali-icgan"),
        **cpu_facts(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": round(memory),
        "gpu": gpu,
        "gpu_clocks": _gpu_clocks() if gpu else None,
        "versions": {
            "python": platform.python_version(),
            "dali": dali_version(),
            **{name: package_version(package) for name, package in _PACKAGES.items()},
        },
    }


def raise_allocator_thresholds() -> None:
    """From now on the C library keeps the memory that it has, instead of mapping large pieces anew each time."""
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(mmap, 1 << 30)
    libc.mallopt(trim, (1 << 31) - 1)


def give_memory_back() -> None:
    """The C library's free memory to the system, so that what follows is seen from where it begins."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Hold this process, all its threads and what they start to ``count`` of its cores, and torch to as many threads."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    _pin(set(sorted(before)[:count]))
    torch.set_num_threads(count)
    try:
        yield
    finally:
        _pin(before)
        torch.set_num_threads(threads)


def _pin(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def windows(contestants: dict[str, Callable[[], int]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Rates of each contestant in alternating windows.

    Args:
        contestants: each call does some work and returns how many items it did.
        seconds: a window's least length.
        rounds: windows of each.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in back_and_forth(list(contestants), turn):
            begun, items = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                items += contestants[name]()
            rates[name].append(items / (time.perf_counter() - begun))
    return rates


def back_and_forth(names: list[str], turn: int) -> list[str]:
    """Whose turn it is: in reverse in every second round, so that a drift of the machine meets all alike."""
    return names[:: 1 if turn % 2 == 0 else -1]


def summary(values: list[float], digits: int = 2) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def rounded(value: float | None, digits: int = 4) -> float | None:
    """To so many significant digits."""
    return None if value is None else float(f"{value:.{digits}g}")


class Lines:
    """A run's file: one JSON object a line, there as soon as it is known.

    Args:
        path: written anew.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        path.write_text("")

    def add(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
