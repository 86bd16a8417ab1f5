"""A GRPO step with merged rollouts against TRL's own GRPOTrainer: ``python measure/grpo_step.py [--wheel WHEEL]``;
writes measure/results/grpo_step.md.

SmolLM2-135M in fp32 on the CPU, the recipe's adapter (DoRA, rsLoRA, rank 16 on all linear layers) from the same seed, the same
prompts, and completions of the same length: the tokenizer's EOS is set to a token that the model hardly ever says (a step in
which more than 15 % of the tokens are missing ends the benchmark).
TRL's trainer generates through the unmerged adapter with transformers' generate, which is what it does without vLLM. Single
steps of the two alternate in one process; generation is what happens inside ``_generate``, the rest is training.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from smollm2 import smollm2
from transformers import PrinterCallback
from trl import GRPOTrainer

from gazal.common.files import atomic_write
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_model, load_tokenizer, lora_config
from gazal.recipe.recipe import Recipe
from gazal.rewards.trl import trl_reward_functions
from gazal.training.grpo import grpo_dataset, grpo_trainer

OUT = Path(__file__).parent / "results" / "grpo_step.md"
UNSAID = "<file_sep>"
CLOCK = time.perf_counter


def timed(trainer: GRPOTrainer) -> GRPOTrainer:
    """The trainer, which from now on keeps seconds and completion lengths of its last generation."""
    generate = trainer._generate

    def wrapper(prompts: list[Any]) -> Any:
        started = CLOCK()
        made = generate(prompts)
        trainer.spent, trainer.lengths = CLOCK() - started, [len(ids) for ids in made[1]]
        return made

    trainer._generate = wrapper
    return trainer


def step(trainer: GRPOTrainer, tokens: int) -> tuple[float, float]:
    """Seconds of generation and of the rest of one optimizer step."""
    started = CLOCK()
    trainer.train()
    whole = CLOCK() - started
    assert max(trainer.lengths) == tokens, trainer.lengths  # so both sides decode and train on the same width
    return trainer.spent, whole - trainer.spent


def trainers(folder: Path, model: Path, prompts: int, generations: int, tokens: int) -> dict[str, GRPOTrainer]:
    """Ours, and TRL's with the same arguments, data, rewards and adapter."""
    rows = prompts * generations
    recipe = Recipe.model_validate(
        {
            "model": {"base": str(model), "system": ""},
            "grpo": {
                "steps": 1,
                "prompts_per_step": prompts,
                "num_generations": generations,
                "batch_size": rows,
                "max_completion_length": tokens,
                "bf16": False,
                "warmup_steps": 0,
                "temperature": 0.3,
            },
        }
    )
    items = synthesize(prompts, 1, variety="plain")
    tokenizer = load_tokenizer(model)
    tokenizer.eos_token = UNSAID
    rewards = trl_reward_functions(recipe.grpo.rewards, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    ours = grpo_trainer(recipe, items, model, tokenizer, rewards, folder, [])
    torch.manual_seed(0)
    theirs = GRPOTrainer(
        model=load_model(model).train(),
        args=copy.deepcopy(ours.args),
        train_dataset=grpo_dataset(items, ""),
        processing_class=tokenizer,
        reward_funcs=rewards,
        peft_config=lora_config(recipe.grpo.adapter),
    )
    theirs.remove_callback(PrinterCallback)
    for trainer in (ours, theirs):
        trainer.args.save_strategy = "no"
        policy = trainer.accelerator.unwrap_model(trainer.model)
        for holder in (policy, policy.get_base_model()):  # PEFT keeps a second one, and generates by that
            holder.generation_config.eos_token_id = tokenizer.eos_token_id
    return {"TRL's own": timed(theirs), "merged rollouts": timed(ours)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads, default all")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of all threads in place of wall time, for a busy machine"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.cpu_time:
        global CLOCK
        CLOCK = time.process_time
    model = smollm2(args.wheel)
    with tempfile.TemporaryDirectory() as folder:
        both = trainers(Path(folder), model, args.prompts, args.generations, args.tokens)
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in both}
        for repeat in range(args.repeats + 1):
            for name, trainer in both.items():
                found = step(trainer, args.tokens)
                if repeat:  # the first of each warms up
                    spent[name].append(found)
                print(f"{repeat} {name}: generation {found[0]:.1f} s, training {found[1]:.1f} s", flush=True)
    ours = both["merged rollouts"]
    merged = ours.rollout_func.merged
    started = CLOCK()
    merged.refresh()
    refresh = CLOCK() - started
    weights = sum(p.nbytes for p in ours.model.parameters())
    half = {name: [statistics.median(values) for values in zip(*rows, strict=True)] for name, rows in spent.items()}
    whole = {name: statistics.median(map(sum, rows)) for name, rows in spent.items()}
    ratios = sorted(sum(a) / sum(b) for a, b in zip(*spent.values(), strict=True))
    trl, mine = both
    lines = [
        "# A GRPO step",
        "",
        f"`python measure/grpo_step.py`; SmolLM2-135M fp32, {torch.get_num_threads()} CPU threads, {args.prompts} prompts × {args.generations} completions of at most {args.tokens} tokens (the longest of each step has them all),"
        f" DoRA + rsLoRA rank 16 on all linear layers. Medians of {args.repeats} alternating steps, seconds{' of CPU time' if args.cpu_time else ''}.",
        "",
        "| | Generation | Training | Whole step | Tokens a second, padding included |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {name} | {half[name][0]:.1f} | {half[name][1]:.1f} | {whole[name]:.1f} | {args.prompts * args.generations * args.tokens / half[name][0]:.0f} |"
            for name in both
        ),
        f"| ratio | {half[trl][0] / half[mine][0]:.2f} | {half[trl][1] / half[mine][1]:.2f} | {whole[trl] / whole[mine]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | |",
        "",
        f"Rollout copy: {merged.copied_bytes / 2**20:.0f} MiB of merged weights beside {weights / 2**20:.0f} MiB of policy (embeddings and norms are shared);"
        f" bringing it up to date takes {refresh:.2f} s of the generation's time.",
        "",
    ]
    with atomic_write(OUT) as handle:
        handle.write("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
