"""Which items GRPO sees: pass rates under the SFT model, and the bounds that set items aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.common.streams import Stream, generator
from gazal.engines.load import load_engine
from gazal.evaluation.predict import predict
from gazal.items.schema import Item
from gazal.predictions.file import read_predictions
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection
from gazal.recipe.recipe import Recipe


def pass_rates(
    recipe: Recipe, items: list[Item], sft: Path, folder: Path, say: Callable[[str], None] = print
) -> dict[str, float]:
    """Return by item the share of ``grpo.pass_rate_samples`` sampled completions whose extracted letter is the key.

    The completions stay in ``folder/pass_rates.parquet``, a predictions file. They are sampled once, also after a
    kill, and sampled again if the model, the items or the sampling change.
    """
    section, model = recipe.grpo, recipe.model
    settings = EvaluationSection(
        temperature=section.temperature,
        samples=section.pass_rate_samples,
        max_new_tokens=section.max_completion_length,
        batch_tokens=65_536,
        stop_when_answered=False,  # as in training
    )
    path = predict(
        load_engine(sft, model.dtype),
        items,
        settings,
        folder / "pass_rates.parquet",
        prompting=Prompting(model.system, model.prompt_opens_think),
        seed=recipe.seed,
        replace=True,
        say=say,
    )
    return read_predictions(path).groupby("item_id", sort=False)["correct"].mean().to_dict()


def choose_items(
    recipe: Recipe, items: list[Item], sft: Path, folder: Path, say: Callable[[str], None] = print
) -> list[Item]:
    """Return the items whose pass rate under the SFT model lies inside the recipe's bounds, in seeded order.

    Writes ``folder/pass_rates.json`` (item id to pass rate). Raises GazalError if too few are left for one step.
    """
    section, kept = recipe.grpo, list(items)
    if section.pass_rate_samples:
        rates = pass_rates(recipe, items, sft, folder, say)
        write_json(folder / "pass_rates.json", rates)
        kept = [item for item in items if section.pass_rate_low <= rates[item.id] <= section.pass_rate_high]
        silent = np.mean([rate in (0, 1) for rate in rates.values()])
        say(
            f"pass rates: mean {np.mean(list(rates.values())):.3f}; {silent:.0%} of items always or never solved "
            f"in {section.pass_rate_samples} tries; {len(kept)} of {len(items)} "
            f"between {section.pass_rate_low} and {section.pass_rate_high}"
        )
    if len(kept) < section.prompts_per_step:
        raise GazalError(
            f"grpo: {len(kept)} items left by the pass-rate filter, "
            f"fewer than grpo.prompts_per_step {section.prompts_per_step}"
        )
    return [kept[i] for i in generator(recipe.seed, Stream.GRPO_ORDER).permutation(len(kept))]
