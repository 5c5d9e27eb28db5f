"""Runs of `dali-icgan bench` written by hand, for the tests of what reads them."""

import json
from pathlib import Path

MACHINE = {
    "kind": "machine",
    "date": "2026-01-02T03:04:05+00:00",
    "command": "dali-icgan bench --out run",
    "commit": "abc1234",
    "version": "0.1.0",
    "processor": "a processor",
    "cpu_flags": ["sse4_2", "avx2", "fma", "ht"],
    "cores": 2,
    "memory_mb": 16000,
    "gpu": None,
    "versions": {"python": "3.11.2", "torch": "9.9", "ffcv": None},
    "data": "synthetic",
    "images": 640,
    "files": 320,
    "megapixels": 0.19,
}
OURS = "dali_icgan"
PEERS = [
    {"kind": "peer", "peer": "pil", "title": "DataLoader + PIL", "installed": True, "version": "12.0", "reason": None, "settings": "no workers on one core"},
    {"kind": "peer", "peer": "spdl", "title": "SPDL", "installed": True, "version": "0.1", "reason": None, "settings": "2 threads"},
    {"kind": "peer", "peer": "ffcv", "title": "FFCV", "installed": False, "version": None, "reason": "No module named 'ffcv'", "settings": "os_cache"},
    {"kind": "peer", "peer": OURS, "title": OURS, "installed": True, "version": "0.1.0", "reason": None, "settings": "float32"},
]  # fmt: skip


def throughput(peer, rates, *, axis="peers", threads=1, p=0, **more):
    line = {
        "kind": "throughput",
        "contest": f"{axis}, {threads} threads, {more.get('allocator', 'stock')}",
        "axis": axis,
        "peer": peer,
        "generator": None,
        "case": "embedded" if p else None,
        "p": p,
        "source": "bank" if p else None,
        "compaction": True,
        "batch_size": 64,
        "threads": threads,
        "workers": 0 if threads == 1 else threads,
        "size": 224,
        "allocator": "stock",
        "device": "cpu",
        "images_per_s": rates,
        "cpu_s_per_1000": 1.25,
        "peak_rss_mb": 512.4,
        "gpu_memory_mb": None,
        "joules_per_1000": None,
        "first_batch_s": 0.75,
        "one_off_s": None,
        "one_off_images": None,
    }
    return {**line, **more}


def training(peer, rates, *, p=0, constant=(100.0, 100.0, 100.0), **more):
    kept = sorted(rates)[len(rates) // 2] / sorted(constant)[len(constant) // 2]
    line = {
        "kind": "training",
        "contest": "training, 2 threads",
        "peer": peer,
        "generator": None,
        "case": "embedded" if p else None,
        "p": p,
        "source": "bank" if p else None,
        "network": "ResNet-18",
        "batch_size": 32,
        "threads": 2,
        "workers": 2,
        "size": 64,
        "device": "cpu",
        "allocator": "stock",
        "images_per_s": rates,
        "constant_images_per_s": list(constant),
        "kept": kept,
        "waiting": 0.031,
        "predicted_kept": None,
    }
    return {**line, **more}


def stage(name, cpu, *, threads=1, wall=None, **more):
    wall = cpu / threads if wall is None else wall
    line = {
        "kind": "stage",
        "stage": name,
        "case": None,
        "size": 224,
        "batch_size": 64,
        "threads": threads,
        "device": "cpu",
        "seconds_per_image": wall,
        "cpu_s_per_image": cpu,
        "bytes_per_image": 100_000 if name == "read" else None,
    }
    return {**line, **more}


RUN = [
    MACHINE,
    *PEERS,
    {"kind": "contract", "peer": "spdl", "generator": None, "p": 0, "images": 128, "largest_levels": 1.5, "mean_levels": 0.25, "same_boxes": True, "note": None, "accepted": True},
    {"kind": "contract", "peer": "timm", "generator": None, "p": 0, "images": 128, "largest_levels": None, "mean_levels": None, "same_boxes": False, "note": "labels differ | all", "accepted": False},
    throughput("pil", [300.0, 310.0, 320.0]),
    throughput("spdl", [1000.0, 1001.0, 1002.0]),
    throughput(OURS, [900.0, 930.0, 990.0]),
    throughput("pil", [410.0, 420.0, 430.0], threads=2),
    throughput("spdl", [1100.0, 1200.0, 1300.0], threads=2),
    throughput(OURS, [1400.0, 1470.0, 1500.0], threads=2),
    throughput("pil", [250.0, 260.0, 270.0], axis="generators", p=0.5, generator="eager"),
    throughput("pil", [180.0, 190.0, 200.0], axis="generators", p=0.5, generator="eager", compaction=False),
    throughput("pil", [305.0, 315.0, 325.0], axis="generators", p=0.5, generator="offline JPEGs", one_off_s=12.5, one_off_images=331),
    throughput(OURS, [800.0, 810.0, 820.0], axis="generators", p=0.5, generator=OURS),
    *(throughput(peer, [k * rate], axis="batch_size", batch_size=b, contest=f"batch size {b}, 2 threads, stock", threads=2) for b, k in ((8, 0.8), (64, 1)) for peer, rate in (("pil", 400.0), (OURS, 1400.0))),
    training("pil", [80.0, 81.0, 82.0]),
    training(OURS, [92.0, 93.0, 94.0]),
    training(OURS, [85.0, 87.0, 88.0], p=0.5, generator=OURS, predicted_kept=0.88),
    *({"kind": "startup", "source": source, "entries": n, "first_batch_s": 0.1 + n * k, "memory_mb": 0.5 + n / 1e5, "per_entry_bytes": 10.0} for source, k in (("list", 1e-7), ("shards", 2e-7)) for n in (1000, 100_000)),
    stage("read", 0.0001),
    stage("decode", 0.0008),
    stage("assemble", 0.0002),
]  # fmt: skip


def write(folder: Path, lines=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (RUN if lines is None else lines)))
    return folder
