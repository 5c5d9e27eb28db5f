"""Checkpoints of torch.save, in its archive and in its older format: ``load_generator``, ``load_extractor``, ``convert``, run metadata."""

import io
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dali_icgan.models.generator import GeneratorConfig, ICGenerator
from dali_icgan.models.resnet import ResNet, ResNetConfig
from tests.fuzz.models import check_model
from tests.fuzz.mutate import Random, change_bytes, change_tree

MUTANTS = 20_000
NAMED = "mutant.pth"
TOKENS = (
    *(
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"ctorch\nload\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
    ),
    *(
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._utils\n_rebuild_sparse_tensor\n",
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
    ),
    *(
        b"ctorch\nFloatStorage\n",
        b"ctorch\nDoubleStorage\n",
        b"ctorch\nQInt8Storage\n",
        b"ccollections\nOrderedDict\n",
        b"ccollections\nCounter\n",
    ),
    *(b"cnumpy._core.multiarray\nscalar\n", b"ctorch.nn.modules.activation\nReLU\n", b"cdali_icgan\nload_generator\n"),
    *(
        b"(",
        b".",
        b"0",
        b"2",
        b"R",
        b"b",
        b"o",
        b"i",
        b"\x81",
        b"\x92",
        b"\x93",
        b"Q",
        b"P",
        b"h\x00",
        b"j\xff\xff\xff\xff",
        b"r\x00\x00\x00\x40",
    ),
    *(
        b"q\x00",
        b"a",
        b"e",
        b"s",
        b"u",
        b"d",
        b"l",
        b"t",
        b"}",
        b"]",
        b")",
        b"N",
        b"\x80\x02",
        b"\x80\x05",
        b"\x8a\xff",
        b"\x95" + b"\xff" * 8,
    ),
    *(
        b"J\xff\xff\xff\x7f",
        b"K\x04",
        b"K\x00",
        b"\x88",
        b"\x89",
        b"X\xff\xff\xff\x7f",
        b"X\x01\x00\x00\x000",
        b"cuda:0",
        b"meta",
        b"PK\x03\x04",
    ),
)


def small_generator() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    config = GeneratorConfig(
        resolution=32, channels=2, z_chunk=3, feature_dim=5, shared_dim_feat=4, n_classes=2, shared_dim=7
    )
    return ICGenerator(config).state_dict()


def small_extractor() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ResNet(ResNetConfig("basic", (1, 1), 4)).state_dict()


@cache
def _trees() -> list[Any]:
    metadata = {
        "itr": 5,
        "best_FID": 8.5,
        "best_IS": 1.0,
        "save_best_num": 0,
        "config": {"G_activation": torch.nn.ReLU(), "shape": [1, 2]},
    }
    return [small_generator(), {"state_dict": small_extractor(), "epoch": 3}, metadata]


def saved(value: Any, older: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not older)
    return stream.getvalue()


@cache
def _seeds() -> list[bytes]:
    return [data for tree in _trees() for data in (saved(tree), saved(_without_activation(tree), older=True))]


def _without_activation(tree: Any) -> Any:
    # In the older format a module comes with its source text.
    return tree | {"config": {"shape": [1, 2]}} if "config" in tree else tree


def seeds() -> list[bytes]:
    return _seeds()


def warm() -> list[bytes]:
    """A file that calls a tensor: torch imports much of itself to find that it is no function."""
    source, out = zipfile.ZipFile(io.BytesIO(saved(torch.zeros(1)))), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, content[:-1] + b")R." if name.endswith("data.pkl") else content)
    return [out.getvalue()]


def mutant(random: Random) -> bytes:
    how = random.randrange(10)
    if how < 2:
        return change_bytes(random, random.choice(_seeds()), _seeds(), TOKENS)
    if how < 5:
        return other_archive(random, _seeds()[2 * random.randrange(len(_trees()))])
    if how < 8:
        data = _seeds()[1 + 2 * random.randrange(len(_trees()))]  # the pickles of the older format come first
        return change_bytes(random, data[:6000], _seeds(), TOKENS) + data[6000:]
    tree = dict(random.choice(_trees()))
    return saved(change_tree(random, tree, hostile_tensors(random)), random.random() < 0.3)


@cache
def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will do without them
        return torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8)


def hostile_tensors(random: Random) -> tuple[Any, ...]:
    """Tensors that no honest file has, or has elsewhere."""
    size = random.choice((0, 1, 3, 8))
    return (
        *(
            torch.zeros(size),
            torch.full((size, 8), float("nan")),
            torch.zeros(()),
            torch.zeros(8, 8, dtype=torch.int64),
        ),
        *(
            torch.zeros(1).expand(10**6, 10**6),
            torch.zeros(8, 8).t(),
            torch.zeros(16)[::2],
            torch.zeros(4, dtype=torch.complex64),
        ),
        *(
            torch.zeros(8, 8).to_sparse(),
            torch.empty(10**9, device="meta"),
            torch.zeros(8, dtype=torch.bool),
            torch.zeros(8).double(),
        ),
        *(
            _quantised(),
            torch.zeros(8, 8).half(),
            torch.zeros(8).bfloat16(),
        ),
        *(
            "layer1.999999999.conv1.weight",
            "layer999999999.0.conv1.weight",
            "blocks.999999999.0.bn1.gain.weight",
            "module.",
            "layer1.0.",
        ),
        *("blocks.0.1.gamma", "state_dict_best", "feat_model", "state", "param_groups", {"state_dict": {}}, {1: 2}),
    )


def other_archive(random: Random, data: bytes) -> bytes:
    """An archive with a changed entry, or compressed, with entries lost, doubled or renamed."""
    out, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(data))
    names = source.namelist()
    at = random.choice([name for name in names if name.endswith("data.pkl")] if random.random() < 0.7 else names)
    compression = zipfile.ZIP_DEFLATED if random.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name in names:
            content = source.read(name)
            if name == at:
                how = random.randrange(12)
                if how == 0:
                    continue
                name = f"{name}{random.choice(('', '/', '0', '../../x'))}" if how == 1 else name
                content = (
                    bytes(random.choice((0, 1, 10**6)))
                    if how == 2
                    else change_bytes(random, content, (content,), TOKENS)
                )
            archive.writestr(name, content)
    return out.getvalue()


def check(data: bytes, folder: Path) -> str:
    path = folder / NAMED
    path.write_bytes(data)
    return check_model(path, folder)
