"""Writes docs/kernels.md, what the built module's CUDA kernels are made of:  python benchmarks/kernels.py [--check]

Reads the compiled code by cuobjdump and counts the bytes that the generator's kernels move; times nothing, so it needs no GPU.
Registers are the compiler's choice: the page names the compiler, and --check says so where it is another.
"""

import argparse
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dali_icgan as di
from dali_icgan.models.generator import BOTTOM, GeneratorConfig

PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"
BUILT = str(importlib.import_module("dali_icgan._C").__file__)
NEWEST = 90  # whose code is counted, and whose limits these are
REGISTERS, THREADS, BLOCKS, SHARED, RESERVED = (
    65536,
    2048,
    32,
    228 * 1024,
    1024,
)  # a multiprocessor's; the last a block's
SIZES = {"float": 4, "Half": 2, "BFloat16": 2, "double": 8, "unsigned char": 1}
OTHER_COMPILER = 3  # exit status of --check


def find_cuobjdump() -> str | None:
    """The toolkit's, or the one that comes with torch's triton."""
    triton = importlib.util.find_spec("triton")
    origin = triton.origin if triton is not None else None
    bundled = None if origin is None else str(Path(origin).parent / "backends" / "nvidia" / "bin")
    return shutil.which("cuobjdump") or (shutil.which("cuobjdump", path=bundled) if bundled else None)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass
class Kernel:
    """One kernel: what each architecture's code takes, and what is in the newest's."""

    name: str  # without _kernel
    arguments: tuple[str, ...]  # of the template
    registers: dict[int, int] = field(default_factory=dict)
    stack: int = 0  # the most of any architecture, local memory included
    static: int = 0  # shared memory, the reserved part left out
    threads: int = 0
    loads: list[int] = field(default_factory=lambda: [0, 0])  # of global memory: 128 bits wide, all
    stores: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def dynamic(self) -> int:
        """Shared memory that its launcher asks for, as it is computed there."""
        if self.name == "tail":
            return 4 * 16 * (34 * 34 + 2 + 28)  # 16 channels: a tile of 34 x 34, its padding, 27 weights in 28
        if self.name == "assemble":
            return (
                12 * 32 * 16 // SIZES[self.arguments[1]] + 4 * 8 * 3 * 384
            )  # the taps of a tile's columns; 8 lines of 384 pixels
        return 0

    def occupancy(self) -> tuple[int, str]:
        """Blocks a multiprocessor of the newest architecture, and what limits them."""
        warps = -(-self.threads // 32)
        # Registers are given out a warp at a time, in units of 256.
        by = {
            "registers": REGISTERS // (warps * -(-self.registers[NEWEST] * 32 // 256) * 256),
            "shared memory": SHARED // (self.static + self.dynamic + RESERVED),
            "threads": THREADS // (32 * warps),
            "blocks": BLOCKS,
        }
        limit = min(by, key=lambda name: by[name])
        return by[limit], limit


def functions(text: str, pattern: str) -> Iterator[tuple[str, str]]:
    """(mangled name, what follows it up to the next)."""
    pieces = re.split(pattern, text, flags=re.MULTILINE)
    yield from zip(pieces[1::2], pieces[2::2], strict=True)


def kernels(cuobjdump: str) -> list[Kernel]:
    usage = output(cuobjdump, "--dump-resource-usage", BUILT)
    mangled_names = sorted(set(re.findall(r"Function (\S+):", usage)))
    found: dict[str, Kernel] = {}
    for mangled, name in zip(mangled_names, output("c++filt", *mangled_names).splitlines(), strict=True):
        parsed = re.match(r"(?:void )?di::(?:\w+::)?(\w+)_kernel(?:<(.*?)>)?\(", name)
        if parsed is not None:
            arguments = tuple(a.strip().removeprefix("di::") for a in parsed[2].split(",")) if parsed[2] else ()
            found[mangled] = Kernel(parsed[1], arguments)

    for arch, section in functions(usage, r"^arch = sm_(\d+)$"):
        figures = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
        for mangled, registers, stack, shared, local in re.findall(figures, section):
            if (one := found.get(mangled)) is not None:
                one.registers[int(arch)] = int(registers)
                one.stack = max(one.stack, int(stack) + int(local))
                if int(arch) == NEWEST:
                    one.static = max(0, int(shared) - RESERVED)  # counted wherever there is shared memory
    for mangled, section in functions(
        output(cuobjdump, "-elf", "-arch", f"sm_{NEWEST}", BUILT), r"^\.nv\.info\.(\S+)$"
    ):
        threads = re.search(r"EIATTR_MAX_THREADS\s+Format:\s+EIFMT_SVAL\s+Value:\s+0x(\w+) 0x(\w+) 0x(\w+)", section)
        if (one := found.get(mangled)) is not None and threads:
            one.threads = int(threads[1], 16) * int(threads[2], 16) * int(threads[3], 16)
    for mangled, section in functions(output(cuobjdump, "-sass", "-arch", f"sm_{NEWEST}", BUILT), r"Function : (\S+)$"):
        if (one := found.get(mangled)) is not None:
            for counts, opcode in ((one.loads, "LDG"), (one.stores, "STG")):
                counts[0] = len(re.findall(rf"\b{opcode}\.E\.128\b", section))
                counts[1] = len(re.findall(rf"\b{opcode}\.E\b", section))
    return sorted(found.values(), key=lambda one: (one.name, one.arguments))


def kernel_table(cuobjdump: str) -> str:
    rows = [
        "| kernel | template | threads | registers, sm_80 / sm_90 | stack | shared memory | blocks (warps) a multiprocessor | limited by "
        "| 128-bit loads / all | 128-bit stores / all |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in kernels(cuobjdump):
        blocks, limit = one.occupancy()
        shared = f"{one.static + one.dynamic:,}" if one.static + one.dynamic else "0"
        registers = " / ".join(str(one.registers.get(arch, "-")) for arch in (80, NEWEST))
        rows.append(
            f"| {one.name} | {', '.join(one.arguments)} | {one.threads} | {registers} | {one.stack} | {shared} "
            f"| {blocks} ({blocks * -(-one.threads // 32)}) | {limit} | {one.loads[0]} / {one.loads[1]} "
            f"| {one.stores[0]} / {one.stores[1]} |"
        )
    return "\n".join(rows)


def generator_bytes(config: GeneratorConfig) -> list[tuple[str, int, str, str]]:
    """(kernel, bytes an image in half precision, each activation once; MB estimated before it was written; what moves)."""
    half, wide = 2, 4
    sizes = list(zip(config.block_resolutions, config.out_channels, strict=True))
    first = BOTTOM * BOTTOM * config.in_channels[0]
    upsampled, added, attended, pooled = 0, 2 * first * half + 2 * config.in_channels[0] * wide, 0, 0
    for side, c in sizes:
        pixels, hidden, steering = side * side, side * side * c, 2 * c * wide
        upsampled += 2 * hidden * half + steering
        if side == config.resolution:
            continue
        added += (hidden + hidden // 4 + hidden) * half
        if side in config.attention:
            attended += 4 * hidden * half + steering
            d, e = c // 8, c // 2
            pooled += (pixels * (2 * d + e) + pixels * d + pixels // 4 * (d + e)) * half
        else:
            added += hidden * half + steering
    last = (hidden + hidden // 4 + 3 * pixels) * half
    adds = "add_upsampled_cbn_relu"
    return [
        (
            "depth_to_space_cbn_relu",
            upsampled,
            "48.4",
            "z read, a written; of the border the unused phases are not read",
        ),
        (
            adds,
            added,
            "37.9, with the next line's a",
            "conv and shortcut read, y and a written; where attention follows y alone",
        ),
        (f"{adds}, after attention", attended, "none of it", "attention's output and y read, their sum and a written"),
        ("pool_qkv", pooled, "3.2", "theta, phi and g read; q, k and v written, in rows as wide as their values"),
        ("tail", last, "16.2", "conv and shortcut read, three colours written"),
    ]


def bytes_table() -> str:
    rows = ["| kernel | MB an image | estimated before it was written | what moves |", "|---|---|---|---|"]
    counted = generator_bytes(GeneratorConfig(256, 96, 17, attention=(64,)))
    rows += [f"| {name} | {count / 1e6:.1f} | {estimate} | {words} |" for name, count, estimate, words in counted]
    return "\n".join([*rows, f"| together | {sum(count for _, count, _, _ in counted) / 1e6:.1f} | | |"])


def page(cuobjdump: str) -> str:
    built = di.build_info()
    return f"""# Kernels

Written by `python benchmarks/kernels.py` from a build by `{built["cuda_compiler"]}` for {", ".join(built["architectures"])}. No number here is a time: no GPU has run these kernels yet.

## What the compiled code takes
Template arguments are element types and, of channels-last kernels, the channels a thread owns: 8 or 4 are a 16-byte packet, 1 is the path for widths and addresses that forbid packets. Stack includes local memory: there is none, so nothing spills. Shared memory includes what launchers ask for. Blocks and limits are those of sm_{NEWEST}. Loads and stores are instructions of global memory in sm_{NEWEST}'s code, copies of unrolled loops included.

{kernel_table(cuobjdump)}

## What the generator's kernels move
256 px, 96 channels, half precision: every activation once, scales and shifts included, weights and what a tile's border reads again left out (at most 13% of `tail`'s input, from cache where neighbours run together).

{bytes_table()}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date; write nothing")
    arguments = parser.parse_args()
    cuobjdump = find_cuobjdump()
    built = di.build_info()
    if built["cuda"] != "built" or cuobjdump is None:
        print("kernels.py needs a build with CUDA, and cuobjdump (the toolkit's, or triton's)", file=sys.stderr)
        return 2
    if not arguments.check:
        PAGE.write_text(page(cuobjdump))
        return 0
    recorded = PAGE.read_text() if PAGE.exists() else ""
    by = f"`{built['cuda_compiler']}` for {', '.join(built['architectures'])}."
    if recorded and by not in recorded:
        print(f"docs/kernels.md was written from another build than by {by}", file=sys.stderr)
        return OTHER_COMPILER
    if page(cuobjdump) != recorded:
        print("docs/kernels.md: run python benchmarks/kernels.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
