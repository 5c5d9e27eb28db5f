"""A GPU or a driver that this build is too new for is named, before a kernel is launched on it."""

import subprocess
import sys

import pytest

from dali_icgan._native import device_fault

RELEASE = ["sm_80", "sm_90", "compute_90"]


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        ("8.0", ["sm_80"]),
        ("8.6", ["sm_80"]),
        ("9.0", ["sm_80", "sm_90"]),
        ("9.0", ["sm_90a"]),
        ("12.0", RELEASE),
        ("12.0", ["sm_120"]),
        ("12.1", ["sm_90", "sm_120"]),
    ],
)
def test_gpus_with_code(capability, architectures):
    assert device_fault(capability, architectures) is None


@pytest.mark.parametrize(
    ("capability", "architectures", "fault"),
    [
        ("7.5", RELEASE, "this GPU is sm_75, the build has sm_80 and up"),
        ("8.0", ["sm_86", "compute_86"], "this GPU is sm_80, the build has sm_86 and up"),
        ("8.0", ["sm_86"], "this GPU is sm_80, the build has sm_86"),
        ("9.0", ["sm_80"], "this GPU is sm_90, the build has sm_80"),
        ("9.0", ["sm_80", "sm_100", "compute_100"], "this GPU is sm_90, the build has sm_80 sm_100 compute_100"),
        ("10.0", ["sm_120", "compute_120"], "this GPU is sm_100, the build has sm_120 and up"),
        ("9.0", [], "this GPU is sm_90, the build has no code for GPUs"),
    ],
)
def test_gpus_without_code(capability, architectures, fault):
    assert device_fault(capability, architectures) == fault


KERNEL = """
import torch
from dali_icgan._native import emulated_cuda
from dali_icgan.ops import truncated_normal
from dali_icgan.augment.plan import RowKeys
from dali_icgan.errors import DeviceError
from tests.emulation import emulated_module
import numpy as np
with emulated_cuda(emulated_module()):
    for _ in range(2):  # a refusal is not forgotten
        try:
            truncated_normal(RowKeys(seed=1, epoch=0, index=np.array([0]), repeat=np.array([0]), view=0), 4, truncation=0.7, device="cpu")
        except DeviceError as error:
            print(error)
"""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DI_EMULATE_CAPABILITY", "75", "CUDA device 0: this GPU is sm_75, the build has sm_80 and up"),
        ("DI_EMULATE_CAPABILITY", "120", None),
        (
            "DI_EMULATE_DRIVER",
            "12040",
            "CUDA device 0: the driver is for CUDA 12.4 and older, the build needs one for CUDA 13.0",
        ),
        ("DI_EMULATE_DRIVER", "13020", None),
    ],
)
def test_a_kernel_is_refused_with_the_reason(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ([said] * 2 if said else [])
