import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import reliability_page

ROOT = Path(__file__).parents[1]
RUN = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m tests.some",
    "commit": "abc",
    "processor": "a processor",
    "gpu": None,
    "torch": "9.9",
    "dali": "8.8",
    "python": "3.99",
}


def record(folder, name, *lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_page_is_the_recorded_runs():
    done = subprocess.run(
        [sys.executable, "benchmarks/reliability_page.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_recorded_run_has_a_mismatch():
    runs = (ROOT / "benchmarks" / "results" / "faults.jsonl").read_text().splitlines()
    assert runs
    assert all(json.loads(run)["mismatches"] == 0 for run in runs)


def test_a_section_for_each_kind_of_run_that_exists(tmp_path):
    assert "##" not in reliability_page.page(tmp_path)
    for name, title in (("faults", "Killed jobs"), ("soak", "Long runs"), ("fuzz", "Damaged and hostile files")):
        record(tmp_path, f"{name}.jsonl", {**RUN, "seed": 1, "domain": "x", "things": 1})
        assert f"## {title}" in reliability_page.page(tmp_path)


def test_the_newest_run_of_each_kind_is_shown(tmp_path):
    old, other = {**RUN, "domain": "bank", "mutants": 1}, {**RUN, "domain": "header", "mutants": 1234}
    new = {**RUN, "domain": "bank", "mutants": 2000, "seed": 5000, "outcomes": {"read": 1999, "refused_by_name": 1}}
    record(tmp_path, "fuzz.jsonl", old, other, new)
    lines = reliability_page.page(tmp_path).splitlines()
    assert "| domain | header | bank |" in lines
    assert "| mutants | 1,234 | 2,000 |" in lines
    assert "| seed |  | 5000 |" in lines
    assert "| outcomes |  | read: 1,999; refused by name: 1 |" in lines
    assert lines.count("* a processor, torch 9.9, DALI 8.8, Python 3.99, commit abc, 2026-01-02") == 1
