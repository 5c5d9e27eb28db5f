"""The compiled module: what it exports, what it needs, what code for GPUs it holds."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dali_icgan as di

BUILT = importlib.import_module("dali_icgan._C").__file__


def find_cuobjdump():
    """The toolkit's, or the one that comes with torch's triton."""
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" if triton is not None else None
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=bundled)


CUOBJDUMP = find_cuobjdump()
needs_cuda_tools = pytest.mark.skipif(
    di.build_info()["cuda"] != "built" or CUOBJDUMP is None, reason="needs a build with CUDA, and cuobjdump"
)


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_only_the_modules_init_is_exported():
    names = [line.split()[-1] for line in output("nm", "-D", "--defined-only", BUILT).splitlines()]
    assert names == ["PyInit__C"]


def test_no_framework_driver_or_cuda_library_is_needed():
    needed = re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", BUILT))
    assert needed
    allowed = ("libc.", "libm.", "libstdc++.", "libgcc_s.", "libpthread.", "libdl.", "librt.", "ld-linux")
    assert [name for name in needed if not name.startswith(allowed)] == []


@needs_cuda_tools
def test_code_for_each_architecture_and_ptx():
    listed = output(CUOBJDUMP, "--list-elf", "--list-ptx", BUILT)
    for name in di.build_info()["architectures"]:
        assert name.replace("compute", "sm") in listed
    assert ".ptx" in listed


@needs_cuda_tools
def test_kernels_use_no_stack_and_no_local_memory():
    usage = re.findall(
        r"Function (\S+):\s*\n?\s*(REG:\S+ STACK:\S+ .*)", output(CUOBJDUMP, "--dump-resource-usage", BUILT)
    )
    assert len(usage) > 10
    assert [name for name, figures in usage if "STACK:0 " not in figures or "LOCAL:0 " not in figures] == []
