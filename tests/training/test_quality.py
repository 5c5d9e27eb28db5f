import numpy as np
import pytest
import scipy.linalg
import torch

import dali_icgan as di
from dali_icgan.augment import FeatureBank
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from dali_icgan.training import quality
from dali_icgan.training.quality import (
    FIGURES,
    InstanceSampler,
    conditioning_rank,
    copying,
    density_coverage,
    diversity,
    evaluate,
    frechet_distance,
    precision_recall,
)
from tests.photos import make_folder

ONE_MORE = pytest.mark.parametrize("block", [2**22, 1, 37])  # distances held at once: all, a row, a few rows


def rows(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distances(a, b):
    """float64 numpy, by differences."""
    return np.linalg.norm(a.double().numpy()[:, None] - b.double().numpy()[None], axis=2)


def radii(a, k):
    """To the k-th nearest other."""
    d = distances(a, a)
    np.fill_diagonal(d, np.inf)
    return np.sort(d, 1)[:, k - 1]


# ------------------------------------------------------------------ Fréchet distance


def frechet_by_scipy(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    ca, cb = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    return (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(ca)
        + np.trace(cb)
        - 2 * np.trace(scipy.linalg.sqrtm(ca @ cb).real)
    )


@pytest.mark.parametrize(("n", "m", "d"), [(40, 53, 7), (500, 400, 31), (9, 8, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frechet_distance_equals_the_matrix_square_root(n, m, d, dtype, device):
    mix = rows(d, d, 2)
    a, b = rows(n, d).to(dtype), (rows(m, d, 1) @ mix + 0.3).to(dtype)
    assert frechet_distance(a.to(device), b.to(device)) == pytest.approx(frechet_by_scipy(a, b), rel=1e-7)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 5), (11, 7, 64), (100, 6, 20), (6, 100, 20)])
def test_frechet_distance_with_fewer_rows_than_features(n, m, d):
    a, b = rows(n, d), 2 * rows(m, d, 1)
    # sqrtm is not to be trusted on singular products; the trace of the root is exact through the eigenvalues of a symmetric form.
    ca, cb = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    w, v = np.linalg.eigh(ca)
    root = v * np.sqrt(w.clip(0)) @ v.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(ca) + np.trace(cb) - 2 * trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_in_closed_form():
    # Rows with exactly these moments: of covariances A A' and 9 A A' with means apart by s it is |s|^2 + (3 - 1)^2 tr(A A').
    n, d = 200, 6
    whitened = torch.linalg.qr(rows(n, d) - rows(n, d).mean(0)).Q * (n - 1) ** 0.5
    mix, shift = rows(d, d, 3), torch.arange(d, dtype=torch.float64)
    a = whitened @ mix.T
    assert frechet_distance(a, a + shift) == pytest.approx(shift.square().sum().item(), rel=1e-12)
    expected = shift.square().sum().item() + 4 * mix.square().sum().item()
    assert frechet_distance(a, 3 * a + shift) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50)])
def test_frechet_distance_of_equal_sets_is_zero_and_it_is_symmetric(n, d):
    a, b = rows(n, d), rows(n + 3, d, 1)
    assert 0 <= frechet_distance(a, a.flip(0)) < 1e-12
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


# ------------------------------------------------------------------ precision, recall, density, coverage


@ONE_MORE
@pytest.mark.parametrize(("n", "m", "d", "k"), [(60, 47, 3, 5), (13, 29, 8, 1), (6, 7, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbour_figures_equal_brute_force(monkeypatch, block, n, m, d, k, dtype, device):
    monkeypatch.setattr(quality, "_BLOCK", block)
    a, b = rows(n, d).to(dtype), (0.7 * rows(m, d, 1) + 0.4).to(dtype)
    between, of_a, of_b = distances(a, b), radii(a, k), radii(b, k)
    in_balls = between <= of_a[:, None]
    precision, recall = in_balls.any(0).mean(), (between <= of_b).any(1).mean()
    density, coverage = in_balls.sum() / (k * m), (between.min(1) <= of_a).mean()
    a, b = a.to(device), b.to(device)
    assert precision_recall(a, b, k) == pytest.approx((precision, recall), abs=1e-12)
    assert density_coverage(a, b, k) == pytest.approx((density, coverage), abs=1e-12)


def test_neighbour_figures_of_equal_and_of_disjoint_sets():
    a = rows(40, 5)
    assert precision_recall(a, a.clone()) == (1, 1)
    assert density_coverage(a, a.clone(), 4) == (5 / 4, 1)  # four others on the average ball, and its centre
    assert precision_recall(a, a + 1000) == (0, 0)
    assert density_coverage(a, a + 1000) == (0, 0)


def test_density_and_coverage_of_one_distribution():
    a, b = rows(2000, 4), rows(2000, 4, 1)
    density, coverage = density_coverage(a, b, 5)
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_a_collapsed_generator_is_precise_and_recalls_nothing():
    a = rows(200, 6)
    collapsed = a[3] + 1e-3 * rows(200, 6, 1)
    precision, recall = precision_recall(a, collapsed)
    density, coverage = density_coverage(a, collapsed)
    assert precision == 1
    assert recall <= 1 / 200
    assert density > 0
    assert coverage < 0.15


def test_rows_that_occur_many_times_lie_in_their_balls_of_radius_zero():
    # Irrational and off centre, so that |a|^2 - 2ab + |b|^2 does not vanish by itself.
    a = (rows(7, 33) + 3).repeat(8, 1)
    assert precision_recall(a, a.flip(0), 5) == (1, 1)
    assert density_coverage(a, a.flip(0), 5)[1] == 1


# ------------------------------------------------------------------ copying


@ONE_MORE
def test_copying_equals_brute_force(monkeypatch, block, device):
    monkeypatch.setattr(quality, "_BLOCK", block)
    training, made, held = rows(31, 6), 0.8 * rows(23, 6, 1), rows(17, 6, 2)
    found = distances(made, training).min(1)
    others = distances(training, training)
    np.fill_diagonal(others, np.inf)
    for real, given in ((others.min(1), None), (distances(held, training).min(1), held.to(device))):
        near = np.quantile(real, 0.01)
        assert copying(training.to(device), made.to(device), given) == pytest.approx(
            {
                "median": np.median(found),
                "median_real": np.median(real),
                "1st_percentile": np.quantile(found, 0.01),
                "1st_percentile_real": near,
                "nearer_share": (found < near).mean(),
                "nearer_share_real": (real < near).mean(),
            },
            abs=1e-9,
        )


def test_copies_are_seen():
    training = torch.nn.functional.normalize(rows(100, 64), dim=1)
    found = copying(training, torch.cat([training[:30], rows(70, 64, 1)]))
    assert found["nearer_share"] == 0.3
    assert found["1st_percentile"] == 0
    assert found["nearer_share_real"] <= 0.02


def test_copying_looks_at_some_training_images_only(monkeypatch):
    training, made = rows(31, 6), rows(5, 6, 1)
    monkeypatch.setattr(quality, "_YARDSTICK", 4)
    others = distances(training, training)
    np.fill_diagonal(others, np.inf)
    chosen = others.min(1)[[0, 7, 15, 23]]
    assert copying(training, made)["median_real"] == pytest.approx(np.median(chosen))


# ------------------------------------------------------------------ conditioning


@ONE_MORE
def test_conditioning_rank_equals_brute_force(monkeypatch, block, device):
    monkeypatch.setattr(quality, "_BLOCK", block)
    instances = rows(29, 4)
    index = torch.randint(29, (50,), generator=torch.Generator().manual_seed(1))
    made = instances[index] + rows(50, 4, 2)
    d = distances(made, instances)
    rank = (d < d[np.arange(50), index][:, None]).sum(1)
    assert 0 < (rank < 1).mean() < (rank < 5).mean() < 1
    assert conditioning_rank(instances.to(device), made.to(device), index.to(device)) == pytest.approx(
        {"top1": (rank < 1).mean(), "top5": (rank < 5).mean(), "percentile": 100 * (rank / 28).mean()}
    )


def test_conditioning_rank_of_known_cases():
    instances = torch.nn.functional.normalize(rows(40, 33), dim=1).repeat(2, 1)
    everyone = torch.arange(80)
    assert conditioning_rank(instances, instances, everyone) == {
        "top1": 1,
        "top5": 1,
        "percentile": 0,
    }  # twins are not nearer
    ignored = conditioning_rank(rows(500, 8), rows(500, 8, 1), torch.arange(500))
    assert ignored["percentile"] == pytest.approx(50, abs=4)
    farthest = conditioning_rank(torch.tensor([[0.0], [1.0], [2.0]]), torch.zeros(1, 1), torch.tensor([2]))
    assert farthest == {"top1": 0, "top5": 1, "percentile": 100}


# ------------------------------------------------------------------ diversity


def test_diversity_equals_numpy_and_knows_a_generator_that_ignores_z(device):
    images = rows(3 * 4 * 3 * 5, 7).reshape(3, 4, 3, 5, 7)
    expected = np.std(images.numpy(), axis=1, ddof=1).mean()
    assert diversity(images.to(device)) == pytest.approx(expected, rel=1e-12)
    assert diversity(2 * images.float() + 5) == pytest.approx(2 * expected, rel=1e-5)
    assert diversity(images[:, :1].expand(3, 4, 3, 5, 7)) == 0


# ------------------------------------------------------------------ bad input


TWO_SETS = [
    (frechet_distance, "real", "generated"),
    (precision_recall, "real", "generated"),
    (density_coverage, "real", "generated"),
    (copying, "training", "generated"),
    (lambda a, b: conditioning_rank(a, b, torch.zeros(len(b), dtype=torch.int64)), "instances", "generated"),
]


@pytest.mark.parametrize(("function", "first", "second"), TWO_SETS)
def test_bad_rows_are_named(function, first, second):
    good = rows(9, 3)
    nan = good.clone()
    nan[4, 1] = torch.nan
    with pytest.raises(TypeError, match=f"{first} must be a tensor, got ndarray"):
        function(good.numpy(), good)
    with pytest.raises(ValueError, match=rf"{first} must be float32 or float64 \[n, d\], got torch.float16 \[9, 3\]"):
        function(good.half(), good)
    with pytest.raises(ValueError, match=rf"{second} must be float32 or float64 \[n, d\], got torch.float64 \[9\]"):
        function(good, good[:, 0])
    with pytest.raises(ValueError, match=rf"{second} must be float32 or float64 \[n, d\], got torch.float64 \[9, 0\]"):
        function(good, good[:, :0])
    with pytest.raises(ValueError, match=f"{second} must be finite, got NaN or infinity in row 4"):
        function(good, nan)
    with pytest.raises(ValueError, match=f"{second} must have the 3 features of {first}, got 2"):
        function(good, good[:, :2])
    with pytest.raises(ValueError, match=f"{first} must have at least . rows, got 0"):
        function(good[:0], good)
    with pytest.raises(ValueError, match=f"{second} must be on {first}'s device cpu, got meta"):
        function(good, Elsewhere(good))


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on another device."""

    @staticmethod
    def __new__(cls, tensor):
        return torch.Tensor._make_subclass(cls, tensor)

    @property
    def device(self):
        return torch.device("meta")


@pytest.mark.parametrize("function", [precision_recall, density_coverage])
def test_k_is_checked(function):
    for k in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"k must be a positive integer, got {k!r}"):
            function(rows(9, 3), rows(9, 3), k)
    with pytest.raises(ValueError, match="generated must have at least 6 rows, got 5"):
        function(rows(6, 3), rows(5, 3), 5)


def test_few_rows_are_named():
    with pytest.raises(ValueError, match="real must have at least 2 rows, got 1"):
        frechet_distance(rows(1, 3), rows(5, 3))
    with pytest.raises(ValueError, match="training must have at least 2 rows, got 1"):
        copying(rows(1, 3), rows(5, 3))
    with pytest.raises(ValueError, match="held_out must have at least 1 rows, got 0"):
        copying(rows(4, 3), rows(5, 3), rows(0, 3))
    with pytest.raises(ValueError, match="instances must have at least 2 rows, got 1"):
        conditioning_rank(rows(1, 3), rows(1, 3), torch.zeros(1, dtype=torch.int64))


def test_index_is_checked():
    a = rows(4, 3)
    for index, said in (
        (torch.zeros(3, dtype=torch.int64), r"torch.int64 \[3\]"),
        (torch.zeros(4), r"torch.float32 \[4\]"),
        ([0] * 4, "list"),
    ):
        with pytest.raises(ValueError, match=rf"index must be int64 \[4\], got {said}"):
            conditioning_rank(a, a, index)
    with pytest.raises(ValueError, match=r"index must lie in 0..3, got 0..4"):
        conditioning_rank(a, a, torch.tensor([0, 1, 2, 4]))
    with pytest.raises(ValueError, match=r"index must lie in 0..3, got -1..2"):
        conditioning_rank(a, a, torch.tensor([0, 1, 2, -1]))


def test_diversity_is_checked():
    with pytest.raises(TypeError, match="images must be a tensor, got ndarray"):
        diversity(np.zeros((2, 2, 3, 4, 4)))
    for shape in ((2, 3, 4, 4), (2, 1, 3, 4, 4), (2, 2, 1, 4, 4), (0, 2, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"images must have shape \[groups, 2 or more, 3, h, w\], got"):
            diversity(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"images must be floating point, got torch.uint8"):
        diversity(torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8))


# ------------------------------------------------------------------ a generator

TINY = {"neighbours_k": 4, "samples": 9, "k": 3, "groups": 3, "draws": 3, "microbatch": 8}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos") / "train", 8)  # 24 images


@pytest.fixture(scope="module")
def bank(photos, extractor, generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("banks") / "bank"
    return FeatureBank.build(photos, extractor.at_resolution(generator.resolution), path, progress=False)


@pytest.mark.dali
def test_evaluate(generator, extractor, bank, photos):
    torch.manual_seed(1)
    figures = evaluate(generator, extractor, bank, photos, seed=5, **TINY)
    assert set(figures) == {*FIGURES, *(figure.beside for figure in FIGURES.values()), "instances", "samples"}
    assert all(type(value) is float and np.isfinite(value) for value in figures.values())
    assert (figures["instances"], figures["samples"]) == (24, 9)
    assert figures["feature_conditioning_top5_chance"] == 5 / 24
    assert figures["pixel_diversity"] > 0
    assert figures["pixel_diversity_real"] > 0.05
    torch.manual_seed(2)
    assert evaluate(generator, extractor, bank, photos, seed=5, **TINY) == figures
    assert evaluate(generator, extractor, bank, photos, seed=6, **TINY) != figures
    more = evaluate(generator, extractor, bank, photos, **TINY | {"samples": 1000})
    assert more["samples"] == 12  # half of the images


@pytest.mark.dali
def test_evaluate_equals_its_parts(generator, extractor, bank, photos, monkeypatch):
    monkeypatch.setattr(quality, "_IMAGES", 7)  # two groups at once
    seed, n = 3, 24
    figures = evaluate(generator, extractor, bank, photos, seed=seed, held_out=bank, **TINY)
    order = torch.randperm(n, generator=quality.random_of(seed, "halves"))
    real, conditions = order[:9], order[9:18]
    features = bank.gather(np.arange(n), "cpu")
    keys = quality.RowKeys(seed, 0, conditions.numpy(), np.zeros(9, np.int64))
    z = di.ops.truncated_normal(keys, generator.dim_z, truncation=1.0, mode="std", device="cpu")
    made = generator(z, features[conditions])
    again = extractor.at_resolution(generator.resolution)((made / 2 + 0.5).clamp(0, 1))
    # Calls of other sizes may round otherwise.
    close = {"rel": 1e-3, "abs": 1e-5}
    assert figures["feature_frechet_distance"] == pytest.approx(frechet_distance(features[real], again), **close)
    assert figures["feature_frechet_distance_real"] == frechet_distance(features[real], features[conditions])
    of_photographs = (figures["feature_precision_real"], figures["feature_recall_real"])
    assert of_photographs == precision_recall(features[real], features[conditions], 3)
    assert (figures["feature_density"], figures["feature_coverage"]) == density_coverage(features[real], again, 3)
    assert figures["feature_nearest_training_median"] == pytest.approx(copying(features, again)["median"], **close)
    assert figures["feature_nearest_training_median_real"] == 0  # these held-out images are the training images
    rank = conditioning_rank(features, again, conditions)
    assert figures["feature_conditioning_percentile"] == pytest.approx(rank["percentile"])
    chosen, near = conditions[:3].numpy(), bank.neighbours(4)
    picks = [torch.randperm(4, generator=quality.random_of(seed, "neighbours", int(row)))[:3].numpy() for row in chosen]
    with InstanceSampler(generator, extractor, bank, photos, seed=seed, microbatch=8) as instances:
        drawn = instances.generations(chosen, 3, series=1)
        real = [instances.photographs(near[row, pick]) for row, pick in zip(chosen, picks, strict=True)]
    assert figures["pixel_diversity"] == pytest.approx(diversity(drawn), rel=1e-12)
    assert figures["pixel_diversity_real"] == pytest.approx(diversity(torch.stack(real)), rel=1e-12)


@pytest.mark.dali
def test_evaluate_of_a_generator_that_gives_the_photographs_back(generator, extractor, bank, photos, monkeypatch):
    """All figures are seen to be of the right images: each instance's own photograph in the generation's place."""
    monkeypatch.setattr(
        InstanceSampler,
        "generations",
        lambda self, rows, draws=1, series=0: self.photographs(rows)[:, None].expand(-1, draws, -1, -1, -1),
    )
    figures = evaluate(generator, extractor, bank, photos, **TINY)
    assert figures["feature_frechet_distance"] == pytest.approx(figures["feature_frechet_distance_real"], rel=0.05)
    assert figures["feature_conditioning_top1"] == 1
    assert figures["feature_conditioning_percentile"] == 0
    assert figures["feature_nearest_training_median"] < 0.3 * figures["feature_nearest_training_median_real"]
    assert figures["feature_nearest_training_nearer_share"] > 0.5
    assert figures["pixel_diversity"] == 0


@pytest.mark.dali
def test_instances(generator, extractor, bank, photos):
    with InstanceSampler(generator, extractor, bank, photos, seed=4, microbatch=8) as instances:
        rows = np.array([5, 2, 17])
        photographs = instances.photographs(rows)
        assert photographs.shape == (3, 3, generator.resolution, generator.resolution)
        assert -1 <= photographs.min() < -0.5 < 0.5 < photographs.max() <= 1
        assert torch.equal(photographs[1], instances.photographs(rows[1:2])[0])
        # The bank crops before it resizes: up to half a pixel beside these.
        cosine = instances.features(photographs) @ instances.features_of.T
        assert (cosine.argmax(1) == torch.tensor(rows)).all()
        assert (cosine.amax(1) > 0.85).all()
        made = instances.generations(rows, 4)
        assert made.shape == (3, 4, 3, generator.resolution, generator.resolution)
        assert torch.equal(made[1, :2], instances.generations(rows[1:2], 2)[0])
        assert not torch.equal(made[:, 0], made[:, 1])
        assert not torch.equal(made, instances.generations(rows, 4, series=1))


@pytest.mark.dali
def test_a_class_conditional_generator_is_asked_for_each_instances_own_class(extractor, bank, photos):
    config = GeneratorConfig(32, 8, 4, extractor.dim, 16, n_classes=3, shared_dim=8, class_conditional=True)
    torch.manual_seed(0)
    model = ICGenerator(config)
    model(torch.randn(16, config.dim_z), torch.randn(16, extractor.dim), torch.arange(16) % 3)
    generator = di.load_generator(model.state_dict(), device="cpu", dtype=torch.float64)
    with InstanceSampler(generator, None, bank, photos, seed=4, microbatch=3) as instances:
        made = instances.generations(np.array([0, 9, 23]))[:, 0]
        keys = quality.RowKeys(4, 0, np.array([0, 9, 23]), np.zeros(3, np.int64))
        z = di.ops.truncated_normal(keys, generator.dim_z, truncation=1.0, mode="std", device="cpu")
        expected = generator(z, bank.gather([0, 9, 23], "cpu"), torch.tensor([0, 1, 2]))
        assert torch.equal(made, expected.float())
        assert not torch.equal(made, generator(z, bank.gather([0, 9, 23], "cpu"), torch.tensor([1, 2, 0])).float())


@pytest.mark.dali
def test_images_that_are_listed_twice_or_absent(generator, extractor, photos, tmp_path):
    files = sorted(photos.rglob("*.jpg"))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    listed = [(str(broken), 0)] + [(str(file), 0) for file in (files[3], *files[:14])]
    extractor = extractor.at_resolution(generator.resolution)
    bank = FeatureBank.build(listed, extractor, tmp_path / "bank", progress=False)
    with InstanceSampler(generator, extractor, bank, listed) as instances:
        assert instances.rows.tolist() == list(range(1, 16))
        twice = instances.photographs(np.array([1, 5]))
        assert torch.equal(twice[0], twice[1])
    assert evaluate(generator, extractor, bank, listed, **TINY | {"samples": 100})["samples"] == 7


@pytest.mark.dali
def test_evaluate_is_checked(generator, extractor, bank, photos):
    for name, least in (("neighbours_k", 2), ("samples", 1), ("k", 1), ("groups", 1), ("draws", 2)):
        for value in (least - 1, 2.5, True):
            with pytest.raises(ValueError, match=f"^{name} must be an integer of at least {least}, got {value!r}"):
                evaluate(generator, extractor, bank, photos, **TINY | {name: value})
    with pytest.raises(ValueError, match="dataset must hold at least 26 readable images for k = 12, got 24"):
        evaluate(generator, extractor, bank, photos, **TINY | {"k": 12})
    with pytest.raises(ValueError, match="samples must be more than k = 3, got 3"):
        evaluate(generator, extractor, bank, photos, **TINY | {"samples": 3})
    with pytest.raises(ValueError, match="neighbours_k must be less than the 24 readable images, got 24"):
        evaluate(generator, extractor, bank, photos, **TINY | {"neighbours_k": 24})
    other = FeatureBank.from_arrays(rows(4, extractor.dim), list("abcd"))
    with pytest.raises(ValueError, match="held_out must be by the extractor that the bank is by, got FeatureBank"):
        evaluate(generator, extractor, bank, photos, held_out=other, **TINY)
    part = [(str(file), 0) for file in sorted(photos.rglob("*.jpg"))[1:]]
    with pytest.raises(
        ValueError, match=r"dataset must be the one that the bank is of, .*, which lacks 1 of its 24 images"
    ):
        evaluate(generator, extractor, bank, part, **TINY)
