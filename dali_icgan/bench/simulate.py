"""Which resource limits a training on another machine, from what each stage takes of an image on this one.

The stages of a loader overlap, so the images that come in a second are the least of what each resource has for them. One process a GPU;
of its images the share p is generated, with features from a bank, and the rest are read, decoded and assembled. With N GPUs, C cores
and C threads for each, storage that gives B bytes/s to all of them, b bytes an image, and q the share of images that go through a stage:

    storage          B / ((1 - p) b)
    cores            N C / sum over stages on the CPU of q u        u: CPU seconds of an image, all threads together
    a stage by itself    N / (q (a + (u - a) / C))                 a: seconds of an image in which the stage uses one core
    GPU              N / (sum over stages on the GPU of q g + s)    g, s: its seconds of an image, in the stage and in the training step

A stage works on one batch at a time, and what of it does not use several cores is measured with T threads: it took w seconds and u CPU
seconds an image, so a = (T w - u) / (T - 1), waiting included. Costs are those that were measured with as many threads as there are
cores, or the next fewer: cores that share a memory or an execution unit slow each other down, and that is in the u of T threads.

Left out: the page cache (every file comes from the storage), links between GPUs, several processes on one memory (more ranks on a node may
slow each other down further), other processors or clocks than where the costs were measured, and what a loader does beside its stages.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dali_icgan.bench.results import OURS, Record, distinct

STAGES = ("read", "decode", "generate", "assemble")
_OF_GENERATIONS = ("generate", "assemble")  # stages whose "case" is a generator
MEDIAN, LEAST, MOST = "median", "least", "most"
TRAINING, CORES, STORAGE, GPU = "training", "cores", "storage", "GPU"


@dataclass(frozen=True)
class Target:
    """A machine and a training on it.

    Attributes:
        gpus: processes, each with a GPU (or none) of its own.
        cores: of each process.
        p: share of images that are generated.
        storage: megabytes a second (1e6 bytes) for all processes; None: it never limits.
        step: images a second that training takes on a GPU if nothing else limits it; None: no training, or with ``train_here`` the
            step whose cost was measured.
        train_here: training on what the stage "step" was measured on.
        on_gpu: images a second of stages that run on the GPU, in place of what was measured; of "generate" one a generation.
    """

    gpus: int = 1
    cores: int = 1
    p: float = 0.0
    storage: float | None = None
    step: float | None = None
    train_here: bool = False
    on_gpu: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("gpus", self.gpus), ("cores", self.cores)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must be in [0, 1], got {self.p!r}")
        given = {"storage": self.storage, "step": self.step, **self.on_gpu}
        for name, rate in given.items():
            if rate is not None and not rate > 0:
                raise ValueError(f"{name} must be a positive rate, got {rate!r}")
        for stage in self.on_gpu:
            if stage not in STAGES[1:]:
                raise ValueError(f"a stage on the GPU must be one of {', '.join(STAGES[1:])}, got {stage!r}")
        if self.step is not None and self.train_here:
            raise ValueError("step must be a rate or what was measured, got both")


@dataclass(frozen=True)
class Prediction:
    """What limits.

    Attributes:
        limits: images a second that each resource allows, all processes together; from the median window of each stage.
        least, most: images a second if every stage always took as long as in its slowest window, and as in its quickest.
        training: images a second of training alone, with nothing to wait for; None: there is none.
        trains_on: the resource that a training step takes.
    """

    limits: dict[str, float]
    least: float
    most: float
    training: float | None
    trains_on: str

    @property
    def limit(self) -> str:
        """The resource that sets the pace."""
        return min(self.limits, key=lambda name: self.limits[name])

    @property
    def images_per_s(self) -> float:
        return self.limits[self.limit]

    @property
    def used(self) -> dict[str, float]:
        """The share of each resource that is in use."""
        return {name: self.images_per_s / limit for name, limit in self.limits.items()}

    @property
    def starves(self) -> float:
        """The share of the time in which the resource that training runs on waits for images; 0 without training."""
        return 0.0 if self.training is None else 1 - self.used[self.trains_on]


@dataclass(frozen=True)
class _Cost:
    """Of one image in one stage.

    Attributes:
        wall, cpu: seconds, and CPU seconds, each median, least and most.
        one_core: seconds in which it uses one core or waits, of what it takes on all of them.
    """

    wall: Mapping[str, float]
    cpu: Mapping[str, float]
    one_core: float
    on_gpu: bool
    bytes: float


def simulate(stages: Sequence[Record], target: Target) -> Prediction:
    """What limits a target.

    Args:
        stages: lines of kind "stage", of one size and at most one generator; see :func:`chosen`.

    Raises:
        ValueError: a stage that the target needs was not measured.
    """
    limits = {which: _limits(stages, target, which) for which in (MEDIAN, MOST, LEAST)}
    trains_on, alone = GPU, None
    if target.step is not None:
        alone = target.gpus * target.step
    elif target.train_here:
        step = _cost(stages, "step", False, target)
        trains_on = GPU if step.on_gpu else CORES
        alone = target.gpus / (step.wall[MEDIAN] if step.on_gpu else _alone(step, target.cores, MEDIAN))
    return Prediction(limits[MEDIAN], min(limits[MOST].values()), min(limits[LEAST].values()), alone, trains_on)


def _limits(stages: Sequence[Record], target: Target, which: str) -> dict[str, float]:
    """Images a second that each resource allows, by its name."""
    # (stage, of a generation, share of images)
    ways = [("read", False, 1 - target.p), ("decode", False, 1 - target.p), ("generate", True, target.p)]
    ways += [("assemble", False, 1 - target.p), ("assemble", True, target.p)]
    if target.train_here:
        ways.append(("step", False, 1.0))
    limits: dict[str, float] = {}
    cores, gpu, size = 0.0, 1 / target.step if target.step is not None else 0.0, 0.0
    alone: dict[str, float] = {}
    for stage, made, share in ways:
        if not share:
            continue
        if stage in target.on_gpu:
            gpu += share / target.on_gpu[stage]
            continue
        cost = _cost(stages, stage, made, target)
        if cost.on_gpu:
            gpu += share * cost.wall[which]
            continue
        size += share * cost.bytes
        cores += share * cost.cpu[which]
        alone[stage] = alone.get(stage, 0.0) + share * _alone(cost, target.cores, which)
    if target.storage is not None and size:
        limits[STORAGE] = 1e6 * target.storage / size
    if cores:
        limits[CORES] = target.gpus * target.cores / cores
    limits |= {f"{stage}, by itself": target.gpus / seconds for stage, seconds in alone.items() if seconds}
    if gpu:
        limits[GPU] = target.gpus / gpu
    if not limits:
        raise ValueError("the target must use something that was measured, got nothing")
    return limits


def _alone(cost: _Cost, cores: int, which: str) -> float:
    """Seconds of an image in a stage that has all cores."""
    return cost.one_core + max(cost.cpu[which] - cost.one_core, 0.0) / cores


def _cost(stages: Sequence[Record], stage: str, made: bool, target: Target) -> _Cost:
    """Of a stage, for generations or for photographs where it was measured for them apart."""
    of_stage = [each for each in stages if each["stage"] == stage]
    found = [each for each in of_stage if stage != "assemble" or (each.get("case") is not None) == made] or of_stage
    if not found:
        raise ValueError(f'rates must hold the stage "{stage}", which p = {target.p:g} needs, got none')
    fewer = [each["threads"] for each in found if each["threads"] <= target.cores]
    threads = max(fewer) if fewer else min(each["threads"] for each in found)
    found = [each for each in found if each["threads"] == threads]
    wall = [w for each in found for w in each.get("windows") or [each["seconds_per_image"]]]
    cpu = [w for each in found for w in each.get("cpu_windows") or [each.get("cpu_s_per_image") or each["seconds_per_image"]]]  # fmt: skip
    one_core = 0.0
    if threads > 1 and len(wall) == len(cpu):
        # Of the quickest window: whatever else a machine does only adds waiting.
        least = min(range(len(wall)), key=wall.__getitem__)
        one_core = min(max((threads * wall[least] - cpu[least]) / (threads - 1), 0.0), wall[least])
    size = statistics.fmean(each.get("bytes_per_image") or 0.0 for each in found) if stage == "read" else 0.0
    return _Cost(_spread(wall), _spread(cpu), one_core, str(found[0]["device"]).startswith("cuda"), size)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {MEDIAN: statistics.median(values), LEAST: min(values), MOST: max(values)}


def chosen(records: Iterable[Record], size: int | None = None, case: str | None = None) -> list[Record]:
    """The lines of kind "stage" of one size and at most one generator.

    Args:
        size: in pixels; None: the only one there is.
        case: the generator's; None: the only one there is, if any.

    Raises:
        ValueError: there are none, or several to choose from.
    """
    stages = [each for each in records if each["kind"] == "stage"]
    size = _only("size", size, [value for (value,) in distinct(stages, "size")])
    stages = [each for each in stages if each["size"] == size]
    cases = [each.get("case") for each in stages if each["stage"] == "generate"]
    if case is not None or cases:
        case = _only("case", case, list(dict.fromkeys(cases)))
    return [each for each in stages if each["stage"] not in _OF_GENERATIONS or each.get("case") in (None, case)]


def _only(name: str, asked: Any, there: Sequence[Any]) -> Any:
    said = ", ".join(map(str, there)) or "none"
    if asked is not None and asked not in there:
        raise ValueError(f"{name} must be one that stages were measured with ({said}), got {asked}")
    if asked is None and len(there) != 1:
        raise ValueError(f"{name} must be given where stages were measured with other than one, got {said}")
    return there[0] if asked is None else asked


# ---------------------------------------------------------------------- against what was measured


@dataclass(frozen=True)
class Checked:
    """A loader's measured rate beside the predicted one, on the machine that both were measured on.

    Attributes:
        case: what was measured, in words.
        measured: images a second, a window each.
    """

    case: str
    prediction: Prediction
    measured: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.measured)

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.prediction.images_per_s / self.median


def check(records: Sequence[Record]) -> list[Checked]:
    """Each of the loader's own measurements whose stages were measured too, as many cores as threads: throughput, and training on the CPU.

    Raises:
        ValueError: there is none.
    """
    found, sizes = [], {each["size"] for each in records if each["kind"] == "stage"}
    cases = {each.get("case") for each in records if each["kind"] == "stage" and each["stage"] == "generate"}
    for each in records:
        if each["kind"] not in ("throughput", TRAINING) or each["peer"] != OURS or each["size"] not in sizes:
            continue
        trains = each["kind"] == TRAINING
        case = each.get("case") if each["p"] else None
        if each["p"] and (case not in cases or each.get("source", "bank") != "bank"):
            continue
        if each["device"] != "cpu" or (trains and not _steps(records, each)):
            continue
        stages = [r for r in records if r["kind"] == "stage" and r["size"] == each["size"]]
        stages = chosen(stages, case=case) if case else [r for r in stages if r["stage"] != "generate"]
        target = Target(cores=each["threads"], p=each["p"], train_here=trains)
        words = [f"p = {each['p']:g}", *([case] if case else []), f"{each['size']} px", f"{each['threads']} cores"]
        words += [str(each["allocator"])] if each.get("allocator") else []
        words += [str(each["network"])] if trains else []
        found.append(Checked(", ".join(words).replace(" 1 cores", " 1 core"), simulate(stages, target), each["images_per_s"]))  # fmt: skip
    if not found:
        raise ValueError(
            f"the run must hold rates of {OURS} on a CPU whose stages were measured at the same size, got none"
        )
    return found


def _steps(records: Sequence[Record], training: Record) -> bool:
    return any(
        each["kind"] == "stage" and each["stage"] == "step" and each["size"] == training["size"] for each in records
    )
