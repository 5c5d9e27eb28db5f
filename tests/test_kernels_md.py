"""docs/kernels.md is what the built module's kernels are made of."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("kernels_page", ROOT / "benchmarks" / "kernels.py")
kernels = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = kernels  # dataclasses look there
spec.loader.exec_module(kernels)


def test_the_page_is_up_to_date():
    if kernels.di.build_info()["cuda"] != "built" or kernels.find_cuobjdump() is None or not shutil.which("c++filt"):
        pytest.skip("needs a build with CUDA, cuobjdump and c++filt")
    done = subprocess.run(
        [sys.executable, "benchmarks/kernels.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == kernels.OTHER_COMPILER:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


# Template arguments of the packet path; the tail's three colours are no packet, and the average's one row is not worth it.
PACKETS = [
    ("add_upsampled_cbn_relu", r"(BFloat16|Half), 8, \w+|float, 4, \w+"),
    ("bias_add_relu", "(BFloat16|Half), 8|float, 4"),
    ("depth_to_space_cbn_relu", "(BFloat16|Half), 8|float, 4"),
    ("pool_qkv", "(BFloat16|Half), 8|float, 4"),
]


@pytest.mark.parametrize(("name", "arguments"), PACKETS)
def test_packets_are_loaded_and_stored_whole(name, arguments):
    rows = re.findall(
        rf"^\| {name} \| (?:{arguments}) \|.*\| (\d+) / (\d+) \| (\d+) / (\d+) \|$",
        kernels.PAGE.read_text(),
        re.MULTILINE,
    )
    assert len(rows) >= 3
    for *_, wide_loads, loads, wide_stores, stores in rows:
        assert wide_loads == loads
        assert wide_stores == stores


def test_no_kernel_has_a_stack():
    rows = [
        line.split(" | ") for line in kernels.PAGE.read_text().splitlines() if re.match(r"\| \w+ \| .* / \d+ \|$", line)
    ]
    assert len(rows) > 50
    assert [row[:2] for row in rows if row[4] != "0"] == []
