"""The one trainer: any recipe, on one process or the ranks of torchrun, cut off and gone on with at any step."""

import contextlib
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, distribute_bn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dali_icgan.augment.bank_build import sole_builder
from dali_icgan.engine.placement import resolve_device
from dali_icgan.ranks import Ranks
from dali_icgan.recipes.batches import seed_step
from dali_icgan.recipes.checkpoints import load_last, save_last, save_text, save_weights
from dali_icgan.recipes.config import render
from dali_icgan.recipes.data import eval_loader, folders, train_loader
from dali_icgan.recipes.recipe import AnyRecipe, Recipe, SwavRecipe
from dali_icgan.recipes.supervised import Classification
from dali_icgan.recipes.task import Autocast, Task, summed
from dali_icgan.recipes.watch import Watch
from dali_icgan.training.state import random_of

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Summary:
    """How a call of :func:`train_recipe` ended.

    Attributes:
        step, steps: done, and of the whole run.
        figures: of the last validation; empty where there was none.
        best: the most of the task's metric so far, in percent; None where nothing was validated in full.
        images_per_second: over all ranks; waiting: share of the time in which the trainer waited for data. Of this call, without
            validation and its first step.
    """

    step: int
    steps: int
    figures: dict[str, float]
    best: float | None
    images_per_second: float
    waiting: float


def train_recipe(
    recipe: AnyRecipe,
    name: str,
    root: Path | str,
    out: Path | str,
    *,
    steps: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Summary:
    """Train; the same call goes on where an earlier one was cut off. Every rank calls it.

    Args:
        recipe: all settings.
        name: of the packaged recipe that it comes from, whose text ``config.yaml`` keeps.
        root: holds the folders of training and validation images.
        out: the run's folder: gets ``config.yaml``, ``last.pt``, ``best.safetensors``, ``final.safetensors``, ``history.json`` and
            ``tensorboard``.
        steps: end after so many steps of the optimiser, with a validation of as many batches where no epoch ends (a trial); None: at the run's end.
        device: None is the current CUDA device, else the CPU.
        progress: show a bar on stderr.

    Raises:
        ValueError: settings, images and ranks do not go together, or the folder is of another run.
        FloatingPointError: the loss is no number; the last state, from before, stays.
        DecodeError: a validation image cannot be read.
        OSError: a file could not be written; what was there before stays.
    """
    root, out, ranks = Path(root), Path(out), Ranks.here()
    with contextlib.ExitStack() as held:

        def prepare() -> None:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(sole_builder(out, ".recipe.lock"))

        ranks.from_first(f"opening {out}", prepare)
        trainer = Trainer(recipe, name, root, out, resolve_device(device), ranks, progress)
        held.callback(trainer.close)
        return trainer.run(steps)


class Trainer:
    """A run on this rank; see :func:`train_recipe`."""

    def __init__(
        self, recipe: AnyRecipe, name: str, root: Path, out: Path, device: torch.device, ranks: Ranks, progress: bool
    ) -> None:
        run = recipe.run
        if run.batch_size % (ranks.world * run.accumulate):
            raise ValueError(
                f"run.batch_size must be a multiple of {ranks.world} ranks x run.accumulate {run.accumulate}, got {run.batch_size}"
            )
        if recipe.model.sync_batch_norm and ranks.world > 1 and device.type != "cuda":
            raise ValueError(
                f"model.sync_batch_norm must be false over ranks on {device.type}: torch has it on CUDA alone, got true"
            )
        self.recipe, self.name, self.out, self.device, self.ranks = recipe, name, out, device, ranks
        self.samples, validated = folders(recipe, root)
        micro = run.batch_size // (ranks.world * run.accumulate)
        self.steps_per_epoch = len(self.samples) // ranks.world // micro // run.accumulate
        torch.manual_seed(random_of(run.seed, "weights").initial_seed())
        self.task = self._make_task()
        self.train_loader = train_loader(recipe, self.samples, device, ranks, raw=self.task.raw)
        self.eval_loader = eval_loader(recipe, validated, device, ranks)
        self.steps = recipe.epochs * self.steps_per_epoch
        self.step, self.best = 0, -math.inf
        self._make_network()
        precision = _PRECISIONS[run.precision]
        self.autocast: Autocast = partial(torch.autocast, device.type, precision, enabled=precision != torch.float32)
        self.watch = Watch(out, ranks.rank == 0, progress)

    def _make_task(self) -> Task:
        recipe = self.recipe
        if isinstance(recipe, Recipe):
            return Classification(recipe, self.samples, self.device, self.ranks)
        assert isinstance(recipe, SwavRecipe)
        from dali_icgan.recipes.selfsupervised import SwavTask  # lightly takes seconds to import

        return SwavTask(recipe, self.samples, self.device, self.ranks, self.steps_per_epoch)

    def _make_network(self) -> None:
        recipe, task, ranks = self.recipe, self.task, self.ranks
        layout = torch.channels_last if recipe.model.channels_last else torch.contiguous_format
        task.network.to(self.device).to(memory_format=layout)
        if recipe.model.sync_batch_norm and ranks.world > 1:
            convert_sync_batchnorm(task.network)  # in place: the network itself is none
        self.ema = None
        if recipe.ema.decay is not None:
            self.ema = ModelEmaV3(task.network, recipe.ema.decay, use_warmup=recipe.ema.warmup)
        self.network: nn.Module = task.network
        if ranks.world > 1:
            self.network = DistributedDataParallel(
                task.network, device_ids=[self.device] if self.device.type == "cuda" else None
            )
        optimizer, schedule = recipe.optimizer, recipe.schedule
        if optimizer.name not in (known := [str(each) for each in list_optimizers()]):
            near = difflib.get_close_matches(optimizer.name, known, 3, 0.5)
            said = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(
                f"optimizer.name must be one of timm.optim.list_optimizers(), got {optimizer.name!r}{said}"
            )
        lr = optimizer.lr * recipe.run.batch_size / optimizer.lr_batch
        self.optimizer = create_optimizer_v2(
            task.network,
            optimizer.name,
            lr,
            optimizer.weight_decay,
            optimizer.momentum,
            filter_bias_and_bn=not optimizer.decay_all,
        )
        self.schedule, _ = create_scheduler_v2(
            self.optimizer,
            schedule.kind,
            num_epochs=recipe.epochs,
            decay_milestones=[m * recipe.stretch for m in schedule.milestones],  # type: ignore[misc]
            decay_rate=schedule.decay,
            min_lr=schedule.min_lr,
            warmup_lr=schedule.warmup_lr,
            warmup_epochs=schedule.warmup_epochs,  # type: ignore[arg-type]
            step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.run.precision == "fp16")

    def close(self) -> None:
        """End every thread."""
        self.train_loader.close()
        self.eval_loader.close()
        self.watch.close()

    # ------------------------------------------------------------------ the run

    def run(self, limit: int | None = None) -> Summary:
        """To the end, or ``limit`` steps on."""
        resumed = self._load()
        end = self.steps if limit is None else min(self.steps, self.step + limit)
        self.watch.begin(self.step, self.steps, self.ranks.world)
        if self.ranks.rank == 0:
            save_text(self.out / "config.yaml", render(self.name, self.recipe))
        figures: dict[str, float] = {}
        while self.step < end:
            batches = self._epoch(resumed)
            resumed = None
            self.task.train()
            until = min(end, self.step + self.steps_per_epoch - self.step % self.steps_per_epoch)
            while self.step < until:
                self._step(batches)
                if self.step % self.recipe.run.save_every == 0 and self.step < until:
                    self._save()
            if self.step % self.steps_per_epoch == 0:
                epoch = self.step // self.steps_per_epoch
                if epoch % self.recipe.run.validate_every == 0 or self.step == self.steps:
                    figures = self._validate(None)
            self._save()
        if self.step < self.steps and limit is not None and not figures:
            figures = self._validate(limit)
        if self.step == self.steps and self.ranks.rank == 0:
            network = self.task.network if self.ema is None else self.ema.module
            save_weights(self.out / "final.safetensors", self.task.export(network), self._about(figures))
        return Summary(
            self.step,
            self.steps,
            figures,
            self.best if math.isfinite(self.best) else None,
            self.watch.images_per_second,
            self.watch.waiting,
        )

    def _epoch(self, resumed: dict[str, Any] | None) -> Iterator[Any]:
        if resumed is not None and self.step % self.steps_per_epoch:
            self.train_loader.load_state_dict(resumed)
        self.train_loader.set_epoch(self.step // self.steps_per_epoch)
        return iter(self.train_loader)

    def _step(self, batches: Iterator[Any]) -> None:
        run, task = self.recipe.run, self.task
        seed_step(run.seed, self.step, self.ranks.rank)
        self.schedule.step_update(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in range(run.accumulate):
            with self.watch.waits():
                batch = next(batches)
            with self._together(last=part == run.accumulate - 1):
                loss = task.loss(self.network, batch, self.step, self.autocast) / run.accumulate
                self.scaler.scale(loss).backward()
            total += loss.detach()
        task.after_backward(self.step)
        if self.recipe.optimizer.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(task.network.parameters(), self.recipe.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.ema is not None:
            self.ema.update(task.network, self.step)
        self.watch.stepped(total, run.batch_size)
        if self.step % run.log_every == 0 or self.step == self.steps:
            self._look()

    @contextlib.contextmanager
    def _together(self, last: bool) -> Iterator[None]:
        """Gradients of all ranks are averaged once a step, with its last part."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            with self.network.no_sync():
                yield
        elif self.ranks.world > 1:
            with self.ranks.missing(f"step {self.step}"):
                yield
        else:
            yield

    def _look(self) -> None:
        """At the loss since the last look, of all ranks alike."""
        loss = float(summed(self.watch.mean_loss(), self.ranks)) / self.ranks.world
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss must be finite, got {loss} up to step {self.step}: a lower optimizer.lr, or optimizer.clip, may help; "
                f"{self.out / 'last.pt'} is from before"
            )
        self.watch.look(self.step, loss, self.optimizer.param_groups[0]["lr"])

    # ------------------------------------------------------------------ validation

    def _validate(self, limit: int | None) -> dict[str, float]:
        figures = self._figures(self.task.network, limit)
        which, kept = self.task.metric, self.task.network
        if self.ema is not None:
            averaged = self._figures(self.ema.module, limit)
            figures |= {f"ema_{name}": value for name, value in averaged.items() if name != "images"}
            if averaged[which] >= figures[which]:
                which, kept = f"ema_{which}", self.ema.module
        if limit is None:
            self.watch.note(self.step, self.step / self.steps_per_epoch, figures)
            if figures[which] > self.best:
                self.best = figures[which]
                if self.ranks.rank == 0:
                    save_weights(self.out / "best.safetensors", self.task.export(kept), self._about(figures))
        self.task.train()
        return figures

    def _figures(self, network: nn.Module, limit: int | None) -> dict[str, float]:
        if self.ranks.world > 1:
            distribute_bn(network, self.ranks.world)  # the first rank's statistics are the run's, as those of its state
        # Not through DistributedDataParallel: ranks may have different numbers of batches.
        return self.task.validate(network, self.eval_loader, self.autocast, self.ranks, limit)

    def _about(self, figures: dict[str, float]) -> dict[str, Any]:
        return {
            "model": self.recipe.model.name,
            "recipe": self.name,
            "arm": self.recipe.generate.arm,
            "step": self.step,
            **figures,
        }

    # ------------------------------------------------------------------ state

    def _save(self) -> None:
        mine = {"loader": self.train_loader.state_dict(), "task": self.task.state()}
        everyone = self.ranks.gather(mine, "saving the state")
        if everyone is None:
            return
        state = {
            "step": self.step,
            "best": self.best,
            "history": self.watch.history,
            "network": self.task.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "ranks": everyone,
        }
        save_last(self.out, self.recipe, self.samples.fingerprint, state)

    def _load(self) -> dict[str, Any] | None:
        """Go on from ``last.pt``; returns the state of this rank's loader."""
        state = load_last(self.out, self.recipe, self.samples.fingerprint, self.device)
        if state is None:
            return None
        everyone = state["ranks"]
        own = len(everyone) == self.ranks.world
        if not own and (self.recipe.data.repeats > 1 or everyone[0]["task"]):
            raise ValueError(
                f"{self.out} must go on with its {len(everyone)} ranks, whose queues or repeats are their own, got {self.ranks.world}"
            )
        mine = everyone[self.ranks.rank if own else 0]
        self.step, self.best, self.watch.history = state["step"], state["best"], state["history"]
        self.task.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.task.load_state(mine["task"])
        loader: dict[str, Any] = mine["loader"]
        return loader
