"""Our shards in WebDataset and in DALI's own reader; WebDataset's shards here."""

import subprocess
import sys
from pathlib import Path

import nvidia.dali.fn as dali_fn
import pytest
import webdataset
from nvidia.dali import pipeline_def

from dali_icgan.data import as_samples
from dali_icgan.data.shard_index import INDEX
from tests.photos import jpeg, make_folder, patch
from tests.shard_folders import make_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("photos") / "images", per_class=5)
    (root / "coffee" / "ä name.with dots.jpg").write_bytes(jpeg(patch("coffee", 9)))
    (root / "coffee" / ("l" * 180 + ".jpg")).write_bytes(jpeg(patch("coffee", 10)))
    return root


@pytest.fixture(scope="module")
def shards(folder):
    return make_shards(folder, folder.parent / "shards")


def as_pairs(samples):
    return [(samples.read(i), int(samples.labels[i])) for i in range(len(samples))]


def tars(folder):
    return sorted(map(str, folder.glob("*.tar")))


def test_webdataset_reads_ours(folder, shards):
    found = list(webdataset.WebDataset(tars(shards), shardshuffle=False, empty_check=False))
    assert [(sample["jpg"], int(sample["cls"])) for sample in found] == as_pairs(as_samples(folder))
    assert found[0]["__key__"] == "astronaut/000"
    paths = {sample["__key__"]: sample["relpath"].decode() for sample in found if "relpath" in sample}
    assert paths == {"coffee/ä name_with dots": "coffee/ä name.with dots.jpg"}


def test_webdataset_decodes_ours(shards):
    decoded = (
        webdataset.WebDataset(tars(shards), shardshuffle=False, empty_check=False).decode("rgb8").to_tuple("jpg", "cls")
    )
    images, labels = zip(*decoded, strict=True)
    assert all(image.dtype == "uint8" and image.shape[2] == 3 for image in images)
    assert list(labels) == as_samples(shards).labels.tolist()


def by_dali(paths, **indices):
    """(bytes, label) of every sample, by DALI's reader alone."""
    count = sum(len(list(webdataset.WebDataset(path, shardshuffle=False, empty_check=False))) for path in paths)

    @pipeline_def(batch_size=count, num_threads=1, device_id=None)
    def graph():
        return tuple(
            dali_fn.readers.webdataset(paths=paths, ext=["jpg", "cls"], missing_component_behavior="error", **indices)
        )

    pipeline = graph()
    pipeline.build()
    images, labels = pipeline.run()
    return [(bytes(images.at(i)), int(bytes(labels.at(i)))) for i in range(count)]


@pytest.mark.dali
def test_dali_reads_ours_by_our_index(folder, shards):
    paths = tars(shards)
    indices = [path.replace(".tar", ".idx") for path in paths]
    assert by_dali(paths, index_paths=indices) == as_pairs(as_samples(folder))


@pytest.mark.dali
def test_dali_reads_ours_without_an_index(folder, shards):
    assert by_dali(tars(shards)) == as_pairs(as_samples(folder))


@pytest.mark.dali
def test_our_dali_index_is_dalis(tmp_path):
    shards = make_shards(make_folder(tmp_path / "images", 3), tmp_path / "shards")
    for tar in tars(shards):
        script = Path(sys.executable).with_name("wds2idx")
        subprocess.run(
            [sys.executable, script, tar, tmp_path / "theirs.idx"], check=True, capture_output=True, timeout=120
        )
        assert Path(tar.replace(".tar", ".idx")).read_text() == (tmp_path / "theirs.idx").read_text()


@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_of_webdatasets_own_writer(folder, tmp_path, label):
    samples = as_samples(folder)
    with webdataset.ShardWriter(str(tmp_path / "w-%04d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(len(samples)):
            value = int(samples.labels[i])
            writer.write(
                {
                    "__key__": f"{i:06d}",
                    "jpg": samples.read(i),
                    label: value if label == "cls" else {"label": value, "id": i},
                }
            )
    ours = as_samples(tmp_path)
    assert as_pairs(ours) == as_pairs(samples)
    assert ours.keys[3] == "000003.jpg"
    assert ours.classes is None
    assert (tmp_path / INDEX).exists()


@pytest.mark.parametrize("form", ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"])
def test_tars_of_webdatasets_own_writer(folder, tmp_path, form):
    samples = as_samples(folder)
    chosen = [i for i in range(len(samples)) if len(samples.keys[i]) < 100 or form != "USTAR_FORMAT"]
    with webdataset.TarWriter(str(tmp_path / "all.tar"), format=form) as writer:
        for i in chosen:
            key = samples.keys[i].replace(".with", "-with").removesuffix(".jpg")
            writer.write({"__key__": key, "cls": int(samples.labels[i]), "jpg": samples.read(i), "txt": "words"})
    ours = as_samples(tmp_path)
    assert as_pairs(ours) == [as_pairs(samples)[i] for i in chosen]
    assert ours.classes == samples.classes


def test_packed_shards_are_refused(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "all.tar.gz")) as writer:
        writer.write({"__key__": "a", "cls": 0, "jpg": jpeg(patch("coffee", 1))})
    with pytest.raises(FileNotFoundError, match=r"shards are uncompressed \.tar files"):
        as_samples(tmp_path)
    (tmp_path / "all.tar.gz").rename(tmp_path / "all.tar")
    with pytest.raises(ValueError, match="must be an uncompressed tar, got one packed by gzip"):
        as_samples(tmp_path)
