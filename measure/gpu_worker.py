"""The training worker of the GPU check's FSDP2 step: both stages in one process, noting what is sharded."""

from pathlib import Path
from unittest.mock import patch

import torch
from gpu_training import Shards
from helpers.cpu_shards import shard_on_cpus

from gazal.training import worker

train = worker.train


def both(stage: str, run: Path, launch, callbacks, say) -> None:
    for stage in ("sft", "grpo"):
        train(stage, run, launch, [Shards(run / stage / "shards.json")], say)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        shard_on_cpus()
    with patch.object(worker, "train", both):
        worker.main()
