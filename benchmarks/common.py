"""What every benchmark beside `dali-icgan bench` shares: where it ran, and one JSON object a line."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import dali_icgan as di
from dali_icgan.bench.record import command, commit, cpu_facts, dali_version, now
from dali_icgan.bench.record import raise_allocator_thresholds as raise_allocator_thresholds
from dali_icgan.bench.record import summary as summary
from dali_icgan.bench.record import windows as windows


def environment() -> dict[str, Any]:
    """Where and with what a figure was measured."""
    facts = cpu_facts()
    named = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "date": now(),
        "command": command(),
        "commit": commit(),
        "processor": facts["processor"],
        "instruction_sets": [name for name in named if name in facts["cpu_flags"]],
        "threads": torch.get_num_threads(),
        "mkl": os.environ.get("MKL_ENABLE_INSTRUCTIONS"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "dali": dali_version(),
        "python": platform.python_version(),
        "build": di.build_info(),
    }


def emit(record: dict[str, Any], out: Path | None) -> None:
    """Print one line, and append it to ``out``."""
    line = json.dumps(record)
    print(line, flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(line + "\n")
