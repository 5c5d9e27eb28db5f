import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("performance_page", ROOT / "benchmarks" / "performance_page.py")
page = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = page  # dataclasses look there
spec.loader.exec_module(page)


def test_the_page_is_the_recorded_runs():
    done = subprocess.run(
        [sys.executable, "benchmarks/performance_page.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("dtype", "most", "others"), [("float32", 2e-5, set()), ("bfloat16", 5e-2, {"dali_icgan, float32"})]
)
def test_the_benchmark_verifies_and_measures(tmp_path, dtype, most, others):
    """A window of each contestant, of the smallest generator."""
    out = tmp_path / "engine.jsonl"
    command = "benchmarks/engine.py --case embedded --device cpu --batch-size 2 --threads 1 --seconds 0.01 --rounds 1 --dtype "
    subprocess.run(
        [sys.executable, *command.split(), dtype, "--out", str(out)], cwd=ROOT, check=True, capture_output=True
    )
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["allocator"] for record in records] == ["stock", "raised thresholds"]
    for record in records:
        assert record["relative_error"]["dali_icgan"] < most
        assert set(record["ratio"]) == {"eager", "eager, contiguous"} | others
        assert record["layers"].startswith("layer")


def test_the_extractors_benchmark_verifies_and_measures(tmp_path):
    """A window of each contestant, of the smallest extractor; the page takes its lines."""
    out = tmp_path / "extractor.jsonl"
    command = (
        "benchmarks/extractor.py --case embedded --device cpu --batch-size 2 --threads 1 --seconds 0.01 --rounds 1"
    )
    subprocess.run([sys.executable, *command.split(), "--out", str(out)], cwd=ROOT, check=True, capture_output=True)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["allocator"] for record in records] == ["stock", "raised thresholds"]
    for record in records:
        assert record["one_minus_cosine"]["dali_icgan"] < 1e-10
        assert set(record["ratio"]) == {"eager"}
        assert record["layers"].startswith("layer")
    said = "\n".join(page.sections(page.EXTRACTOR, records))
    assert "## The extractor" in said
    assert "as `extractor.prepare(n).describe()` prints it" in said
    assert f"**{records[0]['ratio']['eager']['median']:.1f}**" in said
