"""DA_IC-GAN as an operator: who is replaced, by a sample of what, and the finished batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.augment.classes import (
    ClassMap,
    alone_message,
    check_class_map,
    check_same_class,
    checked_class_map,
    found_class_map,
)
from dali_icgan.augment.given import GivenImages, Images, checked_labels, split_keys, upload
from dali_icgan.augment.plan import RowKeys, Stream, replaced, resolve_p
from dali_icgan.augment.transform import EvalTransform, TrainTransform, Windows
from dali_icgan.data import ImageDecoder, Samples
from dali_icgan.data.dataset import Source, read_source
from dali_icgan.data.read import Encoded, encoded
from dali_icgan.engine import Extractor, Generator
from dali_icgan.engine.placement import default_microbatch
from dali_icgan.errors import DecodeError
from dali_icgan.ops import assemble, randint, truncated_normal

Transform = TrainTransform | EvalTransform
Probability = float | Callable[[int], float]


@dataclass(frozen=True)
class Binding:
    """What a DAICGAN knows of one dataset.

    Attributes:
        seed: of every random draw.
        rows: the bank's row of each sample, -1 where it has none; None without a bank.
        class_map: the generator's class of each of the dataset's classes; None for a plain generator.
    """

    seed: int
    rows: npt.NDArray[np.int64] | None = None
    class_map: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Decision:
    """What happens to each row of a batch, in one view. All arrays are ``[n]``.

    Attributes:
        replaced: bool.
        row: int64, the bank row whose feature conditions the generation or whose image is retrieved; -1: the row's own image, by the
            extractor. Meaningless where not replaced.
        label: int64, the label that is returned.
        missing: bool, replaced but the bank has nothing for it.
    """

    replaced: npt.NDArray[np.bool_]
    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    missing: npt.NDArray[np.bool_]

    def put(self, row: int, other: "Decision") -> None:
        """Decide a row anew: as the one row of ``other``."""
        for mine, theirs in zip(
            (self.replaced, self.row, self.label, self.missing),
            (other.replaced, other.row, other.label, other.missing),
            strict=True,
        ):
            mine[row] = theirs[0]


class DAICGAN:
    """Replaces a row, with probability p, by a sample of an instance-conditioned GAN conditioned on that row's own features.

    For a sample x with label y, independently with probability p:  h = f(x) / ||f(x)||, z ~ truncated normal, x' = G(z, h[, y]); x'
    takes the place of x before the crop, the flip and the normalisation.

    Args:
        generator: from :func:`dali_icgan.load_generator`; None only with ``source="neighbour"``.
        extractor: from :func:`dali_icgan.load_extractor`; computes h of the row's own image.
        bank: a :class:`dali_icgan.FeatureBank` or its path: h is looked up and the row's image is not even read. One of the two is
            needed; with both, the bank is read, and must be the extractor's.
        p: a number in [0, 1], or a pure function of the epoch that gives one.
        truncation: t > 0.
        truncation_mode: "cut": z ~ N(0, 1) conditioned on |z| <= 2t (the official notebooks'); "std": z ~ t N(0, 1); "scaled":
            z ~ t (N(0, 1) conditioned on |z| <= 2).
        condition: whose feature: "instance" (the row's own), "neighbour" (one of its k nearest in the bank), "random" (any in the
            bank: a control).
        k: neighbours, for "neighbour" and for retrieval.
        same_class: those neighbours are the k nearest of the row's own class, all of it where it has fewer; False: of the whole bank.
            Classes are those of ``bank.labels``.
        labels: "own", or "random": a class drawn uniformly, which conditions a class-conditional generator and is the label returned.
        source: "generator", or "neighbour": the row is replaced by the image of one of its k nearest neighbours, never itself (the
            retrieval control).
        class_map: for a class-conditional generator, its class for each class of the dataset: a sequence or a mapping. None: found
            when folder names are WordNet ids and the generator knows the 1000 of ImageNet, or the same when both have as many.
        view_p: one p a view, where views differ; None: p for all.
        generated_transform: for the rows replaced; None: the loader's; a sequence gives one or None a view, where views differ. Of a
            neighbour retrieved, the crop and flip alone.
        microbatch: rows a generator call has, always (the last one is padded); None: on the CPU 32 up to 64 px and 4 above, on CUDA
            64. On CUDA pixels are a function of it, on a CPU of the instruction set and the forms; of nothing else on one kind of machine.
        seed: of the random draws, where no loader gives its own.
        embed_bank: read rows as :meth:`FeatureBank.embedded` holds them for this generator, made now if they are not there: half the
            bytes or less at official sizes, and one layer less a call. The same images, but for rounding.

    Raises:
        ValueError, TypeError: an argument is not as above, or generator, extractor and bank do not belong together.

    Source: Astolfi et al. 2023 (arXiv 2303.09677); the generator Casanova et al. 2021 (arXiv 2109.05070).
    """

    def __init__(
        self,
        *,
        generator: Generator | None,
        extractor: Extractor | None = None,
        bank: FeatureBank | str | Path | None = None,
        p: Probability = 0.5,
        truncation: float = 0.7,
        truncation_mode: str = "cut",
        condition: str = "instance",
        k: int = 50,
        same_class: bool = False,
        labels: str = "own",
        source: str = "generator",
        class_map: ClassMap | None = None,
        view_p: Sequence[Probability] | None = None,
        generated_transform: Transform | Sequence[Transform | None] | None = None,
        microbatch: int | None = None,
        seed: int = 0,
        embed_bank: bool = False,
    ) -> None:
        _one_of("truncation_mode", truncation_mode, ("cut", "std", "scaled"))
        _one_of("condition", condition, ("instance", "neighbour", "random"))
        _one_of("labels", labels, ("own", "random"))
        _one_of("source", source, ("generator", "neighbour"))
        if not (isinstance(truncation, (int, float)) and truncation > 0):
            raise ValueError(f"truncation must be a positive number, got {truncation!r}")
        if not (isinstance(k, int) and k >= 1):
            raise ValueError(f"k must be a positive integer, got {k!r}")
        if not isinstance(same_class, bool):
            raise TypeError(f"same_class must be True or False, got {same_class!r}")
        if same_class and "neighbour" not in (condition, source):
            raise ValueError(
                'same_class=True limits neighbours: condition or source must be "neighbour", '
                f'got condition="{condition}" and source="{source}"'
            )
        if microbatch is not None and not (isinstance(microbatch, int) and microbatch >= 1):
            raise ValueError(f"microbatch must be a positive integer or None, got {microbatch!r}")
        if view_p is not None and not isinstance(view_p, (Sequence, np.ndarray)):
            raise TypeError(f"view_p must be a sequence with one p a view, got {type(view_p).__name__}")
        for name, value in [("p", p), *((f"view_p[{i}]", each) for i, each in enumerate(view_p or ()))]:
            if not callable(value):
                _probability(name, value)
        if isinstance(generated_transform, Sequence):
            generated_transform = tuple(generated_transform)
        for each in generated_transform if isinstance(generated_transform, tuple) else (generated_transform,):
            if each is not None and not isinstance(each, (TrainTransform, EvalTransform)):
                raise TypeError(
                    f"generated_transform must be a TrainTransform or EvalTransform, got {type(each).__name__}"
                )
        if isinstance(bank, (str, Path)):
            bank = FeatureBank.open(bank)
        if bank is not None and not isinstance(bank, FeatureBank):
            raise TypeError(f"bank must be a FeatureBank or its path, got {type(bank).__name__}")
        if extractor is not None and not isinstance(extractor, Extractor):
            raise TypeError(f"extractor must come from load_extractor, got {type(extractor).__name__}")
        if source == "generator" and not isinstance(generator, Generator):
            raise TypeError(f"generator must come from load_generator, got {type(generator).__name__}")
        if source == "neighbour" and bank is None:
            raise ValueError('source="neighbour" looks neighbours up: bank must be given, got None')
        if condition != "instance" and bank is None:
            raise ValueError(f'condition="{condition}" looks features up: bank must be given, got None')
        if extractor is None and bank is None:
            raise ValueError("extractor or bank must be given: a generation is conditioned on features; got neither")
        if labels == "random" and (generator is None or not generator.class_conditional):
            raise ValueError('labels="random" needs a class-conditional generator, got a plain one')
        if labels == "random" and source == "neighbour":
            raise ValueError(
                'labels="random" conditions a generator, and a neighbour keeps its label: source must be "generator"'
            )
        if class_map is not None and (generator is None or not generator.class_conditional):
            raise ValueError("class_map is for a class-conditional generator, got a plain one")
        if extractor is not None and generator is not None:
            if extractor.resolution is None:
                extractor = extractor.at_resolution(generator.resolution)
            elif extractor.resolution != generator.resolution:
                raise ValueError(
                    f"extractor must see images at the generator's resolution {generator.resolution}, got {extractor.resolution}"
                )
        self.generator = generator
        self.extractor = extractor
        self.bank = bank
        self.p = p
        self.view_p = None if view_p is None else tuple(view_p)
        self.truncation = float(truncation)
        self.truncation_mode = truncation_mode
        self.condition = condition
        self.k = k
        self.same_class = same_class
        self.labels = labels
        self.source = source
        self.class_map = None if class_map is None else checked_class_map(class_map)
        self.generated_transform = generated_transform
        self.seed = seed
        self._check_dimensions()
        if generator is not None and self.class_map is not None:
            check_class_map(self.class_map, generator.n_classes)
        if microbatch is None and generator is not None:
            microbatch = default_microbatch(generator.device, generator.resolution)
        self.microbatch = microbatch or 1
        self._decoder: ImageDecoder | None = None
        if embed_bank:
            if self.bank is None or generator is None:
                raise ValueError(
                    f"embed_bank=True reads a bank for a generator, got bank={bank!r}, generator={generator!r}"
                )
            self.bank.embedded(generator)
        self.embed_bank = embed_bank
        if bank is not None and (condition == "neighbour" or source == "neighbour"):
            # Now, where it is seen to take its time, and where a k that is too large is an error.
            bank.neighbours(k, same_class)

    def __repr__(self) -> str:
        given = f"generator={self.generator}, extractor={self.extractor}, bank={self.bank}"
        return f"DAICGAN({given}, p={self.p}, truncation={self.truncation}, condition={self.condition!r}, source={self.source!r})"

    def _check_dimensions(self) -> None:
        sizes = {
            "generator": None if self.generator is None else self.generator.feature_dim,
            "extractor": None if self.extractor is None else self.extractor.dim,
            "bank": None if self.bank is None else self.bank.dim,
        }
        if len({size for size in sizes.values() if size is not None}) > 1:
            said = ", ".join(f"{name} {size}" for name, size in sizes.items() if size is not None)
            raise ValueError(f"generator, extractor and bank must agree on the number of features, got {said}")
        if (
            self.bank is not None
            and self.generator is not None
            and self.bank.resolution not in (None, self.generator.resolution)
        ):
            raise ValueError(
                f"bank must hold features of images at the generator's resolution {self.generator.resolution}, got {self.bank.resolution}"
            )

    @property
    def device(self) -> torch.device:
        """Where generations are made."""
        if self.generator is not None:
            return self.generator.device
        return self.extractor.device if self.extractor is not None else torch.device("cpu")

    @property
    def forms(self) -> dict[str, dict[str, dict[str, int]]]:
        """Which tile each convolution takes, of "generator" and "extractor" where a CPU computes them."""
        models = {"generator": self.generator, "extractor": self.extractor}
        return {name: model.forms for name, model in models.items() if model is not None and model.forms is not None}

    @property
    def needs_own_image(self) -> bool:
        """Whether a replaced row's image is read for its features."""
        return self.bank is None

    def p_of(self, epoch: int, view: int = 0) -> float:
        """The probability in force."""
        if self.view_p is not None and view >= len(self.view_p):
            raise ValueError(f"view_p must give one p a view, got {len(self.view_p)} for view {view}")
        return resolve_p(self.p if self.view_p is None else self.view_p[view], epoch)

    def generated_in(self, view: int = 0) -> Transform | None:
        """The transform of a view's replaced rows; None: the one of all rows."""
        given = self.generated_transform
        if isinstance(given, tuple) and view >= len(given):
            raise ValueError(f"generated_transform must give one a view, got {len(given)} for view {view}")
        return given[view] if isinstance(given, tuple) else given

    # ------------------------------------------------------------------ a dataset

    def bind(self, samples: Samples, seed: int, exif: bool | None = None) -> Binding:
        """Look up what a dataset's samples and classes are here.

        Raises:
            ValueError: the bank is of another dataset, or its images were rotated otherwise, or classes cannot be matched; or, with
                ``same_class``, an image is alone in its class, or the bank's classes are not the dataset's.
        """
        rows = None
        if self.bank is not None:
            rows = self.bank.check_against(samples, self.extractor, exif)
            if self.same_class:
                check_same_class(self.bank, samples, rows)
        class_map = None
        if self.generator is not None and self.generator.class_conditional:
            count = len(samples.classes) if samples.classes is not None else int(samples.labels.max()) + 1
            class_map = self.class_map
            if class_map is None:
                class_map = found_class_map(samples.classes, count, self.generator.n_classes)
            if len(class_map) < count:
                raise ValueError(f"class_map must cover the dataset's {count} classes, got {len(class_map)}")
            class_map = class_map[:count]  # labels="random" draws among these
        return Binding(seed, rows, class_map)

    def _bind_alone(self) -> Binding:
        rows = None if self.bank is None else np.arange(self.bank.n)
        class_map = self.class_map
        if self.generator is not None and self.generator.class_conditional and class_map is None:
            raise ValueError("class_map must be given for a class-conditional generator outside a DataLoader, got None")
        return Binding(self.seed, rows, class_map)

    # ------------------------------------------------------------------ the steps

    def decide(self, binding: Binding, keys: RowKeys, labels: npt.NDArray[np.int64], p: float) -> Decision:
        """Who is replaced, conditioned on what, labelled how: host arithmetic only, a pure function of each row's key."""
        hit = replaced(keys, p)
        row = np.full(len(hit), -1, np.int64)
        missing = np.zeros(len(hit), bool)
        if self.bank is not None and hit.any():
            assert binding.rows is not None
            if self.condition == "random" and self.source == "generator":
                present = np.flatnonzero(self.bank.present)
                row = present[randint(keys, Stream.CONDITION, len(present))]
            else:
                row = binding.rows[keys.index]
                missing = hit & ((row < 0) | ~self.bank.present[row])
                if self.condition == "neighbour" or self.source == "neighbour":
                    near = self.bank.neighbours(self.k, self.same_class)[np.where(missing, 0, row)]
                    count = (near >= 0).sum(1)  # k, but for rows of small classes
                    alone = np.flatnonzero(hit & ~missing & (count == 0))
                    if len(alone):
                        raise ValueError(
                            alone_message(self.bank.keys[row[alone[0]]], f"class {self.bank.labels[row[alone[0]]]}")
                        )
                    pick = randint(keys, Stream.NEIGHBOUR, np.maximum(count, 1))
                    row = np.where(missing, -1, near[np.arange(len(row)), pick])
        label = labels
        if self.labels == "random":
            assert binding.class_map is not None
            label = np.where(hit, randint(keys, Stream.LABEL, len(binding.class_map)), labels)
        return Decision(hit, row, label, missing)

    def classes(self, binding: Binding, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The generator's class for each label; None for a plain generator."""
        if binding.class_map is None:
            return None
        if len(labels) and (labels.min() < 0 or labels.max() >= len(binding.class_map)):
            raise ValueError(f"labels must lie in 0..{len(binding.class_map) - 1}, got {labels.min()}..{labels.max()}")
        return binding.class_map[labels]

    def features(self, images: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Unit feature rows of images (uint8 HWC tensors, or float ``[n, 3, h, w]`` in [0, 1]): ``[n, d]`` float32, in extractor calls
        of ``microbatch`` images, so that a row's bits depend on nothing but its image."""
        assert self.extractor is not None
        n, m = len(images), self.microbatch
        parts = []
        for begin in range(0, n, m):
            rows = [min(i, n - 1) for i in range(begin, begin + m)]  # the last call is padded with its last image
            part = images[rows] if isinstance(images, torch.Tensor) else [images[i] for i in rows]
            parts.append(self.extractor(part)[: min(m, n - begin)])
        return torch.cat(parts) if parts else torch.empty(0, self.extractor.dim, device=self.extractor.device)

    def noise(self, keys: RowKeys) -> torch.Tensor:
        """z of rows, ``[n, dim_z]`` float32 on the generator's device."""
        assert self.generator is not None
        return truncated_normal(
            keys,
            self.generator.dim_z,
            truncation=self.truncation,
            mode=self.truncation_mode,
            device=self.generator.device,
        )

    def generate(self, z: torch.Tensor, h: torch.Tensor, y: npt.NDArray[np.int64] | None) -> torch.Tensor:
        """Generations for rows, in generator calls of ``microbatch`` rows each.

        Args:
            z: float32 ``[n, dim_z]``, see :meth:`noise`.
            h: float32 ``[n, d]``, unit rows; with ``embed_bank`` embedded ones, as :meth:`gather` gives them.
            y: int64 ``[n]``, the generator's classes, or None.

        Returns:
            ``[n, 3, r, r]`` in [-1, 1].

        Numerics: a row's pixels depend on its z, h and y, never on its neighbours or its place.
        """
        generator = self.generator
        assert generator is not None
        n, m = len(z), self.microbatch
        labels = None if y is None else upload(y, generator.device)
        parts = []
        for begin in range(0, n, m):
            # The last call is padded with its last row.
            rows = torch.arange(begin, begin + m, device=z.device).clamp_(max=n - 1)
            classes = None if labels is None else labels[rows]
            part = generator(z[rows], h[rows], classes, embedded=self.embed_bank)
            parts.append(part[: min(m, n - begin)])
        if not parts:
            return torch.empty(
                0, 3, generator.resolution, generator.resolution, dtype=generator.dtype, device=generator.device
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # ------------------------------------------------------------------ standalone

    def __call__(
        self,
        images: Images,
        keys: torch.Tensor | npt.NDArray[np.int64] | Sequence[int],
        labels: torch.Tensor | npt.NDArray[np.int64] | Sequence[int] | None,
        epoch: int,
        transform: Transform,
        *,
        view: int = 0,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Augment a batch of images outside the DataLoader.

        Args:
            images: a list of uint8 HWC, or one array ``[n, 3, h, w]``, uint8, or floating point in [0, 1]. Torch tensors, or arrays
                of NumPy, CuPy and whatever else has ``__dlpack__`` or ``__cuda_array_interface__``, read where they are.
            keys: int64 ``[n]`` (indices in the bank's dataset order) or ``[n, 2]`` (index, repeat): what the random draws of a row
                depend on, with seed, epoch and view. Give each image's own index in its dataset: the places in a batch would draw
                the same in every batch.
            labels: int64 ``[n]``; None: zeros, where the generator needs none.
            epoch: >= 0. With the same epoch every pass would draw the same.
            transform: crop, flip and normalisation.
            view: which of several views, 0..255.
            dtype: of the result; None: float16 on CUDA, float32 on the CPU.
            memory_format: of the result.

        Returns:
            images ``[n, 3, s, s]`` on the images' device, labels int64 ``[n]``, and info: numpy arrays index, repeat, replaced
            ``[n]``, box ``[n, 4]`` (top, left, height, width in the image that was cropped), flip ``[n]``. Images and labels are
            torch tensors; ``cupy.from_dlpack(images)`` shares their memory.

        Raises:
            ValueError, TypeError: an argument is not as above.
            DecodeError: a replaced row has no feature in the bank, or a neighbour's file is unreadable.
            DeviceError: an array is on a CUDA device, and torch sees none.

        Stream: torch's current stream of the images' device. Arrays of another library are waited for there, not on the host; their
            memory must not be used again before that stream has passed.
        """
        if not isinstance(transform, (TrainTransform, EvalTransform)):
            raise TypeError(f"transform must be a TrainTransform or EvalTransform, got {type(transform).__name__}")
        if labels is None and self.generator is not None and self.generator.class_conditional:
            raise ValueError("labels must be given: the generator is class-conditional")
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32, float16, bfloat16 or None, got {dtype!r}")
        real = GivenImages(images)
        n, device = len(real), real.device if len(real) else self.device
        index, repeat = split_keys(keys, n)
        own = np.zeros(n, np.int64) if labels is None else checked_labels(labels, n)
        binding = self._bind_alone()
        if binding.rows is not None and n and index.max() >= len(binding.rows):
            raise ValueError(f"keys must lie in the bank's 0..{len(binding.rows) - 1}, got {index.max()}")
        row_keys = RowKeys(self.seed, epoch, index, repeat, view)
        decision = self.decide(binding, row_keys, own, self.p_of(epoch, view))
        if decision.missing.any():
            missing = int(index[decision.missing][0])
            assert self.bank is not None
            raise self.missing_error(missing, self.bank.keys[missing])
        hit = np.flatnonzero(decision.replaced)
        sizes = real.sizes()
        images_of = list(real.regions)
        made = None
        if len(hit) and self.source == "neighbour":
            for i, pixels in zip(hit, self._retrieve(decision.row[hit]), strict=True):
                images_of[i] = pixels if device.type == "cpu" else upload(pixels.numpy(), device)
                sizes[i] = pixels.shape[:2]
        elif len(hit):
            h = self.gather(decision.row[hit]) if self.bank is not None else self.features(real.take(hit))
            made = self.generate(self.noise(row_keys.take(hit)), h, self.classes(binding, decision.label[hit]))
            sizes[hit] = made.shape[2:]
        own_style = self.generated_in(view)
        windows = chosen_windows(transform, own_style, row_keys, sizes, decision.replaced)
        if dtype is None:
            dtype = torch.float16 if device.type == "cuda" else torch.float32
        size = transform.output_size
        out = torch.empty(n, 3, size, size, dtype=dtype, device=device, memory_format=memory_format)
        style = own_style or transform
        if real.floats is None or len(hit) == n:
            source = np.arange(n, dtype=np.int64)
            if made is not None:
                source[hit] = -1 - np.arange(len(hit))
            finish(images_of, made, source, windows, transform, style, out)
        else:  # floats have no uint8 form: they are finished as the operator's other kind of source, then the generations
            finish([], real.floats * 2 - 1, -1 - np.arange(n), windows, transform, transform, out)
            if made is not None:
                part = torch.empty_like(out[: len(hit)])
                finish([], made, -1 - np.arange(len(hit)), windows.take(hit), transform, style, part)
                out[upload(hit, device)] = part
        box, flip = windows.window, windows.flip
        info = {"index": index, "repeat": repeat, "replaced": decision.replaced, "box": box, "flip": flip}
        return out, upload(decision.label, device), info

    def gather(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """What the bank conditions rows on, on the generator's device: float32 ``[n, d]``, unit rows; with ``embed_bank`` embedded ones."""
        assert self.bank is not None
        if self.embed_bank:
            assert self.generator is not None
            return self.bank.gather_embedded(rows, self.device, self.generator)
        return self.bank.gather(rows, self.device)

    def missing_error(self, index: int, path: str) -> DecodeError:
        """The error for a replaced row that the bank has nothing for."""
        assert self.bank is not None
        where = f" {self.bank.path}" if self.bank.path is not None else ""
        return DecodeError(path, index, f"has no feature in the bank{where}")

    def bank_source(self, row: int) -> Source:
        """Where the image that a bank row is of lies: the path of a file, or a member of a tar."""
        assert self.bank is not None
        return self.bank.source(row)

    def _retrieve(self, rows: npt.NDArray[np.int64]) -> list[torch.Tensor]:
        assert self.bank is not None
        exif = bool(self.bank.exif)
        if self._decoder is None:
            self._decoder = ImageDecoder(exif=exif)
        images: list[Encoded] = []
        for row in rows:
            source = self.bank_source(int(row))
            try:
                images.append(encoded(read_source(source), exif=exif))
            except (OSError, ValueError) as error:
                raise DecodeError(str(source), int(row), str(error)) from error
        results = self._decoder.decode_regions(images, [(0, 0, image.height, image.width) for image in images])
        pixels = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, str):
                raise DecodeError(str(self.bank_source(int(row))), int(row), result)
            pixels.append(result)
        return pixels


def chosen_windows(
    transform: Transform,
    generated: Transform | None,
    keys: RowKeys,
    sizes: npt.NDArray[np.int64],
    replaced: npt.NDArray[np.bool_],
) -> Windows:
    """Each row's crop of its source: by ``transform``, or by ``generated`` (where given) for replaced rows.

    Args:
        sizes: ``[n, 2]`` height and width of each row's source.
    """
    windows = transform.windows(keys, sizes[:, 0], sizes[:, 1])
    if generated is None or not replaced.any():
        return windows
    if generated.output_size != transform.output_size:
        raise ValueError(
            f"generated_transform must give {transform.output_size} px as the transform does, got {generated.output_size}"
        )
    others = generated.windows(keys, sizes[:, 0], sizes[:, 1])
    each = replaced[:, None]
    return Windows(
        np.where(each, others.window, windows.window),
        np.where(each, others.offset, windows.offset),
        np.where(each, others.scale, windows.scale),
        np.where(replaced, others.flip, windows.flip),
    )


def finish(
    regions: Sequence[torch.Tensor],
    generated: torch.Tensor | None,
    source: npt.NDArray[np.int64],
    windows: Windows,
    real: Transform,
    style: Transform,
    out: torch.Tensor,
) -> torch.Tensor:
    """Write the batch: see :func:`dali_icgan.ops.assemble`; ``real`` and ``style`` give the normalisation of the two kinds of rows."""
    return assemble(
        regions,
        generated,
        source=source,
        window=windows.window,
        offset=windows.offset,
        scale=windows.scale,
        flip=windows.flip,
        real_mean=real.mean,
        real_std=real.std,
        generated_mean=style.mean,
        generated_std=style.std,
        out=out,
    )


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _probability(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1] or a function of the epoch, got {value!r}")
