"""Recipes: YAML read into strict models. A recipe changes values, never code.

Each field's description ends with its source: ``paper`` (arXiv 2506.21594), ``card`` (the model card)
or ``chosen, because …``. If a recipe file sets another value, a comment there gives that value's source.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from gazal.items.prompts import SYSTEM
from gazal.recipe.data import DataSection
from gazal.recipe.evaluation import EvaluatedModel, EvaluationSection
from gazal.recipe.section import Section
from gazal.recipe.training import GRPOSection, LaunchSection, SFTSection


class ModelSection(Section):
    """The base model."""

    base: str = Field(
        default="embedded", description="`embedded`, a folder or a hub id. source: card names Qwen/Qwen3-32B"
    )
    revision: str | None = Field(default=None, description="Hub revision to pin. source: chosen, because main moves")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Dtype of the weights in training. source: chosen, because fp32 is exact on CPU"
    )
    system: str = Field(
        default=SYSTEM, description="System prompt of every stage. source: chosen, because the card shows none"
    )
    backend: Literal["transformers", "unsloth"] = Field(
        default="transformers",
        description="What loads the model for training; unsloth needs an NVIDIA GPU and the gpu extra. "
        "source: chosen, because transformers runs everywhere",
    )
    load_in_4bit: bool = Field(
        default=False,
        description="Frozen base in 4-bit NF4 by bitsandbytes (QDoRA; GPU extra). "
        "source: chosen, because 4 bits cost accuracy",
    )
    prompt_opens_think: bool = Field(
        default=False,
        description="The template itself opens <think>. source: chosen, because neither ChatML nor Qwen3 does",
    )


class Recipe(Section):
    """A whole run."""

    name: str = Field(
        default="embedded", pattern=r"^[A-Za-z0-9._-]+$", description="Name of the run folder. source: chosen"
    )
    seed: NonNegativeInt = Field(
        default=1, description="Seed of data, training, sampling and bootstrap. source: chosen, because one must be"
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads for torch, null for all. source: chosen")
    model: ModelSection = Field(default_factory=ModelSection, description="Base model")
    data: DataSection = Field(default_factory=DataSection, description="Data")
    sft: SFTSection = Field(default_factory=SFTSection, description="Stage 1")
    grpo: GRPOSection = Field(default_factory=GRPOSection, description="Stage 2")
    launch: LaunchSection = Field(default_factory=LaunchSection, description="Processes of training")
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection, description="Evaluation")
    models: dict[str, EvaluatedModel] = Field(
        default={},
        description="Models that `make evaluate` knows by a name of ours. source: chosen, empty but in published.yaml",
    )

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.grpo.max_completion_length > self.model_limit:
            raise ValueError(
                f"grpo.max_completion_length: {self.grpo.max_completion_length} is over "
                f"the context length {self.model_limit}"
            )
        launch = self.launch
        if launch.processes % launch.machines:
            raise ValueError(f"launch.machines: {launch.machines} do not share {launch.processes} processes evenly")
        for name, section in (("sft", self.sft), ("grpo", self.grpo)):
            size, passes = section.per_process(launch.processes)
            if size * passes * launch.processes != section.sequences:
                many = f"launch.processes: {launch.processes} do not share the {section.sequences}"
                raise ValueError(
                    f"{many} sequences of a step in equal batches of {name}.batch_size {section.batch_size} or less"
                )
        if self.grpo.prompts_per_step % launch.processes:
            raise ValueError(
                f"launch.processes: {launch.processes} do not divide grpo.prompts_per_step "
                f"{self.grpo.prompts_per_step} (each makes whole groups)"
            )
        if launch.processes > 1 and launch.strategy != "ddp" and self.grpo.rollouts == "merged":
            raise ValueError(
                "grpo.rollouts: a merged copy needs the whole model in each process; "
                f"with launch.strategy {launch.strategy} set grpo.rollouts=trainer"
            )
        return self

    @property
    def model_limit(self) -> int:
        """Context length in tokens: 2,048 of the embedded model, 32,768 of Qwen3 (card)."""
        return 2048 if self.model.base == "embedded" else 32_768
