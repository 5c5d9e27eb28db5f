"""Writes docs/performance.md from recorded runs, no number typed by hand:  python benchmarks/performance_page.py [--check]"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_icgan.bench.results import Run, read_run
from dali_icgan.bench.simulate import check
from dali_icgan.bench.tables import stages

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
FORMS = ROOT / "dali_icgan" / "engine" / "forms.json"
NAMES = {"avx512_bf16": "AVX-512 with BF16", "avx512": "AVX-512", "avx2": "AVX2", "generic": "plain x86-64"}
# What tells one contest from another.
_ENGINE = ("gpu", "processor", "instructions", "dtype", "threads", "batch_size", "case", "allocator")
CONTESTS = {
    "engine.jsonl": _ENGINE,
    "extractor.jsonl": _ENGINE,
    "attention.jsonl": ("instructions", "threads", "case"),
    "forms.jsonl": ("table", "case"),
}


@dataclass(frozen=True)
class Model:
    """What the page says of a model in its own words.

    Attributes:
        name: of the model.
        results: the file of its runs.
        shown: the case whose layers are listed.
        error, said: where a run holds its error, and what that is.
        introduction: its section's first lines.
    """

    name: str
    results: str
    shown: str
    error: str
    said: str
    introduction: str


GENERATOR = Model(
    "generator",
    "engine.jsonl",
    "256 px, channels 64",
    "relative_error",
    "Largest relative error (2-norm, against float64)",
    """## The generator
Beside the network as published, in the same dtype with its spectral norm baked in ("eager": channels-last memory, the baseline;
"contiguous": torch's usual layout). The C allocator's thresholds matter to the peers, whose activations are mapped anew in every call: a
plan owns its buffers. "Published" is what the published form multiplies; the difference to GFLOP is Winograd's and that of upsampling
folded into convolutions. In the lists of layers MB is what a layer must read and write at the least, "of floor" the share of the speed that
torch's own matrix product and copy reach on the machine, whichever binds (above 100%: faster than that product, which on some processors is
far from their peak), "largest" the largest magnitude of the residual stream behind a block on calibration noise. A ratio is the median of
the rounds' ratios, not the quotient of the medians. The machines are shared: compare within a row, whose windows alternate, not rates
between rows. A processor that was not at hand again keeps the runs of an earlier commit, which is named. A loader calls a generator with
its microbatch, on a CPU 32 rows up to 64 px and 4 above.""",
)
EXTRACTOR = Model(
    "extractor",
    "extractor.jsonl",
    "ResNet-50, 224 px",
    "one_minus_cosine",
    "Largest 1 - cosine, against float64",
    """## The extractor
From the trunk's input to unit features, beside the network with its batch norms folded into the convolutions, in the same dtype and
channels-last memory ("eager", the baseline). More than half of ResNet-50's multiplications are
1x1 convolutions, for which no form multiplies less.""",
)


def newest(file: str, results: Path = RESULTS) -> list[dict[str, Any]]:
    """The last run of each contest; none where nothing was recorded yet."""
    found, path = {}, results / file
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        found[tuple(record.get(name) for name in CONTESTS[file])] = record
    return list(found.values())


def table(model: Model, records: list[dict[str, Any]]) -> str:
    peers = list(dict.fromkeys(name for record in records for name in record["ratio"]))
    head = [model.name, "rows", "threads", "C allocator", "dali_icgan", *peers, *(f"times {name}" for name in peers)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in records:
        rates, ratios = record["images_per_s"], record["ratio"]
        cells = [record["case"], str(record["batch_size"]), str(record["threads"]), record["allocator"]]
        cells += [rate_cell(rates[name]["median"]) if name in rates else "" for name in ("dali_icgan", *peers)]
        cells += [ratio_cell(ratios[name]) if name in ratios else "" for name in peers]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rate_cell(images: float) -> str:
    return f"{images:,.0f} images/s" if images >= 100 else f"{images:.3g} images/s"


def ratio_cell(figure: dict[str, float]) -> str:
    return f"**{figure['median']:.1f}** ({figure['min']:.1f} to {figure['max']:.1f})"


def _where(record: dict[str, Any]) -> str:
    processor = f'a processor that calls itself "{record["processor"]}" ({", ".join(record["instruction_sets"])})'
    held = f", held to {record['instructions']}" if _held(record) else ""
    return f"{record['gpu'] or processor}{held}, torch {record['torch']}, DALI {record['dali']}, {record['date'][:10]}"


def _groups(records: list[dict[str, Any]], *names: str) -> list[list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(tuple(record.get(name) for name in names), []).append(record)
    return list(found.values())


def _held(record: dict[str, Any]) -> bool:
    """Whether a processor was held to fewer instructions than it has."""
    return record.get("instructions") == "avx2" and "avx512f" in record["instruction_sets"]


def _machine(record: dict[str, Any]) -> str:
    """In a title."""
    named = [NAMES[record["instructions"]]] if record.get("instructions") else []
    return record["gpu"] or ", ".join([*named, f"{record['cores']} core{'s' * (record['cores'] > 1)}"])


def _commands(records: list[dict[str, Any]]) -> str:
    return "\n".join(["```sh", *dict.fromkeys(_prefix(record) + record["command"] for record in records), "```"])


def _prefix(record: dict[str, Any]) -> str:
    """What was set around the command."""
    words = ["taskset -c 0 "] if record.get("cores") == 1 else []
    if _held(record):
        words.append("MKL_ENABLE_INSTRUCTIONS=AVX2 " * bool(record.get("mkl")))
        words.append("DALI_ICGAN_INSTRUCTIONS=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 ")
    if record.get("instructions") == "avx512_bf16" or record.get("table") == "avx2 float32":
        words.append(f"DALI_ICGAN_INSTRUCTIONS={record.get('instructions', 'avx2')} ")
    return "".join(words[::-1])


def section(model: Model, records: list[dict[str, Any]]) -> str:
    one = records[0]
    where = one["gpu"] or f'a processor that calls itself "{one["processor"]}" ({", ".join(one["instruction_sets"])})'
    held = f", held to {one['instructions']}" * _held(one)
    if held and not one.get("mkl"):
        held += " (but for MKL's matrix products, which the floor is measured with)"
    title = one["gpu"] or f"{one['processor']}, {NAMES[one['instructions']]}"
    errors = [max(record[model.error][name] for record in records) for name in ("dali_icgan", "eager")]
    layers = next((record for record in records if record["case"] == model.shown), one)
    return f"""### {title}, {one["dtype"]}
{table(model, records)}

On {where}{held}, torch {one["torch"]}, {one["date"][:10]}, commit {one["commit"]}; medians of alternating windows, in brackets their range. {model.said}:
{errors[0]:.1e}, eager {errors[1]:.1e}.

{_commands(records)}

Where the time goes, {layers["case"]}, {layers["batch_size"]} rows, {layers["threads"]} thread{"s" * (layers["threads"] > 1)}, as `{model.name}.prepare(n).describe()` prints it:
```text
{layers["layers"]}
```"""


def sections(model: Model, records: list[dict[str, Any]]) -> list[str]:
    return [model.introduction, *(section(model, group) for group in _groups(records, *_ENGINE[:4]))]


def attention(records: list[dict[str, Any]]) -> list[str]:
    """Our attention beside torch's."""
    parts = [
        """## Attention on the CPU
Softmax attention alone, beside torch's fused one and the two products with a softmax between them."""
    ]
    for group in _groups(records, "instructions", "threads"):
        peers = list(group[0]["ratio"])
        head = ["map of", "rows", "dali_icgan", *peers, *(f"times {name}" for name in peers)]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for record in group:
            rates = record["images_per_s"]
            cells = [record["case"], str(record["batch_size"])]
            cells += [rate_cell(rates[name]["median"]) for name in ("dali_icgan", *peers)]
            cells += [ratio_cell(record["ratio"][name]) for name in peers]
            lines.append("| " + " | ".join(cells) + " |")
        one = group[0]
        title = f"### {NAMES[one['instructions']]}, {one['dtype']}, {one['threads']} thread{'s' * (one['threads'] > 1)}"
        parts.append("\n".join([title, *lines, "", f"On {_where(one)}.", "", _commands(group)]))
    return parts


def forms(records: list[dict[str, Any]]) -> list[str]:
    """What the package's table of forms saves."""
    shipped = json.loads(FORMS.read_text())
    head = ["instructions", "model", "convolutions", "another tile than the rule's", "by the rule", "by the table"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in sorted(records, key=lambda record: str(record["table"]), reverse=True):
        tiles, rule = shipped[record["table"]], record["rule"]
        by_rule, by_table = (
            1e3 * sum(record["seconds"][key][str(chosen[key])] for key in rule) for chosen in (rule, tiles)
        )
        changed = sum(tiles[key] != rule[key] for key in rule)
        cells = [
            record["table"],
            record["case"],
            str(len(rule)),
            str(changed),
            f"{by_rule:.4g} ms",
            f"{by_table:.4g} ms",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        """## Which tile
Winograd's tiles come from a table in the package, measured once and never at run time, so that ranks and resumed runs agree to the bit;
what it does not know follows a rule. These are the sums of a model's convolutions, each the least of several runs in its plan, one thread;
the tile of a convolution that several models have is the one that saves most in all of them together.
Rows are a loader's microbatch, 32 up to 64 px and 4 above. `dali-icgan tune` measures the same on your machine.""",
        "\n".join([*lines, "", f"On {_where(records[-1])}.", "", _commands(records)]),
    ]


PROFILE = """## Where the time goes
`dali-icgan bench profile --data FOLDER --out DIR` runs the loader beside a training step (`--step`) or nothing. trace.json is a timeline of
the stages read, decode, generate, assemble and of who waits, a row a thread, with epoch and batch; ui.perfetto.dev opens it. A table says
which stage is busy most, and so sets the pace. A span is the host's time; on a GPU a stage queues its work, and
`DALI_ICGAN_NVTX=1 nsys profile ...` shows the same spans as NVTX ranges over the kernels, of any training script. In one's own code
`dali_icgan.spans.recording()` keeps the spans. Batches are the same bits with it. It also measures each stage by itself, for what follows."""

SIMULATION = """## On machines that are not at hand
`dali-icgan bench simulate --rates DIR --gpus N --cores-per-gpu C --storage MB/S --p P --step IMAGES/S` says which resource limits, how many
images a second come, and whether training starves. DIR is of `bench profile` or `bench`, run on the processor in question.

The stages of a loader overlap, so the images that come in a second are the least of what each resource has for them. There is one process a
GPU. Of the images the share p is generated, with features from a bank; the rest are read, decoded and assembled. q is the share that goes
through a stage: 1 - p of reading and decoding, p of generating; assembling a generation and a photograph cost differently, and are
measured apart. N processes have

| resource | images/s | where |
|---|---|---|
| storage | B / ((1 - p) b) | B bytes/s for all of them, b bytes a file |
| cores | N C / sum of q u, stages on the CPU | u: CPU seconds of an image, all threads together |
| a stage by itself | N / (q (a + (u - a) / C)) | a: seconds of an image in which the stage uses one core, or waits |
| GPU | N / (sum of q g, stages on the GPU, + s) | g: its seconds of an image; s: those of a training step |

A stage works on one batch at a time. With T threads it takes w seconds and u CPU seconds of an image, so a = (T w - u) / (T - 1), of the
quickest window. Costs are those of as many threads as there are cores, or of the most that were measured: cores that share a memory, or are
two threads of one core, slow each other down, and that is in the u of T threads. Training starves where the GPU waits for
images, for 1 - (images/s) / (images/s that the GPU allows) of the time; where the generator takes time of the GPU, training is slower and
does not wait. On a CPU training shares the cores. The range is of all stages in their slowest windows, and all in their quickest.

Left out: the page cache (every file comes from the storage), other processors or clocks than the measured, links between GPUs, what several
processes on one memory cost each other beyond what threads do, what a loader does beside its stages, features found online, and any variation
that a look-ahead of a few batches would not even out. `--on-gpu STAGE=IMAGES/S` puts a stage on the GPU, at a rate known from elsewhere."""


def simulation(run: Run) -> str:
    """Predicted beside measured."""
    lines = [
        "| case | predicted | range | measured | range | predicted / measured | limits |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in check(run.records):
        said, measured = each.prediction, sorted(each.measured)
        cells = [
            each.case,
            rate_cell(said.images_per_s),
            f"{said.least:,.0f} to {said.most:,.0f}",
            rate_cell(each.median),
        ]
        cells += [f"{measured[0]:,.0f} to {measured[-1]:,.0f}", f"**{each.ratio:.2f}**", said.limit]
        lines.append("| " + " | ".join(cells) + " |")
    machine = run.machine
    said = (
        f'On a processor that calls itself "{machine["processor"]}", torch {machine["versions"]["torch"]}, DALI {machine["versions"]["dali"]}, '
        f"{machine['date'][:10]}, commit {machine['commit']}; {machine['files']} photographs of {machine['megapixels']:.2f} megapixels on average."
    )
    command = f"```sh\n{machine['command']}\n```"
    return "\n\n".join(
        ["### Predicted beside measured", "\n".join(lines), said, command, *(each.markdown(0) for each in stages(run))]
    )


def page(results: Path = RESULTS) -> str:
    generators, extractors, attentions, tables = (newest(file, results) for file in CONTESTS)
    parts = [
        "# Performance",
        "*Written by `python benchmarks/performance_page.py` from the lines in `benchmarks/results/`, and from nothing else.* "
        "The loader and training beside others are on [the benchmark's page](benchmark.md).",
        *sections(GENERATOR, generators),
        *(sections(EXTRACTOR, extractors) if extractors else []),
        *(attention(attentions) if attentions else []),
        *(forms(tables) if tables else []),
    ]
    parts += [PROFILE, SIMULATION]
    if (results / "simulation.jsonl").exists():
        parts.append(simulation(read_run(results / "simulation.jsonl")))
    if not any(record["gpu"] for record in (*generators, *extractors)):
        parts.append(
            "**No GPU has run any of this yet**: the CUDA plan is compiled, and its kernels run in the tests on a CPU; "
            "`benchmarks/gpu_gate.sh` measures it on a machine that has one. What its kernels move is in [kernels.md](kernels.md)."
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        sys.exit(wanted != PAGE.read_text() and "docs/performance.md: run python benchmarks/performance_page.py")
    PAGE.write_text(wanted)
