import importlib.metadata
import subprocess
import sys

import pytest

import dali_icgan as di


def test_every_public_name_is_there():
    for name in di.__all__:
        assert getattr(di, name) is not None
    assert set(di.__all__) <= set(dir(di))
    with pytest.raises(AttributeError, match="has no attribute 'Loader'"):
        _ = di.Loader


def test_the_version_is_the_packages():
    assert importlib.metadata.version("dali-icgan") == di.__version__


def test_build_info():
    info = di.build_info()
    assert info["cuda"] in ("built", "absent")
    assert bool(info["architectures"]) == bool(info["cuda_compiler"]) == (info["cuda"] == "built")
    assert info["compiler"]


def test_everything_but_reading_files_works_without_dali():
    code = """
import sys
sys.modules["nvidia.dali"] = None
import torch, dali_icgan as di
generator = di.load_generator("embedded", device="cpu")
augment = di.DAICGAN(generator=generator, extractor=di.load_extractor("embedded", device="cpu"), p=1.0)
images, labels, info = augment([torch.zeros(40, 50, 3, dtype=torch.uint8) + 9], [0], None, 0, di.TrainTransform(32))
assert images.shape == (1, 3, 32, 32) and info["replaced"].all() and di.build_info()
try:
    list(di.DataLoader([("x.jpg", 0)], device="cpu"))
except di.DeviceError as error:
    assert "pip install 'dali-icgan[cu13]'" in str(error)
else:
    raise AssertionError("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_import_torch():
    code = "import sys, dali_icgan; assert 'torch' not in sys.modules; dali_icgan.DataLoader; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_makes_no_cuda_context_and_starts_no_thread():
    code = """
import threading, torch, dali_icgan as di
di.DataLoader, di.DAICGAN, di.load_generator
assert not torch.cuda.is_initialized() and threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
