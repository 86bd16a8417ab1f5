"""``gazal teach``: the command's options; what it runs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def teach(
    model: Annotated[str, typer.Option("--model", help="The model's name, as its server knows it.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of responses, examples and report; run again, it continues.")
    ],
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            help="OpenAI-compatible address, such as http://localhost:8000/v1; by default OPENAI_BASE_URL. "
            "The key comes from OPENAI_API_KEY alone.",
        ),
    ] = None,
    seeds: Annotated[
        Path | None, typer.Option("--seeds", help="Items, or questions without options, as JSON lines.")
    ] = None,
    topics: Annotated[
        Path | None, typer.Option("--topics", help="Text file, a topic a line, optionally 'topic | specialty'.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, help="Examples to ask for; by default one a seed, or one a topic and reasoning type."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Answers per example; the key needs more than half of them.")
    ] = 1,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests in flight.")] = 8,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Completion tokens of an answer, at most.")
    ] = 2048,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2)] = 0.7,
    price_in: Annotated[float, typer.Option("--price-in", min=0, help="USD for a million prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option("--price-out", min=0, help="USD for a million completion tokens.")] = 0.0,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="Hard cap in USD on all that the folder ever cost.")
    ] = None,
    max_total_tokens: Annotated[
        int | None, typer.Option("--max-total-tokens", min=0, help="Hard cap in tokens, prompts included.")
    ] = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate-only", help="Show what it would cost and send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send without being asked.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")] = 600.0,
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, help="Tries of one request, with back-off between.")
    ] = 6,
    rule: Annotated[
        list[str],
        typer.Option(
            "--rule", help="Acceptance rule, such as min_words=60; may be repeated. A change asks nothing again."
        ),
    ] = [],
) -> None:
    """Structured reasoning examples from a teacher model behind an OpenAI-compatible endpoint."""
    from gazal.teacher.client import Cap, Prices
    from gazal.teacher.command import ask_terminal, read_rules
    from gazal.teacher.command import teach as run_teacher

    run_teacher(
        model,
        endpoint,
        out,
        seeds=seeds,
        topics=topics,
        n=n,
        samples=samples,
        concurrency=concurrency,
        max_tokens=max_tokens,
        temperature=temperature,
        prices=Prices(price_in, price_out),
        cap=Cap(max_total_tokens, max_cost),
        seed=seed,
        estimate_only=estimate_only,
        confirm=None if yes else ask_terminal,
        rules=read_rules(rule),
        timeout=timeout,
        attempts=attempts,
    )
