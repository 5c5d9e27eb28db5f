"""Run by the Python of an environment into which the wheel was installed:  python smoke.py FOLDER before|after torch

Uses what a login node has, and says what it saw as one JSON object: the import does not touch the driver, the embedded pair
generates, a loader reads JPEGs, any row comes again. FOLDER is an empty folder for the images.
"""

import importlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path


def mapped(*names: str) -> list[str]:
    """Which of these libraries the process has."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split()[-1] for line in lines}
    return sorted(path for path in paths if Path(path).name.startswith(names))


def main(folder: Path, order: str) -> dict[str, object]:
    if order == "after torch":
        import torch
    module = importlib.import_module("dali_icgan._C")
    if order == "before torch":
        assert "torch" not in sys.modules
        assert mapped("libcuda.", "libcudart.", "libtorch", "libc10", "libstdc++.") == []
        import torch
    import numpy as np
    from PIL import Image

    import dali_icgan as di

    assert mapped("libcuda.") == [] or torch.cuda.is_available()
    assert not torch.cuda.is_initialized(), "the import must not make a CUDA context"
    try:
        module.TensorRef("no address")  # an exception crosses from our C++ into Python
    except TypeError:
        pass
    else:
        raise AssertionError("a bad argument must be a TypeError")

    generator = di.load_generator("embedded", device="cpu")
    augment = di.DAICGAN(generator=generator, extractor=di.load_extractor("embedded", device="cpu"), p=0.5)
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, (3, 4, 3), np.uint8)
        path = folder / f"class{i % 3}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).save(path, quality=90)
    loader = di.DataLoader(
        folder,
        batch_size=4,
        shuffle=True,
        augment=augment,
        transform=di.TrainTransform(64),
        device="cpu",
        seed=7,
        return_info=True,
    )
    rows = replaced = 0
    for images, labels, info in loader:
        assert images.shape == (4, 3, 64, 64)
        assert bool(images.isfinite().all())
        again, label = loader.replay(0, int(info["index"][0]))
        assert torch.equal(again, images[0])
        assert int(label) == int(labels[0])
        rows, replaced = rows + len(images), replaced + int(np.sum(np.asarray(info["replaced"])))
    assert rows == 12
    assert 0 < replaced < 12
    packages = {str(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    dali = [f"{name} {version}" for name, version in packages.items() if name.startswith("nvidia-dali")]
    return {
        "import": order,
        "python": platform.python_version(),
        "glibc": platform.libc_ver()[1],
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "dali": dali[0],
        "build": di.build_info(),
        "rows": rows,
        "replaced": replaced,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), " ".join(sys.argv[2:]))))
