import numpy as np
import pytest
import torch

import dali_icgan as di
from dali_icgan.data import as_samples
from dali_icgan.training.instances import Instances, MirroredExtractor
from tests.photos import jpeg, make_folder, patch

pytestmark = pytest.mark.dali
N = 24


@pytest.fixture
def instances(banks, samples):
    return Instances(*banks, samples, k=5, batch_size=7, seed=3)


def test_every_instance_comes_once_before_any_comes_again(instances):
    order = np.concatenate([instances.real(step)[0] for step in range(2 * N)])  # 14 rounds
    for begin in range(0, len(order) - N + 1, N):
        assert sorted(order[begin : begin + N]) == list(range(N))
    assert order[:N].tolist() != order[N : 2 * N].tolist()


def test_real_images_are_neighbours_of_their_instance_evenly(instances, banks):
    near = banks[0].neighbours(5)
    seen = np.zeros((N, 5), int)
    for step in range(1000):
        rows, images = instances.real(step)
        place = near[rows] == images[:, None]  # bank rows and samples are the same here
        assert (place.sum(1) == 1).all()
        np.add.at(seen, (rows, place.argmax(1)), 1)
    expected = 1000 * 7 / N / 5
    assert abs(seen - expected).max() < 6 * expected**0.5


def test_pairs_are_two_neighbours_of_one_instance(banks, samples):
    near = banks[0].neighbours(5)
    instances = Instances(*banks, samples, k=5, batch_size=8, seed=3)
    order, seen = [], np.zeros((N, 5, 5), int)
    endless = instances.batches(0, pairs=True)
    for step in range(1200):
        rows, images = instances.real(step, pairs=True)
        assert next(endless) == images.tolist()
        assert rows[:4].tolist() == rows[4:].tolist()
        places = (near[rows] == images[:, None]).argmax(1)
        assert (near[rows, places] == images).all()
        np.add.at(seen, (rows[:4], places[:4], places[4:]), 1)
        order += rows[:4].tolist()
    assert sorted(order[:N]) == sorted(order[N : 2 * N]) == list(range(N))
    together = seen.sum(0)
    assert np.diag(together).tolist() == [0] * 5  # never an image with itself
    expected = 1200 * 4 / 20
    assert abs(together[~np.eye(5, dtype=bool)] - expected).max() < 6 * expected**0.5


def test_conditions_are_any_instance_with_a_neighbours_label(instances, banks, samples):
    near, rows_seen = banks[0].neighbours(5), []
    seen = np.zeros((N, 3), int)
    for step in range(300):
        rows, labels = instances.conditions(step)
        rows_seen += rows.tolist()
        np.add.at(seen, (rows, labels), 1)
    share = np.stack([(samples.labels[near] == label).mean(1) for label in range(3)], 1)
    assert ((seen > 0) == (share > 0)).all()
    assert ((share > 0).sum(1) > 1).any()  # some have neighbours of several classes
    assert abs(seen - share * seen.sum(1, keepdims=True)).max() < 6 * 90**0.5
    counts = np.bincount(rows_seen, minlength=N)
    assert counts.min() > 40  # 87 each on average
    assert counts.max() < 140


def test_a_step_is_a_function_of_the_seed_and_the_step(banks, samples, instances):
    again = Instances(*banks, samples, k=5, batch_size=7, seed=3)
    other = Instances(*banks, samples, k=5, batch_size=7, seed=4)
    for step in (5, 2, 1000):
        assert all(np.array_equal(a, b) for a, b in zip(instances.real(step), again.real(step), strict=True))
        assert not np.array_equal(instances.real(step)[0], other.real(step)[0])
        assert not np.array_equal(instances.conditions(step)[0], other.conditions(step)[0])


def test_ranks_share_a_step(banks, samples):
    alone = Instances(*banks, samples, k=5, batch_size=12, seed=3)
    ranks = [Instances(*banks, samples, k=5, batch_size=4, seed=3, rank=rank, world=3) for rank in range(3)]
    for step in range(4):
        together = np.concatenate([each.real(step)[0] for each in ranks])
        assert np.array_equal(together, alone.real(step)[0])
    assert not np.array_equal(ranks[0].conditions(0)[0], ranks[1].conditions(0)[0])


def test_batches_are_the_real_images_from_any_step_on(instances):
    endless = instances.batches(11)
    for step in (11, 12, 13):
        assert next(endless) == instances.real(step)[1].tolist()


def test_half_of_the_features_are_of_mirrored_images(instances, banks):
    rows = np.arange(7)
    plain, mirrored = (bank.gather(rows, "cpu") for bank in banks)
    count = 0
    for step in range(200):
        features = instances.features(rows, step, "real", torch.device("cpu"))
        is_mirrored = (features == mirrored).all(1)
        assert ((features == plain).all(1) ^ is_mirrored).all()
        count += int(is_mirrored.sum())
    assert 600 < count < 800
    without = Instances(banks[0], None, instances.samples, k=5, batch_size=7, seed=3)
    assert torch.equal(without.features(rows, 0, "real", torch.device("cpu")), plain)


def test_the_mirrored_bank_is_of_mirrored_images(tmp_path, extractor, banks):
    at = extractor.at_resolution(32)
    pixels = torch.from_numpy(patch("coffee", 3).copy())
    assert torch.equal(MirroredExtractor(at)([pixels]), at([pixels.flip(1)]))
    with pytest.raises(ValueError, match="fingerprint"):  # never mistaken for the plain one
        banks[1].check_against(as_samples(banks[0].root), at)


def test_an_image_that_cannot_be_read_is_nobodys_neighbour(tmp_path, extractor):
    photos = make_folder(tmp_path / "photos")
    (photos / "coffee" / "bad.jpg").write_bytes(jpeg(patch("coffee", 1))[:100])
    bank = di.FeatureBank.build(photos, extractor.at_resolution(32), tmp_path / "bank", progress=False)
    samples = as_samples(photos)
    instances = Instances(bank, None, samples, k=5, batch_size=25, seed=0)
    bad = [samples.path(i) for i in range(len(samples))].index(str(photos / "coffee" / "bad.jpg"))
    assert len(instances) == N
    for step in range(20):
        rows, images = instances.real(step)
        assert bad not in rows
        assert bad not in images
        assert bad not in instances.conditions(step)[0]


def test_too_few_images_are_named(banks, samples):
    with pytest.raises(ValueError, match=r"k must be an integer in 1\.\.23"):
        Instances(*banks, samples, k=24, batch_size=7, seed=3)
