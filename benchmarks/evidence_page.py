"""Writes docs/evidence.md and its plots from the recorded runs, no number typed by hand:  python benchmarks/evidence_page.py [--check]"""

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.stats import t as student

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "evidence"
ORDER = ("digits", "patches", "cifar10")
TITLES = {
    "digits": "Handwritten digits",
    "patches": "Patches of photographs",
    "cifar10": "CIFAR-10",
}
METHODS = {
    "features": "features alone",
    "handcrafted": "handcrafted",
    "randaugment": "RandAugment",
    "longer": "handcrafted, more steps",
    "daicgan": "DA_IC-GAN",
    "daicgan+randaugment": "DA_IC-GAN and RandAugment",
    "retrieval": "retrieval",
    "random": "random condition",
}
CONTROLS = ("handcrafted", "randaugment", "longer")
FEWEST = 5  # seeds below which nothing is said to be above or below
Accuracies = npt.NDArray[np.float64]
ArmKey = tuple[str, float]


def interval(values: Accuracies) -> tuple[float, float]:
    """Student's 95% interval of the mean; unbounded of one value.

    Of a handful of values a bootstrap is no better: percentiles of resampled means miss the mean three to five times as often as they
    say (the test counts), a bootstrap of t is at times several times too wide.
    """
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    half = float(student.ppf(0.975, n - 1)) * values.std(ddof=1) / n**0.5
    return float(values.mean() - half), float(values.mean() + half)


@dataclass(frozen=True)
class Difference:
    """Points of accuracy between two arms, seed by seed."""

    values: Accuracies

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def interval(self) -> tuple[float, float]:
        return interval(self.values)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:+.1f} ({low:+.1f} to {high:+.1f})"

    @property
    def verdict(self) -> str:
        low, high = self.interval
        if len(self.values) < FEWEST:
            return f"not told apart (fewer than {FEWEST} seeds) from"
        return "above" if low > 0 else "below" if high < 0 else "not distinguishable from"


class Results:
    """The lines of one study; only seeds that have every arm count."""

    def __init__(self, name: str, lines: list[dict[str, Any]]) -> None:
        self.name = name
        heads = [line for line in lines if line["kind"] == "study"]
        if len(heads) != 1:
            raise ValueError(f"{name}: there must be one line of the study itself, got {len(heads)}")
        if len({line["identity"] for line in lines}) != 1:
            raise ValueError(f"{name}: all lines must be of one study, got several identities")
        self.head = heads[0]
        runs = {(line["method"], line["p"], line["seed"]): line for line in lines if line["kind"] == "run"}
        self.arms: list[ArmKey] = [(method, p) for method, p in self.head["arms"]]
        seeds = sorted({seed for *_, seed in runs})
        self.seeds = [seed for seed in seeds if all((*arm, seed) in runs for arm in self.arms)]
        self.places = sorted(
            {tuple(line.get(name) for name in ("processor", "gpu", "threads", "torch")) for line in runs.values()}
        )
        self._runs = runs

    def of(self, arm: ArmKey, split: str = "test") -> Accuracies:
        """Accuracies in percent, by seed."""
        return np.array([self._runs[(*arm, seed)][f"{split}_accuracy"] for seed in self.seeds])

    def chosen(self, methods: tuple[str, ...]) -> ArmKey:
        """The arm of these methods that is best on the validation images."""
        return max((arm for arm in self.arms if arm[0] in methods), key=lambda arm: self.of(arm, "validation").mean())

    def difference(self, a: ArmKey, b: ArmKey) -> Difference:
        return Difference(self.of(a) - self.of(b))

    def steps(self, arm: ArmKey) -> int:
        return int(self._runs[(*arm, self.seeds[0])]["steps"])


def read() -> list[Results]:
    """The studies that have lines."""
    found = []
    for name in ORDER:
        path = RESULTS / f"{name}.jsonl"
        if path.exists():
            results = Results(name, [json.loads(line) for line in path.read_text().splitlines()])
            if results.seeds:
                found.append(results)
    return found


def label(arm: ArmKey) -> str:
    method, p = arm
    return f"{METHODS[method]}, p = {p}" if p else METHODS[method]


def sentence(results: Results) -> str:
    """What a study says."""
    ours, control = results.chosen(("daicgan",)), results.chosen(CONTROLS)
    best, matched = results.difference(ours, control), results.difference(ours, ("retrieval", ours[1]))
    condition = results.difference(ours, ("random", ours[1]))
    both = results.chosen(("daicgan+randaugment",))
    on_top = results.difference(both, ("randaugment", 0.0))
    return (
        f"**{TITLES[results.name]}** ({results.head['images']['labelled']} labelled images, {len(results.seeds)} seeds): with DA_IC-GAN at "
        f"p = {ours[1]} a classifier reaches {results.of(ours).mean():.1f}%, {best.verdict} the best handcrafted arm "
        f"({METHODS[control[0]]}, {results.of(control).mean():.1f}%): {best} points; {matched.verdict} retrieval of real neighbours at the "
        f"same p: {matched} points; {condition.verdict} generations of random instances: {condition} points. Together with RandAugment, at p = {both[1]}, it is "
        f"{on_top.verdict} RandAugment alone: {on_top} points."
    )


def table(results: Results) -> str:
    base = ("handcrafted", 0.0)
    ours, control = results.chosen(("daicgan",)), results.chosen(CONTROLS)
    rows = [
        "| arm | steps | validation | test | test, less handcrafted | by seed |",
        "|---|---|---|---|---|---|",
    ]
    for arm in results.arms:
        name = label(arm)
        if arm in (ours, control):
            name = f"**{name}**"
        difference = "" if arm == base else str(results.difference(arm, base))
        rows.append(
            f"| {name} | {results.steps(arm)} | {results.of(arm, 'validation').mean():.1f} | {results.of(arm).mean():.1f} | {difference} | "
            f"{' '.join(f'{value:.1f}' for value in results.of(arm))} |"
        )
    return "\n".join(rows)


def digest(results: Results) -> str:
    """Of what a plot shows."""
    shown = {label(arm): results.of(arm).tolist() for arm in results.arms}
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def is_plotted(results: Results, path: Path) -> bool:
    """Whether a plot is of these results."""
    if not path.exists():
        return False
    with Image.open(path) as picture:
        return picture.info.get("Description") == digest(results)


def plot(results: Results, path: Path) -> None:
    """Every seed, the mean and its interval, an arm a row."""
    arms = results.arms[::-1]
    figure, axes = plt.subplots(figsize=(8.4, 0.36 * len(arms) + 1.0), dpi=110, layout="constrained")
    ours, control = results.chosen(("daicgan",)), results.chosen(CONTROLS)
    colours = {"daicgan": "#1a6fb5", "daicgan+randaugment": "#2a9d8f", "retrieval": "#c2701c", "random": "#8a6bb0"}
    axes.axvline(results.of(control).mean(), color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    for row, arm in enumerate(arms):
        values, colour = results.of(arm), colours.get(arm[0], "#555555")
        spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, row + spread, "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
        if len(values) > 1:
            axes.plot(interval(values), [row, row], color=colour, linewidth=2)
        axes.plot(values.mean(), row, "D", color=colour, markersize=6)
    axes.set_yticks(range(len(arms)), [label(arm) + (" ✓" if arm in (ours, control) else "") for arm in arms])
    axes.set_xlabel("test accuracy, %")
    axes.set_title(
        f"{TITLES[results.name]}: seeds, mean, 95% interval; ✓ chosen on validation images", fontsize=10, loc="left"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    figure.savefig(path, metadata={"Software": None, "Description": digest(results)})
    plt.close(figure)


def study(results: Results) -> str:
    head, quality = results.head, results.head["quality"]
    settings, where = head["settings"], head["environment"]
    ours = results.chosen(("daicgan",))
    own = results.chosen(("retrieval",))
    retrieval = results.difference(ours, own)
    places = "; ".join(
        f"{cpu}, {gpu or 'no GPU'}, {threads} thread{'s' * (threads > 1)}, torch {torch}"
        for cpu, gpu, threads, torch in results.places
    )
    command = f"python benchmarks/evidence.py {results.name} --seeds {len(results.seeds)}"
    if results.name == "cifar10":
        command += " --cifar10 cifar10-jpeg.tar.xz"
    return f"""## {TITLES[results.name]}
![Accuracy of every arm, seed by seed](evidence/{results.name}.png)

{table(results)}

Means over seeds, in percent; differences are of pairs with the same seed, with the 95% interval of their mean by Student's t over seeds (not over test images, nor over generators). Bold: chosen on
validation images among the p of DA_IC-GAN (alone) and among the handcrafted arms. Against retrieval at retrieval's own best p ({own[1]}, also by
validation): {retrieval} points.

{head["classes"]} classes, {settings["labelled"]} labels each; {head["images"]["train"]:,} training images in all, whose labels the generator
never sees; {head["images"]["validation"]:,} validation and {head["images"]["test"]:,} test images. Classifier: a residual network of
{settings["width"]} channels on {settings["size"]} px, batch {settings["batch_size"]}. "More steps": as much longer as DA_IC-GAN at p = 0.5 took
where the runs were made, x{head["cost_ratio"]:.2f}. The generator: {settings["training"]["gan"]["resolution"]} px, channels
{settings["training"]["gan"]["channels"]}, {settings["training"]["gan"]["steps"]:,} steps, with its extractor {head["training_seconds"] / 60:.0f}
minutes; Fréchet distance in the feature space of its own extractor {quality["feature_frechet_distance"]:.3f} (real against real
{quality["feature_frechet_distance_real"]:.3f}).

```sh
{command}
```
{where["date"][:10]}, commit {where["commit"]}; the runs on {places}."""


def page(all_results: list[Results]) -> str:
    opening = " ".join(sentence(results) for results in all_results)
    parts = [
        "# Does it help?",
        opening or "No study has been run yet.",
        "*Written by `python benchmarks/evidence_page.py` from the lines in `benchmarks/results/evidence/`, and from nothing else.*",
        *(study(results) for results in all_results),
        """## What limits it
* Retrieval does about what generation does: with features of this kind, a generation adds what the instance's neighbours know, and
  some neighbours are of another class under the row's label. **Features alone** is above every trained arm on the digits: there the
  knowledge is in the features already.
* Where training and test images come from different parts (the patches), images like the training images are not what is missing.
* CIFAR-10's networks are small and briefly trained: their features hardly tell classes apart (features alone).
* Tried on the digits' validation images without a gain: classifiers trained three times as long, neighbours' features as condition,
  more than half of the rows generated. What did help was the extractor (docs/design.md, "Digits").""",
        """## How it was measured
* Few labels, many images: the generator learns from all training images without labels, the classifier is told few labels. That is where
  generative augmentation could help; with labels for all images it has less to add.
* Every arm of a seed shares the labelled images, the first weights, the order and the crops. What differs is the augmentation alone.
* **Retrieval** shows a real image, one of the k nearest of all training images, in the generation's place and under the same label: it
  knows what the generator knows, and needs none. **Random condition** shows generations of any instance under the row's own label: if
  that were as good, the conditioning would not matter. **More steps** spends on handcrafted augmentation what generation costs.
* The generator of a study is one: its own seed does not vary. Its training time is not part of "more steps".
* The validation images that choose p are more than the labelled ones: whoever has only few labels must choose p with less.
* The generator's features come from all training images, which handcrafted arms never see. Retrieval has the same ones. **Features
  alone** trains no network: logistic regression on these features, from the same labels.
* CIFAR-10 is read as JPEG files in `train/<class>/` and `test/<class>/` of one tar archive, written from the original arrays.
* These classifiers and images are small, so that anybody can repeat the studies on a CPU. They are no statement about ImageNet.

## Run it again
`pip install -e '.[cu13,dev]'`, then the command under each study; it stops and goes on at any moment. Lines of other settings are
refused: move the file away, or give `--out` and `--work`. `python benchmarks/evidence_page.py` then writes this page.""",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    studies = read()
    path = ROOT / "docs" / "evidence.md"
    plots = {each.name: path.with_suffix("") / f"{each.name}.png" for each in studies}
    wanted = page(studies)
    if "--check" in sys.argv[1:]:
        fresh = path.exists() and wanted == path.read_text()
        fresh = fresh and all(is_plotted(each, plots[each.name]) for each in studies)
        sys.exit(not fresh and "docs/evidence.md: run python benchmarks/evidence_page.py")
    path.write_text(wanted)
    for each in studies:
        plots[each.name].parent.mkdir(exist_ok=True)
        plot(each, plots[each.name])
