"""Which class a folder stands for: cases by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from dali_icgan.evaluate.sets import CORRUPTIONS, find_sets, folder_set, imagenet_classes, objectnet_classes, subset
from tests.evaluate.conftest import fill


def folders(root, *names):
    for name in names:
        fill(root / name, 1)
    return root


def read(tmp_path, name, folder, *classes):
    folders(tmp_path / folder, *classes)
    found, missing = find_sets(tmp_path, {})
    assert list(found) == [name]
    assert name not in missing
    assert len(missing) == 6
    return found[name]


def test_v2_folders_are_indices_not_positions(tmp_path):
    # Sorted as text they are 10, 2, 999: positions would be 0, 1, 2.
    (images,) = read(tmp_path, "imagenet-v2", "imagenetv2-matched-frequency-format-val", "2", "10", "999")
    assert images.samples.classes == ["10", "2", "999"]
    assert images.right == ((10,), (2,), (999,))
    assert images.among is None


@pytest.mark.parametrize("name", ["1000", "007", "n01440764"])
def test_v2_refuses_what_is_no_index(tmp_path, name):
    folders(tmp_path / "imagenetv2-matched-frequency-format-val", "1", name)
    with pytest.raises(ValueError, match=f"imagenet-v2 must have subfolders that name its 1000 classes, got .*{name}"):
        find_sets(tmp_path, {})


def test_a(tmp_path):
    # stingray, goldfinch, hummingbird, school bus
    names = ("n01498041", "n01531178", "n01833805", "n04146614")
    (images,) = read(tmp_path, "imagenet-a", "imagenet-a", *names)
    assert images.right == ((6,), (11,), (94,), (779,))
    assert len(images.among) == len(set(images.among)) == 200
    assert images.among[:3] == (6, 11, 13)
    assert {6, 11, 94, 779} < set(images.among)


def test_r(tmp_path):
    # goldfish, great white shark, golden retriever, pizza
    names = ("n01443537", "n01484850", "n02099601", "n07873807")
    (images,) = read(tmp_path, "imagenet-r", "imagenet-r", *names)
    assert images.right == ((1,), (2,), (207,), (963,))
    assert len(set(images.among)) == 200
    assert images.among[:2] == (1, 2)


@pytest.mark.parametrize(("folder", "stranger"), [("imagenet-a", "n01440764"), ("imagenet-r", "n01440764")])
def test_a_class_of_imagenet_that_is_none_of_the_200(tmp_path, folder, stranger):
    folders(tmp_path / folder, "n01443537" if folder == "imagenet-r" else "n01498041", stranger)
    with pytest.raises(ValueError, match=f"name its 200 classes, got .*{stranger}"):
        find_sets(tmp_path, {})


def test_lists_of_200_are_of_imagenet():
    known = imagenet_classes()
    assert [known["n02391049"], known["n02099601"], known["n15075141"]] == [
        340,
        207,
        999,
    ]  # zebra, retriever, toilet tissue
    for letter in "ar":
        assert len(subset(letter)) == 200
        assert set(subset(letter)) < set(known)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("imagenet-sketch", "sketch"), ("stylized", "stylized-imagenet"), ("stylized", "stylized-imagenet/val")],
)
def test_folders_by_wordnet_id(tmp_path, name, folder):
    root = folders(tmp_path / folder, "n02391049", "n02099601")
    found, _ = find_sets(tmp_path, {})
    (images,) = found[name]
    assert images.samples.root == str(root)
    assert images.right == ((207,), (340,))
    assert not images.cropped


def test_c(tmp_path):
    root = tmp_path / "imagenet-c"
    folders(root / "fog" / "3", "n02391049")
    folders(root / "noise" / "gaussian_noise" / "1", "n02099601", "n02391049")
    folders(root / "noise" / "gaussian_noise" / "5", "n02099601")
    folders(root / "extra" / "spatter" / "1", "n02099601")  # the authors' additional ones are not of the 15
    found, _ = find_sets(tmp_path, {})
    images = found["imagenet-c"]
    names = ["imagenet-c/gaussian_noise/1", "imagenet-c/gaussian_noise/5", "imagenet-c/fog/3"]
    assert [each.name for each in images] == names
    assert images[0].right == ((207,), (340,))
    assert all(each.cropped for each in images)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("rain/1/n02391049", "name its 15 corruptions"),
        ("fog/6/n02391049", "severities 1 to 5"),
        ("noise/fog/1/n02391049", "have fog once"),
        ("frost/1/zebra", "name its 1000 classes"),
    ],
)
def test_c_refuses(tmp_path, folder, said):
    folders(tmp_path / "imagenet-c" / "fog" / "1", "n02391049")
    fill(tmp_path / "imagenet-c" / folder, 1)
    with pytest.raises(ValueError, match=said):
        find_sets(tmp_path, {})


def test_the_corruptions_are_fifteen():
    assert len(set(CORRUPTIONS)) == 15


@pytest.fixture
def objectnet(tmp_path):
    """Four folders, three of them classes of ImageNet, one of two of its classes; lines are not in a classifier's order."""
    root = tmp_path / "objectnet-1.0"
    for number, name in enumerate(("air_freshener", "chair", "tv", "zebra_toy")):
        fill(root / "images" / name, 2, number)
    mappings = root / "mappings"
    mappings.mkdir()
    labels = {"zebra_toy": "Zebra", "air_freshener": "Air freshener", "chair": "Chair", "tv": "TV"}
    names = {"Chair": "barber chair; folding chair", "TV": "television, television system", "Zebra": "zebra"}
    lines = ["zebra", "folding chair", "crane", "television, television system", "crane", "barber chair"]
    order = {"340": 0, "559": 1, "134": 2, "851": 3, "517": 4, "423": 5}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(names))
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps(order))
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    return root


def test_objectnet(objectnet):
    folders, overlapping = objectnet_classes(objectnet / "mappings")
    assert sorted(folders) == ["air_freshener", "chair", "tv", "zebra_toy"]
    assert overlapping == {"chair": (423, 559), "tv": (851,), "zebra_toy": (340,)}
    (images,) = find_sets(objectnet.parent, {})[0]["objectnet"]
    assert images.samples.classes == ["air_freshener", "chair", "tv", "zebra_toy"]
    assert images.right == ((), (423, 559), (851,), (340,))
    assert images.among == (340, 423, 559, 851)
    assert images.samples.labels.tolist() == [1, 1, 2, 2, 3, 3]  # no air freshener
    assert images.samples.keys == [f"{name}/{i}.jpg" for name in ("chair", "tv", "zebra_toy") for i in (0, 1)]


def test_objectnet_loses_its_red_border(objectnet, tmp_path):
    path = objectnet / "images" / "chair" / "0.jpg"
    pixels = np.full((40, 60, 3), (255, 0, 0), np.uint8)
    pixels[2:-2, 2:-2] = np.random.default_rng(0).integers(0, 256, (36, 56, 3))
    path.unlink()
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    (images,) = find_sets(objectnet.parent, {})[0]["objectnet"]
    (tmp_path / "read.bmp").write_bytes(images.samples.read(images.samples.keys.index("chair/0.png")))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "read.bmp")), pixels[2:-2, 2:-2])


@pytest.mark.parametrize(
    "name",
    [
        "folder_to_objectnet_label.json",
        "objectnet_to_imagenet_1k.json",
        "pytorch_to_imagenet_2012_id.json",
        "imagenet_to_label_2012_v2",
    ],
)
def test_objectnet_says_which_mapping_is_missing(objectnet, name):
    (objectnet / "mappings" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"needs the folder mappings of its download, .*{name} is missing"):
        find_sets(objectnet.parent, {})


def test_objectnet_refuses_strangers(objectnet):
    fill(objectnet / "images" / "sofa", 1)
    with pytest.raises(ValueError, match=r"objectnet must have subfolders that name its 4 classes, got .*sofa"):
        find_sets(objectnet.parent, {})


def test_objectnet_refuses_a_name_on_two_lines(objectnet):
    path = objectnet / "mappings" / "objectnet_to_imagenet_1k.json"
    path.write_text(json.dumps({"TV": "crane"}))
    with pytest.raises(ValueError, match="must have 'crane' on one line, got 2"):
        find_sets(objectnet.parent, {})


def test_what_ships_beside_the_classes_is_no_class(objectnet):
    root = objectnet.parent
    folders(root / "imagenet-a", "n02007558")
    folders(root / "imagenet-c" / "fog" / "3", "n02391049")
    folders(root / "stylized-imagenet" / "val", "n02391049")
    folders(root / "stylized-imagenet" / "train", "n02099601")
    for place in (
        "imagenet-a/README.txt",
        "imagenet-c/noise.tar",
        "objectnet-1.0/README",
        "objectnet-1.0/images/.DS_Store",
    ):
        (root / place).write_bytes(b"beside")
    (root / "imagenet-a" / "n02007558" / ".DS_Store").write_bytes(b"hidden")
    found, _ = find_sets(root, {})
    images = {name: sets[0].samples.keys for name, sets in found.items()}
    assert images["imagenet-a"] == ["n02007558/0.jpg"]
    assert images["imagenet-c"] == images["stylized"] == ["n02391049/0.jpg"]
    assert len(images["objectnet"]) == 6


def test_how_many_classes_a_whole_set_has(objectnet):
    root = objectnet.parent
    for name in ("imagenet-a", "imagenet-r", "sketch", "imagenet-c/fog/1"):
        folders(root / name, "n02007558")  # flamingo
    found, _ = find_sets(root, {})
    whole = {name: sets[0].whole for name, sets in found.items()}
    assert whole == {"imagenet-a": 200, "imagenet-r": 200, "imagenet-sketch": 1000, "imagenet-c": 1000, "objectnet": 3}


def test_places_given(tmp_path):
    elsewhere = folders(tmp_path / "elsewhere", "n02391049")
    found, missing = find_sets(tmp_path, {"imagenet-sketch": elsewhere})
    assert list(found) == ["imagenet-sketch"]
    assert missing == ["imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-c", "objectnet", "stylized"]
    with pytest.raises(ValueError, match=r"set must be one of imagenet-v2, .* got 'imagenet-x'"):
        find_sets(tmp_path, {"imagenet-x": elsewhere})
    with pytest.raises(FileNotFoundError, match="imagenet-r must be a folder"):
        find_sets(tmp_path, {"imagenet-r": tmp_path / "none"})
    with pytest.raises(FileNotFoundError, match="data must hold one or more of the folders imagenetv2-matched"):
        find_sets(tmp_path, {})


def test_a_limit_is_spread_over_the_classes(tmp_path):
    for name in ("a", "b", "c"):
        fill(tmp_path / name, 4)
    images = folder_set("x", tmp_path, {"a": 0, "b": 1, "c": 2})
    assert images.limited(None) is images
    assert images.limited(12) is images
    assert images.limited(3).samples.keys == ["a/0.jpg", "b/0.jpg", "c/0.jpg"]
    assert images.limited(5).samples.labels.tolist() == [0, 0, 1, 1, 2]
