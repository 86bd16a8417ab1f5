"""FSDP2 on CPUs, for tests: accelerate shards on GPUs only, while torch's FSDP2 itself runs here."""

from __future__ import annotations

import os

from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

create = Trainer.create_accelerator_and_postprocess


def create_sharding(trainer: Trainer) -> None:
    """Let accelerate take this process's CPU for a GPU if the launch is to shard."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    create(trainer)


def shard_on_cpus() -> None:
    """Shard in every Trainer that this process makes from here on."""
    Trainer.create_accelerator_and_postprocess = create_sharding
