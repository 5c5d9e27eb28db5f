"""WebDataset: tars read in sequence; the plan's crop is found by a sample's key."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dali_icgan.bench.peers.peer import Batch, How, Opened, on_device
from dali_icgan.bench.peers.pil import cropped
from dali_icgan.bench.scene import Photos

_TARS = 8  # shared out to worker processes


class WebDataset:
    id = "webdataset"
    title = "WebDataset"
    package = module = "webdataset"
    settings = "WebLoader, one worker process a core (0 on one core), persistent; tars written before, PIL and transforms v2 in a map, batched in the workers"
    exact = True
    slow_to_begin = False

    def open(self, photos: Photos, how: How) -> Opened:
        import webdataset as wds

        how.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="webdataset-", dir=how.scratch))
        begun = time.perf_counter()
        each = -(-len(photos) // _TARS)
        each = max(how.batch_size, each // how.batch_size * how.batch_size)  # so that batches are full
        tars = []
        for begin in range(0, len(photos), each):
            tars.append(str(folder / f"{begin:08d}.tar"))
            with wds.TarWriter(tars[-1]) as tar:
                for i in range(begin, min(begin + each, len(photos))):
                    tar.write({"__key__": f"{i:08d}", "jpg": Path(photos.path[i]).read_bytes()})
        one_off = time.perf_counter() - begun

        def finished(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
            i = int(sample["__key__"])
            return cropped(sample["jpg"], photos, i), i

        dataset = (
            wds.WebDataset(tars, shardshuffle=False, empty_check=False, workersplitter=wds.split_by_worker)
            .map(finished)
            .batched(how.batch_size)
        )
        loader = wds.WebLoader(
            dataset,
            batch_size=None,
            num_workers=min(how.workers, len(tars)),
            pin_memory=how.device.type == "cuda",
            persistent_workers=how.lasting and how.workers > 0,
        )
        labels = torch.from_numpy(photos.label)

        def run() -> Iterator[Batch]:
            for images, i in loader:
                i = torch.as_tensor(i)
                yield on_device(photos.row[i.numpy()], images, labels[i], how)

        return Opened(run, one_off_s=one_off)
