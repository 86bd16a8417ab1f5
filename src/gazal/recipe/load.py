"""Load a recipe from YAML with overrides, and dump one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from gazal.common.errors import GazalError
from gazal.common.paths import RECIPES
from gazal.recipe.recipe import Recipe


def _locate(name: str) -> Path:
    path = Path(name)
    found = path if path.suffix in {".yaml", ".yml"} or path.is_file() else RECIPES / f"{name}.yaml"
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
                f"override {key}: {part} is no list in the recipe file; "
                f"give it as one: {'.'.join(parts[: depth + 1])}=[…]"
            )
    try:
        value = yaml.safe_load(text) if text.strip() else ""  # a shell takes the quotes of key='' away; nothing is null
    except yaml.YAMLError as error:
        raise GazalError(f"override {key}: {text!r} is not a YAML value") from error
    if isinstance(place, list):
        place[_index(place, parts, len(parts) - 1)] = value
    else:
        place[parts[-1]] = value


def _parts(values: Any, key: str) -> list[str]:
    """Split ``key`` at its dots, but not inside a name of the recipe that holds dots, such as models.llama-3.1-70b.

    Of several such names the longest is taken.
    """
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
            f"override {'.'.join(parts)}: {name} is a list of {len(values)}: "
            f"{part!r} is not a number from 0 to {len(values) - 1}"
        )
    return int(part)


def _number_words(value: Any) -> Any:
    """Return ``value`` with text such as ``1e-4``, which YAML 1.1 does not read as a number, made a number."""
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
        what = f"{key}: {message} (found {first['input']!r:.60})" if key else message
        raise GazalError(f"{path}: {what}") from error


def _similar_key(place: tuple[int | str, ...]) -> str:
    """Return the known key most like the unknown one at ``place``, in brackets; an empty text if none is."""
    section: Any = Recipe
    for part in place[:-1]:
        if part in section.model_fields:
            annotation = section.model_fields[part].annotation
            section = get_args(annotation)[-1] if get_args(annotation) else annotation
    similar = difflib.get_close_matches(str(place[-1]), section.model_fields, 1)
    return f" ({similar[0]} is one)" if similar else ""


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML text, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
