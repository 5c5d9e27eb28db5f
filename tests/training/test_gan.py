import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dali_icgan as di
from dali_icgan.models.checkpoint import read_generator
from dali_icgan.models.generator import power_step
from dali_icgan.training.gan import GanTrainer, GanTraining
from dali_icgan.training.instances import Instances
from dali_icgan.training.state import load_state, random_of

pytestmark = pytest.mark.dali
TINY = {"channels": 4, "z_chunk": 4, "shared_dim_feat": 8, "batch_size": 8, "k": 5, "steps": 6, "ema_start": 2}


@pytest.fixture
def trainer(banks, samples, tmp_path):
    def make(folder=None, **settings):
        settings = GanTraining(**{**TINY, **settings})
        where = tmp_path / "run" if folder is None else folder
        where.mkdir(exist_ok=True)
        bank, mirrored = banks
        each = Instances(
            bank, mirrored if settings.mirror else None, samples, settings.k, settings.batch_size, settings.seed
        )
        return GanTrainer(settings, each, where)

    return make


def everything(trainer):
    state = load_state(trainer.folder / "gan-state.pt")
    assert state.pop("seconds") > 0
    return json.loads(json.dumps(state, default=lambda tensor: tensor.tolist()))


VARIANTS = [
    {},
    {"mode_seeking": 0.0, "policies": ("colour", "translation", "cutout")},
    {"class_conditional": True, "shared_dim": 4},
    {"spectral_norm": "power", "mirror": False, "clip": 0.5},
    {"attention": (16,), "policies": ()},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_run_cut_off_at_any_step_ends_as_the_unbroken_one(trainer, tmp_path, variant):
    unbroken = trainer(tmp_path / "unbroken", **variant)
    unbroken.train(report_every=1)
    for cut in (1, 4) if not variant else (3,):
        folder = tmp_path / f"cut-{cut}"
        first = trainer(folder, **{**variant, "steps": cut})
        first.train(report_every=1)
        del first
        second = trainer(folder, **variant)
        assert second.step == cut
        second.train(report_every=1)
        assert everything(second) == everything(unbroken)


def test_a_finished_run_does_nothing_and_more_steps_go_on(trainer, tmp_path):
    trainer().train()
    before = (tmp_path / "run" / "gan-state.pt").read_bytes()
    trainer().train()
    assert (tmp_path / "run" / "gan-state.pt").read_bytes() == before
    longer = trainer(steps=8)
    longer.train()
    assert longer.step == 8
    with pytest.raises(ValueError, match=r"steps must be at least the 8 already trained in .*gan-state\.pt, got 6"):
        trainer(steps=6)


def test_what_was_learnt_changes_with_every_setting_that_matters(trainer, tmp_path):
    results = []
    for i, variant in enumerate([{}, {"seed": 1}, *VARIANTS[1:], {"ema_decay": 0.05}, {"generator_lr": 1e-3}]):
        each = trainer(tmp_path / str(i), **variant)
        each.train()
        results.append(each.average.model.state_dict()["output_layer.2.weight"])
    for i, a in enumerate(results):
        assert not any(a.shape == b.shape and torch.equal(a, b) for b in results[i + 1 :])


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_one_step_by_hand(trainer, weight):
    """The losses of the first step, written out."""
    each = trainer(policies=(), mirror=False, mode_seeking=weight)
    rows, _ = each.instances.real(0, pairs=weight > 0)
    conditions = rows if weight else each.instances.conditions(0)[0]
    with each._images() as images:
        batch = next(images)
    bank = each.instances.bank
    mean, scale = each._feature_mean, each._feature_scale
    with torch.no_grad():
        generator = di.models.generator.ICGenerator(each.generator_config)
        generator.load_state_dict(each.generator.state_dict())
        discriminator = type(each.discriminator)(each.discriminator.config)
        discriminator.load_state_dict(each.discriminator.state_dict())
        z = torch.randn(8, each.generator_config.dim_z, generator=each._random("noise"))
        h, real_h = bank.gather(conditions, "cpu"), bank.gather(rows, "cpu")
        fake = generator.train()(z, h)
        scores = discriminator.train()(torch.cat([batch[0], fake]), (torch.cat([real_h, h]) - mean) * scale)
        want = (1 - scores[:8]).clamp(min=0).mean() + (1 + scores[8:]).clamp(min=0).mean()
    losses = each._train_step(batch)
    assert losses["discriminator"].item() == pytest.approx(float(want), rel=1e-5)
    assert torch.isfinite(losses["generator"])
    assert set(losses) == {"discriminator", "generator"} | ({"mode_seeking"} if weight else set())
    if weight:
        assert rows[:4].tolist() == rows[4:].tolist()
        far, most = ((x[:4] - x[4:]).abs().mean((1, 2, 3)) for x in (fake, batch[0]))
        assert losses["mode_seeking"].item() == pytest.approx(-float(torch.minimum(far, most).mean()), rel=1e-5)


@pytest.mark.parametrize("classes", [False, True])
def test_two_generations_of_a_pair_have_one_condition_and_two_noises(trainer, classes):
    each = trainer(mode_seeking=1.0, class_conditional=classes)
    given = []
    each.generator.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    for _ in range(3):  # mirrored features or not: the same for both
        with each._images() as images:
            each._train_step(next(images))
        each.step += 1
    for step, (z, h, y) in enumerate(given):
        if classes:  # of the first of the instance's two real images
            _, images = each.instances.real(step, pairs=True)
            assert y.tolist() == each.instances.samples.labels[images[:4]].tolist() * 2
        else:
            assert y is None
        assert torch.equal(h[:4], h[4:])
        assert not torch.equal(z[:4], z[4:])
        assert len(h.unique(dim=0)) == 4


def test_features_are_told_apart_from_the_first_step_on(trainer):
    each = trainer()
    features = each.instances.bank.gather(np.arange(24), "cpu")
    with torch.no_grad():
        embedded = each.generator.eval().shared_feat(features)
        layer = each.generator.shared_feat
        assert power_step(layer.weight, layer.u0)[0].item() == pytest.approx(1, rel=1e-4)  # the weights act as they are
    assert embedded.mean(0).abs().max() < 0.1
    assert 0.1 < embedded.std(0).mean() < 1
    seen = each._seen(features)
    assert float(seen.square().mean()) == pytest.approx(1, rel=1e-3)


def test_features_stay_centred_where_the_largest_gain_is_followed(trainer):
    each = trainer(spectral_norm="power")
    layer = each.generator.shared_feat.train()
    features = each.instances.bank.gather(np.arange(24), "cpu")
    with torch.no_grad():
        first = layer(features)
        for _ in range(20):
            embedded = layer(features)
    assert torch.linalg.matrix_norm(layer.normalised_weight(), 2).item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(embedded, first, atol=1e-5)
    assert embedded.mean(0).abs().max() < 1e-3 * embedded.std(0).mean()


def test_fixed_spectral_norm_keeps_its_direction_and_power_follows(trainer, tmp_path):
    for kind in ("fixed", "power"):
        each = trainer(tmp_path / kind, spectral_norm=kind)
        before = {name: t.clone() for name, t in each.generator.state_dict().items() if name.endswith("u0")}
        each.train()
        same = [torch.equal(t, before[name]) for name, t in each.generator.state_dict().items() if name in before]
        assert all(same) if kind == "fixed" else not any(same)


@pytest.mark.parametrize("variant", [{}, {"class_conditional": True, "shared_dim": 4}], ids=str)
def test_the_export_loads_strictly_and_is_the_average(trainer, variant):
    each = trainer(**variant)
    each.train()
    path = each.export()
    z, h = torch.randn(3, each.generator_config.dim_z), each.instances.bank.gather(np.arange(3), "cpu")
    y = torch.tensor([0, 2, 1]) if variant else None
    with torch.no_grad():
        want = each.finished()(z, h, y)
    for file in (path, each.folder / "G_ema.pth"):
        loaded = di.load_generator(file, device="cpu", dtype=torch.float32)
        assert torch.allclose(loaded(z, h, y), want, atol=5e-5)
    official = torch.load(each.folder / "G_ema.pth", weights_only=True)
    assert set(official) == set(each.generator.state_dict())
    assert read_generator(path).config == each.generator_config


def test_statistics_are_measured_for_the_export(trainer):
    each = trainer()
    each.train()
    average = each.average.model.state_dict()["output_layer.0.stored_var"].clone()
    finished = each.finished(3)
    got = finished.state_dict()["output_layer.0.stored_var"]
    assert not torch.allclose(got, average, rtol=1e-3)
    assert torch.equal(each.average.model.state_dict()["output_layer.0.stored_var"], average)  # as training left it
    # Of the last norm's inputs over the same three batches, by hand.
    seen = []
    finished.output_layer[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for module in finished.modules():
        if hasattr(module, "stored_mean"):
            module.training = True
            module.momentum = 0.0
    with torch.no_grad():
        for number in range(3):
            rows, _ = each.instances.conditions(number)
            z = torch.randn(8, each.generator_config.dim_z, generator=random_of(0, "statistics", number))
            finished(z, each.instances.bank.gather(rows, "cpu"))
    want = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    assert torch.allclose(got, want, rtol=1e-4)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(trainer, tmp_path):
    each = trainer(steps=3)
    each.train(report_every=1)
    before = (tmp_path / "run" / "gan-state.pt").read_bytes()
    again = trainer(steps=6)
    with torch.no_grad():
        again.generator.linear.weight.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError,
        match=r"loss of discriminator must be finite, got nan after step 4 \(.*gan-state.pt is of step 3\): lower generator_lr",
    ):
        again.train(report_every=1, save_every=0)
    assert (tmp_path / "run" / "gan-state.pt").read_bytes() == before


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_weights_that_are_no_numbers_are_never_saved(trainer, tmp_path, monkeypatch, name, memory):
    """The losses of the step that spoils the weights are still finite."""
    each = trainer(steps=6)
    right = each._train_step

    def spoils(batch):
        losses = right(batch)
        if each.step == 3:
            with torch.no_grad():
                weight = next(p for p in getattr(each, name).parameters() if p.requires_grad)
                kept = getattr(each, f"_{name}_optimiser").state[weight]["exp_avg_sq"]
                (kept if memory else weight)[0] = float("inf")
        return losses

    monkeypatch.setattr(each, "_train_step", spoils)
    message = rf"the {name}'s weights must be finite, got others after step 4 \(.*gan-state.pt is of step 3\): lower generator_lr"
    told = []
    with pytest.raises(FloatingPointError, match=message):
        each.train(report_every=1, save_every=0, report=told.append)
    assert [progress.step for progress in told] == [1, 2, 3]  # nobody looks at what is spoilt
    assert load_state(tmp_path / "run" / "gan-state.pt")["step"] == 3
    with pytest.raises(FloatingPointError, match="weights must be finite"):
        each.save()


def test_a_full_disk_keeps_the_last_state(trainer, tmp_path, monkeypatch):
    each = trainer(steps=3)
    each.train(report_every=1)
    before = (tmp_path / "run" / "gan-state.pt").read_bytes()
    again = trainer(steps=6)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        again.train(report_every=1, save_every=0)
    monkeypatch.undo()
    assert (tmp_path / "run" / "gan-state.pt").read_bytes() == before
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["gan-state.pt"]


def test_progress_is_told(trainer):
    told = []
    trainer(steps=5).train(report_every=2, report=told.append)
    assert [each.step for each in told] == [2, 4, 5]
    assert set(told[0].losses) == {"discriminator", "generator", "mode_seeking"}
    assert all(each.rate > 0 for each in told)


def test_a_folder_of_another_run_is_refused(trainer, tmp_path, banks, samples):
    trainer().train()
    with pytest.raises(ValueError, match=r"of the same settings, it was begun with k 5 \(now 4\), seed 0 \(now 1\)"):
        trainer(seed=1, k=4)
    state = load_state(tmp_path / "run" / "gan-state.pt")
    torch.save({**state, "dataset": "other"}, tmp_path / "run" / "gan-state.pt")
    with pytest.raises(ValueError, match="of the same dataset"):
        trainer()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer >= 1, got 2.5"),
        ({"k": True}, "k must be an integer >= 1, got True"),
        ({"generator_lr": 0}, "generator_lr must be positive and finite, got 0"),
        ({"mode_seeking": -1}, "mode_seeking must be finite and not negative, got -1"),
        ({"mode_seeking": float("nan")}, "mode_seeking must be finite and not negative, got nan"),
        ({"betas": (0.0, 1.0)}, r"betas must be in \[0, 1\), got \(0\.0, 1\.0\)"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1\.0"),
        ({"channels": "16"}, "channels must be an integer >= 1, got '16'"),
        ({"channels": 1, "attention": (16,)}, "the generator's channels must give attention at least 8, got 4 at 16"),
        (
            {"discriminator_channels": 1, "attention": (16,)},
            "the discriminator's channels must give attention at least 8, got 4 at 16 pixels",
        ),
        ({"mode_seeking": 1, "batch_size": 7}, "batch_size must be even with mode_seeking, got 7"),
        ({"clip": 0}, "clip must be positive or None, got 0"),
        ({"policies": ("blur",)}, "policies must be among colour, translation, cutout, got blur"),
        ({"spectral_norm": "none"}, 'spectral_norm must be "power" or "fixed", got \'none\''),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GanTraining(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policies": "translation"}, "policies must be a list, each a word, got 'translation'"),
        ({"policies": [1]}, r"policies must be a list, each a word, got \[1\]"),
        ({"attention": "16"}, "attention must be a list, each an integer, got '16'"),
        ({"attention": 16}, "attention must be a list, each an integer, got 16"),
        ({"betas": "0.5"}, "betas must be two numbers, got '0.5'"),
        ({"betas": [0.5]}, r"betas must be two numbers, got \[0\.5\]"),
        ({"generator_lr": "fast"}, "generator_lr must be a number, got 'fast'"),
        ({"ema_decay": True}, "ema_decay must be a number, got True"),
        ({"clip": [1]}, r"clip must be a number, got \[1\]"),
        ({"mirror": "no"}, "mirror must be True or False, got 'no'"),
        ({"generator_lr": None}, "generator_lr must be a number, got None"),
    ],
)
def test_settings_of_another_kind_are_named(settings, message):
    with pytest.raises(TypeError, match=message):
        GanTraining(**settings)


def test_numbers_that_yaml_takes_for_words_are_numbers():
    settings = GanTraining(generator_lr="1e-4", betas=["0", 0.99], clip="1", attention=[])
    assert settings == GanTraining(generator_lr=1e-4, clip=1.0)
    assert (settings.betas, settings.clip, settings.attention) == ((0.0, 0.99), 1.0, ())


RANKS = """
import sys
import torch
from pathlib import Path
import dali_icgan as di
from dali_icgan.data import as_samples
from dali_icgan.training.gan import GanTrainer, GanTraining
from dali_icgan.training.instances import Instances

photos, bank, mirrored, out = sys.argv[1:]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
settings = GanTraining(channels=4, z_chunk=4, shared_dim_feat=8, batch_size=8, k=5, steps=4, ema_start=2)
banks = [di.FeatureBank.open(path) for path in (bank, mirrored)]
instances = Instances(*banks, as_samples(photos), 5, 8 // world, 0, rank, world)
trainer = GanTrainer(settings, instances, Path(out))
trainer.train(report_every=1)
weights = torch.cat([p.detach().flatten() for m in (trainer.generator, trainer.discriminator) for p in m.parameters()])
everybodys = [torch.empty_like(weights) for _ in range(world)]
torch.distributed.all_gather(everybodys, weights)
assert all(torch.equal(each, weights) for each in everybodys)
assert sorted(path.name for path in Path(out).iterdir()) == ["gan-state.pt"]
torch.distributed.destroy_process_group()
"""


def test_two_ranks_train_one_model(photos, banks, tmp_path):
    script, out = tmp_path / "train.py", tmp_path / "run"
    script.write_text(RANKS)
    out.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *map(str, (script, photos, banks[0].path, banks[1].path, out)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_state(out / "gan-state.pt")["step"] == 4
