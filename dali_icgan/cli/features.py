"""``dali-icgan features``."""

from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.cli.facts import grid, megabytes
from dali_icgan.engine import load_extractor, load_generator
from dali_icgan.ranks import Ranks, joined

_LISTED = 5


def run(
    folder: Path,
    out: Path,
    extractor: str,
    resolution: int,
    align_corners: bool,
    batch_size: int,
    device: str | None,
    dtype: str,
    exif: bool,
    embed: str | None,
) -> None:
    """Build the bank, or go on with it, and say what it holds; under torchrun over its ranks."""
    with joined(device) as mine:
        _build(folder, out, extractor, resolution, align_corners, batch_size, mine, dtype, exif, embed)


def _build(
    folder: Path,
    out: Path,
    extractor: str,
    resolution: int,
    align_corners: bool,
    batch_size: int,
    device: str | None,
    dtype: str,
    exif: bool,
    embed: str | None,
) -> None:
    model = load_extractor(extractor, device, resolution=resolution, align_corners=align_corners)
    embedder = None if embed is None else load_generator(embed, "cpu")
    # Before the hours of work.
    if embedder is not None and embedder.resolution != resolution:
        raise ValueError(
            f"--resolution must be the generator's that --embed names, {embedder.resolution}, got {resolution}"
        )
    if embedder is not None and embedder.feature_dim != model.dim:
        raise ValueError(
            f"--embed must name a generator of the extractor's {model.dim} features, got one of {embedder.feature_dim}"
        )
    fresh = not out.exists()  # before any rank makes it
    begin = perf_counter()
    bank = FeatureBank.build(
        folder,
        model,
        out,
        dtype={"fp16": torch.float16, "fp32": torch.float32}[dtype],
        batch_size=batch_size,
        exif=exif,
    )
    seconds = perf_counter() - begin
    ranks = Ranks.here()
    if ranks.rank == 0 and embedder is not None:
        bank.embedded(embedder)
    ranks.barrier(f"building {out}")
    if ranks.rank > 0:
        return
    size = sum(file.stat().st_size for file in out.iterdir())
    rate = f", {bank.n / seconds:,.0f} images/s" if fresh else ", with what was there already"
    facts = [
        ("bank", str(out)),
        ("features", f"{bank.n} x {bank.dim}, {dtype}, of images seen at {bank.resolution} px"),
        ("size", megabytes(size)),
        ("time", f"{seconds:.1f} s{rate}"),
        ("absent", f"{len(bank.absent)} images could not be read" if bank.absent else "none"),
    ]
    if embedder is not None:
        width = embedder.config.shared_dim_feat
        facts.append(("embedded", f"{bank.n} x {width}, fp32, as {embedder.source} embeds them"))
    for row, reason in list(bank.absent.items())[:_LISTED]:
        facts.append(("", f"{bank.keys[row]}: {reason}"))
    if len(bank.absent) > _LISTED:
        facts.append(("", f"and {len(bank.absent) - _LISTED} more, in {out / 'bank.json'}"))
    Console().print(grid(facts))
