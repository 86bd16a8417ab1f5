"""The models to evaluate, found by the names of a recipe or by their own, and the settings they are evaluated with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gazal.common.endpoints import public_model, public_spec
from gazal.common.errors import GazalError
from gazal.common.files import file_safe, write_json
from gazal.models.identity import folder_name
from gazal.predictions.folder import KEPT
from gazal.recipe.recipe import Recipe

OF_EVALUATION = ("engine", "thinking", "temperature", "top_p", "top_k", "max_new_tokens")
OF_MODEL = ("system", "prompt_opens_think")
SETTINGS = (
    "method",
    "temperature",
    "top_p",
    "top_k",
    "max_new_tokens",
    "samples",
    "thinking",
    "prompt",
    "instruction",
    "few_shot",
)


@dataclass(frozen=True)
class Target:
    """One model: ``name`` of its folder of predictions, ``spec`` to load, and the recipe as it holds for this model."""

    name: str
    spec: str
    recipe: Recipe
    revision: str | None = None
    dtype: str | None = None

    def changed(self, evaluation: dict[str, Any]) -> Target:
        """Return the same model with other values of ``evaluation``."""
        section = self.recipe.evaluation.model_copy(update=evaluation)
        return replace(self, recipe=self.recipe.model_copy(update={"evaluation": section}))

    @property
    def shown(self) -> str:
        """Return the model's name for result files: a hub id, ``embedded``, a server's model; of a folder its name."""
        if self.spec.startswith("openai:"):
            return public_model(self.spec.partition("#")[2])
        return file_safe(self.spec) if Path(self.spec).is_dir() else self.spec

    def settings(self) -> dict[str, Any]:
        """Return the settings that the model is evaluated with, for readers of its scores."""
        settings = self.recipe.evaluation
        engine, dtype = ("server", None) if self.spec.startswith("openai:") else (settings.engine, self.dtype)
        kept = {key: getattr(settings, key) for key in SETTINGS}
        return {
            "model": self.shown,
            "revision": self.revision,
            "engine": engine,
            "dtype": dtype,
            **kept,
            "few_shot_items": Path(settings.few_shot_items).name,
            "system": self.recipe.model.system,
        }


def find_targets(names: Iterable[str], recipe: Recipe) -> list[Target]:
    """Return the models of ``names``: names in the recipe's ``models``, else what can be loaded.

    That is a folder, a hub id, ``embedded`` or ``openai:URL#name``. Raises GazalError for no name, an empty one, one
    that folders of predictions reserve, and two whose predictions would lie in one folder.
    """
    found: dict[str, Target] = {}
    for name in names:
        if not name.strip():
            raise GazalError(
                "--model: empty; expected a folder, a hub id, openai:URL#name"
                + (f", or one of {', '.join(recipe.models)}" if recipe.models else "")
            )
        one = _target(name, recipe)
        if one.name in KEPT:
            raise GazalError(
                f"--model {public_spec(name)}: a folder of predictions cannot be named {one.name}, "
                "which is kept for other files; rename the model's"
            )
        if one.name in found:
            raise GazalError(
                f"--model {public_spec(name)}: its predictions would lie in the folder {one.name}, "
                f"as those of {public_spec(found[one.name].spec)}; evaluate it into another --out"
            )
        found[one.name] = one
    if not found:
        raise GazalError(
            "no model is asked for" + (f" (the recipe knows {', '.join(recipe.models)})" if recipe.models else "")
        )
    return list(found.values())


def _target(name: str, recipe: Recipe) -> Target:
    entry = recipe.models.get(name)
    if entry is None:
        return Target(folder_name(name), name, recipe)
    evaluation, model = (
        section.model_copy(update={key: value for key in keys if (value := getattr(entry, key)) is not None})
        for section, keys in ((recipe.evaluation, OF_EVALUATION), (recipe.model, OF_MODEL))
    )
    own = recipe.model_copy(update={"evaluation": evaluation, "model": model})
    return Target(name, entry.model, own, entry.revision, entry.dtype)


def save_settings(eval_dir: Path, one: Target) -> None:
    """Write the model's settings into ``asked.json``, beside those of other models."""
    write_json(eval_dir / "asked.json", read_settings(eval_dir) | {one.name: one.settings()})


def read_settings(eval_dir: Path) -> dict[str, dict[str, Any]]:
    """Return each model's settings, none without a file. Raises GazalError for a broken file."""
    path = eval_dir / "asked.json"
    if not path.exists():
        return {}
    try:
        return {str(name): dict(how) for name, how in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise GazalError(f"{path}: not a JSON object of protocols; remove it") from error
