"""The sections of a recipe's settings, as its YAML file holds them."""

import math
from dataclasses import dataclass

from dali_icgan.training.settings import check_integers, check_kinds

ROWS = ("all", "real", "generated", "none")
ARMS = ("generated", "plain", "retrieval", "random", "matched")
VIEWS = ("one", "global", "all", "none")


class Section:
    """A frozen dataclass whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        check_kinds(self)
        self._check()

    def _check(self) -> None:
        raise NotImplementedError

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def _within(self, least: float, most: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                kind = f">= {least:g} and finite" if most == _FINITE else f"in [{least:g}, {most:g}]"
                raise ValueError(f"{name} must be {kind}, got {value!r}")

    def _areas(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value[0] <= value[1] <= 1:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high <= 1, got {list(value)}")


_FINITE = 1e300


@dataclass(frozen=True)
class Model(Section):
    """The network, of timm.

    Attributes:
        name: of ``timm.list_models()``.
        drop_path: stochastic depth: the last block is left out with this probability, earlier ones less.
        init: weights to start from, a safetensors file such as another run's ``best.safetensors``; its head is left out where it has
            other classes. None: random.
        train: "all", or "head": the rest stays as ``init`` has it (linear evaluation).
        channels_last: memory format.
        sync_batch_norm: batch statistics of all ranks together; needs CUDA.
    """

    name: str
    drop_path: float
    init: str | None
    train: str
    channels_last: bool
    sync_batch_norm: bool

    def _check(self) -> None:
        self._within(0, 1, "drop_path")
        self._one_of("train", ("all", "head"))
        if self.train == "head" and self.init is None:
            raise ValueError("train: head trains what stands on given weights: init must name a file, got None")


@dataclass(frozen=True)
class Data(Section):
    """Where images are, and how they are read.

    Attributes:
        train, val: folders below the one that the command is given; a class a subfolder.
        repeats: how often an image comes within a batch's neighbourhood, each time augmented anew (repeated augmentation); an epoch
            then sees as many images less.
        val_resize, val_crop: pixels of the short side, and of the centre that is cut out of it.
        threads: of decoding, in each process; 0: one a core.
        exif: rotate images as EXIF says.
    """

    train: str
    val: str
    repeats: int
    val_resize: int
    val_crop: int
    threads: int
    exif: bool

    def _check(self) -> None:
        check_integers(self, repeats=1, val_resize=1, val_crop=1, threads=0)


@dataclass(frozen=True)
class Crop(Section):
    """The random resized crop and the flip.

    Attributes:
        size: pixels.
        scale, ratio: the crop's share of the image's area, and its width / height.
        flip: probability.
        generated_scale: the share for generated images; None: as ``scale``.
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    generated_scale: tuple[float, float] | None

    def _check(self) -> None:
        check_integers(self, size=1)
        self._within(0, 1, "flip")
        self._areas("scale", "generated_scale")


@dataclass(frozen=True)
class MultiCrop(Section):
    """SwAV's views: few large crops, several small ones.

    Attributes:
        global_views, local_views: how many are large, and small.
        global_size, local_size: pixels of each.
        global_scale, local_scale: the crop's share of the image's area.
        global_generated_scale, local_generated_scale: the share for generated images; None: as for photographs.
        ratio: the crop's width / height.
        flip: probability.
    """

    global_views: int
    global_size: int
    global_scale: tuple[float, float]
    global_generated_scale: tuple[float, float] | None
    local_views: int
    local_size: int
    local_scale: tuple[float, float]
    local_generated_scale: tuple[float, float] | None
    ratio: tuple[float, float]
    flip: float

    def _check(self) -> None:
        check_integers(self, global_views=2, global_size=1, local_views=0, local_size=1)
        self._within(0, 1, "flip")
        self._areas("global_scale", "global_generated_scale", "local_scale", "local_generated_scale")

    @property
    def count(self) -> int:
        """All views."""
        return self.global_views + self.local_views


@dataclass(frozen=True)
class Augmentation(Section):
    """What is done to finished batches, on the device, for classification.

    Attributes:
        randaugment: operations drawn for an image; 0: none. randaugment_p: probability that a drawn one is applied.
        magnitude: 0..30 of torchvision's RandAugment. magnitude_std: its deviation, from operation to operation.
        randaugment_rows, erasing_rows: which rows: all, real, generated, none.
        erasing: probability of random erasing. erasing_mode: what the rectangle holds: const (the mean), rand, pixel (noise).
        share: how many neighbouring rows have the same draw of RandAugment: more is quicker, and less random.
        mixup, cutmix: alpha of each; 0: off. mix: probability that a batch is mixed; cutmix_share: of those, by cutmix.
        smoothing: of labels.
    """

    randaugment: int
    randaugment_p: float
    magnitude: int
    magnitude_std: float
    randaugment_rows: str
    erasing: float
    erasing_mode: str
    erasing_rows: str
    share: int
    mixup: float
    cutmix: float
    mix: float
    cutmix_share: float
    smoothing: float

    def _check(self) -> None:
        check_integers(self, randaugment=0, magnitude=0, share=1)
        self._within(0, 30, "magnitude")
        self._within(0, 1, "randaugment_p", "erasing", "mix", "cutmix_share", "smoothing")
        self._within(0, _FINITE, "magnitude_std", "mixup", "cutmix")
        self._one_of("randaugment_rows", ROWS)
        self._one_of("erasing_rows", ROWS)
        self._one_of("erasing_mode", ("const", "rand", "pixel"))

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed at all."""
        return self.mix > 0 and (self.mixup > 0 or self.cutmix > 0)


@dataclass(frozen=True)
class Colour(Section):
    """SwAV's colour distortion and blur, on the device.

    Attributes:
        jitter: probability; strength: of it (1: brightness, contrast and saturation by up to 0.8, hue by up to 0.2).
        gray, blur: probabilities. blur_sigma: least and greatest, in pixels.
        rows: which rows: all, real, generated, none.
        share: how many neighbouring rows have the same draw: more is quicker, and less random.
    """

    jitter: float
    strength: float
    gray: float
    blur: float
    blur_sigma: tuple[float, float]
    rows: str
    share: int

    def _check(self) -> None:
        check_integers(self, share=1)
        self._within(0, 1, "jitter", "gray", "blur")
        self._within(0, _FINITE, "strength")
        self._one_of("rows", ROWS)


@dataclass(frozen=True)
class Generate(Section):
    """DA_IC-GAN, and the controls it has to be compared with.

    Attributes:
        arm: "generated" (rows replaced by generations), "plain" (none is), "retrieval" (by real neighbours, at the same p), "random" (by
            generations of any image, under the row's own label), "matched" (none is, and training is longer by what generating costs).
        generator, extractor, bank: files; the bank is :class:`dali_icgan.FeatureBank`'s. None: not given.
        embed_bank: read the bank's rows as the generator's first layer makes them.
        p: probability that a row is replaced, reached after ``ramp_epochs`` from ``p_start``, linearly.
        truncation, truncation_mode, condition, k, same_class: as of :class:`dali_icgan.DAICGAN`.
        views: which views may be replaced: "one" (the first), "global" (all large ones), "all", "none". One view: any but none is the same.
        cost: what a generation costs, in training passes of an image, for the arm "matched".
    """

    arm: str
    generator: str | None
    extractor: str | None
    bank: str | None
    embed_bank: bool
    p: float
    p_start: float
    ramp_epochs: float
    truncation: float
    truncation_mode: str
    condition: str
    k: int
    same_class: bool
    views: str
    cost: float

    def _check(self) -> None:
        check_integers(self, k=1)
        self._one_of("arm", ARMS)
        self._one_of("views", VIEWS)
        self._one_of("truncation_mode", ("cut", "std", "scaled"))
        self._one_of("condition", ("instance", "neighbour", "random"))
        self._within(0, 1, "p", "p_start")
        self._within(0, _FINITE, "ramp_epochs", "cost")
        needs = {"generated": ("generator",), "random": ("generator", "bank"), "retrieval": ("bank",)}
        for name in needs.get(self.arm, ()):
            if getattr(self, name) is None:
                raise ValueError(f"arm: {self.arm} needs {name}, got None; arm: plain needs nothing")
        if self.arm == "generated" and self.extractor is None and self.bank is None:
            raise ValueError("arm: generated needs extractor or bank, got neither; arm: plain needs nothing")

    def p_of(self, epoch: float) -> float:
        """The probability in force in an epoch."""
        if self.ramp_epochs <= 0:
            return self.p
        return self.p_start + (self.p - self.p_start) * min(1.0, epoch / self.ramp_epochs)


@dataclass(frozen=True)
class Optimizer(Section):
    """Of timm.

    Attributes:
        name: of ``timm.optim.list_optimizers()``; "sgd" is with Nesterov momentum, "momentum" without.
        lr: for batches of ``lr_batch`` images; scaled linearly to the run's.
        weight_decay: of all weights but biases and those of normalisation. decay_all: of these too (and LARS then scales their steps).
        clip: norm of the gradient at most; None: any.
    """

    name: str
    lr: float
    lr_batch: int
    momentum: float
    weight_decay: float
    decay_all: bool
    clip: float | None

    def _check(self) -> None:
        check_integers(self, lr_batch=1)
        self._within(0, _FINITE, "lr", "weight_decay", "clip")
        self._within(0, 1, "momentum")


@dataclass(frozen=True)
class Schedule(Section):
    """Of the learning rate, step by step.

    Attributes:
        epochs: of the run.
        kind: "cosine", "multistep", "constant".
        warmup_epochs: linear from ``warmup_lr``.
        min_lr: where cosine ends. Neither is scaled with the batch.
        milestones: epochs after which lr is multiplied by ``decay``.
    """

    epochs: int
    kind: str
    warmup_epochs: float
    warmup_lr: float
    min_lr: float
    milestones: tuple[float, ...]
    decay: float

    def _check(self) -> None:
        check_integers(self, epochs=1)
        self._one_of("kind", ("cosine", "multistep", "constant"))
        self._within(0, _FINITE, "warmup_epochs", "warmup_lr", "min_lr")
        self._within(0, 1, "decay")
        if self.kind != "multistep" and self.milestones:
            raise ValueError(f"milestones must be [] where kind is {self.kind}, got {list(self.milestones)}")


@dataclass(frozen=True)
class Ema(Section):
    """The moving average of the weights.

    Attributes:
        decay: None: none is kept.
        warmup: less decay in the beginning, so that the average does not hold on to the first weights.
    """

    decay: float | None
    warmup: bool

    def _check(self) -> None:
        self._within(0, 1, "decay")


@dataclass(frozen=True)
class Swav(Section):
    """Loss, head and queue of SwAV.

    Attributes:
        prototypes, hidden, dim: sizes of head and prototypes.
        temperature, epsilon, iterations: of the softmax; of Sinkhorn's algorithm.
        queue: features of earlier batches that codes are computed with, over all ranks; 0: none. queue_epoch: the first with them.
        frozen_epochs: during which prototypes are not trained.
        knn_images, knn_k, knn_temperature: of the evaluation by nearest neighbours: training images at most, neighbours, weighting.
    """

    prototypes: int
    hidden: int
    dim: int
    temperature: float
    epsilon: float
    iterations: int
    queue: int
    queue_epoch: int
    frozen_epochs: float
    knn_images: int
    knn_k: int
    knn_temperature: float

    def _check(self) -> None:
        check_integers(self, prototypes=1, hidden=1, dim=1, iterations=1, queue=0, queue_epoch=0, knn_images=1, knn_k=1)
        self._within(0, _FINITE, "frozen_epochs")
        for name in ("temperature", "epsilon", "knn_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Run(Section):
    """How a run goes about it.

    Attributes:
        batch_size: images of an optimiser's step, over all ranks and accumulated parts.
        accumulate: parts that a step's images are passed in.
        precision: "fp32", "bf16", "fp16" (autocast).
        seed: of weights, order and every draw.
        save_every: steps between two states; log_every: between two looks at the loss; validate_every: epochs between two validations.
    """

    batch_size: int
    accumulate: int
    precision: str
    seed: int
    save_every: int
    log_every: int
    validate_every: int

    def _check(self) -> None:
        check_integers(self, batch_size=1, accumulate=1, seed=0, save_every=1, log_every=1, validate_every=1)
        self._one_of("precision", ("fp32", "bf16", "fp16"))
