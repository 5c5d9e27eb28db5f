"""``dali-icgan train`` as torchrun starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dali_icgan as di
from tests.photos import make_folder

ROOT = Path(__file__).parents[2]
SETTINGS = """
gan: {channels: 4, z_chunk: 4, shared_dim_feat: 8, batch_size: 8, k: 5, steps: 4, ema_start: 2}
extractor: {steps: 4, batch_size: 8, width: 8}
look_every: 4
look_samples: 12
samples: 12
"""


@pytest.mark.dali
def test_two_ranks_by_torchrun(tmp_path):
    photos = make_folder(tmp_path / "photos")
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    out = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "dali_icgan.cli", "train", str(photos), "--out", str(out)),
            *("--config", str(tmp_path / "tiny.yaml"), "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report.md: samples") == 1
    assert di.load_generator(out / "generator.safetensors", device="cpu").trained
