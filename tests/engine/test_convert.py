import pytest
import torch

from dali_icgan.engine import convert, load_extractor, load_generator
from dali_icgan.models.resnet import ResNet, ResNetConfig
from tests.golden import own
from tests.untrained import FOLDER


def test_a_generator_loads_back_bit_for_bit(tmp_path):
    golden = own("cc_res64")
    state = {f"module.{k}": t.float() for k, t in golden["state_dict"].items()}
    torch.save(state, tmp_path / "G_ema_best0.pth")
    written = convert(tmp_path / "G_ema_best0.pth", tmp_path / "own.safetensors")
    before, after = (load_generator(tmp_path / name, "cpu") for name in ("G_ema_best0.pth", "own.safetensors"))
    assert after.fingerprint == before.fingerprint == written.fingerprint
    assert after.config == before.config
    assert after.source == str(tmp_path / "own.safetensors")
    assert torch.equal(after(golden["z"], golden["h"], golden["y"]), before(golden["z"], golden["h"], golden["y"]))


def test_an_extractor_keeps_its_notice_though_its_heads_go(tmp_path):
    torch.manual_seed(0)
    state = ResNet(ResNetConfig("basic", (1, 1), 4)).state_dict() | {"prototypes.weight": torch.zeros(3, 2)}
    torch.save(state, tmp_path / "swav.pth.tar")
    written = convert(tmp_path / "swav.pth.tar", tmp_path / "own.safetensors")
    assert written.kind == "extractor"
    assert convert(tmp_path / "own.safetensors", tmp_path / "again.safetensors").notice == written.notice != ""
    before, after = (
        load_extractor(tmp_path / name, "cpu", resolution=32) for name in ("swav.pth.tar", "again.safetensors")
    )
    assert after.fingerprint == before.fingerprint
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(after(images), before(images))


def test_an_untrained_one_stays_labelled(tmp_path):
    convert(FOLDER / "generator.safetensors", tmp_path / "x.safetensors")
    assert not load_generator(tmp_path / "x.safetensors", "cpu").trained


def test_what_cannot_be_converted(tmp_path):
    torch.save({"param_groups": [], "state": {}}, tmp_path / "G_optim_best0.pth")
    with pytest.raises(ValueError, match="must be an IC-GAN generator, got an optimiser's state"):
        convert(tmp_path / "G_optim_best0.pth", tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
        convert("embedded", tmp_path / "x.pth")
    assert not list(tmp_path.glob("*.safetensors"))
