"""Everybody delivers the same batches, and who does not is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dali_icgan.augment import TrainTransform
from dali_icgan.bench.generated import followed, offline
from dali_icgan.bench.measure import Pixels, contract, levels, pixels_of
from dali_icgan.bench.peers import BASELINE, PEERS, chosen
from dali_icgan.bench.peers.ours import open_ours
from dali_icgan.bench.peers.peer import Batch, Opened, why_not
from dali_icgan.bench.scene import files_of, plan_of
from dali_icgan.data import as_samples
from dali_icgan.data.shard_writer import LEAST_SIZE, write_shards
from tests.bench.scenes import BATCH, ROWS, SIZE, files, generated, how, plain
from tests.photos import make_folder

pytestmark = pytest.mark.dali
BY_ID = {peer.id: peer for peer in PEERS}


def pixels(opened, plan):
    try:
        return pixels_of(opened, plan)
    finally:
        opened.close()


@pytest.mark.parametrize(("name", "workers"), [*((name, 0) for name in BY_ID), ("pil", 2), ("webdataset", 2)])
def test_an_installed_peer_delivers_the_plan(name, workers, tmp_path):
    peer = BY_ID[name]
    if (reason := why_not(peer)) is not None:
        pytest.skip(reason)
    plan = plain(tmp_path, 96)
    wanted = pixels(BASELINE.open(plan.photos(), how(tmp_path)), plan)
    own = levels(peer.reference(plan.photos()), plan) if hasattr(peer, "reference") else None
    opened = peer.open(plan.photos(), how(tmp_path, workers))
    for _ in range(2):
        found = contract(pixels_of(opened, plan), wanted, peer.exact, own)
        assert found["accepted"], found
        assert found["same_boxes"]
    opened.close()
    assert (opened.one_off_s is not None) == (name in ("webdataset", "streaming", "ffcv"))


def test_a_pass_that_was_left_is_not_gone_on_with(tmp_path):
    plan = plain(tmp_path)
    for name in ("pil", "dali"):
        opened = BY_ID[name].open(plan.photos(), how(tmp_path))
        batches = iter(opened)
        next(batches)
        batches.close()
        assert [len(batch.row) for batch in opened] == [BATCH, BATCH, BATCH, ROWS - 3 * BATCH]
        opened.close()


def test_ours_delivers_the_plan(tmp_path):
    plan = plain(tmp_path)
    wanted = pixels(BASELINE.open(plan.photos(), how(tmp_path)), plan)
    found = contract(pixels(open_ours(plan, None, how(tmp_path)), plan), wanted, True)
    assert found["accepted"]
    assert 0 < found["mean_levels"] < found["largest_levels"] < 2.5
    assert found["images"] == ROWS


@pytest.mark.parametrize(("exact", "moved"), [(True, 1), (False, 4)])
def test_a_box_that_is_moved_is_seen(exact, moved, tmp_path):
    plan = plain(tmp_path)
    wanted = pixels(BASELINE.open(plan.photos(), how(tmp_path)), plan)
    box = plan.box.copy()
    row = int(np.argmax(box[:, 2]))  # there is room for it
    box[row, 2] -= moved
    box[row, 0] += moved
    other = replace(plan, box=box)
    found = contract(pixels(BASELINE.open(other.photos(), how(tmp_path)), plan), wanted, exact)
    assert not found["accepted"]
    assert found["same_boxes"] == exact  # of an exact one every pixel counts, of others an image's mean


def test_a_wrong_label_is_seen():
    images = torch.zeros(2, 3, 4, 4)
    found = contract(Pixels(images, torch.tensor([0, 1])), Pixels(images, torch.tensor([0, 2])), True)
    assert not found["accepted"]
    assert found["note"] == "labels differ"


@pytest.mark.parametrize("rows", [[0, 0], [0]])
def test_every_row_comes_once(rows, tmp_path):
    plan = plain(tmp_path)
    batch = Batch(np.array(rows), torch.zeros(len(rows), 3, 48, 48), torch.zeros(len(rows), dtype=torch.int64))
    with pytest.raises(ValueError, match="every row must come once a pass"):
        pixels_of(Opened(lambda: iter([batch])), plan)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("name", ["pil", "webdataset"])
def test_a_generator_behind_a_loader_gives_our_batches(online, every_row, name, tmp_path):
    plan, models, augment = generated(tmp_path, online)
    assert 0 < plan.replaced.sum() < ROWS
    wanted = pixels(open_ours(plan, augment, how(tmp_path)), plan)
    opened = followed(BY_ID[name], plan, how(tmp_path), models, every_row=every_row)
    got = pixels(opened, plan)
    found = contract(got, wanted, True)
    assert found["accepted"], found
    made = torch.from_numpy(plan.replaced)
    apart = (got.images - wanted.images).abs()[made]
    assert apart.max() < (1.0 if online else 0.05)  # features of squares that PIL rounds to 8 bits


def test_just_the_replaced_rows_are_generated(tmp_path):
    plan, models, _ = generated(tmp_path)
    calls = []

    class Generate(torch.nn.Module):
        def forward(self, z, h):
            calls.append(len(z))
            return models.eager_generator(z, h)

        def __len__(
            self,
        ):  # what torch.compile makes of a module has one, and is hence not to be asked whether it is true
            raise TypeError("no len()")

    generate = Generate()
    pixels(followed(BASELINE, plan, how(tmp_path), models, generate), plan)
    assert sum(calls) == plan.replaced.sum()
    calls.clear()
    pixels(followed(BASELINE, plan, how(tmp_path), models, generate, every_row=True), plan)
    assert sum(calls) == ROWS


def test_generations_written_before_are_nearly_the_same(tmp_path):
    plan, models, augment = generated(tmp_path)
    photos, seconds, made = offline(plan, models, tmp_path / "offline")
    assert made == plan.replaced.sum() == len(list((tmp_path / "offline").iterdir()))
    assert seconds > 0
    wanted = pixels(open_ours(plan, augment, how(tmp_path)), plan)
    found = contract(pixels(BASELINE.open(photos, how(tmp_path)), plan), wanted, False)
    assert found["accepted"], found


def test_shards_are_read_as_such(tmp_path):
    folder = tmp_path / "shards"
    write_shards(as_samples(str(make_folder(tmp_path / "photographs", 4))), folder, LEAST_SIZE)
    found = files_of(folder, ROWS, tmp_path / "scratch")
    assert found.facts()["data"] == "given"
    assert found.facts()["images"] == ROWS
    same = files_of(tmp_path / "photographs", ROWS, tmp_path)
    assert [label for _, label in found.pairs] == [label for _, label in same.pairs]
    plan = plan_of(found.first(6), TrainTransform(SIZE))
    assert len(found.first(6).distinct) == len(plan.files.ours) == 6
    assert not isinstance(plan.files.ours, list)  # the loader reads the tars, peers the files taken out of them
    wanted = pixels(BASELINE.open(plan.photos(), how(tmp_path)), plan)
    assert contract(pixels(open_ours(plan, None, how(tmp_path)), plan), wanted, True)["accepted"]


def test_files_are_repeated_where_there_are_fewer(tmp_path):
    found = files(tmp_path)
    more = files_of(tmp_path / "photographs", 30, tmp_path)
    assert len(more.pairs) == 30
    assert more.facts()["files"] == 12
    assert len(more.first(5).pairs) == 5
    assert len(found.pairs) == ROWS


def test_peers_are_chosen_by_name():
    assert chosen(["all"]) == PEERS
    assert chosen(["none"]) == ()
    assert [peer.id for peer in chosen(["dali", "pil"])] == ["pil", "dali"]
    with pytest.raises(ValueError, match=r"--peers must be all, none or some of pil, .*, got 'dal'"):
        chosen(["dal"])
