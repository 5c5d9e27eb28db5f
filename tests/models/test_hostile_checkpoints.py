"""Files that would run something, or that say they hold more than they do."""

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dali_icgan.models.checkpoint import read_checkpoint, read_extractor, read_generator, read_stored_instances
from dali_icgan.models.inert_pickle import Refused, load
from dali_icgan.models.resnet import ResNet, ResNetConfig
from dali_icgan.training.state import load_state

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what it then refuses
NARROW = ResNetConfig("basic", (1, 1), 4)


def narrow():
    torch.manual_seed(0)
    return ResNet(NARROW).state_dict()


class Gadget:
    """Unpickled by Python's own machine, it calls ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(witness):
    """Objects and pickles that make a file called ``witness`` where they are obeyed."""
    touch = f"touch {witness}"
    code = f"__import__('os').system({touch!r})"
    word = os.fsencode(touch)
    return {
        "os.system": pickle.dumps(Gadget(os.system, touch)),
        "eval": pickle.dumps(Gadget(eval, code)),
        "exec": pickle.dumps({"layer1.0.conv1.weight": Gadget(exec, code)}),
        "subprocess": pickle.dumps(Gadget(subprocess.check_call, ("touch", str(witness)))),
        "as state": pickle.dumps([Gadget(map, Gadget(getattr, Gadget(__import__, "os"), "system"), [touch])]),
        "protocol 0": pickle.dumps(Gadget(os.system, touch), 0),
        "INST": b"(S'" + word + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + word + b"'\no.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(word)]) + word + b"\x85R.",
        "put aside and called": b"cos\nsystem\nq\x000S'" + word + b"'\nq\x010h\x00h\x01\x85R.",
        "memo far away": b"cos\nsystem\nr\x00\x00\x00\x020S'" + word + b"'\nq\x010j\x00\x00\x00\x02h\x01\x85R.",
        "through a dotted name": b"\x80\x04\x8c\x05torch\x8c\tos.system\x93\x8c"
        + bytes([len(word)])
        + word
        + b"\x85R.",
        "through torch's rebuilding": pickle.dumps(
            Gadget(
                torch._utils._rebuild_wrapper_subclass,
                os.system,
                torch.float32,
                (1,),
                (1,),
                0,
                torch.strided,
                "cpu",
                False,
            )
        ),
        "through numpy": pickle.dumps(Gadget(np.load, str(witness), None, True))
        + pickle.dumps(Gadget(os.system, touch)),
        "an extension code": b"\x80\x02\x82\x01S'" + word + b"'\n\x85R.",
    }


NAMES = sorted(gadgets("x"))


def archive(pickled, **more):
    """As torch.save writes it."""
    stream = io.BytesIO()
    torch.save(narrow(), stream)
    source, out = zipfile.ZipFile(stream), io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("/data.pkl") else source.read(name))
        for name, data in more.items():
            target.writestr(name, data)
    return out.getvalue()


def older(pickled):
    """torch.save before 1.6: three pickles of torch's own, then this one."""
    stream = io.BytesIO()
    torch.save({}, stream, _use_new_zipfile_serialization=False)
    stream.seek(0)
    heads = []
    for _ in range(3):
        begin = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        heads.append(stream.getvalue()[begin : stream.tell()])
    return b"".join(heads) + pickled + pickle.dumps([])


def oldest(pickled):
    """torch.save before 0.1.10: a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            data = pickled if name == "pickle" else pickle.dumps({})
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def inside_another(pickled):
    """An archive whose pickle is an archive."""
    return archive(archive(pickled))


FORMATS = {
    "archive": archive,
    "older": older,
    "tar": oldest,
    "bare": lambda pickled: pickled,
    "nested": inside_another,
    "with code": lambda pickled: archive(
        pickled, **{"archive/constants.pkl": pickled, "archive/code/__torch__.py": b"import os"}
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_in_a_checkpoint_is_run(tmp_path, form, name):
    witness = tmp_path / "witness"
    path = tmp_path / "x.pth"
    path.write_bytes(FORMATS[form](gadgets(witness)[name]))
    for read in (read_generator, read_extractor, read_checkpoint, load_state):
        with pytest.raises(ValueError, match=r"x\.pth"):
            read(path)
    assert not witness.exists()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_stored_instances_is_run(tmp_path, name):
    witness = tmp_path / "witness"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "x.npy").write_bytes(stream.getvalue() + gadgets(witness)[name])
    with pytest.raises(ValueError, match=r"x\.npy"):
        read_stored_instances(tmp_path / "x.npy")
    with pytest.raises(Refused):
        load(io.BytesIO(gadgets(witness)[name]))
    assert not witness.exists()


def test_the_gadgets_work_where_they_are_obeyed(tmp_path):
    """Else the tests above would say nothing."""
    for name in (
        "os.system",
        "eval",
        "INST",
        "OBJ",
        "STACK_GLOBAL",
        "put aside and called",
        "memo far away",
        "through a dotted name",
    ):
        witness = tmp_path / name.replace(" ", "")
        pickle.loads(gadgets(witness)[name])
        assert witness.exists(), name


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.zeros(1).expand(10**6, 10**6),
            r"must hold its tensors' numbers, got \[1000000, 1000000\] .* as conv1\.weight",
        ),
        (torch.zeros(4, 4).to_sparse(), r"must hold dense tensors, got another kind as conv1\.weight"),
        (torch.empty(10**9, device="meta"), "must hold dense tensors"),
    ],
)
def test_tensors_that_are_not_in_the_file(tmp_path, tensor, message):
    torch.save({"state_dict": narrow() | {"conv1.weight": tensor}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        read_extractor(tmp_path / "x.pth")


def test_a_compressed_archive_may_be_any_size_once_it_is_read(tmp_path):
    stream, path = io.BytesIO(), tmp_path / "x.pth"
    torch.save({"conv1.weight": torch.zeros(1 << 20)}, stream)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target, zipfile.ZipFile(stream) as source:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(
        ValueError, match=r"x\.pth must be uncompressed, as torch writes it, got \d+ bytes in a file of \d+"
    ):
        read_extractor(path)


@pytest.mark.parametrize(
    "name",
    [
        "layer1.999999999.conv1.weight",
        "layer999999999.0.conv1.weight",
        "layer1.2.conv1.weight",
        "layer4.0.conv1.weight",
    ],
)
def test_blocks_follow_one_another(name):
    with pytest.raises(ValueError, match="blocks must follow one another, got gaps in layer"):
        read_extractor(narrow() | {name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([1], "damaged metadata"),
        ("text", "damaged metadata"),
        ({"config": {}, "trained": 1}, "damaged metadata"),
        ({"config": {}, "notice": ["x"]}, "damaged metadata"),
        ({"config": {"width": 4.0}}, "width must be an integer in 1..1048576, got 4.0"),
        ({"config": {"width": 10**9}}, "width must be an integer in 1..1048576, got 1000000000"),
        ({"config": {"depths": [10**9]}}, "more blocks than tensors, 1000000000"),
        ({"config": {"depths": [1] * 60}}, "depths must be 1 to 8 positive numbers"),
        ({"config": {"depths": [True]}}, "depths must be 1 to 8 positive numbers"),
        ({"config": {"stem_pool": 1}}, "stem_pool must be True or False, got 1"),
        ({"config": {"input_size": 16384}}, "input_size must be at most 4096, got 16384"),
    ],
)
def test_what_a_file_of_ours_says_of_itself_is_checked(tmp_path, own, message):
    save_file(narrow(), tmp_path / "x.safetensors", {"dali_icgan": json.dumps(own)})
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{message}"):
        read_extractor(tmp_path / "x.safetensors")


def test_metadata_nested_too_deep(tmp_path):
    save_file(narrow(), tmp_path / "x.safetensors", {"dali_icgan": "[" * 100_000})
    with pytest.raises(ValueError, match=r"x\.safetensors is a damaged safetensors file"):
        read_extractor(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        "__import__('os').system('true')",
        "[" * 3000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
        "{'descr': (",
    ],
)
def test_headers_of_numpy_files(tmp_path, header):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    with pytest.raises(ValueError, match=r"x\.npy must be a \.npy file, and its header is not one"):
        read_stored_instances(tmp_path / "x.npy")
