"""Probes of frozen features: a linear classifier and weighted nearest neighbours, both lightly's."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dali_icgan.evaluate.classify import answers
from dali_icgan.evaluate.invariance import unit

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Answers = dict[str, npt.NDArray[Any]]
_CHUNK = 64  # rows of a call: lightly's k-NN holds rows x k x classes numbers


def nearest_neighbours(
    train: Features, labels: Labels, test: Features, classes: int, k: int, temperature: float
) -> Answers:
    """Weighted k-NN: each of the k nearest, by cosine s, votes for its class with exp(s / T).

    Wu et al. 2018 (arXiv 1805.01978), T = 0.07 and k = 200 there; computed by ``lightly.utils.benchmarking.knn_predict``.

    Args:
        train, test: float32 ``[n, d]`` of any length. labels: of ``train``, 0..classes - 1.

    Returns:
        "top": int64 ``[n, min(5, classes)]``, the class with the most votes first.

    Raises:
        ValueError: k is more than there are.
    """
    from lightly.utils.benchmarking import knn_predict

    check_k(k, len(train))
    bank = torch.from_numpy(unit(train)).T.contiguous()
    own = torch.from_numpy(labels)
    found = []
    for begin in range(0, len(test), _CHUNK):
        rows = torch.from_numpy(unit(test[begin : begin + _CHUNK]))
        found.append(knn_predict(rows, bank, own, classes, k, temperature)[:, :5].numpy())
    return {"top": np.concatenate(found)}


def check_k(k: int, n: int) -> None:
    """Raise a ValueError where fewer images than k have labels."""
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n}, the images with labels, got {k}")


def linear_probe(
    train: Callable[[int], Features],
    labels: Labels,
    test: Features,
    classes: int,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: torch.device,
) -> Answers:
    """A linear classifier on features, trained with SGD (momentum 0.9, no weight decay), the rate falling along a cosine to a thousandth.

    ``lightly.utils.benchmarking.LinearClassifier``, whose settings are SimCLR's (Chen et al. 2020, arXiv 2002.05709).

    Args:
        train: the number of a pass, 0..epochs - 1 in order, to the features ``[n, d]`` of that pass, float32 of any length.
        labels: int64 ``[n]``, 0..classes - 1. test: float32 ``[m, d]``.
        lr: for 256 images a step; it is scaled with ``batch_size``.

    Returns:
        "top" and "confidence", as of :func:`dali_icgan.evaluate.classify.answers`.
    """
    from lightly.utils.benchmarking import LinearClassifier

    order = torch.Generator().manual_seed(seed)

    def batches(epoch: int) -> DataLoader[Any]:
        data = TensorDataset(torch.from_numpy(train(epoch)), torch.from_numpy(labels))
        # Whole batches are looked up at once: image by image takes longer than a step does.
        rows = BatchSampler(RandomSampler(data, generator=order), batch_size, drop_last=False)
        return DataLoader(data, batch_size=None, sampler=rows)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = LinearClassifier(nn.Identity(), batch_size, lr, test.shape[1], classes, topk=(1,))
        _quietly(lambda: _fit(probe, batches, epochs, device))
    probe = probe.to("cpu").eval()
    with torch.inference_mode():
        said = answers(probe.classification_head(torch.from_numpy(test)))
    return {name: tensor.numpy() for name, tensor in said.items()}


def _fit(probe: Any, batches: Callable[[int], Any], epochs: int, device: torch.device) -> None:
    from pytorch_lightning import LightningDataModule, Trainer
    from pytorch_lightning.plugins.environments import LightningEnvironment

    class Passes(LightningDataModule):
        def train_dataloader(self) -> Any:
            assert self.trainer is not None
            return batches(self.trainer.current_epoch)

    Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        plugins=[LightningEnvironment()],  # alone, also where torchrun started this process
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(probe, datamodule=Passes())


def _quietly(call: Callable[[], None]) -> None:
    """Without Lightning's advice about hardware and data loader workers."""
    import logging

    said = logging.getLogger("pytorch_lightning")
    before = said.level
    said.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    finally:
        said.setLevel(before)
