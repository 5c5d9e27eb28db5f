import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, WeightedRandomSampler

from dali_icgan.data.order import ListedOrder, ShardedOrder, listed


def whole(order):
    index, repeat = [], []
    number = 0
    while (rows := order.batch(number)) is not None:
        index.append(rows[1])
        repeat.append(rows[2])
        number += 1
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *index]), np.concatenate([empty, *repeat])


def sharded(
    n=20, batch_size=3, drop_last=False, shuffle=True, seed=1, epoch=0, rank=0, world=1, start=0, remainder="uneven"
):
    return ShardedOrder(n, batch_size, drop_last, shuffle, seed, epoch, rank, world, start, remainder)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 1000])
def test_every_sample_once(n):
    index, repeat = whole(sharded(n))
    assert sorted(index) == list(range(n))
    assert not repeat.any()


def test_epochs_and_seeds_differ_and_repeat():
    first = whole(sharded(100))[0].tolist()
    assert first == whole(sharded(100))[0].tolist()
    assert first != whole(sharded(100, epoch=1))[0].tolist()
    assert first != whole(sharded(100, seed=2))[0].tolist()
    assert whole(sharded(100, shuffle=False))[0].tolist() == list(range(100))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 5, 24, 25])
def test_ranks_share_an_epoch(n, world):
    uneven = [whole(sharded(n, rank=r, world=world))[0] for r in range(world)]
    assert sorted(np.concatenate(uneven)) == list(range(n))
    assert max(map(len, uneven)) - min(map(len, uneven)) <= 1
    pad = [whole(sharded(n, rank=r, world=world, remainder="pad"))[0] for r in range(world)]
    assert {len(part) for part in pad} == {-(-n // world)}
    assert set(np.concatenate(pad)) == set(range(n))
    drop = [whole(sharded(n, rank=r, world=world, remainder="drop"))[0] for r in range(world)]
    assert {len(part) for part in drop} == {n // world}
    assert len(set(np.concatenate(drop))) == n // world * world


def test_ranks_interleave_the_one_order():
    one = whole(sharded(24))[0]
    for r in range(3):
        assert whole(sharded(24, rank=r, world=3))[0].tolist() == one[r::3].tolist()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_rest_of_an_epoch_on_any_number_of_ranks(world):
    one = whole(sharded(50))[0]
    rest = [whole(sharded(50, rank=r, world=world, start=12))[0] for r in range(world)]
    assert sorted(np.concatenate(rest)) == sorted(one[12:])


def test_drop_last_and_batch_sizes():
    assert sharded(20, batch_size=6).batches == 4
    assert sharded(20, batch_size=6, drop_last=True).batches == 3
    assert len(sharded(20, batch_size=6).batch(3)[1]) == 2
    assert sharded(20, batch_size=6, drop_last=True).batch(3) is None


def test_substitutes_are_the_next_of_this_rank_with_a_new_repeat():
    order = sharded(10, rank=1, world=2)
    index = whole(order)[0]
    assert order.substitute(0, 1) == (index[1], 1)
    assert order.substitute(4, 2) == (index[1], 2)  # wraps
    assert order.substitute(0, 5) is None  # all five have been tried


def test_a_resumed_epoch_finds_the_same_substitutes():
    unbroken, resumed = sharded(11, world=2), sharded(11, world=2, start=6)
    for position in range(3, 6):
        for distance in range(1, 6):
            assert unbroken.substitute(position, distance) == resumed.substitute(position - 3, distance)


def make(entries, n=10, batch_size=2, drop_last=False, batches=False, endless=False):
    return ListedOrder(entries, n, batch_size, drop_last, batches=batches, endless=endless)


def test_repeats_count_occurrences():
    index, repeat = whole(make([3, 3, 1, 3, 1]))
    assert index.tolist() == [3, 3, 1, 3, 1]
    assert repeat.tolist() == [0, 1, 0, 2, 1]


def test_a_sampler_may_give_repeats_itself():
    index, repeat = whole(make([(3, 5), (3, 6), (4, 0)]))
    assert index.tolist() == [3, 3, 4]
    assert repeat.tolist() == [5, 6, 0]


def test_substitutes_in_a_listed_order_have_repeats_of_their_own():
    order = make([3, 3, 1, 3])
    assert order.substitute(2, 1) == (3, 3)  # 0, 1 and 2 are taken
    assert order.substitute(2, 2) == (3, 4)
    assert order.substitute(2, 4) is None


def test_batch_samplers():
    sampler = BatchSampler(RandomSampler(range(10), generator=torch.Generator().manual_seed(0)), 4, drop_last=False)
    order = make(sampler, batches=True)
    assert [len(order.batch(i)[0]) for i in range(3)] == [4, 4, 2]
    assert sorted(whole(order)[0]) == list(range(10))


def test_endless_samplers_are_listed_as_they_are_used():
    def forever():
        while True:
            yield from range(10)

    order = make(forever(), endless=True)
    assert order.batches == 0
    assert order.batch(7)[1].tolist() == [4, 5]
    assert order.batch(7)[2].tolist() == [1, 1]
    assert order.batches == 8


def test_listing_depends_on_seed_and_epoch_alone_and_leaves_torch_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = listed(RandomSampler(range(50)), 1, 0)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert listed(RandomSampler(range(50)), 1, 0) == first
    assert listed(RandomSampler(range(50)), 1, 1) != first
    assert sorted(listed(WeightedRandomSampler([1.0] * 50, 50, replacement=False), 1, 0)) == list(range(50))


def test_torchs_distributed_sampler():
    parts = [listed(DistributedSampler(range(10), 2, r, shuffle=True, seed=3), 0, 0) for r in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(10))


def test_the_checksum_sees_the_order():
    order, other = make([1, 2, 3, 4]), make([1, 2, 4, 3])
    assert order.checksum(4) == make([1, 2, 3, 4]).checksum(4)
    assert order.checksum(2) == other.checksum(2)
    assert order.checksum(3) != other.checksum(3)
    assert [order.checksum(k) for k in (1, 2, 3, 4)] == [make([1, 2, 3, 4]).checksum(k) for k in (1, 2, 3, 4)]


def test_wrong_indices_are_named():
    with pytest.raises(IndexError, match=r"the sampler must give indices in 0..9, got 10"):
        make([1, 10])
