"""The pair that comes with the package: small, trained, and what it makes belongs to its instance."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_icgan.cli import photographs
from dali_icgan.engine import load_extractor, load_generator

ROOT = Path(__file__).parents[2]
EACH, DRAWS, MANY = 6, 4, 40


@pytest.fixture(scope="module")
def generator():
    return load_generator("embedded", "cpu")


@pytest.fixture(scope="module")
def extractor(generator):
    return load_extractor("embedded", "cpu", resolution=generator.resolution)


@pytest.fixture(scope="module")
def features(extractor):
    return patch_features(extractor, EACH)


def patch_features(extractor, each):
    """Of patches that were not trained on: ``[photographs, each, d]``."""
    rows = []
    for name in photographs.PHOTOGRAPHS:
        whole = photographs.photograph(name).convert("RGB")
        patches = [photographs.patch(whole, 100_000 + number) for number in range(each)]
        rows.append(extractor([torch.from_numpy(np.array(patch)) for patch in patches]))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def generations(generator, features):
    """``[photographs, EACH, DRAWS, 3, s, s]``"""
    z = torch.randn(EACH * DRAWS * len(features), generator.dim_z, generator=torch.Generator().manual_seed(0))
    h = features.flatten(0, 1).repeat_interleave(DRAWS, 0)
    made = torch.cat([generator(*rows) for rows in zip(z.clamp(-1.4, 1.4).split(32), h.split(32), strict=True)])
    return made.unflatten(0, (len(features), EACH, DRAWS))


def test_both_are_small_and_say_what_they_are(generator, extractor):
    for one in (generator, extractor):
        assert (one.source, one.trained) == ("embedded", True)
        assert "UNTRAINED" not in repr(one)
    assert generator.n_classes == 0
    assert generator.feature_dim == extractor.dim
    files = [resources.files("dali_icgan.embedded") / f"{kind}.safetensors" for kind in ("generator", "extractor")]
    assert sum(len(file.read_bytes()) for file in files) < 4e6


def test_features_tell_the_photographs_apart(extractor):
    flat = patch_features(extractor, MANY).flatten(0, 1)  # few patches of a photograph may have nothing in common
    nearest = (flat @ flat.T).fill_diagonal_(-2).argmax(1) // MANY
    assert (nearest == torch.arange(len(flat)) // MANY).double().mean() > 0.9


def test_generations_belong_to_their_photograph(generations, features, extractor):
    made = generations.flatten(0, 2)
    images = [((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0) for image in made]
    found = torch.cat([extractor(images[i : i + 32]) for i in range(0, len(images), 32)])
    nearest = (found @ features.flatten(0, 1).T).argmax(1) // EACH
    own = torch.arange(len(features)).repeat_interleave(EACH * DRAWS)
    assert (nearest == own).double().mean() > 0.7  # by chance an eighth


def test_generations_of_one_instance_differ(generations):
    assert generations.isfinite().all()
    assert generations.abs().max() <= 1
    assert generations.std(2).mean((2, 3, 4)).mean(1).min() > 0.01  # over z, of each photograph
    assert generations.std(2).mean() > 0.05
    assert generations.mean(2).std((0, 1)).mean() > 0.2  # over instances


def test_their_page_is_the_recorded_run_of_these_files():
    done = subprocess.run(
        [sys.executable, "benchmarks/embedded_model.py", "--page", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_anybody_may_use_the_photographs():
    for _, licence in photographs.PHOTOGRAPHS.values():
        assert re.match("CC0, |public domain, ", licence)
