"""The recipe's section on evaluation, and the models that a recipe knows by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from gazal.recipe.section import AtLeastOne, PositiveShare, Section

# YAML 1.1 reads the bare words on and off as true and false.
Thinking = Annotated[
    Literal["template", "on", "off"],
    BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value),
]


class EvaluationSection(Section):
    """How models are prompted; the same prompts for every model."""

    stages: list[Literal["base", "sft", "grpo"]] = Field(
        default=["base", "sft", "grpo"],
        description="Models of this run to evaluate. source: paper compares SFT and GRPO",
    )
    engine: Literal["transformers", "vllm"] = Field(
        default="transformers",
        description="What runs a model that is no server; vllm needs the gpu extra. "
        "source: chosen, because transformers runs everywhere",
    )
    method: Literal["generate", "loglik"] = Field(
        default="generate",
        description="A written answer, or the likeliest option. "
        "source: chosen, because a reasoning model must be let write (lm-eval's medical tasks use loglik)",
    )
    loglik_choice: Literal["letter", "text"] = Field(
        default="letter",
        description="What loglik compares: the options' letters, or their texts. "
        "source: chosen, because lm-eval's medqa and medmcqa compare letters",
    )
    loglik_norm: Literal["sum", "characters", "tokens"] = Field(
        default="sum",
        description="loglik as it is, or divided by the length of what is compared. "
        "source: chosen, because lm-eval's acc is the sum (its acc_norm: by characters)",
    )
    prompt: Literal["chat", "plain"] = Field(
        default="chat", description="Chat template, or plain text for a base model. source: card asks by chat template"
    )
    instruction: str = Field(
        default="",
        description="Said after the options, in every prompt. source: chosen, because the system prompt says it",
    )
    few_shot: NonNegativeInt = Field(
        default=0,
        description="Solved items before the question. source: chosen, because reasoning models are asked without",
    )
    few_shot_items: str = Field(
        default="",
        description="Items file that they come from; empty: the benchmark's own development items. source: chosen",
    )
    thinking: Thinking = Field(
        default="template",
        description="enable_thinking of templates that know it (Qwen3). source: card uses the template as it is",
    )
    temperature: NonNegativeFloat = Field(
        default=0.0,
        description="0 is greedy; the card samples at 0.7. source: chosen, because greedy has no sampling noise",
    )
    top_p: PositiveShare = Field(default=1.0, description="Nucleus. source: chosen (card: 0.8)")
    top_k: NonNegativeInt = Field(default=0, description="0 is off. source: chosen (card: 20)")
    samples: AtLeastOne = Field(default=1, description="Completions an item. source: chosen, because greedy needs one")
    max_new_tokens: int = Field(default=160, ge=8, description="Token limit. source: chosen (card: 2048)")
    stop_when_answered: bool = Field(
        default=True,
        description="A completion ends where its answer is closed. "
        "source: chosen, because what follows costs tokens only",
    )
    permute: NonNegativeInt = Field(
        default=0,
        description="Further orders of the options in which each item is asked. "
        "source: chosen, because it costs as much again each",
    )
    batch_tokens: int = Field(
        default=32768,
        ge=256,
        description="Token budget of a batch, prompt and completion. source: chosen, by CPU memory",
    )
    context: int | None = Field(
        default=None,
        ge=256,
        description="Tokens of prompt and completion for which vLLM keeps room; null: the model's whole context. "
        "source: chosen, because only large models leave too little",
    )
    concurrency: AtLeastOne = Field(
        default=8, description="Requests in flight to a server. source: chosen, because small servers queue more"
    )
    timeout: PositiveFloat = Field(
        default=300.0,
        description="Seconds that a server has for one answer. source: chosen, for 2,048 tokens on a busy server",
    )
    benchmarks: list[str] = Field(
        default=["medqa", "medmcqa", "pubmedqa", "mmlu_pro_medical"],
        description="The paper's four benchmarks. source: paper",
    )
    benchmark_limit: int | None = Field(
        default=100,
        ge=1,
        description="Items sampled (seeded) of each benchmark, null for all. "
        "source: chosen, because a model at chance needs no more",
    )


class EvaluatedModel(Section):
    """A model that `make evaluate MODELS=…` knows by name, and its differences from ``evaluation`` (null: none)."""

    model: str = Field(description="Folder, hub id, or openai:URL#name. source: card, or the model's own card")
    revision: str | None = Field(default=None, description="Hub revision to pin. source: chosen, because main moves")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None,
        description="Precision in which it computes; null: bf16 where the device computes in it. "
        "source: chosen, by the model's own card",
    )
    engine: Literal["transformers", "vllm"] | None = Field(
        default=None, description="Overrides evaluation.engine. source: chosen, by size"
    )
    thinking: Thinking | None = Field(
        default=None, description="Overrides evaluation.thinking. source: chosen, by the model's own card"
    )
    temperature: float | None = Field(
        default=None, ge=0, description="Overrides evaluation.temperature. source: chosen, by the model's own card"
    )
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Overrides evaluation.top_p. source: chosen, by the model's own card"
    )
    top_k: int | None = Field(
        default=None, ge=0, description="Overrides evaluation.top_k. source: chosen, by the model's own card"
    )
    max_new_tokens: int | None = Field(
        default=None, ge=8, description="Overrides evaluation.max_new_tokens. source: chosen, by the model's own card"
    )
    system: str | None = Field(
        default=None, description="Overrides model.system. source: chosen, by the model's own card"
    )
    prompt_opens_think: bool | None = Field(
        default=None, description="Overrides model.prompt_opens_think. source: chosen, by the model's template"
    )
