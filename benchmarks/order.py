"""What the order of an epoch costs a rank to start, at the size of ImageNet on a thousand ranks:

python benchmarks/order.py --out benchmarks/results/order.jsonl
"""

import argparse
import time
import tracemalloc
from pathlib import Path

from common import emit, environment, summary

from dali_icgan.data.order import ShardedOrder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    def begin(rank: int) -> None:
        """In the middle of an epoch, as a resumed one begins."""
        order = ShardedOrder(
            given.samples, given.batch_size, False, True, 0, 1, rank, given.ranks, given.samples // 3, "pad"
        )
        assert order.batch(0) is not None

    begin(0)
    milliseconds = []
    for rank in range(given.ranks):
        begun = time.perf_counter()
        begin(rank)
        milliseconds.append(1e3 * (time.perf_counter() - begun))
    tracemalloc.start()
    begin(given.ranks - 1)
    _, peak = tracemalloc.get_traced_memory()
    record = {
        **environment(),
        "benchmark": "order",
        "samples": given.samples,
        "ranks": given.ranks,
        "batch_size": given.batch_size,
        "milliseconds": summary(milliseconds, 3),
        "peak_bytes": peak,
    }
    emit(record, given.out)


if __name__ == "__main__":
    main()
