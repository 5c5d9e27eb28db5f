"""The page of `dali-icgan preview --html` in a browser: clicked, typed into and looked at."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests import photos
from tests.browser import CHROMIUM, Browser
from tests.cli.test_commands import run
from tests.cli.test_preview_html import EVIL, MODELS, data_of

pytestmark = [
    pytest.mark.dali,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium"),
]


def write(folder, out, *more):
    run("preview", folder, "--html", "-o", out, "--samples", 6, "--size", 48, "--device", "cpu", *MODELS, *more)
    return out


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("page")
    return write(photos.make_folder(scratch / "images", per_class=2), scratch / "preview.html", "--views", 2)


@pytest.fixture(scope="module")
def data(page):
    return data_of(page.read_text("utf-8"))


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(autouse=True)
def _asks_for_nothing_and_complains_of_nothing(tab):
    tab.requests.clear()
    tab.complaints.clear()
    yield
    tab.run("1")  # whatever it still had to say
    assert tab.requests == []
    assert tab.complaints == []


def text(tab, selector):
    return tab.run(f"document.querySelector({json.dumps(selector)}).innerText").strip()


def shown(tab):
    """What a person sees of the state: the controls, and the pictures that come of them."""
    return tab.run(
        """(() => {
          const picked = (name) => Number((document.querySelector(`input[name=${name}]:checked`) || {}).value);
          const source = (id) => document.querySelector(`#${id} img`).getAttribute("src");
          return {
            image: picked("image"), truncation: picked("truncation"), epoch: picked("epoch"), view: picked("view"),
            p: Number(document.getElementById("p-value").textContent), slider: Number(document.getElementById("p").value),
            replaced: document.getElementById("decision").className === "made",
            original: source("original"), whole: source("whole"), seen: source("seen"),
            states: [...document.querySelectorAll("#images .state")].map((e) => e.textContent),
            epochs: [...document.querySelectorAll("#by-epoch .state")].map((e) => e.textContent),
          };
        })()"""
    )


def expect(tab, data, image, p, truncation, epoch, view):
    """The page shows what its data says of a state."""
    state, e, t = shown(tab), data["epochs"].index(epoch), data["truncations"].index(truncation)
    rows = {sample["index"]: sample["views"][view] for sample in data["samples"]}
    words = {True: "generated", False: "photograph"}
    row = rows[image][e]
    hit = row["u"] < p
    assert (state["image"], state["p"], state["truncation"], state["epoch"], state["view"]) == (
        image,
        p,
        truncation,
        epoch,
        view,
    )
    assert state["slider"] == pytest.approx(p, abs=0.0051)
    assert state["replaced"] == hit
    assert state["original"] == next(s for s in data["samples"] if s["index"] == image)["original"]["src"]
    assert state["whole"] == row["made"]["whole"][t]["src"]
    assert state["seen"] == (row["made"]["rows"][t] if hit else row["real"]["row"])
    assert state["states"] == [words[each[e]["u"] < p] for each in rows.values()]
    assert state["epochs"] == [words[each["u"] < p] for each in rows[image]]
    assert text(tab, "#seen .chip") == words[hit]
    assert text(tab, "#seen code") == f"loader.replay({epoch}, {image}{', view=1' if view else ''})"
    taken, other = ("#whole", "#original") if hit else ("#original", "#whole")
    assert text(tab, f"{taken} .chip").startswith("taken: crop of ")
    assert text(tab, f"{other} .chip") == "not taken in this epoch"
    return hit


def test_a_state_is_a_link(tab, page, data):
    index = [sample["index"] for sample in data["samples"]]
    u = data["samples"][1]["views"][1][3]["u"]
    hits = set()
    for image, p, truncation, epoch, view in (
        (index[0], 0.5, 0.7, 0, 0),
        (index[2], 0.35, 1, 4, 0),
        (index[1], u, 0.3, 3, 1),
        (index[1], float(np.nextafter(u, 1)), 0.3, 3, 1),
    ):
        tab.open(page, f"#image={image}&p={p!r}&truncation={truncation}&epoch={epoch}&view={view}")
        hits.add(expect(tab, data, image, p, truncation, epoch, view))
    assert hits == {True, False}
    tab.open(page)
    expect(tab, data, index[0], 0.5, 0.7, 0, 0)
    assert tab.run("document.getElementById('mistakes').hidden")
    tab.run(f"location.hash = '#image={index[1]}&epoch=2'")  # in an open page
    tab.run("new Promise((done) => setTimeout(done, 100))")
    expect(tab, data, index[1], 0.5, 0.7, 2, 0)


def test_a_wrong_link_is_named(tab, page, data):
    tab.open(page, "#image=999&p=1.5&truncation=0.4&epoch=&view=2&crop=1&__proto__=3")
    said = text(tab, "#mistakes")
    for part in (
        "image must be a sample of this page",
        "got 999",
        "p must be in 0 to 1, got 1.5",
        "truncation must be one of 0.3, 0.5, 0.7, 1, got 0.4",
    ):
        assert part in said
    for part in (
        "epoch must be one of 0, 1, 2, 3, 4, got",
        "view must be below 2, got 2",
        "crop is nothing that can be picked",
        "__proto__ is nothing",
    ):
        assert part in said
    expect(tab, data, data["samples"][0]["index"], 0.5, 0.7, 0, 0)


def test_mouse_and_keys_pick(tab, page, data):
    index = [sample["index"] for sample in data["samples"]]
    tab.look(1000, 900)
    tab.open(page)
    tab.click("#images .thumb:nth-child(2) .shot")
    expect(tab, data, index[1], 0.5, 0.7, 0, 0)
    tab.press("ArrowRight")
    expect(tab, data, index[2], 0.5, 0.7, 0, 0)
    tab.press("Tab")  # the slider
    for key, p in (("ArrowRight", 0.51), ("Home", 0), ("ArrowUp", 0.01), ("End", 1), ("ArrowLeft", 0.99)):
        tab.press(key)
        expect(tab, data, index[2], p, 0.7, 0, 0)
    tab.press("Tab", "ArrowRight")
    expect(tab, data, index[2], 0.99, 1, 0, 0)
    tab.press("Tab", "ArrowRight", "ArrowRight")
    expect(tab, data, index[2], 0.99, 1, 2, 0)
    tab.press("Tab", "ArrowRight")
    expect(tab, data, index[2], 0.5, 1, 2, 1)  # a view begins with its own p
    tab.press("Tab", "Enter")  # the first of the strips
    expect(tab, data, index[2], 0.5, 1, 0, 1)
    tab.click("#by-truncation .thumb:nth-child(2)")
    expect(tab, data, index[2], 0.5, 0.5, 0, 1)
    tab.click("#by-noise .thumb:nth-child(4)")
    tab.click("#truncation label:nth-child(1)")
    expect(tab, data, index[2], 0.5, 0.3, 3, 1)
    tab.run("new Promise((done) => setTimeout(done, 300))")
    link = tab.run("location.hash")
    assert link == f"#image={index[2]}&p=0.5&truncation=0.3&epoch=3&view=1"
    tab.open(page, link)
    expect(tab, data, index[2], 0.5, 0.3, 3, 1)


def test_the_box_lies_where_the_crop_is(tab, page, data):
    tab.look(1000, 900)
    for p, figure in ((0, "original"), (1, "whole")):
        for sample in data["samples"]:
            tab.open(page, f"#image={sample['index']}&p={p}&epoch=1")
            row = sample["views"][0][1]
            kind, picture = (row["made"], row["made"]["whole"][2]) if p else (row["real"], sample["original"])
            frame, box = (
                tab.run(
                    f"(({{x, y, width, height}}) => [x, y, width, height])(document.querySelector('#{figure} {inner}').getBoundingClientRect())"
                )
                for inner in (".frame", ".box")
            )
            top, left, height, width = kind["box"]
            scale = frame[2] / picture["width"]
            assert frame[3] == pytest.approx(picture["height"] * scale, abs=0.5)  # not distorted
            assert max(frame[2:]) > 250
            assert box == pytest.approx(
                [frame[0] + left * scale, frame[1] + top * scale, width * scale, height * scale], abs=0.5
            )


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_it_is_a_picture_on_a_desk_on_a_phone_and_in_the_dark(tab, page):
    tab.open(page, "#p=0")
    light = pixels(tab.look(1200, 900))
    assert light.std() > 20
    assert len(np.unique(light @ [1, 256, 65536])) > 1000
    tab.open(page, "#p=1&epoch=4")
    other = pixels(tab.look(1200, 900))
    assert (np.abs(light - other).max(-1) > 16).mean() > 0.02
    dark = pixels(tab.look(1200, 900, dark=True))
    assert light[0, 0].min() > 240
    assert dark[0, 0].max() < 40
    for width in (320, 390, 760, 1200):
        tab.look(width, 800)
        assert tab.run("document.documentElement.scrollWidth") == width, "it does not fit"


def test_names_are_text_and_nothing_else(tab, tmp_path):
    root = tmp_path / "<img src=x onerror=alert(1)>"
    for name in EVIL[:2]:
        (root / name).mkdir(parents=True)
        (root / name / f"{EVIL[0]}.jpg").write_bytes(photos.jpeg(photos.patch("coffee", 1)))
    tab.open(write(root, tmp_path / "page.html"))
    assert text(tab, "h1") == f"{root.name}: what training sees"
    assert sorted(tab.run("[...document.querySelectorAll('#images .name')].map((e) => e.textContent)")) == sorted(
        EVIL[:2]
    )
    assert f"{EVIL[0]}.jpg" in text(tab, "#original .words")
    assert tab.run("document.querySelectorAll('[onerror]').length") == 0


def test_what_is_not_its_own_is_not_run(tab, page, tmp_path):
    # The policy of the page, on something that came into it all the same.
    changed = tmp_path / "page.html"
    more = "<script>document.title = 'run'</script><img src=nowhere.png onerror=\"document.title = 'run'\">"
    changed.write_text(page.read_text("utf-8").replace("</body>", f"{more}</body>"))
    tab.open(changed)
    assert tab.run("document.title") == "images: what training sees"
    assert any("Content Security Policy" in said for said in tab.complaints)
    tab.complaints.clear()
    assert [url for url in tab.requests if not url.endswith("nowhere.png")] == []
    tab.requests.clear()  # asked for, and refused before it was read
