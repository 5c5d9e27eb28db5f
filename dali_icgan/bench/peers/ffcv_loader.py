"""FFCV: the files' own JPEG bytes in its format, decoded in compiled threads; crops and flips come from the plan, by a sample's number."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_icgan.bench.peers.peer import Batch, How, Opened, normaliser
from dali_icgan.bench.scene import Photos


class Ffcv:
    id = "ffcv"
    title = "FFCV"
    package = "ffcv"
    module = "ffcv.loader"
    settings = "Loader, one thread a core, os_cache, three batches ahead; JPEG bytes stored as they are, resized by area (OpenCV), normalised a batch at a time"
    exact = False
    slow_to_begin = True
    note = "OpenCV's area filter and the fast DCT: boxes are judged by the same filter"

    def open(self, photos: Photos, how: How) -> Opened:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.basics import IntDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import Squeeze, ToTensor, ToTorchImage
        from ffcv.writer import DatasetWriter

        class Stored(RGBImageField):
            """Takes a file's path; its own field would encode the pixels anew."""

            def encode(self, destination: Any, path: str, malloc: Callable[[int], Any]) -> None:
                data = np.fromfile(path, np.uint8)
                with Image.open(path) as image:
                    destination["width"], destination["height"] = image.size
                destination["mode"] = 0  # JPEG
                destination["data_ptr"], storage = malloc(data.nbytes)
                storage[:] = data

        class Files(torch.utils.data.Dataset[Any]):
            def __len__(self) -> int:
                return len(photos)

            def __getitem__(self, i: int) -> tuple[str, int]:
                return photos.path[i], i

        how.scratch.mkdir(parents=True, exist_ok=True)
        file = Path(tempfile.mkdtemp(prefix="ffcv-", dir=how.scratch)) / "photographs.beton"
        begun = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # it draws a bar
            writer = DatasetWriter(str(file), {"image": Stored(), "row": IntField()}, num_workers=how.threads)
            writer.from_indexed_dataset(Files())
        one_off = time.perf_counter() - begun
        normalise, labels = normaliser(photos, how), torch.from_numpy(photos.label)
        loader = Loader(
            str(file),
            how.batch_size,
            how.threads,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            custom_fields={"image": RGBImageField},
            pipelines={
                "image": [_cropping(photos), ToTensor(), ToTorchImage()],
                "row": [IntDecoder(), ToTensor(), Squeeze()],
            },
        )

        def run() -> Iterator[Batch]:
            for images, i in loader:
                i = i.reshape(-1)
                yield Batch(photos.row[i.numpy()], normalise(images), labels[i].to(how.device))

        return Opened(run, one_off_s=one_off)

    def reference(self, photos: Photos) -> torch.Tensor:
        """The crops by OpenCV's area filter, normalised: its resize is that, and its decoder the fast one of libjpeg-turbo."""
        import cv2

        crops = []
        for path, (top, left, height, width), flip in zip(photos.path, photos.box, photos.flip, strict=True):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))[top : top + height, left : left + width]
            crop = cv2.resize(pixels, (photos.size, photos.size), interpolation=cv2.INTER_AREA)
            crops.append(torch.from_numpy(crop[:, ::-1].copy() if flip else crop).permute(2, 0, 1))
        how = How(1, 1, 0, torch.device("cpu"), Path())
        return normaliser(photos, how)(torch.stack(crops))


def _cropping(photos: Photos) -> Any:
    """FFCV's own decoders draw their crops: this one is handed them."""
    from ffcv.fields.decoders import SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    size = photos.size
    box, flip = photos.box.astype(np.int64), photos.flip.copy()

    class Cropping(SimpleRGBImageDecoder):
        def declare_state_and_memory(self, previous: Any) -> Any:
            pixels = int(self.metadata["height"].astype(np.int64).max() * self.metadata["width"].astype(np.int64).max())
            shape = (size, size, 3)
            whole = AllocationQuery((3 * pixels,), np.dtype("u1"))
            state = replace(previous, jit_mode=True, shape=shape, dtype=np.dtype("u1"))
            return state, (AllocationQuery(shape, np.dtype("u1")), whole)

        def generate_code(self) -> Callable[..., Any]:
            read, rows_of = self.memory_read, Compiler.get_iterator()
            decode, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)

            def crops(numbers: Any, memory: Any, metadata: Any, storage: Any) -> Any:
                out, scratch = memory
                for k in rows_of(len(numbers)):
                    i = numbers[k]
                    height, width = np.uint32(metadata[i]["height"]), np.uint32(metadata[i]["width"])
                    whole = scratch[k]
                    decode(read(metadata[i]["data_ptr"], storage), whole, height, width, height, width, 0, 0, 1, 1, False, False)  # fmt: skip
                    pixels = whole.reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                    top, left = box[i, 0], box[i, 1]
                    resize(pixels, top, top + box[i, 2], left, left + box[i, 3], out[k])
                    if flip[i]:
                        out[k] = out[k][:, ::-1].copy()
                return out[: len(numbers)]

            crops.is_parallel = True  # type: ignore[attr-defined]
            return crops

    return Cropping()
