"""Datasets, their order, reading and decoding."""

from dali_icgan.data.dataset import Samples, as_samples
from dali_icgan.data.decode import ImageDecoder

__all__ = ["ImageDecoder", "Samples", "as_samples"]
