"""What a recipe's training section means to TRL's configs, the same for both stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gazal.recipe_train import TrainSection


def training_arguments(section: TrainSection, seed: int, folder: Path) -> dict[str, Any]:
    """TrainingArguments of a stage that writes its checkpoints under ``folder``.

    They follow the machine too: bf16 raises on a CPU without ``use_cpu=True``.
    """
    return {
        "output_dir": str(folder / ".checkpoints"), "seed": seed, "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.schedule, "warmup_steps": section.warmup_steps, "max_grad_norm": section.max_grad_norm,
        "per_device_train_batch_size": section.batch_size, "gradient_checkpointing": section.gradient_checkpointing,
        "use_cpu": not torch.cuda.is_available(), "bf16": section.bf16, "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "steps", "save_steps": section.checkpoint_steps, "logging_steps": 1, "logging_nan_inf_filter": False,
        "report_to": "none", "disable_tqdm": True,
    }
