import threading
import time

import pytest

from dali_icgan.data.workers import PATIENCE, Workers


def ours():
    return [thread for thread in threading.enumerate() if thread.name == "workers-test"]


@pytest.fixture
def workers():
    made = Workers(3, "workers-test")
    yield made
    made.close()
    assert not ours()


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_results_come_in_order(workers, n):
    assert workers.map(lambda x: time.sleep(0.001 * (x % 3)) or x * x, range(n)) == [x * x for x in range(n)]


def test_items_are_worked_on_at_once(workers):
    together = threading.Barrier(3)
    assert sorted(workers.map(lambda _: together.wait(20), range(3))) == [0, 1, 2]


def test_an_error_is_raised_and_the_threads_go_on(workers):
    with pytest.raises(ZeroDivisionError):
        workers.map(lambda x: 1 // x, [1, 0, 1])
    assert workers.map(lambda x: 1 // x, [1]) == [1]
    assert len(ours()) == 3


def test_ending_wakes_whoever_waits_for_one_that_hangs(workers):
    back, raised = threading.Event(), []

    def wait():
        try:
            workers.map(lambda _: back.wait(60), [0])
        except RuntimeError as error:
            raised.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    begun = time.monotonic()
    workers.end()
    waiting.join(30)
    assert raised == ["the threads were closed"]
    workers.join(time.monotonic() + 0.01)  # gives up
    assert time.monotonic() - begun < 20
    back.set()


def test_after_the_end_there_is_no_more_work(workers):
    workers.end()
    with pytest.raises(RuntimeError, match="the threads were closed"):
        workers.map(lambda x: x, [1])


def test_the_patience_is_less_than_what_a_user_waits():
    assert PATIENCE < 5
