import numpy as np
import pytest
import torch

import dali_icgan as di
from dali_icgan.data import as_samples
from dali_icgan.training.instances import MirroredExtractor
from tests.photos import make_folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """24 images of 3 classes."""
    return make_folder(tmp_path_factory.mktemp("training") / "photos")


@pytest.fixture(scope="session")
def samples(photos):
    return as_samples(photos)


@pytest.fixture(scope="session")
def banks(photos, extractor, tmp_path_factory):
    """Of the images and of the mirrored images."""
    at = extractor.at_resolution(32)
    root = tmp_path_factory.mktemp("training-banks")
    return tuple(
        di.FeatureBank.build(photos, each, root / name, dtype=torch.float32, progress=False)
        for name, each in (("plain", at), ("mirrored", MirroredExtractor(at)))
    )


@pytest.fixture(autouse=True)
def _numpy_warns_of_nothing():
    with np.errstate(all="raise", under="ignore"):
        yield
