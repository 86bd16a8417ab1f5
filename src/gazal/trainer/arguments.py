"""A recipe's training section as arguments of TRL's configs, the same for both stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pytorch_optimizer import EXAdam
from transformers import Trainer

from gazal.recipe.training import TrainSection

# transformers' names
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit", "exadam": "adamw_torch_fused"}


def training_arguments(section: TrainSection, seed: int, folder: Path) -> dict[str, Any]:
    """Return the TrainingArguments of a stage that writes its checkpoints under ``folder``.

    They depend on the machine too. On a CPU bf16 raises without ``use_cpu=True``, and several processes share
    the sequences of a step.
    """
    size, passes = section.per_process(PartialState().num_processes)
    return {
        "output_dir": str(folder / ".checkpoints"),
        "seed": seed,
        "learning_rate": section.learning_rate,
        "optim": OPTIMIZERS[section.optimizer],
        "lr_scheduler_type": section.schedule,
        "warmup_steps": section.warmup_steps,
        "max_grad_norm": section.max_grad_norm,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": passes,
        "gradient_checkpointing": section.gradient_checkpointing,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": section.bf16,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "steps",
        "save_steps": section.checkpoint_steps,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def choose_optimizer(trainer: Trainer, section: TrainSection) -> None:
    """Give ``trainer`` the optimizer that transformers does not know by name: EXAdam (arXiv 2412.20302).

    The Trainer makes it when training begins, with its own parameter groups (weight decay on matrices only), betas
    and epsilon. GRPOTrainer's ``optimizers`` would need the groups made before, and fails under FSDP.
    """
    if section.optimizer == "exadam":
        args = trainer.args
        trainer.optimizer_cls_and_kwargs = (
            EXAdam,
            {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon},
        )
