"""The CPU's attention beside torch's, at the sizes of the official generators: all verified against float64 first, then in one run.

    python benchmarks/attention.py --threads 1 --out benchmarks/results/attention.jsonl
    DALI_ICGAN_INSTRUCTIONS=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/attention.py --threads 1

Peers: torch's scaled_dot_product_attention (which on a CPU is fused as well), and the two products with a softmax between them, as the
network was published. One JSON object a line. On CUDA the library's attention is used, so there is nothing of ours to measure.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import emit, environment, summary, windows
from torch import Tensor
from torch.nn import functional as F

from dali_icgan.engine.forms import Forms
from dali_icgan.ops.attention import BoundAttention, attention_reference, attention_workspace

# Rows, pixels of the map, keys after pooling, columns of queries and keys, columns of values.
CASES = {
    "256 px, channels 96": (2, 64 * 64, 32 * 32, 48, 192),
    "256 px, channels 64": (2, 64 * 64, 32 * 32, 32, 128),
    "64 px, channels 64": (8, 32 * 32, 16 * 16, 32, 128),
}
ALLOWED = 5e-6  # relative to the output's norm, in float32


def contestants(case: str, instructions: str) -> dict[str, Callable[[], object]]:
    """What computes it, by name, verified."""
    n, queries, keys, d, e = CASES[case]
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, rows, d, generator=random) / d**0.25 for rows in (queries, keys))
    v = torch.randn(n, keys, e, generator=random)
    out = torch.empty(n, queries, e)
    room = attention_workspace(torch.float32, keys, d, e, torch.get_num_threads(), instructions)
    ours = BoundAttention(q, k, v, out, torch.empty(room, dtype=torch.uint8), instructions)

    def fused() -> Tensor:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)[:, 0]

    def published() -> Tensor:
        return torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v

    def written() -> Tensor:
        ours()
        return out

    want = attention_reference(q[:1], k[:1], v[:1])
    found: dict[str, Callable[[], Tensor]] = {"dali_icgan": written, "torch, fused": fused, "torch": published}
    for name, call in found.items():
        error = ((call()[:1].double() - want).norm() / want.norm()).item()
        assert error < ALLOWED, f"{name} is {error:g} from the reference, at most {ALLOWED} is right"
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    instructions = Forms.of(torch.float32).instructions
    for case, (n, queries, keys, d, e) in CASES.items():

        def images(call: Callable[[], object], n: int = n) -> Callable[[], int]:
            def run() -> int:
                call()
                return n

            return run

        calls = {name: images(call) for name, call in contestants(case, instructions).items()}
        rates = windows(calls, given.seconds, given.rounds)
        ours = rates["dali_icgan"]
        emit(
            {
                "benchmark": "attention",
                "case": case,
                "dtype": "float32",
                "batch_size": n,
                "instructions": instructions,
                "gflop_per_image": round(2e-9 * queries * keys * (d + e), 3),
                "images_per_s": {name: summary(rate) for name, rate in rates.items()},
                "ratio": {
                    name: summary([a / b for a, b in zip(ours, rate, strict=True)])
                    for name, rate in rates.items()
                    if name != "dali_icgan"
                },
                **environment(),
            },
            given.out,
        )


if __name__ == "__main__":
    main()
