"""Which dtype a model is computed in: docs/numerics.md has the table, and these tests read it."""

import platform
import re
import threading
from pathlib import Path

import pytest
import torch

from dali_icgan.engine import forms, load_extractor, load_generator, placement
from dali_icgan.ops.instructions import bfloat16_is_faster, instruction_sets
from tests.untrained import FOLDER

PAGE = Path(__file__).parents[2] / "docs" / "numerics.md"
ROWS = [
    [cell.strip() for cell in row[1:-1].split("|")]
    for row in re.findall(r"^\| (?:cpu|cuda) \|.*\|$", PAGE.read_text(), re.MULTILINE)
]


def processor(monkeypatch, *, has=("avx512", "avx512_bf16"), asked=None):
    monkeypatch.delenv("DALI_ICGAN_INSTRUCTIONS", raising=False)
    if asked is not None:
        monkeypatch.setenv("DALI_ICGAN_INSTRUCTIONS", asked)
    sets = {torch.bfloat16: has}
    wide = ("avx512", "avx2", "generic") if has else ("avx2", "generic")
    monkeypatch.setattr(forms, "instruction_sets", lambda dtype=None: sets.get(dtype, wide))


def test_the_page_has_every_case():
    dtypes = [str(dtype).removeprefix("torch.") for dtype in placement._DTYPES]
    cases = [(device, dtype) for device in ("cpu", "cuda") for dtype in ("None", *dtypes)]
    assert sorted((device, dtype) for device, dtype, *_ in ROWS) == sorted([*cases, ("cpu", "bfloat16")])


@pytest.mark.parametrize(("device", "asked", "where", "stored", "generator", "extractor"), ROWS)
def test_the_pages_rows(device, asked, where, stored, generator, extractor, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    dtype = None if asked == "None" else getattr(torch, asked)
    if stored == "refused":
        for load, file in ((load_generator, "generator"), (load_extractor, "extractor")):
            with pytest.raises(ValueError, match=rf"dtype must be .* on CUDA, got {dtype}"):
                load(FOLDER / f"{file}.safetensors", device, dtype)
        return
    without, every = (), [("avx512",), ("avx512", "avx512_bf16"), ("avx512_bf16", "avx512")]
    for has in {"": [without, *every], "it has AVX-512": every, "it has not": [without]}[where]:
        processor(monkeypatch, has=has)
        for model, has_form in ((generator, True), (extractor, False)):
            found = placement.resolve(device, dtype, bfloat16_on_cpu=has_form)
            assert found == (placement.resolve_device(device), getattr(torch, stored), getattr(torch, model))


@pytest.mark.parametrize(
    ("has", "asked", "found"),
    [
        (("avx512", "avx512_bf16"), None, "avx512"),
        (("avx512_bf16", "avx512"), None, "avx512_bf16"),
        (("avx512_bf16", "avx512"), "", "avx512_bf16"),
        (("avx512", "avx512_bf16"), "avx512_bf16", "avx512_bf16"),
        (("avx512_bf16", "avx512"), "avx512", "avx512"),
        (("avx512_bf16", "avx512"), "generic", None),
        ((), None, None),
    ],
)
def test_the_environment_decides_before_the_processor(monkeypatch, has, asked, found):
    processor(monkeypatch, has=has, asked=asked)
    assert forms.bfloat16_instructions() == found
    assert placement.resolve("cpu", None, bfloat16_on_cpu=True)[1:] == (torch.float32, torch.float32)


def test_instructions_that_are_not_there_are_named(monkeypatch):
    processor(monkeypatch, has=(), asked="avx512_bf16")
    message = "DALI_ICGAN_INSTRUCTIONS must be one of avx2, generic here, got 'avx512_bf16'"
    for call in (forms.bfloat16_instructions, lambda: placement.resolve("cpu", torch.bfloat16, bfloat16_on_cpu=True)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads an x86 Linux's words")
def test_which_processors_are_faster_in_bfloat16():
    """Those of AMD that have it, as Linux calls them."""
    words = Path("/proc/cpuinfo").read_text()
    faster = "AuthenticAMD" in words and "avx512_bf16" in words.split()
    assert bfloat16_is_faster() == faster
    has = [name for name, flag in (("avx512", "avx512bw"), ("avx512_bf16", "avx512_bf16")) if flag in words.split()]
    assert instruction_sets(torch.bfloat16) == tuple(has[::-1] if faster else has)


def test_generating_in_another_thread_leaves_autocasts_cache_alone():
    generator = load_generator(FOLDER / "generator.safetensors", device="cpu")
    z, h = torch.zeros(1, generator.dim_z), torch.nn.functional.normalize(torch.ones(1, generator.feature_dim))
    layer = torch.nn.Linear(4, 4)

    def cast_weight():
        return (
            layer(torch.ones(1, 4)).grad_fn.next_functions[2][0].next_functions[0][0]
        )  # what cast it, seen from the product

    with torch.autocast("cpu", torch.bfloat16):
        before = cast_weight()
        thread = threading.Thread(target=generator, args=(z, h))
        thread.start()
        thread.join()
        assert cast_weight() is before
