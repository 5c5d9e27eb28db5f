"""``dali-icgan doctor``: what there is, and whether it works."""

import ctypes
import io
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.text import Text

from dali_icgan import build_info
from dali_icgan._native import device_fault
from dali_icgan.augment.plan import RowKeys, Stream
from dali_icgan.cli.facts import checkpoint_facts, grid
from dali_icgan.data import ImageDecoder
from dali_icgan.data.decode import available_threads
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.models.checkpoint import read_extractor, read_generator
from dali_icgan.ops import truncated_normal, uniform
from dali_icgan.ops.assemble import assemble, assemble_reference

# The oldest Linux driver that runs a CUDA version (CUDA release notes, "CUDA Toolkit and Corresponding Driver Versions").
_OLDEST_DRIVER = {"12": "525.60", "13": "580.65"}
_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")

Line = tuple[str, str | Text]


def run(generator: str | None, extractor: str | None, quick: bool) -> bool:
    """Print it all; False if something does not work."""
    console = Console(highlight=False)
    gpus, driver = find_gpus(), find_driver()
    faults = gpu_faults(gpus, driver, build_info())
    _print(console, "software", _software())
    _print(console, "machine", _machine(gpus, driver))
    for fault in faults:
        console.print(fault, style="bold red")
    for kind, source, read in (("generator", generator, read_generator), ("extractor", extractor, read_extractor)):
        if source is not None:
            _print(console, f"{kind} {source}", checkpoint_facts(read(source)))
    results = [] if quick else self_test()
    if results:
        _print(console, "self-test", [(name, _verdict(reason, seconds)) for name, reason, seconds in results])
    return not faults and all(reason is None for _, reason, _ in results)


def _print(console: Console, title: str, lines: Sequence[Line]) -> None:
    console.print(f"[bold]{title}[/]")
    console.print(grid((f"  {name}", value) for name, value in lines))


def _verdict(reason: str | None, seconds: float) -> Text:
    return Text(f"ok  {seconds:.2f} s", "green") if reason is None else Text(f"FAILED: {reason}", "red")


# ---------------------------------------------------------------------- what there is


def _software() -> list[Line]:
    info = build_info()
    made = "CPU only"
    if info["cuda"] == "built":
        made = f"CUDA {_cuda_version(info['cuda_compiler'])} for {' '.join(info['architectures'])}, and CPU"
    commit, python = info["commit"] or "unknown", platform.python_version()
    return [
        ("dali-icgan", f"{version('dali-icgan')}, commit {commit}, Python {python}"),
        ("kernels", f"{made}; {info['compiler']}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'absent'}; numpy {np.__version__}"),
        ("DALI", _installed(("nvidia-dali-cuda130", "nvidia-dali-cuda120"), "no image files can be read")),
        ("CuPy", _installed(("cupy-cuda13x", "cupy-cuda12x"), "only a GPU has a use for it")),
        ("faiss", _first_version(("faiss-cpu", "faiss-gpu")) or "missing: torch finds neighbours, [knn] brings it"),
    ]


def _first_version(packages: Sequence[str]) -> str | None:
    for package in packages:
        try:
            return f"{version(package)} ({package})"
        except PackageNotFoundError:
            continue
    return None


def _installed(packages: Sequence[str], without: str) -> str:
    return _first_version(packages) or f"missing, {without}: pip install 'dali-icgan[cu13]' (or [cu12])"


def _machine(gpus: list[tuple[str, str, str]] | None, driver: str | None) -> list[Line]:
    name, flags = platform.processor(), ""
    with_flags = Path("/proc/cpuinfo")
    if with_flags.exists():
        text = with_flags.read_text()
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        name = found[1] if found else name
        listed = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
        flags = " ".join(flag for flag in _FLAGS if listed and flag in listed[1].split()) or "none of those used"
    cores = f"{available_threads()} of {os.cpu_count()} cores, torch threads: {torch.get_num_threads()}"
    lines: list[Line] = [("CPU", f"{name}; {flags}; {cores}")]
    if gpus:
        lines += [("GPU", f"{gpu}, {memory}, compute capability {capability}") for gpu, memory, capability in gpus]
    else:
        lines += [("GPU", "none: everything runs on the CPU")]
    lines += [("driver", _driver(driver, find_driver_cuda(), build_info()))]
    if _first_version(("nvidia-dali-cuda130", "nvidia-dali-cuda120")) is None:
        return [*lines, ("decoder", "none: DALI is missing")]
    if torch.cuda.is_available():
        return [
            *lines,
            ("decoder", "DALI mixed: whole images on the GPU (nvJPEG); on the CPU only the region under a crop"),
        ]
    return [*lines, ("decoder", "DALI on the CPU: only the region under a crop")]


def find_gpus() -> list[tuple[str, str, str]] | None:
    """(name, memory, compute capability) of each GPU, as nvidia-smi tells, which makes no context; None where it does not run."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def find_driver(path: str = "/proc/driver/nvidia/version") -> str | None:
    """The version of the NVIDIA driver, of its kernel module; None where there is none."""
    try:
        found = re.search(r"\s(\d+\.[\d.]+)\s", Path(path).read_text())
    except OSError:
        return None
    return found[1] if found else None


def find_driver_cuda(library: str = "libcuda.so.1") -> str | None:
    """The newest CUDA that the driver runs, such as "12.4", as it says itself, which makes no context; None where there is none."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _driver(driver: str | None, cuda: str | None, info: dict[str, object]) -> str:
    """The driver beside what this build asks of one."""
    made = _cuda_version(str(info["cuda_compiler"]))
    oldest = _OLDEST_DRIVER.get(made.split(".")[0])
    needs = f"this build, of CUDA {made}, needs {oldest} or newer" if oldest else "this build has no use for one"
    if driver is None and cuda is None:
        return f"none; {needs}"
    runs = f", for CUDA {cuda} and older" if cuda else ""
    return f"{driver or 'of unknown version'}{runs}; {needs}"


def gpu_faults(gpus: list[tuple[str, str, str]] | None, driver: str | None, info: dict[str, object]) -> list[str]:
    """Why the GPU cannot run this build, in words; empty where it can, or where there is none."""
    if driver is None and not gpus:
        return []
    if info["cuda"] != "built":
        return [
            "This build has no CUDA code, the GPU is not used: build it again where nvcc is (DALI_ICGAN_CUDA=1 demands it)."
        ]
    faults = []
    cuda = _cuda_version(str(info["cuda_compiler"]))
    oldest = _OLDEST_DRIVER.get(cuda.split(".")[0])
    if driver and oldest and _numbers(driver)[:2] < _numbers(oldest):
        faults.append(
            f"The driver is too old: {driver}, and CUDA {cuda}, with which this build was made, needs {oldest} or newer. "
            "Update the driver, or take a wheel that was built with an older CUDA, and the matching extra."
        )
    architectures = [str(each) for each in info["architectures"]]  # type: ignore[attr-defined]
    for name, _, capability in gpus or ():
        if fault := device_fault(capability, architectures):
            faults.append(f"{name}: {fault}: build again with DALI_ICGAN_CUDA_ARCHS naming it.")
    if not faults and not torch.cuda.is_available():
        faults.append(
            f"torch {torch.__version__} sees no CUDA device: it is a build without CUDA, or the device is hidden."
        )
    return faults


def _cuda_version(compiler: str) -> str:
    """Of nvcc's own line, such as "Build cuda_13.0.r13.0/compiler.36424714_0"."""
    found = re.search(r"cuda_(\d+\.\d+)|release (\d+\.\d+)", compiler)
    return (found[1] or found[2]) if found else "unknown"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


# ---------------------------------------------------------------------- whether it works


def self_test() -> list[tuple[str, str | None, float]]:
    """(what, why it failed or None, seconds) of some seconds of trials."""
    trials: list[tuple[str, Callable[[], None]]] = [
        ("random numbers", _try_noise),
        ("assemble", _try_assemble),
        ("decode", _try_decode),
        ("generate", _try_generate),
    ]
    if torch.cuda.is_available():
        trials.append(("GPU", _try_gpu))
    results = []
    for name, trial in trials:
        begin = perf_counter()
        reason = None
        try:
            trial()
        except Exception as error:  # whatever it is, it is the answer
            reason = " ".join(str(error).split()) or type(error).__name__
        results.append((name, reason, perf_counter() - begin))
    return results


class _Wrong(Exception):
    pass


def _expect(right: bool, otherwise: str) -> None:
    if not right:
        raise _Wrong(otherwise)


_KEYS = RowKeys(seed=20, epoch=3, index=np.array([0, 1, 2**33]), repeat=np.array([0, 5, 1]), view=1)
# Saved states rely on these numbers, on every machine.
_UNIFORM = (
    "0x1.3257db762b575p-1",
    "0x1.4b84d5112dad9p-1",
    "0x1.c3f9d9c9a33b8p-3",
    "0x1.49fa6a922a09bp-1",
    "0x1.bd42451859470p-5",
    "0x1.e057cce6ced33p-1",
)
_NOISE = ("-0x1.2fc9e2p-3", "0x1.0c17e8p-2", "-0x1.7b82e2p-4", "-0x1.d86826p-1", "-0x1.83678ep-1", "0x1.747fe4p-2")


def _try_noise() -> None:
    got = uniform(_KEYS, Stream.CROP, 2).ravel().tolist()
    _expect(got == [float.fromhex(x) for x in _UNIFORM], f"uniform numbers must be the known ones, got {got}")
    got = _noise("cpu").ravel().tolist()
    _expect(got == [float.fromhex(x) for x in _NOISE], f"normal numbers must be the known ones, got {got}")


def _noise(device: str) -> torch.Tensor:
    return truncated_normal(_KEYS, 2, truncation=0.7, device=device).cpu()


def _assembled(device: str) -> tuple[torch.Tensor, npt.NDArray[np.float64]]:
    random = np.random.default_rng(0)
    regions = [
        torch.from_numpy(random.integers(0, 256, (h, w, 3), np.uint8)).to(device) for h, w in ((37, 53), (61, 29))
    ]
    made = torch.from_numpy(random.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)).to(device)
    window = np.array([[2, 3, 30, 41], [0, 0, 61, 29], [1, 1, 11, 13]], np.int32)
    rows: dict[str, Any] = {
        "source": np.array([0, 1, -1]),
        "window": window,
        "offset": np.zeros((3, 2)),
        "scale": window[:, 2:] / 24,
        "flip": np.array([True, False, True]),
        "real_mean": (0.5, 0.4, 0.3),
        "real_std": (0.2, 0.3, 0.25),
        "generated_mean": (0.5, 0.5, 0.5),
        "generated_std": (0.5, 0.5, 0.5),
    }
    out = torch.empty(3, 3, 24, 24, device=device)
    assemble(regions, made, **rows, out=out)
    return out.cpu(), assemble_reference(regions, made, **rows, size=(24, 24))


def _try_assemble() -> None:
    got, exact = _assembled("cpu")
    worst = float(np.abs(got.double().numpy() - exact).max())
    _expect(worst < 2e-5, f"a small batch must be within 2e-5 of its float64 reference, got {worst:.1e}")


def _jpeg() -> bytes:
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([x * 4, y * 5, (x * y) % 256], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _decoded(device: str) -> torch.Tensor:
    decoder = ImageDecoder(1, device=device)
    try:
        pixels = decoder.decode([_jpeg()])[0]
    finally:
        decoder.close()
    if isinstance(pixels, str):
        raise _Wrong(f"a sound JPEG must be decoded, got: {pixels}")
    return pixels.cpu()


def _try_decode() -> None:
    with Image.open(io.BytesIO(_jpeg())) as opened:
        expected = torch.from_numpy(np.array(opened.convert("RGB")))
    got = _decoded("cpu")
    _expect(got.shape == expected.shape, f"a JPEG must have {list(expected.shape)}, got {list(got.shape)}")
    worst = int((got.int() - expected.int()).abs().max())
    _expect(worst == 0, f"a JPEG must be decoded to Pillow's pixels, got a difference of {worst} levels of 255")


def _generated(device: str) -> torch.Tensor:
    generator, extractor = (
        load_generator("embedded", device, torch.float32),
        load_extractor("embedded", device, torch.float32),
    )
    y, x = torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")
    image = torch.stack([x * 5, y * 6, (x + y) * 2], -1).to(torch.uint8).to(generator.device)
    h = extractor.at_resolution(generator.resolution)([image, image.flip(0)])
    _expect(
        bool(((h.norm(dim=1) - 1).abs() < 1e-5).all()), f"features must have length 1, got {h.norm(dim=1).tolist()}"
    )
    z = truncated_normal(_KEYS.take(slice(0, 2)), generator.dim_z, truncation=0.7, device=generator.device)
    first, again = generator(z, h), generator(z, h)
    _expect(torch.equal(first, again), "the same call must give the same image twice, got different ones")
    inside = bool(first.isfinite().all()) and float(first.abs().max()) <= 1
    _expect(inside, f"pixels must lie in [-1, 1], got {float(first.min())}..{float(first.max())}")
    return first.cpu()


def _try_generate() -> None:
    _generated("cpu")


def _try_gpu() -> None:
    _expect(torch.equal(_noise("cuda"), _noise("cpu")), "noise must have the same bits on GPU and CPU, got others")
    _expect(
        torch.equal(_assembled("cuda")[0], _assembled("cpu")[0]),
        "assemble must give the same bits on GPU and CPU, got others",
    )
    worst = float((_generated("cuda") - _generated("cpu")).abs().max())
    _expect(worst < 1e-3, f"a generation must be within 1e-3 of the CPU's, got {worst:.1e}")
    levels = float((_decoded("cuda").int() - _decoded("cpu").int()).abs().float().mean())
    _expect(
        levels < 4, f"a JPEG must be decoded to within 4 levels of 255 on average of the CPU's pixels, got {levels:.1f}"
    )
