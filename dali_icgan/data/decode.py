"""Encoded images to pixels by DALI: on the CPU just the region that is needed, on the GPU the whole image (mixed).

The only importer of nvidia.dali besides fn.
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from dali_icgan.data.read import MAX_PIXELS, Encoded, encoded
from dali_icgan.data.workers import Workers
from dali_icgan.errors import DeviceError

Region = tuple[int, int, int, int]  # top, left, height, width


def available_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_dali() -> Any:
    """nvidia.dali.

    Raises:
        DeviceError: it is not installed; names the extra that brings it.
    """
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except ImportError as error:
        raise DeviceError(
            "reading images needs NVIDIA DALI: pip install 'dali-icgan[cu13]' (or [cu12] for CUDA 12 drivers); it also "
            "decodes on a machine without a GPU"
        ) from error
    return nvidia.dali


def build_graph(max_batch: int, threads: int, device: torch.device, exif: bool) -> Any:
    """The DALI pipeline; not built yet, so that the GPU's graph can be serialised where there is no GPU.

    Raises:
        DeviceError: DALI is not installed.
    """
    dali = require_dali()
    fn, types = dali.fn, dali.types
    common = {"output_type": types.RGB, "adjust_orientation": exif}

    # Depth 1: the loader's own stages look ahead, and deeper queues must be primed or outputs come back shifted.
    @dali.pipeline_def(
        batch_size=max_batch,
        num_threads=threads,
        device_id=device.index,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    def graph() -> Any:
        files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
        if device.type == "cuda":
            return fn.decoders.image(files, device="mixed", jpeg_fancy_upsampling=True, **common)
        start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
        shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
        return fn.decoders.image_slice(files, start=start, shape=shape, axis_names="HW", device="cpu", **common)

    return graph()


class ImageDecoder:
    """Decodes batches of encoded images to uint8 RGB; a bad one is named and leaves the others alone.

    Args:
        threads: DALI's; 0: one a core.
        device: where the pixels arrive.
        exif: rotate as the EXIF orientation says.
        max_pixels: an image with more is refused before it is decoded.

    Attributes:
        pillow_decoded: how many images went to Pillow so far, because DALI does not read their kind, gives other pixels than Pillow,
            or failed.

    Raises:
        DeviceError: DALI is not installed.

    Numerics: on the CPU equal to Pillow's pixels bit for bit for JPEG, region or whole; on the GPU not promised.
    Stream (device="cuda"): outputs are ordered on torch's current stream, with no wait on the host. Their memory is DALI's and
        lives as long as the tensors: hold them until the work that reads them is done (record_stream knows nothing of it).
    """

    def __init__(
        self, threads: int = 0, *, device: torch.device | str = "cpu", exif: bool = False, max_pixels: int = MAX_PIXELS
    ) -> None:
        require_dali()
        self._threads = threads or available_threads()
        self._device = torch.device(device)
        self._exif = exif
        self._max_pixels = max_pixels
        self._pipeline: Any = None
        self._max_batch = 0
        self.pillow_decoded = 0

    @property
    def decodes_regions(self) -> bool:
        """Whether only the region asked for is decoded; otherwise the whole image comes."""
        return self._device.type == "cpu"

    def decode(self, files: Sequence[bytes]) -> list[torch.Tensor | str]:
        """Whole images from encoded bytes.

        Returns:
            one a file: uint8 ``[h, w, 3]``, or the reason why there is none.
        """
        results: list[torch.Tensor | str] = [""] * len(files)
        good: list[int] = []
        images: list[Encoded] = []
        for i, data in enumerate(files):
            try:
                images.append(encoded(data, exif=self._exif, max_pixels=self._max_pixels))
                good.append(i)
            except ValueError as reason:
                results[i] = str(reason)
        for i, pixels in zip(good, self.decode_regions(images, [_all_of(image) for image in images]), strict=True):
            results[i] = pixels
        return results

    def decode_regions(self, images: Sequence[Encoded], regions: Sequence[Region]) -> list[torch.Tensor | str]:
        """The regions (top, left, height, width) of images; whole images where :attr:`decodes_regions` is False.

        Returns:
            one an image: uint8 ``[h, w, 3]``, perhaps a view of a larger one, or the reason why there is none.
        """
        if not self.decodes_regions:
            regions = [_all_of(image) for image in images]
        results: list[torch.Tensor | str] = [""] * len(images)
        by_pillow = [i for i, image in enumerate(images) if image.pillow]
        suspects = [i for i, image in enumerate(images) if image.whole and not image.pillow]
        sound = [i for i, image in enumerate(images) if not image.whole and not image.pillow]
        # A single bad file fails all of its batch. So suspects have one of their own, and what fails with others is tried alone.
        for group, whole in ((sound, False), (suspects, True)):
            wanted = [_all_of(images[i]) if whole else regions[i] for i in group]
            for i, tried in zip(group, self._try([images[i] for i in group], wanted), strict=True):
                if tried is None:
                    by_pillow.append(i)
                else:
                    results[i] = _cut(tried, regions[i]) if whole else tried
        self.pillow_decoded += len(by_pillow)
        for i, pixels in zip(by_pillow, self._by_pillow([images[i] for i in by_pillow]), strict=True):
            results[i] = pixels if isinstance(pixels, str) else _cut(self._to_device(pixels), regions[i])
        return results

    def close(self) -> None:
        """End DALI's threads."""
        self._pipeline = None

    def _try(self, images: Sequence[Encoded], regions: Sequence[Region]) -> list[torch.Tensor | None]:
        """The regions' pixels; None where DALI cannot decode the image."""
        if not images:
            return []
        try:
            return list(self._run(images, regions))
        except RuntimeError:
            if len(images) == 1:
                return [None]
        return [self._try([image], [region])[0] for image, region in zip(images, regions, strict=True)]

    def _run(self, images: Sequence[Encoded], regions: Sequence[Region]) -> list[torch.Tensor]:
        if self._pipeline is None or len(images) > self._max_batch:
            self._max_batch = max(len(images), self._max_batch)
            self._pipeline = build_graph(self._max_batch, self._threads, self._device, self._exif)
            self._pipeline.build()
        pipeline = self._pipeline
        pipeline.feed_input("files", [image.data for image in images])
        if self.decodes_regions:
            boxes = np.asarray(regions, np.int32)
            pipeline.feed_input("start", list(boxes[:, :2]))
            pipeline.feed_input("shape", list(boxes[:, 2:]))
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        try:
            pipeline.schedule_run()
            (outputs,) = pipeline.share_outputs(cuda_stream=stream)
            pixels = [torch.from_dlpack(outputs[i]) for i in range(len(outputs))]
            pipeline.release_outputs()
        except RuntimeError:
            if (
                self._device.type == "cuda"
            ):  # on the CPU a failed run leaves the pipeline sound, on the GPU nobody has seen it
                self._pipeline = None
            raise
        for image, region, part in zip(images, regions, pixels, strict=True):
            expected = region[2:] if self.decodes_regions else (image.height, image.width)
            if part.shape != (*expected, 3):
                raise RuntimeError(f"DALI gave {list(part.shape)}, not {[*expected, 3]}")
        return pixels

    def _by_pillow(self, images: Sequence[Encoded]) -> list[torch.Tensor | str]:
        """Whole images by the last resort and reference, several at once: what Pillow calls bad is bad."""
        if len(images) <= 1:
            return [_pixels_by_pillow(image, self._exif) for image in images]
        workers = Workers(min(self._threads, len(images)), "dali_icgan-pillow")
        try:
            return workers.map(lambda image: _pixels_by_pillow(image, self._exif), images)
        finally:
            workers.close()

    def _to_device(self, pixels: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return pixels
        return pixels.pin_memory().to(self._device, non_blocking=True)


def _pixels_by_pillow(image: Encoded, exif: bool) -> torch.Tensor | str:
    try:
        with Image.open(io.BytesIO(image.data.tobytes())) as opened:
            turned = ImageOps.exif_transpose(opened) if exif else opened
            if turned.size != (image.width, image.height):  # before decoding it, which may be dear
                return (
                    f"its header says {image.width} x {image.height} pixels, it holds {turned.width} x {turned.height}"
                )
            return torch.from_numpy(_rgb(turned))
    except UnidentifiedImageError:
        return "neither DALI nor Pillow can read it"
    except Exception as error:  # Pillow raises many kinds
        return str(error) or type(error).__name__


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        gray = np.asarray(image).astype(np.uint32)  # 0 to 65535; convert("RGB") would clip it
        return np.repeat(((gray + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _all_of(image: Encoded) -> Region:
    return 0, 0, image.height, image.width


def _cut(pixels: torch.Tensor, region: Region) -> torch.Tensor:
    top, left, height, width = region
    return pixels[top : top + height, left : left + width]
