"""Train vision models with generative data augmentation: JPEG files in, DA_IC-GAN batches out."""

from dali_icgan._native import build_info
from dali_icgan.errors import DecodeError, DeviceError

__all__ = ["DecodeError", "DeviceError", "build_info"]
