import threading

import pytest
import torch

from tests.traces import calls, ids_of, traced


def event(cat, name, ts, tid=7, dur=1.0, **args):
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur, "args": args}


STEPS = event("user_annotation", "steps", 100.0, dur=100.0)
# As the profiler writes them: a copy's own event has the stream as its thread, and the number of the call that began it.
TRACE = {
    "traceEvents": [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0, "args": {"name": "python"}},
        STEPS,
        event("gpu_user_annotation", "steps", 101.0, tid=20, dur=99.0),
        event("cpu_op", "aten::copy_", 109.0),
        event("cuda_runtime", "cudaLaunchKernel", 110.0, correlation=1),
        event("kernel", "assemble_kernel", 112.0, tid=20, correlation=1),
        event("cuda_runtime", "cudaMemcpyAsync", 120.0, correlation=2),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 121.0, tid=20, correlation=2),
        event("cuda_runtime", "cudaMemcpyAsync", 130.0, tid=8, correlation=3),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 250.0, tid=20, correlation=3),  # ran after the range
        event("cuda_runtime", "cudaStreamSynchronize", 140.0, tid=8, correlation=4),
        event("cuda_runtime", "cudaGraphLaunch", 150.0, correlation=5),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 151.0, tid=20, correlation=5),
        event("cuda_runtime", "cudaEventSynchronize_v3020", 160.0, correlation=6),
        event("cuda_runtime", "cudaStreamWaitEvent", 165.0, correlation=7),  # the stream waits, the host does not
        event("cuda_driver", "cuLaunchKernel", 170.0, tid=9, correlation=8),
        # The profiler's own, before and after.
        event("cuda_runtime", "cudaDeviceSynchronize", 90.0, correlation=9),
        event("cuda_runtime", "cudaDeviceSynchronize", 210.0, correlation=10),
        event("cuda_runtime", "cudaMemcpyAsync", 95.0, correlation=11),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 110.0, tid=20, correlation=11),
    ]
}


def test_waits_and_copies_back_within_the_range():
    found = calls(TRACE)
    assert found.waits == ["cudaStreamSynchronize", "cudaEventSynchronize"]
    assert found.to_host == ["cudaMemcpyAsync", "cudaGraphLaunch"]
    assert len(found.made) == 8


def test_of_some_threads():
    assert calls(TRACE, {8}).waits == ["cudaStreamSynchronize"]
    assert calls(TRACE, {8}).to_host == ["cudaMemcpyAsync"]
    assert calls(TRACE, {9}).made == ["cuLaunchKernel"]
    assert calls(TRACE, {9}).waits == calls(TRACE, {9}).to_host == []
    assert calls(TRACE, {10}).made == []


@pytest.mark.parametrize("ranges", [[], [STEPS, STEPS]], ids=len)
def test_there_must_be_one_range(ranges):
    with pytest.raises(ValueError, match=f"one range 'steps', got {len(ranges)}"):
        calls({"traceEvents": ranges})


def test_a_real_trace_has_the_range(tmp_path):
    trace = traced(lambda: torch.ones(3).sum(), tmp_path / "trace.json")
    names = {e["name"] for e in trace["traceEvents"] if e.get("cat") == "cpu_op"}
    assert "aten::sum" in names
    if not torch.cuda.is_available():
        assert calls(trace).made == []


def test_a_thread_goes_by_several_numbers():
    ids = ids_of([threading.current_thread()])
    assert threading.get_native_id() in ids
    assert threading.get_ident() & 0xFFFFFFFF in ids
    assert all(0 <= number < 2**32 for number in ids if number >= 0)
    other = threading.Thread(target=threading.Event().wait, args=(1,), daemon=True)
    other.start()
    assert not ids & ids_of([other])


@pytest.mark.gpu
def test_a_real_trace_shows_a_copy_back_and_by_whom(tmp_path):
    ones, size = torch.ones(1000, device="cuda"), []

    def steps():
        (ones + 1).cpu()  # the host waits for it
        thread = threading.Thread(target=lambda: size.append(ids_of([threading.current_thread()])) or ones.sum().item())
        thread.start()
        thread.join()

    trace = traced(steps, tmp_path / "trace.json")
    everybody, mine = calls(trace), calls(trace, ids_of([threading.current_thread()]))
    assert len(everybody.to_host) == 2
    assert len(mine.to_host) == len(calls(trace, size[0]).to_host) == 1
    assert mine.waits
