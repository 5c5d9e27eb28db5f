"""What is measured is what happened."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from dali_icgan.bench.measure import Contestant, contest, cpu_seconds, memory_mb, peak_memory, watched
from dali_icgan.bench.peers.peer import Batch, Opened
from dali_icgan.bench.record import Lines, back_and_forth, command, machine, on_cores, rounded, windows
from dali_icgan.bench.stages import arithmetic
from dali_icgan.bench.training import CONSTANT, Training, train
from tests.bench.scenes import CPU

BUSY = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass\nprint('x', flush=True); input()"


def batches(rows, seconds=0.0):
    def run():
        time.sleep(seconds)
        yield Batch(np.arange(rows), torch.rand(rows, 3, 32, 32), torch.zeros(rows, dtype=torch.int64))

    return Opened(run)


def child(code):
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processor_time_of_children_counts_before_and_after_they_end():
    before = cpu_seconds()
    with child(BUSY.format(0.3)) as running:
        assert running.stdout.readline() == "x\n"
        living = cpu_seconds() - before
        running.communicate("\n")
    assert 0.29 < living < 2
    assert cpu_seconds() - before >= living - 0.02


def test_memory_of_children_counts():
    before = memory_mb()
    with child("b = bytearray(64 << 20); print('x', flush=True); input()") as running:
        running.stdout.readline()
        with_child = memory_mb()
        running.communicate("\n")
    assert 60 < with_child - before < 200


def test_the_peak_of_memory_is_seen():
    with peak_memory() as risen:
        held = np.ones(8 << 20)
        time.sleep(0.4)
        del held
    assert 60 < risen() < 200


def test_threads_are_held_to_cores_and_let_go():
    before, seen = os.sched_getaffinity(0), []
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), seen.append(os.sched_getaffinity(0))))
    thread.start()
    with on_cores(1):
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
        go.set()
        thread.join()
    assert [len(each) for each in seen] == [1]
    assert os.sched_getaffinity(0) == before


def test_windows_alternate():
    turns = []
    calls = {name: lambda name=name: turns.append(name) or 3 for name in "ab"}
    rates = windows(calls, 0, 3)
    assert turns == [] or "".join(turns)  # a window of no seconds may be over before its first call
    assert back_and_forth(["a", "b"], 1) == ["b", "a"]
    rates = windows(calls, 0.001, 3)
    assert all(len(rate) == 3 for rate in rates.values())


def test_a_contest_has_a_line_of_each():
    slow = Contestant("slow", lambda: batches(8, 0.02), {"generator": "eager"})
    closed = []

    def fast():
        opened = batches(8)
        opened._close = lambda: closed.append(True)
        return opened

    found = contest([slow, Contestant("fast", fast, {"one_off_s": 7.0})], CPU, 0.01, 3)
    assert [record["peer"] for record in found] == ["slow", "fast"]
    assert all(len(record["images_per_s"]) == 3 for record in found)
    assert max(found[0]["images_per_s"]) <= 8 / 0.02
    assert found[0]["first_batch_s"] >= 0.02
    assert found[0]["generator"] == "eager"
    assert found[1]["one_off_s"] == 7.0
    assert closed == [True]


def test_what_a_contestant_costs_is_by_image():
    def run():
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        yield from batches(10)

    _, figures = watched(lambda: Opened(run, one_off_s=2.0), CPU)
    assert 9 <= figures["cpu_s_per_1000"] <= 25
    assert figures["one_off_s"] == 2.0
    assert figures["one_off_images"] == 10
    assert figures["gpu_memory_mb"] is None


def test_training_is_held_against_a_constant_batch():
    training = Training(CPU, 10)
    fed = {"slow": (batches(2, 0.05), {"peer": "slow", "p": 0})}
    (record,) = train(training, fed, 0.1, 2)
    assert record["network"] == "ResNet-18"
    assert len(record["images_per_s"]) == len(record["constant_images_per_s"]) == 2
    assert 0 < record["waiting"] < 1
    ratios = [a / b for a, b in zip(record["images_per_s"], record["constant_images_per_s"], strict=True)]
    assert record["kept"] == pytest.approx(np.median(ratios), rel=1e-2)
    assert CONSTANT not in {record["peer"]}


def test_the_arithmetic_of_a_row():
    real = {"read": 1.0, "decode": 10.0, "assemble": 1000.0}
    made = {"generate": 100.0, "assemble": 2000.0}
    records = [{"stage": name, "case": None, "seconds_per_image": seconds} for name, seconds in real.items()]
    records += [{"stage": name, "case": "embedded", "seconds_per_image": seconds} for name, seconds in made.items()]
    assert arithmetic(records, 0, 1) == 1011
    assert arithmetic(records, 0.25, 2) == (0.25 * 2100 + 0.75 * 1011) / 2
    assert arithmetic(records, 1, 1) == 2100


def test_a_run_says_where_it_ran(tmp_path, monkeypatch):
    found = machine()
    wanted = {"kind", "date", "command", "commit", "version", "processor", "cpu_flags", "cores", "memory_mb", "cpu_mhz"}
    assert wanted | {"gpu", "gpu_clocks", "versions"} == found.keys()
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"]
    assert found["cores"] == len(os.sched_getaffinity(0))
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/dali-icgan", "bench", "--data", "/home/me/secret/images"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command() == "dali-icgan bench --data images"


def test_lines_are_whole_and_rounded(tmp_path):
    lines = Lines(tmp_path / "new" / "bench.jsonl")
    lines.add({"a": 1})
    lines.add({"b": None})
    assert lines.path.read_text() == '{"a": 1}\n{"b": null}\n'
    assert rounded(1234.567) == 1235
    assert rounded(None) is None
