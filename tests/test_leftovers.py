"""What a loader leaves behind: nothing. Each in a process of its own, whose memory and threads are the loader's alone."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests.file_kinds import KINDS
from tests.photos import jpeg, make_folder, photograph

pytestmark = pytest.mark.dali

PREAMBLE = """
import ctypes, gc, os, random, sys, warnings
import torch
import dali_icgan as di

folder = sys.argv[1]
generator = di.load_generator("embedded", device="cpu")
extractor = di.load_extractor("embedded", device="cpu")
augment = di.DAICGAN(generator=generator, extractor=extractor, p=0.1, microbatch=4)

def state():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps in reserve is not the loader's
    with open("/proc/self/statm") as file:
        bytes_used = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return bytes_used, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

def loader(**arguments):
    arguments = {"batch_size": 7, "shuffle": True, "seed": 1, "device": "cpu", "transform": di.TrainTransform(64), **arguments}
    return di.DataLoader(folder, **arguments)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images from 1 pixel to a megapixel, good and bad ones of every kind."""
    root = tmp_path_factory.mktemp("mixed")
    random = np.random.default_rng(0)
    photo = photograph("astronaut")
    for name in ("one", "two"):
        (root / name).mkdir()
    for i in range(40):
        height, width = (int(2 ** random.uniform(0, 9)) for _ in range(2))
        (root / "one" / f"{i:02d}.jpg").write_bytes(jpeg(photo[:height, :width]))
    (root / "one" / "large.jpg").write_bytes(jpeg(np.tile(photo, (2, 2, 1))))
    for i, kind in enumerate(KINDS):
        (root / "two" / f"{i:02d}.jpg").write_bytes(kind.data)
    return root


def run(body, folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(body), str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},  # glibc's arenas, one a thread, grow and shrink as they like
    )
    assert done.returncode == 0, done.stderr
    return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Good images only, about which nobody writes to stderr."""
    return make_folder(tmp_path_factory.mktemp("photos"))


EPOCHS = """
random.seed(0)
with loader(augment=augment, batch_size=20, views=2, max_pixels=900_000) as each:
    for epoch in range(int(sys.argv[2])):
        stop = random.choice([1, 3, 100, 100])
        for step, (images, labels) in enumerate(each):
            if step == stop:
                break
        images = labels = None
        print(*state())
"""


@pytest.mark.parametrize("epochs", [20, pytest.param(300, marks=pytest.mark.full)])
def test_epochs_use_no_more_memory_threads_or_descriptors(folder, epochs):
    states = run(EPOCHS, folder, epochs)
    third, last = states[2], states[-1]
    assert last[0] <= 1.05 * third[0]
    assert last[1] <= third[1]
    assert last[2] <= third[2]


LOADERS = """
def use(i):
    each = loader(augment=augment if i % 2 else None, batch_size=3 + i % 5)
    passing = iter(each)
    for _ in range(i % 4):
        next(passing)
    if i % 3 == 0:
        each.close()

for i in range(24):
    use(i)
    print(*state())
"""


def test_twenty_loaders_leave_nothing_behind(folder):
    states = run(LOADERS, folder)
    assert min(used for used, *_ in states[-6:]) <= 1.05 * states[3][0]
    assert {state[1:] for state in states[3:]} == {states[3][1:]}


# ---------------------------------------------------------------------- the end of a process


SECONDS_TO_END = 5
ENDINGS = {
    "an exception in the loop": ("for _ in each: ready(); raise KeyError('mine')", None, 1, "KeyError: 'mine'"),
    "sys.exit": ("for _ in each: ready(); sys.exit(3)", None, 3, ""),
    "Ctrl-C in the training step": ("for _ in each: ready(); time.sleep(60)", signal.SIGINT, -2, "KeyboardInterrupt"),
    "Ctrl-C while a generation hangs": (
        "hang(di.DAICGAN, 'generate'); ready(); list(each)",
        signal.SIGINT,
        -2,
        "KeyboardInterrupt",
    ),
    "Ctrl-C while the storage hangs": (
        "hang(dataset.Samples, 'read'); ready(); list(each)",
        signal.SIGINT,
        -2,
        "KeyboardInterrupt",
    ),
    "an exception while the storage hangs": (
        "passing = iter(each); next(passing); hang(dataset.Samples, 'read'); next(passing); ready(); raise KeyError('mine')",
        None,
        1,
        "KeyError: 'mine'",
    ),
    "a loader in a global": ("passing = iter(each); next(passing); ready()", None, 0, ""),
    "a loader in a cycle": (
        "each.me = each; passing = iter(each); next(passing); each.passing = passing; ready()",
        None,
        0,
        "",
    ),
    "a loader whose pass is over": ("list(each); ready()", None, 0, ""),
}
RARER = ("a loader in a cycle", "a loader whose pass is over")
ENDING = """
import signal, threading, time
from dali_icgan.data import dataset

signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal: background jobs inherit that it is ignored

def ready():
    print("ready", flush=True)

def hang(kind, name):
    setattr(kind, name, lambda *_: time.sleep(60))

augment.p = 0.5
each = loader(augment=augment, batch_size=4, prefetch_factor=1)
"""


@pytest.mark.parametrize(
    "ending",
    [pytest.param(name, marks=pytest.mark.full if name in RARER else ()) for name in ENDINGS],
)
def test_a_process_ends_soon_with_the_users_traceback_alone(photos, ending):
    body, send, status, last = ENDINGS[ending]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"{PREAMBLE}{ENDING}\n{body}", str(photos)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            if send is not None:
                time.sleep(0.5)
                process.send_signal(send)
            process.wait(SECONDS_TO_END)
        except (subprocess.TimeoutExpired, AssertionError):
            process.kill()
            pytest.fail(f"{ending}: {process.stderr.read()}")
        said = process.stderr.read().splitlines()
    assert process.returncode == status, said
    assert (said[-1] if said else "") == last
    assert sum("Traceback" in line for line in said) == bool(last)
