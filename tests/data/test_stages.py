import gc
import itertools
import threading
import time

import pytest
import torch

from dali_icgan.data.buffers import HostBuffers
from dali_icgan.data.stages import Stages


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("stages-test")]


def run(source, steps, look_ahead=3, on_full=lambda full: None):
    return Stages(iter(source), steps, look_ahead, "stages-test", on_full)


def eventually(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def double(x):
    return 2 * x


def add_one(x):
    return x + 1


def test_results_come_in_order():
    stages = run(range(100), [double, add_one])
    assert [stages.next(5) for _ in range(100)] == [2 * x + 1 for x in range(100)]
    for _ in range(3):
        with pytest.raises(StopIteration):
            stages.next(5)
    stages.close()
    assert not ours()


def test_no_more_is_begun_than_the_look_ahead():
    begun = []
    stages = run((begun.append(x) or x for x in range(100)), [double], look_ahead=4)
    eventually(lambda: len(begun) == 4)
    time.sleep(0.1)
    assert len(begun) == 4
    stages.next(5)
    eventually(lambda: len(begun) == 5)
    time.sleep(0.1)
    assert len(begun) == 5
    stages.close()


def test_on_full_says_when_nothing_more_will_come():
    said = []
    stages = run(range(4), [double], look_ahead=2, on_full=said.append)
    eventually(lambda: said == [True])
    for _ in range(4):
        stages.next(5)
    eventually(lambda: not any(thread.name.endswith("-plan") for thread in ours()))
    assert said == [True, False] * (len(said) // 2) + [True]  # full and on by turns, then the end
    assert len(said) >= 3
    stages.close()


@pytest.mark.parametrize("where", ["source", "step"])
def test_an_error_comes_where_its_item_would(where):
    def source():
        yield from (1, 2)
        if where == "source":
            raise KeyError("the cause")
        yield 3

    def step(x):
        if x == 3:
            raise KeyError("the cause")
        return x

    stages = run(source(), [step, double])
    assert stages.next(5) == 2
    assert stages.next(5) == 4
    with pytest.raises(KeyError, match="the cause"):
        stages.next(5)
    eventually(lambda: not ours())
    with pytest.raises(StopIteration):
        stages.next(5)


def test_a_timeout():
    back = threading.Event()
    stages = run([1], [lambda x: back.wait(30)])
    with pytest.raises(TimeoutError, match=r"no batch within 0.05 s"):
        stages.next(0.05)
    begun = time.monotonic()
    stages.close()
    assert time.monotonic() - begun < 10  # not for what is stuck
    back.set()
    eventually(lambda: not ours())


def test_closing_in_the_middle_and_dropping_leave_no_thread():
    stages = run(itertools.count(), [double, add_one])
    stages.next(5)
    stages.close()
    assert not ours()
    stages = run(itertools.count(), [double, add_one])
    stages.next(5)
    del stages
    gc.collect()
    assert not ours()


def test_buffers_come_back_only_when_nobody_holds_them():
    buffers = HostBuffers(2)
    batch = buffers.empty((4, 3, 5), torch.float32)
    address = batch.data_ptr()
    kept = batch[2].numpy()
    del batch
    gc.collect()
    assert buffers.empty((4, 3, 5), torch.float32).data_ptr() != address
    del kept
    again = [buffers.empty((4, 3, 5), torch.float32) for _ in range(2)]
    assert address in {tensor.data_ptr() for tensor in again}


def test_buffers_of_another_size_are_let_go():
    buffers = HostBuffers(2)
    del_me = buffers.empty((8,), torch.float32)
    del del_me
    tensor = buffers.empty((9,), torch.float64)
    assert tensor.shape == (9,)
    tensor.fill_(1)
    assert buffers.empty((0, 3), torch.float16).shape == (0, 3)
