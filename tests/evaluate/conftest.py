import pytest
import timm
import torch

from dali_icgan.evaluate.model import load_model
from dali_icgan.evaluate.rows import How
from dali_icgan.evaluate.sets import imagenet_classes
from tests import photos


def fill(folder, images, seed=0):
    """So many JPEGs in a new folder."""
    folder.mkdir(parents=True)
    for i in range(images):
        number = 10 * seed + i
        (folder / f"{i}.jpg").write_bytes(photos.jpeg(photos.patch(photos.NAMES[number % 3], number)))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """timm's test_resnet with random weights; it answers with one of ImageNet's first 12 classes, sometimes rightly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_resnet")
    with torch.no_grad():
        model.fc.weight.mul_(40)
        model.fc.bias[12:] = -60
    path = tmp_path_factory.mktemp("model") / "a.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def validation(tmp_path_factory):
    """Five images of each of ImageNet's first 8 classes."""
    root = tmp_path_factory.mktemp("imagenet") / "val"
    for number, name in enumerate(list(imagenet_classes())[:8]):
        fill(root / name, 5, number)
    return root


@pytest.fixture(scope="session")
def model(checkpoint):
    return load_model("timm:test_resnet", checkpoint, "cpu")


@pytest.fixture
def how(model):
    return How(model, 64, 64, batch_size=16, progress=False)
