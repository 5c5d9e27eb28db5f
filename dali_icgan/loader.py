"""The DataLoader: torch's, with images decoded, augmented and finished on the device."""

import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dali_icgan.augment import DAICGAN, EvalTransform, TrainTransform
from dali_icgan.batches import Delivery, Engine
from dali_icgan.data import as_samples
from dali_icgan.data.order import REMAINDERS, ListedOrder, OrderSampler, ShardedOrder, listed
from dali_icgan.data.read import MAX_PIXELS
from dali_icgan.data.stages import Stages
from dali_icgan.data.workers import PATIENCE
from dali_icgan.documents import shown
from dali_icgan.engine.forms import Table, read_table
from dali_icgan.engine.placement import resolve_device
from dali_icgan.errors import DecodeError
from dali_icgan.progress import STATE_FORMAT, STATE_KIND, Progress, check_state, restore_sampler, sampler_state
from dali_icgan.ranks import Ranks
from dali_icgan.spans import span

log = logging.getLogger("dali_icgan")


class DataLoader:
    """``torch.utils.data.DataLoader`` for image files, with generative augmentation.

    Names, order and defaults of the positional arguments are torch's. Yields ``(images, labels)``: images ``[n, 3, s, s]``, normalised,
    on the device; labels int64 ``[n]`` beside them. ``views=k`` yields a list of k image tensors. Every row is a pure function of
    (seed, epoch, index, repeat, view): batch size, threads, prefetch depth and ranks change nothing.

    Args:
        dataset: a folder (a class a subfolder, as ImageFolder) or one of tar shards, a list of ``(path or bytes, label)``, a
            torchvision-like dataset with ``samples`` and without ``transform``, Subset and ConcatDataset of those.
        batch_size: per rank; None only with ``batch_sampler``.
        shuffle: a new order each epoch, a keyed bijection of the index range.
        sampler, batch_sampler: torch's; a sampler may also yield ``(index, repeat)``.
        num_workers: DALI's decoding threads; 0: one a core.
        collate_fn: must be None: batches are assembled on the device.
        drop_last: leave out the last incomplete batch.
        timeout: seconds to wait for a batch; 0: for ever.
        generator: its seed is taken where ``seed`` is None.
        pin_memory, worker_init_fn, multiprocessing_context, persistent_workers, pin_memory_device, in_order, snapshot_every_n_steps (of
            torchdata's StatefulDataLoader): accepted, without effect.
        prefetch_factor: batches ready ahead; None: 2.
        augment: a :class:`DAICGAN`, or None.
        transform: crop, flip and normalisation: :class:`TrainTransform` or :class:`EvalTransform`; a sequence: one a view, whose sizes
            may differ (multi-crop).
        views: how many differently augmented images of each sample, 1..256.
        device: None: cuda where available, else cpu.
        dtype: None: float16 on cuda, float32 on cpu. Arithmetic is float32.
        memory_format: torch.contiguous_format or torch.channels_last.
        seed: any 64-bit integer; None: the generator's, else torch.initial_seed(), which differs from process to process; over
            several ranks, which must agree on it, 0 as in torch's DistributedSampler.
        shard: (rank, world); None: torch.distributed's where it is initialised and no sampler is given; False: never.
        remainder: where samples do not divide by ranks: "pad" (default with shuffle), "uneven" (default without), "drop".
        on_error: "skip": an unreadable sample is replaced by the next readable one of this rank's order; "raise": a DecodeError.
        max_pixels: an image with more is an error, before it is decoded.
        exif: rotate as EXIF says; a bank must be of images seen so.
        return_info: yield a dict of numpy arrays as well: index, repeat, path, label, and replaced, box, flip (with a leading axis of
            views where there are several).

    Attributes:
        errors: the DecodeErrors so far, one a file.
        dataset: as given; of a folder what was found in it, with ``len()`` and ``classes``.
        sampler: as given; else the loader's own order, with ``set_epoch``.

    Every argument is an attribute of its name as well, and a loader can be made again from them.

    Raises:
        ValueError, TypeError: an argument is not as above.
        DeviceError: no DALI, or no such device.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Sequence[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[..., Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        snapshot_every_n_steps: int = 1,
        augment: DAICGAN | None = None,
        transform: TrainTransform | EvalTransform | Sequence[TrainTransform | EvalTransform] | None = None,
        views: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        seed: int | None = None,
        shard: tuple[int, int] | bool | None = None,
        remainder: str | None = None,
        on_error: str = "skip",
        max_pixels: int = MAX_PIXELS,
        exif: bool = False,
        return_info: bool = False,
    ) -> None:
        if collate_fn is not None:
            raise ValueError(
                "collate_fn must be None: batches are assembled on the device by one kernel, got a function"
            )
        ignored = {
            "pin_memory": pin_memory,
            "worker_init_fn": worker_init_fn,
            "multiprocessing_context": multiprocessing_context,
            "persistent_workers": persistent_workers,
            "pin_memory_device": pin_memory_device,
            "in_order=False": not in_order,
            "snapshot_every_n_steps": snapshot_every_n_steps != 1,
        }
        reasons = {"in_order=False": "order is always kept", "snapshot_every_n_steps": "a state is exact at every step"}
        for name in (name for name, asked in ignored.items() if asked):
            reason = reasons.get(name, "there are no worker processes to set up")
            warnings.warn(f"{name} has no effect here: {reason}", stacklevel=2)
        _natural("num_workers", num_workers, 0)
        if prefetch_factor is not None:
            _natural("prefetch_factor", prefetch_factor, 1)
        _natural("views", views, 1)
        _natural("max_pixels", max_pixels, 1)
        if views > 256:
            raise ValueError(f"views must be at most 256, got {views}")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0:
            raise ValueError(f"timeout must be a number of seconds >= 0, got {timeout!r}")
        if batch_sampler is not None:
            if batch_size not in (1, None) or shuffle or sampler is not None or drop_last:
                raise ValueError("batch_sampler must come without batch_size, shuffle, sampler and drop_last")
        else:
            if batch_size is None:
                raise ValueError("batch_size must be an integer >= 1, got None, which goes with batch_sampler only")
            _natural("batch_size", batch_size, 1)
            if isinstance(sampler, OrderSampler):  # this loader is made again from another's attributes
                shuffle, sampler = sampler.shuffle, None
            if sampler is not None and shuffle:
                raise ValueError("sampler must come without shuffle, got both")
        if on_error not in ("skip", "raise"):
            raise ValueError(f'on_error must be "skip" or "raise", got {on_error!r}')
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(
                f"memory_format must be torch.contiguous_format or torch.channels_last, got {memory_format}"
            )
        if augment is not None and not isinstance(augment, DAICGAN):
            raise TypeError(f"augment must be a DAICGAN or None, got {type(augment).__name__}")
        transform = TrainTransform(224) if transform is None else transform
        transforms = _transforms(transform, views)
        if augment is not None:
            if augment.view_p is not None and len(augment.view_p) != views:
                raise ValueError(f"view_p must give one p a view: views is {views}, got {len(augment.view_p)}")
            styles = augment.generated_transform
            if isinstance(styles, tuple) and len(styles) != views:
                raise ValueError(f"generated_transform must give one a view: views is {views}, got {len(styles)}")
            for view, each in enumerate(transforms):
                style = augment.generated_in(view)
                if style is not None and style.output_size != each.output_size:
                    raise ValueError(
                        f"generated_transform must give {each.output_size} px in view {view} as its transform does, got {style.output_size} px; "
                        "a sequence gives one a view"
                    )
            if augment.labels == "random" and views > 1:
                raise ValueError(f'labels="random" gives a row one label: views must be 1, got {views}')
        self.batch_size = None if batch_sampler is not None else batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = None
        self.pin_memory = pin_memory
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator = generator
        self.persistent_workers = persistent_workers
        self.pin_memory_device = pin_memory_device
        self.in_order = in_order
        self.snapshot_every_n_steps = snapshot_every_n_steps
        self.prefetch_factor = 2 if prefetch_factor is None else prefetch_factor
        self.augment = augment
        self.transform: Any = transform
        self.views = views
        self.device = resolve_device(device)
        if augment is not None and augment.source == "generator" and augment.device != self.device:
            raise ValueError(f"augment must generate on the loader's device {self.device}, got {augment.device}")
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)
        if self.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32, float16 or bfloat16, got {self.dtype!r}")
        self.memory_format = memory_format
        self.shuffle = bool(shuffle)
        self._own_order = sampler is None and batch_sampler is None
        self.shard = shard
        self.rank, self.world = self._shard(shard)
        self.seed = _seed(seed, generator, self.world)
        if remainder is not None and remainder not in REMAINDERS:
            raise ValueError(f"remainder must be one of {', '.join(map(repr, REMAINDERS))} or None, got {remainder!r}")
        self.remainder = remainder or ("pad" if self.shuffle else "uneven")
        self.on_error = on_error
        self.max_pixels = max_pixels
        self.exif = exif
        self.return_info = return_info
        samples = as_samples(dataset)
        self.dataset = samples if isinstance(dataset, (str, os.PathLike)) else dataset
        self._engine = Engine(
            samples,
            augment=augment,
            transforms=transforms,
            device=self.device,
            dtype=self.dtype,
            memory_format=memory_format,
            seed=self.seed,
            threads=num_workers,
            on_error=on_error,
            max_pixels=max_pixels,
            exif=exif,
            keep=self.prefetch_factor + 3,
        )
        if self.world > 1 and remainder is None and self.remainder == "uneven":
            self._say_uneven()
        self._pid = os.getpid()
        self._closed = False
        self._epoch = 0  # of the next pass
        self._sampler_epoch = getattr(self._any_sampler, "epoch", None)
        self._resume: dict[str, Any] | None = None
        self._progress: Progress | None = None
        self._pass: weakref.ref[_Pass] | None = None
        self._warned = False
        if self._own_order:
            me = weakref.proxy(self)
            self.sampler = OrderSampler(
                self.shuffle, lambda: me._sharded(me._epoch, 0), lambda epoch: me.set_epoch(epoch)
            )
        weakref.finalize(self, Engine.close, self._engine)

    # ------------------------------------------------------------------ torch's face

    def __len__(self) -> int:
        """Batches an epoch has on this rank."""
        if self._own_order:
            return self._sharded(0, 0).batches
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]
        count = len(self.sampler)  # type: ignore[arg-type]
        assert self.batch_size is not None
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> "_Pass":
        """Begin a pass. Its epoch is decided, and threads begin, with its first batch: frameworks call ``iter()`` before they load a state or
        name the epoch, some of them twice.

        Raises:
            RuntimeError: torch.distributed was initialised after the loader was made, which hence does not shard.
        """
        self._check_usable()
        self._check_ranks()
        self._end_pass()
        self._progress = None
        begun = _Pass(self)
        self._pass = weakref.ref(begun)
        return begun

    def set_epoch(self, epoch: int) -> None:
        """Name the next pass; a sampler that has ``set_epoch`` is told too."""
        _natural("epoch", epoch, 0)
        if self._resume is not None and self._resume["epoch"] == epoch:
            return  # the training loop names the epoch that a loaded state is in the middle of
        self._resume = self._progress = None
        self._epoch = epoch
        sampler = self._any_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        self._sampler_epoch = getattr(sampler, "epoch", None)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, counted in batches handed out, not in those ready ahead: small, JSON-able, and what it belongs to.

        ``position`` counts the samples that all ranks together have had of ``epoch``, so that any rank's state of the same step serves
        them all, on whatever number of ranks goes on; with a sampler, which shards itself, it counts this rank's, and each rank needs
        its own. A state taken after the last batch says that the epoch is done, as StatefulDataLoader's does: the next pass is empty.
        Taken once the loop has ended, it means the next epoch. ``forms``: which tile each convolution of the generator and the
        extractor takes, on a CPU.
        """
        if self._resume is not None:
            return dict(self._resume)
        state = {
            "kind": STATE_KIND,
            "format": STATE_FORMAT,
            **self._identity(),
            "seed": self.seed,
            "epoch": self._epoch,
            "position": 0,
            "forms": {} if self.augment is None else self.augment.forms,
        }
        if self._progress is None or self._progress.finished:
            return state | sampler_state(self._stateful_sampler)
        return state | self._progress.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`: the next pass is exactly the rest of that epoch, each sample once, also on another number of
        ranks, with another batch size, ``drop_last`` or ``remainder`` (which then go by what is left), or prefetch depth. ``len()``
        stays that of a whole epoch.

        Raises:
            ValueError: the state is of another dataset, order or version; or its pixels were made with other forms of convolutions, on the
                same instruction set: ``load_generator(..., forms=state["forms"]["generator"])`` goes on with those (extractor alike).
        """
        check_state(state, self._identity())
        self._check_forms(state.get("forms", {}))
        seed = _seed(state["seed"], None, 1)
        self._end_pass()
        self._progress = None
        self._epoch = state["epoch"]
        self.seed = seed
        self._engine.reseed(seed)
        self._resume = dict(state) if state["position"] else None
        restore_sampler(self._stateful_sampler, state)
        sampler = self._any_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self._epoch)
        self._sampler_epoch = getattr(sampler, "epoch", None)

    def _identity(self) -> dict[str, Any]:
        """What a state must agree with."""
        samples = self._engine.samples
        return {
            "samples": len(samples),
            "dataset": samples.fingerprint,
            "shuffle": self.shuffle,
            "order": "own" if self._own_order else "sampler",
        }

    def _check_forms(self, forms: dict[str, Table]) -> None:
        if not isinstance(forms, dict):
            raise ValueError(f"state must have an object forms, got {shown(forms)}")
        mine = {} if self.augment is None else self.augment.forms
        for model in forms.keys() & mine.keys():
            if not isinstance(forms[model], dict):  # a word would name a file
                raise ValueError(f"state must have an object forms of the {model}, got {shown(forms[model])}")
            here, there = mine[model], read_table(forms[model], f"state's forms of the {model}")
            if here.keys() != there.keys():
                log.warning(
                    f"the {model} computed with {', '.join(there)} where the state was made, here with {', '.join(here)}: "
                    "pixels differ by rounding"
                )
            elif here != there:
                raise ValueError(
                    f"state must be of the same forms of the {model}'s convolutions, got others; to go on with its own, "
                    f"load_{model}(..., forms=state['forms']['{model}'])"
                )

    # ------------------------------------------------------------------ ours

    @property
    def mixup_enabled(self) -> bool:
        """False: timm's training script asks; images are mixed behind the loader, by timm's Mixup."""
        return False

    @property
    def _is_accelerate_prepared(self) -> bool:
        """What Accelerate's ``prepare_data_loader`` asks before it would put a DataLoader of torch's over the dataset.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "a dali_icgan.DataLoader shards over ranks and places batches on the device itself, so accelerator.prepare_data_loader(loader) must "
            "not be called: use the loader as it is, with accelerator.prepare(model, optimizer), and "
            "accelerator.register_for_checkpointing(loader)"
        )

    @property
    def errors(self) -> list[DecodeError]:
        """Samples that could not be read so far, one a file."""
        return list(self._engine.errors.values())

    @property
    def pillow_decoded(self) -> int:
        """Images that Pillow decoded so far, on the host: kinds that DALI does not read or reads differently, and damaged ones."""
        return self._engine.pillow_decoded

    def replay(self, epoch: int, index: int, repeat: int = 0, view: int = 0) -> tuple[torch.Tensor, int]:
        """One row again, bit for bit as an epoch gives it: ``(image [3, s, s], label)``.

        Raises:
            DecodeError: it cannot be read.
        """
        delivery = self.replay_batch(epoch, [index], [repeat], view)
        return delivery.images[0][0], int(delivery.info["label"][0])

    def replay_batch(
        self, epoch: int, indices: Sequence[int], repeats: Sequence[int] | None = None, view: int = 0
    ) -> Delivery:
        """Several rows of :meth:`replay` at once, with their info."""
        self._check_usable()
        _natural("epoch", epoch, 0)
        n = len(self._engine.samples)
        for index in indices:
            if not 0 <= index < n:
                raise IndexError(f"index must lie in 0..{n - 1}, got {index}")
        if not 0 <= view < self.views:
            raise ValueError(f"view must lie in 0..{self.views - 1}, got {view}")
        delivery = self._engine.replay(
            epoch, np.asarray(indices, np.int64), np.asarray(repeats or [0] * len(indices), np.int64), view
        )
        delivery.on_current_stream()
        return delivery

    def close(self) -> None:
        """End every thread; the loader cannot be used afterwards."""
        self._closed = True
        self._end_pass()
        self._engine.close()

    def __repr__(self) -> str:
        return (
            f"DataLoader({self._engine.samples.name!r}, {len(self._engine.samples)} images, batch_size={self.batch_size}, "
            f"{self.transform}, {self.dtype}, {self.device}, seed={self.seed}, rank {self.rank} of {self.world}, augment={self.augment})"
        )

    def __enter__(self) -> "DataLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ inside

    @property
    def _any_sampler(self) -> Any:
        if self.batch_sampler is not None:
            inner = getattr(self.batch_sampler, "sampler", None)
            return self.batch_sampler if hasattr(self.batch_sampler, "set_epoch") or inner is None else inner
        return None if self._own_order else self.sampler

    @property
    def _stateful_sampler(self) -> Any:
        return self.batch_sampler if hasattr(self.batch_sampler, "state_dict") else self._any_sampler

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a DataLoader must be used in the process that made it: after a fork, make one in the child"
            )
        if self._closed:
            raise RuntimeError("the DataLoader is closed")

    def _check_ranks(self) -> None:
        here = Ranks.here().world
        if self.shard is None and self._own_order and self.world == 1 < here:
            raise RuntimeError(
                f"the DataLoader must be made after torch.distributed is initialised, got one made before, which would give all samples to "
                f"each of {here} ranks: make it later (Lightning: in train_dataloader(); Accelerate: after Accelerator()), or set "
                "shard=(rank, world), or shard=False where every rank is to have all"
            )

    def _shard(self, shard: tuple[int, int] | bool | None) -> tuple[int, int]:
        if shard is None or shard is True:
            here = Ranks.here()
            if here.world == 1 or not self._own_order:
                return 0, 1
            shard = here.rank, here.world
            log.info("samples are sharded over ranks: this is rank %d of %d", *shard)
        if shard is False:
            return 0, 1
        if not (
            isinstance(shard, tuple)
            and len(shard) == 2
            and all(isinstance(s, int) for s in shard)
            and 0 <= shard[0] < shard[1]
        ):
            raise ValueError(f"shard must be (rank, world) with 0 <= rank < world, False or None, got {shard!r}")
        if not self._own_order:
            raise ValueError("shard must be None or False with a sampler, which shards itself")
        return shard

    def _sharded(self, epoch: int, start: int) -> ShardedOrder:
        assert self.batch_size is not None
        return ShardedOrder(
            len(self._engine.samples),
            self.batch_size,
            self.drop_last,
            self.shuffle,
            self.seed,
            epoch,
            self.rank,
            self.world,
            start,
            self.remainder,
        )

    def _say_uneven(self) -> None:
        counts = {replace(self._sharded(0, 0), rank=rank).batches for rank in (0, self.world - 1)}
        log.log(
            logging.WARNING if len(counts) > 1 else logging.INFO,
            "without shuffle each sample comes exactly once: batch counts may differ by one over ranks (here they %s); "
            'remainder="pad" or "drop" makes them equal, where every step waits for all ranks',
            "do" if len(counts) > 1 else "do not",
        )

    def _end_pass(self) -> None:
        current = self._pass() if self._pass is not None else None
        if current is not None:
            current.close()

    def _next_epoch(self) -> Progress:
        """Decide which epoch a pass is of, and from where it goes on."""
        sampler = self._any_sampler
        named = getattr(sampler, "epoch", None)
        if isinstance(named, int) and named != self._sampler_epoch and self._resume is None:
            self._epoch = named  # the sampler's set_epoch names the next pass as well as ours does
        self._sampler_epoch = named
        progress = self._progress = self._begin(self._epoch, self._resume)
        self._resume, self._epoch = None, self._epoch + 1
        return progress

    def _begin(self, epoch: int, resume: dict[str, Any] | None) -> Progress:
        """The order of an epoch, from where it goes on."""
        start = resume["position"] if resume else 0
        if self._own_order:
            return Progress(epoch, self._sharded(epoch, start))
        sampler: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        before = sampler_state(self._stateful_sampler)
        endless = not hasattr(sampler, "__len__")
        order = ListedOrder(
            iter(sampler) if endless else listed(sampler, self.seed, epoch),
            len(self._engine.samples),
            self.batch_size or 1,
            self.drop_last,
            batches=self.batch_sampler is not None,
            endless=endless,
            start=start,
        )
        if resume is not None and (order.start < start or order.checksum(start) != resume.get("checksum")):
            raise ValueError(
                "state must be of the same sampler, and of this rank's where it shards itself: it gives other samples than those "
                "already delivered"
            )
        return Progress(epoch, order, before)

    def _warn_once(self) -> None:
        if self._engine.errors and not self._warned:
            self._warned = True
            error = next(iter(self._engine.errors.values()))
            warnings.warn(
                f"{error}; it is replaced by the next readable sample (see loader.errors for all)", stacklevel=3
            )


class _Pass(Iterator[Any]):
    """One pass over the data; its threads end with it."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._open = True
        self._finished = False
        self._progress: Progress | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def _begin(self) -> Progress:
        loader, engine = self._loader, self._loader._engine
        progress = loader._next_epoch()
        engine.begin(progress.epoch)
        self._stages = Stages(
            engine.plan(progress.epoch, progress.order, 0),
            [engine.read, engine.decode, engine.finish],
            look_ahead=loader.prefetch_factor + 2,
            name="dali_icgan",
            on_full=engine.look_ahead_is_full,
        )
        self._finalizer = weakref.finalize(self, _end, self._stages, engine)
        return progress

    def __iter__(self) -> "_Pass":
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        loader = self._loader
        loader._check_usable()
        if not self._open:
            current = loader._pass() if loader._pass is not None else None
            if current is not self and not self._finished:
                raise RuntimeError(
                    "another pass over this DataLoader was begun, which ended this one: a loader has one at a time"
                )
            raise StopIteration
        if self._progress is None:
            self._progress = self._begin()
        try:
            with span("wait", self._progress.epoch, self._progress.delivered):
                delivery: Delivery = self._stages.next(loader.timeout or None)
        except BaseException as error:
            self._finished = True
            self._progress.finished = isinstance(error, StopIteration)
            self.close()
            loader._warn_once()
            if isinstance(error, TimeoutError):
                raise RuntimeError(f"no batch within timeout = {loader.timeout} s") from error
            raise
        self._progress.delivered += 1
        loader._warn_once()
        delivery.on_current_stream()
        images: Any = delivery.images[0] if loader.views == 1 else delivery.images
        return (images, delivery.labels, delivery.info) if loader.return_info else (images, delivery.labels)

    def close(self) -> None:
        """End the threads of this pass."""
        self._open = False
        if self._finalizer is not None:
            self._finalizer()


def _end(stages: Stages, engine: Engine) -> None:
    deadline = time.monotonic() + PATIENCE
    stages.end()
    engine.end()
    stages.join(deadline)
    engine.end()  # what a step began in the meantime
    engine.join(deadline)


def _natural(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def _transforms(transform: Any, views: int) -> tuple[TrainTransform | EvalTransform, ...]:
    """One a view."""
    each = tuple(transform) if isinstance(transform, Sequence) else (transform,) * views
    for one in each:
        if not isinstance(one, (TrainTransform, EvalTransform)):
            raise TypeError(f"transform must be a TrainTransform or EvalTransform, got {type(one).__name__}")
    if len(each) != views:
        raise ValueError(f"transform must give one transform a view: views is {views}, got {len(each)}")
    return each


def _seed(seed: int | None, generator: torch.Generator | None, world: int) -> int:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator (of random numbers; a GAN goes into augment=DAICGAN(generator=...)), "
            f"got {type(generator).__name__}"
        )
    if seed is None and generator is not None:
        seed = generator.initial_seed()
    elif seed is None:
        seed = torch.initial_seed() if world == 1 else 0
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be a 64-bit integer, got {seed!r}")
    return seed
