"""``dali-icgan demo``: real photographs, a bank, an epoch, figures, a page."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.augment.operator import DAICGAN, finish
from dali_icgan.augment.plan import RowKeys
from dali_icgan.augment.transform import TrainTransform, Windows
from dali_icgan.cli.page import Page
from dali_icgan.cli.photographs import PHOTOGRAPHS, cut
from dali_icgan.cli.preview import check_page, make_page
from dali_icgan.data import ImageDecoder, Samples, as_samples
from dali_icgan.data.decode import available_threads
from dali_icgan.data.read import Encoded, Reader
from dali_icgan.engine import Extractor, load_extractor, load_generator
from dali_icgan.loader import DataLoader

P, SEED, BATCH = 0.5, 6, 64  # the seed: each row of the page has photographs and generations
# Patches are parts of photographs already: a milder crop than ImageNet's leaves something to recognise.
TRANSFORM = TrainTransform(112, scale=(0.35, 1.0))


def run(out: Path, folder: Path, device: str | None, per_photograph: int, seconds: float) -> None:
    """Everything, and what it took.

    Args:
        out: the page.
        folder: holds ``images`` and the bank; what is there is used again.
        per_photograph: patches cut of each.
        seconds: how long each stage is measured.
    """
    check_page(out)
    console = Console()
    begin = perf_counter()
    generator, extractor = load_generator("embedded", device), load_extractor("embedded", device)
    extractor = extractor.at_resolution(generator.resolution)
    dataset = _photographs(console, folder / "images", per_photograph)
    bank = _bank(console, folder, dataset, extractor)
    augment = DAICGAN(generator=generator, bank=bank, p=P)
    half = _epoch(console, dataset, augment, "an epoch, p = 0.5", device)
    none = _epoch(console, dataset, None, "an epoch, p = 0", device)
    with console.status("measuring each stage by itself"):
        table = _stages(dataset, augment, extractor, seconds)
    table.add_row("loader, p = 0", f"{none:,.0f}", f"an epoch of {len(dataset)}, all stages at once")
    table.add_row("loader, p = 0.5", f"{half:,.0f}", "the same, half of it generated, from the bank")
    console.print(table)
    with console.status("drawing the page"):
        page = _page(dataset, augment, device)
        page.draw().save(out)
    console.print(
        f"[bold]{out}[/]  {page.width} x {page.height} px, look at it. All of this took {perf_counter() - begin:.0f} s."
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        # Over all that is done, as the table says it in the end; rich's own is over the last updates.
        return Text(f"{task.completed / task.elapsed:,.0f} images/s" if task.elapsed else "")


def _progress(console: Console, *more: ProgressColumn) -> Progress:
    what = SpinnerColumn(finished_text="✓"), TextColumn("{task.description:<22}")
    return Progress(*what, BarColumn(16), MofNCompleteColumn(), *more, TimeElapsedColumn(), console=console)


def _photographs(console: Console, folder: Path, per_photograph: int) -> Samples:
    with _progress(console) as progress:
        task = progress.add_task(f"{len(PHOTOGRAPHS)} photographs, cut", total=len(PHOTOGRAPHS) * per_photograph)
        cut(folder, per_photograph, lambda done: progress.update(task, completed=done))
    return as_samples(folder)


def _bank(console: Console, folder: Path, dataset: Samples, extractor: Extractor) -> FeatureBank:
    # Another package version may bring another extractor: its bank is another one.
    path = folder / f"bank-{len(dataset)}-{extractor.fingerprint[:8]}"
    with console.status("features of every image"):
        begin = perf_counter()
        bank = FeatureBank.build(dataset, extractor, path, progress=False)
    took = f"{bank.n} x {bank.dim} numbers in {path}, {perf_counter() - begin:.1f} s"
    console.print(f"✓ {'features in a bank':<22} {took}", highlight=False)
    return bank


def _epoch(console: Console, dataset: Samples, augment: DAICGAN | None, what: str, device: str | None) -> float:
    """Images a second of an epoch, its start-up left out."""
    with DataLoader(
        dataset, BATCH, shuffle=True, augment=augment, transform=TRANSFORM, seed=SEED, device=device
    ) as loader:
        _done(next(iter(loader))[0])  # DALI builds its pipeline, kernels are loaded
        loader.set_epoch(0)
        with _progress(console, _Rate()) as progress:
            task = progress.add_task(what, total=len(dataset))
            begin = perf_counter()
            for images, _ in loader:
                _done(images)
                progress.advance(task, len(images))
            return len(dataset) / (perf_counter() - begin)


def _page(dataset: Samples, augment: DAICGAN, device: str | None) -> Page:
    page, _ = make_page(
        dataset,
        augment,
        TRANSFORM,
        title="Generative data augmentation, as the training loop receives it",
        samples=2 * len(PHOTOGRAPHS),
        epochs=range(5),
        draws=0,
        seed=SEED,
        device=device,
        groups=2,
    )
    return page


# ---------------------------------------------------------------------- stages by themselves


def _stages(dataset: Samples, augment: DAICGAN, extractor: Extractor, seconds: float) -> Table:
    """Each stage alone, one after the other, on the same rows."""
    generator = augment.generator
    assert generator is not None
    device, threads = generator.device, available_threads()
    index = np.linspace(0, len(dataset) - 1, min(len(dataset), 8 * BATCH)).astype(np.int64)
    keys = RowKeys(SEED, 0, index, np.zeros_like(index))
    reader, decoder = Reader(dataset, threads), ImageDecoder(threads, device=device)
    files = [file for file in reader.read(index.tolist()) if isinstance(file, Encoded)]
    crops = TRANSFORM.windows(keys, np.array([f.height for f in files]), np.array([f.width for f in files])).window
    boxes = [(int(top), int(left), int(height), int(width)) for top, left, height, width in crops]
    pixels = [image for image in decoder.decode_regions(files, boxes) if not isinstance(image, str)]
    call = keys.take(slice(0, augment.microbatch))
    h = extractor(pixels[: len(call)])
    made = generator(augment.noise(call), h)
    # Every second row a generation; of each source all that was decoded.
    n = min(BATCH, len(pixels))
    source = np.where(np.arange(n) % 2, -1 - np.arange(n) % len(made), np.arange(n))
    sizes = np.array([made.shape[2:] if j < 0 else pixels[j].shape[:2] for j in source])
    window = np.concatenate([np.zeros_like(sizes), sizes], 1).astype(np.int32)
    windows = Windows(window, np.zeros((n, 2)), sizes / TRANSFORM.size, np.arange(n) % 3 == 0)
    out = torch.empty(n, 3, TRANSFORM.size, TRANSFORM.size, device=device)

    def read() -> int:
        return len(reader.read(index.tolist()))

    def decode() -> int:
        for begin in range(0, len(files), BATCH):
            decoder.decode_regions(files[begin : begin + BATCH], boxes[begin : begin + BATCH])
        return len(files)

    def features() -> int:
        return len(extractor(pixels[: len(call)]))

    def generate() -> int:
        return len(generator(augment.noise(call), h))

    def assemble() -> int:
        return len(finish(pixels[:n], made, source, windows, TRANSFORM, TRANSFORM, out))

    where = f"{threads} threads" if device.type == "cpu" else str(device)
    table = Table(
        title=f"images/s on {where}", title_justify="left", title_style="bold", box=None, padding=(0, 2), pad_edge=False
    )
    table.add_column("stage")
    table.add_column("images/s", justify="right")
    table.add_column("how it was measured", style="dim")
    for name, step, how in (
        ("read", read, "files and their headers, warm"),
        ("decode", decode, "only the region under the crop" if decoder.decodes_regions else "whole images"),
        ("features", features, f"{len(call)} images a call, resizing included"),
        ("generate", generate, f"{len(call)} rows a call, noise included"),
        ("assemble", assemble, f"{n} rows to {TRANSFORM.size} px, half of them generated"),
    ):
        table.add_row(name, f"{_rate(step, device, seconds):,.0f}", how)
    reader.close()
    decoder.close()
    return table


def _rate(step: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Images a second of a step that says how many it did; its first call is left out."""
    step()
    done, begin = 0, perf_counter()
    while not done or perf_counter() - begin < seconds:
        done += step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return done / (perf_counter() - begin)


def _done(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
