"""A run from the command line: its lines, who is missing, what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from dali_icgan.bench import peers
from dali_icgan.bench.peers.peer import why_not
from dali_icgan.bench.run import Run
from dali_icgan.bench.settings import settings
from dali_icgan.cli import app
from tests.photos import make_folder

pytestmark = pytest.mark.dali
TINY = ["--quick", "--images", "8", "--seconds", "0.01", "--rounds", "1"]
FIELDS = {
    "peer": {"peer", "title", "installed", "version", "reason", "settings"},
    "contract": {
        *("peer", "p", "images", "largest_levels", "mean_levels", "same_boxes", "note", "accepted", "generator")
    },
    "throughput": {
        *("contest", "axis", "peer", "generator", "case", "p", "source", "compaction", "batch_size", "threads"),
        *("workers", "size", "images", "allocator", "device", "images_per_s", "cpu_s_per_1000", "peak_rss_mb"),
        *("gpu_memory_mb", "joules_per_1000", "first_batch_s", "one_off_s", "one_off_images"),
    },
    "training": {
        *("contest", "peer", "generator", "case", "p", "source", "network", "batch_size", "threads", "workers"),
        *("size", "device", "allocator", "images_per_s", "constant_images_per_s", "kept", "waiting", "predicted_kept"),
    },
    "stage": {
        *("stage", "case", "size", "batch_size", "threads", "device", "seconds_per_image", "bytes_per_image"),
    },
}


def bench(*options):
    return CliRunner().invoke(app, ["bench", *map(str, options)])


def lines(out):
    return [json.loads(line) for line in (out / "bench.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Everything but start-up, which has its own tests."""
    folder = tmp_path_factory.mktemp("bench")
    data = make_folder(folder / "photographs", 4)
    only = "peers,generators,scaling,stages,training"
    with pytest.MonkeyPatch.context() as patch:
        # What a run does last cannot be undone, and other tests are measured in this process too.
        patch.setattr("dali_icgan.bench.run.raise_allocator_thresholds", lambda: None)
        patch.setattr(peers.PEERS[2], "module", "no_such_module")
        one_core = lambda *given, **named: replace(settings(*given, **named), cores=(1,))  # noqa: E731
        patch.setattr("dali_icgan.bench.settings.settings", one_core)
        done = bench("--data", data, *TINY, "--peers", "pil,timm", "--only", only, "--out", folder / "out")
    assert done.exit_code == 0, done.output
    return done.output, lines(folder / "out")


def of(records, kind):
    return [record for record in records if record["kind"] == kind]


def test_every_kind_of_line_has_its_fields(run):
    _, records = run
    assert records[0]["kind"] == "machine"
    assert {"data", "images", "files", "megapixels", "mean_kb"} <= records[0].keys()
    assert records[0]["images"] == 8
    for kind, fields in FIELDS.items():
        assert of(records, kind), kind
        for record in of(records, kind):
            assert fields <= record.keys(), (kind, fields - record.keys())


def test_a_peer_that_is_missing_is_listed(run):
    output, records = run
    found = {record["peer"]: record for record in of(records, "peer")}
    assert set(found) == {"dali_icgan", *(peer.id for peer in peers.PEERS)}
    assert not found["timm"]["installed"]
    assert found["timm"]["reason"].startswith("no_such_module cannot be imported")
    assert found["dali"]["reason"] == "not asked for"
    assert found["pil"]["installed"]
    assert found["pil"]["version"]
    assert "no_such_module" in output
    assert {record["peer"] for record in of(records, "throughput")} == {"pil", "dali_icgan"}


def test_batches_were_verified(run):
    found = [(r["peer"], r["generator"], r.get("source"), r["accepted"]) for r in of(run[1], "contract")]
    assert found == [
        ("pil", None, None, True),
        ("dali_icgan", None, None, True),
        ("dali_icgan", "dali_icgan", "bank", True),
        ("dali_icgan", "dali_icgan", "online", True),
    ]


def test_contests_are_joined(run):
    contests = {}
    for record in of(run[1], "throughput"):
        assert len(record["images_per_s"]) == 1
        contests.setdefault(record["contest"], []).append(record)
    for name, records in contests.items():
        assert {record["peer"] for record in records} == {"pil", "dali_icgan"}, name
        assert len({(r["threads"], r["size"], r["batch_size"], r["allocator"]) for r in records}) == 1
        assert records[0]["allocator"] in name
    shown = {(r["generator"], r["compaction"]) for r in contests["generators, 1 threads, stock"]}
    assert shown == {("eager", True), ("eager", False), ("offline JPEGs", True), ("dali_icgan", True)}
    (offline,) = (r for r in contests["generators, 1 threads, stock"] if r["generator"] == "offline JPEGs")
    assert offline["one_off_s"] > 0
    assert 0 < offline["one_off_images"] < 8
    assert {r["allocator"] for r in of(run[1], "throughput")} == {"stock", "raised thresholds"}


def test_training_has_its_prediction(run):
    for record in of(run[1], "training"):
        assert (record["predicted_kept"] is not None) == (record["peer"] == "dali_icgan")
        assert record["predicted_kept"] is None or 0 < record["predicted_kept"] < 1
    assert {(r["peer"], r["p"]) for r in of(run[1], "training")} == {
        ("pil", 0),
        ("dali_icgan", 0),
        ("pil", 0.5),
        ("dali_icgan", 0.5),
    }
    assert {r["stage"] for r in of(run[1], "stage")} == {"read", "decode", "generate", "assemble", "step"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--peers", "dal"], "error: --peers must be all, none or some of pil, "),
        (["--p", "0,2"], "error: --p must be numbers in [0, 1], got 2"),
        (["--p", "half"], "error: --p must be numbers in [0, 1], such as 0,0.5, got 'half'"),
        (["--only", "peer"], "error: --only must be some of peers, generators, "),
        (["--data", "no/such/folder"], "error: "),
    ],
)
def test_a_bad_option_is_one_line(options, said, tmp_path):
    done = bench(*options, "--out", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.strip().startswith(said)
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_folder_must_be_named():
    done = bench("--quick")
    assert done.exit_code == 2
    assert done.stderr.strip() == "error: --out must name the folder that the figures go to, got none"


def tiny(tmp_path, *names):
    data = make_folder(tmp_path / "photographs", 4)
    given = settings(tmp_path / "out", data, torch.device("cpu"), names, (), (0.0,), quick=True)
    return Run(replace(given, images=8, training_images=8, batch_size=4, cores=(1,)))


def test_a_peer_that_fails_is_told_and_left_out(tmp_path, monkeypatch):
    def fails(photos, how):
        raise KeyError("no such thing")

    monkeypatch.setattr(peers.PEERS[1], "open", fails, raising=False)
    run = tiny(tmp_path, "pil", "torchvision.io")
    run()
    (found,) = (r for r in lines(tmp_path / "out") if r["kind"] == "contract" and r["peer"] == "torchvision.io")
    assert not found["accepted"]
    assert found["note"] == "KeyError: 'no such thing'"
    assert [peer.id for peer in run.peers] == ["pil"]


def test_a_peer_with_other_boxes_is_left_out(tmp_path, monkeypatch):
    opens = peers.PEERS[1].open

    def moved(photos, how):
        photos.box[:, 2:] -= 2
        return opens(photos, how)

    monkeypatch.setattr(peers.PEERS[1], "open", moved, raising=False)
    run = tiny(tmp_path, "pil", "torchvision.io")
    run()
    assert [peer.id for peer in run.peers] == ["pil"]


def test_our_own_failure_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dali_icgan.bench.run.open_ours", lambda plan, augment, how: peers.BASELINE.open(_moved(plan), how)
    )
    with pytest.raises(RuntimeError, match="the loader does not deliver the plan's batches"):
        tiny(tmp_path, "pil")()


def _moved(plan):
    photos = plan.photos()
    photos.box[:, 2:] -= 2
    return photos


def test_where_a_peer_lacks_its_libraries_it_says_so():
    class Lame:
        module = "json"

        def probe(self):
            return "no FFmpeg"

    assert why_not(Lame()) == "no FFmpeg"
