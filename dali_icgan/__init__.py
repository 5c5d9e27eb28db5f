"""Train vision models with generative data augmentation: JPEG files in, DA_IC-GAN batches out.

``from dali_icgan import DataLoader`` replaces torch's. See :class:`DataLoader` and :class:`DAICGAN`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_icgan import fn
    from dali_icgan._native import build_info
    from dali_icgan.augment import DAICGAN, EvalTransform, FeatureBank, TrainTransform
    from dali_icgan.engine import Extractor, Generator, load_extractor, load_generator
    from dali_icgan.errors import DecodeError, DeviceError, RankError
    from dali_icgan.loader import DataLoader

__all__ = [
    "DAICGAN",
    "DataLoader",
    "DecodeError",
    "DeviceError",
    "EvalTransform",
    "Extractor",
    "FeatureBank",
    "Generator",
    "RankError",
    "TrainTransform",
    "build_info",
    "fn",
    "load_extractor",
    "load_generator",
]
__version__ = "0.1.0"

_MODULES = {
    "DAICGAN": "augment",
    "DataLoader": "loader",
    "DecodeError": "errors",
    "DeviceError": "errors",
    "EvalTransform": "augment",
    "Extractor": "engine",
    "FeatureBank": "augment",
    "Generator": "engine",
    "RankError": "errors",
    "TrainTransform": "augment",
    "build_info": "_native",
    "fn": "fn",
    "load_extractor": "engine",
    "load_generator": "engine",
}


def __getattr__(name: str) -> Any:
    # Names come when they are asked for: importing torch takes seconds, and a command's --help needs none of it.
    if name not in _MODULES:
        raise AttributeError(f"module 'dali_icgan' has no attribute {name!r}")
    module = importlib.import_module(f"dali_icgan.{_MODULES[name]}")
    value = module if name == _MODULES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
