"""SwAV: its views, its queue, its frozen prototypes, its evaluation; and a run that goes on to the bit."""

import pytest
import torch

from dali_icgan.ranks import Ranks
from dali_icgan.recipes.data import folders
from dali_icgan.recipes.selfsupervised import SwavTask
from dali_icgan.training.state import random_of
from tests.recipes.small import small, train
from tests.recipes.test_trainer import losses, over_ranks, same, state

pytestmark = pytest.mark.dali
CPU = torch.device("cpu")


def task(root, *options, ranks=None, steps_per_epoch=4):
    recipe = small("swav", *options)
    torch.manual_seed(random_of(0, "weights").initial_seed())  # as the trainer does
    made = SwavTask(recipe, folders(recipe, root)[0], CPU, ranks or Ranks(), steps_per_epoch)
    made.train()
    return made


def rows(n, seed):
    return torch.nn.functional.normalize(torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)))


def test_a_run_learns(root, bank, tmp_path):
    summary = train("swav", root, tmp_path, "schedule.epochs=8", "run.validate_every=100", bank=bank)
    each = losses(tmp_path)
    assert sum(each[-4:]) < 0.97 * sum(each[:4])
    assert summary.figures["images"] == 15
    assert summary.best == summary.figures["knn_top1"] > 50


def test_the_network_gives_rows_view_after_view(root):
    network = task(root).network.eval()
    large, small_ = torch.rand(2, 3, 3, 32, 32), torch.rand(2, 3, 3, 16, 16)
    with torch.no_grad():
        found, similar = network([*large, *small_])
        alone = [network([view]) for view in (*large, *small_)]
    assert torch.allclose(found, torch.cat([a for a, _ in alone]), atol=1e-5)
    assert torch.allclose(similar, torch.cat([b for _, b in alone]), atol=1e-4)
    assert torch.allclose(found.norm(dim=1), torch.ones(12))


def test_the_queue_holds_earlier_rows_and_is_used_once_it_is_full(root):
    made = task(root, "swav.queue=24", "swav.queue_epoch=1")
    parts = [(rows(12, step), rows(12, 100 + step)) for step in range(8)]
    given = [made._queued(part, step) for step, part in enumerate(parts)]
    assert given[:6] == [None] * 6  # from step 4 on it fills, in two steps
    for step in (6, 7):
        for view in range(2):
            earlier = torch.cat([parts[each][view] for each in (step - 2, step - 1)])
            expected = made.network.prototypes(earlier)
            found = given[step][view]
            assert torch.allclose(found.sort(0).values, expected.sort(0).values, atol=1e-6)


def test_prototypes_are_frozen_in_the_beginning(root, tmp_path):
    options = ["swav.frozen_epochs=1", "schedule.epochs=2", "optimizer.weight_decay=0"]
    begin = task(root).network.prototypes
    begin.normalize()
    train("swav", root, tmp_path, *options, steps=4)
    after = {name[11:]: each for name, each in state(tmp_path)["network"].items() if name.startswith("prototypes.")}
    first = begin.state_dict()
    assert first.keys() == after.keys()
    assert all(torch.allclose(first[name], after[name], atol=1e-6) for name in first)
    train("swav", root, tmp_path, *options)
    later = state(tmp_path)["network"]
    assert not torch.allclose(first["heads.0.weight"], later["prototypes.heads.0.weight"], atol=1e-4)


def test_a_run_that_was_cut_off_goes_on_to_the_bit(root, bank, tmp_path):
    # Autocast, and views of two sizes: a weight is used twice in a step, while generations are made beside it. Not of 16 px: on maps of
    # 1x1, which these come to, torch's bfloat16 convolution of stride 2 reads memory that nobody wrote.
    options = ["swav.queue=24", "swav.queue_epoch=0", "ema.decay=0.9", "run.precision=bf16", "generate.views=all",
               "views.local_size=24"]  # fmt: skip
    train("swav", root, tmp_path / "whole", *options, bank=bank)
    for steps in (3, 2, None):
        train("swav", root, tmp_path / "parts", *options, bank=bank, steps=steps)
    same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    assert state(tmp_path / "whole")["ranks"][0]["task"]["queues"][0][0].shape == (24, 16)


@pytest.mark.full
def test_ranks_that_were_cut_off_go_on_to_the_bit(root, tmp_path):
    options = ["swav.queue=24", "swav.queue_epoch=0"]
    whole = over_ranks(2, "swav", root, tmp_path / "whole", options, tmp_path)
    assert whole[0] == whole[1]
    assert whole[0][1]["images"] == 15
    over_ranks(2, "swav", root, tmp_path / "parts", options, tmp_path, steps=5)
    assert over_ranks(2, "swav", root, tmp_path / "parts", options, tmp_path) == whole
    same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    queues = [rank["task"]["queues"] for rank in state(tmp_path / "whole")["ranks"]]
    assert not torch.equal(queues[0][0][0], queues[1][0][0])


def test_its_trunk_starts_linear_evaluation(root, tmp_path):
    train("swav", root, tmp_path / "swav", "schedule.epochs=1")
    init = tmp_path / "swav" / "best.safetensors"
    summary = train("resnet", root, tmp_path / "head", f"model.init={init}", "model.train=head", "schedule.epochs=1")
    assert summary.step == 4


@pytest.mark.parametrize(
    ("options", "ranks", "message"),
    [
        (["swav.queue=25"], Ranks(0, 2), "swav.queue must be a multiple of the 2 ranks, got 25"),
        (["swav.queue=20"], None, "swav.queue must be a multiple of run.batch_size, got 20"),
        (["swav.queue=24", "run.accumulate=2"], None, r"swav.queue must be 0 with run.accumulate"),
        (["swav.knn_k=49"], None, "swav.knn_k must be at most the 48 images that neighbours come from, got 49"),
        (["model.init=x.safetensors", "model.train=head"], None, "model.train must be all for SwAV, got head"),
    ],
)
def test_what_does_not_go_together_is_named(root, options, ranks, message):
    with pytest.raises(ValueError, match=message):
        task(root, *options, ranks=ranks)
