"""Several ranks: sharding, equal pixels, banks and figures computed together, and what happens when one of them is gone."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, WeightedRandomSampler

import dali_icgan as di
from dali_icgan.data.order import ShardedOrder
from dali_icgan.ranks import Ranks
from tests.photos import make_folder
from tests.processes import RankProcesses
from tests.untrained import FOLDER as MODELS

pytestmark = pytest.mark.dali
N = 27
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("photos") / "train", 9)
    (folder / "coffee" / "004.jpg").write_bytes(b"no image")
    return folder


def models():
    generator = di.load_generator(MODELS / "generator.safetensors", device="cpu")
    extractor = di.load_extractor(MODELS / "extractor.safetensors", device="cpu", resolution=generator.resolution)
    return generator, extractor


def build(folder, path, **options):
    return di.FeatureBank.build(folder, models()[1], path, batch_size=4, progress=False, **options)


# ---------------------------------------------------------------------- one job


def test_alone_nothing_waits():
    alone = Ranks.here()
    assert (alone.rank, alone.world, list(alone.share(5))) == (0, 1, [0, 1, 2, 3, 4])
    alone.barrier("x")
    assert alone.gather(3, "x") == [3]
    assert alone.gather_share([1, 2], "x") == [1, 2]
    assert alone.from_first("x", lambda: 4) == 4
    with pytest.raises(ValueError, match="shard must be None or False, got 2"):
        Ranks.here(2)


@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_shares_hold_each_number_once(n):
    shares = [Ranks(rank, 5).share(n) for rank in range(5)]
    assert sorted(i for share in shares for i in share) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def together():
    ranks = Ranks.here()
    shares = ranks.gather_share([i * i for i in ranks.share(10)], "sharing")
    return [ranks.rank, shares, ranks.gather(ranks.rank, "gathering"), ranks.from_first("making", os.getpid)]


def test_a_job_shares_and_gathers(tmp_path):
    with RankProcesses(together, 3, folder=tmp_path) as job:
        first, *others = job.results(60)
        assert first == [0, [i * i for i in range(10)], [0, 1, 2], job.processes[0].pid]
        assert others == [[rank, None, None, first[3]] for rank in (1, 2)]


def failing(rank, where):
    ranks = Ranks.here()

    def make():
        if ranks.rank == rank and where == "from_first":
            raise OSError("the disk is full")

    with ranks.together("the work"):  # around it, as a bank's building has it
        ranks.from_first("the beginning", make)
        if ranks.rank == rank:
            raise ValueError("my own mistake")
        ranks.barrier("the end")


@pytest.mark.parametrize(("rank", "where"), [(0, "from_first"), (0, "body"), (2, "body")])
def test_who_fails_tells_the_others(tmp_path, rank, where):
    with RankProcesses(failing, 3, (rank, where), folder=tmp_path) as job:
        job.wait(30)
        own = "OSError: the disk is full" if where == "from_first" else "ValueError: my own mistake"
        doing = "the beginning" if where == "from_first" else "the end"
        for each in range(3):
            told = f"RankError: rank {rank} of 3 failed in {doing}: {own}"
            assert job.error(each) == (own if each == rank else told)


def recovering():
    ranks = Ranks.here()

    def make():
        raise OSError("no")

    try:
        with ranks.together("the work"):
            ranks.from_first("the beginning", make)
    except (OSError, di.RankError) as error:
        said = type(error).__name__
    return [said, ranks.gather(ranks.rank, "what comes next")]


def test_behind_a_failure_ranks_are_still_in_step(tmp_path):
    with RankProcesses(recovering, 3, folder=tmp_path, timeout=20) as job:
        assert job.results(60) == [["OSError", [0, 1, 2]], ["RankError", None], ["RankError", None]]


def waiting(folder):
    ranks = Ranks.here()
    for step in range(1000):
        Path(folder, f"{ranks.rank}.step").write_text(str(step))
        ranks.barrier(f"step {step}")
        time.sleep(0.02)


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_rank_ends_the_others(tmp_path, lost, how):
    """Killed: at once, its connections are gone. Hanging: after the timeout."""
    with RankProcesses(waiting, 3, (str(tmp_path),), folder=tmp_path, timeout=3) as job:
        others = [rank for rank in range(3) if rank != lost]
        begun(job, lambda: all((tmp_path / f"{rank}.step").exists() for rank in range(3)))
        getattr(job, how)(lost)
        codes = job.wait(30, others)
        assert [codes[rank] for rank in others] == [1, 1]
        for rank in others:
            assert f"RankError: rank {rank} of 3 waited in vain for the others in step" in job.error(rank)


def begun(job, there, seconds=60):
    """Wait until a job has come so far."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        assert len(job.alive()) == job.world, [job.error(rank) for rank in range(job.world)]
        time.sleep(0.005)


# ---------------------------------------------------------------------- the loader


def epoch(folder, bank, arguments):
    """{index: digest of its pixels} of this rank, and how many batches it was promised and got."""
    generator, _ = models()
    augment = di.DAICGAN(generator=generator, bank=bank, p=0.5)
    loader = di.DataLoader(
        folder,
        augment=augment,
        transform=di.TrainTransform(32),
        seed=3,
        device="cpu",
        return_info=True,
        **arguments,
    )
    digests, batches = [], 0
    for images, _, info in loader:
        batches += 1
        for i, index in enumerate(info["index"].tolist()):
            digests.append([index, int(info["repeat"][i]), hashlib.sha256(images[i].numpy().tobytes()).hexdigest()])
    return [digests, len(loader), batches]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("good") / "train", 9)


@pytest.fixture(scope="module")
def bank(good, tmp_path_factory):
    path = tmp_path_factory.mktemp("banks") / "bank"
    build(good, path)
    return path


def test_pixels_know_nothing_of_ranks(good, bank, tmp_path):
    found = []
    for world, batch_size in ((1, 5), (2, 4), (3, 2), (8, 3)):
        arguments = {"batch_size": batch_size, "shuffle": True, "remainder": "uneven"}
        with RankProcesses(epoch, world, (str(good), str(bank), arguments), folder=tmp_path) as job:
            results = job.results(120)
        assert [promised for _, promised, _ in results] == [got for *_, got in results]
        found.append(sorted(row for digests, *_ in results for row in digests))
    assert [index for index, *_ in found[0]] == list(range(N))
    assert all(each == found[0] for each in found)


def in_step(folder, arguments):
    """Every step waits for all ranks, as gradients do: it hangs where counts differ."""
    loader = di.DataLoader(folder, transform=di.TrainTransform(16), device="cpu", **arguments)
    samples, passing = 0, iter(loader)
    for _ in range(len(loader)):
        samples += len(next(passing)[1])
        torch.distributed.barrier()
    assert next(passing, None) is None
    return [len(loader), samples]


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ({"shuffle": True}, [[2, 7]] * 4),  # padded to 28
        ({"remainder": "drop"}, [[2, 6]] * 4),
        ({"shuffle": True, "drop_last": True}, [[1, 4]] * 4),
        ({"batch_size": 7}, [[1, 7], [1, 7], [1, 7], [1, 6]]),
    ],
    ids=["pad", "drop", "drop_last", "uneven"],
)
def test_ranks_that_wait_for_each_other_come_to_the_end(good, tmp_path, arguments, want):
    arguments = {"batch_size": 4, **arguments}
    with RankProcesses(in_step, 4, (str(good), arguments), folder=tmp_path, timeout=20) as job:
        assert job.results(60) == want


def by_samplers(folder):
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = DistributedSampler(range(N), shuffle=True, seed=5)
    choices = {
        "distributed": {"sampler": own, "batch_size": 4},
        "batches of distributed": {"batch_sampler": BatchSampler(DistributedSampler(range(N)), 4, False)},
        "weighted": {"sampler": WeightedRandomSampler([1.0] * N, 10), "batch_size": 4, "seed": rank},
    }
    found = {}
    for name, arguments in choices.items():
        loader = di.DataLoader(folder, transform=di.TrainTransform(16), device="cpu", return_info=True, **arguments)
        assert (loader.rank, loader.world) == (0, 1)  # such a sampler shards itself
        batches = [info["index"].tolist() for *_, info in loader]
        assert len(batches) == len(loader)
        found[name] = [index for batch in batches for index in batch]
    assert world == 2
    return found


def test_torchs_samplers_shard_themselves(good, tmp_path):
    with RankProcesses(by_samplers, 2, (str(good),), folder=tmp_path) as job:
        first, second = job.results(60)
    for name in ("distributed", "batches of distributed"):
        assert len(first[name]) == len(second[name]) == 14  # padded, as torch's does
        assert set(first[name]) | set(second[name]) == set(range(N))
    assert len(first["weighted"]) == len(second["weighted"]) == 10
    assert first["weighted"] != second["weighted"]


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ({"shard": (0, 2), "batch_size": 13}, "WARNING"),  # 14 and 13 samples
        ({"shard": (1, 2), "batch_size": 5}, "INFO"),
        ({"shard": (0, 2), "remainder": "uneven"}, None),  # asked for
        ({"shard": (0, 2), "shuffle": True}, None),
        ({}, None),
    ],
)
def test_the_uneven_default_is_said_once(good, caplog, arguments, level):
    caplog.set_level(logging.INFO, "dali_icgan")
    with di.DataLoader(good, transform=di.TrainTransform(16), device="cpu", **arguments) as loader:
        list(loader)
        list(loader)
    said = [r.levelname for r in caplog.records if "batch counts may differ by one over ranks" in r.getMessage()]
    assert said == ([] if level is None else [level])


def test_an_order_for_many_ranks_takes_the_memory_of_a_batch():
    def begin(n, world):
        tracemalloc.start()
        order = ShardedOrder(n, 256, False, True, 1, 0, world - 1, world, n // 3, "pad")
        assert len(order.batch(order.batches - 2)[1]) == 256
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    begin(5_000, 4)
    small, large = begin(5_000, 4), begin(1_281_167, 1024)
    assert large < small + 5_000
    assert large < 50_000


# ---------------------------------------------------------------------- banks


def built_over_ranks(folder, path):
    bank = build(folder, path)
    return [bank.n, {str(row): reason for row, reason in bank.absent.items()}]


@pytest.mark.parametrize("world", [2, 3])
def test_a_bank_over_ranks_is_that_of_one_process(folder, tmp_path, world):
    torch.set_num_threads(1)
    alone = build(folder, tmp_path / "alone")
    assert len(alone.absent) == 1
    with RankProcesses(built_over_ranks, world, (str(folder), str(tmp_path / "bank")), folder=tmp_path) as job:
        assert job.results(60) == [[N, {str(row): reason for row, reason in alone.absent.items()}]] * world
    for name in ("features.npy", "keys.txt", "labels.npy", "bank.json"):
        assert (tmp_path / "bank" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not [*(tmp_path / "bank").glob("*.new"), *(tmp_path / "bank").glob("*.part")]


class Slow:
    """An extractor that takes its time, and on one rank fails at its second call."""

    def __init__(self, fails=None):
        self._real = models()[1]
        self._calls, self._fails = 0, fails

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __call__(self, images):
        self._calls += 1
        if self._fails == torch.distributed.get_rank() and self._calls == 2:
            raise ValueError("no number")
        time.sleep(0.3)
        return self._real(images)


def slowly(folder, path, fails):
    from dali_icgan.augment import bank_build

    bank_build._SAVE_SECONDS = 0
    di.FeatureBank.build(folder, Slow(fails), path, batch_size=2, progress=False)


@pytest.mark.parametrize("fails", [0, 1])
def test_a_failing_rank_ends_the_building_and_nothing_stored_is_lost(folder, tmp_path, fails):
    with RankProcesses(slowly, 2, (str(folder), str(tmp_path / "bank"), fails), folder=tmp_path) as job:
        assert job.wait(60) == [1, 1]
        assert job.error(fails) == "ValueError: no number"
        assert f"RankError: rank {fails} of 2 failed in building the bank" in job.error(1 - fails)
    done = json.loads((tmp_path / "bank" / "bank.json").read_text())["done"]
    assert done == 4  # a turn of both
    assert_goes_on(folder, tmp_path)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_rank_ends_the_building_and_nothing_stored_is_lost(folder, tmp_path, lost, how):
    notes = tmp_path / "bank" / "bank.json"
    with RankProcesses(slowly, 3, (str(folder), str(tmp_path / "bank"), None), folder=tmp_path, timeout=3) as job:
        begun(job, lambda: notes.exists() and json.loads(notes.read_text())["done"])
        getattr(job, how)(lost)
        others = [rank for rank in range(3) if rank != lost]
        codes = job.wait(30, others)
        for rank in others:
            assert codes[rank] == 1
            assert f"rank {rank} of 3 waited in vain for the others in building the bank" in job.error(rank)
    assert json.loads(notes.read_text())["done"] >= 2
    assert_goes_on(folder, tmp_path)


def assert_goes_on(folder, tmp_path):
    torch.set_num_threads(1)
    alone = build(folder, tmp_path / "alone")
    with pytest.raises(ValueError, match="must be finished"):
        di.FeatureBank.open(tmp_path / "bank")
    bank = build(folder, tmp_path / "bank")
    np.testing.assert_array_equal(bank._features, alone._features)


def first_alone(folder, path):
    if torch.distributed.get_rank() == 0:
        build(folder, path, shard=False)
    torch.distributed.barrier()


def test_one_rank_may_build_by_itself(folder, tmp_path):
    with RankProcesses(first_alone, 2, (str(folder), str(tmp_path / "bank")), folder=tmp_path) as job:
        job.results(60)
    assert di.FeatureBank.open(tmp_path / "bank").n == N


# ---------------------------------------------------------------------- figures and training


def judged(folder, bank):
    from dali_icgan.training import quality

    quality._IMAGES = 4  # several parts for each rank
    generator, extractor = models()
    opened = di.FeatureBank.open(bank)
    options = {"neighbours_k": 5, "samples": 13, "groups": 5, "draws": 2, "k": 3}
    return quality.evaluate(generator, extractor, opened, folder, **options)


def test_figures_over_ranks_are_those_of_one_process(good, bank, tmp_path):
    found = []
    for world in (1, 3):
        with RankProcesses(judged, world, (str(good), str(bank)), folder=tmp_path) as job:
            found += job.results(120)
    assert found[0]["samples"] == 13
    assert all(figures == found[0] for figures in found)


def trained(folder, out, steps):
    from dali_icgan.training.run import Training, train

    settings = {
        "gan": {"channels": 4, "z_chunk": 4, "shared_dim_feat": 8, "batch_size": 8, "k": 5, "steps": steps},
        "extractor": {"steps": 4, "batch_size": 8, "width": 8},
        "look_every": 5,
        "look_samples": 12,
        "samples": 12,
        "save_every": 0.001,
    }
    train(folder, out, Training.from_mapping(settings), device="cpu", progress=False)


@pytest.mark.filterwarnings("ignore:.*which are few")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_training_that_loses_a_rank_ends_and_goes_on(good, tmp_path, lost):
    out = tmp_path / "run"
    with RankProcesses(trained, 2, (str(good), str(out), 100_000), folder=tmp_path, timeout=60) as job:
        begun(job, (out / "gan-state.pt").exists, 120)
        job.kill(lost)
        assert job.wait(50, [1 - lost])[1 - lost] == 1
        assert f"RankError: rank {1 - lost} of 2 waited in vain for the others in training" in job.error(1 - lost)
    from dali_icgan.training.state import load_state

    step = load_state(out / "gan-state.pt")["step"]
    with RankProcesses(trained, 2, (str(good), str(out), step + 5), folder=tmp_path, timeout=60) as job:
        job.results(120)
    assert (out / "report.md").exists()


# ---------------------------------------------------------------------- torchrun

SCRIPT = """
import logging, sys
import torch
import dali_icgan as di

torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.distributed.init_process_group("gloo")
loader = di.DataLoader(sys.argv[1], batch_size=13, transform=di.TrainTransform(16), device="cpu", return_info=True)
batches = [info["index"].tolist() for *_, info in loader]
assert len(batches) == len(loader)
print(f"rank {loader.rank} of {loader.world}: {sum(batches, [])}", flush=True)
torch.distributed.destroy_process_group()
"""


def torchrun(*arguments):
    return subprocess.run(
        [*(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_script_under_torchrun(good, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(str(tmp_path / "script.py"), str(good))
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.splitlines()) == [f"rank {r} of 2: {list(range(r, N, 2))}" for r in range(2)]
    assert done.stderr.count("batch counts may differ by one over ranks (here they do)") == 2


def test_the_features_command_under_torchrun(folder, tmp_path):
    torch.set_num_threads(1)
    alone = build(folder, tmp_path / "alone")
    done = torchrun(
        *("-m", "dali_icgan.cli", "features", str(folder), "-o", str(tmp_path / "bank"), "--batch-size", "4"),
        *("--extractor", str(MODELS / "extractor.safetensors"), "--resolution", "32", "--device", "cpu"),
        *("--embed", str(MODELS / "generator.safetensors")),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("1 images could not be read") == 1
    assert done.stdout.count("as generator.safetensors embeds") + done.stdout.count("embedded") >= 1
    np.testing.assert_array_equal(di.FeatureBank.open(tmp_path / "bank")._features, alone._features)
