"""A small plan of small photographs, for these tests."""

import torch

from dali_icgan.augment import TrainTransform
from dali_icgan.bench.models import load_models
from dali_icgan.bench.peers.peer import How
from dali_icgan.bench.scene import bank_of, files_of, plan_of
from tests.photos import make_folder

CPU = torch.device("cpu")
ROWS, BATCH, SIZE = 14, 4, 48  # the last batch is not full


def how(tmp_path, workers=0):
    return How(BATCH, max(1, workers), workers, CPU, tmp_path / "peers")


def files(tmp_path):
    return files_of(make_folder(tmp_path / "photographs", 4), ROWS, tmp_path)


def plain(tmp_path, size=SIZE):
    return plan_of(files(tmp_path), TrainTransform(size))


def generated(tmp_path, online=False):
    """A plan in which half of the rows are replaced, its models and its augmentation."""
    models, found = load_models("embedded", CPU), files(tmp_path)
    bank = None if online else bank_of(found, models.extractor, tmp_path / "bank")
    augment = models.augment(0.5, bank)
    return plan_of(found, TrainTransform(SIZE), augment), models, augment
