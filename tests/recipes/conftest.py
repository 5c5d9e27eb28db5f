import pytest
import torch

import dali_icgan as di
from tests.photos import make_folder
from tests.untrained import FOLDER as MODELS


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """train: 3 classes of 16 images; val: of 5."""
    root = tmp_path_factory.mktemp("photos")
    make_folder(root / "train", 16)
    make_folder(root / "val", 5)
    return root


@pytest.fixture(scope="session")
def bank(root):
    extractor = di.load_extractor(MODELS / "extractor.safetensors", device="cpu", resolution=32)
    path = root / "bank"
    di.FeatureBank.build(root / "train", extractor, path, batch_size=8, progress=False)
    return path


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small only wait for each other on more; the suite's conftest puts torch's own number back."""
    torch.set_num_threads(1)
