"""Batches consumed by CuPy: the same memory, no copy. Needs a CUDA device, as CuPy does.

python examples/cupy_consumer.py FOLDER    (images in one subfolder a class)
"""

import sys

import cupy
import torch

import dali_icgan as di

if not torch.cuda.is_available():
    raise SystemExit("CuPy needs a CUDA device, and torch sees none")

# A kernel of your own over a batch: mean and deviation of each colour, in one pass each.
square = cupy.ElementwiseKernel("T x", "float32 y", "y = float(x) * float(x)", "square")


def main(folder: str) -> None:
    augment = di.DAICGAN(generator=di.load_generator("embedded"), extractor=di.load_extractor("embedded"), p=0.5)
    loader = di.DataLoader(folder, batch_size=8, shuffle=True, augment=augment, transform=di.TrainTransform(64))
    # CuPy has a stream of its own: on torch's, its kernels are behind those that made the batch.
    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        for number, (images, _) in enumerate(loader):
            batch = cupy.from_dlpack(images)
            assert batch.data.ptr == images.data_ptr()
            mean = batch.astype(cupy.float32).mean(axis=(0, 2, 3))
            deviation = cupy.sqrt(square(batch).mean(axis=(0, 2, 3)) - mean**2)
            print(f"batch {number} {batch.shape} {batch.dtype}: mean {mean.round(2)}, deviation {deviation.round(2)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
