"""Going on in the middle of an epoch: exactly the rest, however the job is cut up when it goes on; and torchdata's interface."""

import copy
import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as StatefulRandomSampler

import dali_icgan as di
from dali_icgan.data.order import ShardedOrder
from dali_icgan.progress import Progress
from tests.photos import make_folder

N = 24

# ---------------------------------------------------------------------- positions

SEGMENTS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=6)


def in_step(n, segments, remainder, drop_last=False, shuffle=True):
    """(index, by which segment) in the order of steps, as ranks in step deliver an epoch that is cut off and goes on."""
    got, start = [], 0
    for number, (world, batch_size, steps) in enumerate([*segments, (segments[-1][0], segments[-1][1], n + 1)]):
        passes = [
            Progress(0, ShardedOrder(n, batch_size, drop_last, shuffle, 7, 0, rank, world, start, remainder))
            for rank in range(world)
        ]
        for step in range(steps):
            for each in passes:
                rows = each.order.batch(step)
                if rows is None:
                    each.finished = True
                    continue
                each.delivered += 1
                got += [(int(index), number) for index in rows[1]]
            states = [json.loads(json.dumps(each.state())) for each in passes if not each.finished]
            assert all(state == states[0] for state in states)
        # The first rank has as many batches as any: its state is the one of a checkpoint.
        start = passes[0].state()["position"]
        if passes[0].finished:
            break
    return got


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), SEGMENTS)
def test_uneven_each_sample_once_however_it_is_cut_up(n, segments):
    assert sorted(index for index, _ in in_step(n, segments, "uneven")) == list(range(n))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), SEGMENTS)
def test_pad_adds_the_epochs_first_samples_and_only_in_its_last_part(n, segments):
    got = in_step(n, segments, "pad", shuffle=False)
    counts = Counter(index for index, _ in got)
    assert set(counts) == set(range(n))
    last = max(number for _, number in got)
    before = sum(number < last for _, number in got)
    world = [*segments, segments[-1]][last][0]
    twice = sorted((counts - Counter(range(n))).elements())
    assert twice == sorted(i % n for i in range(-(n - before) % world))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), SEGMENTS, st.booleans(), st.sampled_from(["drop", "uneven", "pad"]))
def test_what_is_dropped_is_less_than_a_step(n, segments, drop_last, remainder):
    drop_last = drop_last or remainder == "drop"
    got = in_step(n, segments, remainder, drop_last, shuffle=False)
    counts = Counter(index for index, _ in got)
    if remainder != "pad":
        assert not counts or max(counts.values()) == 1
    # Whoever goes on decides by what is left.
    assert n - len(counts) < max(world * (batch_size + 1) for world, batch_size, _ in segments)


def test_a_rank_without_samples_has_an_empty_pass():
    assert in_step(2, [(5, 3, 1)], "uneven", shuffle=False) == [(0, 0), (1, 0)]


# ---------------------------------------------------------------------- loaders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def load(folder):
    made = []

    def make(**arguments):
        arguments = {"batch_size": 5, "seed": 3, "device": "cpu", "transform": di.TrainTransform(16), **arguments}
        made.append(di.DataLoader(folder, return_info=True, **arguments))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def rows(batches, count=None):
    """[(index, repeat, pixels)] of ``count`` batches, or all."""
    found = []
    for number, (images, _, info) in enumerate(batches, 1):
        found += [
            (int(i), int(r), image.numpy().tobytes())
            for i, r, image in zip(info["index"], info["repeat"], images, strict=True)
        ]
        if number == count:
            break
    return found


def carried(state):
    return json.loads(json.dumps(state))


@pytest.mark.dali
@pytest.mark.parametrize("remainder", ["uneven", "pad"])
def test_other_ranks_batches_and_prefetching_go_on_with_the_same_pixels(load, generator, extractor, remainder):
    common = {
        "shuffle": True,
        "remainder": remainder,
        "augment": di.DAICGAN(generator=generator, extractor=extractor, p=0.5),
    }
    want = sorted(rows(load(**common)))
    got, state = [], None
    for world, batch_size, prefetch, steps in ((2, 3, 1, 1), (3, 2, 4, 2), (1, 1, 2, 2), (4, 2, 2, None)):
        loaders = [
            load(**common, shard=(r, world), batch_size=batch_size, prefetch_factor=prefetch) for r in range(world)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(carried(state))
            got += rows(loader, steps)
        state = loaders[0].state_dict()
    assert sorted(got) == want
    assert (state["epoch"], state["position"]) == (1, 0)


@pytest.mark.dali
def test_a_state_is_small_and_says_what_it_belongs_to(load):
    loader = load(shuffle=True)
    loader.set_epoch(5)
    next(iter(loader))
    state = loader.state_dict()
    assert len(json.dumps(state)) < 1000
    assert {name: state[name] for name in ("epoch", "seed", "samples", "position")} == {
        "epoch": 5,
        "seed": 3,
        "samples": N,
        "position": 5,
    }
    assert len(state["dataset"]) == 32


def samplers():
    return {
        "random": lambda: {"sampler": RandomSampler(range(N))},
        "random with a generator": lambda: {
            "sampler": RandomSampler(range(N), generator=torch.Generator().manual_seed(4))
        },
        "torchdata's random": lambda: {
            "sampler": StatefulRandomSampler(range(N), generator=torch.Generator().manual_seed(4))
        },
        "weighted": lambda: {"sampler": WeightedRandomSampler([1.0, 2.0, 3.0] * 8, 40)},
        "distributed": lambda: {"sampler": DistributedSampler(range(N), 2, 1, seed=3)},
        "batches": lambda: {"batch_size": 1, "batch_sampler": BatchSampler(SequentialSampler(range(N)), 5, False)},
    }


@pytest.mark.dali
@pytest.mark.parametrize("kind", samplers())
def test_torchs_samplers_go_on_at_another_batch_size(load, kind):
    make = samplers()[kind]
    whole = load(**make())
    want = [rows(whole), rows(whole)]
    loader = load(**make())
    got = rows(loader, 2)
    state = carried(loader.state_dict())
    assert state["position"] == 10
    arguments = make()
    if "batch_sampler" in arguments:
        arguments["batch_sampler"].batch_size = 4  # 4, 4, then 2 of these 4 are left
    else:
        arguments["batch_size"] = 3
    other = load(**arguments)
    other.load_state_dict(state)
    got += rows(other)
    assert got == want[0]
    state = carried(other.state_dict())
    other = load(**make())
    other.load_state_dict(state)
    if kind == "distributed":
        other.sampler.set_epoch(1)
        whole.sampler.set_epoch(1)
        whole.set_epoch(1)
        want[1] = rows(whole)
    assert rows(other) == want[1]


@pytest.mark.dali
def test_another_ranks_state_of_a_sampler_is_refused(load):
    loaders = [load(sampler=DistributedSampler(range(N), 2, rank)) for rank in range(2)]
    rows(loaders[0], 1)
    loaders[1].load_state_dict(loaders[0].state_dict())
    passing = iter(loaders[1])
    for _ in range(2):
        with pytest.raises(ValueError, match="of this rank's where it shards itself"):
            next(passing)


@pytest.mark.dali
def test_a_damaged_generator_is_named(load):
    loader = load(sampler=RandomSampler(range(N), generator=torch.Generator()))
    state = loader.state_dict()
    with pytest.raises(ValueError, match="the sampler's generator as it was saved"):
        loader.load_state_dict({**state, "sampler_generator": "00"})


class Counting(torch.utils.data.Sampler):
    """A sampler as torchdata wants one: it goes on by itself, over all passes."""

    def __init__(self, per_pass):
        self.per_pass, self.at = per_pass, 0

    def __len__(self):
        return self.per_pass

    def __iter__(self):
        for _ in range(self.per_pass):
            self.at += 1
            yield (self.at * 5) % N

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.mark.dali
def test_a_sampler_with_a_state_of_its_own_is_given_it_back(load):
    whole = load(sampler=Counting(10))
    want = [rows(whole), rows(whole), rows(whole)]
    assert len({tuple(index for index, *_ in each) for each in want}) == 3
    loader = load(sampler=Counting(10))
    got = [rows(loader), rows(loader, 1)]
    other = load(sampler=Counting(10))
    other.load_state_dict(carried(loader.state_dict()))
    got[1] += rows(other)
    got.append(rows(other))
    assert [[row[0] for row in each] for each in got] == [[row[0] for row in each] for each in want]


# ---------------------------------------------------------------------- code written for torchdata


class Indices(torch.utils.data.Dataset):
    """What StatefulDataLoader gets in place of images."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return index


def theirs(**arguments):
    return StatefulDataLoader(Indices(), collate_fn=list, **arguments)


def indices(batch):
    return batch if isinstance(batch, list) else batch[2]["index"].tolist()


def training_script(make, saves_at, epochs=3):
    """A training loop that is cut off behind the step ``saves_at`` and goes on in a new process, as StatefulDataLoader's users write it."""
    seen, step = [], 0
    loader = make()
    checkpoint = None
    for epoch in range(epochs):
        for batch in loader:
            seen.append((epoch, indices(batch)))
            step += 1
            if step == saves_at:
                checkpoint = {"epoch": epoch, "loader": copy.deepcopy(loader.state_dict())}
                break
        if checkpoint:
            break
    if checkpoint is None:  # saved between epochs
        checkpoint = {"epoch": epochs, "loader": loader.state_dict()}
    loader = make()
    loader.load_state_dict(checkpoint["loader"])
    sizes = [len(loader)]
    for epoch in range(checkpoint["epoch"], epochs):
        for batch in loader:
            seen.append((epoch, indices(batch)))
        sizes.append(len(loader))
    return seen, sizes


@pytest.mark.dali
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("saves_at", [1, 3, 4, 5, 8, 11])
def test_a_script_for_torchdata_sees_the_same_batches(load, drop_last, saves_at):
    arguments = {"batch_size": 7, "drop_last": drop_last}
    ours = training_script(lambda: load(**arguments), saves_at)
    assert ours == training_script(lambda: theirs(**arguments), saves_at)


def face(make):
    """What StatefulDataLoader's methods say in every order in which code calls them."""
    said = []

    def note(batches, count=None):
        found = []
        for number, batch in enumerate(batches, 1):
            found.append(indices(batch))
            if number == count:
                break
        said.append(found)

    loader = make()
    fresh = copy.deepcopy(loader.state_dict())  # before any pass
    note(loader, 2)
    middle = copy.deepcopy(loader.state_dict())
    note(loader)  # a break, then a fresh pass
    ended = copy.deepcopy(loader.state_dict())
    for state in (fresh, middle, ended, middle):
        loader.load_state_dict(state)  # into a loader that has been used
        note(loader)
        note(loader)  # and the pass after it is whole
    other = make()
    other.load_state_dict(middle)
    again = copy.deepcopy(other.state_dict())  # loaded, not yet used
    third = make()
    third.load_state_dict(again)
    note(third, 1)
    third.load_state_dict(middle)  # in the middle of a pass
    note(third)
    passing = iter(third)
    for _ in range(len(third)):
        next(passing)
    last = copy.deepcopy(third.state_dict())  # behind the last batch, before the end is seen
    said.append(list(passing))
    other.load_state_dict(last)
    note(other)
    note(other)
    said.append(len(other))
    with pytest.raises(StopIteration):
        next(passing)
    return said


@pytest.mark.dali
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_methods_mean_what_torchdatas_mean(load, drop_last):
    arguments = {"batch_size": 7, "drop_last": drop_last}
    assert face(lambda: load(**arguments)) == face(lambda: theirs(**arguments))


def test_its_arguments_are_taken():
    import inspect

    for name, parameter in inspect.signature(StatefulDataLoader.__init__).parameters.items():
        mine = inspect.signature(di.DataLoader.__init__).parameters[name]
        assert (mine.default, mine.kind) == (parameter.default, parameter.kind), name
