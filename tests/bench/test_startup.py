"""What a dataset costs until the first batch; figures are a machine's, fields are not."""

import json
import subprocess
import sys

import pytest

from dali_icgan.bench import startup
from dali_icgan.data import folder_cache, folder_index

pytestmark = pytest.mark.dali
list_folder = folder_index._list


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.setenv("DALI_ICGAN_CACHE", "off")  # measure sets it


@pytest.mark.parametrize("source", startup.SOURCES)
def test_a_case_has_all_figures(source, tmp_path, monkeypatch):
    n = folder_cache.LEAST_IMAGES if source == "folder, scanned before" else 1000
    startup.prepare(source, n, tmp_path)
    listed = []
    monkeypatch.setattr(folder_index, "_list", lambda path, *rest: listed.append(path) or list_folder(path, *rest))
    record = startup.measure(source, n, tmp_path)
    assert list(record) == [*("kind", "source", "entries", "first_batch_s", "state_s", "memory_mb", "per_entry_bytes")]
    assert (record["kind"], record["source"], record["entries"]) == ("startup", source, n)
    assert 0 < record["per_entry_bytes"] < 1000
    assert record["first_batch_s"] > 0
    assert (listed != []) == (source == "folder")


@pytest.mark.parametrize(
    ("source", "entries", "message"),
    [
        ("disk", 1000, "source must be one of 'list'"),
        ("list", 999, "entries must be at least 1000, one a class, got 999"),
    ],
)
def test_wrong_cases_are_named(source, entries, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        startup.prepare(source, entries, tmp_path)


def test_a_line_a_case(tmp_path):
    command = [sys.executable, "-m", "dali_icgan.bench.startup", "--entries", "1000", "--sources", "list", "--scratch"]
    done = subprocess.run([*command, tmp_path], stdout=subprocess.PIPE, check=True)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["source"] == "list"
    assert list(tmp_path.iterdir()) == []
