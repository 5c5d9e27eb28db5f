"""The long form: docs/cluster.md's own commands build the wheel and the wheelhouse, and the wheel is used in empty environments."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from release.__main__ import examine, newest_wheel
from release.debian import unpack
from release.glibc import link_flags
from release.toolkit import cuda12
from release.trial import isolated, try_out, use
from release.wheel import BUILD, FLOOR, ROOT, build_wheel
from tests.release.cluster_page import PAGE, blocks
from tests.release.test_glibc import SOURCE

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]
COMMANDS = [each.text for each in blocks(PAGE.read_text()) if each.how == "make test-full"]


def shell(text, cwd, env=None):
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", text], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def command(start):
    """The one block of the page that begins so."""
    (found,) = [text for text in COMMANDS if text.startswith(start)]
    return found


@pytest.fixture(scope="module")
def wheel():
    said = shell(command("make wheels"), ROOT)
    assert newest_wheel().name in said
    return newest_wheel()


@pytest.fixture(scope="module")
def module(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("module")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if ".so" in name]
        return Path(archive.extract(name, folder))


def test_no_block_is_left_out():
    assert [text.split("\n")[0].split("#")[0].strip() for text in COMMANDS] == [
        "make wheels",
        "make wheelhouse EXTRAS=cu13",
        "python3 -m venv env",
    ]


def test_the_wheel_is_what_a_node_needs(wheel):
    facts = examine(wheel, BUILD / "cuda12" / "bin")  # ends where something is wrong
    assert set(facts["gpu_code"]) == {"sm_80", "sm_90", "PTX"}
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True, check=True
    )
    assert facts["tag"].split(".")[0] in shown.stdout


def test_kernels_use_no_stack_and_no_local_memory(module):
    usage = subprocess.run(
        [cuda12(BUILD / "cuda12") / "cuobjdump", "--dump-resource-usage", module],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in usage.stdout.splitlines() if "REG:" in line]
    assert len(lines) > 10
    assert [line for line in lines if "STACK:0 " not in line or "LOCAL:0 " not in line] == []


def test_the_archive_alone_builds_the_same_wheel(wheel, tmp_path):
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    out = tmp_path / "out"
    out.mkdir()
    again = build_wheel(sdist, out, cuda12(BUILD / "cuda12"), tmp_path / "elsewhere")
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as mine, zipfile.ZipFile(again) as other:
        assert mine.namelist() == other.namelist()
        assert [name for name in mine.namelist() if mine.read(name) != other.read(name)] == []


OLD_LOADER = "ld-linux-x86-64.so.2"
MAIN = """
#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <stdio.h>
int main(int count, char** names) {
  void* library = dlopen(names[count - 1], RTLD_NOW);
  if (!library) { puts(dlerror()); return 1; }
  printf("%s %d\\n", gnu_get_libc_version(), ((int (*)(void))dlsym(library, "caught"))());
}
"""


def test_an_older_glibc_loads_it(module, tmp_path):
    """The loader and the libraries of glibc 2.31 find every symbol but Python's; threads and exceptions work there."""
    old = unpack("libc6", "bullseye", "main", tmp_path / "old") / "lib" / "x86_64-linux-gnu"
    loader = [old / OLD_LOADER, "--library-path", old]
    asked = {**os.environ, "LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "1", "LD_BIND_NOW": "1"}
    done = subprocess.run([*loader, module], env=asked, capture_output=True, text=True)
    assert f"libc.so.6 => {old}" in done.stdout
    missing = [line for line in (done.stdout + done.stderr).splitlines() if "undefined" in line or "not found" in line]
    assert missing
    assert [
        line for line in missing if "undefined symbol: Py" not in line and "undefined symbol: _Py" not in line
    ] == []

    (tmp_path / "probe.cpp").write_text(SOURCE)
    (tmp_path / "main.c").write_text(MAIN)
    stubs, *rest = link_flags(tmp_path / "stubs", FLOOR).split()
    build = ["g++", "-fPIC", "-shared", "-pthread", "probe.cpp", "-o", "probe.so", stubs, *rest, "-ldl"]
    for each in (build, ["gcc", "main.c", "-o", "main", stubs, "-ldl"]):
        subprocess.run(each, cwd=tmp_path, check=True)
    done = subprocess.run(
        [*loader, tmp_path / "main", tmp_path / "probe.so"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2.31 100\n"


def test_with_the_oldest_torch(wheel):
    seen = try_out(f"dali-icgan[cu12] @ {wheel.as_uri()}", ["torch==2.9.1"])
    assert seen["torch"].startswith("2.9.1")
    assert seen["imports"] == ["before torch", "after torch"]


def test_from_the_wheelhouse_without_a_network(wheel, tmp_path):
    shell(command("make wheelhouse"), ROOT)
    (tmp_path / "wheelhouse").symlink_to(ROOT / "dist" / "wheelhouse")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    shell(command("python3 -m venv env"), tmp_path, isolated(programs, offline=True))
    installed = tmp_path / "env" / "bin"
    seen = use(installed, isolated(installed, offline=True), tmp_path)
    assert seen["torch"] != "2.9.1"
    assert seen["dali"].startswith("nvidia-dali-cuda130")
