#!/usr/bin/env bash
# What a GPU shows of this project, in at most nine minutes: ten steps, each with a time limit of its own, each line on disk at once.
#   bash measure/gpu_check.sh [--from STEP] [--cpu]
# --from goes on in a second call; --cpu runs every step in a shrunken form without a GPU. docs/gpu.md explains.
# PYTHON: an interpreter with torch, transformers, peft and accelerate; what else is missing comes from build/gpu (measure/gpu_pack.sh).
# OUT: folder for lines.jsonl and log.txt, default build/gpu-out.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" measure/gpu_run.py "$@"
