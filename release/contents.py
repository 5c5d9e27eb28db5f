"""What is in a wheel, and whether that is what a cluster node needs."""

import re
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from release.elf import Library, version_numbers

MAX_BYTES = 8_000_000
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2")
ARCHITECTURES = ("sm_80", "sm_90")
_EXPECTED = ("dali_icgan/__init__.py", "dali_icgan/py.typed", "dali_icgan/engine/forms.json", "dali_icgan/embedded/generator.safetensors", "dali_icgan/embedded/extractor.safetensors")  # fmt: skip


def contents(wheel: Path, cuobjdump: Path | None = None) -> dict[str, Any]:
    """The facts: sizes in bytes, members, what the module needs, and with ``cuobjdump`` which GPUs it has code for."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        members = {each.filename: each.file_size for each in archive.infolist() if not each.is_dir()}
        modules = [name for name in members if ".so" in Path(name).name]
        paths = [Path(archive.extract(name, scratch)) for name in modules]
        libraries = [Library(path) for path in paths]
        codes = sorted({code for path in paths for code in _gpu_codes(path, cuobjdump)}) if cuobjdump else None
    return {
        "wheel": wheel.name,
        "tag": wheel.stem.split("-")[-1],
        "bytes": wheel.stat().st_size,
        "members": sorted(members),
        "modules": {name: members[name] for name in modules},
        "model_bytes": sum(size for name, size in members.items() if name.endswith(".safetensors")),
        "needs": sorted({name for library in libraries for name in library.needed}),
        "glibc": ".".join(map(str, max((library.highest("GLIBC") for library in libraries), default=()))),
        "exports": sorted({name for library in libraries for name in library.exports()}),
        "unversioned": sorted(
            {
                each.name
                for library in libraries
                for each in library.asked
                if not (each.version or each.weak or re.match(r"_?Py", each.name))
            }
        ),
        "gpu_code": codes,
    }


def faults(facts: dict[str, Any], floor: tuple[int, int]) -> list[str]:
    """What is wrong with a wheel, in words; empty if nothing is."""
    found = []
    if len(facts["modules"]) != 1 or not next(iter(facts["modules"])).startswith("dali_icgan/_C."):
        found.append(f"the wheel must hold one compiled module, dali_icgan/_C, got {list(facts['modules'])}")
    if more := [name for name in facts["needs"] if name not in GLIBC]:
        found.append(f"the module must need glibc alone, it needs {', '.join(more)}")
    if version_numbers(facts["glibc"]) > floor:
        found.append(f"the module must run on glibc {floor[0]}.{floor[1]}, it asks for {facts['glibc']}")
    if facts["unversioned"]:
        found.append(
            f"glibc {floor[0]}.{floor[1]} does not have {', '.join(facts['unversioned'])}: release/newer_glibc.c is the place"
        )
    if facts["exports"] != ["PyInit__C"]:
        found.append(f"the module must export PyInit__C alone, got {', '.join(facts['exports'])}")
    tags = [re.fullmatch(r"manylinux_(\d+)_(\d+)_x86_64", tag) for tag in facts["tag"].split(".")]
    glibcs = [(int(tag[1]), int(tag[2])) for tag in tags if tag]
    if not glibcs or min(glibcs) > floor:
        found.append(f"the tag must be manylinux_{floor[0]}_{floor[1]}_x86_64 or lower, got {facts['tag']}")
    elif min(glibcs) < version_numbers(facts["glibc"]) <= floor:
        found.append(f"the tag {facts['tag']} must cover glibc {facts['glibc']}, which the module asks for")
    if facts["bytes"] > MAX_BYTES:
        found.append(f"the wheel must stay under {MAX_BYTES / 1e6:g} MB, it has {facts['bytes'] / 1e6:.1f}")
    if missing := [name for name in _EXPECTED if name not in facts["members"]]:
        found.append(f"the wheel must hold {', '.join(missing)}")
    if strangers := [name for name in facts["members"] if not re.match(r"dali_icgan(/|-[\d.]+\.dist-info/)", name)]:
        found.append(f"the wheel must hold the package alone, it has {', '.join(strangers[:5])}")
    wanted = [*ARCHITECTURES, "PTX"]
    if facts["gpu_code"] is not None and not set(wanted) <= set(facts["gpu_code"]):
        found.append(f"the module must hold code for {', '.join(wanted)}, got {', '.join(facts['gpu_code']) or 'none'}")
    return found


def _gpu_codes(module: Path, cuobjdump: Path) -> set[str]:
    listed = subprocess.run([cuobjdump, "--list-elf", "--list-ptx", module], capture_output=True, text=True).stdout
    machine = {found[1] for found in re.finditer(r"\.(sm_\d+\w*)\.cubin", listed)}
    return machine | ({"PTX"} if ".ptx" in listed else set())
