"""Adversarial training of an IC-GAN generator, exactly restartable."""

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dali_icgan.augment.transform import EvalTransform
from dali_icgan.documents import shown
from dali_icgan.loader import DataLoader
from dali_icgan.models.checkpoint import Checkpoint, write_checkpoint
from dali_icgan.models.discriminator import DiscriminatorConfig, ICDiscriminator
from dali_icgan.models.generator import (
    BatchNorm,
    ConditionalBatchNorm,
    GeneratorConfig,
    ICGenerator,
    SpectralLinear,
    spectral_layers,
)
from dali_icgan.training.differentiable import POLICIES, augment_differentiably
from dali_icgan.training.ema import ExponentialMovingAverage
from dali_icgan.training.instances import Instances
from dali_icgan.training.losses import discriminator_hinge, finite, generator_hinge, mode_seeking
from dali_icgan.training.settings import check_integers, check_kinds
from dali_icgan.training.state import (
    check_kept,
    is_count,
    is_figures,
    is_number,
    is_plain,
    load_state,
    random_of,
    restore,
    save_state,
    write_whole,
)

HALF = (0.5, 0.5, 0.5)  # mean and deviation that put images into [-1, 1]


@dataclass(frozen=True)
class GanTraining:
    """How to train a generator and a discriminator.

    Args:
        resolution: 32, 64, 128 or 256 pixels.
        channels: the generator's width multiplier.
        discriminator_channels: the discriminator's; None: ``channels``.
        z_chunk: columns of noise that each layer of the generator reads.
        shared_dim_feat: width of the feature's embedding.
        shared_dim: width of the class embedding, where it is class-conditional.
        attention: resolutions with self-attention, in both.
        class_conditional: whether generator and discriminator see labels.
        steps: optimiser steps of each.
        batch_size: images a step, over all ranks.
        k: neighbours that count as an instance's real images.
        generator_lr, discriminator_lr, betas: Adam's.
        ema_decay, ema_start: of the moving average that is kept.
        policies: differentiable augmentation, see :func:`augment_differentiably`.
        mirror: whether real images are mirrored at random, and half of the features are of mirrored images. False where left and right
            differ in meaning, as in digits; the extractor's ``flip`` must then be 0 too.
        mode_seeking: weight of the loss that keeps generations of one instance apart, as far as its real images are; 0: none.
        spectral_norm: of the generator: "power" (the weights' largest singular value is followed, as the official training does) or
            "fixed" (each layer is divided by its gain along one direction that never changes: layers may learn a gain, files are the
            same; trains faster in short runs).
        clip: largest norm of a gradient; None: not clipped.
        autocast: bfloat16 where a GPU has it in hardware.
        compile: let torch.compile speed up both.
        seed: of weights and every draw.

    Source: Casanova et al. 2021 (arXiv 2109.05070); Brock et al. 2018 (arXiv 1809.11096); docs/training.md says what is ours.
    """

    resolution: int = 32
    channels: int = 16
    discriminator_channels: int | None = None
    z_chunk: int = 16
    shared_dim_feat: int = 64
    shared_dim: int = 32
    attention: tuple[int, ...] = ()
    class_conditional: bool = False
    steps: int = 10_000
    batch_size: int = 32
    k: int = 20
    generator_lr: float = 2e-4
    discriminator_lr: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.99)
    ema_decay: float = 0.999
    ema_start: int = 200
    policies: tuple[str, ...] = ("translation",)
    mirror: bool = True
    mode_seeking: float = 1.0
    spectral_norm: str = "fixed"
    clip: float | None = None
    autocast: bool = True
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        sizes = ("resolution", "channels", "discriminator_channels", "z_chunk", "shared_dim_feat", "shared_dim")
        check_integers(self, **dict.fromkeys((*sizes, "steps", "batch_size", "k"), 1), ema_start=0, seed=-(2**63))
        for name in ("generator_lr", "discriminator_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        if not 0 <= self.mode_seeking < math.inf:
            raise ValueError(f"mode_seeking must be finite and not negative, got {self.mode_seeking!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay!r}")
        if self.mode_seeking and self.batch_size % 2:
            raise ValueError(f"batch_size must be even with mode_seeking, got {self.batch_size}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive or None, got {self.clip!r}")
        if not set(self.policies) <= set(POLICIES):
            raise ValueError(f"policies must be among {', '.join(POLICIES)}, got {', '.join(self.policies)}")
        if self.spectral_norm not in ("power", "fixed"):
            raise ValueError(f'spectral_norm must be "power" or "fixed", got {self.spectral_norm!r}')
        self.networks(feature_dim=1, n_classes=2)  # what is wrong with the architectures

    def networks(self, feature_dim: int, n_classes: int) -> tuple[GeneratorConfig, DiscriminatorConfig]:
        """The two architectures."""
        classes = {"n_classes": n_classes, "class_conditional": True} if self.class_conditional else {"n_classes": 1}
        with _named("generator"):
            generator = GeneratorConfig(
                resolution=self.resolution,
                channels=self.channels,
                z_chunk=self.z_chunk,
                feature_dim=feature_dim,
                shared_dim_feat=self.shared_dim_feat,
                shared_dim=self.shared_dim if self.class_conditional else 1,
                attention=self.attention,
                **classes,  # type: ignore[arg-type]
            )
        with _named("discriminator"):
            discriminator = DiscriminatorConfig(
                resolution=self.resolution,
                channels=self.discriminator_channels or self.channels,
                feature_dim=feature_dim,
                attention=self.attention,
                **classes,  # type: ignore[arg-type]
            )
        return generator, discriminator


@dataclass
class Progress:
    """What is told about a training after some steps.

    Attributes:
        step: steps done.
        losses: means since the last time.
        rate: images a second since the last time.
    """

    step: int
    losses: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0


class GanTrainer:
    """Trains in a folder; goes on where an earlier run in it was cut off, with the result of an unbroken one.

    Args:
        settings: how.
        instances: what of; its batch size must be the settings' share of this rank.
        folder: for ``gan-state.pt``, which holds everything.
        device: where.

    Raises:
        ValueError: the folder holds the state of other settings, of other images, or of more steps.
    """

    def __init__(
        self, settings: GanTraining, instances: Instances, folder: Path, device: torch.device | str = "cpu"
    ) -> None:
        self.settings = settings
        self.instances = instances
        self.folder = folder
        self.device = torch.device(device)
        n_classes = len(instances.samples.classes or ()) or int(instances.samples.labels.max()) + 1
        self.generator_config, discriminator_config = settings.networks(instances.bank.dim, n_classes)
        with _seeded(settings.seed):
            self.generator = ICGenerator(self.generator_config).to(self.device)
            self.discriminator = ICDiscriminator(discriminator_config).to(self.device)
            self._centre_features()
        # A plain generator owns an embedding of classes that nothing reads: no rank waits for its gradient.
        self.generator.shared.requires_grad_(settings.class_conditional)
        self._autocast = settings.autocast and self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        # On the CPU both layouts are as fast.
        self._memory_format = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        for module in (self.generator, self.discriminator):
            module.to(memory_format=self._memory_format)
        for layer in spectral_layers(self.generator):
            layer.follow = settings.spectral_norm == "power"
        self.average = ExponentialMovingAverage(self.generator, settings.ema_decay, settings.ema_start)
        self._generator_optimiser, self._discriminator_optimiser = (
            torch.optim.Adam(module.parameters(), lr, settings.betas, eps=1e-6)
            for module, lr in (
                (self.generator, settings.generator_lr),
                (self.discriminator, settings.discriminator_lr),
            )
        )
        self._trained = self._wrapped()
        self.step = self.saved_step = 0
        self.seconds = 0.0  # over all calls of train
        self.history: list[dict[str, float]] = []
        if self._state_path.exists():
            self._load(load_state(self._state_path, self.device))

    @property
    def _state_path(self) -> Path:
        return self.folder / "gan-state.pt"

    def _centre_features(self) -> None:
        """Begin with an embedding that tells features apart: centred, equal variance in every direction that the images have.

        Features are unit rows around a mean; as they are, a new layer would hardly react to what differs. In the generator this is the
        first value of weights that are learnt; the discriminator sees features so for good.
        """
        rows = self.instances.bank.present.nonzero()[0][:: max(1, self.instances.bank.n // 20_000)]
        features = self.instances.bank.gather(rows, "cpu").double()
        mean = features.mean(0)
        _, gains, directions = torch.linalg.svd(features - mean, full_matrices=False)
        spread = gains / len(features) ** 0.5
        dim = min(self.settings.shared_dim_feat, len(spread))
        # A direction with hardly any variance is noise: it is not blown up.
        white = 0.5 * directions[:dim] / spread[:dim, None].clamp_min(0.05 * spread[0])
        weight = torch.randn(self.settings.shared_dim_feat, features.shape[1]).double() * 0.01
        weight[:dim] = white
        if self.settings.spectral_norm == "power":
            weight = weight / torch.linalg.matrix_norm(weight, 2)  # as it will act: the largest gain is followed
            _set_gain(self.generator.shared_feat, weight, 0)
        else:
            _set_gain(self.generator.shared_feat, weight, -1)
        with torch.no_grad():
            self.generator.shared_feat.bias.copy_(-(weight @ mean).float())
        self._feature_mean = mean.float().to(self.device)
        self._feature_scale = float(1 / (features - mean).square().mean().sqrt())

    def _wrapped(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]:
        """Generator and discriminator as they are trained; and the discriminator that the generator is trained against, whose
        gradients no rank waits for."""
        modules: list[Any] = [self.generator, self.discriminator]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            modules = [DistributedDataParallel(module, broadcast_buffers=False) for module in modules]
        modules.append(self.discriminator)
        if self.settings.compile:
            modules = [torch.compile(module) for module in modules]
        return modules[0], modules[1], modules[2]

    # ------------------------------------------------------------------ state

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "dataset": self.instances.samples.fingerprint,
            "extractor": self.instances.bank.extractor_fingerprint,
        }

    def save(self) -> None:
        """Write the state, whole or not at all.

        Raises:
            FloatingPointError: there is a number in it that is none; the state before stays.
            OSError: it could not be written; the state before stays.
        """
        self._demand_finite()
        state = {name: part.state_dict() for name, part in self._parts().items()}
        save_state(
            self._state_path,
            {**state, **self._identity(), "step": self.step, "seconds": self.seconds, "history": self.history},
        )
        self.saved_step = self.step

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average.model,
            "generator_optimiser": self._generator_optimiser,
            "discriminator_optimiser": self._discriminator_optimiser,
        }

    def _demand_finite(self) -> None:
        """Weights and what the optimisers remember: the losses of a step are from before it changed them."""
        for name in ("generator", "discriminator"):
            kept = [*getattr(self, name).state_dict().values()]
            for each in getattr(self, f"_{name}_optimiser").state.values():
                kept += (tensor for key, tensor in each.items() if key != "step")  # which counts, on the CPU
            # One answer from the device for all of them.
            if not torch.stack([tensor.isfinite().all() for tensor in kept]).all():
                raise FloatingPointError(f"the {name}'s weights must be finite, got others {self._after()}")

    def _after(self) -> str:
        """What is said of a number that is none."""
        kept = f"{self._state_path} is of step {self.saved_step}" if self.saved_step else "no state was saved yet"
        return (
            f"after step {self.step} ({kept}): lower generator_lr and discriminator_lr, or clip: 1, may help, in a new folder; "
            "the extractor can be given to it"
        )

    def _load(self, state: dict[str, Any]) -> None:
        check_kept(self._state_path, state, **dict.fromkeys(self._identity(), is_plain))
        for name, mine in self._identity().items():
            theirs = state.get(name)
            if name == "settings" and isinstance(theirs, dict):
                changed = [key for key in mine if key != "steps" and mine[key] != theirs.get(key)]
                if changed:
                    said = ", ".join(f"{key} {shown(theirs.get(key))} (now {mine[key]!r})" for key in changed)
                    raise ValueError(f"{self._state_path} must be of the same settings, it was begun with {said}")
            elif mine != theirs:
                raise ValueError(f"{self._state_path} must be of the same {name} {mine}, got {shown(theirs)}")
        sound = lambda history: isinstance(history, list) and all(map(is_figures, history))  # noqa: E731
        check_kept(self._state_path, state, step=is_count, seconds=is_number, history=sound)
        if self.settings.steps < state["step"]:
            raise ValueError(
                f"steps must be at least the {state['step']} already trained in {self._state_path}, got {self.settings.steps}"
            )
        for name, part in self._parts().items():
            restore(self._state_path, name.replace("_", "'s "), part, state.get(name))
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.saved_step = self.step

    # ------------------------------------------------------------------ training

    def train(
        self,
        *,
        save_every: float = 60.0,
        report_every: int = 100,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Train up to ``settings.steps``.

        Args:
            save_every: seconds after which the next reported step is saved; the last step always is.
            report_every: steps between two calls of ``report``.

        Raises:
            FloatingPointError: a loss or a weight is no number. The last state saved is from before, and stays.
            OSError: a state could not be written; the one before stays.
        """
        begun = saved = time.monotonic()
        sums: dict[str, Tensor] = {}
        since = self.step
        with self._images() as images:
            while self.step < self.settings.steps:
                losses = self._train_step(next(images))
                self.step += 1
                for name, loss in losses.items():
                    sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
                last = self.step == self.settings.steps
                if self.step % report_every == 0 or last:
                    means = {name: float(total) / (self.step - since) for name, total in sums.items()}
                    finite(self._after(), **{name: torch.tensor(mean) for name, mean in means.items()})
                    self._demand_finite()
                    now = time.monotonic()
                    rate = (self.step - since) * self.settings.batch_size / (now - begun)
                    self.seconds += now - begun
                    self.history.append({"step": self.step, **means})
                    report(Progress(self.step, means, rate))
                    sums, since, begun = {}, self.step, time.monotonic()
                    if self.instances.rank == 0 and (last or now - saved > save_every):
                        self.save()
                        saved = now

    @contextlib.contextmanager
    def _images(self) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        size = self.settings.resolution
        with DataLoader(
            self.instances.samples,
            batch_sampler=self.instances.batches(self.step, self.settings.mode_seeking > 0),
            transform=EvalTransform(size, size, mean=HALF, std=HALF),
            device=self.device,
            dtype=torch.float32,
            memory_format=self._memory_format,
            seed=self.settings.seed,
            on_error="raise",
            exif=bool(self.instances.bank.exif),
        ) as loader:
            yield iter(loader)

    def _train_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        settings, step = self.settings, self.step
        generator, discriminator, judge = self._trained
        real, real_labels = batch
        rows, images = self.instances.real(step, settings.mode_seeking > 0)
        real_h = self.instances.features(rows, step, "real", self.device)
        if settings.mirror:
            mirror = torch.rand(len(real), 1, 1, 1, generator=self._random("mirror")) < 0.5
            real = torch.where(mirror.to(self.device), real.flip(3), real)
        if settings.mode_seeking:
            # The same instances again: rows i and i + half are one, under two noises.
            half = len(rows) // 2
            numbers = np.tile(self.instances.samples.labels[images[:half]], 2)
        else:
            rows, numbers = self.instances.conditions(step)
        h = self.instances.features(rows, step, "condition", self.device)
        labels = torch.from_numpy(numbers).to(self.device)
        if settings.mode_seeking:
            h = h[:half].repeat(2, 1)
        z = torch.randn(len(h), self.generator_config.dim_z, generator=self._random("noise")).to(self.device)
        y, real_y = (labels, real_labels) if settings.class_conditional else (None, None)
        self.generator.train()
        self.discriminator.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            generated = generator(z, h, y)
            both = torch.cat([real, generated.detach()])
            both = augment_differentiably(both, settings.policies, self._random("augmentation"))
            both_y = None if y is None or real_y is None else torch.cat([real_y, y])
            scores = discriminator(both, torch.cat([self._seen(real_h), self._seen(h)]), both_y)
            discriminator_loss = discriminator_hinge(*scores.float().split(len(real)))
        self._optimise(self._discriminator_optimiser, self.discriminator, discriminator_loss)
        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            shown = augment_differentiably(generated, settings.policies, self._random("generator's augmentation"))
            generator_loss = generator_hinge(judge(shown, self._seen(h), y).float())
            losses = {"discriminator": discriminator_loss, "generator": generator_loss}
            if settings.mode_seeking:
                losses["mode_seeking"] = mode_seeking(generated.float(), real)
                generator_loss = generator_loss + settings.mode_seeking * losses["mode_seeking"]
        self._optimise(self._generator_optimiser, self.generator, generator_loss)
        self.discriminator.requires_grad_(True)
        self.average.update(self.generator, step)
        return losses

    def _optimise(self, optimiser: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip)
        optimiser.step()

    def _seen(self, h: Tensor) -> Tensor:
        return (h - self._feature_mean) * self._feature_scale

    def _random(self, purpose: str) -> torch.Generator:
        return random_of(self.settings.seed, purpose, self.step, self.instances.rank)

    # ------------------------------------------------------------------ what comes of it

    @torch.no_grad()
    def finished(self, batches: int = 50) -> ICGenerator:
        """The averaged generator with batch-norm statistics of its own: measured over ``batches`` batches, not averaged on the way."""
        model = copy.deepcopy(self.average.model)  # its own statistics go on being averaged
        norms = [module for module in model.modules() if isinstance(module, BatchNorm | ConditionalBatchNorm)]
        model.eval()
        for number in range(batches):
            for norm in norms:
                norm.training = True  # the norms alone: the spectral layers in them would move their u0
                norm.momentum = 1 / (number + 1)  # the plain mean over all batches
            rows, numbers = self.instances.conditions(number)
            random = random_of(self.settings.seed, "statistics", number)
            z = torch.randn(len(rows), self.generator_config.dim_z, generator=random).to(self.device)
            y = torch.from_numpy(numbers).to(self.device) if self.settings.class_conditional else None
            model(z, self.instances.bank.gather(rows, self.device), y)
        model.eval()
        assert isinstance(model, ICGenerator)
        return model

    def checkpoint(self) -> Checkpoint[GeneratorConfig]:
        """The finished generator, as the engine takes it."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.finished().state_dict().items()}
        return Checkpoint("generator", self.generator_config, tensors, source="generator.safetensors")

    def export(self, dtype: torch.dtype | None = None) -> Path:
        """Write ``generator.safetensors`` and, in the official layout, ``G_ema.pth``; returns the first."""
        checkpoint = self.checkpoint()
        path = self.folder / "generator.safetensors"
        write_checkpoint(path, checkpoint, dtype)
        write_whole(self.folder / "G_ema.pth", lambda file: torch.save(checkpoint.tensors, file))
        return path


@contextlib.contextmanager
def _named(network: str) -> Iterator[None]:
    """Say whose setting is wrong: both networks have channels and attention."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"the {network}'s {error}") from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator, which initialisation draws from, seeded for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _set_gain(layer: SpectralLinear, weight: Tensor, direction: int) -> None:
    """Make ``weight`` what the layer multiplies by, but for one direction, counted from the largest gain: the power step from its u0
    finds the one of gain 1."""
    left, gains, right = torch.linalg.svd(weight, full_matrices=False)
    gains[direction] = 1
    with torch.no_grad():
        layer.weight.copy_((left * gains @ right).float())
        layer.u0.copy_(left[None, :, direction].float())
