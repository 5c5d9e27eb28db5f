"""The parts of the release that need no compiler of CUDA: the archive, unpacking, packages by their hashes, an empty environment."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from release import toolkit
from release.debian import PackageError
from release.trial import COMPILERS, isolated
from release.wheel import ROOT, build_sdist, unpack
from release.wheelhouse import collect

if sys.version_info >= (3, 11):
    import tomllib

    PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build_sdist(tmp_path_factory.mktemp("sdist"))


def tracked(*folders):
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line for line in listed.splitlines() if (ROOT / line).exists()}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git what belongs to the source")
def test_the_sdist_holds_what_a_wheel_is_built_from(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        names = {Path(*Path(each.name).parts[1:]).as_posix() for each in archive.getmembers() if each.isfile()}
    needed = tracked("csrc", "release", "dali_icgan", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    assert needed - names == set()
    assert {name.split("/")[0] for name in names} & {"tests", "benchmarks", "docs", "build", "dist"} == set()
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (unpack(sdist, tmp_path) / "COMMIT").read_text() == commit


def test_unpacking_again_touches_only_what_changed(sdist, tmp_path):
    source = unpack(sdist, tmp_path)
    header, stray, made = source / "csrc/core/philox.h", source / "csrc/core/stray.h", source / "build/cuda/x.o"
    stamp = header.stat().st_mtime_ns
    (source / "setup.py").write_text("changed")
    made.parent.mkdir(parents=True)
    for path in (stray, made):
        path.write_text("")
    unpack(sdist, tmp_path)
    assert header.stat().st_mtime_ns == stamp
    assert (source / "setup.py").read_text() == (ROOT / "setup.py").read_text()
    assert not stray.exists()
    assert made.exists()


def test_a_package_with_other_contents_is_refused(tmp_path, monkeypatch):
    def download(command, cwd=None):
        folder = Path(command[command.index("-d") + 1])
        folder.mkdir(parents=True)
        (folder / "package.whl").write_text("something else")
        return ""

    monkeypatch.setattr(toolkit, "run", download)
    with pytest.raises(PackageError, match=r"nvidia-cuda-nvcc-cu12==12.4.131 must have the SHA-256 e4c9"):
        toolkit._unpacked(tmp_path, ["nvidia-cuda-nvcc-cu12==12.4.131"])


def test_without_apt_the_option_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match=r"there is no apt-get here. Name a CUDA 12 toolkit by --cuda"):
        toolkit.cuda12(tmp_path / "cuda12")


def test_a_toolkit_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(toolkit, "unpack", None)
    (tmp_path / "complete").touch()
    assert toolkit.cuda12(tmp_path) == tmp_path / "bin"


def tiny_wheel(folder, name="probe"):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nProvides-Extra: more\nRequires-Dist: other; extra == 'more'\n")  # fmt: skip
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def test_a_wheelhouse_is_one_consistent_set(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    house = tmp_path / "house"
    house.mkdir()
    tiny_wheel(house, "other")
    (house / "stale-1.0-py3-none-any.whl").write_bytes(tiny_wheel(tmp_path, "stale").read_bytes())
    wheel = tiny_wheel(tmp_path, "dali_icgan")
    assert [path.name for path in collect(wheel, "more", house)] == [
        "dali_icgan-1.0-py3-none-any.whl",
        "other-1.0-py3-none-any.whl",
    ]
    with pytest.raises(RuntimeError, match=r"could not collect dali-icgan\[more\]"):
        collect(wheel, "more", house, ["other==2.0"])
    assert len(list(house.glob("*.whl"))) == 2  # what was there stays
    assert [path.name for path in tmp_path.glob(".wheelhouse-*")] == []


def test_an_environment_without_compilers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PIP_INDEX_URL", "somewhere")
    for offline in (True, False):
        environment = isolated(tmp_path, offline)
        assert environment["PATH"] == str(tmp_path)
        assert "PYTHONPATH" not in environment
        assert ("PIP_INDEX_URL" in environment) is not offline
        assert not any(shutil.which(name, path=environment["PATH"]) for name in COMPILERS)
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    with pytest.raises(RuntimeError, match=r"must have no compiler in reach, got .*gcc"):
        isolated(tmp_path, offline=True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads TOML")
def test_extras_and_what_cibuildwheel_is_told():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for cuda, dali in (("12", "nvidia-dali-cuda120"), ("13", "nvidia-dali-cuda130")):
        assert {each.split(">")[0] for each in extras[f"cu{cuda}"]} == {dali, f"cupy-cuda{cuda}x"}
    assert "torch>=2.9" in PYPROJECT["project"]["dependencies"]
    told = PYPROJECT["tool"]["cibuildwheel"]
    assert told["build"].split() == [f"cp3{minor}-*" for minor in (10, 11, 12, 13, 14)]
    assert PYPROJECT["project"]["requires-python"] == ">=3.10"
    assert told["linux"]["manylinux-x86_64-image"] == "manylinux_2_28"
    assert told["linux"]["environment"]["DALI_ICGAN_CUDA"] == "1"
