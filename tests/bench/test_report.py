import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from dali_icgan.bench.report import peers_table, write_report
from dali_icgan.bench.results import read_run
from dali_icgan.cli import app
from tests.bench.runs import MACHINE, OURS, PEERS, RUN, throughput, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("run"))
    done = CliRunner().invoke(app, ["bench", "report", str(path)])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.md").read_text()


def row(text, *begins):
    """The cells of the one row that begins so."""
    found = [line for line in text.splitlines() if line.startswith("| " + " | ".join(begins))]
    assert len(found) == 1, found
    return [cell.strip() for cell in found[0].strip("| ").split("|")]


def section(text, title):
    return text.split(f"\n{title}\n")[1].split("\n##")[0]


def test_rates_are_the_records(text):
    one = section(text, "### 1 core, 224 px, batch 64, stock allocator")
    assert row(one, "DataLoader + PIL") == ["DataLoader + PIL", "**310**", "300 to 320", "1", "1.25", "512", "0.75"]
    assert row(one, "**dali_icgan**")[1:4] == ["**930**", "900 to 990", "3.0 (3.0 to 3.1)"]
    two = section(text, "### 2 cores, 224 px, batch 64, stock allocator")
    assert row(two, "**dali_icgan**")[1:4] == ["**1,470**", "1,400 to 1,500", "3.5 (3.4 to 3.5)"]


def test_who_is_ahead_is_marked(text):
    one = section(text, "### 1 core, 224 px, batch 64, stock allocator")
    assert row(one, "SPDL")[0] == "SPDL ⚠ **ahead of dali_icgan**"
    two = section(text, "### 2 cores, 224 px, batch 64, stock allocator")
    assert row(two, "SPDL")[0] == "SPDL"
    assert (
        "- 1 core, 224 px, batch 64, stock allocator: **930 images/s**, 3.0 (3.0 to 3.1) times DataLoader + PIL; **behind SPDL**"
        in text
    )
    assert "; ahead of every peer (2)" in text


def test_generations_training_and_startup(text):
    made = section(text, "### 1 core, p = 0.5, embedded, features from a bank, 224 px, batch 64, stock allocator")
    assert row(made, "DataLoader + PIL + offline JPEGs")[-1] == "331 images, 12.5 s"
    assert row(made, "DataLoader + PIL + eager generator, every row generated")[1:4] == [
        "**190**",
        "180 to 200",
        "0.73 (0.72 to 0.74)",
    ]
    trained = section(text, "### ResNet-18, 64 px, batch 32, 2 cores")
    assert row(trained, "**dali_icgan**", "0.5")[2:] == ["87", "85 to 88", "**87 %** (85 to 88 %)", "3.1 %", "88 %"]
    assert row(section(text, "### Seconds to the first batch"), "100,000") == ["100,000", "0.11", "0.12"]
    assert row(section(text, "### An image in each stage by itself"), "decode")[-2:] == ["0.8", "0.8"]


def test_what_was_not_measured_is_said(text):
    absent = section(text, "### Not measured")
    assert row(absent, "FFCV")[1] == "No module named 'ffcv'"
    assert row(absent, "timm")[1:] == ["delivers something else: labels differ \\", "all"]
    assert "```sh\ndali-icgan bench --out run\n```" in text
    assert row(section(text, "## Machine"), "processor")[1] == "a processor"


def test_a_part_that_is_not_there_is_left_out(tmp_path):
    write_report(write(tmp_path, [MACHINE, *PEERS, throughput(OURS, [5.0])]))
    text = (tmp_path / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Photographs, p = 0", "Peers", "Machine"]
    assert "times the baseline" in text


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.rows, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.sources += [attrs[name] for name in ("src", "href") if name in attrs]
        self.rows += [attrs["class"]] if tag == "tr" and "class" in attrs else []


def test_the_page_needs_nothing_else(folder):
    page = (folder / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.sources
    assert all(each.startswith("data:image/png;base64,") for each in links.sources)
    assert "url(" not in page
    assert "script" not in links.tags
    assert links.rows.count("ahead") == 1
    assert "ours" in links.rows
    assert 'name="viewport"' in page


def test_the_page_shows_what_the_text_does(folder, text):
    page = (folder / "report.html").read_text()
    assert page.count("<tr") == len(re.findall(r"^\|(?! ?-)", text, re.MULTILINE))
    assert page.count("<img") == text.count("](")
    for number in ("1,470", "3.5 (3.4 to 3.5)", "331 images, 12.5 s", "labels differ | all"):
        assert number in page


def test_pictures_are_pictures(folder, text):
    names = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(names) == len(set(names)) == 6
    for name in names:
        with Image.open(io.BytesIO((folder / name).read_bytes())) as image:
            assert min(image.size) > 200


def test_text_of_others_is_text(tmp_path):
    hostile = {
        **PEERS[2],
        "reason": "<script>alert(1)</script> | [x](http://example.org) ![y](http://example.org/y.png)",
    }
    page = write_report(write(tmp_path, [MACHINE, hostile, throughput(OURS, [5.0])])).read_text()
    assert "<script" not in page
    links = Links()
    links.feed(page)
    assert all(each.startswith("data:") for each in links.sources)


def test_the_table_for_pages(folder):
    table = peers_table(read_run(folder))
    assert row(table, "SPDL") == [
        "SPDL",
        "1,001 ⚠ ahead of dali_icgan",
        "3.2 (3.1 to 3.3)",
        "1,200",
        "2.9 (2.7 to 3.0)",
    ]
    assert row(table, "**dali_icgan**")[1:] == ["930", "3.0 (3.0 to 3.1)", "1,470", "3.5 (3.4 to 3.5)"]
    assert "Not measured: FFCV (No module named 'ffcv')" in table
    with pytest.raises(ValueError, match="must hold rates of peers"):
        peers_table(read_run(write(folder / "other", [MACHINE])))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**RUN[7], "images_per_s": []}, "images_per_s must be a list of positive numbers, one a window, got []"),
        ({**RUN[7], "p": 2}, "p must be a number in [0, 1], got 2"),
        ({**RUN[7], "peak_rss_mb": "much"}, "peak_rss_mb must be a number >= 0 or null, got 'much'"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, line, said):
    write(tmp_path, [MACHINE, line])
    done = CliRunner().invoke(app, ["bench", "report", str(tmp_path)])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_no_run_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be the folder of a run"):
        write_report(tmp_path)
    (tmp_path / "bench.jsonl").write_text("")
    with pytest.raises(ValueError, match='must begin with a line of kind "machine"'):
        write_report(tmp_path)


def test_pages_show_the_newest_run(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import readme

    assert readme.newest_run(tmp_path) is None
    assert readme.readme_block(None) == readme.bench_block(None) == readme.NOTHING
    for name, date, lines in (("a", "2026-03-01", RUN), ("b", "2026-02-01", RUN), ("c", "2026-04-01", RUN[:5])):
        content = [{**MACHINE, "date": date, "commit": name}, *lines[1:]]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    newest = readme.newest_run(tmp_path)
    block = readme.readme_block(newest)
    assert "2026-03-01, commit a;" in block
    assert row(block, "SPDL")[1] == "1,001 ⚠ ahead of dali_icgan"
    made = ["0.5", "embedded", "224", "1 core", "260", "810", "**3.1 (3.0 to 3.2)**"]
    assert row(block, "0.5") == made
    assert row(readme.bench_block(newest), "DataLoader + PIL + offline JPEGs")[-1] == "331 images, 12.5 s"
    page = readme.with_block("before <!-- bench -->\nold\n<!-- /bench --> after", "bench", "new")
    assert page == "before <!-- bench -->\nnew\n<!-- /bench --> after"


def test_runs_put_together_say_all_their_commands(tmp_path):
    other = {**MACHINE, "command": "dali-icgan bench --only startup --out other"}
    lines = [{**MACHINE, "command": "dali-icgan bench --out one"}, *RUN[1:], other]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = write_report(tmp_path).with_suffix(".md").read_text()
    assert "```sh\ndali-icgan bench --out one\ndali-icgan bench --only startup --out other\n```" in said
