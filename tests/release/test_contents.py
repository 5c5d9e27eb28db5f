"""A wheel that a cluster node could not use is refused, with the reason."""

import json
import zipfile

import pytest

from release import record
from release.contents import contents, faults

FLOOR = (2, 28)
GOOD = {
    "wheel": "dali_icgan-0.1.0-cp311-cp311-manylinux_2_26_x86_64.manylinux_2_28_x86_64.whl",
    "tag": "manylinux_2_26_x86_64.manylinux_2_28_x86_64",
    "bytes": 4_600_000,
    "members": [
        "dali_icgan/__init__.py",
        "dali_icgan/_C.cpython-311-x86_64-linux-gnu.so",
        "dali_icgan/embedded/extractor.safetensors",
        "dali_icgan/embedded/generator.safetensors",
        "dali_icgan/engine/forms.json",
        "dali_icgan/py.typed",
        "dali_icgan-0.1.0.dist-info/METADATA",
    ],
    "modules": {"dali_icgan/_C.cpython-311-x86_64-linux-gnu.so": 7_700_000},
    "model_bytes": 1_800_000,
    "needs": ["ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"],
    "glibc": "2.25",
    "exports": ["PyInit__C"],
    "unversioned": [],
    "gpu_code": ["PTX", "sm_80", "sm_90"],
}


def test_a_good_one():
    assert faults(GOOD, FLOOR) == []
    assert faults({**GOOD, "gpu_code": None}, FLOOR) == []  # nobody looked


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"modules": {}}, "one compiled module"),
        ({"modules": {"dali_icgan/_C.so": 1, "dali_icgan.libs/libgomp.so.1": 1}}, "one compiled module"),
        ({"needs": ["libc.so.6", "libstdc++.so.6", "libcuda.so.1"]}, "it needs libstdc++.so.6, libcuda.so.1"),
        ({"glibc": "2.34"}, "must run on glibc 2.28, it asks for 2.34"),
        ({"unversioned": ["arc4random"]}, "glibc 2.28 does not have arc4random"),
        ({"exports": ["PyInit__C", "malloc"]}, "must export PyInit__C alone, got PyInit__C, malloc"),
        ({"tag": "linux_x86_64"}, "the tag must be manylinux_2_28_x86_64 or lower, got linux_x86_64"),
        ({"tag": "manylinux_2_31_x86_64"}, "the tag must be manylinux_2_28_x86_64 or lower, got manylinux_2_31_x86_64"),
        ({"tag": "manylinux_2_24_x86_64"}, "must cover glibc 2.25"),
        ({"bytes": 8_000_001}, "must stay under 8 MB, it has 8.0"),
        ({"members": ["dali_icgan/__init__.py"]}, "must hold dali_icgan/py.typed"),
        ({"members": [*GOOD["members"], "tests/__init__.py"]}, "the package alone, it has tests/__init__.py"),
        ({"gpu_code": ["sm_80", "PTX"]}, "code for sm_80, sm_90, PTX, got sm_80, PTX"),
        ({"gpu_code": []}, "got none"),
    ],
)
def test_each_fault_is_named(change, fault):
    (found,) = faults({**GOOD, **change}, FLOOR)
    assert fault in found


def test_facts_of_a_wheel(tmp_path):
    from tests.test_build import BUILT

    wheel = tmp_path / "dali_icgan-0.1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(BUILT, "dali_icgan/_C.cpython-311-x86_64-linux-gnu.so")
        archive.writestr("dali_icgan/embedded/generator.safetensors", b"1234")
    facts = contents(wheel)
    assert facts["exports"] == ["PyInit__C"]
    assert facts["tag"] == "linux_x86_64"
    assert facts["model_bytes"] == 4
    assert "libc.so.6" in facts["needs"]
    assert facts["gpu_code"] is None
    assert {"members", "modules", "glibc", "unversioned", "bytes", "wheel"} <= set(facts)


LINE = {**GOOD, "sha256": "a", "date": "2030-01-02T03:04:05", "compiler": "g++ 12", "cuda": "12.4", "commit": "abc"}


def written(tmp_path, *lines):
    path = tmp_path / "wheels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_table_is_of_the_newest_wheel(tmp_path):
    trial = {"kind": "trial", "sha256": "b", "extras": "cu12", "torch": "2.9.1", "dali": "dali 2", "python": "3.11.7"}
    trial |= {"glibc": "2.36", "offline": False, "imports": ["before torch", "after torch"]}
    house = {"kind": "wheelhouse", "sha256": "b", "extras": "cu13", "wheels": 60, "bytes": 3_000_000_000}
    path = written(
        tmp_path,
        {"kind": "wheel", **LINE},
        {**trial, "sha256": "a", "torch": "2.8.0"},
        {"kind": "wheel", **LINE, "sha256": "b", "commit": "def"},
        {**trial, "dali": "dali 1"},
        trial,
        {**house, "constraints": []},
    )
    table = record.table(record.newest(path))
    assert "commit def" in table
    assert "2.8.0" not in table
    assert "dali 1" not in table
    assert "| installed with torch 2.9.1 | extras `cu12`, dali 2," in table
    assert "60 wheels, 3.00 GB" in table
    assert record.table(record.newest(tmp_path / "nothing.jsonl")) == "No wheel was recorded yet."


def test_a_page_holds_one_table(tmp_path):
    page, results = tmp_path / "page.md", written(tmp_path, {"kind": "wheel", **LINE})
    page.write_text("a\n<!-- wheels -->\nold\n<!-- /wheels -->\nb\n")
    text = record.page(page, results)
    assert "old" not in text
    assert text.startswith("a\n<!-- wheels -->\n| what | seen |")
    page.write_text(text)
    assert record.page(page, results) == text
    page.write_text("none")
    with pytest.raises(ValueError, match=r"must hold one <!-- wheels -->"):
        record.page(page, results)


def test_the_table_of_the_page_is_the_records():
    assert record.page() == record.PAGE.read_text(), "run python -m release page"


def test_records_name_no_folder_of_anybodys():
    text = record.RESULTS.read_text()
    assert not any(name in text for name in ("/home/", "/root/", "/tmp/", "/work/", "http"))
    assert {json.loads(line)["kind"] for line in text.splitlines()} == {"wheel", "trial", "wheelhouse"}
