import json
import threading

import pytest
import torch
from typer.testing import CliRunner

import dali_icgan as di
from dali_icgan import spans
from dali_icgan.bench.profile import pace, shares, timeline
from dali_icgan.bench.results import read_run
from dali_icgan.bench.stages import stage_rates
from dali_icgan.cli import app
from dali_icgan.data import as_samples
from dali_icgan.spans import Span, chrome_trace, recording, span
from tests.photos import make_folder

pytestmark = pytest.mark.dali
TRANSFORM = di.TrainTransform(32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def bank(folder, extractor, tmp_path_factory):
    seeing = extractor.at_resolution(32)
    return di.FeatureBank.build(folder, seeing, tmp_path_factory.mktemp("bank") / "bank", progress=False)


def loader(folder, generator, bank, p=0.5, **more):
    augment = di.DAICGAN(generator=generator, bank=bank, p=p) if p else None
    return di.DataLoader(
        folder, 6, shuffle=True, augment=augment, transform=TRANSFORM, seed=3, device="cpu", num_workers=2, **more
    )


@pytest.fixture(scope="module")
def seen(folder, generator, bank):
    """Two passes of four batches, with half of the rows generated."""
    with recording() as found, loader(folder, generator, bank) as batches:
        for _ in range(2):
            for images, _ in batches:
                assert len(images) == 6
    return found


def of(found, stage, thread=None):
    return [each for each in found if each.stage == stage and thread in (None, each.thread)]


# ---------------------------------------------------------------------- spans


def test_every_stage_is_there_of_every_batch(seen):
    every = [(epoch, batch) for epoch in range(2) for batch in range(4)]
    me = threading.current_thread().name
    for stage, thread in (
        ("read", "dali_icgan-read"),
        ("decode", "dali_icgan-decode"),
        ("assemble", "dali_icgan-finish"),
    ):
        assert [(each.epoch, each.batch) for each in of(seen, stage)] == every
        assert {each.thread for each in of(seen, stage)} == {thread}
    # Each pass ends with a wait for what does not come.
    assert [(each.epoch, each.batch) for each in of(seen, "wait", me)] == [(e, b) for e in range(2) for b in range(5)]
    assert {each.thread for each in of(seen, "generate")} == {"dali_icgan-generate"}
    assert {each.stage for each in seen} == {"read", "decode", "generate", "assemble", "wait"}


def test_images_are_counted(seen):
    assert all(each.images == 6 for each in of(seen, "assemble"))
    read, made = (sum(each.images for each in of(seen, stage)) for stage in ("read", "generate"))
    assert read + made == 48
    assert min(read, made) > 10
    assert sum(each.images for each in of(seen, "decode")) == read


def test_spans_of_a_thread_nest(seen):
    assert len({each.tid for each in of(seen, "decode")}) == 2  # each pass has threads of its own
    for tid in {each.tid for each in seen}:
        above = []
        for each in sorted((s for s in seen if s.tid == tid), key=lambda s: (s.begin, -s.end)):
            assert each.begin <= each.end
            assert each.cpu >= 0
            while above and above[-1].end <= each.begin:
                above.pop()
            assert not above or each.end <= above[-1].end
            above.append(each)
    inner = of(seen, "wait", "dali_icgan-finish")
    outer = of(seen, "assemble")
    assert inner
    assert all(any(o.begin <= each.begin and each.end <= o.end and o.tid == each.tid for o in outer) for each in inner)


def test_a_batch_goes_through_its_stages_in_order(seen):
    for epoch in range(2):
        for batch in range(4):
            stages = [
                next(s for s in of(seen, name) if (s.epoch, s.batch) == (epoch, batch))
                for name in ("read", "decode", "assemble")
            ]
            assert stages[0].end <= stages[1].begin
            assert stages[1].end <= stages[2].begin


def test_nothing_is_kept_when_nobody_records(folder, generator, bank, monkeypatch):
    monkeypatch.setattr(spans, "_Open", None)  # whoever opens one fails
    with loader(folder, generator, bank) as batches:
        assert len(list(batches)) == 4
    assert span("read", 0, 0) is span("decode", 1, 2)


def test_one_recording_at_a_time():
    with recording() as found:
        with pytest.raises(RuntimeError, match="another recording is under way"), recording():
            pass
        with span("read", 0, 0) as taken:
            taken.images = 3
    assert [(each.stage, each.images) for each in found] == [("read", 3)]
    with recording() as again:
        pass
    assert again == []


def test_batches_are_the_same_bits_while_they_are_recorded(folder, generator, bank):
    def passed():
        with loader(folder, generator, bank, return_info=True) as batches:
            return [(images.clone(), labels, info) for images, labels, info in batches]

    plain = passed()
    with recording():
        recorded = passed()
    assert len(plain) == len(recorded) == 4
    for (images, labels, info), (others, their_labels, their_info) in zip(plain, recorded, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, their_labels)
        assert info["path"] == their_info["path"]
    replaced = [info["replaced"] for *_, info in plain]
    assert 0 < sum(each.sum() for each in replaced) < 24


def test_a_replay_is_seen_in_its_own_thread(folder, generator, bank):
    with loader(folder, generator, bank, p=1.0) as batches, recording() as found:
        batches.replay(0, 5)
    assert [each.stage for each in found] == ["read", "decode", "generate", "assemble"]
    assert {each.batch for each in found} == {-1}
    assert {each.tid for each in found} == {threading.get_native_id()}


def test_ranges_for_nsight(folder, generator, bank, monkeypatch):
    ranges = []
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: ranges.append((threading.get_native_id(), name)))
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: ranges.append((threading.get_native_id(), None)))
    monkeypatch.setattr(spans, "_nvtx", True)
    monkeypatch.setattr(spans, "_on", True)
    with loader(folder, generator, bank) as batches:
        list(batches)
    for tid in {tid for tid, _ in ranges}:
        depth = 0
        for _, name in (each for each in ranges if each[0] == tid):
            depth += -1 if name is None else 1
            assert depth >= 0
        assert depth == 0
    assert {"read 0/0", "decode 0/3", "assemble 0/1", "wait 0/2"} <= {name for _, name in ranges}


# ---------------------------------------------------------------------- the timeline


def test_the_trace_is_chromes(seen):
    trace = json.loads(json.dumps(chrome_trace(seen)))
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    complete = [each for each in trace["traceEvents"] if each["ph"] == "X"]
    meta = [each for each in trace["traceEvents"] if each["ph"] == "M"]
    assert len(complete) + len(meta) == len(trace["traceEvents"])
    assert len(complete) == len(seen)
    for each in complete:
        assert set(each) == {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"}
        assert all(isinstance(each[name], int) for name in ("pid", "tid"))
        assert all(isinstance(each[name], (int, float)) and each[name] >= 0 for name in ("ts", "dur"))
        assert set(each["args"]) == {"epoch", "batch", "images", "process_cpu_ms"}
    assert complete[0]["ts"] == 0
    assert [each["ts"] for each in complete] == sorted(each["ts"] for each in complete)
    names = {each["tid"]: each["args"]["name"] for each in meta if each["name"] == "thread_name"}
    assert names == {each.tid: each.thread for each in seen}
    assert {each["name"] for each in meta} == {"process_name", "thread_name", "thread_sort_index"}
    took = {each["tid"]: each["dur"] for each in complete}
    assert took
    last = max(seen, key=lambda each: each.begin)
    assert complete[-1]["dur"] == pytest.approx(1e6 * (last.end - last.begin), abs=1e-2)


def test_nothing_makes_an_empty_trace():
    assert [each["name"] for each in chrome_trace([])["traceEvents"]] == ["process_name"]


def made(stage, begin, end, tid=1, images=0, cpu=0.0, thread=None):
    return Span(stage, thread or f"thread {tid}", tid, begin, end, cpu, 0, 0, images)


def test_own_time_is_without_what_is_within():
    found = shares(
        [
            made("assemble", 1.0, 5.0, images=8, cpu=3.0),
            made("wait", 2.0, 3.5, cpu=1.0),
            made("decode", 0.0, 4.0, tid=2, images=4, cpu=4.0),
            made("decode", 4.0, 12.0, tid=2, images=4, cpu=8.0),
            made("read", 20.0, 21.0, tid=3),
        ],
        0.0,
        10.0,
    )
    by_stage = {each.stage: each for each in found}
    assert set(by_stage) == {"assemble", "wait", "decode"}
    assert (by_stage["assemble"].seconds, by_stage["assemble"].cpu) == (2.5, 2.0)
    assert by_stage["wait"].seconds == 1.5
    decode = by_stage["decode"]
    assert (decode.calls, decode.images, decode.seconds, decode.busy) == (2, 8, 10.0, 1.0)
    assert decode.cpu == pytest.approx(4.0 + 8.0 * 6 / 8)
    assert pace(found).stage == "decode"


def test_waiting_sets_no_pace():
    assert pace(shares([made("wait", 0, 9), made("read", 0, 1, tid=2)], 0, 10)).stage == "read"
    with pytest.raises(ValueError, match="must hold a stage's work"):
        pace(shares([made("wait", 0, 9)], 0, 10))


def test_a_timeline_adds_up(folder, generator, bank):
    with loader(folder, generator, bank, p=0, drop_last=True) as batches:
        steps = []
        found = timeline(batches, 7, lambda images, labels: steps.append(len(images)))
    assert found.images == 42
    assert len(steps) == 7 + batches.prefetch_factor + 3
    rows = shares(found.spans, found.begin, found.end)
    for thread in {each.thread for each in rows}:
        assert sum(each.busy for each in rows if each.thread == thread) <= 1 + 1e-6
    (step,) = [each for each in rows if each.stage == "step"]
    assert (step.calls, step.images, step.thread) == (7, 42, found.consumer)


def test_a_loader_without_batches_is_said(folder, generator, bank):
    with loader(folder, generator, bank, p=0, drop_last=True) as batches:
        batches.batch_size = 1000
        with pytest.raises(ValueError, match="must have a batch"):
            timeline(batches, 1)


# ---------------------------------------------------------------------- stages by themselves


def test_each_stage_by_itself(folder, generator, bank):
    before = torch.get_num_threads()
    augment = di.DAICGAN(generator=generator, bank=bank, p=1.0)
    calls = []
    records = stage_rates(
        as_samples(folder), TRANSFORM, augment=augment, case="small", batch_size=8, threads=2, step=lambda images, labels: calls.append(images), seconds=0.02, rounds=3,
    )  # fmt: skip
    assert [(each["stage"], each["case"]) for each in records] == [
        ("read", None), ("decode", None), ("assemble", None), ("generate", "small"), ("assemble", "small"), ("step", None),
    ]  # fmt: skip
    for each in records:
        assert (each["kind"], each["size"], each["batch_size"], each["threads"], each["device"]) == (
            "stage",
            32,
            8,
            2,
            "cpu",
        )
        assert sorted(each["windows"])[1] == each["seconds_per_image"] > 0
        assert len(each["cpu_windows"]) == 3
    files = [path.stat().st_size for path in folder.rglob("*.jpg")]
    assert records[0]["bytes_per_image"] == pytest.approx(sum(files) / len(files))
    assert all(each["bytes_per_image"] is None for each in records[1:])
    assert calls[0].shape == (8, 3, 32, 32)
    assert torch.get_num_threads() == before
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("dali_icgan")]


def test_what_cannot_be_measured_is_said(folder, generator, bank, extractor):
    for augment in (
        di.DAICGAN(generator=generator, bank=bank, p=0.5),
        di.DAICGAN(generator=generator, extractor=extractor, p=1.0),
    ):
        with pytest.raises(ValueError, match="must have p = 1 and a bank"):
            stage_rates(as_samples(folder), TRANSFORM, augment=augment)


def test_the_command(folder, tmp_path):
    out = tmp_path / "profile"
    arguments = f"bench profile --data {folder} --out {out} --p 0.5 --batches 12 --batch-size 8 --size 32 --threads 2 --device cpu --seconds 0.01"
    done = CliRunner().invoke(app, arguments.split())
    assert done.exit_code == 0, done.output
    for said in ("96 images in", "dali_icgan-decode", "generate", "sets the pace", "ui.perfetto.dev"):
        assert said in done.output
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    assert {each["name"] for each in events if each["ph"] == "X"} == {"read", "decode", "generate", "assemble", "wait"}
    run = read_run(out)
    assert {each["threads"] for each in run.of("stage")} == {1, 2}
    (rate,) = run.of("throughput")
    assert (rate["p"], rate["case"], rate["threads"]) == (0.5, "embedded", 2)
    again = CliRunner().invoke(app, arguments.split())
    assert again.exit_code == 2
    assert "a folder without trace.json" in " ".join(again.output.split())
    checked = CliRunner().invoke(app, ["bench", "simulate", "--check", str(out)])
    assert checked.exit_code == 0, checked.output
    assert "p = 0.5, embedded, 32 px" in checked.output


def test_the_commands_mistakes(folder, tmp_path):
    for arguments, said in (
        (f"--data {tmp_path / 'nowhere'}", "nowhere"),
        (f"--data {folder} --p 0.5 --generator some.pth", "--generator and --extractor must be given together"),
    ):
        done = CliRunner().invoke(app, ["bench", "profile", "--out", str(tmp_path / "out"), *arguments.split()])
        assert done.exit_code == 2, done.output
        assert said in " ".join(done.output.split())
