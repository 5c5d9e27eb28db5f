"""``dali-icgan shard``."""

import re
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dali_icgan.cli.facts import grid, megabytes
from dali_icgan.data import as_samples
from dali_icgan.data.shard_writer import LEAST_SIZE, write_shards

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", 1):
    _UNITS |= {f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}


def parse_size(text: str) -> int:
    """Bytes of "512MB", "1.5 GiB" or "1000000".

    Raises:
        ValueError: it is no size, or too small for a tar.
    """
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) *([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise ValueError(f"--size must be a number of bytes, KB, MB, GB, KiB, MiB or GiB, such as 512MB, got {text!r}")
    size = int(float(found[1]) * unit)
    if size < LEAST_SIZE:
        raise ValueError(f"--size must be at least {LEAST_SIZE} bytes, which an empty tar has, got {text!r}")
    return size


def run(folder: Path, out: Path, size: str) -> None:
    """Write the shards, and say what they are."""
    most = parse_size(size)
    source, target = folder.resolve(), out.resolve()
    if target == source or source in target.parents:
        raise ValueError(f"OUT must not be in FOLDER, where it would be taken for a class, got {out}")
    samples = as_samples(folder)
    begin = perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("shards", total=len(samples))

    def advance(count: int) -> None:
        bar.start()  # here, so that what is refused is said in one line
        bar.advance(task, count)

    try:
        index = write_shards(samples, out, most, advance)
    finally:
        bar.stop()
    seconds = perf_counter() - begin
    sizes = [shard.size for shard in index.shards]
    classes = "labels only" if index.classes is None else f"{len(index.classes)} classes"
    over = sum(size > most for size in sizes)
    facts = [
        ("shards", f"{out}: {len(sizes)} tars, {megabytes(sum(sizes))}, the largest {megabytes(max(sizes))}"),
        ("samples", f"{len(samples):,}, {classes}, in the order of {folder}"),
        ("time", f"{seconds:.1f} s, {len(samples) / seconds:,.0f} images/s"),
    ]
    if over:
        facts.append(("larger", f"{over} tars hold one image that is larger than {size} alone"))
    Console().print(grid(facts))
