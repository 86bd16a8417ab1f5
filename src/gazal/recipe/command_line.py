"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeOption = Annotated[str, typer.Option("--recipe", help="A name in recipes/ or a YAML file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="Override, such as sft.learning_rate=1e-4; may be repeated.")
]
RunOption = Annotated[str, typer.Option("--run", help="Run folder; by default runs/<recipe name>.")]
BenchmarksOption = Annotated[str, typer.Option("--benchmarks", help="Folder with the benchmarks as JSON lines.")]
