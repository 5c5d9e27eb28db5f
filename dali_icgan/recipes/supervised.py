"""Classification: network, loss and validation."""

from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from dali_icgan.data import Samples
from dali_icgan.loader import DataLoader
from dali_icgan.ranks import Ranks
from dali_icgan.recipes.batches import ClassificationBatches
from dali_icgan.recipes.recipe import Recipe
from dali_icgan.recipes.settings import Model
from dali_icgan.recipes.task import Autocast, first_batches, summed


class Classification:
    """Of one label an image.

    Attributes:
        network: of timm; ``[n, 3, s, s]`` to logits ``[n, classes]``.
        raw: whether training images must come in [0, 1].
        metric: what the best network has most of.
    """

    metric = "top1"

    def __init__(self, recipe: Recipe, samples: Samples, device: torch.device, ranks: Ranks) -> None:
        classes = len(samples.classes) if samples.classes is not None else int(samples.labels.max()) + 1
        micro = recipe.run.batch_size // (ranks.world * recipe.run.accumulate)
        if recipe.augment.mixes and micro % 2:
            raise ValueError(f"run.batch_size must give even parts where batches are mixed, got parts of {micro}")
        self.network = make_model(recipe.model, classes, recipe.crop.size)
        self._head_alone = recipe.model.train == "head"
        self._batches = ClassificationBatches(recipe.augment, classes, device)
        self.raw = self._batches.raw
        self._loss: nn.Module
        if self._batches.soft:
            self._loss = SoftTargetCrossEntropy()  # smoothed where they are mixed
        elif recipe.augment.smoothing:
            self._loss = LabelSmoothingCrossEntropy(recipe.augment.smoothing)
        else:
            self._loss = nn.CrossEntropyLoss()

    def train(self) -> None:
        """Set the network's mode for training: where its head alone is trained, all else stays as it is, statistics too."""
        self.network.train(not self._head_alone)

    def loss(self, network: nn.Module, batch: tuple[Any, ...], step: int, autocast: Autocast) -> Tensor:
        """Mean over the batch. ``network``: this one, or DistributedDataParallel of it."""
        images, labels, info = batch
        images, targets = self._batches(images, labels, info["replaced"])
        with autocast():
            logits = network(images)
        loss: Tensor = self._loss(logits.float(), targets)
        return loss

    def after_backward(self, step: int) -> None:
        """Nothing is frozen."""

    @torch.no_grad()
    def validate(
        self, network: nn.Module, loader: DataLoader, autocast: Autocast, ranks: Ranks, limit: int | None
    ) -> dict[str, float]:
        """top1 and top5 in percent, and of how many images: integers are summed over ranks, each image counts once."""
        network.eval()
        counts = torch.zeros(3, dtype=torch.int64, device=loader.device)
        for images, labels in first_batches(loader, limit):
            with autocast():
                logits = network(images)
            places = logits.float().topk(min(5, logits.shape[1])).indices == labels[:, None]
            counts += torch.stack([places[:, 0].sum(), places.sum(), places.new_tensor(len(labels), dtype=torch.int64)])
        right, among, n = summed(counts, ranks).tolist()
        return {"top1": 100 * right / n, "top5": 100 * among / n, "images": n}

    def export(self, network: nn.Module) -> dict[str, Tensor]:
        """Weights by timm's names."""
        return network.state_dict()

    def state(self) -> dict[str, Any]:
        """Of this rank alone: nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """See :meth:`state`."""


def make_model(settings: Model, classes: int, size: int) -> nn.Module:
    """A network of timm; for ``size`` px where its weights depend on it. 0 classes: without head.

    Raises:
        ValueError: timm has no such network, or ``init`` is not its weights.
    """
    if not timm.is_model(settings.name):
        near = timm.list_models(f"*{settings.name}*")[:3]
        raise ValueError(
            f"model.name must be one of timm.list_models(), got {settings.name!r}{'; near it: ' + ', '.join(near) if near else ''}"
        )
    options: dict[str, Any] = {"num_classes": classes}
    if settings.drop_path:
        options["drop_path_rate"] = settings.drop_path
    try:
        model: nn.Module = timm.create_model(settings.name, img_size=size, **options)
    except TypeError:  # of the networks whose weights fit every size
        model = timm.create_model(settings.name, **options)
    if settings.init is not None:
        _initialise(model, settings)
    if settings.train == "head":
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)  # type: ignore[operator]
    return model


def _initialise(model: nn.Module, settings: Model) -> None:
    try:
        weights, own = load_file(str(settings.init)), model.state_dict()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"model.init must be a safetensors file, got {settings.init}: {error}") from error
    head = {name for name, _ in model.named_parameters() if any(p is _ for p in model.get_classifier().parameters())}  # type: ignore[operator]
    fits = {name: tensor for name, tensor in weights.items() if name in own and tensor.shape == own[name].shape}
    missing = [name for name in own if name not in fits and name not in head]
    if missing:
        raise ValueError(
            f"model.init must hold the weights of {settings.name}, got {settings.init} without {missing[0]} (in its shape) "
            f"and {len(missing) - 1} others"
        )
    model.load_state_dict(fits, strict=False)
