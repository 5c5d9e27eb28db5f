import numpy as np
import pytest
from typer.testing import CliRunner

from dali_icgan.bench.compare import compare, interval
from dali_icgan.bench.results import read_run
from dali_icgan.cli import app
from tests.bench.runs import MACHINE, OURS, throughput, training, write

OLD = [1000.0, 1010.0, 990.0, 1005.0, 995.0]


def compared(tmp_path, old, new, threshold=0.05, machine=None):
    folders = [
        write(tmp_path / "old", [MACHINE, *old]),
        write(tmp_path / "new", [{**MACHINE, **(machine or {})}, *new]),
    ]
    return compare(*map(read_run, folders), threshold)


def verdicts(found):
    return [each.verdict for each in found.changes]


def test_a_change_beyond_noise_is_found(tmp_path):
    for factor, verdict, regressions in ((0.8, "slower", 1), (1.2, "faster", 0), (0.98, "as fast", 0)):
        found = compared(tmp_path, [throughput(OURS, OLD)], [throughput(OURS, [factor * r for r in OLD])])
        assert verdicts(found) == [verdict]
        assert len(found.regressions) == regressions
        (change,) = found.changes
        assert change.ratio == pytest.approx(factor)
        assert change.low <= change.ratio <= change.high


def test_noise_is_none(tmp_path):
    noisy = [500.0, 1500.0, 1000.0, 700.0, 1400.0]
    assert verdicts(compared(tmp_path, [throughput(OURS, OLD)], [throughput(OURS, [0.85 * r for r in noisy])])) == [
        "as fast"
    ]


def test_a_regression_is_rarely_seen_where_there_is_none(tmp_path):
    draws = np.random.default_rng(0)
    low = [interval(*draws.normal(1000, 100, (2, 5))) for _ in range(300)]
    assert np.mean([high < 1 or each > 1 for each, high in low]) < 0.1


def test_the_threshold_counts(tmp_path):
    old, new = [throughput(OURS, OLD)], [throughput(OURS, [0.9 * r for r in OLD])]
    assert verdicts(compared(tmp_path, old, new, 0.05)) == ["slower"]
    assert verdicts(compared(tmp_path, old, new, 0.2)) == ["as fast"]
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\), got 1"):
        compared(tmp_path, old, new, 1)


def test_two_windows_decide_nothing(tmp_path):
    found = compared(tmp_path, [throughput(OURS, [1000.0, 1001.0])], [throughput(OURS, [10.0, 11.0])])
    assert verdicts(found) == ["too few windows"]
    assert not found.regressions


def test_a_slower_peer_is_no_regression(tmp_path):
    found = compared(tmp_path, [throughput("pil", OLD)], [throughput("pil", [0.5 * r for r in OLD])])
    assert verdicts(found) == ["slower"]
    assert not found.regressions


def test_cases_are_joined_by_what_they_are(tmp_path):
    old = [throughput(OURS, OLD, threads=2), throughput(OURS, [0.5 * r for r in OLD]), training(OURS, OLD)]
    new = [training(OURS, OLD), throughput(OURS, [0.5 * r for r in OLD]), throughput(OURS, OLD, threads=2)]
    found = compared(tmp_path, old, new)
    assert [each.ratio for each in found.changes] == [1, 1, 1]
    assert [each.name for each in found.changes][-1].startswith("training ResNet-18: dali_icgan, p = 0")
    assert "threads 2" in found.changes[0].name
    assert "threads 1" in found.changes[1].name


def test_a_missing_case_is_named(tmp_path):
    found = compared(
        tmp_path, [throughput(OURS, OLD), throughput("pil", OLD)], [throughput(OURS, OLD), throughput("spdl", OLD)]
    )
    assert (found.missing, found.added) == (["pil, p = 0"], ["spdl, p = 0"])


def test_another_machine_is_said(tmp_path):
    other = {"processor": "another", "versions": {"python": "3.11.2", "torch": "10.0", "ffcv": None}}
    found = compared(tmp_path, [throughput(OURS, OLD)], [throughput(OURS, OLD)], machine=other)
    assert found.warnings == ["processor differs: a processor and another", "torch differs: 9.9 and 10.0"]
    assert compared(tmp_path, [throughput(OURS, OLD)], [throughput(OURS, OLD)]).warnings == []


def test_what_cannot_be_joined_is_said(tmp_path):
    with pytest.raises(ValueError, match="must have a case in common"):
        compared(tmp_path, [throughput(OURS, OLD)], [throughput("pil", OLD)])
    with pytest.raises(ValueError, match="must hold each case once"):
        compared(tmp_path, [throughput(OURS, OLD)] * 2, [throughput(OURS, OLD)])


@pytest.mark.parametrize(("factor", "status"), [(0.7, 1), (1.0, 0), (1.5, 0)])
def test_the_command_fails_on_a_regression_alone(tmp_path, factor, status):
    write(tmp_path / "old", [MACHINE, throughput(OURS, OLD), throughput("pil", OLD)])
    write(tmp_path / "new", [MACHINE, throughput(OURS, [factor * r for r in OLD])])
    done = CliRunner().invoke(app, ["bench", "compare", str(tmp_path / "old"), str(tmp_path / "new")])
    assert done.exit_code == status, done.output
    assert "missing in NEW: pil" in done.output
    assert f"{factor:.2f}" in done.output


def test_the_commands_mistakes_have_another_status(tmp_path):
    write(tmp_path / "old", [MACHINE, throughput(OURS, OLD)])
    done = CliRunner().invoke(app, ["bench", "compare", str(tmp_path / "old"), str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "nowhere must be the folder of a run" in " ".join(done.output.split())
