"""What notebook 04 shows beside the results: the settings, one whole prompt, and why answers are not read."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from gazal.items.schema import Item
from gazal.recipe.recipe import Recipe
from gazal.scoring.report import results_table

ASKED = (
    "method",
    "prompt",
    "instruction",
    "few_shot",
    "thinking",
    "temperature",
    "top_p",
    "top_k",
    "samples",
    "max_new_tokens",
    "stop_when_answered",
    "permute",
    "benchmark_limit",
)


def settings_table(recipe: Recipe) -> Styler:
    """Return the recipe's settings for prompting, one per row: the value, and the description of the recipe's field."""
    fields = type(recipe.evaluation).model_fields
    rows = {
        name: (
            str(getattr(recipe.evaluation, name)) or "(none)",
            (fields[name].description or "").partition(" source: ")[0],
        )
        for name in ASKED
    }
    table = pd.DataFrame(rows.values(), columns=["value", "meaning"], index=list(rows))
    return table.style.set_table_styles([{"selector": "th, td", "props": "text-align: left"}])


def results_shown(scores: dict[str, Any]) -> str:
    """Return :func:`gazal.scoring.report.results_table` with its notes as a list, which is easier to read."""
    table, _, notes = results_table(scores).partition("\n\n")
    return "\n".join([table, "", *(f"- {note}" for note in notes.splitlines())])


def prompt_shown(recipe: Recipe, item: Item, development: str | None = None) -> str:
    """Return the prompt of the recipe's base model for ``item``, rendered by the model's own chat template.

    ``development``: the items file that the few-shot examples come from, if there are any. Raises GazalError if the
    tokenizer cannot be loaded or refuses the prompt.
    """
    from gazal.models.loading import base_path, load_tokenizer
    from gazal.models.rendering import Renderer
    from gazal.predictions.prompting import prompting_of

    prompting = prompting_of(recipe, items=[item], development=development)
    tokenizer = load_tokenizer(base_path(recipe.model), recipe.model.revision)
    return Renderer(tokenizer, recipe.model.base).text(prompting.prompt(item), recipe.evaluation.thinking)


def reasons_table(scores: dict[str, Any]) -> pd.DataFrame:
    """Return the share of completions by the extractor's reason code, a row for each benchmark and model.

    ``ok`` (an answer is read) comes first, then the most frequent codes.
    """
    benchmarks = dict.fromkeys(b for entry in scores["models"].values() for b in entry["benchmarks"])
    found = {
        (benchmark, model): score["reasons"]
        for benchmark in benchmarks
        for model, entry in scores["models"].items()
        if (score := entry["benchmarks"].get(benchmark)) and score.get("reasons")
    }
    counts = pd.DataFrame(
        list(found.values()), index=pd.MultiIndex.from_tuples(found, names=["benchmark", "model"])
    ).fillna(0)
    return counts.div(counts.sum(axis=1), axis=0)[
        sorted(counts.columns, key=lambda reason: (reason != "ok", -counts[reason].sum(), reason))
    ]
