#!/usr/bin/env bash
# Prepare in build/gpu what the GPU check needs on a machine without a network: wheels, data, and what a CPU finds.
#   bash measure/gpu_pack.sh [--cpu] [--no-wheels] [--pack DIR]
# --cpu: for gpu_check.sh --cpu, which is smaller. PYTHON: default .venv, made by make.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then make -s -C "$root" .venv; PYTHON=$root/.venv/bin/python; fi
# What a CPU finds is asked of the CPU, also where there is a GPU.
export PYTHONPATH=$root/src:$root/measure CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$PYTHON" "$root/measure/gpu_pack.py" "$@"
