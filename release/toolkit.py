"""A CUDA 12 compiler out of ordinary packages: what it compiles runs on drivers for CUDA 12 and on all newer ones.

NVIDIA publishes the headers, the runtime and the code generator of CUDA 12 on PyPI, but not nvcc; Debian has nvcc 12.4. Nothing is
installed: the pieces are laid out in a folder as nvcc expects them.
"""

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from release.debian import PackageError, check, run, unpack

VERSION = "12.4"
_SUITE = "trixie"
_DEBIAN = "nvidia-cuda-toolkit=12.4.131~12.4.1-2"
_HASHES = {
    _DEBIAN: "cd5fe85aee38d108b315f408a688641478f2402622a10c677478eb7a6c4e5319",
    "nvidia-cuda-nvcc-cu12==12.4.131": "e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04",
    "nvidia-cuda-cccl-cu12==12.4.127.post1": "2027fa5fc75fbee703bf24e8275a40a605cf94a3e8fef8a7187897d49b34facb",
    "nvidia-cuda-runtime-cu12==12.4.127": "64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5",
}
# The first packages of the runtime that hold it as a static library are newer than this compiler. Any runtime of CUDA 12 takes what
# an earlier compiler of CUDA 12 made; headers are the compiler's own.
_STATIC = {"nvidia-cuda-runtime-cu12==12.9.79": "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3"}
_PROFILE = """\
TOP                = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH              += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES          += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES         =+ $(_SPACE_) "-L$(TOP)/lib64"
"""


def cuda12(folder: Path) -> Path:
    """Make the toolkit in ``folder``, once, and return its folder of programs.

    Raises:
        PackageError: a package could not be downloaded or has other contents than the known ones.
    """
    if (folder / "complete").exists():
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        debian = _debian(Path(scratch) / "debian")
        wheels = _unpacked(Path(scratch) / "headers", [name for name in _HASHES if "==" in name])
        static = _unpacked(Path(scratch) / "static", list(_STATIC))
        for name in ("cudafe++", "fatbinary", "ptxas", "nvlink", "bin2c", "cuobjdump"):
            _copy(debian / "usr/bin" / name, folder / "bin" / name)
        own = debian / "usr/lib/nvidia-cuda-toolkit"
        for source, target in (("bin/nvcc", "bin/nvcc"), ("bin/crt", "bin/crt"), ("bin/cicc", "nvvm/bin/cicc")):
            _copy(own / source, folder / target)
        _copy(own / "libdevice", folder / "nvvm/libdevice")
        for part in ("cuda_nvcc", "cuda_runtime", "cuda_cccl"):
            _copy(wheels / "nvidia" / part / "include", folder / "include")
        for name in ("libcudart_static.a", "libcudadevrt.a"):
            _copy(static / "nvidia/cuda_runtime/lib" / name, folder / "lib64" / name)
    (folder / "bin/nvcc.profile").write_text(_PROFILE)
    (folder / "complete").touch()
    return folder / "bin"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _debian(folder: Path) -> Path:
    try:
        return unpack(_DEBIAN, _SUITE, "non-free", folder, _HASHES[_DEBIAN])
    except PackageError as error:
        raise PackageError(f"nvcc 12: {error}. Name a CUDA 12 toolkit by --cuda instead") from None


def _unpacked(folder: Path, packages: list[str]) -> Path:
    for package in packages:
        got = folder / "downloads" / package
        run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(got), package]
        )
        (wheel,) = got.iterdir()
        check(package, wheel, (_HASHES | _STATIC)[package])
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder
