"""The short form of ``make fuzz``; the header parser's is in tests/ops/test_image_header.py."""

import pytest

from tests.fuzz import DOMAINS
from tests.fuzz.child import mutant
from tests.fuzz.runner import check_file, fuzz

pytestmark = pytest.mark.dali
FEWER = {"run_folder": 60, "loader": 100, "state": 100, "settings": 40}


@pytest.mark.parametrize("domain", DOMAINS)
def test_mutants_load_as_something_valid_or_are_refused(domain, tmp_path):
    report = fuzz(domain, FEWER.get(domain, 300), 11, tmp_path)
    assert report.findings == {}
    assert report.outcomes["wrong"] == 0
    assert len(report.outcomes) > 1  # mutants are not all refused, nor all sound


def test_a_mutant_is_a_function_of_the_seed():
    from tests.fuzz import bank

    assert mutant(bank, 1, 5) == mutant(bank, 1, 5) != mutant(bank, 2, 5)


BROKEN = """
import os, time
from pathlib import Path
NAMED, MUTANTS = "mutant", 10

def seeds():
    return [b""]

def mutant(random):
    return bytes([random.randrange(7)])

def check(data, folder):
    if data == b"\\0":
        raise KeyError("x")
    if data == b"\\1":
        os.abort()
    if data == b"\\2":
        time.sleep(60)
    if data == b"\\3":
        bytearray(10 << 30)
    if data == b"\\4":
        raise ValueError("which file?")
    if data == b"\\5":
        os.system("true")
    return "loaded"
"""


def test_a_reader_that_crashes_hangs_or_runs_something_is_found(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    import tests.fuzz

    monkeypatch.setattr(tests.fuzz, "__path__", [*tests.fuzz.__path__, str(tmp_path)])
    monkeypatch.setenv("DALI_ICGAN_FUZZ_DOMAINS", str(tmp_path))
    report = fuzz("broken", 9, 18, tmp_path / "kept", patience=4)
    found = sorted(report.findings.values())
    for what in ("KeyError", "a crash: SIGABRT", "no answer", "MemoryError", "does not name mutant", "os.system"):
        assert any(what in why for why in found), (what, found)
    assert report.outcomes["loaded"] > 0
    file = next(file for file, why in report.findings.items() if "KeyError" in why)
    assert file.read_bytes() == b"\0"
    assert check_file("broken", file).startswith("!KeyError")
