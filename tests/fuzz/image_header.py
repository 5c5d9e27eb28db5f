"""The header parser, as a program of its own under AddressSanitizer and UBSan (image_header.cpp)."""

import subprocess
import time
from pathlib import Path

from tests.file_kinds import KINDS, rotated

ROOT = Path(__file__).parents[2]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def fuzz(mutants: int, seed: int, folder: Path) -> dict[str, tuple[int, int]]:
    """As :func:`timed`, without the time."""
    return timed(mutants, seed, folder)[0]


def timed(mutants: int, seed: int, folder: Path) -> tuple[dict[str, tuple[int, int]], float]:
    """Compile the fuzzer into ``folder`` and run it on mutants of every kind of file.

    Returns:
        how many headers were read and how many files refused, by format (refusals: by the reason's first word); and the seconds that it
        took, without the compiler's.

    Raises:
        RuntimeError: a mutant was read outside its bounds, or gave something that is neither a header nor a reason; the message says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "image_header"
    sources = [Path(__file__).parent / "image_header.cpp", ROOT / "csrc/ops/image_header/image_header_cpu.cpp"]
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *SANITIZERS, f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(program)], check=True)
    files = {f"{i:03d}": kind.data for i, kind in enumerate(KINDS) if 0 < len(kind.data) < 1 << 16}
    files |= {f"exif-{kind}": rotated(kind, 6) for kind in ("JPEG", "PNG", "WEBP")}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    begun = time.monotonic()
    done = subprocess.run(
        [program, str(mutants), str(seed), *(str(folder / name) for name in files)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{done.stdout}{done.stderr}")
    lines = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    return {name: (int(headers), int(refusals)) for name, headers, refusals in lines}, time.monotonic() - begun
