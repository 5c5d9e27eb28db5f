"""Every block of docs/clients.md runs with the real framework, in one process here and in two started by torchrun."""

import hashlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

import dali_icgan as di
from tests.photos import make_folder
from tests.processes import RankProcesses

pytestmark = pytest.mark.dali

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "clients.md").read_text()
SECTIONS = {part.splitlines()[0].strip("# "): part for part in re.split(r"^(?=#+ )", PAGE, flags=re.MULTILINE) if part}
BLOCKS = {name: re.findall(r"```python\n(.*?)```", part, re.DOTALL) for name, part in SECTIONS.items()}
FIRST = "In training frameworks"
N = 24  # photos/train
CPU_RANKS = {"ACCELERATE_USE_CPU": "true"}  # what `accelerate launch --cpu` sets


def digests(images):
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in images]


def result(value):
    """What a rank has to say: in a file of its own, since two that print at once may share a line."""
    with open(f"result{os.environ['RANK']}.json", "w") as file:
        json.dump(value, file)


def epoch(loader):
    """Digests of a pass's images, by batch."""
    return [digests(images) for images, _ in loader]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder that the page's blocks run in."""
    make_folder(tmp_path / "photos" / "train")
    make_folder(tmp_path / "photos" / "val", 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def run(section, **names):
    """The names that the page's first block and a section's make."""
    for name in (FIRST, section):
        for block in BLOCKS[name]:
            exec(compile(block, f"docs/clients.md, {name}", "exec"), names)
    return names


def torchrun(folder, section, ending, *, instead=("", "")):
    """Exit status, what was said, and each rank's ``result(...)``, of two ranks that run the page's blocks and ``ending``; with a replacement
    in the blocks."""
    text = "".join([*BLOCKS[FIRST], *BLOCKS[section]])
    assert instead[0] in text
    text = text.replace(*instead) if instead[0] else text
    functions = inspect.getsource(digests) + inspect.getsource(result)
    (folder / "train.py").write_text(f"{text}\n{functions}\nimport hashlib, json, os\n{ending}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "train.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **CPU_RANKS},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said, [json.loads(path.read_text()) for path in sorted(folder.glob("result*.json"))]


def whole_epochs(count):
    """The images of each epoch, from a loader of one process."""
    with run("DistributedDataParallel")["training_loader"](drop_last=False) as loader:
        return [sorted(each for batch in epoch(loader) for each in batch) for _ in range(count)]


# ---------------------------------------------------------------------- the page


def test_every_section_has_what_it_runs_and_is_short():
    assert [name for name, blocks in BLOCKS.items() if len(blocks) != 1] == ["DistributedDataParallel"]
    assert PAGE.count("```python") == sum(map(len, BLOCKS.values()))
    long = [
        name
        for name, part in SECTIONS.items()
        if name != FIRST and len(list(filter(str.strip, part.splitlines()))) > 20
    ]
    assert long == []
    links = re.findall(r"\]\((.*?)\)", PAGE)
    assert all((ROOT / "docs" / link).exists() for link in links)


# ---------------------------------------------------------------------- what code reads of a loader


def made_again(loader):
    """As frameworks do that keep a loader's attributes."""
    names = inspect.signature(di.DataLoader.__init__).parameters.keys() - {
        "self",
        "shuffle",
    }  # no attribute of torch's: the sampler says it
    with pytest.warns(UserWarning, match="pin_memory has no effect"):
        return di.DataLoader(**{name: getattr(loader, name) for name in names})


@pytest.mark.parametrize("kind", ["shuffle", "in order", "sampler", "batch sampler"])
def test_a_loader_is_made_again_from_its_attributes(photos, kind):
    order = {
        "shuffle": {"shuffle": True, "batch_size": 5, "drop_last": True},
        "in order": {"batch_size": 5},
        "sampler": {"sampler": RandomSampler(range(N)), "batch_size": 5},
        "batch sampler": {"batch_sampler": BatchSampler(SequentialSampler(range(N)), 5, False)},
    }[kind]
    arguments = {"transform": di.TrainTransform(16), "seed": 7, "device": "cpu", "dtype": torch.float16, **order}
    with pytest.warns(UserWarning, match="pin_memory has no effect"):
        loader = di.DataLoader("photos/train", pin_memory=True, timeout=60, **arguments)
    again = made_again(loader)
    assert epoch(again) == epoch(loader)
    assert repr(again) == repr(loader)
    assert again.state_dict() == loader.state_dict()


def test_what_torchs_loader_has_ours_has(photos):
    theirs = torch.utils.data.DataLoader(range(3), 2)
    with run("DistributedDataParallel")["validation_loader"]() as loader:
        assert [name for name in vars(theirs) if not name.startswith("_") and not hasattr(loader, name)] == []
        assert loader.multiprocessing_context is None
        assert len(loader.dataset) == 9
        assert loader.dataset.classes == ["astronaut", "chelsea", "coffee"]
        assert list(loader.sampler) == list(range(9))
        assert not loader.mixup_enabled
        with pytest.raises(AttributeError):
            loader.mixup_enabled = True


def test_its_sampler_is_its_order_and_names_epochs(photos):
    arguments = {"shuffle": True, "seed": 2, "device": "cpu", "transform": di.TrainTransform(16), "return_info": True}
    loader = di.DataLoader("photos/train", 4, shard=(1, 2), **arguments)
    assert len(loader.sampler) == 12
    loader.sampler.set_epoch(5)
    want = list(loader.sampler)
    assert [int(i) for _, _, info in loader for i in info["index"]] == want
    assert list(loader.sampler) != want  # the next epoch's
    assert loader.state_dict()["epoch"] == 6


def test_an_epoch_begins_with_its_first_batch(photos):
    loader = run("DistributedDataParallel")["training_loader"](augment=None)
    want = [epoch(loader) for _ in range(3)]
    loader.set_epoch(0)
    iter(loader)
    iter(loader)
    assert loader.state_dict()["epoch"] == 0
    passing = iter(loader)
    loader.set_epoch(1)  # between iter() and the first batch
    assert epoch(passing) == want[1]
    begun = iter(loader)
    next(begun)
    state = loader.state_dict()
    loader.load_state_dict(state)
    iter(loader)
    loader.set_epoch(2)  # the epoch that the state is in the middle of
    assert loader.state_dict() == state
    assert epoch(loader) == want[2][1:]
    first = iter(loader)
    second = iter(loader)
    with pytest.raises(RuntimeError, match="another pass"):
        next(first)
    loader.sampler.set_epoch(0)
    assert epoch(second) == want[0]
    broken = iter(loader)
    next(broken)
    assert loader.state_dict()["position"] == 4
    iter(loader)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (2, 0)


def made_too_early(folder):
    arguments = {"device": "cpu", "transform": di.TrainTransform(16)}
    store = torch.distributed.FileStore(f"{folder}/store", 1)
    early = di.DataLoader(folder, 4, **arguments)
    all_of_it = di.DataLoader(folder, 4, shard=False, **arguments)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    torch.distributed.get_world_size = lambda: 2  # as far as a loader asks
    try:
        iter(early)
    except RuntimeError as error:
        return [str(error), len(list(all_of_it))]


def test_a_loader_made_before_the_ranks_refuses(photos):
    with RankProcesses(made_too_early, 1, [str(photos / "photos" / "val")], folder=photos, distributed=False) as ranks:
        ((said, batches),) = ranks.results(100)
    assert "must be made after torch.distributed is initialised" in said
    assert "each of 2 ranks" in said
    assert "train_dataloader()" in said
    assert batches == 3


# ---------------------------------------------------------------------- Lightning


@pytest.mark.full
def test_lightning_goes_on_at_every_step(photos):
    lightning = pytest.importorskip("lightning")
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, number):
            seen.append((trainer.current_epoch, number, digests(batch[0])))

        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(f"step{trainer.global_step}.ckpt")

        def on_train_epoch_end(self, trainer, *_):
            trainer.save_checkpoint(f"epoch{trainer.current_epoch}.ckpt")

    names = run("PyTorch Lightning")

    def fit(**how):
        seen.clear()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", enable_checkpointing=False, callbacks=[Watch()], **quiet
        )
        trainer.fit(names["Classifier"](), **how)
        assert trainer.validate(names["Classifier"](), verbose=False)[0]["loss"] > 0
        return list(seen)

    steps = N // 4
    whole = fit()
    with names["training_loader"]() as loader:  # the loader's own epochs, though Lightning calls iter() as it likes
        assert [batch for *_, batch in whole] == [batch for _ in range(3) for batch in epoch(loader)]
    checkpoints = {f"step{step}.ckpt": step for step in (1, 3, steps, steps + 2, 2 * steps)}
    checkpoints |= {"epoch0.ckpt": steps, "epoch1.ckpt": 2 * steps}
    for name in checkpoints:
        (photos / name).rename(photos / f"kept-{name}")
    for name, step in checkpoints.items():
        assert fit(ckpt_path=photos / f"kept-{name}") == whole[step:], name
    trainer = lightning.Trainer(overfit_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"needs to subclass `torch.utils.data.DataLoader`"):
        trainer.fit(names["Classifier"]())


@pytest.mark.full
@pytest.mark.parametrize("injects", [True, False])
def test_lightning_over_two_ranks(photos, injects):
    pytest.importorskip("lightning")
    ending = f"""
seen = []
class Watch(lightning.Callback):
    def on_train_batch_start(self, trainer, module, batch, number):
        seen.append((trainer.current_epoch, digests(batch[0])))
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", callbacks=[Watch()], logger=False,
    enable_progress_bar=False, enable_checkpointing=False, use_distributed_sampler={injects})
trainer.fit(Classifier())
result(seen)
"""
    code, said, results = torchrun(photos, "PyTorch Lightning", ending)
    assert code == 0, said
    got = [sorted(d for seen in results for e, batch in seen for d in batch if e == wanted) for wanted in range(2)]
    assert got == whole_epochs(2)


@pytest.mark.full
def test_lightning_is_told_of_a_loader_made_too_early(photos):
    pytest.importorskip("lightning")
    ending = """
loader = training_loader()
trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
trainer.fit(Classifier(), loader)
"""
    code, said, _ = torchrun(photos, "PyTorch Lightning", ending)
    assert code != 0
    assert "must be made after torch.distributed is initialised" in said
    assert "Lightning: in train_dataloader()" in said


# ---------------------------------------------------------------------- Accelerate


@pytest.mark.full
def test_accelerate_over_two_ranks(photos):
    pytest.importorskip("accelerate")
    ending = """
assert accelerator.prepare(loader) is loader
seen = []
for epoch in range(2):
    for step, (images, labels) in enumerate(loader):
        seen.append((epoch, digests(images)))
        accelerator.backward(cross_entropy(model(images), labels))
        optimizer.step()
        optimizer.zero_grad()
        if epoch == 1 and step == 0:
            accelerator.save_state("saved")
again = list(loader)
accelerator.load_state("saved")
rest = [digests(images) for images, _ in loader]
train_epoch()
weight = model.module[0].weight.sum().item()
refused = []
for loop in (accelerator.prepare_data_loader, lambda loader: list(accelerator.skip_first_batches(loader, 1))):
    try:
        loop(loader)
    except Exception as error:
        refused.append(str(error))
result([seen, rest, len(loader), weight, refused])
"""
    code, said, results = torchrun(photos, "Accelerate", ending)
    assert code == 0, said
    assert len(results) == 2
    got = [sorted(d for seen, *_ in results for e, batch in seen for d in batch if e == wanted) for wanted in range(2)]
    assert got == whole_epochs(2)
    for seen, rest, length, _, refused in results:
        assert length == 3
        assert rest == [batch for e, batch in seen if e == 1][1:]
        assert "prepare_data_loader(loader) must not be called" in refused[0]
        assert "prefetch_factor option could only be specified in multiprocessing" in refused[1]  # as the page has it
    assert results[0][3] == results[1][3]


@pytest.mark.full
def test_accelerate_is_told_of_a_loader_made_too_early(photos):
    pytest.importorskip("accelerate")
    lines = BLOCKS["Accelerate"][0].splitlines(keepends=True)
    made = next(line for line in lines if line.startswith("accelerator ="))
    used = next(line for line in lines if line.startswith("loader ="))
    early = (made + used, f"loader = training_loader()\n{made}")
    code, said, _ = torchrun(photos, "Accelerate", "train_epoch()", instead=early)
    assert code != 0
    assert "Accelerate: after Accelerator()" in said


# ---------------------------------------------------------------------- loops


def test_timms_loop(photos, monkeypatch):
    timm = pytest.importorskip("timm")
    epochs = []
    set_epoch = di.DataLoader.set_epoch
    monkeypatch.setattr(di.DataLoader, "set_epoch", lambda self, e: (epochs.append(e), set_epoch(self, e)))
    before = timm.create_model("test_resnet", num_classes=3).state_dict()
    names = run("timm's training script")
    assert epochs == list(range(names["epochs"]))
    assert names["step"] == len(names["loader"]) - 1
    assert names["labels"].shape == (4, 3)
    after = names["model"].state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert after.keys() == before.keys()
    assert names["loader"].state_dict()["epoch"] == names["epochs"]


@pytest.mark.full
def test_timms_validation_over_two_ranks(photos):
    """Its averages after every batch need as many batches on each rank."""
    pytest.importorskip("timm")
    begin = "loader, model = training_loader()"
    ending = """
averages = []
model.eval()
with torch.no_grad():
    for images, labels in validation_loader(remainder="pad"):
        (top1,) = timm.utils.accuracy(model(images), labels)
        averages.append(timm.utils.reduce_tensor(top1, 2).item())
uneven = sum(1 for _ in validation_loader())
seen = [digests(images) for images, _ in training_loader(drop_last=False)]
result([averages, uneven, seen])
"""
    joined = f"torch.distributed.init_process_group('gloo')\n{begin}"
    code, said, results = torchrun(photos, "timm's training script", ending, instead=(begin, joined))
    assert code == 0, said
    (first, batches, seen), (second, others, rest) = results
    assert first == second
    assert len(first) == 2
    assert sorted([batches, others]) == [1, 2]  # of 9 samples without repeats
    assert [sorted(d for part in (seen, rest) for batch in part for d in batch)] == whole_epochs(1)


def test_torchvisions_loop(photos):
    pytest.importorskip("torchvision")
    names = run("torchvision's classification reference")
    assert 0 <= names["accuracy"] <= 1
    assert names["loss"].isfinite()
    assert len(names["loader_test"].dataset) == sum(len(labels) for _, labels in names["loader_test"])


def test_lightlys_swav(photos):
    pytest.importorskip("lightly")
    names = run("lightly's SwAV")
    assert isinstance(names["views"], list)
    assert [tuple(view.shape) for view in names["views"]] == [(4, 3, 224, 224)] * 2 + [(4, 3, 96, 96)] * 6
    assert names["loss"].isfinite()
    assert all(parameter.grad is not None for parameter in names["backbone"].parameters())


def test_torchdatas_protocol(photos):
    names = run("torchdata's StatefulDataLoader")
    with names["training_loader"]() as loader:
        assert [digests(images) for images, _ in names["rest"]] == epoch(loader)[2:]
