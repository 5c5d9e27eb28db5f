"""What one sees of a run: a bar, TensorBoard, the history of figures; images/s, and how long data was waited for."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dali_icgan.training.state import write_whole


class Watch:
    """Of one rank; the first one alone shows and writes.

    Attributes:
        history: figures of every validation, each with step and epoch.
    """

    def __init__(self, out: Path, first: bool, progress: bool) -> None:
        self.history: list[dict[str, float]] = []
        self._out, self._first = out, first
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=Console(stderr=True),
            disable=not (first and progress),
        )
        self._writer: SummaryWriter | None = None
        self._losses: list[Tensor] = []
        self._since = 0.0  # when the clock was last started
        self._seconds, self._waited, self._images = 0.0, 0.0, 0
        self._window = (0.0, 0.0, 0)

    def begin(self, step: int, steps: int, world: int) -> None:
        """Show the bar, from where the run goes on."""
        if self._first:
            self._writer = SummaryWriter(str(self._out / "tensorboard"), purge_step=step)
        self._bar.start()
        ranks = f", {world} ranks" if world > 1 else ""
        self._task = self._bar.add_task(f"training{ranks}", total=steps, completed=step, said="")

    def close(self) -> None:
        """Let go of the bar and the files."""
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Within it data is waited for."""
        begin = time.perf_counter()
        yield
        if self._since:
            self._waited += time.perf_counter() - begin

    def stepped(self, loss: Tensor, images: int) -> None:
        """After a step. The clock starts with the end of the first one, and again after a validation."""
        self._losses.append(loss)
        now = time.perf_counter()
        if self._since:
            self._seconds += now - self._since
            self._images += images
        self._since = now
        self._bar.advance(self._task)

    def mean_loss(self) -> Tensor:
        """Since the last look, on its device."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).mean()

    def look(self, step: int, loss: float, lr: float) -> None:
        """Show and note where the run stands."""
        seconds, waited, images = (a - b for a, b in zip(self._totals, self._window, strict=True))
        self._window = self._totals
        rate, share = (images / seconds, waited / seconds) if seconds else (0.0, 0.0)
        self._bar.update(self._task, said=f"loss {loss:.3f}  {rate:,.0f} images/s  {share:.0%} waiting")
        if self._writer is not None:
            for name, value in {"loss": loss, "lr": lr, "images_per_second": rate, "waiting": share}.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def note(self, step: int, epoch: float, figures: dict[str, float]) -> None:
        """Figures of a validation; begins ``history.json`` anew with them."""
        self._since = 0.0  # it is not counted as training
        self.history.append({"step": step, "epoch": epoch, **figures})
        if self._writer is not None:
            text = json.dumps(self.history, indent=1).encode()
            write_whole(self._out / "history.json", lambda file: file.write(text))
            for name, value in figures.items():
                self._writer.add_scalar(f"validation/{name}", value, step)

    @property
    def _totals(self) -> tuple[float, float, int]:
        return self._seconds, self._waited, self._images

    @property
    def images_per_second(self) -> float:
        """Over all ranks, so far."""
        return self._images / self._seconds if self._seconds else 0.0

    @property
    def waiting(self) -> float:
        """Share of the time in which data was waited for, so far."""
        return self._waited / self._seconds if self._seconds else 0.0
