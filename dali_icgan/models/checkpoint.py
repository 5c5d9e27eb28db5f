"""Reads and writes the files of generators and extractors, official and our own, without running anything in them.

Whatever the file calls its tensors, what comes out has the names of :class:`ICGenerator` or :class:`ResNet`, every tensor is
accounted for, and the architecture is read off the shapes. What is ambiguous is refused with the reason.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dali_icgan.documents import shown
from dali_icgan.models import inert_pickle
from dali_icgan.models.generator import GeneratorConfig, ICGenerator, count_parameters
from dali_icgan.models.resnet import ResNet, ResNetConfig
from dali_icgan.models.torch_file import read_torch

Source = str | os.PathLike[str] | Mapping[str, Any]
Config = TypeVar("Config", GeneratorConfig, ResNetConfig)

_GENERATOR_NOTICE = (
    "has the architecture of a released IC-GAN generator: those weights are CC BY-NC 4.0, for non-commercial use only"
)
_SWAV_NOTICE = "holds SwAV's weights: they are CC BY-NC 4.0, for non-commercial use only"
# (resolution, channels) of the released BigGAN-backbone models.
_RELEASED = {(256, 96), (256, 64), (256, 48), (128, 96), (128, 64), (128, 48), (64, 64)}
_WANTED = {"generator": "G_ema_best0.pth", "extractor": "swav_800ep_pretrain.pth.tar or resnet50-19c8e357.pth"}


@dataclass(frozen=True)
class Checkpoint(Generic[Config]):
    """The tensors of one model under their own names, complete and of the right shapes, on the CPU.

    Attributes:
        kind: "generator" or "extractor".
        config: the architecture.
        tensors: float32, or float64 where the file has that.
        source: where they came from, for people.
        trained: False for weights that are random on purpose.
        notice: what the user must know about the weights' licence, or "".
    """

    kind: str
    config: Config
    tensors: dict[str, Tensor] = field(repr=False)
    source: str
    trained: bool = True
    notice: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over architecture, names, shapes, types and values: equal for every file of the same model."""
        digest = hashlib.sha256(_config_json(self.config).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).numpy().data)
        return digest.hexdigest()

    @property
    def parameters_count(self) -> int:
        """Numbers that training learns."""
        if self.kind == "generator":
            return count_parameters(self.tensors)
        return sum(t.numel() for name, t in self.tensors.items() if "running_" not in name)


@dataclass(frozen=True)
class StoredInstances:
    """The official file of stored instances: features ``[n, d]``, labels ``[n]`` int64, and the images they came from."""

    features: Tensor
    labels: Tensor
    paths: tuple[str, ...]


def read_generator(source: Source) -> Checkpoint[GeneratorConfig]:
    """A generator from an official ``G_ema_best0.pth``, a file of our own, a state dict, or ``"embedded"``.

    Raises:
        ValueError: the file is of another kind, its architecture is ambiguous, or keys are missing, unknown or misshaped; all named.
        FileNotFoundError: there is no such file.
    """
    return _generator(_open(source, "generator"))


def read_extractor(source: Source) -> Checkpoint[ResNetConfig]:
    """A ResNet trunk from torchvision's, SwAV's or ImageNet-LT's file, one of our own, a state dict, or ``"embedded"``.

    Raises:
        ValueError, FileNotFoundError: as of :func:`read_generator`.
    """
    return _extractor(_open(source, "extractor"))


def read_checkpoint(source: Source) -> Checkpoint[GeneratorConfig] | Checkpoint[ResNetConfig]:
    """A generator or an extractor, whichever it is."""
    content = _open(source, "generator")
    return _extractor(content) if _kind(content.entries) == "extractor" else _generator(content)


def read_run_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an official ``state_dict_best0.pth`` says of its run: iteration, best FID, configuration; activations by their name.

    Raises:
        ValueError: the file is not run metadata, or holds an object that is not on the allow-list; the message names it.
    """
    content = _open(path, "generator")
    if _kind(content.entries) != "run metadata":
        raise ValueError(
            f"{content.name} must be run metadata (state_dict_best0.pth), got {_describe(content.entries)}"
        )
    return dict(content.entries)


def read_stored_instances(path: str | os.PathLike[str]) -> StoredInstances:
    """The official ``*_instance_features.npy``: a pickled dictionary, read without running it.

    Raises:
        ValueError: the file is not such a dictionary, or holds an object that is not on the allow-list; the message names it.
    """
    path = _existing(path)
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
            shape, _, dtype = read_header(stream)
        except Exception as error:  # NumPy has a damaged header compiled, which fails in any way at all
            raise ValueError(f"{path} must be a .npy file, and its header is not one: {error}") from error
        if shape != () or not dtype.hasobject:
            raise ValueError(
                f"{path} must hold one pickled dictionary, got an array of {dtype} and shape {list(shape)}"
            )
        try:
            content = inert_pickle.load(stream)
        except inert_pickle.Refused as error:
            raise ValueError(f"{path} was refused, nothing in it was run: {error}") from error
    wanted = ("instance_features", "labels", "image_path")
    if not isinstance(content, dict) or not set(wanted) <= set(content):
        got = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold a dictionary with {', '.join(wanted)}, got {got}")
    try:
        features = torch.from_numpy(np.array(content["instance_features"], dtype=np.float32))
        labels = torch.from_numpy(np.array(content["labels"], dtype=np.int64))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} must hold numbers as instance_features and labels: {error}") from error
    try:
        paths = tuple(str(p) for p in np.array(content["image_path"]).reshape(-1))
    except ValueError as error:
        raise ValueError(f"{path} must hold words as image_path: {error}") from error
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(paths) != len(features):
        raise ValueError(
            f"{path} must hold features [n, d], n labels and n paths, got {list(features.shape)}, {list(labels.shape)}, {len(paths)}"
        )
    return StoredInstances(features, labels, paths)


def write_checkpoint(
    path: str | os.PathLike[str], checkpoint: Checkpoint[Any], dtype: torch.dtype | None = None
) -> None:
    """Write a safetensors file of our own: reading it gives the same checkpoint.

    Args:
        path: where to; must end in ``.safetensors``. Written whole or not at all.
        checkpoint: what to write.
        dtype: of the tensors in the file; None keeps theirs. float16 halves the file, and rounds.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    # One entry: the order of several is not kept, and equal models should give equal files.
    metadata = {
        "kind": checkpoint.kind,
        "config": asdict(checkpoint.config),
        "trained": checkpoint.trained,
        "notice": checkpoint.notice,
        "source": checkpoint.source,
        "source_fingerprint": checkpoint.fingerprint,
    }
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, each in checkpoint.tensors.items():
        tensor = each.to(dtype or each.dtype).contiguous()
        address = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if address in memory else tensor  # safetensors writes no memory twice
        memory.add(address)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(save(tensors, {"dali_icgan": json.dumps(metadata)}))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Content:
    name: str
    entries: Mapping[str, Any]
    own: Mapping[str, Any]  # what a file of our own says of itself; empty for every other


def _open(source: Source, kind: str) -> _Content:
    if isinstance(source, Mapping):
        return _Content("the given mapping", source, {})
    if source == "embedded":
        with resources.as_file(resources.files("dali_icgan.embedded") / f"{kind}.safetensors") as path:
            content = _read_safetensors(path)
        return replace(content, name="embedded")
    path = _existing(source)
    with path.open("rb") as stream:
        head = stream.read(16)
    if head[:2] == b"\x1f\x8b" or path.name.endswith((".tar.gz", ".tgz")):
        raise ValueError(f"{path} is a compressed archive: extract it and give the {_WANTED[kind]} inside")
    if head[:6] == b"\x93NUMPY":
        raise ValueError(f"{path} is a NumPy array (stored instances?), not a model: {_WANTED[kind]} is wanted")
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_torch(path)


def _existing(source: Any) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source must be a path, a state dict or 'embedded', got {type(source).__name__}")
    path = Path(source)
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("G_ema*.pth"))
        raise ValueError(f"{path} is a folder, give a file in it{': ' + ', '.join(inside) if inside else ''}")
    if not path.is_file():
        raise FileNotFoundError(f'a checkpoint must be an existing file or "embedded", and there is no {path}')
    return path


def _read_safetensors(path: Path) -> _Content:
    try:
        with safe_open(path, "pt") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            own = json.loads((file.metadata() or {}).get("dali_icgan", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged safetensors file: {error}") from error
    if (
        not isinstance(own, dict)
        or type(own.get("trained", True)) is not bool
        or type(own.get("notice", "")) is not str
    ):
        raise ValueError(f"{path} has damaged metadata: {shown(own)}")
    return _Content(str(path), entries, own)


def _read_torch(path: Path) -> _Content:
    loaded = read_torch(path)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} must hold a state dict, got {type(loaded).__name__}")
    return _Content(str(path), loaded, {})


def _kind(entries: Mapping[str, Any]) -> str:
    """What a checkpoint's entries are: a word of :func:`_describe`."""
    keys = {str(k).removeprefix("module.") for k in entries}
    if "state_dict_best" in keys or isinstance(entries.get("state_dict"), Mapping):
        return _kind(_nested(entries))
    if {"state", "param_groups"} <= keys:
        return "optimiser state"
    if keys & {"best_FID", "best_IS", "save_best_num", "config"}:
        return "run metadata"
    if any(
        k.startswith(("shared_feat.", "output_layer.")) or re.fullmatch(r"blocks\.\d+\.0\.bn1\.gain\.weight", k)
        for k in keys
    ):
        return "generator"
    if "blocks.0.0.conv1.weight" in keys:
        return "discriminator"
    if any(k.startswith(("layer1.0.", "layer2.0.")) for k in keys):
        return "extractor"
    return "unknown"


def _describe(entries: Mapping[str, Any]) -> str:
    kind = _kind(entries)
    if kind == "unknown":
        some = ", ".join(sorted(map(str, entries))[:4])
        return f"something else (its entries: {some}, ...)" if some else "nothing (it is empty)"
    return {
        "generator": "a generator",
        "extractor": "a ResNet",
        "discriminator": "a discriminator (D_*.pth)",
        "optimiser state": "an optimiser's state (G_optim_*.pth or D_optim_*.pth)",
        "run metadata": "run metadata (state_dict_*.pth)",
    }[kind]


def _nested(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a training checkpoint; ImageNet-LT's keeps the trunk apart from the classifier."""
    best = entries.get("state_dict_best")
    inner = best.get("feat_model") if isinstance(best, Mapping) else entries.get("state_dict")
    return inner if isinstance(inner, Mapping) else {}


def _demand(content: _Content, kind: str) -> None:
    if _kind(content.entries) != kind:
        article = "an IC-GAN generator" if kind == "generator" else "a ResNet extractor"
        raise ValueError(
            f"{content.name} must be {article}, got {_describe(content.entries)}: {_WANTED[kind]} is wanted"
        )


def _tensors(content: _Content) -> dict[str, Tensor]:
    entries = content.entries
    if not any(isinstance(value, Tensor) for value in entries.values()):
        entries = _nested(entries)
    tensors: dict[str, Tensor] = {}
    for key, value in entries.items():
        # DistributedDataParallel's prefix.
        name = str(key).removeprefix("module.")
        if not isinstance(value, Tensor):
            raise ValueError(f"{content.name}: {key} must be a tensor, got {type(value).__name__}")
        if name in tensors:
            raise ValueError(f"{content.name}: {name} is there twice, with and without the prefix module.")
        tensors[name] = value.detach().cpu()
    return tensors


def _generator(content: _Content) -> Checkpoint[GeneratorConfig]:
    _demand(content, "generator")
    tensors = _canonical_norms(content, _tensors(content))
    config = _own_config(content, GeneratorConfig) or _infer_generator(content.name, tensors)
    tensors = _check(content.name, tensors, ICGenerator(config, device="meta").state_dict())
    official = (config.feature_dim, config.shared_dim, config.shared_dim_feat) == (2048, 128, 512)
    released = official and (config.resolution, config.channels) in _RELEASED
    notice = content.own.get("notice", _GENERATOR_NOTICE if released else "")
    return Checkpoint("generator", config, tensors, content.name, content.own.get("trained", True), notice)


def _extractor(content: _Content) -> Checkpoint[ResNetConfig]:
    _demand(content, "extractor")
    tensors = _tensors(content)
    swav = any(k.startswith(("projection_head.", "prototypes.")) for k in tensors)
    # Heads are no part of the trunk, and counters do not enter its arithmetic.
    heads = ("fc.", "projection_head.", "prototypes.")
    tensors = {k: t for k, t in tensors.items() if not k.startswith(heads) and not k.endswith("num_batches_tracked")}
    config = _own_config(content, ResNetConfig) or _infer_resnet(content.name, tensors)
    wanted = ResNet(config, device="meta").state_dict()
    wanted = {k: t for k, t in wanted.items() if not k.endswith("num_batches_tracked")}
    notice = content.own.get("notice", _SWAV_NOTICE if swav else "")
    tensors = _check(content.name, tensors, wanted)
    return Checkpoint("extractor", config, tensors, content.name, content.own.get("trained", True), notice)


def _own_config(content: _Content, config: type[Config]) -> Config | None:
    """The architecture that a file of our own states; None for every other file."""
    if not content.own:
        return None
    try:
        made = config(**content.own["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{content.name} has damaged metadata: {error}") from error
    if isinstance(made, ResNetConfig) and sum(made.depths) > len(content.entries):
        raise ValueError(f"{content.name} has damaged metadata: more blocks than tensors, {sum(made.depths)}")
    return made


def _config_json(config: Any) -> str:
    return json.dumps(asdict(config), sort_keys=True)


def _canonical_norms(content: _Content, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Generators trained with synchronised or standing batch norm, under the names of the plain one."""
    names = {
        "running_mean": "stored_mean",
        "running_var": "stored_var",
        "stored_mean": "stored_mean",
        "stored_var": "stored_var",
        "weight": "gain",
        "bias": "bias",
    }
    canonical: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        inner = re.fullmatch(r"(blocks\.\d+\.0\.bn[12]|output_layer\.0)\.bn\.(\w+)", key)
        if inner and inner[2] in ("num_batches_tracked", "accumulation_counter"):
            continue
        name = key
        if inner and inner[2] in names:
            name = f"{inner[1]}.{names[inner[2]]}"
            counter = tensors.get(f"{inner[1]}.bn.accumulation_counter")
            if counter is not None and inner[2].startswith("stored_") and counter.item() > 1:
                # Standing statistics are kept as sums over this many batches.
                tensor = tensor / counter
        if name in canonical or (name != key and name in tensors):
            raise ValueError(f"{content.name}: {name} is there twice, under two naming schemes")
        canonical[name] = tensor
    return canonical


def _infer_generator(source: str, tensors: dict[str, Tensor]) -> GeneratorConfig:
    read = {
        "shared.weight": 2,
        "shared_feat.weight": 2,
        "linear.weight": 2,
        "blocks.0.0.bn1.gain.weight": 2,
        "output_layer.2.weight": 4,
    }
    missing = [f"{name} is missing" for name in read if name not in tensors]
    flat = [
        f"{name} must have {rank} axes, got {list(tensors[name].shape)}"
        for name, rank in read.items()
        if name in tensors and tensors[name].ndim != rank
    ]
    if missing or flat:
        plain_biggan = all(not k.startswith("shared_feat.") for k in tensors)
        hint = " (a BigGAN without instance conditioning?)" if plain_biggan else ""
        raise ValueError(f"{source}: the architecture cannot be read{hint}: {'; '.join(missing + flat)}")
    blocks = 1 + max(int(m[1]) for k in tensors if (m := re.match(r"blocks\.(\d+)\.", k)))
    resolution = GeneratorConfig.resolution_from_blocks(blocks)
    if resolution is None:
        raise ValueError(f"{source} must have 3, 4, 5 or 6 blocks (32, 64, 128 or 256 pixels), got {blocks}")
    last = tensors["output_layer.2.weight"].shape[1]
    channels = GeneratorConfig.channels_from_output(resolution, last)
    if not channels:
        raise ValueError(
            f"{source}: output_layer.2.weight has {last} input channels, which no width gives at {resolution} pixels"
        )
    n_classes, shared_dim = tensors["shared.weight"].shape
    shared_dim_feat, feature_dim = tensors["shared_feat.weight"].shape
    chunk = tensors["linear.weight"].shape[1]
    # What the conditional batch norms read beside the feature's embedding.
    beside = tensors["blocks.0.0.bn1.gain.weight"].shape[1] - shared_dim_feat
    readings = {
        (False, False): 0,
        (False, True): chunk,
        (True, False): shared_dim,
        (True, True): shared_dim + chunk,
    }
    fitting = [reading for reading, columns in readings.items() if columns == beside]
    if len(fitting) != 1:
        names = ("plain", "class-conditional"), ("not hierarchical", "hierarchical")
        listed = ", ".join(
            f"{names[0][cc]} and {names[1][hier]}: {columns}" for (cc, hier), columns in readings.items()
        )
        raise ValueError(
            f"{source} is {'ambiguous' if fitting else 'none that is known'}: blocks.0.0.bn1.gain.weight reads {beside} columns "
            f"beside the feature's {shared_dim_feat} ({listed})"
        )
    class_conditional, hierarchical = fitting[0]
    attention = tuple(8 << i for i in range(blocks) if f"blocks.{i}.1.gamma" in tensors)
    return GeneratorConfig(
        resolution=resolution,
        channels=channels,
        z_chunk=chunk,
        feature_dim=feature_dim,
        shared_dim_feat=shared_dim_feat,
        n_classes=n_classes,
        shared_dim=shared_dim,
        class_conditional=class_conditional,
        hierarchical=hierarchical,
        attention=attention,
    )


def _infer_resnet(source: str, tensors: dict[str, Tensor]) -> ResNetConfig:
    stem = tensors.get("conv1.weight")
    if stem is None or stem.ndim != 4:
        raise ValueError(f"{source}: the architecture cannot be read: conv1.weight must be there with 4 axes")
    if stem.shape[2:] != (7, 7):
        raise ValueError(
            f"{source} is ambiguous: conv1.weight is {list(stem.shape[2:])}, and only a 7x7 stem tells its stride and input size"
        )
    indices = [tuple(map(int, m.groups())) for k in tensors if (m := re.match(r"layer(\d+)\.(\d+)\.", k))]
    blocks = {stage: {i for s, i in indices if s == stage} for stage in sorted({stage for stage, _ in indices})}
    gaps = [stage for stage, found in blocks.items() if max(found) + 1 != len(found)]
    if gaps or [*blocks] != [*range(1, len(blocks) + 1)]:
        where = f"layer{gaps[0]}" if gaps else ", ".join(f"layer{stage}" for stage in blocks)
        raise ValueError(
            f"{source}: the architecture cannot be read: blocks must follow one another, got gaps in {where:.80}"
        )
    return ResNetConfig(
        block="bottleneck" if "layer1.0.conv3.weight" in tensors else "basic",
        depths=tuple(len(found) for found in blocks.values()),
        width=stem.shape[0],
    )


def _check(source: str, tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every wanted tensor, in the wanted order, in float32 or float64; all that is wrong in one message."""
    wrong = [
        *_listed("missing", sorted(wanted.keys() - tensors.keys())),
        *_listed("unknown", sorted(tensors.keys() - wanted.keys())),
        *_listed(
            "misshaped",
            (
                f"{name} must be {list(t.shape)}, got {list(tensors[name].shape)}"
                for name, t in wanted.items()
                if name in tensors and tensors[name].shape != t.shape
            ),
        ),
        *_listed("not floating point", (k for k in wanted if k in tensors and not tensors[k].is_floating_point())),
    ]
    if wrong:
        raise ValueError(f"{source} does not fit: {'; '.join(wrong)}")
    checked = {name: tensors[name].to(torch.promote_types(tensors[name].dtype, torch.float32)) for name in wanted}
    if damaged := [name for name, t in checked.items() if not t.isfinite().all()]:
        raise ValueError(f"{source} does not fit: {'; '.join(_listed('not finite', damaged))}")
    return checked


def _listed(what: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{what}: {', '.join(names)}"] if names else []
