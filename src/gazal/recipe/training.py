"""The recipe's ``sft``, ``grpo`` and ``launch`` sections: what both training stages share, and what each adds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from gazal.common.formats import Share
from gazal.recipe.rewards import RewardConfig
from gazal.recipe.section import AtLeastOne, PositiveShare, Section


class AdapterSection(Section):
    """A LoRA-family adapter."""

    rank: AtLeastOne = Field(
        default=16, description="Rank r. source: paper has 256; 16 chosen, because the layers are 256 wide"
    )
    alpha: AtLeastOne = Field(
        default=16, description="Numerator of the scale α/√r. source: chosen, because α = r gives scale √r"
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Adapter dropout. source: chosen, because DoRA in PEFT is exact and fast only at 0",
    )
    dora: bool = Field(default=True, description="Weight-decomposed LoRA. source: paper")
    rslora: bool = Field(default=True, description="Scale α/√r in place of α/r. source: paper")
    target_modules: str | list[str] = Field(
        default="all-linear",
        description="Adapted layers. source: chosen, because DoRA and QLoRA recommend all linear layers",
    )


class HealthSection(Section):
    """When a stage stops by itself, with the reason; the last good checkpoint stays.

    NaN and infinite losses always stop it.
    """

    zero_signal_steps: NonNegativeInt = Field(
        default=8,
        description="GRPO: stop after so many successive steps in which no group had a signal, 0 for never. "
        "source: chosen, because such steps train nothing (trl#3708)",
    )
    min_entropy: NonNegativeFloat = Field(
        default=0.01,
        description="GRPO: mean token entropy in nats that counts as collapsed, 0 for never. "
        "source: chosen, because recorded embedded runs stay above 0.13",
    )
    window: int = Field(
        default=10,
        ge=2,
        description="GRPO: steps over which entropy, hacking and truncation are judged. "
        "source: chosen, because single steps are noisy",
    )
    format_rise: NonNegativeFloat = Field(
        default=0.1,
        description="GRPO hacking alarm: the format reward's rise between two successive windows. "
        "source: chosen, because rewards fluctuate by a few points",
    )
    accuracy_fall: NonNegativeFloat = Field(
        default=0.1,
        description="GRPO hacking alarm: the accuracy reward's fall at the same time; 0 for no alarm. "
        "source: chosen, likewise",
    )
    max_truncated: PositiveShare = Field(
        default=0.9,
        description="GRPO: share of completions at the length cap over a window, 1 for never. "
        "source: chosen, because a truncated completion earns nothing",
    )


class LaunchSection(Section):
    """One process trains inside the notebook; more go through ``accelerate launch``."""

    processes: AtLeastOne = Field(
        default=1,
        description="Processes over all machines, usually one a GPU; they share each step's sequences, so the recipe "
        "computes the same. source: chosen, because one needs no launcher",
    )
    machines: AtLeastOne = Field(
        default=1,
        description="Machines, with the run folder on a disk that all share; training/launch.py says what to run on "
        "the others. source: chosen, because one is common",
    )
    strategy: Literal["ddp", "fsdp2", "zero3"] = Field(
        default="ddp",
        description="How processes share the model (recipes/accelerate/). "
        "source: chosen, because DDP is the simplest where the model fits",
    )


class TrainSection(Section):
    """What both training stages share."""

    optimizer: Literal["adamw", "adamw_8bit", "exadam"] = Field(
        default="adamw",
        description="AdamW; its 8-bit form (bitsandbytes, GPU extra); EXAdam (arXiv 2412.20302). "
        "source: chosen, because the paper's is not known",
    )
    checkpoint_steps: AtLeastOne = Field(
        default=50,
        description="Optimizer steps between two checkpoints; the last step always has one. "
        "source: chosen, because a kill then costs minutes",
    )
    health: HealthSection = Field(
        default_factory=HealthSection, description="When training stops by itself. source: chosen"
    )

    learning_rate: PositiveFloat = Field(description="Peak learning rate. source: chosen, by dev")
    warmup_steps: NonNegativeInt = Field(
        default=5, description="Linear warm-up. source: chosen, because a new adapter starts at zero"
    )
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = Field(
        default="linear", description="Learning-rate schedule. source: chosen, by dev"
    )
    batch_size: AtLeastOne = Field(
        default=32,
        description="Sequences of a process in one forward pass, at most. source: chosen, by CPU throughput and memory",
    )
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="Gradient clipping. source: chosen, the Trainer's default"
    )
    bf16: bool = Field(
        default=True,
        description="bf16 autocast, weights in model.dtype. source: chosen, because it is faster on AMX and on GPUs",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations. source: chosen, because it only costs time on CPU"
    )
    adapter: AdapterSection = Field(
        default_factory=AdapterSection, description="The stage's new adapter. source: paper (DoRA, rsLoRA)"
    )

    @property
    def sequences(self) -> int:
        """The number of sequences of one optimizer step, over all processes."""
        raise NotImplementedError

    def per_process(self, processes: int) -> tuple[int, int]:
        """Return how many sequences each process reads in a forward pass, and its forward passes a step.

        ``processes``: how many share the sequences of a step.
        """
        share = max(1, self.sequences // processes)
        size = min(self.batch_size, share)
        return size, share // size


class SFTSection(TrainSection):
    """Stage 1, supervised fine-tuning on completions."""

    learning_rate: PositiveFloat = Field(default=1e-3, description="Peak learning rate. source: chosen, by dev")
    gradient_accumulation: AtLeastOne = Field(
        default=1,
        description="A step has batch_size × gradient_accumulation sequences, over all processes. "
        "source: chosen, because memory is no limit here",
    )
    epochs: PositiveFloat = Field(
        default=1.0, description="Passes over the examples. source: chosen, because SFT is kept short"
    )
    packing: bool = Field(
        default=False,
        description="Whole examples in rows of max_length tokens, each attending to itself only (transformers masks "
        "by position ids, without flash attention too); batch_size then counts rows. "
        "source: chosen, because short examples of one batch are padded cheaply",
    )
    sampling: Literal["random", "grouped"] = Field(
        default="random",
        description="Order of examples where they are not packed; grouped: like lengths share a batch. "
        "source: chosen, because grouping by length made batches of one reasoning type and cost most of the learning",
    )
    logits: Literal["full", "chunked", "liger"] = Field(
        default="full",
        description="Loss from all logits at once, in chunks, or by liger-kernel (GPU extra). "
        "source: chosen, because small vocabularies fit",
    )
    max_length: int = Field(
        default=512,
        ge=16,
        description="Tokens a sequence; longer ones are set aside. "
        "source: chosen, because the longest example takes 160",
    )

    @model_validator(mode="after")
    def _check(self) -> SFTSection:
        if self.packing and self.sampling == "grouped":
            raise ValueError(
                "sampling: grouped orders examples that are not packed; set packing: false or sampling: random"
            )
        return self

    @property
    def sequences(self) -> int:
        return self.batch_size * self.gradient_accumulation


class GRPOSection(TrainSection):
    """Stage 2, group relative policy optimisation."""

    learning_rate: PositiveFloat = Field(default=3e-4, description="Peak learning rate. source: chosen, by dev")
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = Field(
        default="constant_with_warmup", description="Learning-rate schedule. source: chosen, because the run is short"
    )
    checkpoint_steps: AtLeastOne = Field(
        default=5, description="As for SFT. source: chosen, because a step takes seconds to minutes"
    )
    batch_size: AtLeastOne = Field(
        default=64,
        description="Sequences of a process in one forward pass, at most. source: chosen, by CPU memory (logits)",
    )
    steps: AtLeastOne = Field(
        default=30, description="Optimizer steps. source: chosen, because of the ten-minute budget"
    )
    prompts_per_step: AtLeastOne = Field(default=16, description="Groups a step. source: chosen, by dev")
    num_generations: int = Field(default=8, ge=2, description="Completions a prompt. source: chosen, TRL's default")
    max_completion_length: int = Field(
        default=128, ge=8, description="Tokens a completion. source: chosen, because full traces take 60 to 90"
    )
    temperature: PositiveFloat = Field(
        default=1.0,
        description="Sampling in rollouts. source: chosen, because other values make sampler and trainer disagree",
    )
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = Field(
        default="dapo", description="Loss normalisation. source: chosen, TRL's default; the card names none"
    )
    beta: NonNegativeFloat = Field(
        default=0.0, description="KL weight to the SFT model. source: chosen, because KL costs a second forward pass"
    )
    epsilon: PositiveFloat = Field(default=0.2, description="Clip range below. source: chosen, TRL's default")
    epsilon_high: float | None = Field(default=None, description="Clip range above. source: chosen, same as below")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group", description="Advantage scaling. source: chosen, as in the GRPO paper"
    )
    aggregation: Literal["sum", "gdpo"] = Field(
        default="sum",
        description="Weighted rewards summed and then normalised, or each normalised and then summed (GDPO, arXiv "
        "2601.05242). source: chosen, TRL's default",
    )
    logits: Literal["full", "liger"] = Field(
        default="full",
        description="As for SFT; liger-kernel computes the loss without them (GPU extra). "
        "source: chosen, because small vocabularies fit",
    )
    probe_prompts: NonNegativeInt = Field(
        default=4,
        description="Prompts of the reward probe before training, 0 for none. source: chosen, because it takes seconds",
    )
    rollouts: Literal["merged", "trainer"] = Field(
        default="merged",
        description="Generate from a merged copy, or as TRL does. "
        "source: chosen, because an unmerged DoRA adapter is 2.6 times slower",
    )
    pass_rate_samples: NonNegativeInt = Field(
        default=4,
        description="Rollouts an item before training, 0 for no filter. "
        "source: chosen, because items always or never solved give no signal",
    )
    pass_rate_low: Share = Field(
        default=0.01,
        description="Items below are set aside. source: chosen, because a group without a success has no signal",
    )
    pass_rate_high: Share = Field(
        default=0.99,
        description="Items above are set aside. source: chosen, because a group without a failure has no signal",
    )
    rewards: RewardConfig = Field(
        default_factory=RewardConfig,
        description="The four rewards. source: card names accuracy, format, length, repetition",
    )
    log_completions: NonNegativeInt = Field(
        default=4,
        description="Sampled completions kept a step. source: chosen, because reading them shows reward hacking",
    )

    @property
    def sequences(self) -> int:
        return self.prompts_per_step * self.num_generations

    @model_validator(mode="after")
    def _check(self) -> GRPOSection:
        if self.pass_rate_low > self.pass_rate_high:
            raise ValueError("pass_rate_low: is above pass_rate_high")
        if self.prompts_per_step * self.num_generations % self.batch_size:
            raise ValueError("batch_size: does not divide prompts_per_step × num_generations")
        return self
