"""Models and their checkpoints."""

import os
import pickle
import tempfile

import pytest
import timm
import torch
from safetensors.torch import save_file

from dali_icgan.evaluate.model import load_model
from tests.untrained import FOLDER


def images(rows):
    return torch.randn(rows, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_logits_and_features_are_timms(checkpoint, model):
    reference = timm.create_model("test_resnet").eval()
    reference.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    x = images(model.rows)
    with torch.inference_mode():
        assert torch.equal(model.logits(x), reference(x))
        pooled = reference.global_pool(reference.forward_features(x))
        assert torch.equal(model.features(x), pooled)
    assert (model.classes, model.mean) == (1000, (0.5, 0.5, 0.5))


def test_files_and_ways_to_name_them(checkpoint, tmp_path, model):
    state = torch.load(checkpoint, weights_only=True)["model"]
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.safetensors")
    for name in ("timm:test_resnet@", "test_resnet@"):
        again = load_model(f"{name}{tmp_path / 'a.safetensors'}", None, "cpu")
        assert again.digest == model.digest
    with pytest.raises(ValueError, match="checkpoint must be given once"):
        load_model(f"test_resnet@{checkpoint}", checkpoint, "cpu")


def test_classes_are_the_files(tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "seven.pth")
    assert load_model("test_resnet", tmp_path / "seven.pth", "cpu").classes == 7


def test_a_file_without_a_classifier_has_features(tmp_path, model):
    state = timm.create_model("test_resnet").state_dict()
    torch.save(
        {n: t for n, t in state.items() if not n.startswith("fc.")} | {"projector.weight": torch.ones(3)},
        tmp_path / "f.pth",
    )
    found = load_model("test_resnet", tmp_path / "f.pth", "cpu")
    assert found.classes == 0
    assert found.features(images(model.rows)).shape == (model.rows, 96)


EXECUTED = os.path.join(tempfile.gettempdir(), f"executed-by-{os.getpid()}")


class Evil:
    def __reduce__(self):
        return os.mkdir, (EXECUTED,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(Evil()), "must be safetensors or a file of tensors that torch saved"),
        (b"", "must be safetensors or a file of tensors that torch saved"),
        (b"something else", "must be safetensors or a file of tensors that torch saved"),
    ],
)
def test_files_that_are_none(tmp_path, content, said):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        load_model("test_resnet", tmp_path / "bad.pth", "cpu")
    assert not os.path.exists(EXECUTED)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="must be safetensors or a file of tensors"):
        load_model("test_resnet", tmp_path / "evil.pth", "cpu")
    assert not os.path.exists(EXECUTED)


def test_another_architectures_file(checkpoint):
    said = r"must be a checkpoint of timm's test_vit, got one without \d+ of its tensors, such as cls_token$"
    with pytest.raises(ValueError, match=said):
        load_model("timm:test_vit", checkpoint, "cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: {**state, "extra": torch.ones(3)}, "1 tensors that it has not, such as extra"),
        (
            lambda state: {**state, "conv1.0.weight": torch.ones(5)},
            r"1 tensors of other shapes, such as conv1.0.weight of \[5\] and not \[",
        ),
    ],
)
def test_tensors_that_do_not_fit(checkpoint, tmp_path, change, said):
    state = torch.load(checkpoint, weights_only=True)["model"]
    torch.save(change(state), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=f"must be a checkpoint of timm's test_resnet, got {said}"):
        load_model("test_resnet", tmp_path / "bad.pth", "cpu")


@pytest.mark.parametrize(
    ("name", "dtype", "error", "said"),
    [
        ("timm:no_such_net", "float32", ValueError, "model must be one of timm .* got 'no_such_net'$"),
        ("timm:resnet_50", "float32", ValueError, r"got 'resnet_50'; did you mean resnet50\?"),
        ("test_resnet@/none.pth", "float32", FileNotFoundError, "checkpoint must be a file, got /none.pth"),
        ("test_resnet@/none.pth", "int8", ValueError, "dtype must be one of float32, float16, bfloat16, got 'int8'"),
    ],
)
def test_what_there_is_not(name, dtype, error, said):
    with pytest.raises(error, match=said):
        load_model(name, None, "cpu", dtype)


def test_the_packages_own_extractor():
    model = load_model(f"extractor:{FOLDER / 'extractor.safetensors'}", None, "cpu", resolution=32)
    assert model.classes == 0
    found = model.features(torch.rand(model.rows, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (model.rows, 128)
    assert found.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="model must have classes"):
        model.logits(images(model.rows))
