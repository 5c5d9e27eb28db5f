import copy
import gc
import pickle
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from dali_icgan import ops
from dali_icgan.bench.eager import EagerExtractor
from dali_icgan.engine import Extractor, load_extractor
from dali_icgan.engine.forms import Forms
from dali_icgan.engine.trunk_cpu_plan import CpuTrunkPlan, CpuTrunkWeights, maximum_of_three, mean_of_pixels
from dali_icgan.engine.trunk_cuda_plan import CudaTrunkPlan, CudaTrunkWeights
from dali_icgan.engine.trunk_folding import fold_trunk
from dali_icgan.models.checkpoint import Checkpoint, read_extractor
from dali_icgan.models.resnet import ResNet, ResNetConfig

# 1 - cosine, against float64; the promise is 1e-4 in float32 and 1e-3 in half precision.
BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-10, torch.float16: 1e-5, torch.bfloat16: 1e-3}
# Both kinds of block, stems with and without stride and maximum, widths beside the vectors', odd maps.
CONFIGS = {
    "bottleneck": ResNetConfig("bottleneck", (2, 1, 1), 12, input_size=75),
    "basic": ResNetConfig("basic", (1, 2, 1), 9, stem_kernel=3, stem_stride=2, stem_pool=False, input_size=31),
    "large stem": ResNetConfig("basic", (1, 1), 16, stem_kernel=5, stem_stride=1, stem_pool=True, input_size=24),
    "one pixel": ResNetConfig("bottleneck", (1, 1), 8, stem_kernel=1, stem_stride=1, stem_pool=False, input_size=1),
}


def checkpoint(config, seed=0):
    """Random weights, every batch norm with statistics, scale and shift of its own."""
    torch.manual_seed(seed)
    model = ResNet(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return Checkpoint("extractor", config, model.state_dict(), source="random", trained=False)


def random_extractor(name, dtype=torch.float32):
    return Extractor(checkpoint(CONFIGS[name]), "cpu", dtype, resolution=24)


def images(config, n, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, config.input_size, config.input_size, generator=random)


def exact(found, x):
    """Pooled features of the module, in float64."""
    model = ResNet(found.config, "meta")
    model.load_state_dict(found.tensors, assign=True)
    with torch.no_grad():
        return model.double().eval()(x.double())


def distance(features, want):
    return float(1 - F.cosine_similarity(features.double(), want, eps=0).min())


@pytest.fixture(scope="module", params=[*CONFIGS, "embedded"])
def case(request):
    """A folded trunk, images, their pooled features."""
    found = read_extractor("embedded") if request.param == "embedded" else checkpoint(CONFIGS[request.param])
    x = images(found.config, 3)
    return fold_trunk(found), x, exact(found, x)


def test_folding_changes_nothing(case):
    """What a plan is made of, computed the plain way."""
    folded, x, want = case
    with torch.no_grad():
        assert (EagerExtractor(folded)(x.double()) - F.normalize(want)).abs().max() < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("instructions", ops.instruction_sets())
@pytest.mark.parametrize("largest", [True, False])
def test_every_instruction_set_and_form(case, dtype, instructions, largest):
    folded, x, want = case

    class Extreme(Forms):
        def tile(self, r, inputs, outputs, size):
            return ops.winograd.TILES[r][-1 if largest else 0]

    plan = CpuTrunkPlan(CpuTrunkWeights(folded, dtype, Extreme(instructions, dtype)), len(x))
    features = plan(x)
    assert (features.dtype, features.shape) == (torch.float32, want.shape)
    assert distance(features, want) < (BOUNDS[torch.float32] if dtype == torch.float32 else 1e-13)  # of float32 results
    assert torch.equal(plan(x), features)  # nothing is left over
    pooled = plan.pooled(x)
    assert pooled.dtype == dtype
    assert (pooled - want).abs().max() < (2e-5 if dtype == torch.float32 else 1e-12) * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_plan_of_a_gpu_with_its_kernels_emulated(case, dtype, on_emulated_cuda):
    folded, x, want = case
    with on_emulated_cuda():
        plan = CudaTrunkPlan(CudaTrunkWeights(folded, torch.device("cpu"), dtype), len(x))
        features = plan(x)
        assert torch.equal(plan(x), features)
        pooled = plan.pooled(x)
        assert torch.equal(plan(x), features)
    assert (features.dtype, features.shape) == (torch.float32, want.shape)
    assert distance(features, want) < BOUNDS[dtype]
    assert distance(pooled, want) < BOUNDS[dtype]
    assert ((features.double().norm(dim=1) - 1).abs() < 1e-6).all()


@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_torchvisions_shape(block):
    """ResNet-50, and a network of basic blocks, at 224 px."""
    depths = (3, 4, 6, 3) if block == "bottleneck" else (2, 2, 2, 2)
    found = checkpoint(ResNetConfig(block, depths))
    x = images(found.config, 1)
    want = exact(found, x)
    extractor = Extractor(found, "cpu")
    pooled = extractor.trunk(x)
    assert distance(pooled, want) < BOUNDS[torch.float32]
    assert (pooled - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_images_bits_are_its_own(name, dtype):
    """Whatever the number of images, its place among them, the threads, and those that the plan was made for."""
    extractor = random_extractor(name, dtype)
    x = images(extractor.config, 5)
    torch.set_num_threads(1)
    pooled = extractor.trunk(x)
    with extractor._plans.taken(5) as plan:
        features = plan(x)
    for threads, rows in ((2, slice(0, 5)), (2, slice(3, 4)), (1, slice(1, 4)), (3, slice(4, None, None))):
        torch.set_num_threads(threads)
        fresh = copy.deepcopy(extractor)
        for one in (extractor, fresh):
            assert torch.equal(one.trunk(x[rows]), pooled[rows])
            with one._plans.taken(len(x[rows])) as plan:
                assert torch.equal(plan(x[rows]), features[rows])
    assert torch.equal(extractor.trunk(x.flip(0)), pooled.flip(0))


def described(plan):
    """GFLOP of the published form, by layer, as described."""
    head, *lines = plan.describe(rounds=1).splitlines()[:-1]
    end = head.index("published") + len("published")
    return {line[: head.index("form")].strip(): line[:end].split()[-1] for line in lines if line[end - 1].isdigit()}


@pytest.mark.parametrize("name", CONFIGS)
def test_few_images_at_a_time_through_the_early_blocks(name, monkeypatch):
    folded = fold_trunk(checkpoint(CONFIGS[name]))
    weights = CpuTrunkWeights(folded, torch.float32, Forms.of(torch.float32))
    x = images(folded.config, 5)
    whole = CpuTrunkPlan(weights, 5)
    want = whole(x)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for rows in range(1, 6):
            for early in range(len(folded.blocks) + 1):
                monkeypatch.setattr("dali_icgan.engine.trunk_cpu_plan._stages", lambda *_, chosen=(early, rows): chosen)
                parts = CpuTrunkPlan(weights, 5)
                assert torch.equal(parts(x), want)
    # Layer by layer, the parts multiply what the whole does.
    assert described(parts) == described(whole)


def test_the_last_images_find_room_to_work(monkeypatch):
    """Three images may need more workspace than four: with 25 tiles each, 75 go in blocks of 38, and 100 in blocks of 34."""

    class Plain(Forms):
        def tile(self, r, inputs, outputs, size):
            return 1

    torch.set_num_threads(1)
    folded = fold_trunk(checkpoint(ResNetConfig("basic", (1,), 16, 3, 1, False, input_size=5)))
    weights = CpuTrunkWeights(folded, torch.float32, Plain.of(torch.float32))
    few, more = (weights.blocks[0].layers[0].convolution.workspace(n, 5, 5) for n in (4, 3))
    assert few < more
    for n in range(1, 12):
        for rows in range(1, n + 1):
            monkeypatch.setattr("dali_icgan.engine.trunk_cpu_plan._stages", lambda *_, rows=rows: (1, rows))
            CpuTrunkPlan(weights, n)


def test_which_blocks_take_few_images(monkeypatch):
    folded = fold_trunk(checkpoint(ResNetConfig(width=16)))
    weights = CpuTrunkWeights(folded, torch.float32, Forms.of(torch.float32))
    x = images(folded.config, 3)
    whole = CpuTrunkPlan(weights, 3)
    monkeypatch.setattr("dali_icgan.engine.trunk_cpu_plan._CACHE", 1)
    parts = CpuTrunkPlan(weights, 3)
    count = {
        name: [step.name for step in parts.steps].count(name) for name in ("stem", "layer1.0 conv1", "layer4.2 conv3")
    }
    assert count == {"stem": 3, "layer1.0 conv1": 3, "layer4.2 conv3": 1}
    assert len({step.name for step in whole.steps}) == len(whole.steps)
    assert torch.equal(parts(x), whole(x))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("channels", [1, 24])
def test_maximum(size, channels):
    x = torch.randn(2, size, size + 1, channels)
    x[0, 0, 0, 0] = float("nan")
    want = F.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, padding=1).permute(0, 2, 3, 1)
    rows = torch.full((2, want.shape[1], size + 1, channels), float("nan"))
    out = torch.full(want.shape, float("nan"))
    maximum_of_three(x, rows, 1)
    maximum_of_three(rows, out, 2)
    assert torch.equal(out.isnan(), want.isnan())
    assert torch.equal(out.nan_to_num(), want.nan_to_num())


def test_mean_of_pixels():
    x = torch.randn(3, 7, 5, 11)
    got = mean_of_pixels(x)
    assert got.dtype == torch.float32
    assert (got.double() - x.double().mean((1, 2))).abs().max() < 1e-7


def test_a_plan_allocates_nothing():
    for name in CONFIGS:
        plan = random_extractor(name).prepare(3)
        plan(images(CONFIGS[name], 3))
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            for step in plan.steps:
                step.run()
        assert sum(max(0, event.self_cpu_memory_usage) for event in seen.events()) == 0
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            plan(images(CONFIGS[name], 3))
        assert sum(max(0, event.self_cpu_memory_usage) for event in seen.events()) > 0  # it would have been seen


def test_plans_are_kept_few_and_shared():
    extractor = load_extractor("embedded", "cpu")
    plan = extractor.prepare(2)
    assert extractor.prepare(2) is plan
    extractor.trunk(images(extractor.config, 2))
    assert extractor.at_resolution(32).prepare(2) is plan
    for n in (3, 4, 5):
        extractor.prepare(n)
    assert extractor.prepare(2) is not plan
    for n in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="n must be a positive integer"):
            extractor.prepare(n)


def test_a_plan_that_is_not_kept_goes_at_once():
    extractor = load_extractor("embedded", "cpu")
    gone = weakref.ref(extractor.prepare(1))
    gc.disable()
    try:
        for n in (2, 3, 4):
            extractor.prepare(n)
        assert gone() is None
    finally:
        gc.enable()


def test_pickling_leaves_plans_behind():
    extractor = load_extractor("embedded", "cpu", resolution=32)
    x = images(extractor.config, 2)
    want = extractor.trunk(x)
    bytes_without = len(pickle.dumps(load_extractor("embedded", "cpu", resolution=32)))
    assert len(pickle.dumps(extractor)) == bytes_without
    other = pickle.loads(pickle.dumps(extractor))
    assert torch.equal(other.trunk(x), want)
    assert (other.resolution, other.fingerprint) == (32, extractor.fingerprint)


def test_results_are_not_overwritten():
    extractor = load_extractor("embedded", "cpu", resolution=32)
    pictures = torch.rand(4, 3, 32, 32)
    first = extractor(pictures[:2])
    kept = first.clone()
    extractor(pictures[2:])
    assert torch.equal(first, kept)


def test_several_threads_share_an_extractor():
    extractor = load_extractor("embedded", "cpu", resolution=32)
    pictures = [torch.rand(4, 3, 32, 32) for _ in range(4)]
    wanted = [extractor(p) for p in pictures]
    wrong = []

    def call(number):
        for _ in range(50):
            if not torch.equal(extractor(pictures[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_image_without_features_is_named():
    found = checkpoint(CONFIGS["basic"])
    extractor = Extractor(
        replace(found, tensors={name: 0 * tensor for name, tensor in found.tensors.items()}), "cpu", resolution=32
    )
    with pytest.raises(
        ValueError, match="x must have means that are finite and not all zero, got an image 0 whose are not"
    ):
        extractor(torch.rand(2, 3, 32, 32))
    assert not extractor.trunk(torch.rand(2, 3, extractor.input_size, extractor.input_size)).any()


@pytest.mark.parametrize("name", ["bottleneck", "basic"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_describe_counts_what_the_published_form_multiplies(name, kind):
    folded = fold_trunk(checkpoint(CONFIGS[name]))
    if kind == "cpu":
        plan = CpuTrunkPlan(CpuTrunkWeights(folded, torch.float32, Forms.of(torch.float32)), 2)
    else:
        plan = CudaTrunkPlan(CudaTrunkWeights(folded, torch.device("cpu"), torch.float32), 2)
    x = images(folded.config, 2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        EagerExtractor(folded).float()(x)
    assert 2 * sum(step.published for step in plan.steps) == counter.get_total_flops()
    plan(x)
    table = plan.describe(rounds=1).splitlines()
    assert table[0].split()[:4] == ["layer", "form", "GFLOP", "published"]
    layers = [line.split("  ")[0] for line in table[1:-2]]
    assert len(set(layers)) == len(layers)
    assert {"stem", "layer1.0 conv1", "layer2.0 shortcut", "mean, unit rows"} < set(layers)
    assert table[-2].startswith("all") and table[-1].startswith("floor: ")  # noqa: PT018


def test_float64_is_for_cpus(monkeypatch):
    monkeypatch.setattr(
        "dali_icgan.engine.extractor.resolve", lambda *_: (torch.device("cuda:0"), torch.float64, torch.float64)
    )
    with pytest.raises(ValueError, match="dtype must be float16, bfloat16 or float32 on CUDA"):
        load_extractor("embedded")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpus_graph(case, dtype):
    """The features, whatever stream asks for them and whoever asked before; without a wait for the device."""
    folded, x, want = case
    device = torch.device("cuda")
    plan = CudaTrunkPlan(CudaTrunkWeights(folded, device, dtype), len(x))
    x = x.to(device)
    features = plan(x)
    assert distance(features.cpu(), want) < BOUNDS[dtype]
    assert distance(plan.pooled(x).cpu(), want) < BOUNDS[dtype]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            flipped = plan(x.flip(0))
        again = plan(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.equal(again, features)
    assert torch.equal(flipped, features.flip(0))
