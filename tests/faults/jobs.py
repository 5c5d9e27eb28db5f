"""What is killed: a small training and the building of a bank, over ranks, as a user would write them.

A training logs every row that it was given, to a file that survives its end; what is behind the checkpoint that the next attempt goes on
from never happened.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F

import dali_icgan as di
from dali_icgan.augment import bank_build
from dali_icgan.ranks import Ranks
from dali_icgan.training.state import load_state, save_state
from tests.untrained import FOLDER as MODELS

EPOCHS, EVERY, SIZE = 5, 3, 32  # passes, steps between two checkpoints, pixels


def loader(folder: str, bank: str, batch_size: int, prefetch_factor: int, shard: Any = None) -> di.DataLoader:
    generator = di.load_generator(MODELS / "generator.safetensors", device="cpu")
    return di.DataLoader(
        folder,
        batch_size,
        shuffle=True,
        remainder="uneven",  # each sample exactly once, on any number of ranks
        prefetch_factor=prefetch_factor,
        augment=di.DAICGAN(generator=generator, bank=bank, p=0.5),
        transform=di.TrainTransform(SIZE),
        device="cpu",
        seed=11,
        shard=shard,
        return_info=True,
    )


def digests(images: torch.Tensor, info: dict[str, Any]) -> list[list[Any]]:
    """(index, repeat, digest of the pixels) of each row."""
    return [
        [index, repeat, hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]]
        for index, repeat, image in zip(info["index"].tolist(), info["repeat"].tolist(), images, strict=True)
    ]


def unbroken(folder: str, bank: str) -> list[list[Any]]:
    """What a run that nothing happens to is given: (epoch, index, repeat, digest)."""
    batches = loader(folder, bank, 8, 2, shard=False)
    return [[epoch, *row] for epoch in range(EPOCHS) for images, _, info in batches for row in digests(images, info)]


def train(folder: str, bank: str, work: str, attempt: int, batch_size: int, prefetch_factor: int) -> int:
    """Train to the end, from the last checkpoint in ``work``; returns the steps."""
    ranks = Ranks.here()
    checkpoint = Path(work, "checkpoint.pt")
    batches = loader(folder, bank, batch_size, prefetch_factor)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 128), nn.ReLU(), nn.Linear(128, 3))
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    step = first = 0
    if checkpoint.exists():
        state = load_state(checkpoint)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        batches.load_state_dict(state["loader"])
        step, first = state["step"], state["epoch"]
    log = os.open(f"{work}/attempt-{attempt:04d}-rank-{ranks.rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _note(log, {"from": step})

    def save(epoch: int) -> None:
        if ranks.rank == 0:
            parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "loader": batches.state_dict()}
            save_state(checkpoint, {**parts, "step": step, "epoch": epoch})

    for epoch in range(first, EPOCHS):
        batches.set_epoch(epoch)
        for batch in _until_all_end(iter(batches), ranks):
            step += 1
            optimiser.zero_grad()
            if batch is not None:
                images, labels, info = batch
                _note(log, {"step": step, "epoch": epoch, "rows": digests(images, info)})
                F.cross_entropy(model(images), labels).backward()
            for parameter in model.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                with ranks.missing(f"step {step}"):
                    distributed.all_reduce(parameter.grad)
            optimiser.step()
            if step % EVERY == 0:
                save(epoch)
    save(EPOCHS)
    ranks.barrier("the end")
    return step


def _until_all_end(batches: Iterator[Any], ranks: Ranks) -> Iterator[Any]:
    """In step with the others; None once only they have more."""
    while True:
        batch = next(batches, None)
        going = torch.tensor([0 if batch is None else 1])
        with ranks.missing("the next step"):
            distributed.all_reduce(going)
        if not going:
            return
        yield batch


def _note(log: int, entry: dict[str, Any]) -> None:
    os.write(log, (json.dumps(entry) + "\n").encode())  # in one piece, before anything else happens


def build(folder: str, bank: str) -> int:
    """Build a bank, or go on with it; notes how far it is after every chunk."""
    bank_build._SAVE_SECONDS = 0
    extractor = di.load_extractor(MODELS / "extractor.safetensors", device="cpu", resolution=SIZE)
    return di.FeatureBank.build(folder, extractor, bank, batch_size=1, progress=False).n
