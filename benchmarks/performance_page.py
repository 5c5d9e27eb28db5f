"""Writes docs/performance.md from recorded runs, no number typed by hand:  python benchmarks/performance_page.py [--check]"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"


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
folded into convolutions. A share above 100% of the floor is a layer that multiplies faster than the matrix product the floor is measured
with.""",
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


def newest(model: Model) -> list[dict[str, Any]]:
    """The last run of each contest."""
    found, path = {}, RESULTS / model.results
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        names = ("gpu", "instructions", "dtype", "threads", "batch_size", "case", "allocator")
        found[tuple(record[name] for name in names)] = record
    return list(found.values())


def table(model: Model, records: list[dict[str, Any]]) -> str:
    peers = [name for name in records[0]["ratio"] if all(name in record["ratio"] for record in records)]
    head = [model.name, "rows", "threads", "C allocator", "dali_icgan", *peers, *(f"times {name}" for name in peers)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in records:
        rates, ratios = record["images_per_s"], record["ratio"]
        cells = [record["case"], str(record["batch_size"]), str(record["threads"]), record["allocator"]]
        cells += [_rate(rates[name]["median"]) for name in ("dali_icgan", *peers)]
        cells += [
            f"**{ratios[name]['median']:.1f}** ({ratios[name]['min']:.1f} to {ratios[name]['max']:.1f})"
            for name in peers
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rate(images: float) -> str:
    return f"{images:,.0f} images/s" if images >= 100 else f"{images:.3g} images/s"


def section(model: Model, records: list[dict[str, Any]]) -> str:
    one = records[0]
    where = one["gpu"] or f'a processor that calls itself "{one["processor"]}" ({", ".join(one["instruction_sets"])})'
    held = (
        f", held to {one['instructions']}"
        if one["instructions"] == "avx2" and "avx512f" in one["instruction_sets"]
        else ""
    )
    title = (
        one["gpu"]
        or {"avx512_bf16": "AVX-512 with BF16", "avx512": "AVX-512", "avx2": "AVX2", "generic": "plain x86-64"}[
            one["instructions"]
        ]
    )
    commands = dict.fromkeys(record["command"] for record in records)
    prefix = "DALI_ICGAN_INSTRUCTIONS=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 " if held else ""
    if one["instructions"] == "avx512_bf16":
        prefix = "DALI_ICGAN_INSTRUCTIONS=avx512_bf16 "
    errors = [max(record[model.error][name] for record in records) for name in ("dali_icgan", "eager")]
    layers = next((record for record in records if record["case"] == model.shown), one)
    return f"""### {title}, {one["dtype"]}
{table(model, records)}

On {where}{held}, torch {one["torch"]}, {one["date"][:10]}; medians of alternating windows, in brackets their range. {model.said}:
{errors[0]:.1e}, eager {errors[1]:.1e}.

```sh
{chr(10).join(prefix + command for command in commands)}
```

Where the time goes, {layers["case"]}, {layers["batch_size"]} rows, {layers["threads"]} thread{"s" * (layers["threads"] > 1)}, as `{model.name}.prepare(n).describe()` prints it:
```text
{layers["layers"]}
```"""


def sections(model: Model, records: list[dict[str, Any]]) -> list[str]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["gpu"], record["instructions"], record["dtype"]), []).append(record)
    return [model.introduction, *(section(model, group) for group in groups.values())]


def page() -> str:
    generators, extractors = newest(GENERATOR), newest(EXTRACTOR)
    files = " and ".join(f"`benchmarks/results/{m.results}`" for m in (GENERATOR, *([EXTRACTOR] if extractors else [])))
    parts = [
        "# Performance of the engine",
        f"*Written by `python benchmarks/performance_page.py` from the lines in {files}, and from nothing else.*",
        *sections(GENERATOR, generators),
        *(sections(EXTRACTOR, extractors) if extractors else []),
    ]
    if not any(record["gpu"] for record in (*generators, *extractors)):
        parts.append(
            "**No GPU has run the engine's CUDA plan yet**: it is compiled, and its kernels run in the tests on a CPU; "
            "`benchmarks/gpu_gate.sh` measures it on a machine that has one. What its kernels move is in [kernels.md](kernels.md)."
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        sys.exit(wanted != PAGE.read_text() and "docs/performance.md: run python benchmarks/performance_page.py")
    PAGE.write_text(wanted)
