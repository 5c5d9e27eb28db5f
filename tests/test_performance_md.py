import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import performance_page

ROOT = Path(__file__).parents[1]
FIGURE = {"median": 2.0, "min": 1.5, "max": 2.5}
RUN = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python benchmarks/some.py --here",
    "processor": "a processor",
    "instruction_sets": ["avx2"],
    "gpu": None,
    "torch": "9.9",
    "dali": "8.8",
    "cores": 1,
    "allocator": "stock",
    "size": 64,
    "batch_size": 7,
    "images": 123,
}


def record(folder, benchmark, *lines):
    folder.mkdir(exist_ok=True)
    (folder / f"{benchmark}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_page_is_the_recorded_runs():
    done = subprocess.run(
        [sys.executable, "benchmarks/performance_page.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_was_not_measured_is_left_out(tmp_path):
    page = performance_page.page(tmp_path)
    assert "No GPU" in page
    assert "## The extractor" not in page
    assert "### Predicted beside measured" not in page


def test_attention_and_forms_are_shown(tmp_path):
    lines = [
        {**RUN, "threads": 1, "dtype": "float32", "instructions": name, "case": "256 px", "ratio": {"torch": FIGURE}}
        | {"images_per_s": {"dali_icgan": FIGURE, "torch": FIGURE}, "instruction_sets": ["avx2", "avx512f"]}
        for name in ("avx512", "avx2")
    ]
    record(tmp_path, "attention", *lines)
    (name, tiles), *_ = json.loads(performance_page.FORMS.read_text()).items()
    key, tile = next(iter(tiles.items()))
    seconds = {"1": 0.5, "2": 0.25, "3": 0.25, "4": 0.125, "5": 0.125}
    record(tmp_path, "forms", {**RUN, "table": name, "case": "small", "seconds": {key: seconds}, "rule": {key: 1}})
    page = performance_page.page(tmp_path)
    assert "### AVX2, float32, 1 thread" in page
    assert "| 256 px | 7 | 2 images/s | 2 images/s | **2.0** (1.5 to 2.5) |" in page
    assert "ATEN_CPU_CAPABILITY=avx2 taskset -c 0 python benchmarks/some.py --here" in page
    saved = 1e3 * seconds[str(tile)]
    assert f"| {name} | small | 1 | {int(tile != 1)} | 500 ms | {saved:.4g} ms |" in page


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
    said = "\n".join(performance_page.sections(performance_page.EXTRACTOR, records))
    assert "## The extractor" in said
    assert "as `extractor.prepare(n).describe()` prints it" in said
    assert f"**{records[0]['ratio']['eager']['median']:.1f}**" in said
