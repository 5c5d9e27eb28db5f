import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import reliability_page

from tests.fuzz import DOMAINS

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


def test_no_mutant_was_wrong_and_no_soak_has_faults():
    results = ROOT / "benchmarks" / "results"
    mutants = [json.loads(run) for run in (results / "fuzz.jsonl").read_text().splitlines()]
    assert {run["domain"] for run in mutants} >= {"image_header", *DOMAINS}
    newest = {run["domain"]: run for run in mutants}
    assert all("wrong" not in run["outcomes"] for run in newest.values())
    soaks = [json.loads(run) for run in (results / "soak.jsonl").read_text().splitlines()]
    assert soaks
    assert soaks[-1]["faults"] == "none"


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
    assert "| domain | mutants | seed | outcomes | date |" in lines  # a row a domain
    assert "| header | 1,234 |  |  | 2026-01-02 |" in lines
    assert "| bank | 2,000 | 5000 | read: 1,999; refused by name: 1 | 2026-01-02 |" in lines
    assert lines.count("* a processor, torch 9.9, DALI 8.8, Python 3.99, commit abc, 2026-01-02") == 1
