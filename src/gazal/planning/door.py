"""``gazal plan``: the command's options; what it runs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gazal.recipe.command_line import BenchmarksOption, KeyBaseOption, RecipeOption, RunOption, SetOption, with_key_base


def plan(
    devices: Annotated[
        str, typer.Option("--devices", help="cpu, 1x80GB, 8xh100, 2x8x80GB (machines x devices x memory or name).")
    ],
    recipe: RecipeOption = "embedded",
    overrides: SetOption = [],
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="USD per device hour; without it no cost is shown.")
    ] = None,
    mfu: Annotated[
        float,
        typer.Option(
            "--mfu",
            min=0.01,
            max=1,
            help="Share of the peak FLOP/s reached. Chosen, because tuned training of large models reports 0.3 to "
            "0.55.",
        ),
    ] = 0.4,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", min=1, help="Longest prompt, where the run has no data yet.")
    ] = 512,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops", min=0.001, help="Dense bf16 TFLOP/s of a device, where its name or size does not tell."
        ),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option("--bandwidth", min=0.001, help="Its memory bandwidth in GB/s.")
    ] = None,
    run: RunOption = "",
    model: Annotated[
        list[str],
        typer.Option(
            "--model", help="Of a recipe with models (published): which are asked; by default all. May be repeated."
        ),
    ] = [],
    benchmarks: BenchmarksOption = "",
    key_base: KeyBaseOption = None,
) -> None:
    """Predict memory, tokens, hours and cost of a recipe; a recipe that cannot fit is refused with the cheapest change.

    Of a recipe with models: what asking each of them the benchmarks takes."""
    from gazal.planning.command import plan_command
    from gazal.recipe.load import load_recipe

    plan_command(
        load_recipe(recipe, with_key_base(overrides, key_base)),
        devices,
        run,
        price=price,
        mfu=mfu,
        prompt=prompt_tokens,
        tflops=tflops,
        bandwidth=bandwidth,
        models=model,
        benchmarks=Path(benchmarks) if benchmarks else None,
    )
