"""This package's loader."""

from collections.abc import Iterator

from dali_icgan.augment import DAICGAN
from dali_icgan.bench.peers.peer import Batch, How, Opened
from dali_icgan.bench.scene import SEED, Plan
from dali_icgan.loader import DataLoader

ID = "dali_icgan"
SETTINGS = (
    "DataLoader(num_workers=cores), two batches ready ahead; decoding by DALI in its threads, no worker processes"
)


def open_ours(plan: Plan, augment: DAICGAN | None, how: How) -> Opened:
    """Our loader, always in epoch 0, so that its decisions are the plan's."""
    loader = DataLoader(
        plan.files.ours,
        how.batch_size,
        augment=augment,
        transform=plan.transform,
        num_workers=how.threads,
        device=how.device,
        dtype=how.dtype,
        memory_format=how.memory_format,
        seed=SEED,
        return_info=True,
    )

    def run() -> Iterator[Batch]:
        loader.set_epoch(0)
        for images, labels, info in loader:
            yield Batch(info["index"], images, labels)

    return Opened(run, loader.close)
