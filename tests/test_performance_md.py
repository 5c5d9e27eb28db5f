import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import performance_page
import readme

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


def loader_line(p, source=None, compaction=True, **more):
    peer = "DataLoader + PIL" + (" + eager generator" if p else "")
    return {
        **RUN,
        "case": "embedded",
        "p": p,
        "source": source,
        "compaction": compaction,
        "generator": "embedded" if p else None,
        "megapixels": 0.25,
        "workers": 0,
        "largest_difference_in_levels": 1.25 if p < 1 else None,
        "largest_relative_difference_of_generations": 1.5e-6 if p else None,
        "images_per_s": {peer: {"median": 111.0}, "dali_icgan": {"median": 222.0}},
        "ratio": FIGURE,
        **more,
    }


TRAINING = {
    **RUN,
    "model": "ResNet-18",
    "generator": "embedded",
    "steps_per_s": {"constant batch": FIGURE, "dali_icgan, p = 0.5": FIGURE},
    "kept": {"dali_icgan, p = 0.5": {"median": 0.987, "min": 0.9, "max": 1.0}},
    "waiting": {"constant batch": {"median": 0.0}, "dali_icgan, p = 0.5": {"median": 0.0125}},
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
    assert "## The loader" not in page
    assert "## Training" not in page


def test_the_loaders_lines_are_shown_newest_first_seen(tmp_path):
    old = loader_line(0.5, "bank", images_per_s={"DataLoader + PIL + eager generator": FIGURE, "dali_icgan": FIGURE})
    new = [
        loader_line(0),
        loader_line(0.5, "bank"),
        loader_line(0.5, "bank", compaction=False),
        loader_line(1, "online"),
    ]
    record(tmp_path, "loader", old, *new)
    lines = performance_page.page(tmp_path).splitlines()
    head = lines.index("### 1 core, 64 px, generator: embedded")
    assert lines[head + 3 : head + 7] == [
        "| 0 |  | stock |  | 111 images/s | 222 images/s | **2.0** (1.5 to 2.5) |",
        "| 0.5 | bank | stock | replaced rows | 111 images/s | 222 images/s | **2.0** (1.5 to 2.5) |",
        "| 0.5 | bank | stock | every row, then chooses | 111 images/s | 222 images/s | **2.0** (1.5 to 2.5) |",
        "| 1 | online | stock | replaced rows | 111 images/s | 222 images/s | **2.0** (1.5 to 2.5) |",
    ]
    assert "photographs within 1.2 of 255 levels, generations within 1.5e-06 of their norm." in "\n".join(lines)
    assert "taskset -c 0 python benchmarks/some.py --here" in lines


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


def test_another_generator_or_machine_is_another_table(tmp_path):
    lines = [loader_line(0.5, "bank"), loader_line(0.5, "bank", case="256 px"), loader_line(0.5, "bank", gpu="a GPU")]
    record(tmp_path, "loader", *lines)
    page = performance_page.page(tmp_path)
    for title in ("1 core, 64 px, generator: embedded", "1 core, 64 px, generator: 256 px", "a GPU, 64 px"):
        assert f"### {title}" in page
    assert "No GPU" not in page


def test_trainings_lines_are_shown(tmp_path):
    record(tmp_path, "training_share", TRAINING)
    lines = performance_page.page(tmp_path).splitlines()
    head = lines.index("### ResNet-18, 64 px, batch 7, 1 core, generator: embedded")
    assert lines[head + 3 : head + 5] == [
        "| constant batch | stock | 2.00 | 100% | 0.0% |",
        "| dali_icgan, p = 0.5 | stock | 2.00 | **99%** (90% to 100%) | 1.2% |",
    ]


def test_the_readme_shows_few_of_them(monkeypatch):
    runs = [
        loader_line(0, size=224, case=None),
        loader_line(0),
        *(loader_line(p, source) for p in (0.25, 0.5, 1) for source in ("bank", "online")),
        loader_line(0.5, "bank", compaction=False),
        loader_line(0.5, "bank", gpu="a GPU"),
        loader_line(0.5, "bank", generator="256 px", images=16),
    ]
    monkeypatch.setattr(readme, "newest", lambda file: runs)
    table = readme.loader_table().splitlines()
    assert [row.split(" | ")[:3] for row in table[2:-2]] == [
        ["| 0", "", "224"],
        ["| 0.5", "embedded", "64"],
        ["| 0.5", "256 px", "64"],
    ]
    assert "123 photographs of 0.25 megapixels on average, batch 7 (256 px: 16, batch 7)" in table[-1]


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
