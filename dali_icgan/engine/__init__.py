"""Models for inference."""

from dali_icgan.engine.convert import convert
from dali_icgan.engine.extractor import Extractor, load_extractor
from dali_icgan.engine.generator import Generator, load_generator

__all__ = ["Extractor", "Generator", "convert", "load_extractor", "load_generator"]
