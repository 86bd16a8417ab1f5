"""Several processes that train one model: what the first does alone, and shards gathered into whole tensors.

One process or several, DDP or FSDP2: all write the same checkpoint, so each can continue from another's. It holds
the whole adapter, and the optimizer's states in the order of the parameters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from gazal.common.errors import GazalError
from gazal.models.tensors import whole

T = TypeVar("T")


def on_main(act: Callable[[], T]) -> T:
    """Call ``act`` in the first process and return its result in all of them; its GazalError is raised in all."""
    state = PartialState()
    if state.num_processes == 1:
        return act()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = act()
        except GazalError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise GazalError(outcome[1])
    return outcome[0]


def trainable_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the whole trainable parameters by name, on the CPU. Every process must call this."""
    return {name: whole(value.detach()).cpu() for name, value in model.named_parameters() if value.requires_grad}


def _like(value: Any, parameter: torch.Tensor) -> Any:
    """Return a whole tensor cut into shards as ``parameter`` is; return anything else (step counts) as it is."""
    if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
        return distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    return value


class ManyProcesses:
    """Mixin for a Trainer: several processes train what one would, and FSDP2 has the checkpoints of one process."""

    def create_accelerator_and_postprocess(self) -> None:
        """Raise GazalError if accelerate does not shard as launched: on a CPU it silently trains unsharded."""
        super().create_accelerator_and_postprocess()
        if os.environ.get("ACCELERATE_USE_FSDP") == "true" and not self.is_fsdp_enabled:
            raise GazalError("launch.strategy=fsdp2: needs an NVIDIA GPU, not found here")

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of a step, without the examples that accelerate repeats at an epoch's end.

        It repeats them to give each process as many. Packed examples lie flat in one row, so their repeats stay.
        """
        batches, loading = list(islice(epoch_iterator, num_batches)), self.accelerator.gradient_state
        repeats = self.args.world_size > 1 and loading.end_of_dataloader and loading.remainder > 0
        if repeats and batches and "labels" in batches[-1]:
            rows = self.args.per_device_train_batch_size
            mine = loading.remainder - self.args.process_index * rows
            if mine < rows == len(batches[-1]["labels"]):
                batches[-1] = {name: value[: max(1, mine)] for name, value in batches[-1].items()}
                if mine < 1:  # one row for the same collectives as elsewhere, with nothing to learn from
                    batches[-1]["labels"] = torch.full_like(batches[-1]["labels"], -100)
        return batches, self._get_num_items_in_batch(batches, device)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        state = trainable_state(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=state)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        saved = self.optimizer.state_dict()
        states = {
            index: {
                key: whole(value).cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()
            }
            for index, state in saved["state"].items()
        }
        if self.args.should_save:
            torch.save({"state": states, "param_groups": saved["param_groups"]}, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        parameters = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        here = get_peft_model_state_dict(self.model, state_dict=parameters)
        with torch.no_grad():
            for name, value in load_file(Path(resume_from_checkpoint) / ADAPTER_SAFE_WEIGHTS_NAME).items():
                here[name].copy_(_like(value.to(here[name].dtype), here[name]))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.args.world_size == 1 or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        # transformers would map to "cpu:0", for which torch raises an error
        saved = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        parameters = [value for group in self.optimizer.param_groups for value in group["params"]]
        for index, parameter in enumerate(parameters):
            if index in saved["state"]:
                saved["state"][index] = {key: _like(value, parameter) for key, value in saved["state"][index].items()}
        self.optimizer.load_state_dict(saved)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
