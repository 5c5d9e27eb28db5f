"""The kernels: one module an op, with its function and its reference."""

from dali_icgan.ops.assemble import assemble
from dali_icgan.ops.image_header import ImageHeader, image_header
from dali_icgan.ops.permutation import permutation
from dali_icgan.ops.prepare_features import prepare_features
from dali_icgan.ops.random_resized_crop import random_resized_crop
from dali_icgan.ops.truncated_normal import truncated_normal
from dali_icgan.ops.uniform import randint, uniform
from dali_icgan.ops.unit_rows import unit_rows

__all__ = [
    "ImageHeader",
    "assemble",
    "image_header",
    "permutation",
    "prepare_features",
    "randint",
    "random_resized_crop",
    "truncated_normal",
    "uniform",
    "unit_rows",
]
