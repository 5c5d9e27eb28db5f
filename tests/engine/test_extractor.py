import pytest
import torch

from dali_icgan.engine import load_extractor
from dali_icgan.models.resnet import ResNet, ResNetConfig
from dali_icgan.ops import prepare_features
from tests.engine.test_generator import other_company
from tests.models.test_resnet import torchvision_trunk
from tests.untrained import FOLDER

BOUNDS = {torch.float32: 1e-4, torch.float64: 1e-10}


@pytest.fixture(scope="module")
def embedded():
    return load_extractor("embedded", "cpu", resolution=32)


def photographs(n=5, seed=0):
    """uint8 [h, w, 3] of different sizes: smooth, so that resizing keeps something."""
    random = torch.Generator().manual_seed(seed)
    images = []
    for i in range(n):
        small = torch.rand(1, 3, 6, 6, generator=random)
        large = torch.nn.functional.interpolate(small, (40 + 3 * i, 50 - 2 * i), mode="bicubic")[0]
        images.append((large.permute(1, 2, 0).clamp(0, 1) * 255).to(torch.uint8))
    return images


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("block", "depths"), [("bottleneck", (1, 2, 1, 1)), ("basic", (1, 1, 1, 2))])
def test_the_trunk_equals_torchvision(block, depths, dtype):
    theirs = torchvision_trunk(block, depths)
    extractor = load_extractor(theirs.state_dict(), "cpu", dtype)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        want = theirs.double()(x.double())
    got = extractor.trunk(x)
    assert got.dtype == dtype
    assert (got - want).abs().max() < BOUNDS[dtype] * want.abs().max()


def test_a_narrow_trunk_equals_its_module():
    torch.manual_seed(0)
    config = ResNetConfig("bottleneck", (2, 1), 4)
    module = ResNet(config).train()
    module(torch.randn(4, 3, 64, 64))
    extractor = load_extractor(module.state_dict(), "cpu", torch.float64)
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        assert (extractor.trunk(x) - module.double().eval()(x)).abs().max() < 1e-10


def test_says_what_it_is(embedded):
    assert (embedded.dim, embedded.resolution, embedded.align_corners, embedded.input_size) == (128, 32, False, 32)
    assert (embedded.source, embedded.trained, embedded.device.type, embedded.dtype) == (
        "embedded",
        True,
        "cpu",
        torch.float32,
    )
    assert embedded.parameters_count > 100_000
    assert len(embedded.fingerprint) == 64
    assert "UNTRAINED" not in repr(embedded)
    assert "UNTRAINED" in repr(load_extractor(FOLDER / "extractor.safetensors", "cpu"))
    large = load_extractor(torchvision_trunk("bottleneck", (1, 1, 1, 1)).state_dict(), "cpu")
    assert (large.dim, large.resolution, large.input_size, large.trained) == (2048, None, 224, True)


@pytest.mark.parametrize("align_corners", [False, True])
def test_features_are_unit_rows_of_the_trunk(align_corners):
    extractor = load_extractor("embedded", "cpu", resolution=24, align_corners=align_corners)
    images = photographs()
    h = extractor(images)
    assert h.dtype == torch.float32
    assert (h.double().norm(dim=1) - 1).abs().max() < 1e-6
    pooled = extractor.trunk(
        prepare_features(images, resolution=24, input_size=32, align_corners=align_corners)
    ).double()
    assert (h - pooled / pooled.norm(dim=1, keepdim=True)).abs().max() < 1e-6


def test_resolution_and_corners_matter():
    images = photographs()
    features = [
        load_extractor("embedded", "cpu", resolution=r, align_corners=a)(images)
        for r, a in ((32, False), (16, False), (16, True))
    ]
    assert (features[0] - features[1]).abs().max() > 1e-2
    assert (features[1] - features[2]).abs().max() > 1e-3


def test_images_come_in_three_forms(embedded):
    image = photographs(1)[0][:40, :40]
    as_list = embedded([image, image])
    batch = image.permute(2, 0, 1).expand(2, -1, -1, -1)
    assert torch.equal(embedded(batch), as_list)
    assert (embedded(batch / 255) - as_list).abs().max() < 0.05  # not rounded to 8 bits in between
    assert embedded([]).shape == (0, 128)


def test_different_images_have_different_features(embedded):
    cosine = (h := embedded(photographs())) @ h.T
    assert cosine[~torch.eye(5, dtype=torch.bool)].max() < 0.98


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu_is_computed_in_float32(embedded, dtype):
    half = load_extractor("embedded", "cpu", dtype, resolution=32)
    assert half.dtype == dtype
    assert torch.equal(half(photographs()), embedded(photographs()))


def test_float64(embedded):
    exact = load_extractor("embedded", "cpu", torch.float64, resolution=32)
    assert exact(photographs()).dtype == torch.float32
    assert (exact(photographs()) - embedded(photographs())).abs().max() < 1e-5


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_nothing_around_it_changes_it(embedded, context):
    want = embedded(photographs())
    with context():
        got = embedded(photographs())
    assert torch.equal(got, want)
    assert not got.is_inference()
    assert not got.requires_grad


@pytest.mark.parametrize("name", ["embedded", "resnet"])
def test_a_row_depends_on_nothing_but_itself(name):
    extractor = load_extractor("embedded" if name == "embedded" else ResNet(ResNetConfig(width=8)).state_dict(), "cpu")
    side = extractor.input_size
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for m in (4, 32) if side < 64 else (4,):
            x = torch.randn(m, 3, side, side)
            moved, there, here = other_company(x, torch.randn_like(x))
            assert torch.equal(extractor.trunk(moved)[there], extractor.trunk(x)[here])


def test_at_resolution():
    extractor = load_extractor("embedded", "cpu")
    with pytest.raises(ValueError, match="resolution must be given: features depend on the generator's"):
        extractor(photographs())
    at_24 = extractor.at_resolution(24)
    assert (extractor.resolution, at_24.resolution, at_24.fingerprint) == (None, 24, extractor.fingerprint)
    assert torch.equal(at_24(photographs()), load_extractor("embedded", "cpu", resolution=24)(photographs()))
    assert at_24.at_resolution(24).resolution == 24
    with pytest.raises(ValueError, match="resolution must be 24, for which this extractor was loaded, got 32"):
        at_24.at_resolution(32)
    with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
        extractor.at_resolution(0)
    with pytest.raises(ValueError, match="resolution must be at least 1, got -1"):
        load_extractor("embedded", "cpu", resolution=-1)


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        (torch.zeros(2, 3, 32, 31), r"prepared must have shape \[n, 3, 32, 32\], got \[2, 3, 32, 31\]"),
        (torch.zeros(3, 32, 32), r"prepared must have shape \[n, 3, 32, 32\], got \[3, 32, 32\]"),
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            "prepared must be floating point on cpu, got torch.uint8 on cpu",
        ),
        (torch.zeros(2, 3, 32, 32, device="meta"), "prepared must be floating point on cpu, got torch.float32 on meta"),
    ],
)
def test_wrong_arguments_are_named(embedded, prepared, message):
    with pytest.raises(ValueError, match=message):
        embedded.trunk(prepared)
