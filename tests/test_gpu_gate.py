import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def gate(*arguments, **environment):
    return subprocess.run(
        ["benchmarks/gpu_gate.sh", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "GATE_TESTS": "tests/test_floors.py", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.dali
def test_every_step_runs_on_a_cpu(tmp_path):
    done = gate(tmp_path / "out", "--fast", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in (tmp_path / "out" / "tests.txt").read_text()
    found = {}
    for name in ("assemble", "engine", "extractor"):
        lines = [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        assert lines
        assert all({"date", "commit", "command", "benchmark"} <= line.keys() for line in lines)
        assert name in done.stdout
        found[name] = lines
    took = next(line for line in done.stdout.splitlines() if line.startswith("took"))
    assert all(f"{part} " in took for part in ("build", "tests", *found, "bench", "in all"))
    the_loader_was_verified_and_measured(tmp_path / "out" / "bench" / "bench.jsonl")
    shown = [line for line in done.stdout.splitlines() if line.startswith("bench  ")]
    assert any("training" in line and " kept " in line for line in shown)


def the_loader_was_verified_and_measured(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"machine", "peer", "contract", "throughput", "training", "stage"} == {line["kind"] for line in lines}
    ours = [line for line in lines if line["kind"] == "contract" and line["peer"] == "dali_icgan"]
    assert [(line["p"], line["accepted"]) for line in ours] == [(0, True), (0.5, True), (0.5, True)]
    measured = {(r["p"], r["source"], r["compaction"], r["allocator"]) for r in lines if r["kind"] == "throughput"}
    assert {
        (0, None, True, "stock"),
        (0.5, "bank", True, "stock"),
        (0.5, "bank", False, "stock"),
        (0.5, "online", True, "stock"),
        (0, None, True, "raised thresholds"),
        (0.5, "bank", True, "raised thresholds"),
    } <= measured


def test_a_failing_test_fails_the_gate(tmp_path):
    (tmp_path / "test_bad.py").write_text("def test_bad():\n    assert False\n")
    only = {"GATE_TESTS": str(tmp_path / "test_bad.py"), "GATE_BENCHMARKS": "assemble"}
    done = gate(tmp_path / "out", "--fast", "--device", "cpu", **only)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert {path.name for path in (tmp_path / "out").glob("*.jsonl")} == {"assemble.jsonl"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = gate(tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout.strip() == "gpu_gate: torch sees no CUDA device on this machine"


def test_without_dali_the_rest_runs(tmp_path):
    hidden = tmp_path / "hidden" / "nvidia" / "dali"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden for a test')\n")
    (hidden.parent / "__init__.py").write_text("__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n")
    done = gate(tmp_path / "out", "--fast", "--device", "cpu", PYTHONPATH=str(tmp_path / "hidden"))
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("DALI MISSING")
    assert not (tmp_path / "out" / "bench").exists()
