#!/usr/bin/env bash
# Confirms on a machine with a GPU what no other can: builds for it, runs the tests with --require-gpu, then the benchmarks.
#
#   benchmarks/gpu_gate.sh OUTDIR [--fast] [--device cpu]
#
# Leaves tests.txt and one .jsonl a benchmark in OUTDIR (of `dali-icgan bench` in OUTDIR/bench) and prints a short table last, with the seconds that each part took: 9 minutes
# in all is what it may take on one GPU and 16 cores. --fast: shorter benchmarks. --device cpu: the same steps on a CPU, to try the
# script. Needs torch, pybind11, ninja, pytest and what the tests import (pyproject.toml, extra dev); no internet. PYTHON names the
# interpreter (default: .venv/bin/python, else python3); GATE_TESTS what pytest runs, GATE_BENCHMARKS which benchmarks (default: all).
# Exit status: 0 good, 1 a test or a benchmark failed, 2 no GPU, 3 all good but DALI is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

out="" fast=0 device=cuda
while [ $# -gt 0 ]; do
  case "$1" in
    --fast) fast=1 ;;
    --device) device="${2:?--device needs cpu or cuda}"; shift ;;
    -*) echo "gpu_gate: unknown option $1" >&2; exit 1 ;;
    *) out="$1" ;;
  esac
  shift
done
[ -n "$out" ] || { echo "usage: benchmarks/gpu_gate.sh OUTDIR [--fast] [--device cpu]" >&2; exit 1; }
mkdir -p "$out"
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_gate: torch sees no CUDA device on this machine"
  exit 2
fi
dali=1
if ! "$python" -c 'import nvidia.dali' 2>/dev/null; then
  echo "DALI MISSING: what reads JPEG files is not tried here"
  dali=0
fi

parts="" begun=$SECONDS
took() {  # took NAME: since the part before
  parts="$parts$1 $((SECONDS - begun)) s, "
  begun=$SECONDS
}

DALI_ICGAN_CUDA=$([ "$device" = cuda ] && echo 1 || echo auto) "$python" setup.py -q build_ext --inplace
DALI_ICGAN_CUDA=emulate "$python" setup.py -q build_ext
took build

failed=0
options=()
[ "$device" = cuda ] && options+=(--require-gpu)
[ $dali = 1 ] || options+=(--without-dali)
# shellcheck disable=SC2086  # GATE_TESTS may name several
"$python" -m pytest -m "not full" "${options[@]}" ${GATE_TESTS:-tests} > "$out/tests.txt" 2>&1 || failed=1
took tests

bench() {  # bench NAME SCRIPT OPTIONS...: its lines go to OUTDIR/NAME.jsonl
  local name="$1" script="$2"
  shift 2
  rm -f "$out/$name.jsonl"
  benchmark "$name" "benchmarks/$script" --device "$device" --out "$out/$name.jsonl" "$@"
}
benchmark() {  # benchmark NAME ARGUMENTS...: of python
  local name="$1"
  shift
  [[ -z "${GATE_BENCHMARKS:-}" || " $GATE_BENCHMARKS " == *" $name "* ]] || return 0
  if ! "$python" "$@" > "$out/$name.txt" 2>&1; then
    echo "benchmark $name failed:"
    tail -3 "$out/$name.txt"
    failed=1
  fi
  took "$name"
}
short=(--seconds 1 --rounds 5) shortest=(--seconds 0.5 --rounds 3) assembled=() engine=() loader=()
if [ $fast = 1 ]; then
  short=(--seconds 0.05 --rounds 3) shortest=(--seconds 0.05 --rounds 1) assembled=(--batch-size 4 --size 64)
  engine=(--case embedded --batch-size 2) loader=(--peers pil --images 8 --seconds 0.05 --rounds 1)
fi
bench assemble assemble.py "${shortest[@]}" "${assembled[@]}"
bench engine engine.py "${short[@]}" "${engine[@]}"
bench extractor extractor.py "${short[@]}" "${engine[@]}"
if [ $dali = 1 ]; then
  # As a training run has it on a GPU: crops of 224 px, generations of 256, a batch for one; its lines go to OUTDIR/bench/bench.jsonl.
  benchmark bench -m dali_icgan.cli bench --quick --device "$device" --out "$out/bench" "${loader[@]}"
fi
if [ "$device" = cuda ]; then
  bench engine_compiled engine.py "${shortest[@]}" --case "256 px, channels 96" --compile
  bench extractor_compiled extractor.py "${shortest[@]}" --case "ResNet-50, 224 px" --compile
fi

echo
echo "device     $device: $("$python" -c "import torch; print(torch.cuda.get_device_name() if '$device' == 'cuda' else 'CPU')")"
echo "tests      $(tail -1 "$out/tests.txt")"
echo "took       ${parts}in all $SECONDS s"
find "$out" -name "*.jsonl" -print0 | sort -z | xargs -0 "$python" benchmarks/table.py
[ $failed = 0 ] || { echo "FAILED: see $out"; exit 1; }
[ $dali = 1 ] || { echo "DALI MISSING"; exit 3; }
