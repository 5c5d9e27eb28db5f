"""The residual stream on calibration noise: measured block by block, and told where half precision does not hold it."""

import contextlib
import dataclasses

import pytest
import torch

from dali_icgan.engine import load_generator
from dali_icgan.engine.cpu_plan import CpuPlan, CpuWeights
from dali_icgan.engine.cuda_plan import CudaPlan, CudaWeights
from dali_icgan.engine.folding import fold
from dali_icgan.engine.forms import Forms
from dali_icgan.models.checkpoint import read_generator
from tests.engine.test_generator import random_generator
from tests.engine.test_plan import EagerGenerator
from tests.golden import own

N = 3


def cpu_plan(folded, dtype):
    return CpuPlan(CpuWeights(folded, torch.float32, Forms.of(torch.float32)), N, dtype)


def cuda_plan(folded, dtype):
    return CudaPlan(CudaWeights(folded, torch.device("cpu"), dtype), N, dtype)


@pytest.fixture(scope="module", params=["cc_res64", "ic_res32_flat_z"])
def folded(request):
    return fold(read_generator(own(request.param)["state_dict"]))


def stream_of(folded, arguments):
    """Largest magnitudes behind the blocks of the network as published."""
    eager, found = EagerGenerator(folded), []
    for block in eager.blocks:
        block.register_forward_hook(lambda *parts: found.append(float(parts[-1].abs().max())))
    with torch.no_grad():
        eager(*(a.double() if a is not None and a.is_floating_point() else a for a in arguments))
    return found


@pytest.mark.parametrize("make", [cpu_plan, cuda_plan])
def test_the_stream_is_measured_behind_every_block(folded, make, on_emulated_cuda, monkeypatch):
    given = []
    with on_emulated_cuda() if make is cuda_plan else contextlib.nullcontext():
        plan = make(folded, torch.float32)
        put = plan.put
        monkeypatch.setattr(plan, "put", lambda *a: (given.append(a), put(*a)))
        plan.calibrate()
        measured = dict(plan.largest)
        described = plan.describe(rounds=1).splitlines()
    assert len(given) == 1  # describe does not run it again
    z, h, y = given[0]
    assert z.std() > 0.8
    assert h.min() >= 0
    assert (h.norm(dim=1) - 1).abs().max() < 1e-5
    assert (y is None) == (not folded.config.class_conditional)
    assert list(measured.values()) == pytest.approx(stream_of(folded, given[0]), rel=1e-4)
    assert len(measured) == folded.config.blocks
    column = described[0].index("largest")
    shown = [float(line[column:]) for line in described[1:-1] if line[column:].strip()]
    assert shown == pytest.approx(list(measured.values()), rel=1e-2)


def wild(folded):
    """Its second block's shortcut leaves float16."""
    blocks = list(folded.blocks)
    blocks[1] = dataclasses.replace(blocks[1], shortcut=blocks[1].shortcut * 1e6)
    return dataclasses.replace(folded, blocks=tuple(blocks))


def test_a_stream_that_half_precision_does_not_hold(folded, on_emulated_cuda):
    with on_emulated_cuda():
        for dtype, overflows in ((torch.float16, True), (torch.bfloat16, False), (torch.float32, False)):
            plan = cuda_plan(wild(folded), dtype)
            plan.calibrate()
            said = plan.overflow()
            if overflows:
                assert "torch.float16, whose largest number is 6.55e+04" in said
                assert "not finite from block 1" in said
                assert "block 1" in next(name for name, x in plan.largest.items() if not x < 6.6e4)
            else:
                assert said == ""


@pytest.mark.parametrize("part", [0, 1])
def test_one_number_that_is_none_is_not_lost(part):
    """Whichever part of a layer that is done in parts has it."""
    plan = random_generator(32, 8).prepare(2)
    plan.calibrate()
    assert plan.overflow() == ""
    i = next(i for i, step in enumerate(plan.steps) if step.stream is not None)
    streams = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])]
    streams[part] = torch.tensor([1.0, float("nan"), 2.0])
    step = plan.steps[i]
    plan.steps[i : i + 1] = [dataclasses.replace(step, stream=lambda x=x: x) for x in streams]
    plan.calibrate()
    assert f"not finite from {step.name} on" in plan.overflow()


@pytest.mark.gpu
def test_a_gpu_says_it_when_the_plan_is_made(caplog, monkeypatch):
    monkeypatch.setattr("dali_icgan.engine.generator.fold", lambda checkpoint: wild(fold(checkpoint)))
    load_generator(own("ic_res32_flat_z")["state_dict"], "cuda", torch.float16).prepare(2)
    assert "the residual stream is not finite from block 1" in caplog.text
