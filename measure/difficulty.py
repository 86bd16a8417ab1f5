"""What the difficulty filter is worth at equal compute: GRPO with the recipe's pass-rate bounds against GRPO without a filter.

`python measure/difficulty.py RUN` on a finished run folder. Arm 1 trains as the recipe says, its pass rates included; arm 2
trains on all GRPO items, from the same SFT model, seed and settings, until the same processor time has passed (constant learning
rate, so that stopping by time is the same schedule). Both are evaluated on the run's test split as the recipe evaluates.
A group has no signal from accuracy when its completions are all right or all wrong. Writes `measure/results/difficulty.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import TrainerCallback

from gazal.common.files import atomic_write, read_jsonl
from gazal.engines.load import load_engine
from gazal.evaluation.predict import predict
from gazal.items.reading import read_items
from gazal.predictions.file import read_predictions
from gazal.predictions.prompting import prompting_of
from gazal.recipe.recipe import Recipe
from gazal.scoring.stats import interval, paired_interval, paired_p
from gazal.training.grpo import train_grpo

RESULTS = Path(__file__).resolve().parent / "results" / "difficulty.md"


class Deadline(TrainerCallback):
    """Ends training at the first step after ``seconds`` of processor time, counted from its making."""

    def __init__(self, seconds: float) -> None:
        self.end = time.process_time() + seconds

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop |= time.process_time() >= self.end


def arm(name: str, recipe: Recipe, run: Path, folder: Path, seconds: float | None = None) -> dict[str, Any]:
    """Train and evaluate one arm; seconds are processor time of training alone, its filter included."""
    began = time.process_time()
    train_grpo(
        recipe,
        read_items(run / "data" / "grpo.parquet"),
        run / "sft" / "merged",
        folder,
        [Deadline(seconds)] if seconds else [],
    )
    spent = time.process_time() - began
    out = predict(
        load_engine(folder / "merged"),
        read_items(run / "data" / "test.parquet"),
        recipe.evaluation,
        folder / "test.parquet",
        prompting=prompting_of(recipe),
        seed=recipe.seed,
    )
    log = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
    return {
        "name": name,
        "seconds": spent,
        "steps": len(log),
        "silent": np.mean([row["zero_signal/accuracy"] for row in log]),
        "equal": np.mean([row["frac_reward_zero_std"] for row in log]),
        "means": read_predictions(out).groupby("item_id")["correct"].mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="finished run folders, such as one a seed")
    args = parser.parse_args()
    lines = [
        "# GRPO with and without the difficulty filter, equal processor time",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}. `python measure/difficulty.py {' '.join(path.name for path in args.runs)}`.",
        "",
        "| Seed | Items | Processor seconds | Steps | Groups all right or all wrong, % | Groups of equal total reward, % | Test accuracy, % (95 %) | Difference to no filter, points (95 %), p |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    torch.set_num_threads(1)  # processor time is then the work done
    for run in args.runs:
        recipe = Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
        if recipe.grpo.schedule != "constant_with_warmup" or not recipe.grpo.pass_rate_samples:
            parser.error(f"{run}: needs grpo.schedule constant_with_warmup and a pass-rate filter")
        whole = recipe.model_copy(
            update={"grpo": recipe.grpo.model_copy(update={"pass_rate_samples": 0, "steps": 100 * recipe.grpo.steps})}
        )
        with tempfile.TemporaryDirectory() as folder:
            kept = arm(
                f"pass rate {recipe.grpo.pass_rate_low} to {recipe.grpo.pass_rate_high}",
                recipe,
                run,
                Path(folder) / "kept",
            )
            all_items = arm("all", whole, run, Path(folder) / "all", kept["seconds"])
        a, b = (one["means"].to_numpy(float) for one in (all_items, kept))
        assert list(kept["means"].index) == list(all_items["means"].index)
        low, high = paired_interval(b - a)
        versus = f"{100 * (b - a).mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p = {paired_p(a, b, recipe.evaluation.samples):.2g}"
        for one, difference in ((kept, versus), (all_items, "")):
            ends = " to ".join(
                f"{100 * end:.1f}" for end in interval(one["means"].to_numpy(float), recipe.evaluation.samples)
            )
            lines.append(
                f"| {recipe.seed} | {one['name']} | {one['seconds']:.0f} | {one['steps']} | {100 * one['silent']:.1f} | {100 * one['equal']:.1f} | "
                f"{100 * one['means'].mean():.1f} ({ends}) | {difference} |"
            )
        print("\n".join(lines[-2:]), flush=True)
        with atomic_write(RESULTS) as handle:
            handle.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
