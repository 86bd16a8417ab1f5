"""Peak memory of a stage on one device: exact counts of what stays, and traced bytes of what a pass takes.

Phases of a training stage: ``rollouts`` (GRPO) and ``training`` (a forward and backward pass and the optimizer's step).
On a CPU there is ``finish`` too: merge and parity load the model a second time, in fp32, beside the trainer. What the
operating system's allocator keeps back is not predicted: glibc may hold as much again
(``MALLOC_MMAP_THRESHOLD_=65536`` gives it back).
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from gazal.common.devices import Devices
from gazal.planning.model_shapes import Sizes, config_text, sizes
from gazal.planning.trace import Pass, trace
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import AdapterSection
from gazal.trainer.proof import POSITIONS
from gazal.trainer.stage import PARITY_PROMPTS

PARTS = (
    *("weights", "adapter", "optimizer", "gradients", "activations", "logits"),
    *("KV cache", "rollout copy", "framework"),
)
# two fp32 moments; two 8-bit ones with an fp32 scale a block of 256 (bitsandbytes)
OPTIMIZER_BYTES = {"adamw": 8.0, "exadam": 8.0, "adamw_8bit": 2.0 + 8 / 256}
# QLoRA: 4 bits, a scale of 8 bits for 64 weights, one of 32 bits for 256 of those
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Trainer, datasets, tokenizer and what they import late: resident between two SFT steps of the embedded shape (69 MiB
# over the baseline) less its weights, adapter, gradients and optimizer (23 MiB)
CPU_FRAMEWORK = 45e6
CUDA_FRAMEWORK = 1.0e9  # CUDA context, cuBLAS workspaces; chosen, because 0.5 to 0.8 GB are usual on data-centre GPUs
NCCL_FRAMEWORK = 1.0e9  # NCCL's buffers where several processes talk; chosen, likewise
WIDTH = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens that a plan rests on.

    ``row``: the longest SFT example; ``mean_row``: an average one; ``prompt``: the longest prompt of GRPO and
    evaluation; ``known``: whether data of the run gave them.
    """

    row: int
    mean_row: float
    prompt: int
    known: bool = False


def assumed_tokens(recipe: Recipe, prompt: int) -> Tokens:
    """Return the lengths without data: every SFT row takes ``sft.max_length`` tokens, every prompt ``prompt``."""
    return Tokens(recipe.sft.max_length, recipe.sft.max_length, prompt)


@dataclass(frozen=True)
class StageMemory:
    """Bytes by phase and part on one device; ``host``: bytes of main memory that merging takes beside GPUs."""

    phases: dict[str, dict[str, float]]
    host: float = 0.0

    @property
    def peak_phase(self) -> str:
        """Return the phase that takes most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, float]:
        """Return the bytes by part in the peak phase."""
        return self.phases[self.peak_phase]

    @property
    def peak(self) -> float:
        """Return the bytes in the peak phase."""
        return sum(self.parts.values())


def weight_bytes(recipe: Recipe, size: Sizes) -> float:
    """Return the bytes of the frozen base.

    If the recipe loads it in 4 bits, that holds for the adapted layers; embeddings and norms keep their dtype.
    """
    saved = size.adapted * (WIDTH[recipe.model.dtype] - NF4_BYTES) if recipe.model.load_in_4bit else 0
    return size.base_bytes - saved


def shards(recipe: Recipe) -> int:
    """Return how many processes share weights, gradients and optimizer: 1 with DDP, which replicates them."""
    return 1 if recipe.launch.strategy == "ddp" else recipe.launch.processes


def resident(recipe: Recipe, stage: str, size: Sizes) -> dict[str, float]:
    """Return the bytes that stay on a device through training.

    FSDP2 and ZeRO-3 divide them by the processes. What is outside the layers stays gathered, and so do two layers: the
    next one is fetched while one computes. DDP adds buckets as large as the gradients.
    """
    section = getattr(recipe, stage)
    parts, weights = shards(recipe), weight_bytes(recipe, size)
    adapter = (
        size.trainable * 2.0 if recipe.model.load_in_4bit else float(size.adapter_bytes)
    )  # bf16 on a 4-bit base: TRL casts it
    gathered = (
        (size.outside + 2 * size.layer) * (weights + adapter) / (size.base_bytes + size.adapter_bytes)
        if parts > 1
        else 0.0
    )
    replicated = recipe.launch.processes > 1 and parts == 1
    return {
        "weights": weights / parts + min(gathered, weights * (1 - 1 / parts)),
        "adapter": adapter / parts,
        "optimizer": size.trainable * OPTIMIZER_BYTES[section.optimizer] / parts,
        "gradients": adapter / parts * (2 if replicated else 1),
    }


def framework(devices: Devices, processes: int) -> float:
    """Return the bytes that the libraries take by themselves."""
    return CPU_FRAMEWORK if devices.cpu else CUDA_FRAMEWORK + (NCCL_FRAMEWORK if processes > 1 else 0.0)


def training_pass(recipe: Recipe, config: PreTrainedConfig, stage: str, tokens: Tokens) -> tuple[Pass, int]:
    """Trace one process's longest pass of ``sft`` or ``grpo``; return it and its tokens."""
    section = getattr(recipe, stage)
    rows, _ = section.per_process(recipe.launch.processes)
    keep = section.max_completion_length if stage == "grpo" else 0
    length = tokens.prompt + keep if stage == "grpo" else tokens.row
    found = trace(
        config_text(config),
        config.num_hidden_layers,
        recipe.model.dtype,
        section.adapter,
        rows,
        length,
        stage,
        keep=keep,
        checkpointing=section.gradient_checkpointing,
        bf16=section.bf16,
        chunked=section.logits != "full",
    )
    return found, rows * length


def training_memory(
    recipe: Recipe, config: PreTrainedConfig, stage: str, tokens: Tokens, devices: Devices
) -> StageMemory:
    """Plan the memory of ``sft`` or ``grpo`` on one device, for the longest batch that ``tokens`` allow."""
    section = getattr(recipe, stage)
    size = sizes(config, recipe.model.dtype, section.adapter)
    one, _ = training_pass(recipe, config, stage, tokens)
    merged = stage == "grpo" and section.rollouts == "merged"
    rest = resident(recipe, stage, size) | {"framework": framework(devices, recipe.launch.processes)}
    rest |= {"rollout copy": size.adapted * WIDTH[recipe.model.dtype]} if merged else {}
    # 4-bit layers are made bf16 one at a time, once for the product and once for DoRA's norm
    whole = 2 * 2.0 * size.widest if recipe.model.load_in_4bit else 0.0
    phases = {"training": rest | {"activations": one.peak - one.logits + whole, "logits": one.logits}}
    rest.pop("gradients")
    if stage == "grpo":
        rows, passes = section.per_process(recipe.launch.processes)
        new = section.max_completion_length
        phases["rollouts"] = rest | generation_parts(
            recipe, config, rows * passes, tokens.prompt, new, None if merged else section.adapter
        )
        if not merged and recipe.launch.strategy == "zero3" and recipe.launch.processes > 1:
            # TRL gathers all of them to generate (ds3_gather_for_generation)
            phases["rollouts"]["weights"] = weight_bytes(recipe, size)
    finish = finish_bytes(size, tokens, config)
    if devices.cpu:
        phases["finish"] = rest | finish
    return StageMemory(phases, 0.0 if devices.cpu else sum(finish.values()))


def finish_bytes(size: Sizes, tokens: Tokens, config: PreTrainedConfig) -> dict[str, float]:
    """Return the bytes of merge and parity.

    These are the base a second time in fp32 with its adapter, and its file while that is read or written. The parity
    check adds the kept logits of two models, and those of one prompt twice.
    """
    kept, current = 2 * PARITY_PROMPTS * POSITIONS, 2 * tokens.prompt
    return {
        "second model": 4.0 * (size.base + size.trainable),
        "its file": 4.0 * size.base,
        "parity logits": 4.0 * (kept + current) * config.vocab_size,
    }


def generation_parts(
    recipe: Recipe, config: PreTrainedConfig, rows: int, prompt: int, new: int, adapter: AdapterSection | None
) -> dict[str, float]:
    """Return the KV cache and working memory of ``rows`` completions of ``new`` tokens.

    The cache is 2 × layers × KV heads × head size a token. Joining a new token to a layer's keys or values needs these
    twice for a moment. Sampling holds three rows × vocabulary in fp32.
    """
    one = trace(
        config_text(config), config.num_hidden_layers, recipe.model.dtype, adapter, rows, prompt, "generate", bf16=False
    )
    cache = one.kept / prompt * (prompt + new)
    return {
        "KV cache": cache * (1 + 1 / (2 * config.num_hidden_layers)),
        "activations": max(one.peak - one.kept, 0.0),
        "logits": 3 * 4.0 * rows * config.vocab_size,
    }


def evaluation_memory(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices) -> StageMemory:
    """Plan the memory of evaluating one merged model on one device; evaluation is one process and is not sharded."""
    size = sizes(config, recipe.model.dtype, recipe.sft.adapter)
    new = recipe.evaluation.max_new_tokens
    rows = max(1, recipe.evaluation.batch_tokens // (tokens.prompt + new))
    parts = {"weights": float(size.base_bytes), "framework": framework(devices, 1)} | generation_parts(
        recipe, config, rows, tokens.prompt, new, None
    )
    return StageMemory({"evaluation": parts})


def stage_memory(recipe: Recipe, config: PreTrainedConfig, stage: str, tokens: Tokens, devices: Devices) -> StageMemory:
    """Plan the memory of ``sft``, ``grpo`` or ``evaluation``."""
    return (
        evaluation_memory(recipe, config, tokens, devices)
        if stage == "evaluation"
        else training_memory(recipe, config, stage, tokens, devices)
    )


def least_bytes(recipe: Recipe, config: PreTrainedConfig, stage: str) -> float:
    """Return what stays on a device through a stage: a bound that costs no trace."""
    size = sizes(config, recipe.model.dtype, (recipe.grpo if stage == "grpo" else recipe.sft).adapter)
    return float(size.base_bytes) if stage == "evaluation" else sum(resident(recipe, stage, size).values())
