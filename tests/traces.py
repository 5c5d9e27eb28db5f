"""What a trace of torch.profiler says of the host's calls to CUDA: which of them wait for the device, which copy from it."""

import ctypes
import json
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

RANGE = "steps"
# A plain copy waits for its end; the asynchronous ones are found by what they copy.
WAITS = {
    "cudaDeviceSynchronize",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cudaMemcpy2D",
    "cuCtxSynchronize",
    "cuStreamSynchronize",
    "cuEventSynchronize",
}


@dataclass(frozen=True)
class Calls:
    """Calls to CUDA within a range, by name.

    Attributes:
        made: all of them.
        waits: those that wait for the device.
        to_host: those that began a copy from the device to the host, a graph with such a copy in it included.
    """

    made: list[str]
    waits: list[str]
    to_host: list[str]


def calls(trace: dict[str, Any], threads: Collection[int] | None = None) -> Calls:
    """The calls within the range ``steps`` of a Chrome trace.

    Args:
        trace: as ``export_chrome_trace`` writes it.
        threads: whose calls, see :func:`ids_of`; None: everybody's.

    Raises:
        ValueError: there is not one such range.
    """
    events = trace["traceEvents"]
    ranges = [e for e in events if e.get("cat") == "user_annotation" and e["name"] == RANGE]
    if len(ranges) != 1:
        raise ValueError(f"trace must have one range {RANGE!r}, got {len(ranges)}")
    begin, end = ranges[0]["ts"], ranges[0]["ts"] + ranges[0]["dur"]
    copies = {e["args"]["correlation"] for e in events if e.get("cat") == "gpu_memcpy" and "DtoH" in e["name"]}
    made = [
        (e["name"].split("_")[0], e.get("args", {}).get("correlation"))  # without the version: cudaMemcpy_v3020
        for e in events
        if e.get("cat") in ("cuda_runtime", "cuda_driver")
        and begin <= e["ts"] <= end
        and (threads is None or e["tid"] in threads)
    ]
    return Calls(
        [name for name, _ in made],
        [name for name, _ in made if name in WAITS],
        [name for name, correlation in made if correlation in copies],
    )


def ids_of(threads: Collection[threading.Thread]) -> set[int]:
    """The numbers that a trace may know threads by: the system's, where a thread ran torch's profiled operators, else CUDA's, which
    are the lower half of pthread's, and whose sign the trace drops."""
    found = set()
    for thread in threads:
        assert thread.ident is not None
        assert thread.native_id is not None
        low = ctypes.c_int32(thread.ident & 0xFFFFFFFF).value
        found |= {thread.native_id, low, abs(low), low & 0xFFFFFFFF}
    return found


def traced(steps: Callable[[], object], path: Path) -> dict[str, Any]:
    """The trace of a call, within the range ``steps``: what the profiler itself does before and after is outside."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=kinds) as profiler, record_function(RANGE):
        steps()
    profiler.export_chrome_trace(str(path))
    return json.loads(path.read_text())
