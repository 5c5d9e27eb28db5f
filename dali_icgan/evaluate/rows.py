"""Every image of a set through a model once, over ranks, and back in order on the first."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from dali_icgan.augment import DAICGAN, EvalTransform, TrainTransform
from dali_icgan.data import Samples
from dali_icgan.evaluate.model import Model
from dali_icgan.loader import DataLoader
from dali_icgan.ranks import Ranks

Arrays = dict[str, npt.NDArray[Any]]
_GATHERED = 2048  # images a rank sends at once: features of a whole training set are no message


@dataclass(frozen=True)
class How:
    """What is the same for all sets of a run.

    Attributes:
        model: what is evaluated.
        resize, crop: pixels of the short side and of the square centre, as :class:`EvalTransform`.
        batch_size: images the loader makes at once; no figure depends on it.
        ranks: who shares the work.
        exif: rotate as EXIF says.
        progress: show a bar, on the first rank.
    """

    model: Model
    resize: int = 256
    crop: int = 224
    batch_size: int = 256
    ranks: Ranks = field(default_factory=Ranks)
    exif: bool = False
    progress: bool = True

    def transform(self, cropped: bool = False) -> EvalTransform:
        """Resize and centre crop, normalised for the model; ``cropped``: the images are so already."""
        return EvalTransform(self.crop if cropped else self.resize, self.crop, self.model.mean, self.model.std)

    def train_transform(self, scale: tuple[float, float]) -> TrainTransform:
        """Random crops of that share of the area, and flips, normalised for the model."""
        return TrainTransform(self.crop, scale, mean=self.model.mean, std=self.model.std)


def through(
    how: How,
    function: Callable[[Tensor], dict[str, Tensor]],
    samples: Samples,
    transform: EvalTransform | TrainTransform,
    doing: str,
    *,
    views: int = 1,
    augment: DAICGAN | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> Arrays | None:
    """Rows of every image, in the samples' order, on the first rank; None on the others, which must call it too.

    The model always sees ``model.rows`` images: a row has the same bits whatever the batch size, the number of ranks and its neighbours.

    Args:
        function: normalised images ``[rows, 3, h, w]`` to tensors ``[rows, ...]``.
        samples, transform, views, augment, seed: as the DataLoader's.
        epoch: whose crops, flips and noise, where they are random.
        doing: for errors and the bar.

    Returns:
        arrays ``[n, ...]``, with ``views > 1`` ``[n, views, ...]``.

    Raises:
        DecodeError: an image cannot be read: none is left out, none is counted twice.
        RankError: another rank failed.
    """
    ranks = how.ranks
    with contextlib.ExitStack() as held:
        held.enter_context(ranks.together(doing))
        advance = held.enter_context(_bar(doing, len(samples), how.progress and ranks.rank == 0))
        loader = held.enter_context(
            DataLoader(
                samples,
                batch_size=how.batch_size,
                transform=transform,
                device=str(how.model.device),
                dtype=how.model.dtype,
                shard=(ranks.rank, ranks.world),
                remainder="uneven",
                on_error="raise",
                views=views,
                augment=augment,
                seed=seed,
                exif=how.exif,
                return_info=True,
            )
        )
        loader.set_epoch(epoch)
        pieces = _pieces(loader, function, how.model.rows, views)
        whole: Arrays = {}
        times = np.zeros(len(samples), np.int64)
        # As many turns as the largest share needs, so that all ranks gather equally often.
        for _ in range(0, len(range(0, len(samples), ranks.world)), _GATHERED):
            mine = next(pieces, None)
            for piece in ranks.gather(mine, doing) or ():
                if piece is not None:
                    index = piece.pop("index")
                    times[index] += 1
                    advance(len(index))
                    for name, array in piece.items():
                        if name not in whole:
                            whole[name] = np.empty((len(samples), *array.shape[1:]), array.dtype)
                        whole[name][index] = array
    if ranks.rank > 0:
        return None
    if (times != 1).any():
        strange = samples.keys[int(np.flatnonzero(times != 1)[0])]
        raise RuntimeError(f"{doing}: every image must be counted once, got {strange} {times[times != 1][0]} times")
    return whole


def features(how: How, samples: Samples, transform: EvalTransform | TrainTransform, doing: str, **more: Any) -> Any:
    """Pooled features, float32 ``[n, dim]`` or ``[n, views, dim]``; arguments, errors and who has them as of :func:`through`."""
    found = through(
        how,
        lambda images: {"h": how.model.features(images).float()},
        samples,
        transform,
        f"features of {doing}",
        **more,
    )
    return None if found is None else found["h"]


def _pieces(
    loader: DataLoader, function: Callable[[Tensor], dict[str, Tensor]], rows: int, views: int
) -> Iterator[Arrays]:
    """Pieces of ``_GATHERED`` images, the last one shorter."""
    done: list[Arrays] = []
    index: list[npt.NDArray[np.int64]] = []
    for images, numbers in _calls(loader, rows, views):
        found = function(images)
        done.append({name: tensor[: len(numbers)].cpu().numpy() for name, tensor in found.items()})
        index.append(numbers)
        while sum(map(len, index)) >= _GATHERED * views:
            whole = _joined(done, index)
            cut = _GATHERED * views
            yield _by_image({name: array[:cut] for name, array in whole.items()}, views)
            rest = {name: array[cut:] for name, array in whole.items()}
            index, done = [rest.pop("index")], [rest]
    if sum(map(len, index)):
        yield _by_image(_joined(done, index), views)


def _joined(done: list[Arrays], index: list[npt.NDArray[np.int64]]) -> Arrays:
    return {name: np.concatenate([each[name] for each in done]) for name in done[0]} | {"index": np.concatenate(index)}


def _by_image(rows: Arrays, views: int) -> Arrays:
    index = rows.pop("index")[::views]
    if views > 1:
        rows = {name: array.reshape(-1, views, *array.shape[1:]) for name, array in rows.items()}
    return {**rows, "index": index}


def _calls(loader: DataLoader, rows: int, views: int) -> Iterator[tuple[Tensor, npt.NDArray[np.int64]]]:
    """(``rows`` images, the index of each of the real ones): the last call is padded with its last image."""
    held: list[Tensor] = []
    numbers = np.empty(0, np.int64)
    for images, _, info in loader:
        # Image by image, its views in a row.
        held.append(images if views == 1 else torch.stack(images, 1).flatten(0, 1))
        numbers = np.concatenate([numbers, np.repeat(info["index"], views)])
        if len(numbers) < rows:
            continue
        whole = torch.cat(held)
        for begin in range(0, len(whole) - rows + 1, rows):
            yield whole[begin : begin + rows], numbers[begin : begin + rows]
        used = len(whole) // rows * rows
        held, numbers = [whole[used:]], numbers[used:]
    if len(numbers):
        whole = torch.cat(held)
        yield torch.cat([whole, whole[-1:].expand(rows - len(whole), -1, -1, -1)]), numbers


@contextlib.contextmanager
def _bar(doing: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda n: bar.advance(task, n)
