"""Recipes: YAML read into strict models. A recipe changes values, never code.

Each field's description ends with its source: ``paper`` (arXiv 2506.21594), ``card`` (the model card)
or ``chosen, because …``; where a recipe file sets another value, its comment gives that value's source.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from gazal.common.errors import GazalError
from gazal.common.paths import RECIPES
from gazal.items.prompts import SYSTEM
from gazal.recipe_data import DataSection
from gazal.recipe_evaluation import EvaluatedModel, EvaluationSection
from gazal.recipe_train import GRPOSection, LaunchSection, SFTSection
from gazal.section import Section


class ModelSection(Section):
    """The base model."""

    base: str = Field("embedded", description="`embedded`, a folder or a hub id. source: card names Qwen/Qwen3-32B")
    revision: str | None = Field(None, description="Hub revision to pin. source: chosen, because main moves")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Dtype of the weights in training. source: chosen, because fp32 is exact on CPU"
    )
    system: str = Field(SYSTEM, description="System prompt of every stage. source: chosen, because the card shows none")
    backend: Literal["transformers", "unsloth"] = Field(
        "transformers",
        description="What loads the model for training; unsloth needs an NVIDIA GPU and the gpu extra. source: chosen, because transformers runs everywhere",
    )
    load_in_4bit: bool = Field(
        False,
        description="Frozen base in 4-bit NF4 by bitsandbytes (QDoRA; GPU extra). source: chosen, because 4 bits cost accuracy",
    )
    prompt_opens_think: bool = Field(
        False, description="The template itself opens <think>. source: chosen, because neither ChatML nor Qwen3 does"
    )


class Recipe(Section):
    """A whole run."""

    name: str = Field("embedded", pattern=r"^[A-Za-z0-9._-]+$", description="Name of the run folder. source: chosen")
    seed: int = Field(
        1, ge=0, description="Seed of data, training, sampling and bootstrap. source: chosen, because one must be"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads for torch, null for all. source: chosen")
    model: ModelSection = Field(default_factory=ModelSection, description="Base model")
    data: DataSection = Field(default_factory=DataSection, description="Data")
    sft: SFTSection = Field(default_factory=SFTSection, description="Stage 1")
    grpo: GRPOSection = Field(default_factory=GRPOSection, description="Stage 2")
    launch: LaunchSection = Field(default_factory=LaunchSection, description="Processes of training")
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection, description="Evaluation")
    models: dict[str, EvaluatedModel] = Field(
        {},
        description="Models that `make evaluate` knows by a name of ours. source: chosen, empty but in published.yaml",
    )

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.grpo.max_completion_length > self.model_limit:
            raise ValueError(
                f"grpo.max_completion_length: {self.grpo.max_completion_length} is over the context length {self.model_limit}"
            )
        self._check_launch()
        return self

    def _check_launch(self) -> None:
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
                f"launch.processes: {launch.processes} do not divide grpo.prompts_per_step {self.grpo.prompts_per_step} (each makes whole groups)"
            )
        if launch.processes > 1 and launch.strategy != "ddp" and self.grpo.rollouts == "merged":
            raise ValueError(
                f"grpo.rollouts: a merged copy needs the whole model in each process; with launch.strategy {launch.strategy} set grpo.rollouts=trainer"
            )

    @property
    def model_limit(self) -> int:
        """Context length in tokens: 2,048 for the embedded model, 32,768 for Qwen3 (card)."""
        return 2048 if self.model.base == "embedded" else 32_768


def _locate(name: str) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.exists() and path.is_file():
        found = path
    else:
        found = RECIPES / f"{name}.yaml"
    if not found.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml"))) or "none"
        raise GazalError(f"recipe {name!r}: no such recipe (known: {known}; or give a path to a .yaml file)")
    return found


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise GazalError(f"override {override!r}: expected key=value, such as sft.learning_rate=1e-4")
    parts = _parts(values, key)
    place: Any = values
    for depth, part in enumerate(parts[:-1]):
        place = place[_index(place, parts, depth)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise GazalError(f"override {key}: {part} is a value, not a section")
        if isinstance(place, dict) and parts[depth + 1].isdecimal():
            raise GazalError(
                f"override {key}: {part} is no list in the recipe file; give it as one: {'.'.join(parts[: depth + 1])}=[…]"
            )
    try:
        value = yaml.safe_load(text) if text.strip() else ""  # a shell takes the quotes of key='' away; nothing is null
    except yaml.YAMLError as error:
        raise GazalError(f"override {key}: {text!r} is not a YAML value") from error
    place[_index(place, parts, len(parts) - 1) if isinstance(place, list) else parts[-1]] = value


def _parts(values: Any, key: str) -> list[str]:
    """``key`` at its dots; a name of the recipe that holds dots itself, such as models.llama-3.1-70b, stays whole (the longest that is there)."""
    words, parts = key.split("."), []
    while words:
        known = values if isinstance(values, dict) else {}
        count = next((n for n in range(len(words), 1, -1) if ".".join(words[:n]) in known), 1)
        parts.append(".".join(words[:count]))
        values, words = known.get(parts[-1]), words[count:]
    return parts


def _index(values: list[Any], parts: list[str], depth: int) -> int:
    part, name = parts[depth], ".".join(parts[:depth])
    if not part.isdecimal() or int(part) >= len(values):
        raise GazalError(
            f"override {'.'.join(parts)}: {name} is a list of {len(values)}: {part!r} is not a number from 0 to {len(values) - 1}"
        )
    return int(part)


def _number_words(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as text; read such text as the number that everybody means."""
    if isinstance(value, dict):
        return {key: _number_words(field) for key, field in value.items()}
    if isinstance(value, list):
        return [_number_words(field) for field in value]
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() and value[:1] in "0123456789-+." else value
        except ValueError:
            return value
    return value


def load_recipe(name: str = "embedded", overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read ``recipes/<name>.yaml`` (or a path) and apply ``section.key=value`` overrides in order.

    Raises GazalError, one line naming file and key, for an unknown recipe or key, a wrong type or an
    impossible combination.
    """
    path = _locate(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GazalError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise GazalError(f"{path}: expected a mapping of sections")
    values = _number_words(values)  # also copies what a YAML anchor shares, so that an override changes one place only
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(_number_words(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise GazalError(f"{path}: {key}: unknown key{_similar_key(first['loc'])}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise GazalError(
            f"{path}: {key + ': ' if key else ''}{message} (found {first['input']!r:.60})"
            if key
            else f"{path}: {message}"
        ) from error


def _similar_key(place: tuple[int | str, ...]) -> str:
    """The known key most like the unknown one at ``place``, in brackets; empty where none is."""
    section: Any = Recipe
    for part in place[:-1]:
        if part in section.model_fields:
            annotation = section.model_fields[part].annotation
            section = get_args(annotation)[-1] if get_args(annotation) else annotation
    similar = difflib.get_close_matches(str(place[-1]), section.model_fields, 1)
    return f" ({similar[0]} is one)" if similar else ""


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML text, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
