import stat
import subprocess

import pytest
from typer.testing import CliRunner

from dali_icgan.cli import app, doctor
from dali_icgan.errors import DeviceError

BUILT = {
    "cuda": "built",
    "architectures": ["sm_80", "sm_90", "compute_90"],
    "cuda_compiler": "Build cuda_13.0.r13.0/compiler.36424714_0",
}
GPU = ("NVIDIA H100", "81559 MiB", "9.0")


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_quick_says_what_there_is_and_tries_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "self_test", None)
    said = run("--quick", "--generator", "embedded", "--extractor", "embedded")
    for word in (
        "Python",
        "torch",
        "DALI",
        "CuPy",
        "numpy",
        "commit",
        "kernels",
        "CPU",
        "GPU",
        "driver",
        "decoder",
        "threads",
    ):
        assert word in said
    assert "64 px, z of 80" in said
    assert "ResNet" in said
    assert "UNTRAINED" not in said


@pytest.mark.dali
def test_the_self_test_passes():
    results = doctor.self_test()
    assert {name for name, _, _ in results} >= {"random numbers", "assemble", "decode", "generate"}
    assert [(name, reason) for name, reason, _ in results if reason is not None] == []


def test_a_failure_is_said_with_its_reason_and_sets_the_exit_code(monkeypatch):
    monkeypatch.setattr(doctor, "_try_decode", lambda: doctor._expect(False, "a JPEG must be\n right"))
    monkeypatch.setattr(doctor, "_try_assemble", lambda: 1 / 0)
    said = run(code=1)
    assert "decode FAILED: a JPEG must be right" in said
    assert "assemble FAILED: division by zero" in said
    assert "random numbers ok" in said


@pytest.mark.parametrize(
    ("name", "attribute", "replacement", "reason"),
    [
        ("random numbers", "_UNIFORM", ("0x1p-1",), "uniform numbers must be the known ones"),
        ("random numbers", "_NOISE", ("0x1p-1",), "normal numbers must be the known ones"),
        ("assemble", "assemble_reference", lambda *_, size, **__: 0.0, "must be within 2e-5"),
        ("decode", "_jpeg", lambda: b"\xff\xd8\xff garbage", "cannot identify image file"),
    ],
)
def test_each_trial_can_fail(monkeypatch, name, attribute, replacement, reason):
    monkeypatch.setattr(doctor, attribute, replacement)
    monkeypatch.setattr(doctor, "_try_generate", lambda: None)
    failed = {name: said for name, said, _ in doctor.self_test() if said is not None}
    assert list(failed) == [name]
    assert reason in failed[name]


def test_missing_dali_is_a_failure_that_names_the_extra(monkeypatch):
    class NoDecoder:
        def __init__(self, *_, **__):
            raise DeviceError("reading images needs NVIDIA DALI: pip install 'dali-icgan[cu13]'")

    monkeypatch.setattr(doctor, "ImageDecoder", NoDecoder)
    monkeypatch.setattr(doctor, "_first_version", lambda _: None)
    said = run(code=1)
    assert "DALI missing, no image files can be read: pip install 'dali-icgan[cu13]'" in said
    assert "decoder none: DALI is missing" in said
    assert "decode FAILED: reading images needs NVIDIA DALI" in said


@pytest.mark.parametrize(
    ("gpus", "driver", "info", "fault"),
    [
        (None, None, BUILT, None),
        ([GPU], "580.65.06", BUILT, None),
        ([GPU], "590.10", BUILT, None),
        (
            [GPU],
            "575.57.08",
            BUILT,
            "The driver is too old: 575.57.08, and CUDA 13.0, with which this build was made, needs 580.65",
        ),
        ([GPU], "580.10", BUILT, "The driver is too old"),
        ([GPU], "530.30", {**BUILT, "cuda_compiler": "Cuda compilation tools, release 12.8, V12.8.93"}, None),
        (
            [("T4", "15 GiB", "7.5")],
            "580.65.06",
            BUILT,
            "T4: this GPU is sm_75, the build has sm_80 and up: build again",
        ),
        ([GPU], "580.65.06", {**BUILT, "cuda": "absent"}, "This build has no CUDA code"),
        (None, None, {**BUILT, "cuda": "absent"}, None),
    ],
)
def test_gpu_faults_in_words(monkeypatch, gpus, driver, info, fault):
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: True)
    found = doctor.gpu_faults(gpus, driver, info)
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_a_gpu_that_torch_does_not_see_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    (fault,) = doctor.gpu_faults([GPU], "580.65.06", BUILT)
    assert "sees no CUDA device" in fault


def test_faults_set_the_exit_code(monkeypatch):
    monkeypatch.setattr(doctor, "find_gpus", lambda: [GPU])
    monkeypatch.setattr(doctor, "find_driver", lambda: "470.1")
    monkeypatch.setattr(doctor, "build_info", lambda: {**BUILT, "compiler": "g++", "commit": ""})
    said = run("--quick", code=1)
    assert "NVIDIA H100, 81559 MiB, compute capability 9.0" in said
    assert "The driver is too old: 470.1" in said


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc 12.3.0\n",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (a@b)\n", "580.65.06"),
        ("", None),
    ],
)
def test_the_drivers_version(tmp_path, text, driver):
    (tmp_path / "version").write_text(text)
    assert doctor.find_driver(str(tmp_path / "version")) == driver
    assert doctor.find_driver(str(tmp_path / "nowhere")) is None


def test_the_drivers_cuda(tmp_path):
    for name, body in (("driver", "*v = 12040; return 0;"), ("failing", "*v = 1; return 999;"), ("other", None)):
        source = tmp_path / f"{name}.c"
        source.write_text(f"int cuDriverGetVersion(int* v) {{ {body} }}" if body else "int other;")
        subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", tmp_path / f"{name}.so"], check=True)
    assert doctor.find_driver_cuda(str(tmp_path / "driver.so")) == "12.4"
    assert doctor.find_driver_cuda(str(tmp_path / "failing.so")) is None
    assert doctor.find_driver_cuda(str(tmp_path / "other.so")) is None
    assert doctor.find_driver_cuda(str(tmp_path / "nowhere.so")) is None


@pytest.mark.parametrize(
    ("driver", "cuda", "compiler", "said"),
    [
        (None, None, "cuda_12.4.r12.4", "none; this build, of CUDA 12.4, needs 525.60 or newer"),
        (
            "535.183.01",
            "12.2",
            "cuda_12.4.r12.4",
            "535.183.01, for CUDA 12.2 and older; this build, of CUDA 12.4, needs 525.60 or newer",
        ),
        ("580.65.06", None, "cuda_13.0.r13.0", "580.65.06; this build, of CUDA 13.0, needs 580.65 or newer"),
        (None, "13.0", "", "of unknown version, for CUDA 13.0 and older; this build has no use for one"),
    ],
)
def test_the_driver_beside_what_the_build_needs(driver, cuda, compiler, said):
    assert doctor._driver(driver, cuda, {"cuda_compiler": compiler}) == said


def test_gpus_as_nvidia_smi_tells(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 9.0'\necho 'NVIDIA A100, 40960 MiB, 8.0'\n")
    smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.find_gpus() == [GPU, ("NVIDIA A100", "40960 MiB", "8.0")]
    smi.write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    assert doctor.find_gpus() is None
