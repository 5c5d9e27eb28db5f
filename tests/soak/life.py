"""What a loader goes through in a long life: ``python -m tests.soak.life SECONDS FOLDER`` prints a line after each cycle.

A cycle makes loaders over good and damaged files, with generations or without, walks through them, leaves some in the middle of an
epoch, goes on from their states, and closes them or drops them. After it nothing of them is left; what the process then holds is
printed: batches so far, bytes, threads, descriptors.
"""

import copy
import ctypes
import gc
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dali_icgan as di
from dali_icgan.data import as_samples
from tests.untrained import FOLDER

PASSES = 12  # a cycle


def state() -> tuple[int, int, int]:
    """Bytes, threads and descriptors of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps in reserve is not the loader's
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return used, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


class Life:
    """Loaders over one folder.

    Args:
        folder: images, good and bad.
        seed: of every choice.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._samples = as_samples(folder)
        self._random = random.Random(seed)
        self.batches = 0
        generator = di.load_generator(FOLDER / "generator.safetensors", device="cpu")
        extractor = di.load_extractor(FOLDER / "extractor.safetensors", device="cpu")
        self._augment = di.DAICGAN(generator=generator, extractor=extractor, p=0.05, microbatch=4)

    def loader(self, **changes: Any) -> di.DataLoader:
        settings: dict[str, Any] = {
            "batch_size": 4,
            "shuffle": True,
            "seed": 1,
            "device": "cpu",
            "num_workers": 1,
            "transform": di.TrainTransform(24),
            "max_pixels": 1 << 20,
        }
        return di.DataLoader(self._samples, **{**settings, **changes})

    def cycle(self) -> None:
        """Every way of beginning, leaving and ending."""
        augment = self._augment if self._random.random() < 0.5 else None
        loader = self.loader(
            augment=augment, batch_size=self._random.randint(2, 6), views=self._random.choice((1, 1, 2))
        )
        for epoch in range(PASSES):
            loader.set_epoch(epoch)
            whole = self._random.random() < 0.6
            self._walk(loader, None if whole else self._random.randrange(8))
            if not whole:
                kept = copy.deepcopy(loader.state_dict())
                loader.load_state_dict(kept)
                self._walk(loader, self._random.randrange(8))
        other = self.loader(augment=augment)
        other.load_state_dict(other.state_dict())
        passing = iter(other)
        next(passing)
        loader.close()
        if self._random.random() < 0.5:
            other.close()

    def _walk(self, loader: di.DataLoader, most: int | None) -> None:
        for step, (_, labels) in enumerate(loader):
            self.batches += 1
            assert len(labels)
            if step == most:
                break


def measured(folder: Path, seconds: float, batches: int, seed: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Batches so far, bytes, threads and descriptors, after each cycle, until both seconds and batches are over."""
    life, begun = Life(folder, seed), time.monotonic()
    while time.monotonic() - begun < seconds or life.batches < batches:
        life.cycle()
        yield life.batches, *state()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in measured(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])):
        print(*line, flush=True)
