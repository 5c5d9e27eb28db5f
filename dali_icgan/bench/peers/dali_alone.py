"""DALI alone: its ImageNet pipeline behind its PyTorch iterator, with crops that are given in place of random ones."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dali_icgan.bench.peers.peer import Batch, How, Opened, on_device
from dali_icgan.bench.scene import Photos


class Dali:
    id = "dali"
    title = "DALI alone"
    package = "nvidia-dali-cuda130"
    module = "nvidia.dali.plugin.pytorch"
    settings = "readers.file, decoders.image_slice (region decoding), resize, crop_mirror_normalize, prefetch queue of 2, DALIGenericIterator"
    exact = False
    slow_to_begin = False

    def open(self, photos: Photos, how: How) -> Opened:
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        names = ["images", "labels", "row"]
        batches: Any = None

        def run() -> Iterator[Batch]:
            # Begun anew by each pass, so that nothing is decoded between them. The crops' end is the epoch's.
            nonlocal batches
            if batches is None:
                pipeline = _pipeline(photos, how)
                pipeline.build()
                begun = DALIGenericIterator(pipeline, names, auto_reset=False)
            else:
                begun, batches = batches, None  # one that is left in the middle is not used again
                begun.reset()
            for (found,) in begun:
                row = found["row"].flatten()
                n = int((row >= 0).sum())  # the last batch is filled up
                labels = found["labels"].flatten()[:n].long()
                yield on_device(photos.row[row[:n].numpy()], found["images"][:n], labels, how)
            batches = begun

        return Opened(run)


def _pipeline(photos: Photos, how: How) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    gpu, n, size = how.device.type == "cuda", how.batch_size, photos.size
    crops = []
    for i in photos.batches(n):
        row = np.full(n, -1, np.int64)
        row[: len(i)] = i
        i = np.resize(i, n)
        box = photos.box[i].astype(np.int32)
        crops.append((box[:, :2].copy(), box[:, 2:].copy(), photos.flip[i].astype(np.int32), row[:, None]))
    mean, std = ([255 * v for v in values] for values in (photos.transform.mean, photos.transform.std))

    @pipeline_def(batch_size=n, num_threads=how.threads, device_id=how.device.index or 0 if gpu else None)
    def graph() -> Any:
        files, labels = fn.readers.file(
            files=photos.path, labels=photos.label.tolist(), random_shuffle=False, pad_last_batch=True, name="files"
        )
        start, shape, mirror, row = fn.external_source(source=crops, num_outputs=4, batch=True, cycle="raise")
        images = fn.decoders.image_slice(
            files, start=start, shape=shape, axis_names="HW", device="mixed" if gpu else "cpu", output_type=types.RGB
        )
        images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
        dtype = types.FLOAT16 if how.dtype == torch.float16 else types.FLOAT
        images = fn.crop_mirror_normalize(images, mirror=mirror, mean=mean, std=std, dtype=dtype, output_layout="CHW")
        return images, labels, row

    return graph()
