#!/usr/bin/env bash
# What a GPU shows of this project, in at most nine minutes: ten steps, each with a time limit of its own, each line on disk at once.
#   bash measure/gpu_check.sh [--from STEP] [--cpu] [--pack DIR] [--work DIR]
# --from goes on in a second call; --cpu runs every step in a shrunken form without a GPU. docs/gpu.md explains.
# PYTHON: an interpreter with torch, transformers, peft and accelerate; what else is missing comes from the pack (measure/gpu_pack.sh).
# OUT: folder for lines.jsonl and log.txt, default build/gpu-out of the repository.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_run.py" "$@"
