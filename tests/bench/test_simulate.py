import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dali_icgan.bench.simulate import Target, check, chosen, simulate
from dali_icgan.cli import app
from tests.bench.runs import MACHINE, OURS, stage, throughput, training, write

READ, DECODE, MADE, ASSEMBLE = 0.0001, 0.0008, 0.004, 0.0001
STAGES = [
    stage("read", READ),
    stage("decode", DECODE),
    stage("generate", MADE, case="embedded"),
    stage("assemble", ASSEMBLE),
    stage("assemble", 2 * ASSEMBLE, case="embedded"),
    stage("step", 0.02, case="ResNet-18"),
]


def test_storage_limits():
    found = simulate(STAGES, Target(gpus=2, cores=8, storage=50))
    assert found.limit == "storage"
    assert found.images_per_s == pytest.approx(50e6 / 100_000)
    assert found.used["storage"] == 1
    assert found.used["cores"] == pytest.approx(500 / (2 * 8 / 0.001))
    # Half of the images are generated and not read.
    half = simulate(STAGES, Target(gpus=2, cores=64, storage=50, p=0.5))
    assert (half.limit, half.images_per_s) == ("storage", pytest.approx(1000))


def test_cores_limit():
    found = simulate(STAGES, Target(gpus=2, cores=4, storage=10_000, step=5000))
    assert found.limit == "cores"
    assert found.images_per_s == pytest.approx(2 * 4 / (READ + DECODE + ASSEMBLE))
    assert found.training == 10_000
    assert found.starves == pytest.approx(1 - 8000 / 10_000)


def test_a_generation_takes_its_own_assembling():
    found = simulate(STAGES, Target(cores=4, p=1))
    assert found.images_per_s == pytest.approx(4 / (MADE + 2 * ASSEMBLE))
    assert "storage" not in found.limits


def test_the_generator_on_the_gpu_limits():
    found = simulate(STAGES, Target(cores=16, p=0.5, step=1000, on_gpu={"generate": 800}))
    assert found.limit == "GPU"
    assert found.images_per_s == pytest.approx(1 / (0.5 / 800 + 1 / 1000))
    assert found.starves == 0  # it is slower, but does not wait for images
    assert found.images_per_s / found.training == pytest.approx(0.615, abs=0.001)


def test_the_step_limits():
    found = simulate(STAGES, Target(gpus=4, cores=16, step=300))
    assert (found.limit, found.images_per_s, found.starves) == ("GPU", 1200, 0)


def test_a_step_on_the_cpu_shares_the_cores():
    found = simulate(STAGES, Target(cores=2, train_here=True))
    assert found.limit == "cores"
    assert found.images_per_s == pytest.approx(2 / (0.001 + 0.02))
    assert found.training == pytest.approx(2 / 0.02)
    assert found.starves == 0


def test_what_uses_one_core_is_not_faster_with_many():
    # Two threads took 0.6 ms and 0.8 ms of CPU for an image: 0.4 ms on one core, and 0.4 ms on both.
    stages = [stage("read", 1e-6), stage("decode", 0.0008, threads=2, wall=0.0006), stage("assemble", 1e-6)]
    found = simulate(stages, Target(cores=8))
    assert found.limit == "decode, by itself"
    assert found.images_per_s == pytest.approx(1 / (0.0004 + 0.0004 / 8))


def test_costs_are_those_of_as_many_threads():
    stages = [*STAGES, stage("decode", 0.0012, threads=2)]
    assert simulate(stages, Target(cores=1)).images_per_s == pytest.approx(1 / 0.001)
    for cores in (2, 3):
        assert simulate(stages, Target(cores=cores)).images_per_s == pytest.approx(cores / 0.0014)


def test_windows_give_a_range():
    stages = [
        stage("decode", 0.0008, cpu_windows=[0.0006, 0.0008, 0.0016]),
        stage("read", READ),
        stage("assemble", ASSEMBLE),
    ]
    found = simulate(stages, Target(cores=2))
    expected = (2 / 0.0018, 2 / 0.001, 2 / 0.0008)
    assert (found.least, found.images_per_s, found.most) == pytest.approx(expected)


costs = st.floats(1e-6, 1e-1)
targets = st.builds(
    Target,
    gpus=st.integers(1, 16),
    cores=st.integers(1, 64),
    p=st.floats(0, 1),
    storage=st.none() | st.floats(1, 1e5),
    step=st.none() | st.floats(1, 1e5),
    on_gpu=st.dictionaries(st.sampled_from(["decode", "generate", "assemble"]), st.floats(1, 1e5)),
)
measured = st.builds(
    lambda *each: [stage(name, cpu, case=case) for (name, case), cpu in zip([("read", None), ("decode", None), ("generate", "g"), ("assemble", None), ("assemble", "g")], each, strict=True)],
    *[costs] * 5,
)  # fmt: skip


def changed(target, **more):
    return Target(**{**target.__dict__, **more})


@given(measured, targets)
def test_more_of_anything_is_never_slower(stages, target):
    before = simulate(stages, target)
    more = [changed(target, cores=target.cores + 1), changed(target, gpus=target.gpus + 1)]
    more += [changed(target, storage=2 * target.storage)] if target.storage else []
    more += [changed(target, step=2 * target.step)] if target.step else []
    for each in more:
        assert simulate(stages, each).images_per_s >= before.images_per_s * (1 - 1e-9)


@given(measured, targets)
def test_every_resource_is_used_within_its_limit(stages, target):
    found = simulate(stages, target)
    assert max(found.used.values()) == 1
    assert found.least <= found.images_per_s * (1 + 1e-9)
    assert 0 <= found.starves <= 1
    if found.training is not None:
        assert found.images_per_s <= found.training * (1 + 1e-9)


@given(measured, st.integers(1, 64))
def test_a_slower_stage_is_never_faster(stages, cores):
    slower = [{**stages[0], "cpu_s_per_image": 2 * stages[0]["cpu_s_per_image"]}, *stages[1:]]
    target = Target(cores=cores, p=0.5)
    assert simulate(slower, target).images_per_s <= simulate(stages, target).images_per_s


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": 0}, "gpus must be an integer >= 1, got 0"),
        ({"cores": 0}, "cores must be an integer >= 1, got 0"),
        ({"p": 1.5}, r"p must be in \[0, 1\], got 1.5"),
        ({"storage": 0}, "storage must be a positive rate, got 0"),
        ({"step": -1}, "step must be a positive rate, got -1"),
        ({"on_gpu": {"read": 5}}, "a stage on the GPU must be one of decode, generate, assemble, got 'read'"),
        ({"step": 5, "train_here": True}, "a rate or what was measured, got both"),
    ],
)
def test_a_wrong_target_is_said(wrong, said):
    with pytest.raises(ValueError, match=said):
        Target(**wrong)


def test_a_stage_that_was_not_measured_is_said():
    with pytest.raises(ValueError, match='must hold the stage "generate"'):
        simulate([each for each in STAGES if each["stage"] != "generate"], Target(p=0.5))


def test_size_and_generator_are_chosen():
    several = [*STAGES, *({**each, "size": 64} for each in STAGES), stage("generate", 1.0, case="large")]
    with pytest.raises(ValueError, match=r"size must be given .* got 224, 64"):
        chosen(several)
    with pytest.raises(ValueError, match=r"case must be given .* got embedded, large"):
        chosen(several, 224)
    with pytest.raises(ValueError, match=r"size must be one .*\(224, 64\), got 32"):
        chosen(several, 32)
    assert chosen(several, 224, "embedded") == STAGES
    assert simulate(chosen(several, 224, "large"), Target(p=1)).limits["cores"] == pytest.approx(1 / (1 + ASSEMBLE))


def test_predicted_beside_measured():
    records = [
        *STAGES,
        throughput(OURS, [900.0, 950.0, 1000.0]),
        throughput(OURS, [1500.0], threads=2, p=0.5, generator=OURS),
        throughput("pil", [300.0]),
        throughput(OURS, [300.0], size=64),  # its stages were not measured
        throughput(OURS, [300.0], p=0.5, source="online"),  # nor these
        training(OURS, [90.0], size=224),
    ]
    found = check(records)
    assert [each.case for each in found] == [
        "p = 0, 224 px, 1 core, stock",
        "p = 0.5, embedded, 224 px, 2 cores, stock",
        "p = 0, 224 px, 2 cores, stock, ResNet-18",
    ]
    assert found[0].ratio == pytest.approx(1000 / 950)
    assert found[1].prediction.images_per_s == pytest.approx(2 / (0.5 * 0.001 + 0.5 * 0.0042))
    assert found[2].prediction.images_per_s == pytest.approx(2 / 0.021)
    with pytest.raises(ValueError, match="must hold rates of dali_icgan"):
        check(STAGES)


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "simulate", *map(str, arguments)])


def test_the_command(tmp_path):
    write(tmp_path, [MACHINE, *STAGES, throughput(OURS, [900.0, 950.0, 1000.0])])
    done = run("--rates", tmp_path, "--gpus", 2, "--cores-per-gpu", 4, "--storage", 10_000, "--step", 5000)
    assert done.exit_code == 0, done.output
    assert "8,000 images/s (8,000 to 8,000); cores limits." in done.output
    assert "It starves: 20% of the time it waits for images." in done.output
    fed = run("--rates", tmp_path, "--step", 100).output
    assert "does not starve" in fed
    assert "keeps 100% of its speed" in fed
    checked = run("--check", tmp_path).output
    assert "1.05" in checked
    assert "900 to 1,000" in checked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "one of --rates and --check must be given"),
        (("--rates", "nowhere"), "nowhere must be the folder of a run"),
        (("--rates", "HERE", "--cores-per-gpu", "0"), "cores must be an integer >= 1, got 0"),
        (("--rates", "HERE", "--on-gpu", "generate"), "--on-gpu must be STAGE=IMAGES/S"),
        (("--rates", "HERE", "--step", "quick"), "--step must be images a second or"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, said):
    write(tmp_path, [MACHINE, *STAGES])
    done = run(*(str(tmp_path) if each == "HERE" else each for each in arguments))
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_damaged_run_is_named(tmp_path):
    for line, said in (
        (json.dumps({**STAGES[0], "seconds_per_image": -1}), "seconds_per_image must be a positive number, got -1"),
        ('{"kind": "other"}', "kind is one of machine"),
        ("{", "JSON"),
    ):
        (tmp_path / "bench.jsonl").write_text(json.dumps(MACHINE) + "\n" + line + "\n")
        done = run("--rates", tmp_path)
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())
        assert "line 2" in " ".join(done.output.split())


def test_the_page_shows_them(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import performance_page

    versions = {"torch": "9.9", "dali": "8.8"}
    lines = [{**MACHINE, "versions": versions}, *STAGES, throughput(OURS, [900.0, 950.0, 1000.0])]
    (tmp_path / "simulation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = performance_page.page(tmp_path)
    said = "| p = 0, 224 px, 1 core, stock | 1,000 images/s | 1,000 to 1,000 | 950 images/s | 900 to 1,000 | **1.05** | cores |"
    assert said in page
    assert '"a processor", torch 9.9, DALI 8.8, 2026-01-02' in page
    assert "| decode |  | 224 | 1 | 0.8 | 0.8 |" in page
    assert "### Predicted beside measured" not in performance_page.page(tmp_path / "none")
