"""Train vision models with generative data augmentation: JPEG files in, DA_IC-GAN batches out.

``from dali_icgan import DataLoader`` replaces torch's. See :class:`DataLoader` and :class:`DAICGAN`.
"""

from dali_icgan._native import build_info
from dali_icgan.augment import DAICGAN, EvalTransform, FeatureBank, TrainTransform
from dali_icgan.engine import Extractor, Generator, load_extractor, load_generator
from dali_icgan.errors import DecodeError, DeviceError
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
    "TrainTransform",
    "build_info",
    "load_extractor",
    "load_generator",
]
__version__ = "0.1.0"
