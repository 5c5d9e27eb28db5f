"""Winograd's convolutions beside torch's on the CPU, layer by layer of a generator, every tile: which tile is the fastest where.

    python -m benchmarks.winograd --layers 256 --channels 64 --batch-size 2 --instructions avx2

Torch does the same mathematics unfused in channels_last memory: relu(x * scale + shift), nearest upsampling, conv2d, addition of the
upsampled shortcut. ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 in the environment holds it to AVX2. GFLOP/s are of the
multiplications and additions of the matrix products that are really done, the share is of the processor's peak of fused multiply-adds,
measured in the same run.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import emit, environment, summary, windows
from dali_icgan.models.generator import BOTTOM, GeneratorConfig
from dali_icgan.ops.instructions import instruction_sets
from dali_icgan.ops.winograd import TILES, PackedConvolution, winograd_reference

# Largest relative error in float32 that is right; torch's own is 9e-7.
ALLOWED = 4e-6
# Twelve chains of multiply-adds hide the latency of each.
PEAK = """
#include <time.h>
typedef float V __attribute__((vector_size(BYTES)));
volatile float sink;
double peak(long rounds) {
  V sum[12], a, b;
  for (int i = 0; i < 12; ++i) sum[i] = (V){} + (float)i;
  for (int i = 0; i < BYTES / 4; ++i) a[i] = 0.999f, b[i] = 0.001f;
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (long k = 0; k < rounds; ++k)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sum[i] = sum[i] * a + b;
  clock_gettime(CLOCK_MONOTONIC, &end);
  for (int i = 0; i < 12; ++i) sink = sum[i][0];
  return 2.0 * 12 * (BYTES / 4) * rounds / (end.tv_sec - begin.tv_sec + 1e-9 * (end.tv_nsec - begin.tv_nsec)) / 1e9;
}
"""
FLAGS = {"avx512": ("-mavx512f", "-DBYTES=64"), "avx2": ("-mavx2", "-mfma", "-DBYTES=32"), "generic": ("-DBYTES=16",)}


@dataclass(frozen=True)
class Layer:
    name: str
    inputs: int
    outputs: int
    side: int  # of x
    r: int
    doubled: bool = False
    normalised: bool = True  # relu(x * scale + shift) before it
    shortcut: bool = False  # a map of half the side added behind it

    def multiply_adds(self, tile: int, n: int) -> int:
        """Of the matrix products, without padding of channels."""
        if self.doubled and tile == 1:
            return n * self.side**2 * 9 * self.inputs * self.outputs
        r, out, phases = (2, self.side + 1, 4) if self.doubled else (self.r, self.side, 1)
        of_tile = (tile + r - 1) ** 2 if tile > 1 else r * r
        return n * (-(-out // tile)) ** 2 * of_tile * self.inputs * self.outputs * phases

    def direct_multiply_adds(self, n: int) -> int:
        """Of the convolution as it is written, behind the upsampling."""
        return n * (self.side * (1 + self.doubled)) ** 2 * self.r**2 * self.inputs * self.outputs


def layers_of(config: GeneratorConfig) -> list[Layer]:
    layers, side = [], BOTTOM
    for i, (inputs, outputs) in enumerate(zip(config.in_channels, config.out_channels, strict=True)):
        layers += [
            Layer(f"{i} conv1", inputs, outputs, side, 3, doubled=True),
            Layer(f"{i} conv2", outputs, outputs, 2 * side, 3, shortcut=True),
            Layer(f"{i} shortcut", inputs, outputs, side, 1, normalised=False),
        ]
        side *= 2
    return [*layers, Layer("output", config.out_channels[-1], 3, side, 3)]


def contestants_of(layer: Layer, n: int, instructions: str) -> dict[str, Callable[[], None]]:
    """What computes the layer, by name ("torch", or the tile), verified."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    weight = draw(layer.outputs, layer.inputs, layer.r, layer.r).double() / (layer.inputs * layer.r**2) ** 0.5
    x = draw(n, layer.side, layer.side, layer.inputs)
    tensors = {}
    if layer.normalised:
        tensors.update(scale=draw(n, layer.inputs), shift=draw(n, layer.inputs))
    if layer.shortcut:
        tensors.update(shortcut=draw(n, layer.side // 2, layer.side // 2, layer.outputs))
    want = winograd_reference(x[:1], weight, doubled=layer.doubled, **{k: t[:1] for k, t in tensors.items()})

    def verify(name: str, got: Tensor) -> None:
        error = ((got - want).norm() / want.norm()).item()
        assert error < ALLOWED, f"{name} of {layer} is {error:g} from the reference, at most {ALLOWED} is right"

    every: dict[str, Callable[[], None]] = {}
    for tile in TILES[2 if layer.doubled else layer.r]:
        convolution = PackedConvolution(weight, tile, instructions=instructions, doubled=layer.doubled)
        c_in, c_out = convolution.padded_inputs, convolution.padded_outputs
        out = torch.empty(n, *convolution.output_size(layer.side, layer.side), c_out)
        size = convolution.workspace(n, layer.side, layer.side, torch.get_num_threads())
        padded = {k: F.pad(t, (0, (c_out if k == "shortcut" else c_in) - t.shape[-1])) for k, t in tensors.items()}
        run = convolution.bind(F.pad(x, (0, c_in - layer.inputs)), out, torch.empty(size, dtype=torch.uint8), **padded)
        run()
        verify(f"tile {tile}", out[:1, :, :, : layer.outputs])
        every[str(tile)] = run

    torch_weight = weight.float().contiguous(memory_format=torch.channels_last)
    torch_x = x.permute(0, 3, 1, 2)
    torch_tensors = {k: t.permute(0, 3, 1, 2) if t.ndim == 4 else t[:, :, None, None] for k, t in tensors.items()}

    def torch_layer() -> Tensor:
        y = torch_x
        if layer.normalised:
            y = (y * torch_tensors["scale"]).add_(torch_tensors["shift"]).relu_()
        if layer.doubled:
            y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        y = F.conv2d(y, torch_weight, padding=layer.r // 2)
        if layer.shortcut:
            y = y.add_(F.interpolate(torch_tensors["shortcut"], scale_factor=2.0, mode="nearest"))
        return y

    verify("torch", torch_layer()[:1].permute(0, 2, 3, 1))

    def run_torch() -> None:
        torch_layer()

    return {**every, "torch": run_torch}


def counted(run: Callable[[], None]) -> Callable[[], int]:
    def work() -> int:
        run()
        return 1

    return work


def peak_gflops(instructions: str) -> float:
    """Of one core: multiply-adds on registers (multiplications and additions apart, where there is no fused one)."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(PEAK)
        flags = ("-O2", "-shared", "-fPIC", "-ffp-contract=fast", *FLAGS[instructions])
        subprocess.run(["gcc", *flags, source, "-o", library], check=True)
        peak = ctypes.CDLL(str(library)).peak
    peak.restype, peak.argtypes = ctypes.c_double, [ctypes.c_long]
    return max(peak(10_000_000) for _ in range(5))


def call_microseconds() -> float:
    """What a bound call costs besides its arithmetic: of one pixel and 16 channels."""
    convolution = PackedConvolution(torch.ones(16, 16, 1, 1), 1)
    x, out = torch.ones(1, 1, 1, convolution.padded_inputs), torch.empty(1, 1, 1, convolution.padded_outputs)
    bound = convolution.bind(x, out, torch.empty(convolution.workspace(1, 1, 1), dtype=torch.uint8))

    def time_of(calls: int = 10_000) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            bound()
        return (time.perf_counter() - begun) / calls * 1e6

    return statistics.median(time_of() for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--layers", type=int, default=256, metavar="RESOLUTION", help="of this generator")
    parser.add_argument("--channels", type=int, default=64, help="the generator's width multiplier")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--instructions", choices=instruction_sets(), default=instruction_sets()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    n, instructions = arguments.batch_size, arguments.instructions
    peak, call = peak_gflops(instructions), call_microseconds()
    where = environment()
    total = {"best": 0.0, "torch": 0.0}
    lines = []
    for layer in layers_of(GeneratorConfig(arguments.layers, arguments.channels, z_chunk=17)):
        runs = {name: counted(run) for name, run in contestants_of(layer, n, instructions).items()}
        rates = windows(runs, arguments.seconds, arguments.rounds)
        microseconds = {name: [1e6 / rate for rate in values] for name, values in rates.items()}
        median = {name: statistics.median(values) for name, values in microseconds.items()}
        tiles = [name for name in runs if name != "torch"]
        best = min(tiles, key=median.__getitem__)
        gflops = {t: 2 * layer.multiply_adds(int(t), n) / median[t] / 1e3 for t in tiles}
        ratio = [a / b for a, b in zip(microseconds["torch"], microseconds[best], strict=True)]
        total["best"] += median[best]
        total["torch"] += median["torch"]
        emit(
            {
                **where,
                "benchmark": "winograd",
                "generator": [arguments.layers, arguments.channels],
                "layer": layer.name,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "side": layer.side,
                "r": layer.r,
                "doubled": layer.doubled,
                "batch_size": n,
                "instructions": instructions,
                "torch_instructions": [os.environ.get(k) for k in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")],
                "microseconds": {name: summary(values) for name, values in microseconds.items()},
                "best": int(best),
                "ratio_to_torch": summary(ratio),
                "gflops": {name: round(value, 1) for name, value in gflops.items()},
                "direct_gflops": {"torch": round(2 * layer.direct_multiply_adds(n) / median["torch"] / 1e3, 1)},
                "peak_gflops": round(peak * arguments.threads, 1),
                "call_microseconds": round(call, 2),
            },
            arguments.out,
        )
        times = "  ".join(f"{name}: {median[name] / 1e3:.3f}" for name in runs)
        lines.append(
            f"{layer.name:11} {layer.inputs:5} -> {layer.outputs:5} @ {layer.side:3}  tile {best}  {gflops[best]:4.0f} GFLOP/s "
            f"{gflops[best] / peak / arguments.threads:4.0%}  {statistics.median(ratio):5.2f} x torch  ms  {times}"
        )
    print("\n".join(lines))
    print(
        f"{instructions}: {total['best'] / 1e3:.2f} ms, torch {total['torch'] / 1e3:.2f} ms, {total['torch'] / total['best']:.2f} x; "
        f"peak {peak:.0f} GFLOP/s a core, a call costs {call:.2f} us"
    )


if __name__ == "__main__":
    main()
