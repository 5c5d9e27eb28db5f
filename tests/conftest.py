import os

import pytest
import torch

import dali_icgan as di
from dali_icgan import _native
from dali_icgan._native import emulated_cuda
from tests.emulation import emulated_module
from tests.untrained import FOLDER

if "DALI_ICGAN_EMULATED" in os.environ:
    # make sanitize: the CPU back ends of that build are tested as well, not the installed ones.
    _native._active = emulated_module()


def pytest_addoption(parser):
    parser.addoption(
        "--require-gpu", action="store_true", help="a test that would be skipped for want of a GPU fails instead"
    )
    parser.addoption("--without-dali", action="store_true", help="leave out the tests that read image files")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--without-dali"):
        for item in items:
            if item.get_closest_marker("dali"):
                item.add_marker(pytest.mark.skip(reason="--without-dali"))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            if config.getoption("--require-gpu"):
                item.add_marker(pytest.mark.usefixtures("gpu_is_missing"))
            else:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def gpu_is_missing():
    pytest.fail("--require-gpu, and torch.cuda.is_available() is False")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture(params=["forward", "reverse", "7"])
def on_emulated_cuda(request, monkeypatch):
    """A context manager: CPU tensors within it go through the CUDA kernels, in one of three thread orders."""
    monkeypatch.setenv("DI_EMULATE_ORDER", request.param)
    return lambda: emulated_cuda(emulated_module())


@pytest.fixture(scope="session")
def generator():
    """32 px, with random weights."""
    return di.load_generator(FOLDER / "generator.safetensors", device="cpu")


@pytest.fixture(scope="session")
def extractor():
    """Of 128 numbers, with random weights."""
    return di.load_extractor(FOLDER / "extractor.safetensors", device="cpu")


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
