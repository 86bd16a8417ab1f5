"""The training worker of the GPU check's FSDP2 step: both stages in one process, noting what is sharded."""

from pathlib import Path
from unittest.mock import patch

from gpu_training import Shards

from gazal.training import worker

train = worker.train


def both(stage: str, run: Path, launch, callbacks, say) -> None:
    for stage in ("sft", "grpo"):
        train(stage, run, launch, [Shards(run / stage / "shards.json")], say)


if __name__ == "__main__":
    with patch.object(worker, "train", both):
        worker.main()
