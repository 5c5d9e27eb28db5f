"""The kernels: one module an op, with its function and its reference."""

from dali_icgan.ops.add_upsampled_cbn_relu import add_upsampled_cbn_relu
from dali_icgan.ops.assemble import assemble
from dali_icgan.ops.attention import BoundAttention, attention, attention_workspace
from dali_icgan.ops.average_pool_normalize import average_pool_normalize
from dali_icgan.ops.bias_add_relu import bias_add_relu
from dali_icgan.ops.depth_to_space_cbn_relu import depth_to_space_cbn_relu
from dali_icgan.ops.image_header import ImageHeader, image_header
from dali_icgan.ops.instructions import instruction_sets
from dali_icgan.ops.permutation import permutation
from dali_icgan.ops.pool_qkv import pool_qkv
from dali_icgan.ops.prepare_features import prepare_features
from dali_icgan.ops.random_resized_crop import random_resized_crop
from dali_icgan.ops.tail import tail
from dali_icgan.ops.truncated_normal import truncated_normal
from dali_icgan.ops.uniform import randint, uniform
from dali_icgan.ops.unit_rows import unit_rows
from dali_icgan.ops.winograd import BoundConvolution, PackedConvolution

__all__ = [
    "BoundAttention",
    "BoundConvolution",
    "ImageHeader",
    "PackedConvolution",
    "add_upsampled_cbn_relu",
    "assemble",
    "attention",
    "attention_workspace",
    "average_pool_normalize",
    "bias_add_relu",
    "depth_to_space_cbn_relu",
    "image_header",
    "instruction_sets",
    "permutation",
    "pool_qkv",
    "prepare_features",
    "randint",
    "random_resized_crop",
    "tail",
    "truncated_normal",
    "uniform",
    "unit_rows",
]
