import copy
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dali_icgan import ops
from dali_icgan.bench.eager import EagerGenerator
from dali_icgan.engine import load_generator
from dali_icgan.engine.cpu_plan import CpuPlan, CpuWeights
from dali_icgan.engine.cuda_plan import CudaPlan, CudaWeights
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms
from dali_icgan.models.checkpoint import read_generator
from tests.engine.test_generator import CONTRACT, inputs, random_generator
from tests.golden import OWN, load, own

BFLOAT16 = [*ops.instruction_sets(torch.bfloat16), "generic"]
# Relative to the image's norm; of half precision, what the eager generator may err by is allowed as well.
BOUNDS = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def error(images, want):
    return float((images.double() - want).norm() / want.norm())


def allowed(folded, arguments, exact, dtype):
    eager = EagerGenerator(folded).to(arguments[0].device, dtype)
    with torch.no_grad():
        theirs = eager(*(a.to(dtype) if a is not None and a.is_floating_point() else a for a in arguments))
    return max(BOUNDS[dtype], 1.2 * error(theirs.cpu(), exact))


@pytest.fixture(scope="module", params=["cc_res64", "ic_res32_flat_z"])
def golden(request):
    found = own(request.param)
    folded = fold(read_generator(found["state_dict"]))
    arguments = [found["z"].float(), found["h"].float(), found["y"]]
    with torch.no_grad():
        exact = EagerGenerator(folded)(
            *(a.double() if a is not None and a.is_floating_point() else a for a in arguments)
        )
    return folded, arguments, exact


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_folding_changes_nothing(path):
    """What a plan is made of, computed the plain way."""
    found = load(path)
    with torch.no_grad():
        images = EagerGenerator(fold(read_generator(found["state_dict"])))(
            found["z"].double(), found["h"].double(), found["y"]
        )
    assert (images.flatten()[:: found["stride"]] - found["output64"]).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_plan_of_a_gpu_with_its_kernels_emulated(golden, dtype, on_emulated_cuda):
    folded, arguments, exact = golden
    with on_emulated_cuda():
        plan = CudaPlan(CudaWeights(folded, torch.device("cpu"), dtype), len(exact), dtype)
        images = plan(*arguments)
        assert torch.equal(plan(*arguments), images)  # nothing is left over
    assert (images.dtype, images.shape) == (dtype, exact.shape)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert error(images, exact) < allowed(folded, arguments, exact, dtype)


def bfloat16_plan(folded, n, instructions):
    forms = Forms(instructions, torch.bfloat16)
    return CpuPlan(CpuWeights(folded, torch.bfloat16, forms), n, torch.bfloat16)


@pytest.mark.parametrize("instructions", BFLOAT16)
@pytest.mark.parametrize("path", [*OWN, Path("embedded")], ids=lambda p: p.stem)
def test_bfloat16_on_a_cpu(path, instructions):
    """From 32 to 256 px, random weights and trained ones: with the rule's tiles."""
    if path.stem == "embedded":
        folded = fold(read_generator("embedded"))
        arguments = [*inputs(load_generator("embedded", "cpu"), 4), None]
    else:
        found = load(path)
        folded, arguments = (
            fold(read_generator(found["state_dict"])),
            [found["z"].float(), found["h"].float(), found["y"]],
        )
    with torch.no_grad():
        exact = EagerGenerator(folded)(
            *(a.double() if a is not None and a.is_floating_point() else a for a in arguments)
        )
    plan = bfloat16_plan(folded, len(exact), instructions)
    images = plan(*arguments)
    assert torch.equal(plan(*arguments), images)
    assert (images.dtype, images.shape) == (torch.bfloat16, exact.shape)
    assert 1e-4 < error(images, exact) < allowed(folded, arguments, exact, torch.bfloat16)


@pytest.mark.parametrize("instructions", BFLOAT16)
def test_a_row_of_bfloat16_is_the_same_in_a_call_of_any_size_and_on_any_number_of_threads(monkeypatch, instructions):
    folded = fold(read_generator(own("cc_res64")["state_dict"]))
    arguments = inputs(load_generator(own("cc_res64")["state_dict"], "cpu"), 5)
    torch.set_num_threads(1)
    images = bfloat16_plan(folded, 5, instructions)(*arguments)
    for threads, rows, cache in (
        (2, slice(0, 5), 8 << 20),
        (2, slice(3, 4), 1),
        (1, slice(1, 4), 1),
        (1, slice(0, 5), 300_000),
    ):
        torch.set_num_threads(threads)
        monkeypatch.setattr("dali_icgan.engine.cpu_plan._CACHE", cache)
        plan = bfloat16_plan(folded, rows.stop - rows.start, instructions)
        assert torch.equal(plan(*(a[rows] for a in arguments)), images[rows])


@pytest.mark.parametrize("instructions", ops.instruction_sets(torch.bfloat16))
def test_a_generator_of_bfloat16(monkeypatch, instructions):
    """A plan of its own where there are kernels for it; float32 and float16 stay what they are."""
    monkeypatch.setenv("DALI_ICGAN_INSTRUCTIONS", instructions)
    wide = random_generator(32, 8)
    arguments = inputs(wide, 3)
    want = wide(*arguments)
    assert list(wide.forms) == ["avx512 float32"]
    assert torch.equal(random_generator(32, 8, dtype=torch.float16)(*arguments), want.half())
    narrow = random_generator(32, 8, dtype=torch.bfloat16)
    images = narrow(*arguments)
    assert (images.dtype, narrow.dtype, narrow.prepare(3).compute) == (torch.bfloat16, torch.bfloat16, torch.bfloat16)
    assert list(narrow.forms) == [f"{instructions} bfloat16"]
    assert not torch.equal(images, want.bfloat16())
    assert error(images, want.double()) < BOUNDS[torch.bfloat16]
    assert torch.equal(copy.deepcopy(narrow)(*arguments), images)
    assert "torch.bfloat16" in narrow.prepare(3).describe(rounds=1)


def test_a_generator_of_bfloat16_without_kernels_for_it(monkeypatch):
    monkeypatch.setenv("DALI_ICGAN_INSTRUCTIONS", "generic")
    wide, rounded = (random_generator(32, 8, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    arguments = inputs(wide, 3)
    assert torch.equal(rounded(*arguments), wide(*arguments).bfloat16())
    assert list(rounded.forms) == ["generic float32"]
    with pytest.raises(ValueError, match=r"without kernels of bfloat16 \(avx512_bf16, avx512\), got torch\.bfloat16"):
        Forms.of(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("instructions", ops.instruction_sets())
@pytest.mark.parametrize("largest", [True, False])
def test_every_instruction_set_and_form(golden, dtype, instructions, largest):
    folded, arguments, exact = golden

    class Extreme(Forms):
        def tile(self, r, inputs, outputs, size):
            return ops.winograd.TILES[r][-1 if largest else 0]

    plan = CpuPlan(CpuWeights(folded, dtype, Extreme(instructions, dtype)), len(exact), dtype)
    assert error(plan(*arguments), exact) < (2e-5 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("name", CONTRACT)
def test_on_a_cpu_a_row_is_the_same_in_a_call_of_any_size_and_on_any_number_of_threads(name):
    generator = CONTRACT[name]()
    arguments = inputs(generator, 5)
    torch.set_num_threads(1)
    images = generator(*arguments)
    for threads, rows in ((2, slice(0, 5)), (2, slice(3, 4)), (1, slice(1, 4))):
        torch.set_num_threads(threads)
        fresh = copy.deepcopy(generator)  # its plans are made for this number of threads
        for one in (generator, fresh):
            assert torch.equal(one(*(a[rows] for a in arguments)), images[rows])


def published(plan):
    """GFLOP of the published form, by layer, as described."""
    head, *lines = plan.describe(rounds=1).splitlines()[:-1]
    end = head.index("published") + len("published")
    return {line[: head.index("form")].strip(): line[:end].split()[-1] for line in lines if line[end - 1].isdigit()}


def test_rows_that_go_in_parts_through_the_late_blocks(monkeypatch):
    whole = random_generator(64, 4, (32,))
    arguments = inputs(whole, 5)
    images = whole(*arguments)
    for cache in (1, 300_000, 1_000_000):
        monkeypatch.setattr("dali_icgan.engine.cpu_plan._CACHE", cache)
        parts = random_generator(64, 4, (32,))
        assert torch.equal(parts(*arguments), images)
        assert len(parts.prepare(5).steps) > len(whole.prepare(5).steps)
        # Layer by layer, the parts multiply what the whole does.
        assert published(parts.prepare(5)) == published(whole.prepare(5))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_last_rows_find_room_to_work(monkeypatch, threads):
    """Three rows may need more workspace than four."""
    torch.set_num_threads(threads)
    generator = random_generator(32, 4)
    for rows in range(1, 6):
        monkeypatch.setattr("dali_icgan.engine.cpu_plan._stages", lambda weights, n, rows=rows: (1, min(rows, n)))
        for n in range(1, 12):
            copy.deepcopy(generator).prepare(n)


def test_several_threads_share_a_generator():
    generator = random_generator(32, 8)
    arguments = [inputs(generator, 4, seed) for seed in range(4)]
    wanted = [generator(*a) for a in arguments]
    wrong = []

    def call(number):
        for _ in range(20):
            if not torch.equal(generator(*arguments[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_plans_are_kept_and_few():
    generator = random_generator(32, 8)
    plan = generator.prepare(2)
    assert generator.prepare(2) is plan
    generator(*inputs(generator, 2))
    assert generator.prepare(2) is plan
    for n in (3, 4, 5):
        generator.prepare(n)
    assert generator.prepare(2) is not plan
    for n in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="n must be a positive integer"):
            generator.prepare(n)


def test_results_are_not_overwritten():
    generator = random_generator(32, 8)
    first = generator(*inputs(generator, 2))
    kept = first.clone()
    generator(*inputs(generator, 2, seed=1))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("name", ["cc_res64", "ic_res32_flat_z"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_describe_counts_what_the_published_form_multiplies(name, kind):
    found = own(name)
    folded = fold(read_generator(found["state_dict"]))
    n, f32 = len(found["z"]), torch.float32
    if kind == "cpu":
        plan = CpuPlan(CpuWeights(folded, f32, Forms.of(f32)), n, f32)
    else:
        plan = CudaPlan(CudaWeights(folded, torch.device("cpu"), f32), n, f32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        EagerGenerator(folded).float()(found["z"].float(), found["h"].float(), found["y"])
    published = 2 * sum(step.published for step in plan.steps)
    # Conditions of all blocks are one layer here, with zeros between them; a CPU pads channels to whole vectors in linear layers.
    assert published == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert sum(step.multiplications for step in plan.steps) < 0.8 * sum(step.published for step in plan.steps)
    table = plan.describe(rounds=1).splitlines()
    assert table[0].split()[:4] == ["layer", "form", "GFLOP", "published"]
    layers = [line.split("  ")[0] for line in table[1:-2]]
    assert len(set(layers)) == len(layers)
    assert table[-2].startswith("all") and table[-1].startswith("floor: ")  # noqa: PT018


def test_float64_is_for_cpus(monkeypatch):
    monkeypatch.setattr(
        "dali_icgan.engine.generator.resolve", lambda *_, **__: (torch.device("cuda:0"), torch.float64, torch.float64)
    )
    with pytest.raises(ValueError, match="dtype must be float16, bfloat16 or float32 on CUDA"):
        random_generator(32, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_gpus_graph(golden, dtype):
    """The images, whatever stream asks for them and whoever asked before; without a wait for the device."""
    folded, arguments, exact = golden
    device = torch.device("cuda")
    plan = CudaPlan(CudaWeights(folded, device, dtype), len(exact), dtype)
    arguments = [None if a is None else a.to(device) for a in arguments]
    images = plan(*arguments)
    assert error(images.cpu(), exact) < allowed(folded, arguments, exact, dtype)
    others = [None if a is None else a.flip(0) for a in arguments]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            flipped = plan(*others)
        again = plan(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.equal(again, images)
    assert torch.equal(flipped, images.flip(0))
