"""A link against stubs needs an older glibc than this machine's, and the result runs here."""

import ctypes
import subprocess
from types import SimpleNamespace

import pytest

from release.elf import Library, Offered, version_numbers
from release.glibc import link_flags, older

SOURCE = """
#include <cmath>
#include <dlfcn.h>
#include <memory>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <thread>

extern "C" int caught() {   // an exception, through two frames and a thread of libstdc++
  int value = 0;
  std::thread([&] {
    try {
      throw std::runtime_error(std::string(100, 'x'));
    } catch (const std::exception& error) {
      value = int(std::string(error.what()).size());
    }
  }).join();
  return value;
}
extern "C" void* opened() { return dlopen(nullptr, RTLD_NOW); }
extern "C" double raised(double x) { return std::pow(x, 1.5) + std::exp(x); }
extern "C" int shared() { auto p = std::make_shared<int>(7); auto q = p; return *q; }
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linked")
    (folder / "probe.cpp").write_text(SOURCE)

    def link(name, flags):
        command = ["g++", "-O1", "-fPIC", "-shared", "-pthread", folder / "probe.cpp", "-o", folder / name]
        subprocess.run([*map(str, command), *flags.split(), "-ldl"], check=True)
        return folder / name

    return link("old.so", link_flags(folder / "stubs", (2, 28))), link("new.so", "")


def test_the_link_needs_glibc_alone_and_an_old_one(linked):
    old = Library(linked[0])
    assert set(old.needed) >= {"libc.so.6", "libpthread.so.0", "libdl.so.2"}
    assert {name.split(".so")[0] for name in old.needed} <= {
        "libc",
        "libm",
        "libpthread",
        "libdl",
        "librt",
        "ld-linux-x86-64",
    }
    assert (2, 2, 5) <= old.highest("GLIBC") <= (2, 28)
    assert old.highest("GLIBCXX") == old.highest("GCC") == ()
    homes = {each.name: each.library for each in old.asked}
    assert homes["pthread_create"] == "libpthread.so.0"
    assert homes["dlopen"] == "libdl.so.2"
    assert [each for each in old.asked if not each.version and not each.weak] == []
    assert "libstdc++.so.6" in Library(linked[1]).needed


def test_the_result_runs_here(linked):
    old, new = map(ctypes.CDLL, linked)
    assert old.caught() == new.caught() == 100
    assert old.shared() == 7
    assert old.opened()
    old.raised.restype = new.raised.restype = ctypes.c_double
    old.raised.argtypes = new.raised.argtypes = [ctypes.c_double]
    assert old.raised(1.25) == new.raised(1.25)


def test_an_even_older_one(tmp_path):
    (tmp_path / "probe.c").write_text("#include <string.h>\nvoid copy(char* a, char* b, long n) { memcpy(a, b, n); }")
    for floor, version in (((2, 13), (2, 2, 5)), ((2, 14), (2, 14))):
        flags = link_flags(tmp_path / "stubs", floor).split()
        out = tmp_path / "probe.so"
        subprocess.run(
            ["gcc", "-fPIC", "-fno-builtin", "-shared", tmp_path / "probe.c", "-o", out, flags[0]], check=True
        )
        asked = {each.name: version_numbers(each.version) for each in Library(out).asked}
        assert asked["memcpy"] == version


def symbol(name, version, default=True, kind="STT_FUNC"):
    return Offered(name, version, default, kind)


def test_what_an_older_glibc_had():
    host = {
        "libc.so.6": SimpleNamespace(
            offered=[
                symbol("pthread_create", "GLIBC_2.34"),
                symbol("pthread_create", "GLIBC_2.2.5", default=False),
                symbol("dlsym", "GLIBC_2.34"),
                symbol("dlsym", "GLIBC_2.2.5", default=False),
                symbol("pthread_self", "GLIBC_2.2.5"),
                symbol("memcpy", "GLIBC_2.14"),
                symbol("memcpy", "GLIBC_2.2.5", default=False),
                symbol("arc4random", "GLIBC_2.36"),
                symbol("_dl_private", "GLIBC_PRIVATE"),
                symbol("errno", "GLIBC_2.2.5", kind="STT_TLS"),
            ]
        ),
        "libm.so.6": SimpleNamespace(
            offered=[symbol("exp", "GLIBC_2.29"), symbol("exp", "GLIBC_2.2.5", default=False)]
        ),
        "libpthread.so.0": SimpleNamespace(offered=[symbol("old_one", "GLIBC_2.2.5")]),
        "libdl.so.2": SimpleNamespace(offered=[]),
    }
    found = {
        library: {(each.name, version) for version, symbols in versions.items() for each in symbols}
        for library, versions in older(host, (2, 28)).items()
    }
    assert found == {
        "libc.so.6": {("pthread_self", "GLIBC_2.2.5"), ("memcpy", "GLIBC_2.14")},
        "libm.so.6": {("exp", "GLIBC_2.2.5")},
        "libpthread.so.0": {("pthread_create", "GLIBC_2.2.5"), ("old_one", "GLIBC_2.2.5")},
        "libdl.so.2": {("dlsym", "GLIBC_2.2.5")},
    }


def test_versions():
    assert version_numbers("GLIBC_2.2.5") == (2, 2, 5) < version_numbers("GLIBC_2.28")
    assert version_numbers("GLIBC_PRIVATE") == version_numbers("") == ()
