"""The model that is evaluated: one of timm's with a checkpoint, or an extractor of this package."""

import hashlib
from abc import ABC, abstractmethod
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dali_icgan.engine import Extractor, load_extractor
from dali_icgan.engine.placement import resolve_device

# Rows of every call, the last one padded: libraries choose kernels by shape, and a row's bits must not depend on how many others there are.
_ROWS = {"cpu": 32, "cuda": 256}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Model(ABC):
    """What an evaluation asks of a model.

    Attributes:
        name: as it was asked for.
        digest: SHA-256 of what its weights are, in hex.
        classes: columns of its logits; 0: it has features alone.
        mean, std: how its input is normalised, of pixels in [0, 1].
        device, dtype: where it runs, and of what its input is.
        rows: images of every call, exactly.
    """

    name: str
    digest: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        return _ROWS[self.device.type]

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """``[rows, classes]`` of normalised images ``[rows, 3, h, w]``."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Pooled features ``[rows, dim]``, before the classifier, of any length."""


class TimmModel(Model):
    """A model of timm's. Features are ``forward_features`` and the pooling of ``forward_head(..., pre_logits=True)``.

    Args:
        architecture: timm's name.
        checkpoint: safetensors, or what torch saved; read without executing anything. None: the weights that timm has for the name.

    Raises:
        ValueError: the checkpoint cannot be read as one of this architecture; the message says what is missing.
    """

    def __init__(
        self, architecture: str, checkpoint: Path | None, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        timm = _timm()
        if not timm.is_model(architecture):
            near = "".join(f"; did you mean {each}?" for each in get_close_matches(architecture, timm.list_models(), 1))
            raise ValueError(f"model must be one of timm {timm.__version__}, got {architecture!r}{near}")
        if checkpoint is None:
            net = timm.create_model(architecture, pretrained=True)
        else:
            net = timm.create_model(architecture, pretrained=False, num_classes=0)
            state = _read(checkpoint)
            head = f"{net.pretrained_cfg.get('classifier')}.weight"
            if head in state:
                net = timm.create_model(architecture, pretrained=False, num_classes=len(state[head]))
            else:  # of a self-supervised training, say
                state = {name: tensor for name, tensor in state.items() if name in net.state_dict()}
            strange = _strange(net.state_dict(), state)
            if strange:
                raise ValueError(f"{checkpoint} must be a checkpoint of timm's {architecture}, got {strange}")
            net.load_state_dict(state)
        self.name = f"timm:{architecture}" + ("" if checkpoint is None else f"@{checkpoint}")
        self.digest = _digest(net.state_dict())
        self.classes = net.num_classes
        self.mean, self.std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
        self.device, self.dtype = device, dtype
        self._net = net.to(device, dtype).eval()

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self._net(images)
            return found

    def features(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self._net.forward_head(self._net.forward_features(images), pre_logits=True)
            return found.flatten(1)


class ExtractorModel(Model):
    """An extractor that ``dali-icgan train`` made, or an official one: features of unit length, no classes.

    Args:
        source: a checkpoint, or "embedded".
        resolution: at which images are seen before they are enlarged, in pixels.
    """

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # it normalises by itself
    classes = 0

    def __init__(self, source: str, resolution: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._extractor: Extractor = load_extractor(source, device, dtype, resolution=resolution)
        self.name = f"extractor:{source}"
        self.digest = self._extractor.fingerprint
        self.device, self.dtype = device, dtype
        self._extractor.prepare(self.rows)

    def logits(self, images: Tensor) -> Tensor:
        raise ValueError(f"model must have classes, got {self.name}, which has features alone")

    def features(self, images: Tensor) -> Tensor:
        return self._extractor(images.clamp(0, 1))


def load_model(
    name: str, checkpoint: Path | None, device: str | None, dtype: str = "float32", resolution: int = 224
) -> Model:
    """What ``--model`` and ``--checkpoint`` name.

    Args:
        name: ``timm:NAME``, ``timm:NAME@CHECKPOINT``, ``NAME`` alone, or ``extractor:FILE`` (``extractor:embedded``).
        checkpoint: in place of @CHECKPOINT.
        dtype: "float32", "float16" or "bfloat16".
        resolution: of an extractor, in pixels.

    Raises:
        ValueError: there is no such model, or the checkpoint is not its own.
        FileNotFoundError: the checkpoint is missing.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    where = resolve_device(device)
    if name.startswith("extractor:"):
        if checkpoint is not None:
            raise ValueError(f"model {name!r} names its file itself: --checkpoint must not be given, got {checkpoint}")
        return ExtractorModel(name.removeprefix("extractor:"), resolution, where, DTYPES[dtype])
    architecture, at, file = name.removeprefix("timm:").partition("@")
    if at and checkpoint is not None:
        raise ValueError(f"checkpoint must be given once, got {file} and {checkpoint}")
    return TimmModel(architecture, Path(file) if at else checkpoint, where, DTYPES[dtype])


def _read(path: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {path}, which is none")
    try:
        state = load_state_dict(str(path), use_ema=True, weights_only=True)
    except Exception as error:  # of pickle, zip, safetensors: each library has its own
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} must be safetensors or a file of tensors that torch saved, got: {said}") from error
    strange = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if strange or not state:
        raise ValueError(f"{path} must hold a model's tensors, got {strange[0] if strange else 'nothing'}")
    return state


def _strange(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What is wrong with a checkpoint's tensors; "" where they are the wanted ones."""
    missing, others = [n for n in wanted if n not in state], [n for n in state if n not in wanted]
    shaped = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    said = [f"one without {len(missing)} of its tensors, such as {missing[0]}"] if missing else []
    said += [f"{len(others)} tensors that it has not, such as {others[0]}"] if others else []
    for name in shaped[:1]:
        shapes = f"{list(state[name].shape)} and not {list(wanted[name].shape)}"
        said.append(f"{len(shaped)} tensors of other shapes, such as {name} of {shapes}")
    return "; ".join(said)


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ImportError(
            f"evaluations need {error.name}, which pip install 'dali-icgan[cu13,train]' brings"
        ) from error
    return timm
