import gzip
import io
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dali_icgan.models.checkpoint import (
    read_checkpoint,
    read_extractor,
    read_generator,
    read_run_metadata,
    read_stored_instances,
    write_checkpoint,
)
from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from dali_icgan.models.inert_pickle import Refused, load
from dali_icgan.models.resnet import ResNet, ResNetConfig
from tests.golden import OWN, own
from tests.golden import load as load_golden
from tests.golden.reference import shapes
from tests.models.test_generator import config_of

NARROW = ResNetConfig("basic", (1, 1), 4)


def state(name="ic_res32"):
    return {key: tensor.float() for key, tensor in own(name)["state_dict"].items()}


def without(entries, *keys):
    return {k: t for k, t in entries.items() if k not in keys}


def prefixed(entries, prefix="module."):
    return {prefix + k: t for k, t in entries.items()}


def resnet_state(config=NARROW):
    torch.manual_seed(0)
    return ResNet(config).state_dict()


def cross_replica(entries):
    """The names of a generator trained with synchronised batch norm."""
    renamed = {}
    for key, tensor in entries.items():
        owner, _, last = key.rpartition(".")
        last = {"stored_mean": "running_mean", "stored_var": "running_var"}.get(last, last)
        if owner == "output_layer.0":
            last = {"gain": "weight"}.get(last, last)
            owner += ".bn"
        elif last.startswith("running_"):
            owner += ".bn"
        renamed[f"{owner}.{last}"] = tensor
        if last == "running_mean":
            renamed[f"{owner}.num_batches_tracked"] = torch.tensor(3)
    return renamed


def standing(entries, batches):
    """The names of a generator with standing statistics: sums over ``batches`` batches."""
    renamed = {}
    for key, tensor in entries.items():
        owner, _, last = key.rpartition(".")
        if last in ("stored_mean", "stored_var"):
            renamed[f"{owner}.bn.{last}"] = tensor * max(batches, 1)
            renamed[f"{owner}.bn.accumulation_counter"] = torch.tensor([float(batches)])
        else:
            renamed[key] = tensor
    return renamed


# What is understood.


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_the_architecture_is_read_off_the_tensors(path):
    golden = load_golden(path)
    checkpoint = read_generator(golden["state_dict"])
    assert checkpoint.config == config_of(golden)
    assert {k: tuple(t.shape) for k, t in checkpoint.tensors.items()} == shapes(golden["config"])
    assert {t.dtype for t in checkpoint.tensors.values()} == {torch.float32}


@pytest.mark.parametrize(
    "rename",
    [
        prefixed,
        cross_replica,
        lambda s: prefixed(cross_replica(s)),
        lambda s: standing(s, 0),
        lambda s: standing(s, 1),
        lambda s: standing(s, 8),
    ],
)
def test_other_names_for_the_same_tensors(rename):
    plain, renamed = read_generator(state("cc_res64")), read_generator(rename(state("cc_res64")))
    assert renamed.config == plain.config
    assert all(torch.equal(t, renamed.tensors[k]) for k, t in plain.tensors.items())
    assert renamed.fingerprint == plain.fingerprint


def test_files_of_torch(tmp_path):
    wanted = read_generator(state()).fingerprint
    for i, zipped in enumerate((True, False)):  # before torch 1.6 it was a plain pickle
        torch.save(state(), tmp_path / f"{i}.pth", _use_new_zipfile_serialization=zipped)
        assert read_generator(tmp_path / f"{i}.pth").fingerprint == wanted
    save_file(state(), tmp_path / "plain.safetensors")
    assert read_generator(str(tmp_path / "plain.safetensors")).fingerprint == wanted


def test_the_fingerprint_sees_one_bit():
    changed = state()
    changed["blocks.1.0.conv1.bias"][3] += 1e-6
    assert read_generator(changed).fingerprint != read_generator(state()).fingerprint
    assert read_generator(changed).fingerprint == read_generator(dict(reversed(changed.items()))).fingerprint


def test_float64_stays():
    checkpoint = read_generator({k: t.double() for k, t in state().items()})
    assert {t.dtype for t in checkpoint.tensors.values()} == {torch.float64}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: s | {"fc.weight": torch.zeros(7, 8), "fc.bias": torch.zeros(7)},
        lambda s: prefixed(s | {"projection_head.0.weight": torch.zeros(3, 8), "prototypes.weight": torch.zeros(9, 3)}),
        lambda s: {
            "state_dict_best": {"feat_model": prefixed(s), "classifier": {"fc.weight": torch.zeros(2, 8)}},
            "best_acc": np.float64(41.4),
        },
        lambda s: {"state_dict": s, "epoch": 90},
        lambda s: {k: t for k, t in s.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["flat", "torchvision", "SwAV", "ImageNet-LT", "training", "before num_batches_tracked"],
)
def test_extractor_files(tmp_path, wrap):
    torch.save(wrap(resnet_state()), tmp_path / "file.pth")
    checkpoint = read_extractor(tmp_path / "file.pth")
    assert checkpoint.config == NARROW
    assert checkpoint.fingerprint == read_extractor(resnet_state()).fingerprint
    assert checkpoint.parameters_count == sum(p.numel() for p in ResNet(NARROW, "meta").parameters())


@pytest.mark.parametrize(
    "config", [ResNetConfig(width=4), ResNetConfig("basic", (2, 2, 2, 2), 4), ResNetConfig("bottleneck", (3, 8), 4)]
)
def test_depth_and_width_of_an_extractor_are_read_off_the_tensors(config):
    assert read_extractor(resnet_state(config)).config == config


def test_own_files_come_back_as_they_were(tmp_path):
    for kind, checkpoint in (
        ("generator", read_generator(state("cc_res64"))),
        ("extractor", read_extractor(resnet_state())),
    ):
        path = tmp_path / f"{kind}.safetensors"
        write_checkpoint(path, checkpoint)
        again = read_checkpoint(path)
        assert (again.kind, again.config, again.fingerprint) == (kind, checkpoint.config, checkpoint.fingerprint)
        assert again.source == str(path)
        assert again.trained
        first = path.read_bytes()
        write_checkpoint(path, checkpoint)
        assert path.read_bytes() == first
    assert sorted(os.listdir(tmp_path)) == ["extractor.safetensors", "generator.safetensors"]


def test_an_own_file_says_what_tensors_cannot(tmp_path):
    torch.manual_seed(0)
    config = GeneratorConfig(32, 2, z_chunk=6, feature_dim=9, shared_dim_feat=4, n_classes=3, shared_dim=6)
    tensors = ICGenerator(config).state_dict()
    with pytest.raises(
        ValueError, match=r"is ambiguous: blocks\.0\.0\.bn1\.gain\.weight reads 6 columns beside the feature's 4"
    ):
        read_generator(tensors)
    other = read_generator(
        ICGenerator(
            GeneratorConfig(32, 2, z_chunk=5, feature_dim=9, shared_dim_feat=4, n_classes=3, shared_dim=6)
        ).state_dict()
    )
    write_checkpoint(tmp_path / "x.safetensors", type(other)("generator", config, tensors, "here", trained=False))
    again = read_generator(tmp_path / "x.safetensors")
    assert again.config == config
    assert not again.trained


def test_released_architectures_bring_a_notice():
    # Loading one for real would take gigabytes: a released architecture, its tensors without memory behind them.
    def files(**change):
        config = GeneratorConfig(**{"resolution": 64, "channels": 64, "z_chunk": 24, "attention": (32,)} | change)
        return {k: torch.zeros(()).expand(t.shape) for k, t in ICGenerator(config, device="meta").state_dict().items()}

    assert "non-commercial" in read_generator(files()).notice
    assert read_generator(files(shared_dim_feat=64)).notice == ""
    assert read_generator(state()).notice == ""
    swav = prefixed(resnet_state() | {"projection_head.0.weight": torch.zeros(3, 8)})
    assert "SwAV" in read_extractor(swav).notice
    assert read_extractor(resnet_state()).notice == ""


# What is refused, and how it is said.


def test_all_that_does_not_fit_is_named_at_once():
    broken = without(state(), "blocks.1.0.conv2.weight", "output_layer.0.gain", "blocks.2.0.bn1.stored_var")
    broken |= {
        "blocks.0.0.conv3.weight": torch.zeros(1),
        "blocks.0.0.conv1.bias": torch.zeros(5),
        "linear.u0": torch.zeros(1, 3),
    }
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_generator(broken)
    assert str(caught.value) == (
        "the given mapping does not fit: missing: blocks.1.0.conv2.weight, blocks.2.0.bn1.stored_var, output_layer.0.gain; "
        "unknown: blocks.0.0.conv3.weight; "
        "misshaped: linear.u0 must be [1, 256], got [1, 3], blocks.0.0.conv1.bias must be [16], got [5]"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: without(s, "linear.weight", "shared.weight"),
            "the architecture cannot be read: shared.weight is missing; linear.weight is missing",
        ),
        (
            lambda s: {k: t for k, t in s.items() if not k.startswith("shared_feat")},
            "a BigGAN without instance conditioning",
        ),
        (lambda s: s | {"linear.weight": torch.zeros(4)}, r"linear.weight must have 2 axes, got \[4\]"),
        (
            lambda s: {k: t for k, t in s.items() if not k.startswith("blocks.2.")},
            r"must have 3, 4, 5 or 6 blocks .*, got 2",
        ),
        (
            lambda s: s | {"output_layer.2.weight": torch.zeros(3, 9, 3, 3)},
            "output_layer.2.weight has 9 input channels",
        ),
        (
            lambda s: s | {"blocks.0.0.bn1.gain.weight": torch.zeros(16, 14)},
            "is none that is known: .* reads 2 columns",
        ),
        (lambda s: s | prefixed(s), "shared.weight is there twice, with and without the prefix module"),
        (
            lambda s: s | {"blocks.0.0.bn1.bn.running_mean": torch.zeros(16)},
            "blocks.0.0.bn1.stored_mean is there twice",
        ),
        (lambda s: s | {"linear.bias": 3}, "linear.bias must be a tensor, got int"),
        (lambda s: s | {"linear.bias": torch.zeros(256, dtype=torch.int64)}, "not floating point: linear.bias"),
        (lambda s: s | {"linear.bias": torch.full((256,), torch.nan)}, "not finite: linear.bias"),
    ],
)
def test_generators_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        read_generator(change(state()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "layer2.0.bn2.running_var"), "missing: layer2.0.bn2.running_var"),
        (lambda s: s | {"layer2.0.conv9.weight": torch.zeros(1)}, "unknown: layer2.0.conv9.weight"),
        (lambda s: s | {"bn1.bias": torch.zeros(5)}, r"misshaped: bn1.bias must be \[4\], got \[5\]"),
        (lambda s: without(s, "conv1.weight"), "conv1.weight must be there"),
        (lambda s: s | {"conv1.weight": torch.zeros(4, 3, 3, 3)}, "is ambiguous: conv1.weight is .3, 3."),
    ],
)
def test_extractors_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        read_extractor(change(resnet_state()))


DISCRIMINATOR = {
    "blocks.0.0.conv1.weight": torch.zeros(2, 3, 3, 3),
    "linear.weight": torch.zeros(1, 2),
    "linear_feat.weight": torch.zeros(2, 9),
}
OPTIMISER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
METADATA = {
    "itr": 7,
    "epoch": 2,
    "save_num": 0,
    "best_IS": 9.5,
    "best_FID": np.float64(8.5),
    "config": {"G_activation": torch.nn.ReLU(), "shape": (1, [2])},
}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (DISCRIMINATOR, "a discriminator"),
        (OPTIMISER, "an optimiser's state"),
        (METADATA, "run metadata"),
        ({"a": torch.zeros(1)}, "something else .its entries: a, ..."),
        ({}, "nothing .it is empty."),
    ],
    ids=["discriminator", "optimiser", "metadata", "other", "empty"],
)
def test_other_kinds_are_recognised_and_the_wanted_file_is_named(tmp_path, content, what):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=f"must be an IC-GAN generator, got {what}.*: G_ema_best0.pth is wanted"):
        read_generator(tmp_path / "file.pth")
    with pytest.raises(ValueError, match=f"must be a ResNet extractor, got {what}.*: swav_800ep_pretrain.pth.tar or"):
        read_extractor(tmp_path / "file.pth")


def test_generator_and_extractor_are_not_taken_for_each_other():
    with pytest.raises(ValueError, match="must be an IC-GAN generator, got a ResNet: G_ema"):
        read_generator(resnet_state())
    with pytest.raises(ValueError, match="must be a ResNet extractor, got a generator: swav"):
        read_extractor(state())


class Payload:
    """Unpickled by the usual means, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path):
    mark = tmp_path / "was run"
    for i, zipped in enumerate((True, False)):
        torch.save(
            state() | {"linear.bias": Payload(mark)}, tmp_path / f"{i}.pth", _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(ValueError, match=r"was refused, nothing in it was run: it holds posix\.mkdir"):
            read_generator(tmp_path / f"{i}.pth")
        with pytest.raises(ValueError, match=r"it holds posix\.mkdir"):
            read_run_metadata(tmp_path / f"{i}.pth")
    np.save(tmp_path / "x.npy", np.array({"instance_features": Payload(mark)}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"was refused, nothing in it was run: it holds posix\.mkdir"):
        read_stored_instances(tmp_path / "x.npy")
    assert not mark.exists()


def test_files_that_are_no_checkpoint(tmp_path):
    torch.save(state(), tmp_path / "whole.pth")
    save_file(state(), tmp_path / "whole.safetensors")
    np.save(tmp_path / "x.npy", np.zeros(3))
    contents = {
        "truncated.pth": ((tmp_path / "whole.pth").read_bytes()[:5000], "is damaged, or no checkpoint of torch"),
        "truncated.safetensors": (
            (tmp_path / "whole.safetensors").read_bytes()[:20000],
            "is a damaged safetensors file",
        ),
        "page.pth": (b"<html>not found</html>", "is damaged, or no checkpoint of torch"),
        "empty.pth": (b"", "is damaged, or no checkpoint of torch"),
        "icgan.tar.gz": (
            gzip.compress(b"x"),
            "is a compressed archive: extract it and give the G_ema_best0.pth inside",
        ),
        "y.npy": (
            (tmp_path / "x.npy").read_bytes(),
            "is a NumPy array .stored instances..*: G_ema_best0.pth is wanted",
        ),
        "stylegan.pkl": (
            b"\x80\x02ctorch_utils.persistence\n_reconstruct\n.",
            "it holds torch_utils.persistence._reconstruct",
        ),
        "list.pth": (io.BytesIO(), "must hold a state dict, got list"),
    }
    torch.save([1, 2], contents["list.pth"][0])
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.getvalue())
        with pytest.raises(ValueError, match=message):
            read_generator(tmp_path / name)


def test_sources_that_are_no_file(tmp_path):
    (tmp_path / "G_ema_best0.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a folder, give a file in it: G_ema_best0\.pth"):
        read_generator(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*absent\.pth"):
        read_generator(tmp_path / "absent.pth")
    with pytest.raises(TypeError, match="source must be a path, a state dict or 'embedded', got int"):
        read_generator(3)


def test_damaged_metadata_of_our_own(tmp_path):
    for own_words in (
        "{",
        json.dumps({"kind": "generator"}),
        json.dumps({"kind": "generator", "config": {"resolution": 31}}),
    ):
        save_file(state(), tmp_path / "x.safetensors", {"dali_icgan": own_words})
        with pytest.raises(ValueError, match="damaged"):
            read_generator(tmp_path / "x.safetensors")


def test_own_files_are_safetensors(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.safetensors, got .*x\.pth"):
        write_checkpoint(tmp_path / "x.pth", read_generator(state()))


def test_tensors_that_share_memory_are_written(tmp_path):
    entries = resnet_state()
    entries["layer1.0.bn1.bias"] = entries["layer1.0.bn1.weight"]
    entries["layer1.0.bn2.weight"] = entries["layer1.0.bn1.running_var"].view(4)
    checkpoint = read_extractor(entries)
    write_checkpoint(tmp_path / "x.safetensors", checkpoint)
    assert read_extractor(tmp_path / "x.safetensors").fingerprint == checkpoint.fingerprint


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"what was there")
    monkeypatch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(path, read_generator(state()))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"what was there"]


# Pickles of the official files.


def test_run_metadata_is_read(tmp_path):
    torch.save(METADATA, tmp_path / "state_dict_best0.pth")
    assert read_run_metadata(tmp_path / "state_dict_best0.pth") == METADATA | {
        "config": {"G_activation": "ReLU", "shape": (1, [2])},
        "best_FID": 8.5,
    }
    torch.save(state(), tmp_path / "G.pth")
    with pytest.raises(ValueError, match=r"must be run metadata .state_dict_best0\.pth., got a generator"):
        read_run_metadata(tmp_path / "G.pth")
    torch.save(METADATA | {"config": torch.nn.Tanh()}, tmp_path / "tanh.pth")
    with pytest.raises(ValueError, match=r"it holds torch\.nn\.modules\.activation\.Tanh"):
        read_run_metadata(tmp_path / "tanh.pth")


def instances(n=5, **change):
    random = np.random.default_rng(0)
    return {
        "instance_features": random.normal(size=(n, 4)),
        "labels": np.arange(n),
        "image_path": [f"n{i}.JPEG" for i in range(n)],
    } | change


@pytest.mark.parametrize("protocol", [2, 3, 4, "NumPy's"])
@pytest.mark.parametrize("features", [np.float64, np.float32, np.dtype(">f4")])
def test_stored_instances_are_read(tmp_path, protocol, features):
    content = instances()
    content["instance_features"] = np.asfortranarray(content["instance_features"].astype(features))
    content["image_path"] = np.array(content["image_path"], dtype=object if protocol == 2 else None)
    array = np.array(content, dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    if protocol != "NumPy's":
        np.lib.format.write_array_header_1_0(
            buffer := io.BytesIO(), {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        # As NumPy before version 2 spelled it.
        buffer.write(pickle.dumps(array, protocol).replace(b"cnumpy._core.", b"cnumpy.core."))
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    stored = read_stored_instances(tmp_path / "x.npy")
    assert torch.equal(stored.features, torch.from_numpy(content["instance_features"].astype(np.float32)))
    assert stored.labels.tolist() == [0, 1, 2, 3, 4]
    assert stored.paths == tuple(f"n{i}.JPEG" for i in range(5))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"must hold one pickled dictionary, got an array of float64 and shape \[3\]"),
        (
            np.array([1], dtype=object)[0:1].reshape(()),
            "must hold a dictionary with instance_features, labels, image_path, got int",
        ),
        (np.array({"labels": 1}, dtype=object), r"must hold a dictionary with .*, got \['labels'\]"),
        (
            np.array(instances(labels=np.arange(4)), dtype=object),
            r"features \[n, d\], n labels and n paths, got \[5, 4\], \[4\], 5",
        ),
        (np.array(instances(labels=["x"] * 5), dtype=object), "must hold numbers as instance_features and labels"),
        (np.array(instances(labels=[10**30] * 5), dtype=object), "must hold numbers as instance_features and labels"),
        (np.array(instances(image_path=["a", ["b", "c"]]), dtype=object), "must hold words as image_path"),
        (np.array(instances(labels=np.zeros(5, "i4,i4")), dtype=object), "it holds NumPy data of type 'V8'"),
    ],
)
def test_other_arrays_are_not_stored_instances(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        read_stored_instances(tmp_path / "x.npy")


def test_a_file_that_is_no_npy(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"must be a \.npy file"):
        read_stored_instances(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"cbuiltins\neval\n.", "builtins.eval, which is not on the allow-list"),
        (b"cnumpy.core.multiarray\nscalar\n(N}S'value'\nI1\nstb.", "it changes _Scalar"),
        (b"cnumpy\nndarray\n}S'value'\nI1\nsb.", "damaged"),
        (b"cnumpy\ndtype\n(S'O'\nt\x81.", "as a value"),
        (b"cnumpy.core.multiarray\nscalar\n(I1\nI2\ntR.", "a NumPy scalar without a type"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntR.", "it rebuilds an array as"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "it encodes something else"),
        (b"cnumpy\ndtype\n(S'f8'\ntR(I3\nS'<'\nI1\nNNtb.", "structured NumPy data"),
        (b"(lp0\n", "damaged"),
    ],
)
def test_the_allow_list_cannot_be_abused(stream, message):
    with pytest.raises(Refused, match=message):
        load(io.BytesIO(stream))


def test_an_array_that_contains_itself_ends():
    loop = np.empty((), dtype=object)
    loop[()] = [loop]
    with pytest.raises(Refused):
        load(io.BytesIO(pickle.dumps(loop, 4)))


def test_array_sizes_are_checked():
    stream = pickle.dumps(np.arange(4, dtype=np.int64), 2).replace(struct.pack("<q", 3), b"")
    with pytest.raises(Refused, match="damaged"):
        load(io.BytesIO(stream))
