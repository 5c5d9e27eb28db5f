"""Whole runs in a size for tests: they learn, go on to the bit, agree over ranks, and refuse what does not go together."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dali_icgan.ranks import Ranks
from dali_icgan.recipes.trainer import Trainer, train_recipe
from tests.photos import make_folder
from tests.processes import RankProcesses
from tests.recipes.small import small, train

pytestmark = pytest.mark.dali


def state(out):
    return torch.load(out / "last.pt", weights_only=True)


def same(a, b, path=""):
    """Bit for bit, whatever is nested; names where not."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}.{i}")
    else:
        assert a == b or (a != a and b != b), (path, a, b)


def losses(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars("train/loss")]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("resnet", ["schedule.epochs=6"]),
        (
            "deit",
            [
                "schedule.epochs=12",
                "optimizer.lr=0.005",
                "augment.mix=0",
                "augment.erasing=0",
                "augment.randaugment=0",
                "augment.smoothing=0",
                "model.drop_path=0",
                "data.repeats=1",
                "ema.decay=null",
            ],
        ),
    ],
)
def test_a_run_learns(kind, options, root, tmp_path):
    summary = train(kind, root, tmp_path / "run", *options, "run.validate_every=100")
    each = losses(tmp_path / "run")
    assert len(each) == summary.step == summary.steps
    assert sum(each[-4:]) / 4 < 0.8 * sum(each[:4]) / 4
    assert summary.best >= summary.figures["top1"]
    assert summary.best > 50  # of three classes
    assert summary.figures["images"] == 15
    assert summary.images_per_second > 0
    assert 0 <= summary.waiting <= 1


ALL = [
    "augment.randaugment=1",
    "augment.randaugment_rows=real",
    "augment.erasing=0.5",
    "augment.mix=1",
    "augment.mixup=0.8",
    "augment.cutmix=1",
    "augment.smoothing=0.1",
    "model.drop_path=0.2",
    "ema.decay=0.9",
    "generate.p=1",
    "generate.p_start=0",
    "generate.ramp_epochs=2",
]


@pytest.mark.parametrize(
    ("kind", "options", "stops"),
    [
        ("resnet", [*ALL, "run.precision=bf16"], [1, 4]),
        ("deit", ["run.accumulate=3", "optimizer.clip=1", "data.repeats=3", "optimizer.name=adamw"], [2]),
        ("deit", ["run.precision=fp16", "run.save_every=3", "generate.arm=retrieval"], [4, 1]),
    ],
)
def test_a_run_that_was_cut_off_goes_on_to_the_bit(kind, options, stops, root, bank, tmp_path):
    train(kind, root, tmp_path / "whole", *options, bank=bank)
    for steps in stops:
        made = train(kind, root, tmp_path / "parts", *options, bank=bank, steps=steps)
        torch.rand(3)  # whatever the process drew in between
    assert made.step == sum(stops)
    train(kind, root, tmp_path / "parts", *options, bank=bank)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole["step"] == 8
    same(whole, parts)
    for name in ("best.safetensors", "final.safetensors", "history.json", "config.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_a_killed_run_goes_on_from_its_last_state(root, tmp_path, monkeypatch):
    options = ["run.save_every=3", "ema.decay=0.5"]
    train("resnet", root, tmp_path / "whole", *options)
    real = Trainer._step

    def killed(self, batches):
        if self.step == 7:
            raise KeyboardInterrupt
        real(self, batches)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train("resnet", root, tmp_path / "run", *options)
    assert state(tmp_path / "run")["step"] == 6
    monkeypatch.setattr(Trainer, "_step", real)
    train("resnet", root, tmp_path / "run", *options)
    same(state(tmp_path / "whole"), state(tmp_path / "run"))


def test_a_finished_run_stays_as_it_is(root, tmp_path):
    train("resnet", root, tmp_path, "schedule.epochs=1")
    before = (tmp_path / "last.pt").read_bytes()
    summary = train("resnet", root, tmp_path, "schedule.epochs=1")
    assert (summary.step, summary.steps) == (4, 4)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert load_file(tmp_path / "final.safetensors").keys() == load_file(tmp_path / "best.safetensors").keys()


# ---------------------------------------------------------------------- equal ways


def far(a, b):
    """The largest difference of two networks' weights, over their largest weight."""
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a) / max(
        float(each.abs().max()) for each in a.values()
    )


# Layer norm alone: batch statistics would be of other images. SGD: Adam divides by gradients that rounding makes up.
BATCHLESS = ["optimizer.name=sgd", "optimizer.lr=0.05", "augment.mix=0", "augment.erasing=0", "augment.randaugment=0",
             "model.drop_path=0", "data.repeats=1", "optimizer.clip=null"]  # fmt: skip


def run_rank(kind, root, out, options, bank, steps=None):
    summary = train(kind, Path(root), Path(out), *options, bank=bank, steps=steps)
    return [summary.step, summary.figures]


def over_ranks(world, kind, root, out, options, folder, bank=None, steps=None):
    arguments = (kind, str(root), str(out), options, None if bank is None else str(bank), steps)
    with RankProcesses(run_rank, world, arguments, folder=folder) as job:
        return job.results(120)


def test_parts_of_a_step_are_the_step(root, tmp_path):
    train("deit", root, tmp_path / "whole", *BATCHLESS)
    train("deit", root, tmp_path / "parts", *BATCHLESS, "run.accumulate=3")
    assert 0 < far(state(tmp_path / "whole")["network"], state(tmp_path / "parts")["network"]) < 1e-5


def test_two_ranks_are_one_process_of_the_same_batch(root, bank, tmp_path):
    """A step is of ``run.batch_size`` images of the same places in the order, however many ranks share it: sums differ by rounding."""
    train("deit", root, tmp_path / "one", *BATCHLESS, bank=bank)
    results = over_ranks(2, "deit", root, tmp_path / "two", BATCHLESS, tmp_path, bank)
    assert results[0] == results[1]  # figures are of all ranks
    assert results[0][1]["images"] == 15
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert 0 < far(one["network"], two["network"]) < 1e-5
    # What the bound is worth: other images are far.
    train("deit", root, tmp_path / "other", *BATCHLESS, "run.seed=1", bank=bank)
    assert far(one["network"], state(tmp_path / "other")["network"]) > 1e-2


def test_ranks_that_were_cut_off_go_on_to_the_bit(root, bank, tmp_path):
    """With batch norm, whose statistics are each rank's own in between."""
    options = [*ALL, "run.save_every=2", "data.repeats=2"]
    whole = over_ranks(2, "resnet", root, tmp_path / "whole", options, tmp_path, bank)
    over_ranks(2, "resnet", root, tmp_path / "parts", options, tmp_path, bank, steps=3)
    parts = over_ranks(2, "resnet", root, tmp_path / "parts", options, tmp_path, bank)
    assert whole == parts
    same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    with pytest.raises(ValueError, match="must go on with its 2 ranks, whose queues or repeats are their own, got 1"):
        train("resnet", root, tmp_path / "parts", *options, bank=bank)


def statistics(root, out, options):
    recipe = small("resnet", *options)
    trainer = Trainer(recipe, "resnet50", Path(root), Path(out), torch.device("cpu"), Ranks.here(), False)
    trainer.run(3)
    trainer.close()
    return [float(each.double().sum()) for name, each in trainer.ema.module.named_buffers() if "running" in name]


def test_ranks_validate_with_the_first_ones_batch_statistics(root, tmp_path):
    (tmp_path / "run").mkdir()
    arguments = (str(root), str(tmp_path / "run"), ["ema.decay=0.9"])
    with RankProcesses(statistics, 2, arguments, folder=tmp_path) as job:
        first, second = job.results(120)
    assert first == second
    assert len(first) > 4


def test_a_run_goes_on_with_another_number_of_ranks(root, tmp_path):
    train("deit", root, tmp_path / "one", *BATCHLESS)
    over_ranks(2, "deit", root, tmp_path / "run", BATCHLESS, tmp_path, steps=5)
    train("deit", root, tmp_path / "run", *BATCHLESS)
    assert far(state(tmp_path / "one")["network"], state(tmp_path / "run")["network"]) < 1e-5


# ---------------------------------------------------------------------- arms, weights, refusals


def test_the_matched_arm_is_a_plain_run_of_more_epochs(root, bank, tmp_path):
    """The schedule is stretched with it; the rest is the plain arm's."""
    options = ["schedule.epochs=2", "schedule.kind=multistep", "schedule.milestones=[1]"]
    summary = train("resnet", root, tmp_path, *options, "generate.arm=matched", bank=bank)
    assert summary.steps == 12  # 2 epochs of 4 steps, and half as many again
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rates = [event.value for event in events.Scalars("train/lr")]
    assert rates == pytest.approx([0.05] * 5 + [0.005] * 7)  # timm drops an update before the milestone, which is at 6


def test_a_trial_validates_in_part_and_keeps_no_best(root, tmp_path):
    summary = train("resnet", root, tmp_path, steps=1)
    assert (summary.step, summary.steps, summary.best) == (1, 8, None)
    assert summary.figures["images"] == 12  # one batch
    assert not (tmp_path / "best.safetensors").exists()
    assert not (tmp_path / "history.json").exists()


def test_the_best_weights_are_kept_with_what_they_are(root, tmp_path):
    train("resnet", root, tmp_path, "ema.decay=0.9", "schedule.epochs=3")
    history = json.loads((tmp_path / "history.json").read_text())
    assert [line["step"] for line in history] == [4, 8, 12]
    best = max(max(line["top1"], line["ema_top1"]) for line in history)
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        about = json.loads(file.metadata()["dali_icgan"])
    assert about["model"] == "test_resnet"
    assert max(about["top1"], about["ema_top1"]) == best
    import timm

    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(load_file(tmp_path / "best.safetensors"))


def test_a_resumed_run_keeps_what_was_better_before(root, tmp_path):
    train("resnet", root, tmp_path, steps=4)
    before = (tmp_path / "best.safetensors").read_bytes()
    kept = state(tmp_path)
    assert kept["best"] == json.loads((tmp_path / "history.json").read_text())[0]["top1"]
    torch.save({**kept, "best": 101.0}, tmp_path / "last.pt")
    summary = train("resnet", root, tmp_path)
    assert summary.best == 101
    assert (tmp_path / "best.safetensors").read_bytes() == before


def test_weights_that_decay_are_those_that_are_asked_for(root, tmp_path):
    def undecayed(*options):
        recipe = small("resnet", "optimizer.weight_decay=0.1", *options)
        trainer = Trainer(recipe, "resnet50", root, tmp_path, torch.device("cpu"), Ranks(), False)
        trainer.close()
        return sum(len(group["params"]) for group in trainer.optimizer.param_groups if not group["weight_decay"])

    assert undecayed("optimizer.decay_all=true") == 0
    assert undecayed() > 4


def test_linear_evaluation_trains_the_head_alone(root, tmp_path):
    train("resnet", root, tmp_path / "whole", "schedule.epochs=1")
    init = tmp_path / "whole" / "final.safetensors"
    train(
        "resnet", root, tmp_path / "head", "schedule.epochs=1", f"model.init={init}", "model.train=head", "run.seed=9"
    )
    before, after = load_file(init), load_file(tmp_path / "head" / "final.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"fc.weight", "fc.bias"}
    with pytest.raises(
        ValueError, match=r"model.init must hold the weights of test_vit, got .*final.safetensors without"
    ):
        train("deit", root, tmp_path / "other", f"model.init={init}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["run.batch_size=14", "run.accumulate=4"],
            "run.batch_size must be a multiple of 1 ranks x run.accumulate 4, got 14",
        ),
        (
            ["run.batch_size=9", "augment.mix=1", "augment.mixup=1"],
            "run.batch_size must give even parts .*, got parts of 9",
        ),
        (["model.name=test_resnte"], "model.name must be one of timm.list_models"),
        (["model.name=resnet"], "got 'resnet'; near it: "),
        (
            ["optimizer.name=sdg"],
            r"optimizer.name must be one of timm.optim.list_optimizers\(\), got 'sdg'; near it: sgd",
        ),
        (["model.init=/dev/null"], "model.init must be a safetensors file, got /dev/null: "),
    ],
)
def test_what_does_not_go_together_is_named(options, message, root, tmp_path):
    with pytest.raises(ValueError, match=message):
        train("resnet", root, tmp_path, *options)


def test_batch_statistics_of_all_ranks_need_cuda(root, tmp_path):
    with RankProcesses(
        run_rank, 2, ("resnet", str(root), str(tmp_path / "run"), ["model.sync_batch_norm=true"], None), folder=tmp_path
    ) as job:
        job.wait(60)
        assert "model.sync_batch_norm must be false over ranks on cpu" in job.error(0)


def test_a_folder_is_one_runs(root, tmp_path):
    train("resnet", root, tmp_path / "run", steps=1)
    with pytest.raises(ValueError, match=r"was begun with optimizer.lr 0.05, now 0.06, run.seed 0, now 1"):
        train("resnet", root, tmp_path / "run", "optimizer.lr=0.06", "run.seed=1", "run.log_every=3")
    make_folder(tmp_path / "photos" / "train", 13)
    make_folder(tmp_path / "photos" / "val", 2)
    with pytest.raises(ValueError, match="was begun with other images"):
        train("resnet", tmp_path / "photos", tmp_path / "run")
    assert state(tmp_path / "run")["step"] == 1


@pytest.mark.parametrize("content", [b"", b"not a state", None])
def test_a_damaged_state_is_named_and_not_executed(content, root, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    if content is None:
        torch.save({"kind": Trap()}, tmp_path / "last.pt")
    else:
        (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last.pt must be a state of a training run, got"):
        train("resnet", root, tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_another_state_is_named(root, tmp_path):
    torch.save({"kind": "other"}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt must be the state of a recipe's run"):
        train("resnet", root, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_state(root, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss must be finite, got (nan|inf) up to step \d"):
        train("resnet", root, tmp_path, "optimizer.lr=1e20", "run.save_every=1", "optimizer.clip=null")
    if (tmp_path / "last.pt").exists():
        assert all(torch.isfinite(each).all() for each in state(tmp_path)["network"].values())


def test_the_first_learning_rate_is_the_warmups(root, tmp_path):
    recipe = small("deit", "schedule.warmup_epochs=1", "schedule.warmup_lr=0.0001", "optimizer.lr_batch=6")
    train_recipe(recipe, "deit-s", root, tmp_path, device="cpu", progress=False)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rates = [event.value for event in events.Scalars("train/lr")]
    warm = [0.0001 + (0.002 - 0.0001) * step / 4 for step in range(4)]
    rest = [0.001 * (1 + math.cos(math.pi * step / 8)) for step in range(4, 8)]
    assert rates == pytest.approx(warm + rest, rel=1e-5)
