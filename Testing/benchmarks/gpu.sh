#!/usr/bin/env bash
# Numeric tests and timings on a GPU machine, in one call:
#
#     Testing/benchmarks/gpu.sh
#
# Starts from a clean checkout, needs no network and no installation: Python with torch, numpy and safetensors is enough
# (pytest, if there, runs the engine's tests on the GPU as well). Prints tables in Markdown, then one line of JSON.
# Options are those of gpu_benchmark.py; without a GPU, try
#
#     Testing/benchmarks/gpu.sh --device cpu --config compact --shape 16 24 20 --steps 1 2
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export PYTHONPATH="$root/ScoreFusion${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$root/Testing/benchmarks/gpu_benchmark.py" "$@"
