"""Loaders of a recipe: arms, views, repeated augmentation, validation images once."""

from collections import Counter

import numpy as np
import pytest
import torch

import dali_icgan as di
from dali_icgan.ranks import Ranks
from dali_icgan.recipes.data import RepeatedAugmentation, eval_loader, folders, generative, train_loader
from tests.photos import make_folder
from tests.recipes.small import small
from tests.shard_folders import make_shards

pytestmark = pytest.mark.dali
CPU = torch.device("cpu")


def loader(root, recipe, ranks=None, raw=False):
    samples, _ = folders(recipe, root)
    return train_loader(recipe, samples, CPU, ranks or Ranks(), raw=raw)


def shares(root, recipe, epoch=0):
    """Of each view, the share of rows replaced; and which rows, by index and view."""
    with loader(root, recipe) as made:
        made.set_epoch(epoch)
        infos = [info for *_, info in made]
    replaced = np.concatenate([np.atleast_2d(info["replaced"]) for info in infos], 1)
    return replaced.mean(1), replaced


@pytest.mark.parametrize("arm", ["plain", "matched"])
def test_arms_that_replace_nothing(arm, root, bank):
    recipe = small("resnet", f"generate.arm={arm}", bank=bank)
    assert generative(recipe, CPU) is None
    assert shares(root, recipe)[0] == [0]


def test_arms_replace_the_same_rows_by_what_they_are_for(root, bank):
    """Retrieval and random conditions are controls of the same p: the same rows are replaced."""
    made = {}
    for arm in ("generated", "retrieval", "random"):
        recipe = small("resnet", f"generate.arm={arm}", bank=bank)
        augment = generative(recipe, CPU)
        made[arm] = (augment.source, augment.condition, augment.generator is not None)
        made[f"{arm} rows"] = shares(root, recipe)[1].tobytes()
    assert made["generated"] == ("generator", "instance", True)
    assert made["retrieval"] == ("neighbour", "instance", False)
    assert made["random"] == ("generator", "random", True)
    assert made["generated rows"] == made["retrieval rows"] == made["random rows"]


def test_p_grows_over_epochs(root, bank):
    recipe = small("resnet", "generate.p=1", "generate.p_start=0", "generate.ramp_epochs=4", bank=bank)
    assert [float(shares(root, recipe, epoch)[0][0]) for epoch in (0, 4)] == [0, 1]
    half, _ = shares(root, recipe, 2)
    assert 0.2 < half[0] < 0.8


def test_generations_have_their_own_crop(root, bank):
    recipe = small("resnet", "crop.generated_scale=[1, 1]", "crop.ratio=[1, 1]", "generate.p=1", bank=bank)
    with loader(root, recipe, raw=True) as made:
        *_, info = next(iter(made))
        assert (info["box"][:, 2:] == 32).all()  # the whole of the generation
        assert made.augment.generated_in().mean == (0, 0, 0)


def test_generated_views_have_their_own_crops(root, bank):
    whole = ["views.global_generated_scale=[1, 1]", "views.ratio=[1, 1]"]
    recipe = small("swav", "generate.p=1", "generate.views=all", *whole, bank=bank)
    with loader(root, recipe, raw=True) as made:
        boxes = next(iter(made))[2]["box"]
        assert (boxes[:2, :, 2:] == 32).all()  # the whole of the generation
        assert (boxes[2:, :, 2:] < 32).all()
        assert [made.augment.generated_in(view) is None for view in range(4)] == [False, False, True, True]
    local = small("swav", "views.local_generated_scale=[0.5, 1]", bank=bank)
    styles = [generative(local, CPU, raw=True).generated_in(view) for view in range(4)]
    assert styles[:2] == [None, None]
    assert [(style.output_size, style.scale, style.std) for style in styles[2:]] == [(16, (0.5, 1), (1, 1, 1))] * 2


def test_generations_of_an_embedded_bank_are_the_same_but_for_rounding(root, bank):
    batches = []
    for embedded in ("false", "true"):
        recipe = small("resnet", "generate.p=1", f"generate.embed_bank={embedded}", bank=bank)
        with loader(root, recipe) as made:
            assert made.augment.embed_bank == (embedded == "true")
            batches.append(next(iter(made))[0])
    assert torch.allclose(*batches, atol=0.05)
    assert not torch.equal(*batches)
    assert not generative(
        small("resnet", "generate.arm=retrieval", "generate.embed_bank=true", bank=bank), CPU
    ).embed_bank


def test_shards_of_the_images_give_the_batches_of_their_files(root, bank, tmp_path):
    for part in ("train", "val"):
        make_shards(root / part, tmp_path / part)
    recipe = small("resnet", bank=bank)
    with loader(root, recipe) as files, loader(tmp_path, recipe) as shards:
        for (images, labels, info), (others, theirs, of_shards) in zip(files, shards, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, theirs)
            assert (info["replaced"] == of_shards["replaced"]).all()
    assert folders(recipe, root)[1].classes == folders(recipe, tmp_path)[1].classes


@pytest.mark.parametrize(
    ("views", "expected"), [("one", [1, 0, 0, 0]), ("global", [1, 1, 0, 0]), ("all", [1, 1, 1, 1]), ("none", [0] * 4)]
)
def test_which_views_are_generated(views, expected, root, bank):
    recipe = small("swav", f"generate.views={views}", "generate.p=1", bank=bank)
    assert shares(root, recipe)[0].tolist() == expected
    with loader(root, recipe, raw=True) as made:
        images, _, _ = next(iter(made))
        assert [list(view.shape) for view in images] == [[12, 3, 32, 32]] * 2 + [[12, 3, 16, 16]] * 2


@pytest.mark.parametrize(("world", "n"), [(1, 48), (2, 47), (3, 48)])
def test_repeated_augmentation_repeats_within_a_batch_of_all_ranks(world, n):
    ranks = [RepeatedAugmentation(n, 3, 5, Ranks(rank, world)) for rank in range(world)]
    for each in ranks:
        each.set_epoch(2)
    entries = [list(each) for each in ranks]
    assert {len(each) for each in entries} == {len(ranks[0])} == {n // world}
    together = [entry for step in zip(*entries, strict=True) for entry in step]
    assert len(set(together)) == len(together)
    for begin in range(0, len(together) - 2, 3):
        part = together[begin : begin + 3]
        assert len({index for index, _ in part}) == 1
        assert [repeat for _, repeat in part] == [0, 1, 2]
    assert len({index for index, _ in together}) == -(-len(together) // 3)
    ranks[0].set_epoch(3)
    assert list(ranks[0]) != entries[0]


def test_repeats_are_other_draws_of_the_same_image(root):
    recipe = small("resnet", "data.repeats=3", "run.batch_size=12")
    with loader(root, recipe) as made:
        images, _, info = next(iter(made))
        assert max(Counter(info["index"].tolist()).values()) == 3
        assert len({image.numpy().tobytes() for image in images}) == 12


def test_validation_sees_each_image_once_over_uneven_ranks(root):
    recipe = small("resnet", "run.batch_size=8")
    _, samples = folders(recipe, root)
    seen = []
    for rank in range(2):
        with eval_loader(recipe, samples, CPU, Ranks(rank, 2)) as made:
            made.return_info = True
            seen += [index for *_, info in made for index in info["index"].tolist()]
    assert sorted(seen) == list(range(15))


def test_an_unreadable_validation_image_is_an_error(tmp_path):
    make_folder(tmp_path / "train", 2)
    make_folder(tmp_path / "val", 2)
    (tmp_path / "val" / "coffee" / "000.jpg").write_bytes(b"no image")
    recipe = small("resnet")
    _, samples = folders(recipe, tmp_path)
    with eval_loader(recipe, samples, CPU, Ranks()) as made, pytest.raises(di.DecodeError, match=r"coffee/000.jpg"):
        list(made)


def test_folders_of_other_classes_are_refused(tmp_path):
    make_folder(tmp_path / "train", 1)
    make_folder(tmp_path / "val", 1)
    (tmp_path / "val" / "coffee").rename(tmp_path / "val" / "tea")
    with pytest.raises(ValueError, match=r"val must have the classes of .*train, got others: coffee, tea"):
        folders(small("resnet"), tmp_path)


def test_a_batch_larger_than_the_images_is_refused(root):
    with pytest.raises(ValueError, match=r"run.batch_size must be at most the 48 images of .*, got 50"):
        loader(root, small("resnet", "run.batch_size=50"))
