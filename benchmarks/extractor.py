"""The extractor's plan beside torch: images a second of each, in alternating windows, after all were verified against float64.

    python benchmarks/extractor.py --out benchmarks/results/extractor.jsonl
    python benchmarks/extractor.py --case "ResNet-50, 224 px" --threads 1 --batch-size 8 --compile
    DALI_ICGAN_INSTRUCTIONS=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/extractor.py     as on an AVX2 processor

From the trunk's input to unit features. Peers: the network with its batch norms folded into the convolutions, in the same dtype and
channels-last memory ("eager", the baseline); --compile adds torch.compile of it. On the CPU twice: with the C library's allocator as it is,
and with its thresholds raised (a fresh activation is then not mapped anew each time, which helps the peers alone: a plan owns its buffers).
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from common import emit, environment, raise_allocator_thresholds, summary, windows
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.bench.eager import EagerExtractor
from dali_icgan.bench.models import EXTRACTORS, extractor_checkpoint
from dali_icgan.engine.extractor import Extractor
from dali_icgan.engine.forms import Forms
from dali_icgan.engine.trunk_folding import fold_trunk
from dali_icgan.ops.instructions import instruction_sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(EXTRACTORS), help="default: all")
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
    given.instructions = Forms.of(torch.float32).instructions if on_cpu else None
    held = (given.instructions == "avx2") == (os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2")
    if on_cpu and not held and "avx512" in instruction_sets():
        parser.error("the peers must be held to the same instructions: see the third command above")
    for case in [given.case] if given.case else EXTRACTORS:
        contest(case, device, dtype, given.batch_size or (8 if on_cpu else 64), given)


def contest(case: str, device: torch.device, dtype: torch.dtype, n: int, given: argparse.Namespace) -> None:
    found = extractor_checkpoint(case)
    side = found.config.input_size
    x = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last)
    plan = Extractor(found, device, dtype).prepare(n)
    exact = EagerExtractor(fold_trunk(found)).eval()
    with torch.no_grad():
        want = exact(x[:1].double())
    x = x.to(device)
    peers: dict[str, torch.nn.Module] = {"eager": exact.to(device, dtype, memory_format=torch.channels_last)}
    if given.compile:
        peers["torch.compile"] = torch.compile(
            peers["eager"], mode="max-autotune" if device.type == "cuda" else "default"
        )
    calls: dict[str, Callable[[], Tensor]] = {"dali_icgan": lambda: plan(x)}
    calls |= {name: lambda peer=peer: peer(x.to(dtype)) for name, peer in peers.items()}
    cosines = {}
    with torch.no_grad():
        for name, call in calls.items():
            cosines[name] = 1 - float(F.cosine_similarity(call()[:1].cpu().double(), want))

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
                name: summary([a / b for a, b in zip(rates["dali_icgan"], rates[name], strict=True)]) for name in peers
            }
            emit(
                {
                    "benchmark": "extractor",
                    "case": case,
                    "dtype": str(dtype).removeprefix("torch."),
                    "batch_size": n,
                    "allocator": allocator,
                    "instructions": given.instructions,
                    "images_per_s": {name: summary(rate) for name, rate in rates.items()},
                    "ratio": ratios,
                    "one_minus_cosine": cosines,
                    "layers": plan.describe(),
                    **environment(),
                },
                given.out,
            )


if __name__ == "__main__":
    main()
