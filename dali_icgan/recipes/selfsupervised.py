"""SwAV: network, loss, queue, and evaluation by nearest neighbours. Heads, loss and evaluation are lightly's."""

import itertools
from typing import Any

import numpy as np
import torch
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.utils.benchmarking import knn_predict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset

from dali_icgan.data import Samples, as_samples
from dali_icgan.loader import DataLoader
from dali_icgan.ops.permutation import permutation
from dali_icgan.ranks import Ranks
from dali_icgan.recipes.batches import ColourBatches
from dali_icgan.recipes.data import eval_loader
from dali_icgan.recipes.recipe import SwavRecipe
from dali_icgan.recipes.settings import Swav
from dali_icgan.recipes.supervised import make_model
from dali_icgan.recipes.task import Autocast, first_batches, gathered, summed


class SwavNetwork(nn.Module):
    """Trunk, projection head and prototypes.

    Args:
        trunk: images to pooled features ``[n, features]``.
    """

    def __init__(self, trunk: nn.Module, features: int, settings: Swav) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = SwaVProjectionHead(features, settings.hidden, settings.dim)
        self.prototypes = SwaVPrototypes(settings.dim, settings.prototypes)
        for layer in self.prototypes.heads:
            layer.register_parameter("bias", None)  # the paper has none: similarities stay within -1..1

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Unit rows ``[views n, dim]`` and their similarities to the prototypes ``[views n, prototypes]``, view after view. Neighbouring
        views of one size pass the trunk together, so that they share batch statistics."""
        groups = [list(group) for _, group in itertools.groupby(views, lambda view: view.shape[-1])]
        features = torch.cat([self.trunk(torch.cat(group)) for group in groups])
        rows = F.normalize(self.head(features).float(), dim=1)
        return rows, self.prototypes(rows)


class SwavTask:
    """Swapped assignments between views.

    Attributes:
        network: see :class:`SwavNetwork`.
        raw: training images come in [0, 1], for colour.
        metric: what the best network has most of.
    """

    raw = True
    metric = "knn_top1"

    def __init__(
        self, recipe: SwavRecipe, samples: Samples, device: torch.device, ranks: Ranks, steps_per_epoch: int
    ) -> None:
        settings = recipe.swav
        if recipe.model.train != "all":
            raise ValueError(f"model.train must be all for SwAV, got {recipe.model.train}")
        if settings.queue % ranks.world:
            raise ValueError(f"swav.queue must be a multiple of the {ranks.world} ranks, got {settings.queue}")
        if settings.queue and recipe.run.accumulate > 1:
            raise ValueError("swav.queue must be 0 with run.accumulate: codes would be of parts of a batch")
        micro = recipe.run.batch_size // (ranks.world * recipe.run.accumulate)
        if settings.queue and settings.queue // ranks.world % micro:
            raise ValueError(f"swav.queue must be a multiple of run.batch_size, got {settings.queue}")
        self._recipe, self._settings, self._views = recipe, settings, recipe.views
        trunk = make_model(recipe.model, 0, recipe.views.global_size)
        self.network = SwavNetwork(trunk, int(trunk.num_features), settings)  # type: ignore[arg-type]
        self._colour = ColourBatches(recipe.colour)
        self._loss = SwaVLoss(settings.temperature, settings.iterations, settings.epsilon, ranks.world > 1)
        self._queue_from = settings.queue_epoch * steps_per_epoch
        self._frozen_until = round(settings.frozen_epochs * steps_per_epoch)
        self._queues = [
            MemoryBankModule((settings.queue // ranks.world, settings.dim), feature_dim_first=False).to(device)
            for _ in range(recipe.views.global_views if settings.queue else 0)
        ]
        count = min(settings.knn_images, len(samples))
        if settings.knn_k > count:
            raise ValueError(
                f"swav.knn_k must be at most the {count} images that neighbours come from, got {settings.knn_k}"
            )
        chosen = permutation(recipe.run.seed, 0, len(samples), np.arange(count, dtype=np.int64))
        self._known = as_samples(Subset(samples, np.sort(chosen).tolist()))  # type: ignore[arg-type]
        self._classes = len(samples.classes) if samples.classes is not None else int(samples.labels.max()) + 1

    def train(self) -> None:
        """Set the network's mode for training."""
        self.network.train()

    def loss(self, network: nn.Module, batch: tuple[Any, ...], step: int, autocast: Autocast) -> Tensor:
        """Mean over the batch. ``network``: this one, or DistributedDataParallel of it."""
        views, _, info = batch
        views = self._colour(views, info["replaced"])
        self.network.prototypes.normalize()
        with autocast():
            rows, similarities = network(views)
        n, large = len(views[0]), self._views.global_views
        each = list(similarities.float().split(n))
        return self._loss(each[:large], each[large:], self._queued(rows.detach().split(n)[:large], step)).squeeze()

    def _queued(self, rows: tuple[Tensor, ...], step: int) -> list[Tensor] | None:
        """The prototypes' similarities to earlier batches' rows, once there are enough; notes these rows."""
        if not self._queues:
            return None
        size = len(self._queues[0].bank)
        full = step - self._queue_from >= size // len(rows[0])
        queued = []
        with torch.no_grad():
            for queue, own in zip(self._queues, rows, strict=True):
                _, earlier = queue(own.float(), update=step >= self._queue_from)
                queued.append(self.network.prototypes(earlier) if full else earlier)
        return queued if full else None

    def after_backward(self, step: int) -> None:
        """Prototypes are frozen in the beginning."""
        if step < self._frozen_until:
            for parameter in self.network.prototypes.parameters():
                parameter.grad = None

    @torch.no_grad()
    def validate(
        self, network: nn.Module, loader: DataLoader, autocast: Autocast, ranks: Ranks, limit: int | None
    ) -> dict[str, float]:
        """knn_top1 and knn_top5 in percent, of how many images: by the nearest training images in the trunk's features."""
        network.eval()

        def features(images: Tensor) -> Tensor:
            with autocast():
                return F.normalize(network.trunk(images).float(), dim=1)  # type: ignore[operator]

        with eval_loader(self._recipe, self._known, loader.device, ranks) as known:
            parts = [(features(images), labels) for images, labels in first_batches(known, limit)]
        rows = gathered(torch.cat([each for each, _ in parts]), ranks).T.contiguous()
        labels_known = gathered(torch.cat([labels for _, labels in parts]), ranks)
        counts = torch.zeros(3, dtype=torch.int64, device=loader.device)
        k = min(self._settings.knn_k, rows.shape[1])
        for images, labels in first_batches(loader, limit):
            predicted = knn_predict(
                features(images), rows, labels_known, self._classes, k, self._settings.knn_temperature
            )
            places = predicted[:, :5] == labels[:, None]
            counts += torch.stack([places[:, 0].sum(), places.sum(), places.new_tensor(len(labels), dtype=torch.int64)])
        right, among, n = summed(counts, ranks).tolist()
        return {"knn_top1": 100 * right / n, "knn_top5": 100 * among / n, "images": n}

    def export(self, network: nn.Module) -> dict[str, Tensor]:
        """The trunk's weights by timm's names, without a head."""
        return network.trunk.state_dict()  # type: ignore[union-attr]

    def state(self) -> dict[str, Any]:
        """The queues, which are each rank's own."""
        return {"queues": [[queue.bank.cpu(), queue.bank_ptr.cpu()] for queue in self._queues]} if self._queues else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """What :meth:`state` gave."""
        for queue, (bank, pointer) in zip(self._queues, state.get("queues", []), strict=True):
            queue.bank.copy_(bank)
            queue.bank_ptr.copy_(pointer)
