"""How a batch comes to be: planned, read, decoded, generated, finished. The loader's engine, without its face."""

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.augment.generation import Generation, Job, generate_rows
from dali_icgan.augment.given import upload
from dali_icgan.augment.operator import DAICGAN, Binding, Decision, Transform, chosen_windows, finish
from dali_icgan.augment.plan import RowKeys
from dali_icgan.augment.transform import Windows
from dali_icgan.data import ImageDecoder, Samples
from dali_icgan.data.buffers import HostBuffers
from dali_icgan.data.dataset import Source
from dali_icgan.data.decode import available_threads
from dali_icgan.data.order import EpochOrder
from dali_icgan.data.read import Encoded, Reader
from dali_icgan.data.workers import Background
from dali_icgan.errors import DecodeError
from dali_icgan.spans import span

Rows = npt.NDArray[np.int64]
# With nothing readable among so many, the folder is wrong, not the files.
HOPELESS = 10_000


@dataclass
class Delivery:
    """A finished batch.

    Attributes:
        images: one a view, ``[n, 3, s, s]``, s the view's.
        labels: int64 ``[n]``.
        info: see the DataLoader's ``return_info``.
        ready: on CUDA, when the tensors are.
    """

    images: list[torch.Tensor]
    labels: torch.Tensor
    info: dict[str, Any]
    ready: "torch.cuda.Event | None" = None

    def on_current_stream(self) -> None:
        """Order the tensors on the caller's current stream, without waiting on the host."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.labels.device)
            stream.wait_event(self.ready)
            for tensor in (*self.images, self.labels):
                tensor.record_stream(stream)


@dataclass
class Batch:
    """A batch on its way: n rows in some views.

    A fetch is one image file that it needs: a row's own, and in the retrieval control a neighbour's for each view that shows one.

    Attributes:
        order, position: where the rows stand in the epoch; None for a replay.
        number: which batch of the pass it is; -1 for a replay.
        distance: ``[n]``, how many positions on each row's substitute stands; 0: it is itself.
        own_fetch: ``[n]``, the fetch of the row's own image; -1: not needed.
        view_fetch: a view: ``[n]``, the fetch that the row shows; -1: a generation.
        fetched, pixels, corner: a fetch: the file, its decoded region, and where in the image that begins.
        jobs: a view: (rows, their generations). Later ones hold.
        begun: ``[views, n]``, whether the row's generation is under way.
        asked: whether all of its generations are, but for those of rows that are substituted later.
    """

    epoch: int
    order: EpochOrder | None
    position: Rows
    index: Rows
    repeat: Rows
    views: range
    distance: Rows
    number: int = -1
    decisions: list[Decision] = field(default_factory=list)
    own_fetch: Rows = field(init=False)
    view_fetch: list[Rows] = field(init=False)
    fetched: list[Encoded] = field(default_factory=list)
    pixels: list[torch.Tensor | None] = field(default_factory=list)
    corner: list[tuple[int, int]] = field(default_factory=list)
    windows: list[Windows] = field(default_factory=list)
    jobs: list[list[tuple[Rows, Job]]] = field(init=False)
    begun: npt.NDArray[np.bool_] = field(init=False)
    asked: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def add(self, item: Encoded) -> int:
        """A new fetch; returns its number."""
        self.fetched.append(item)
        self.pixels.append(None)
        self.corner.append((0, 0))
        return len(self.fetched) - 1

    def fetches_of(self, row: int) -> set[int]:
        """The fetches that a row needs."""
        return {int(self.own_fetch[row]), *(int(shown[row]) for shown in self.view_fetch)} - {-1}

    def live(self) -> list[int]:
        """The fetches that some row needs; those of substituted rows are not."""
        return [int(f) for f in np.unique([self.own_fetch, *self.view_fetch]) if f >= 0]


class Engine(Background):
    """Everything that a loader's batches need, from one pass to the next.

    The steps :meth:`plan`, :meth:`read`, :meth:`decode` and :meth:`finish` each run in a thread of their own, on one batch at a time.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        augment: DAICGAN | None,
        transforms: Sequence[Transform],
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        seed: int,
        threads: int,
        on_error: str,
        max_pixels: int,
        exif: bool,
        keep: int,
    ) -> None:
        self.samples = samples
        self.errors: dict[str, DecodeError] = {}
        self._augment = augment
        self._transforms = tuple(transforms)
        self._views = len(self._transforms)
        self._device = device
        self._dtype = dtype
        self._memory_format = memory_format
        self._seed = seed
        self._on_error = on_error
        self._binding = None if augment is None else augment.bind(samples, seed, exif)
        threads = threads or available_threads()
        self._reader = Reader(samples, threads, exif=exif, max_pixels=max_pixels)
        self._decoder = ImageDecoder(threads, device=device, exif=exif, max_pixels=max_pixels)
        self._decoding = threading.Lock()
        self._buffers = HostBuffers(keep * self._views)
        # Above the generations', so that finishing a batch does not wait behind those of later ones.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._in_use: list[tuple[torch.cuda.Event, list[Any]]] = []
        self._generation: Generation | None = None
        self._read_any = False
        self._sample_of_row: dict[int, int] | None = None

    @property
    def pillow_decoded(self) -> int:
        """How many images Pillow decoded, see :class:`ImageDecoder`."""
        return self._decoder.pillow_decoded

    def reseed(self, seed: int) -> None:
        """Take another seed, of a state that is loaded."""
        self._seed = seed
        if self._binding is not None:
            self._binding = Binding(seed, self._binding.rows, self._binding.class_map)

    # ------------------------------------------------------------------ a pass

    def begin(self, epoch: int) -> None:
        """Start what runs beside the steps of a pass."""
        augment = self._augment
        if (
            augment is not None
            and augment.source == "generator"
            and any(augment.p_of(epoch, v) > 0 for v in range(self._views))
        ):
            self._generation = Generation(augment)

    def end(self) -> None:
        """A step that waits for a file or a generation raises RuntimeError."""
        if self._generation is not None:
            self._generation.end()
        self._reader.end()

    def join(self, deadline: float) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.join(deadline)
        self._reader.join(deadline)

    def look_ahead_is_full(self, full: bool) -> None:
        """From the planning thread: whether more rows can come before a batch is taken."""
        generation = self._generation
        if generation is not None:
            generation.look_ahead_is_full(full)

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        with self._decoding:
            self._decoder.close()
        for event, _ in self._in_use:
            event.synchronize()
        self._in_use.clear()

    # ------------------------------------------------------------------ the steps

    def plan(self, epoch: int, order: EpochOrder, first: int) -> Iterator[Batch]:
        """Batches of an epoch, each row decided; nothing is read."""
        for number in itertools.count(first):
            rows = order.batch(number)
            if rows is None:
                return
            position, index, repeat = rows
            planned = self._planned(
                Batch(epoch, order, position, index, repeat, range(self._views), np.zeros_like(position), number)
            )
            if self._generation is not None:
                self._generation.expect()
            yield planned

    def read(self, batch: Batch) -> Batch:
        """The files that a batch needs; unreadable samples are substituted; generations that need no image begin."""
        with (
            self._asking(batch, last=self._augment is not None and not self._augment.needs_own_image),
            span("read", batch.epoch, batch.number) as taken,
        ):
            self._read(batch)
            taken.images = len(batch.fetched)
        return batch

    def decode(self, batch: Batch) -> Batch:
        """The pixels that a batch needs, of each image just the region that its crops cover; the other generations begin."""
        with (
            self._asking(batch, last=True),
            torch.no_grad(),
            torch.cuda.stream(self._stream),
            span("decode", batch.epoch, batch.number) as taken,
        ):
            self._decode(batch)
            taken.images = len(batch.fetched)
        return batch

    @contextlib.contextmanager
    def _asking(self, batch: Batch, last: bool) -> Iterator[None]:
        """Tells the generations when a batch has asked for all of its own, or never will."""
        generation = self._generation if batch.order is not None else None
        try:
            yield
        except BaseException:
            if generation is not None:
                generation.cut_off()
            raise
        if generation is not None and last and not batch.asked:
            batch.asked = True
            generation.arrived()

    def _read(self, batch: Batch) -> None:
        rows = np.flatnonzero(self._needs_own(batch))
        for row, item in zip(rows, self._reader.read(batch.index[rows].tolist()), strict=True):
            if isinstance(item, DecodeError):
                self._substitute(batch, int(row), item)
            else:
                self._take_own(batch, int(row), item)
        for row in np.flatnonzero(np.any([decision.missing for decision in batch.decisions], 0)):
            self._substitute(batch, int(row), self._missing_error(batch, int(row)))
        wanted = self._neighbours(batch, range(len(batch)))
        neighbours = self._reader.read([source for *_, source in wanted])
        substituted = set()
        for (place, v, _), item in zip(wanted, neighbours, strict=True):
            if place in substituted:
                continue  # its substitute has neighbours of its own
            if isinstance(item, DecodeError):
                self._substitute(batch, place, item)
                substituted.add(place)
            else:
                self._take_neighbour(batch, place, v, item)
        if self._augment is not None and not self._augment.needs_own_image:
            self._generate(batch)

    def _decode(self, batch: Batch) -> None:
        while True:
            regions = self._place(batch)
            waiting = [f for f in batch.live() if batch.pixels[f] is None]
            if not waiting:
                break
            with self._decoding:
                results = self._decoder.decode_regions(
                    [batch.fetched[f] for f in waiting], [regions[f] for f in waiting]
                )
            failed = {}
            for f, result in zip(waiting, results, strict=True):
                if isinstance(result, str):
                    failed[f] = result
                else:
                    batch.pixels[f] = result
                    batch.corner[f] = regions[f][:2] if self._decoder.decodes_regions else (0, 0)
            for row in range(len(batch)) if failed else ():
                reason = next((failed[f] for f in batch.fetches_of(row) if f in failed), None)
                if reason is not None:
                    index = int(batch.index[row])
                    self._substitute(batch, row, DecodeError(self.samples.path(index), index, reason))
        if self._augment is not None:
            self._generate(batch)

    def finish(self, batch: Batch) -> Delivery:
        """The finished batch: everything assembled by one kernel a view."""
        with (
            torch.no_grad(),
            torch.cuda.stream(self._stream),
            span("assemble", batch.epoch, batch.number) as taken,
        ):
            taken.images = len(batch) * len(batch.views)
            place = (
                np.cumsum([pixels is not None for pixels in batch.pixels], dtype=np.int64) - 1
            )  # of each fetch in regions
            regions = [pixels for pixels in batch.pixels if pixels is not None]
            images, held = [], list(regions)
            for v, view in enumerate(batch.views):
                transform = self._transforms[view]
                generated = self._augment.generated_in(view) if self._augment is not None else None
                shown = batch.view_fetch[v]
                real = shown >= 0
                source = np.full(len(batch), -1, np.int64)
                source[real] = place[shown[real]]
                made = self._made(batch, v, source)
                held += [] if made is None else [made]
                windows = batch.windows[v]
                window = windows.window.copy()
                window[real, :2] -= np.array(batch.corner, np.int32).reshape(-1, 2)[shown[real]]
                windows = Windows(window, windows.offset, windows.scale, windows.flip)
                out = self._empty(len(batch), transform.output_size)
                images.append(finish(regions, made, source, windows, transform, generated or transform, out))
            label = batch.decisions[0].label if len(batch.views) == 1 else self.samples.labels[batch.index]
            labels, ready = upload(label, self._device), None
            if self._stream is not None:
                ready = self._stream.record_event()
                # DALI's memory is not torch's: its pixels live until the kernels that read them are done.
                self._in_use = [(event, tensors) for event, tensors in self._in_use if not event.query()]
                self._in_use.append((ready, held))
        return Delivery(images, labels, self._info(batch, label), ready)

    def replay(self, epoch: int, index: Rows, repeat: Rows, view: int) -> Delivery:
        """Rows again, in the calling thread; an unreadable one is an error."""
        nothing = np.zeros(len(index), np.int64)
        batch = Batch(epoch, None, nothing, index, repeat, range(view, view + 1), nothing.copy())
        return self.finish(self.decode(self.read(self._planned(batch))))

    # ------------------------------------------------------------------ rows

    def _planned(self, batch: Batch) -> Batch:
        n, views = len(batch), len(batch.views)
        batch.decisions = [self._decide(batch.epoch, batch.index, batch.repeat, view) for view in batch.views]
        batch.own_fetch = np.full(n, -1, np.int64)
        batch.view_fetch = [np.full(n, -1, np.int64) for _ in range(views)]
        batch.jobs = [[] for _ in range(views)]
        batch.begun = np.zeros((views, n), bool)
        return batch

    def _decide(self, epoch: int, index: Rows, repeat: Rows, view: int) -> Decision:
        labels = self.samples.labels[index]
        if self._augment is None or self._binding is None:
            none = np.zeros(len(index), bool)
            return Decision(none, np.full(len(index), -1, np.int64), labels, none)
        keys = RowKeys(self._seed, epoch, index, repeat, view)
        return self._augment.decide(self._binding, keys, labels, self._augment.p_of(epoch, view))

    def _needs_own(self, batch: Batch) -> npt.NDArray[np.bool_]:
        if self._augment is not None and self._augment.needs_own_image:
            return np.ones(len(batch), bool)
        return np.any([~decision.replaced for decision in batch.decisions], 0)

    def _missing_error(self, batch: Batch, row: int) -> DecodeError:
        assert self._augment is not None
        index = int(batch.index[row])
        return self._augment.missing_error(index, self.samples.path(index))

    def _take_own(self, batch: Batch, row: int, item: Encoded) -> None:
        self._read_any = True
        batch.own_fetch[row] = f = batch.add(item)
        for decision, shown in zip(batch.decisions, batch.view_fetch, strict=True):
            if not decision.replaced[row]:
                shown[row] = f

    def _take_neighbour(self, batch: Batch, row: int, v: int, item: Encoded) -> None:
        batch.view_fetch[v][row] = batch.add(item)

    def _neighbours(self, batch: Batch, rows: Iterable[int]) -> list[tuple[int, int, int | Source]]:
        """(row, view, dataset index or source) of the images that rows are replaced by in the retrieval control."""
        if self._augment is None or self._augment.source != "neighbour":
            return []
        return [
            (row, v, self._source_of(int(decision.row[row])))
            for v, decision in enumerate(batch.decisions)
            for row in rows
            if decision.replaced[row]
        ]

    def _source_of(self, bank_row: int) -> int | Source:
        assert self._augment is not None
        assert self._binding is not None
        assert self._binding.rows is not None
        if self._sample_of_row is None:
            self._sample_of_row = {int(r): i for i, r in enumerate(self._binding.rows) if r >= 0}
        index = self._sample_of_row.get(bank_row)
        return self._augment.bank_source(bank_row) if index is None else index

    def _substitute(self, batch: Batch, row: int, error: DecodeError) -> None:
        """Put the next readable sample in a row's place."""
        if batch.order is None or self._on_error == "raise":
            raise error
        failed: DecodeError | None = error
        while failed is not None:
            self.errors.setdefault(failed.path, failed)
            batch.distance[row] += 1
            distance = int(batch.distance[row])
            found = batch.order.substitute(int(batch.position[row]), distance)
            if found is None or (distance >= HOPELESS and not self._read_any):
                some = "; ".join(str(each) for each in itertools.islice(self.errors.values(), 3))
                raise RuntimeError(
                    f"0 of {distance} samples could be read, from {self.samples.name}: {some}"
                ) from failed
            batch.index[row], batch.repeat[row] = found
            for v, view in enumerate(batch.views):
                decision = self._decide(batch.epoch, batch.index[row : row + 1], batch.repeat[row : row + 1], view)
                batch.decisions[v].put(row, decision)
                batch.view_fetch[v][row] = -1
            batch.own_fetch[row] = -1
            batch.begun[:, row] = False
            failed = self._load(batch, row)

    def _load(self, batch: Batch, row: int) -> DecodeError | None:
        """The files that one row needs; the error of the first that cannot be read."""
        if any(decision.missing[row] for decision in batch.decisions):
            return self._missing_error(batch, row)
        if self._needs_own(batch)[row]:
            item = self._reader.read([int(batch.index[row])])[0]
            if isinstance(item, DecodeError):
                return item
            self._take_own(batch, row, item)
        for _, v, source in self._neighbours(batch, [row]):
            item = self._reader.read([source])[0]
            if isinstance(item, DecodeError):
                return item
            self._take_neighbour(batch, row, v, item)
        return None

    # ------------------------------------------------------------------ pixels

    def _place(self, batch: Batch) -> list[tuple[int, int, int, int]]:
        """Fill in the crops of every view; returns the region of each fetch that holds all of its crops."""
        count = len(batch.fetched)
        size = np.array([(f.height, f.width) for f in batch.fetched], np.int64).reshape(-1, 2)
        low, high = size.copy(), np.zeros_like(size)
        batch.windows = []
        for v, view in enumerate(batch.views):
            shown, replaced = batch.view_fetch[v], batch.decisions[v].replaced
            side = (
                self._augment.generator.resolution
                if self._augment is not None and self._augment.generator is not None
                else 1
            )
            real = shown >= 0
            source = np.full((len(batch), 2), side)
            source[real] = size[shown[real]]
            keys = RowKeys(self._seed, batch.epoch, batch.index, batch.repeat, view)
            style = self._augment.generated_in(view) if self._augment is not None else None
            windows = chosen_windows(self._transforms[view], style, keys, source, replaced)
            batch.windows.append(windows)
            np.minimum.at(low, shown[real], windows.window[real, :2])
            np.maximum.at(high, shown[real], windows.window[real, :2] + windows.window[real, 2:])
        whole = np.zeros(count, bool)
        if self._augment is not None and self._augment.needs_own_image:
            seen = np.any([decision.replaced for decision in batch.decisions], 0) & (batch.own_fetch >= 0)
            whole[batch.own_fetch[seen]] = True  # features are of the whole image
        if not self._decoder.decodes_regions:
            whole[:] = True
        low[whole], high[whole] = 0, size[whole]
        return [(int(t), int(left), int(b - t), int(r - left)) for (t, left), (b, r) in zip(low, high, strict=True)]

    def _generate(self, batch: Batch) -> None:
        """Begin the generations of rows that are replaced and not begun yet."""
        augment = self._augment
        if augment is None or augment.source != "generator" or self._binding is None:
            return
        for v, view in enumerate(batch.views):
            decision = batch.decisions[v]
            rows = np.flatnonzero(decision.replaced & ~batch.begun[v])
            if not len(rows):
                continue
            batch.begun[v, rows] = True
            keys = RowKeys(self._seed, batch.epoch, batch.index[rows], batch.repeat[rows], view)
            images = [batch.pixels[f] for f in batch.own_fetch[rows]] if augment.needs_own_image else []
            job = Job(
                keys,
                augment.classes(self._binding, decision.label[rows]),
                decision.row[rows],
                images,
                self._stream.record_event() if self._stream is not None and images else None,
                batch.number,
            )
            if batch.order is not None and self._generation is not None:
                self._generation.submit(job)
            batch.jobs[v].append((rows, job))

    def _made(self, batch: Batch, v: int, source: Rows) -> torch.Tensor | None:
        """The generations that view v shows; notes in ``source`` which row shows which."""
        parts, begin = [], 0
        generation = self._generation if batch.order is not None else None
        for rows, job in batch.jobs[v]:
            if generation is not None:
                with span("wait", batch.epoch, batch.number):
                    part = generation.wait(job)
            else:
                assert self._augment is not None
                part = generate_rows(self._augment, [(job, np.arange(len(rows)))])
            assert part is not None
            place = -1 - begin - np.arange(len(rows))
            generated = batch.decisions[v].replaced[rows]  # a row substituted since may show an image
            source[rows[generated]] = place[generated]
            parts.append(part)
            begin += len(rows)
        return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None

    def _empty(self, n: int, s: int) -> torch.Tensor:
        last = self._memory_format == torch.channels_last
        if self._device.type == "cuda":
            return torch.empty(n, 3, s, s, dtype=self._dtype, device=self._device, memory_format=self._memory_format)
        if last:
            return self._buffers.empty((n, s, s, 3), self._dtype).permute(0, 3, 1, 2)
        return self._buffers.empty((n, 3, s, s), self._dtype)

    def _info(self, batch: Batch, label: Rows) -> dict[str, Any]:
        def by_view(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
            return arrays[0] if len(arrays) == 1 else np.stack(arrays)

        return {
            "index": batch.index,
            "repeat": batch.repeat,
            "path": [self.samples.path(int(index)) for index in batch.index],
            "label": label,
            "replaced": by_view([decision.replaced for decision in batch.decisions]),
            "box": by_view([windows.window for windows in batch.windows]),
            "flip": by_view([windows.flip for windows in batch.windows]),
        }
