"""Your own DALI pipeline, with one more node.

python examples/dali_pipeline.py FOLDER    (JPEGs in one subfolder a class)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def

import dali_icgan as di

BATCH = 8


def main(folder: str) -> None:
    files = sorted(Path(folder).glob("*/*.jp*g"))
    names = sorted({file.parent.name for file in files})
    classes = np.array([names.index(file.parent.name) for file in files])
    generator = di.load_generator("embedded")  # the demo's small pair; name your checkpoints in its place
    augment = di.DAICGAN(generator=generator, extractor=di.load_extractor("embedded"), p=0.5, seed=0)
    gpu = generator.device.index  # None on a CPU

    @pipeline_def(batch_size=BATCH, num_threads=2, device_id=gpu)
    def training():
        # What happens to an image is a function of its index and the epoch: the reader gives the index where a label would be.
        encoded, index = fn.readers.file(
            files=list(map(str, files)), labels=list(range(len(files))), random_shuffle=True
        )
        labels = fn.python_function(index, function=lambda i: classes[i])
        epoch = fn.external_source(lambda batch: np.arange(BATCH * batch, BATCH * (batch + 1)) // len(files))
        images = fn.decoders.image(encoded, device="cpu" if gpu is None else "mixed")
        finished, labels = di.fn.icgan_augment(
            images, index, epoch=epoch, labels=labels, transform=di.TrainTransform(64), augment=augment
        )
        return finished, labels, index, epoch

    pipeline = training()
    pipeline.build()
    for number in range(2 * len(files) // BATCH):
        images, labels, index, epoch = (torch.from_dlpack(output.as_tensor()) for output in pipeline.run())
        shown = ", ".join(
            f"{files[i].name} ({names[label]})" for i, label in zip(index.flatten()[:3], labels[:3], strict=True)
        )
        print(f"epoch {int(epoch[0])}, batch {number}: {list(images.shape)} on {images.device}: {shown}, ...")


if __name__ == "__main__":
    main(*sys.argv[1:])
