"""Who is replaced by what, and how images become a batch."""

from dali_icgan.augment.bank import FeatureBank
from dali_icgan.augment.operator import DAICGAN
from dali_icgan.augment.transform import EvalTransform, TrainTransform

__all__ = ["DAICGAN", "EvalTransform", "FeatureBank", "TrainTransform"]
