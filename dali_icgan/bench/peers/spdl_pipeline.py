"""SPDL: threads in one process, FFmpeg's decoder and filters, a batch made of frames at once."""

import signal
from collections.abc import Iterator
from typing import Any

import torch

from dali_icgan.bench.peers.peer import Batch, How, Opened, normaliser
from dali_icgan.bench.scene import Photos


class Spdl:
    id = "spdl"
    title = "SPDL"
    package = "spdl"
    module = "spdl.io"
    settings = "PipelineBuilder, one thread a core; FFmpeg's filters crop, scale (bilinear, accurate rounding) and mirror; convert_frames a batch"
    exact = False
    slow_to_begin = False

    def probe(self) -> str | None:
        """FFmpeg's libraries are not in its wheel."""
        from spdl.io.lib import _libspdl

        try:
            _libspdl.make_demuxer  # noqa: B018  (loads them)
        except (ImportError, RuntimeError, AttributeError, OSError):
            return (
                "spdl finds no FFmpeg libraries: apt-get install libavdevice59 libavfilter8, or those of FFmpeg 4 to 9"
            )
        # Its library catches SIGTERM to print a trace, which may wait for ever on a lock; to end is what a signal is for.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        return None

    def open(self, photos: Photos, how: How) -> Opened:
        import spdl.io
        from spdl.pipeline import PipelineBuilder

        normalise, labels = normaliser(photos, how), torch.from_numpy(photos.label)

        def decode(i: int) -> Any:
            top, left, height, width = map(int, photos.box[i])
            # Crop and scale before RGB is made of the planes: a quarter quicker than after it. Not exact, a crop would begin at even pixels.
            steps = [
                f"crop={width}:{height}:{left}:{top}:exact=1",
                f"scale={photos.size}:{photos.size}:flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp",
                *(["hflip"] if photos.flip[i] else []),
                "format=rgb24",
            ]
            packets = spdl.io.demux_image(photos.path[i])
            return i, spdl.io.decode_packets(packets, filter_desc=",".join(steps))

        def collate(items: list[Any]) -> tuple[Any, torch.Tensor]:
            i, frames = zip(*items, strict=True)
            return i, spdl.io.to_torch(spdl.io.convert_frames(list(frames))).permute(0, 3, 1, 2)

        def run() -> Iterator[Batch]:
            pipeline = (
                PipelineBuilder()
                .add_source(range(len(photos)))
                .pipe(decode, concurrency=how.threads, output_order="input")
                .aggregate(how.batch_size)
                .pipe(collate)
                .add_sink(2)
                .build(num_threads=how.threads)
            )
            with pipeline.auto_stop():
                for i, images in pipeline.get_iterator():
                    yield Batch(photos.row[list(i)], normalise(images), labels[list(i)].to(how.device))

        return Opened(run)
