"""Builds dali_icgan._C with ninja: C++ for the CPU always, CUDA where nvcc is found.

DALI_ICGAN_CUDA: 1 demands nvcc, 0 forbids it, "emulate" compiles the kernels as C++ that runs them on the CPU (for tests; the
result goes to build/emulate and never replaces the installed module).
DALI_ICGAN_CUDA_ARCHS: "80;90" by default; the last one is also kept as PTX.
CXX and LDFLAGS are heeded as usual; `python -m release` makes wheels for older systems by LDFLAGS alone (docs/cluster.md).
DALI_ICGAN_SANITIZE=1 adds AddressSanitizer and UBSan (with emulate; the result goes to build/sanitize).
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ninja
import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent.resolve()
# No contraction: both sides round where the source says so. -ffp-contract and --fmad are the same promise.
CXX_FLAGS = "-std=c++17 -fPIC -pthread -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror"
CUDA_FLAGS = "-std=c++17 --fmad=false --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden,-Wall"
SANITIZE_FLAGS = " -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -g"
ARCHS = os.environ.get("DALI_ICGAN_CUDA_ARCHS", "80;90").split(";")
CUDA = os.environ.get("DALI_ICGAN_CUDA", "auto")
EMULATE = CUDA == "emulate"
SANITIZE = os.environ.get("DALI_ICGAN_SANITIZE", "0") not in ("", "0")


def find_nvcc() -> str | None:
    if CUDA not in ("auto", "0", "1", "emulate"):
        sys.exit(f"DALI_ICGAN_CUDA must be 0, 1, emulate or unset, got {CUDA!r}")
    nvcc = None if CUDA in ("0", "emulate") else shutil.which("nvcc")
    if CUDA == "1" and not nvcc:
        sys.exit("DALI_ICGAN_CUDA=1 needs nvcc on PATH, and there is none")
    return nvcc


def first_line(*command: str, last: bool = False) -> str:
    try:
        lines = (
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip().splitlines()
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return lines[-1 if last else 0] if lines else ""


def commit() -> str:
    """Of the source: as it was written into an sdist, or as git tells; "" if neither is there."""
    written = ROOT / "COMMIT"
    if written.exists():
        return written.read_text().strip()
    described = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return first_line(*described) if (ROOT / ".git").exists() else ""


def cuda_libraries(nvcc: str) -> str:
    """Where nvcc links from, and what: the runtime becomes a part of the module and looks for the driver when it is first used."""
    plan = subprocess.run([nvcc, "--dryrun", "-shared", "x.o"], capture_output=True, text=True, check=True).stderr
    folders = next(line.partition("LIBRARIES=")[2] for line in plan.splitlines() if "LIBRARIES=" in line)
    return f"{folders} -lcudart_static -ldl -lrt"


def rule(source: Path) -> str:
    return "cuda" if source.suffix == ".cu" else "bind" if source.parent.name == "python" else "cxx"


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class SourceArchive(sdist):
    """An sdist, which knows the commit that it was made from."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        (Path(base_dir) / "COMMIT").write_text(commit() + "\n")


class NinjaBuild(build_ext):
    """Writes a build.ninja over the globbed sources and runs it."""

    def build_extension(self, extension: Extension) -> None:
        nvcc, cxx = find_nvcc(), os.environ.get("CXX", "g++")
        kind = "sanitize" if SANITIZE else "emulate" if EMULATE else "cuda" if nvcc else "cpu"
        build = ROOT / "build" / kind  # kept between calls, so that a second build is quick
        build.mkdir(parents=True, exist_ok=True)
        with (build / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            built = self.compile(build, nvcc, cxx)
            if EMULATE:
                return
            target = Path(self.get_ext_fullpath(extension.name)).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_suffix(".new")  # renamed into place: a process that has the old one mapped keeps it
            shutil.copy2(built, scratch)
            scratch.replace(target)

    def compile(self, build: Path, nvcc: str | None, cxx: str) -> Path:
        target = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        # Ninja works in the build folder, and paths lead from there: so the result does not depend on where the source lies.
        root = os.path.relpath(ROOT, build)
        includes = f"-I{root}/csrc -I. -I{pybind11.get_include()} -I{sysconfig.get_paths()['include']}"
        codes = [f"-gencode arch=compute_{a},code=sm_{a}" for a in ARCHS] + [
            f"-gencode arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}"
        ]
        sources = sorted(ROOT.glob("csrc/**/*.cpp")) + (sorted(ROOT.glob("csrc/**/*.cu")) if nvcc or EMULATE else [])
        objects = [str(s.relative_to(ROOT)).replace("/", "_") + ".o" for s in sources]
        flags = includes + (" -DDI_WITH_CUDA" if nvcc or EMULATE else "") + (" -DDI_EMULATE_CUDA" if EMULATE else "")
        # -O3 with sanitizers makes the compiler itself take minutes.
        optimise = SANITIZE_FLAGS if SANITIZE else " -O3"
        architectures = " ".join([f"sm_{a}" for a in ARCHS] + [f"compute_{ARCHS[-1]}"]) if nvcc or EMULATE else ""
        write_if_changed(
            build / "build_info_values.h",
            f'#define DI_ARCHITECTURES "{architectures}"\n'
            f'#define DI_COMPILER "{first_line(cxx, "--version")}"\n'
            f'#define DI_CUDA_COMPILER "{first_line(nvcc, "--version", last=True) if nvcc else ""}"\n'
            f'#define DI_COMMIT "{commit()}"\n',
        )
        write_if_changed(build / "exports.map", "{ global: PyInit__C; local: *; };\n")
        link = f"{cxx} -shared -pthread -Wl,--version-script=exports.map{optimise}"
        libraries = f"{os.environ.get('LDFLAGS', '')} {cuda_libraries(nvcc) if nvcc else ''}"
        emulated = f"{cxx} -x c++ {CXX_FLAGS} -Wno-unknown-pragmas -I{root}/tests/emulation"
        # Bindings are templates of pybind11: parsed once, and not worth optimising. -Wno-...: lost on the way through a precompiled header.
        # Asserts in headers name their files: without where those lie on this machine.
        headers = {"pybind11": pybind11.get_include(), "python": sysconfig.get_paths()["include"]}
        shown = " ".join(f"-ffile-prefix-map={folder}={name}" for name, folder in headers.items())
        bind = f"{cxx} {CXX_FLAGS} {flags}{optimise} -O1 -Wno-missing-field-initializers {shown}"
        # pybind11 keeps its tables per ABI name and shares them among modules; libstdc++ may be a part of ours and not of theirs.
        write_if_changed(
            build / "bindings.h",
            '#define PYBIND11_BUILD_ABI "_dali_icgan"\n#include <pybind11/numpy.h>\n#include <pybind11/stl.h>\n',
        )
        cuda = f"{nvcc} {CUDA_FLAGS} {' '.join(codes)}" if nvcc else emulated
        write_if_changed(
            build / "build.ninja",
            f"rule cxx\n  command = {cxx} {CXX_FLAGS} {flags}{optimise} -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n"
            f"rule bind\n  command = {bind} -include bindings.h -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n"
            f"rule header\n  command = {bind} -x c++-header $in -o $out\nbuild bindings.h.gch: header bindings.h\n"
            f"rule cuda\n  command = {cuda} {flags}{optimise} {'-MD' if nvcc else '-MMD'} -MF $out.d -c $in -o $out\n"
            "  depfile = $out.d\n  deps = gcc\n"
            f"rule link\n  command = {link} $in -o $out {libraries}\n"
            + "".join(
                f"build {o}: {rule(s)} {root}/{s.relative_to(ROOT)}{' | bindings.h.gch' if rule(s) == 'bind' else ''}\n"
                for s, o in zip(sources, objects, strict=True)
            )
            + f"build {target}: link {' '.join(objects)}\n",
        )
        subprocess.run([Path(ninja.BIN_DIR) / "ninja", "-C", build, "--quiet"], check=True)
        return build / target


setup(ext_modules=[Extension("dali_icgan._C", [])], cmdclass={"build_ext": NinjaBuild, "sdist": SourceArchive})
