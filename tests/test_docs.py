"""The pages: the site builds without a warning, links lead somewhere, commands are the program's, and every block of code is run."""

import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import typer.main
import yaml
from markdown_it import MarkdownIt

import dali_icgan as di
from dali_icgan.cli import app
from dali_icgan.training.run import Training
from tests.pages import HERE, PAGES, PLAIN, READ_ONLY, ROOT, RUN_BY, SHELL, Block, blocks, everything, prose
from tests.photos import make_folder
from tests.untrained import FOLDER

# ---------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, built; mkdocs.yml makes a warning of a page outside the nav, a missing link and a missing anchor."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Counts(HTMLParser):
    """How often each element occurs, and what is loaded from elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.of: dict[str, int] = {}
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.of[tag] = self.of.get(tag, 0) + 1
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address and re.match(r"(https?:)?//", address):
            self.loads.append(address)


def test_the_site_is_built_and_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "loader.html", "api.html", "performance.html"} <= {page.name for page in pages}
    loads = {page.name: Counts(page.read_text()).loads for page in pages}
    assert {name: found for name, found in loads.items() if found} == {}
    assert not list(site.rglob("*.py"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") and "/api" not in page])
def test_a_page_reads_alike_on_github_and_on_the_site(site, page):
    """A list or a table that only one of the two Markdowns takes for one shows as text with the other."""
    on_github = Counts(MarkdownIt("commonmark").enable("table").render(PAGES[page].read_text())).of
    html = (site / Path(page).with_suffix(".html").name).read_text()
    on_site = Counts(re.search(r"<article.*?</article>", html, re.DOTALL)[0]).of
    for element in ("h1", "h2", "h3", "table", "tr", "ul", "ol", "li", "pre", "img", "strong"):
        there = on_site.get(element, 0)
        assert there == on_github.get(element, 0), element


def test_everything_public_is_on_the_api_page(site):
    html = (site / "api.html").read_text()
    names = [name for name in di.__all__ if name != "fn"] + ["fn.icgan_augment"]
    assert [name for name in names if f'id="dali_icgan.{name}"' not in html] == []
    for page in ("api.html", "api-more.html"):
        assert not re.search(r":(class|func|meth|attr):", (site / page).read_text()), page  # roles are another markup's


def test_docstrings_become_what_the_parser_knows():
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    docstrings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docstrings)
    given = """Sees :class:`DataLoader` and :meth:`open`.

    Args:
        a, b, c,
            d (of another): what
            they are.
        e: alone.

    Source: someone,
        somewhere.
    Stream: none."""
    assert docstrings.readable(inspect.cleandoc(given)).splitlines() == [
        "Sees [`DataLoader`][dali_icgan.DataLoader] and `open`.",
        "",
        "Args:",
        *(f"    {name}: what they are." for name in "abc"),
        "    d: (of another) what they are.",
        "    e: alone.",
        "",
        "",
        "**Source**: someone,",
        "somewhere.",
        "",
        "**Stream**: none.",
    ]


# ---------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (PAGES[page].parent / file) if file else PAGES[page]
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# ---------------------------------------------------------------------- commands

TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
(_OPTIONAL,) = re.findall(
    r"^\[project\.optional-dependencies\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
)
EXTRAS = set(re.findall(r"^(\w+) = \[", _OPTIONAL, re.MULTILINE))


def faults(line: str) -> list[str]:
    """What is wrong with a line of shell, or with a command in a sentence."""
    found = []
    for part in re.split(r"\||&&|;|\$\(", line):
        command = re.search(r"(?:\bdali-icgan|-m dali_icgan(?:\.cli)?)(?= |$)(.*)", part)
        if command:
            if "-m dali_icgan " in part:
                found.append("python -m dali_icgan: it is python -m dali_icgan.cli")
            found += option_faults(shlex.split(command[1], comments=True))
        for script in re.findall(r"\bpython3? ((?:benchmarks|examples|docs)/\S+\.py)", part):
            found += [f"no {script}"] * (not (ROOT / script).exists())
        for module in re.findall(r"-m ((?:tests|release)[\w.]*)", part):
            folder = ROOT / module.replace(".", "/")
            found += [f"no {module}"] * (not (folder.is_dir() or folder.with_suffix(".py").exists()))
        for target in re.findall(r"(?:^|`| )make ([a-z][\w-]*)", part):
            found += [f"no target {target}"] * (target not in TARGETS)
        for extras in re.findall(r"(?:\.|dali-icgan)\[([\w,]+)\]", part):
            found += [f"no extra {extra}" for extra in extras.split(",") if extra not in EXTRAS]
    return found


def option_faults(words: list[str]) -> list[str]:
    """What the command line's parser would refuse; a placeholder (``...``, COMMAND) ends what is read."""
    command = typer.main.get_command(app)
    path = "dali-icgan"
    while hasattr(command, "commands"):
        while words and words[0] in ("--help", "--debug", "--version"):
            words = words[1:]
        if not words or not re.match(r"[a-z]", words[0]):
            return []
        several = words[0].split("|")
        if strange := [name for name in several if name not in command.commands]:
            return [f"{path} has no command {strange[0]}"]
        path, command, words = f"{path} {words[0]}", command.commands[several[0]], words[1:]
    words = [word for word in words if word not in ("...", "…")]
    try:
        command.make_parser(command.context_class(command, info_name=path)).parse_args(words)
    except Exception as error:  # the parser's own kinds, whichever package they come from
        return [f"{path}: {getattr(error, 'message', error)}"]
    return []


@pytest.mark.parametrize("block", [each for each in everything() if each.language in SHELL], ids=str)
def test_shell_is_shell_and_its_commands_are_there(block):
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = block.text.replace("\\\n", " ").splitlines()
    assert [fault for line in lines for fault in faults(line)] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_are_there(page):
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))
    commands = [span for span in spans if re.match(r"dali-icgan |make |torchrun |python |pip ", span)]
    assert {command: fault for command in commands if (fault := faults(command))} == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dali-icgan preview FOLDER --samplse 3", "No such option: --samplse"),
        ("dali-icgan show FOLDER", "has no command show"),
        ("torchrun -m dali_icgan recipe resnet", "dali_icgan.cli"),
        ("python benchmarks/loaders.py --p 0", "no benchmarks/loaders.py"),
        ("make everything", "no target everything"),
        ("pip install '.[cu13,all]'", "no extra all"),
    ],
)
def test_a_wrong_command_is_seen(line, said):
    (fault,) = faults(line)
    assert said in fault
    assert faults("dali-icgan preview FOLDER --samples 3 | cat; make test; pip install '.[cu13,knn]'") == []


# ---------------------------------------------------------------------- who runs what


def test_every_block_has_someone_who_runs_it():
    there = {(block.page, block.language) for block in everything() if block.language not in PLAIN}
    shell = {key for key in there if key[1] in SHELL}
    assert there - shell - set(RUN_BY) == set()
    assert {page for page, language in shell if (page, language) not in RUN_BY} == set(READ_ONLY)
    assert set(RUN_BY) <= there
    for (page, _), test in RUN_BY.items():
        assert test == HERE or Path(page).name in (ROOT / test).read_text(), test
    assert {page for page, _ in there if RUN_BY.get((page, "python")) == HERE} == {*STAND_INS, "docs/index.md"}


# ---------------------------------------------------------------------- Python

# What a page's blocks have that the test has not: text to take instead, so that a block is quick and needs no file of anybody's.
STAND_INS = {
    "README.md": {"batch_size=256": "batch_size=8", "range(90)": "range(1)"},
    "docs/loader.md": {"batch_size=256": "batch_size=8", "range(90)": "range(1)"},
    "docs/quickstart.md": {"batch_size=64": "batch_size=8"},
    "docs/recipes.md": {},
    "docs/training.md": {},
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def names(photographs, tmp_path, monkeypatch):
    """What the blocks refer to without making it; they run in a folder with photographs."""
    for folder in ("imagenet/train", "demo/images", "TRAIN"):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).symlink_to(photographs)
    monkeypatch.chdir(tmp_path)
    trained = []
    return {
        "di": di,
        "torch": torch,
        "trained": trained,
        "train_step": lambda images, labels: trained.append(images.shape),
    }


def run(page, names):
    """Every Python block of a page, in order."""
    for block in blocks(page):
        if block.language == "python":
            text = block.text
            for old, new in STAND_INS[page].items():
                text = text.replace(old, new)
            exec(compile("\n" * block.line + text, page, "exec"), names)  # errors name the page's line
    return names


@pytest.mark.dali
@pytest.mark.parametrize("page", ["README.md", "docs/loader.md"])
def test_the_loop_of_the_first_pages_runs(names, page):
    for old in STAND_INS[page]:
        assert any(old in block.text for block in blocks(page)), old
    run(page, names)
    assert names["trained"] == [(8, 3, 224, 224)] * 3


def test_the_first_page_of_the_site_has_the_readmes_code():
    assert [block.text for block in blocks("docs/index.md")] == [blocks("README.md")[0].text]


@pytest.mark.dali
def test_the_quickstart_runs(names):
    run("docs/quickstart.md", names)
    assert names["images"].shape == (8, 3, 64, 64)
    assert names["loss"].isfinite()


@pytest.mark.dali
def test_the_study_of_the_training_page_runs(names):
    Path("RUN").mkdir()
    for file in FOLDER.iterdir():
        shutil.copy(file, "RUN")
    generator = di.load_generator("RUN/generator.safetensors", device="cpu")
    extractor = di.load_extractor("RUN/extractor.safetensors", device="cpu", resolution=generator.resolution)
    di.FeatureBank.build("TRAIN", extractor, "RUN/bank", progress=False)
    asked = []
    run(
        "docs/training.md",
        names
        | {
            "size": 32,
            "steps": 1,
            "accuracy": {},
            "train_your_classifier": lambda loader, seed, steps: asked.append((loader.augment is None, seed, steps)),
        },
    )
    assert len(asked) == 5 * 7
    assert sum(none for none, _, _ in asked) == 5


def test_the_settings_of_the_training_page_are_the_defaults(tmp_path):
    (block,) = [each for each in blocks("docs/training.md") if each.language == "yaml"]
    (tmp_path / "my.yaml").write_text(block.text)
    assert len(yaml.safe_load(block.text)["gan"]) > 5
    assert Training.read(tmp_path / "my.yaml") == Training()


def test_the_recipes_page_loads_what_a_recipe_leaves(names):
    timm = pytest.importorskip("timm")
    import safetensors.torch

    Path("runs/r50").mkdir(parents=True)
    weights = timm.create_model("resnet50", num_classes=1000).state_dict()
    safetensors.torch.save_file(weights, "runs/r50/best.safetensors")
    model = run("docs/recipes.md", names | {"timm": timm, "safetensors": safetensors})["model"]
    assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])


# ---------------------------------------------------------------------- the loader's page


def arguments(page: str) -> dict[str, str]:
    """The page's table of arguments: name and default, as it stands there."""
    (table,) = re.findall(r"^\| argument \| default \| meaning \|\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = [[cell.strip(" `") for cell in row.split("|")] for row in table.splitlines()]
    return {name: default for _, name, default, *_ in rows}


def test_every_argument_is_on_the_loaders_page():
    listed = arguments((ROOT / "docs" / "loader.md").read_text())
    signature = inspect.signature(di.DataLoader)
    assert list(listed) == list(signature.parameters)
    for name, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty:
            assert listed[name] == ""
        else:
            default = eval(listed[name], {"torch": torch})
            assert (default, type(default)) == (parameter.default, type(parameter.default)), name
    by_position = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(by_position) == 13  # as the page says


def test_the_migration_tables_name_what_is_there():
    """The right column's arguments are the loader's; torch's and DALI's own arguments in the left are theirs."""
    page = (ROOT / "docs" / "loader.md").read_text()
    known = {*inspect.signature(di.DataLoader).parameters, "mean", "std"}
    for chapter in re.findall(r"^## Coming from .*?(?=^## )", page, re.MULTILINE | re.DOTALL):
        rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| .*\|$", chapter, re.MULTILINE)]
        assert len(rows) > 10
        for _, ours in (row for row in rows if len(row) == 2):
            assert set(re.findall(r"\b(\w+)=", ours)) <= known, ours
    theirs = set(inspect.signature(torch.utils.data.DataLoader).parameters)
    assert theirs <= set(arguments(page))


def test_blocks_are_found():
    block = Block("docs/clients.md", 7, "python", blocks("docs/clients.md")[0].text)
    assert blocks("docs/clients.md")[0].language == block.language
    assert PAGES["docs/clients.md"].read_text().splitlines()[blocks("docs/clients.md")[0].line - 1] == "```python"
