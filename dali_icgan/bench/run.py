"""A run: every contest in turn, each line written as soon as it is known."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_icgan.augment import FeatureBank, TrainTransform
from dali_icgan.bench.generated import Generate, followed, offline
from dali_icgan.bench.measure import Contestant, contest, contract, levels, pixels_of
from dali_icgan.bench.models import Models, instructions, load_models
from dali_icgan.bench.peers import BASELINE, PEERS
from dali_icgan.bench.peers.ours import ID, SETTINGS, open_ours
from dali_icgan.bench.peers.peer import How, Opened, Peer, version_of, why_not
from dali_icgan.bench.record import Lines, machine, on_cores, package_version, raise_allocator_thresholds
from dali_icgan.bench.scene import Files, Plan, bank_of, files_of, plan_of
from dali_icgan.bench.settings import Settings
from dali_icgan.bench.stages import arithmetic, stage_rates
from dali_icgan.bench.startup import SOURCES, measure_apart
from dali_icgan.bench.training import Training, train
from dali_icgan.data import as_samples

FILE = "bench.jsonl"
HALF = 0.5  # the p at which every loader is followed by a generator
CLASSES = 1000
_IN_TRAINING = ("pil", "torchvision.io", "dali", "spdl")  # those that can be left in the middle of a pass
_LARGE_IMAGES, _LARGE_BATCH, _LARGE_VERIFIED = (
    16,
    8,
    4,
)  # of a large generator on a CPU, which makes few images a second


class Run:
    """Everything that ``dali-icgan bench`` measures.

    Args:
        settings: of the run.
        told: called with what is done now.
        shown: called with each line, once it is written.
    """

    def __init__(
        self,
        settings: Settings,
        told: Callable[[str], None] = lambda what: None,
        shown: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        self.settings, self.told, self.shown = settings, told, shown
        self.device = settings.device
        self.allocator = "torch" if self.device.type == "cuda" else "stock"
        self.peers: tuple[Peer, ...] = ()
        self.stages: list[dict[str, Any]] = []

    def __call__(self) -> Path:
        """Measure; returns the file of its lines.

        Raises:
            ValueError, FileNotFoundError, DeviceError: data or settings are not as they must be.
            RuntimeError: our own loader does not deliver what it must.
        """
        given = self.settings
        held = instructions(self.device)
        with tempfile.TemporaryDirectory(prefix="dali-icgan-bench-") as folder:
            self.scratch = Path(folder)
            self.told("files")
            self.everything = files_of(given.data, max(given.images, given.training_images), self.scratch)
            self.files = self.everything.first(given.images)
            self.lines = Lines(given.out / FILE)
            self._add({**machine(), **self.files.facts(), "instructions": held})
            self._find_peers()
            self.models, self.bank = self._models(given.case)
            for part in given.parts:
                getattr(self, f"_{part}")()
            if self.device.type == "cpu":
                self._raised()
        return self.lines.path

    # ------------------------------------------------------------------ what is common

    def _add(self, record: dict[str, Any]) -> None:
        self.lines.add(record)
        self.shown(record)

    def _models(self, case: str) -> tuple[Models, FeatureBank]:
        self.told(f"models and features, {case}")
        models = load_models(case, self.device)
        return models, bank_of(self.everything, models.extractor, self.scratch / f"bank of {case}")

    def _how(self, cores: int, batch_size: int | None = None, lasting: bool = True) -> How:
        workers = min(cores, 16) if cores > 1 else 0
        return How(
            batch_size or self.settings.batch_size, cores, workers, self.device, self.scratch / "peers", lasting=lasting
        )

    def _cores(self, cores: int) -> Any:
        return on_cores(cores) if self.device.type == "cpu" else nullcontext()

    @property
    def most(self) -> int:
        return self.settings.cores[-1]

    def _find_peers(self) -> None:
        """Say who is here; keep those who are and who deliver what the baseline does."""
        found = []
        for peer in PEERS:
            reason = why_not(peer) if peer.id in self.settings.peers else "not asked for"
            self._add(
                {
                    "kind": "peer",
                    "peer": peer.id,
                    "title": peer.title,
                    "installed": reason is None,
                    "version": version_of(peer),
                    "reason": reason,
                    "settings": peer.settings,
                }
            )
            if reason is None:
                found.append(peer)
        ours = {"kind": "peer", "peer": ID, "title": ID, "installed": True, "reason": None, "settings": SETTINGS}
        self._add({**ours, "version": package_version("dali-icgan")})
        plan = plan_of(self.files.first(self.settings.verified), TrainTransform(self.settings.size))
        how, alone = self._how(self.most), self._how(1)
        wanted = self._pixels(lambda: BASELINE.open(plan.photos(), alone), plan)
        accepted = []
        for peer in found:
            self.told(f"contract, {peer.title}")
            reference = getattr(peer, "reference", None)  # of those whose filter is another
            own = None if reference is None else levels(reference(plan.photos()), plan)
            note = getattr(peer, "note", None)
            if self._verified(peer.id, partial(peer.open, plan.photos(), how), plan, wanted, peer.exact, own, note):
                accepted.append(peer)
        self.told(f"contract, {ID}")
        self._verified(ID, lambda: open_ours(plan, None, how), plan, wanted, self.device.type == "cpu")
        self.peers = tuple(accepted)

    def _pixels(self, open_it: Callable[[], Opened], plan: Plan) -> Any:
        opened = open_it()
        try:
            return pixels_of(opened, plan)
        finally:
            opened.close()

    def _verified(
        self,
        peer: str,
        open_it: Callable[[], Opened],
        plan: Plan,
        wanted: Any,
        exact: bool,
        own: Any = None,
        note: str | None = None,
        **facts: Any,
    ) -> bool:
        try:
            found = contract(self._pixels(open_it, plan), wanted, exact, own)
        except Exception as error:  # whatever it is, a peer that fails is told, and the others are measured
            if peer == ID:
                raise
            nothing = {"largest_levels": None, "mean_levels": None, "same_boxes": False, "accepted": False}
            found = {"images": len(plan), **nothing, "note": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        found["note"] = found["note"] or note
        self._add({"kind": "contract", "peer": peer, "generator": None, "p": 0, **found, **facts})
        if peer == ID and not found["accepted"]:
            raise RuntimeError(f"the loader does not deliver the plan's batches: {found}")
        return bool(found["accepted"])

    def _contest(
        self, name: str, axis: str, contestants: Sequence[Contestant], plan: Plan, how: How, **facts: Any
    ) -> None:
        base = {
            "contest": f"{name}, {how.threads} threads, {self.allocator}",
            "axis": axis,
            "generator": None,
            "case": None,
            "p": 0,
            "source": None,
            "compaction": True,
            "batch_size": how.batch_size,
            "threads": how.threads,
            "workers": how.workers,
            "size": plan.transform.size,
            "images": len(plan),
            "allocator": self.allocator,
            "device": str(self.device),
            **facts,
        }
        with self._cores(how.threads):
            found = contest(
                contestants,
                self.device,
                self.settings.seconds,
                self.settings.rounds,
                lambda what: self.told(f"{base['contest']}: {what}"),
            )
        for record in found:
            self._add({**base, **record})

    # ------------------------------------------------------------------ photographs alone

    def _plain(self, peers: Sequence[Peer], plan: Plan, how: How) -> list[Contestant]:
        photos = plan.photos()
        theirs = [Contestant(peer.id, partial(peer.open, photos, how)) for peer in peers]
        return [*theirs, Contestant(ID, lambda: open_ours(plan, None, how))]

    def _baseline(self) -> tuple[Peer, ...]:
        return tuple(peer for peer in self.peers if peer is BASELINE)

    def _peers(self) -> None:
        plan = plan_of(self.files, TrainTransform(self.settings.size))
        for cores in self.settings.cores:
            how = self._how(cores)
            self._contest("peers", "peers", self._plain(self.peers, plan, how), plan, how)

    def _scaling(self) -> None:
        given, pair = self.settings, self._baseline()
        plan = plan_of(self.files, TrainTransform(given.size))
        for batch_size in given.batch_sizes:
            how = self._how(self.most, batch_size)
            self._contest(f"batch size {batch_size}", "batch_size", self._plain(pair, plan, how), plan, how)
        for size in given.sizes:
            at_size, how = plan_of(self.files, TrainTransform(size)), self._how(self.most)
            self._contest(f"{size} px", "size", self._plain(pair, at_size, how), at_size, how)
        for cores in given.cores if given.sizes else ():
            how = self._how(cores)
            self._contest("threads", "threads", self._plain(pair, plan, how), plan, how)

    def _raised(self) -> None:
        """The contests that count again, once the C library keeps its memory; there is no way back."""
        if not {"peers", "generators"} & set(self.settings.parts):
            return
        raise_allocator_thresholds()
        self.allocator = "raised thresholds"
        if "peers" in self.settings.parts:
            plan = plan_of(self.files, TrainTransform(self.settings.size))
            for cores in self.settings.cores:
                how = self._how(cores)
                self._contest("peers", "peers", self._plain(self._baseline(), plan, how), plan, how)
        if "generators" in self.settings.parts and HALF in self.settings.probabilities:
            for cores in self.settings.cores:
                self._generation("generators", "generators", HALF, self._how(cores), self._baseline())

    # ------------------------------------------------------------------ generations

    def _generators(self) -> None:
        given, chances = self.settings, [p for p in self.settings.probabilities if p > 0]
        if not chances:
            return
        half = HALF if HALF in chances else chances[0]
        self._verify_generations(half)
        compiled = torch.compile(self.models.eager_generator) if given.compiled else None
        for cores in given.cores:
            peers = self.peers if cores == self.most and given.compiled else self._baseline()
            self._generation("generators", "generators", half, self._how(cores), peers, compiled, every_line=True)
        if given.compiled:  # a full run
            for p in given.probabilities:
                self._generation(f"p = {p:g}", "p", p, self._how(self.most), self._baseline())
        if given.large is not None:
            self._large(given.large, half)

    def _large(self, case: str, p: float) -> None:
        """A generator of published size, for a few images."""
        kept = self.models, self.bank, self.files
        self.models, self.bank = self._models(case)
        self.files = self.files.first(_LARGE_IMAGES)
        compiled = torch.compile(self.models.eager_generator)
        self._verify_generations(p, _LARGE_VERIFIED)
        for cores in self.settings.cores:
            how = self._how(cores, _LARGE_BATCH)
            self._generation(case, "generators", p, how, self._baseline(), compiled if cores == self.most else None)
        self.models, self.bank, self.files = kept

    def _plan(self, p: float, bank: FeatureBank | None, files: Files | None = None) -> tuple[Plan, Any]:
        transform = TrainTransform(self.settings.generation_size(self.models.generator.resolution))
        augment = self.models.augment(p, bank) if p else None
        return plan_of(files or self.files, transform, augment), augment

    def _verify_generations(self, p: float, images: int | None = None) -> None:
        files = self.files.first(images or self.settings.verified)
        alone, how = self._how(1), self._how(self.most)
        for bank in (self.bank, None):
            plan, augment = self._plan(p, bank, files)
            source = "bank" if bank else "online"
            self.told(f"contract, {source} generations of {self.models.case}")
            wanted = self._pixels(partial(followed, BASELINE, plan, alone, self.models), plan)
            facts: dict[str, Any] = {"generator": ID, "case": self.models.case, "source": source, "p": p}
            exact = self.device.type == "cpu"
            self._verified(ID, partial(open_ours, plan, augment, how), plan, wanted, exact, **facts)

    def _generation(
        self,
        name: str,
        axis: str,
        p: float,
        how: How,
        peers: Sequence[Peer],
        compiled: Generate | None = None,
        every_line: bool = False,
    ) -> None:
        """Loaders with a generator behind them beside ours, at p, from the bank.

        Args:
            compiled: the eager generator compiled.
            every_line: also JPEGs that were generated before, features found online, and a line without compaction.
        """
        plan, augment = self._plan(p, self.bank)
        if not p:
            self._contest(name, axis, self._plain(peers, plan, how), plan, how)
            return
        models, case = self.models, {"case": self.models.case, "p": p, "source": "bank"}
        eager, mine = {"generator": "eager"}, {"generator": ID}
        lines = [
            Contestant(peer.id, partial(followed, peer, plan, how, models), {"generator": "eager"}) for peer in peers
        ]
        if compiled is not None:
            lines.append(
                Contestant(
                    BASELINE.id, lambda: followed(BASELINE, plan, how, models, compiled), {"generator": "torch.compile"}
                )
            )
        if every_line:
            folder = self.scratch / f"offline {len(list(self.scratch.iterdir()))}"
            photos, took, made = offline(plan, models, folder)
            # In place of what opening it says, which is nothing.
            facts = {"generator": "offline JPEGs", "one_off_s": round(took, 3), "one_off_images": made}
            lines.append(Contestant(BASELINE.id, lambda: BASELINE.open(photos, how), facts))
            whole = {**eager, "compaction": False}
            lines.append(Contestant(BASELINE.id, lambda: followed(BASELINE, plan, how, models, every_row=True), whole))
        lines.append(Contestant(ID, lambda: open_ours(plan, augment, how), mine))
        self._contest(name, axis, lines, plan, how, **case)
        if every_line and peers:
            seen, extracting = self._plan(p, None)
            online = [
                Contestant(BASELINE.id, lambda: followed(BASELINE, seen, how, models), eager),
                Contestant(ID, lambda: open_ours(seen, extracting, how), mine),
            ]
            self._contest("features online", axis, online, seen, how, **{**case, "source": "online"})

    # ------------------------------------------------------------------ training, stages, start-up

    def _stages(self) -> None:
        """Of the case: at the size of the contests, on one core and on all; and at that of training, kept for its prediction."""
        given = self.settings
        samples, alone = as_samples(self.files.ours), self.models.augment(1.0, self.bank)
        cores = tuple(dict.fromkeys((1, self.most)))
        how = [(given.size, given.batch_size, count) for count in cores] + [
            (given.training_size, given.training_batch, 1)
        ]
        for size, batch_size, count in dict.fromkeys(how):
            self.told(f"stages, {size} px, {count} threads")
            with self._cores(count):
                found = stage_rates(
                    samples,
                    TrainTransform(size),
                    augment=alone,
                    case=self.models.case,
                    batch_size=batch_size,
                    threads=count,
                    device=self.device,
                    step=Training(self.device, CLASSES) if size == given.training_size else None,
                    seconds=given.seconds / 2,
                    rounds=given.rounds,
                )
            if (size, count) == (given.training_size, 1):
                self.stages = found
            for record in found:
                self._add(record)

    def _training(self) -> None:
        given, cores = self.settings, self.most
        how = self._how(cores, given.training_batch, lasting=False)
        how = How(**{**how.__dict__, "memory_format": torch.channels_last})
        files, transform = self.everything.first(given.training_images), TrainTransform(given.training_size)
        training = Training(self.device, CLASSES)
        peers = [peer for peer in self.peers if peer.id in _IN_TRAINING and (given.compiled or peer is BASELINE)]
        plain = plan_of(files, transform)
        contestants: dict[str, tuple[Opened, dict[str, Any]]] = {}
        try:
            for peer in peers:
                contestants[peer.id] = (peer.open(plain.photos(), how), {"peer": peer.id, "p": 0, "generator": None})
            contestants[ID] = (open_ours(plain, None, how), {"peer": ID, "p": 0, "generator": None})
            for p in (p for p in given.probabilities if p == HALF):
                augment = self.models.augment(p, self.bank)
                plan = plan_of(files, transform, augment)
                facts = {"p": p, "case": self.models.case, "source": "bank"}
                for peer in self._baseline():
                    opened = followed(peer, plan, how, self.models)
                    contestants["eager"] = (opened, {"peer": peer.id, "generator": "eager", **facts})
                contestants["generated"] = (open_ours(plan, augment, how), {"peer": ID, "generator": ID, **facts})
            base = {
                "contest": f"training, {cores} threads",
                "case": None,
                "source": None,
                "batch_size": how.batch_size,
                "threads": cores,
                "workers": how.workers,
                "size": given.training_size,
                "device": str(self.device),
                "allocator": self.allocator,
                "predicted_kept": None,
            }
            with self._cores(cores):
                found = train(
                    training, contestants, given.training_seconds, given.rounds, lambda w: self.told(f"training, {w}")
                )
        finally:
            for opened, _ in contestants.values():
                opened.close()
        for record in found:
            if record["peer"] == ID and self.device.type == "cpu" and self.stages:
                step = 1 / float(np.median(record["constant_images_per_s"]))
                record["predicted_kept"] = round(step / (step + arithmetic(self.stages, record["p"], cores)), 4)
            self._add({**base, **record})

    def _startup(self) -> None:
        for entries in self.settings.entries:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                for source in SOURCES:
                    if source.startswith("folder") and entries > 10**5:
                        continue  # a hundred thousand files are made here, more are the benchmark's own cost
                    self.told(f"start-up, {source} of {entries:,}")
                    self._add(measure_apart(source, entries, Path(folder)))
