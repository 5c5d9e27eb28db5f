"""The generator's plan beside torch: images a second of each, in alternating windows, after all were verified against float64.

    python benchmarks/engine.py --out benchmarks/results/engine.jsonl
    python benchmarks/engine.py --case "256 px, channels 64" --threads 1 --batch-size 2 --compile
    DALI_ICGAN_INSTRUCTIONS=avx512_bf16 python benchmarks/engine.py --dtype bfloat16     multiplied in bfloat16 on any processor that can
    DALI_ICGAN_INSTRUCTIONS=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/engine.py     as on an AVX2 processor

Peers: the network as published with spectral norm baked in, channels-last ("eager", the baseline) and contiguous; --compile adds
torch.compile of it; beside half precision on the CPU our own float32. On the CPU twice: with the C library's allocator as it is, and with its thresholds raised (a fresh activation is then
not mapped anew each time, which helps the peers alone: a plan owns its buffers).
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from common import emit, environment, raise_allocator_thresholds, summary, windows
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.bench.eager import EagerGenerator
from dali_icgan.bench.models import GENERATORS, generator_checkpoint
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms
from dali_icgan.engine.generator import Generator
from dali_icgan.engine.placement import resolve
from dali_icgan.models.generator import GeneratorConfig
from dali_icgan.ops.instructions import instruction_sets


def inputs(config: GeneratorConfig, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    z = torch.randn(n, config.dim_z, generator=random)
    return z.to(device), F.normalize(torch.randn(n, config.feature_dim, generator=random)).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(GENERATORS), help="default: all but channels 96 (on CUDA: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32, on CUDA float16")
    parser.add_argument("--batch-size", type=int, help="default: 8, on CUDA 64")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a window, at least")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    on_cpu = device.type == "cpu"
    dtype = getattr(torch, given.dtype or ("float32" if on_cpu else "float16"))
    given.instructions = Forms.of(resolve(device, dtype, bfloat16_on_cpu=True)[2]).instructions if on_cpu else None
    held = (given.instructions == "avx2") == (os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2")
    if on_cpu and not held and "avx512" in instruction_sets():
        parser.error("the peers must be held to the same instructions: see the last command above")
    n = given.batch_size or (8 if on_cpu else 64)
    cases = [given.case] if given.case else [case for case in GENERATORS if not on_cpu or case != "256 px, channels 96"]
    for case in cases:
        contest(case, device, dtype, n, given)


def contest(case: str, device: torch.device, dtype: torch.dtype, n: int, given: argparse.Namespace) -> None:
    found = generator_checkpoint(case, GENERATORS[case])
    z, h = inputs(found.config, n, device)
    ours = Generator(found, device, dtype)
    exact = EagerGenerator(fold(found)).eval()
    want = exact(z[:1].cpu().double(), h[:1].cpu().double()).detach()
    peers: dict[str, torch.nn.Module] = {"eager": exact.to(device, dtype, memory_format=torch.channels_last)}
    if device.type == "cpu":
        peers["eager, contiguous"] = EagerGenerator(fold(found), torch.contiguous_format).to(dtype).eval()
    if given.compile:
        peers["torch.compile"] = torch.compile(
            peers["eager"], mode="max-autotune" if device.type == "cuda" else "default"
        )
    calls: dict[str, Callable[[], Tensor]] = {"dali_icgan": lambda: ours(z, h)}
    calls |= {name: lambda peer=peer: peer(z.to(dtype), h.to(dtype)) for name, peer in peers.items()}
    if device.type == "cpu" and dtype.itemsize < 4:
        wide = Generator(found, device, torch.float32)
        calls["dali_icgan, float32"] = lambda: wide(z, h)
    errors = {}
    with torch.no_grad():
        for name, call in calls.items():
            got = call()[:1].cpu().double()
            errors[name] = float((got - want).norm() / want.norm())

        def images(call: Callable[[], Tensor]) -> Callable[[], int]:
            def run() -> int:
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                return n

            return run

        for allocator in ("stock", "raised thresholds") if device.type == "cpu" else ("torch",):
            if allocator == "raised thresholds":
                raise_allocator_thresholds()
            rates = windows({name: images(call) for name, call in calls.items()}, given.seconds, given.rounds)
            ratios = {
                name: summary([a / b for a, b in zip(rates["dali_icgan"], rates[name], strict=True)])
                for name in calls
                if name != "dali_icgan"
            }
            emit(
                {
                    "benchmark": "engine",
                    "case": case,
                    "dtype": str(dtype).removeprefix("torch."),
                    "batch_size": n,
                    "allocator": allocator,
                    "instructions": given.instructions,
                    "images_per_s": {name: summary(rate) for name, rate in rates.items()},
                    "ratio": ratios,
                    "relative_error": errors,
                    "layers": ours.prepare(n).describe(),
                    **environment(),
                },
                given.out,
            )


if __name__ == "__main__":
    main()
