"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeOption = Annotated[str, typer.Option("--recipe", help="A name in recipes/ or a YAML file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="Override, such as sft.learning_rate=1e-4; may be repeated.")
]
RunOption = Annotated[str, typer.Option("--run", help="Run folder; by default runs/<recipe name>.")]
KeyBaseOption = Annotated[
    int | None,
    typer.Option(
        "--key-base",
        min=0,
        max=1,
        help="What MedMCQA's keys (cop) count from, 0 or 1, in files whose keys do not tell; short for data.key_base.",
    ),
]
BenchmarksOption = Annotated[str, typer.Option("--benchmarks", help="Folder with the benchmarks as JSON lines.")]


def with_key_base(overrides: list[str], key_base: int | None) -> list[str]:
    """Return the overrides, and the one that ``--key-base`` is short for."""
    return overrides if key_base is None else [*overrides, f"data.key_base={key_base}"]
