"""Loads the build that runs the CUDA kernels on the CPU, beside the installed one."""

import functools
import importlib.machinery
import importlib.util
import os
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


@functools.cache
def emulated_module() -> ModuleType:
    """The extension built with DALI_ICGAN_CUDA=emulate (``make emulate``), from its own folder."""
    folder = Path(os.environ.get("DALI_ICGAN_EMULATED", ROOT / "build" / "emulate"))
    found = sorted(folder.glob("_C*.so"))
    if not found:
        raise RuntimeError(f"no emulated build in {folder}: run `make emulate` (make test does)")
    loader = importlib.machinery.ExtensionFileLoader("dali_icgan_emulated._C", str(found[0]))
    spec = importlib.util.spec_from_file_location("dali_icgan_emulated._C", found[0], loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
