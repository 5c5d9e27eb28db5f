"""MosaicML Streaming: shards in its own format, on this machine's disk."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dali_icgan.bench.peers.peer import Batch, How, Opened, on_device, torch_loader
from dali_icgan.bench.peers.pil import cropped
from dali_icgan.bench.scene import Photos


class Streaming:
    id = "streaming"
    title = "MosaicML Streaming"
    package = "mosaicml-streaming"
    module = "streaming"
    settings = "StreamingDataset (local, in order) in torch's DataLoader, one worker process a core (0 on one core), persistent; MDS written before, PIL and transforms v2"
    exact = True
    slow_to_begin = False

    def open(self, photos: Photos, how: How) -> Opened:
        import streaming
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        how.scratch.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="streaming-", dir=how.scratch)
        begun = time.perf_counter()
        with streaming.MDSWriter(out=folder, columns={"row": "int", "jpg": "bytes"}) as writer:
            for i, path in enumerate(photos.path):
                writer.write({"row": i, "jpg": Path(path).read_bytes()})
        one_off = time.perf_counter() - begun

        class Cropped(streaming.StreamingDataset):
            def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
                sample: dict[str, Any] = super().__getitem__(at)
                return cropped(sample["jpg"], photos, sample["row"]), sample["row"]

        dataset = Cropped(local=folder, shuffle=False, batch_size=how.batch_size)
        loader, labels = torch_loader(dataset, photos, how), torch.from_numpy(photos.label)

        def run() -> Iterator[Batch]:
            for images, i in loader:
                yield on_device(photos.row[i.numpy()], images, labels[i], how)

        return Opened(run, one_off_s=one_off)
