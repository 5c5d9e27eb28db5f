"""Each setting's exact semantics: which rows, which labels, which neighbours. docs/augmentation.md describes them."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import dali_icgan as di
from dali_icgan.augment.plan import RowKeys, Stream
from dali_icgan.data import as_samples
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from dali_icgan.ops import randint, uniform
from tests.photos import make_folder, patch

N = 24
TRANSFORM = di.TrainTransform(32)
WHOLE = di.EvalTransform(32, 32, mean=(0, 0, 0), std=(1, 1, 1))
LABELS = np.arange(N) % 3


def row_keys(epoch=0, view=0, n=N):
    return RowKeys(0, epoch, np.arange(n), np.zeros(n, np.int64), view)


def u(epoch=0, view=0):
    """The uniform number that decides each row."""
    return uniform(row_keys(epoch, view), Stream.REPLACE)[:, 0]


def conditional(feature_dim, n_classes):
    torch.manual_seed(0)
    config = GeneratorConfig(
        resolution=32,
        channels=8,
        z_chunk=4,
        feature_dim=feature_dim,
        shared_dim_feat=16,
        n_classes=n_classes,
        shared_dim=8,
        class_conditional=True,
    )
    return di.load_generator(ICGenerator(config).eval().state_dict(), device="cpu")


@pytest.fixture(scope="module")
def classy(generator):
    """A class-conditional generator of five classes, with random weights."""
    return conditional(generator.feature_dim, 5)


@pytest.fixture(scope="module")
def bank(generator):
    x = torch.nn.functional.normalize(
        torch.randn(N, generator.feature_dim, generator=torch.Generator().manual_seed(0)), dim=1
    )
    return di.FeatureBank.from_arrays(x, [f"{i}.jpg" for i in range(N)], LABELS)


@pytest.fixture(scope="module")
def images():
    return [torch.from_numpy(patch("coffee", i).copy()) for i in range(N)]


@pytest.fixture
def seen(monkeypatch):
    """What a DAICGAN's generator is given from now on: rows of h and y."""

    def watch(augment):
        given = {"h": [], "y": []}
        real = augment.generate

        def generate(z, h, y):
            given["h"].append(h.clone())
            given["y"].append(None if y is None else y.copy())
            return real(z, h, y)

        monkeypatch.setattr(augment, "generate", generate)
        return given

    return watch


# ---------------------------------------------------------------------- which rows


def test_view_p_is_of_its_view(generator, bank, images):
    augment = di.DAICGAN(generator=generator, bank=bank, view_p=(0, 1, 0.4), p=0.5)
    got = [augment(images, range(N), None, 2, TRANSFORM, view=view)[2]["replaced"] for view in range(3)]
    assert not got[0].any()
    assert got[1].all()
    assert np.array_equal(got[2], u(epoch=2, view=2) < 0.4)  # and not p's 0.5
    with pytest.raises(ValueError, match="view_p must give one p a view, got 3 for view 3"):
        augment(images, range(N), None, 0, TRANSFORM, view=3)


def test_views_draw_on_their_own(generator, bank, images):
    augment = di.DAICGAN(generator=generator, bank=bank, p=0.5)
    views = [augment(images, range(N), None, 0, TRANSFORM, view=view) for view in range(2)]
    for view, (_, _, info) in enumerate(views):
        assert np.array_equal(info["replaced"], u(view=view) < 0.5)
    both = views[0][2]["replaced"] & views[1][2]["replaced"]
    assert both.any()
    assert not np.array_equal(views[0][2]["replaced"], views[1][2]["replaced"])
    assert all(not torch.equal(views[0][0][i], views[1][0][i]) for i in range(N))


def test_p_is_called_with_the_epoch_and_decides_exactly_the_rows_below_it(generator, bank, images):
    called = []

    def p(epoch):
        called.append(epoch)
        return min(epoch / 8, 1)

    augment = di.DAICGAN(generator=generator, bank=bank, p=p)
    assert called == []  # not before there is an epoch
    for epoch in (0, 1, 3, 8, 9):
        replaced = augment(images, range(N), None, epoch, TRANSFORM)[2]["replaced"]
        assert np.array_equal(replaced, u(epoch) < min(epoch / 8, 1))
        assert called[-1] == epoch
    by_view = di.DAICGAN(generator=generator, bank=bank, view_p=[0.0, lambda epoch: 1 - 0.1 * epoch])
    assert np.array_equal(by_view(images, range(N), None, 4, TRANSFORM, view=1)[2]["replaced"], u(4, 1) < 0.6)


@pytest.mark.parametrize(("value", "error"), [(1.5, ValueError), (float("nan"), ValueError), ("half", TypeError)])
def test_what_p_returns_is_checked(generator, bank, images, value, error):
    augment = di.DAICGAN(generator=generator, bank=bank, p=lambda epoch: value)
    with pytest.raises(error, match=re.escape("p(3) must be") + ".*" + str(value)):
        augment(images, range(N), None, 3, TRANSFORM)


def test_generated_transform_touches_replaced_rows_only(generator, bank, images):
    own = di.TrainTransform(32, scale=(0.9, 1.0), flip=0.0, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    plain = di.DAICGAN(generator=generator, bank=bank, p=0.5)
    a, _, info = plain(images, range(N), None, 0, TRANSFORM)
    b, _, other = di.DAICGAN(generator=generator, bank=bank, p=0.5, generated_transform=own)(
        images, range(N), None, 0, TRANSFORM
    )
    replaced = info["replaced"]
    assert np.array_equal(replaced, other["replaced"])
    assert torch.equal(a[~replaced], b[~replaced])
    assert np.array_equal(info["box"][~replaced], other["box"][~replaced])
    # Replaced rows are as if the whole call had that transform.
    want, _, all_of_it = plain(images, range(N), None, 0, own)
    assert torch.equal(b[replaced], want[replaced])
    assert np.array_equal(other["box"][replaced], all_of_it["box"][replaced])
    assert not other["flip"][replaced].any()
    assert all(not torch.equal(x, y) for x, y in zip(a[replaced], b[replaced], strict=True))


def test_generated_transform_must_give_the_same_size(generator, bank, images):
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0, generated_transform=di.TrainTransform(48))
    with pytest.raises(ValueError, match="generated_transform must give 32 px as the transform does, got 48"):
        augment(images, range(N), None, 0, TRANSFORM)


# ---------------------------------------------------------------------- which labels


def test_own_labels_are_what_the_generator_sees(classy, bank, images, seen):
    augment = di.DAICGAN(generator=classy, bank=bank, p=0.5, class_map=[4, 0, 2])
    given = seen(augment)
    _, labels, info = augment(images, range(N), LABELS, 0, TRANSFORM)
    assert labels.tolist() == LABELS.tolist()
    assert given["y"][0].tolist() == np.array([4, 0, 2])[LABELS[info["replaced"]]].tolist()


def test_random_labels_are_the_label_streams_and_the_generator_sees_their_classes(classy, bank, images, seen):
    class_map = np.array([4, 0, 2])
    augment = di.DAICGAN(generator=classy, bank=bank, p=0.6, class_map=class_map, labels="random")
    given = seen(augment)
    _, labels, info = augment(images, range(N), LABELS, 5, TRANSFORM)
    replaced = info["replaced"]
    assert 0 < replaced.sum() < N
    drawn = randint(row_keys(5), Stream.LABEL, 3)
    assert labels.tolist() == np.where(replaced, drawn, LABELS).tolist()
    assert set(drawn[replaced]) == {0, 1, 2}
    assert given["y"][0].tolist() == class_map[drawn[replaced]].tolist()
    own, _, same = di.DAICGAN(generator=classy, bank=bank, p=0.6, class_map=class_map)(
        images, range(N), LABELS, 5, TRANSFORM
    )
    assert np.array_equal(same["replaced"], replaced)
    assert torch.equal(own[~replaced], augment(images, range(N), LABELS, 5, TRANSFORM)[0][~replaced])


def test_a_neighbours_generation_is_conditioned_on_the_own_label(classy, bank, images, seen):
    # Every nearest neighbour in another class would give another label, were it taken from there.
    augment = di.DAICGAN(generator=classy, bank=bank, p=1.0, class_map=[4, 0, 2], condition="neighbour", k=N - 1)
    given = seen(augment)
    _, labels, _ = augment(images, range(N), LABELS, 0, TRANSFORM)
    assert labels.tolist() == LABELS.tolist()
    assert given["y"][0].tolist() == np.array([4, 0, 2])[LABELS].tolist()


def test_random_labels_are_not_for_retrieval(classy, bank):
    with pytest.raises(ValueError, match=r'labels="random" conditions a generator, .* source must be "generator"'):
        di.DAICGAN(generator=classy, bank=bank, source="neighbour", labels="random", k=3)


def test_wordnet_ids_give_imagenets_classes(generator, tmp_path, extractor):
    ids = {
        "n02123045": 281,
        "n01440764": 0,
        "n15075141": 999,
        "n07920052": 967,
    }  # tabby, tench, toilet tissue, espresso
    for name in ids:
        (tmp_path / name).mkdir()
        Image.fromarray(patch("coffee", 1)).save(tmp_path / name / "0.jpg")
    samples = as_samples(tmp_path)
    assert samples.classes == sorted(ids)
    augment = di.DAICGAN(generator=conditional(generator.feature_dim, 1000), extractor=extractor)
    binding = augment.bind(samples, 0)
    assert binding.class_map.tolist() == [0, 281, 967, 999]
    assert augment.classes(binding, samples.labels).tolist() == [ids[name] for name in samples.classes]
    given = di.DAICGAN(generator=augment.generator, extractor=extractor, class_map={0: 5, 1: 6, 2: 7, 3: 8})
    assert given.bind(samples, 0).class_map.tolist() == [5, 6, 7, 8]  # what is given wins


# ---------------------------------------------------------------------- which neighbours


@pytest.mark.parametrize("same_class", [False, True])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_a_neighbour_is_the_one_drawn(generator, bank, images, seen, same_class, k):
    augment = di.DAICGAN(generator=generator, bank=bank, p=0.7, condition="neighbour", k=k, same_class=same_class)
    given = seen(augment)
    for epoch in range(3):
        _, _, info = augment(images, range(N), LABELS, epoch, TRANSFORM)
        near = bank.neighbours(k, same_class=same_class)
        count = np.full(N, min(k, 7) if same_class else k)  # classes of eight
        draw = randint(row_keys(epoch), Stream.NEIGHBOUR, count)
        rows = near[np.arange(N), draw][info["replaced"]]
        assert (rows >= 0).all()
        if same_class:
            assert (LABELS[rows] == LABELS[info["replaced"]]).all()
        assert torch.equal(given["h"][-1], bank.gather(rows, "cpu"))


def test_the_same_class_draws_as_the_whole_bank_does_where_it_has_k(generator, bank):
    # The number drawn is the same: settings can be compared row by row.
    decisions = [
        di.DAICGAN(generator=generator, bank=bank, condition="neighbour", k=7, same_class=same_class)
        for same_class in (False, True)
    ]
    rank = []
    for augment in decisions:
        row = augment.decide(augment._bind_alone(), row_keys(), LABELS, 1.0).row
        near = bank.neighbours(7, same_class=augment.same_class)
        rank.append([int(np.flatnonzero(near[i] == row[i])[0]) for i in range(N)])
    assert rank[0] == rank[1]


def test_a_small_class_gives_all_it_has_and_evenly(generator):
    x = torch.nn.functional.normalize(torch.randn(9, generator.feature_dim), dim=1)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    bank = di.FeatureBank.from_arrays(x, [str(i) for i in range(9)], labels)
    augment = di.DAICGAN(generator=generator, bank=bank, condition="neighbour", k=8, same_class=True)
    counts = np.zeros((9, 9), int)
    for epoch in range(600):
        decision = augment.decide(augment._bind_alone(), row_keys(epoch, n=9), labels, 1.0)
        counts[np.arange(9), decision.row] += 1
    same = (labels[:, None] == labels) & ~np.eye(9, dtype=bool)
    assert (counts[~same] == 0).all()
    expected = 600 / same.sum(1)
    assert (np.abs(counts - expected[:, None])[same] < 5 * np.sqrt(expected.max())).all()


def test_retrieval_of_the_same_class(generator, extractor, tmp_path):
    folder = make_folder(tmp_path / "photos", 4)
    at = extractor.at_resolution(generator.resolution)
    bank = di.FeatureBank.build(folder, at, tmp_path / "bank", progress=False)
    originals = di.data.ImageDecoder(1).decode([as_samples(folder).read(i) for i in range(12)])
    alone, _, _ = di.DAICGAN(generator=generator, bank=bank, p=0.0)(originals, range(12), None, 0, WHOLE)
    augment = di.DAICGAN(generator=None, bank=bank, p=0.6, source="neighbour", k=11, same_class=True)
    shown, labels, info = augment(originals, range(12), bank.labels, 3, WHOLE)
    assert labels.tolist() == bank.labels.tolist()
    assert 0 < info["replaced"].sum() < 12
    near = bank.neighbours(11, same_class=True)
    draw = randint(row_keys(3, n=12), Stream.NEIGHBOUR, np.full(12, 3))
    for i in range(12):
        want = near[i, draw[i]] if info["replaced"][i] else i
        assert bank.labels[want] == bank.labels[i]
        assert torch.equal(shown[i], alone[want])


def test_a_neighbour_retrieved_is_cropped_by_generated_transform_and_normalised_as_a_photograph(
    generator, extractor, tmp_path
):
    folder = make_folder(tmp_path / "photos", 2)
    bank = di.FeatureBank.build(folder, extractor.at_resolution(32), tmp_path / "bank", progress=False)
    originals = di.data.ImageDecoder(1).decode([as_samples(folder).read(i) for i in range(6)])
    own = di.EvalTransform(32, 32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    options = {"generator": None, "bank": bank, "p": 0.5, "source": "neighbour", "k": 3}
    shown, _, info = di.DAICGAN(**options, generated_transform=own)(originals, range(6), None, 0, TRANSFORM)
    real, _, _ = di.DAICGAN(**options)(originals, range(6), None, 0, TRANSFORM)
    photographs = di.EvalTransform(32, 32)  # normalised as TRANSFORM does
    whole, _, _ = di.DAICGAN(**options)(originals, range(6), None, 0, photographs)
    replaced = info["replaced"]
    assert 0 < replaced.sum() < 6
    assert torch.equal(shown[replaced], whole[replaced])
    assert torch.equal(shown[~replaced], real[~replaced])


def test_retrieval_turns_images_as_the_bank_was(generator, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(2):
        Image.fromarray(patch("coffee", i)).save(tmp_path / f"{i}.jpg", quality=95, exif=exif)
    files = [tmp_path / f"{i}.jpg" for i in range(2)]
    x = torch.eye(2, generator.feature_dim)
    for turned in (False, True):
        bank = di.FeatureBank.from_arrays(x, ["0.jpg", "1.jpg"], root=tmp_path, exif=turned)
        augment = di.DAICGAN(generator=None, bank=bank, p=1.0, source="neighbour", k=1)
        originals = di.data.ImageDecoder(1, exif=turned).decode([file.read_bytes() for file in files])
        shown, _, _ = augment(originals, [0, 1], None, 0, WHOLE)
        want, _, _ = di.DAICGAN(generator=generator, bank=bank, p=0.0)(originals, [1, 0], None, 0, WHOLE)
        assert torch.equal(shown, want.flip(0))


# ---------------------------------------------------------------------- same_class and the dataset


@pytest.fixture(scope="module")
def lonely(generator):
    """A bank of samples in memory: classes 0 and 1 have three and two images, class 2 has one."""
    data = []
    for i in range(6):
        stream = io.BytesIO()
        Image.fromarray(patch("coffee", i)).save(stream, "JPEG")
        data.append(stream.getvalue())
    pairs = list(zip(data, [0, 0, 0, 1, 1, 2], strict=True))
    samples = as_samples(pairs)
    x = torch.nn.functional.normalize(torch.randn(6, generator.feature_dim), dim=1)
    return pairs, di.FeatureBank.from_arrays(x, samples.keys, samples.labels)


def same_class(generator, bank, **arguments):
    arguments = {"k": 2, "condition": "neighbour", "same_class": True, **arguments}
    return di.DAICGAN(generator=generator, bank=bank, **arguments)


def test_an_image_alone_in_its_class_is_named(generator, lonely):
    pairs, bank = lonely
    message = r"same_class=True needs another image of every class in the bank, got none of class 2 beside <sample 5 in memory>"
    with pytest.raises(ValueError, match=message):
        same_class(generator, bank).bind(as_samples(pairs), 0)
    same_class(generator, bank).bind(as_samples(pairs[:5]), 0)  # a part of the dataset without it
    labels = [label for _, label in pairs]
    standalone = same_class(generator, bank, p=1.0)
    pixels = [torch.zeros(8, 8, 3, dtype=torch.uint8)] * 6
    with pytest.raises(ValueError, match=rf"got none of class 2 beside {bank.keys[5]}"):
        standalone(pixels, range(6), labels, 0, TRANSFORM)
    standalone(pixels[:5], range(5), labels[:5], 0, TRANSFORM)


def test_an_image_alone_because_the_other_is_absent_is_named(generator, lonely):
    pairs, bank = lonely
    x = np.asarray(bank.gather(range(6), "cpu"))
    bank = di.FeatureBank.from_arrays(x, bank.keys, bank.labels, absent={3: "lost"})
    with pytest.raises(ValueError, match="got none of class 1 beside <sample 4 in memory>"):
        same_class(generator, bank).bind(as_samples(pairs[:5]), 0)
    same_class(generator, bank).bind(as_samples(pairs[:4]), 0)  # sample 3 has no feature: that is on_error's


def test_a_subset_draws_from_the_whole_bank(generator, lonely):
    pairs, bank = lonely
    augment = same_class(generator, bank)
    binding = augment.bind(as_samples([pairs[4], pairs[1]]), 0)
    keys = RowKeys(0, 0, np.array([0, 1]), np.zeros(2, np.int64))
    seen = set()
    for epoch in range(30):
        keys = RowKeys(0, epoch, np.array([0, 1]), np.zeros(2, np.int64))
        seen |= {(i, int(row)) for i, row in enumerate(augment.decide(binding, keys, np.array([1, 0]), 1.0).row)}
    assert seen == {(0, 3), (1, 0), (1, 2)}  # rows 0, 2 and 3 are not of the subset


def test_labels_that_rename_or_join_the_banks_classes_are_taken(generator, lonely):
    pairs, bank = lonely
    for new in ({0: 7, 1: 3}, {0: 0, 1: 0}):
        same_class(generator, bank).bind(as_samples([(data, new[label]) for data, label in pairs[:5]]), 0)


def test_labels_that_part_the_banks_classes_are_refused(generator, lonely):
    pairs, bank = lonely
    parted = [(data, i % 2) for i, (data, _) in enumerate(pairs[:5])]
    message = (
        r"same_class=True takes classes from the bank, whose class 0 must have one label in dataset, "
        r"got 0 for <sample 0 in memory> and 1 for <sample 1 in memory>"
    )
    with pytest.raises(ValueError, match=message):
        same_class(generator, bank).bind(as_samples(parted), 0)
    di.DAICGAN(generator=generator, bank=bank, condition="neighbour", k=2).bind(as_samples(parted), 0)


@pytest.mark.parametrize("arguments", [{}, {"condition": "random"}])
def test_same_class_without_neighbours_is_refused(generator, bank, arguments):
    with pytest.raises(
        ValueError, match='same_class=True limits neighbours: condition or source must be "neighbour", got'
    ):
        di.DAICGAN(generator=generator, bank=bank, same_class=True, **arguments)


def test_same_class_must_be_a_bool(generator, bank):
    with pytest.raises(TypeError, match="same_class must be True or False, got 'cat'"):
        di.DAICGAN(generator=generator, bank=bank, same_class="cat", condition="neighbour", k=3)


def test_bind_compares_exif(generator, lonely):
    pairs, bank = lonely
    known = di.FeatureBank.from_arrays(np.asarray(bank.gather(range(6), "cpu")), bank.keys, bank.labels, exif=True)
    augment = di.DAICGAN(generator=generator, bank=known)
    augment.bind(as_samples(pairs), 0, exif=True)
    with pytest.raises(ValueError, match=r"bank must be of images seen with exif=False, .* got exif=True"):
        augment.bind(as_samples(pairs), 0, exif=False)
