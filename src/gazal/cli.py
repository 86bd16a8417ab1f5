"""The ``gazal`` command: thin doors to the rooms. Bad input is one line on stderr and exit code 1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gazal import DISCLAIMER
from gazal.errors import GazalError
from gazal.items import REASONING_TYPES

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=f"Gazal: a reproducible medical reasoning recipe. {DISCLAIMER}")

RecipeOption = Annotated[str, typer.Option("--recipe", help="A name in recipes/ or a YAML file.")]
SetOption = Annotated[list[str], typer.Option("--set", help="Override, such as sft.learning_rate=1e-4; may be repeated.")]
RunOption = Annotated[str, typer.Option("--run", help="Run folder; by default runs/<recipe name>.")]
BenchmarksOption = Annotated[str, typer.Option("--benchmarks", help="Folder with the benchmarks as JSON lines.")]


@app.command()
def extract() -> None:
    """Read {completion, options} JSON lines on stdin; write {letter, reason}; never guesses."""
    from gazal.lines import extract_lines

    extract_lines(sys.stdin, sys.stdout)


@app.command()
def reward(recipe: RecipeOption = "embedded") -> None:
    """Read {completion, options, answer_idx} JSON lines on stdin; write the four rewards and their total."""
    from gazal.lines import reward_lines
    from gazal.recipe import load_recipe

    reward_lines(sys.stdin, sys.stdout, load_recipe(recipe).grpo.rewards)


@app.command()
def synth(
    n: Annotated[int, typer.Option("--n", min=1, help="Number of items.")],
    out: Annotated[Path, typer.Option("--out", help="JSON-lines file to write.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same bytes.")] = 0,
    kind: Annotated[str | None, typer.Option("--type", help=f"One of {', '.join(REASONING_TYPES)}; all by default.")] = None,
) -> None:
    """Make knowledge-derived items of the four reasoning types."""
    from gazal.data.synth import synthesize
    from gazal.items import write_items_jsonl

    if kind is not None and kind not in REASONING_TYPES:
        raise GazalError(f"--type {kind}: expected one of {', '.join(REASONING_TYPES)}")
    count = write_items_jsonl(out, synthesize(n, seed, (kind,) if kind else REASONING_TYPES))
    print(f"{out}: {count} items")


@app.command()
def evaluate(
    model: Annotated[str, typer.Option("--model", help="Folder, hub id, or openai:URL#name.")],
    benchmark: Annotated[list[str], typer.Option("--benchmark", help="A benchmark's name or an items file; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for predictions and scores.json; run again, it continues.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items of each benchmark (seeded sample).")] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Completions per item; by default the recipe's.")] = None,
    benchmarks: BenchmarksOption = "",
    recipe: RecipeOption = "embedded",
    overrides: SetOption = [],
) -> None:
    """Evaluate one model on benchmarks or items files."""
    from gazal.evaluation.command import evaluate_command
    from gazal.recipe import load_recipe

    evaluate_command(model, benchmark, limit=limit, samples=samples, out=out, recipe=load_recipe(recipe, overrides), folder=Path(benchmarks) if benchmarks else None)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of predictions, or a run folder.")],
    protocol: Annotated[str, typer.Option("--protocol", help="ours, or another's: best_of_first_and_last, last_letter, mmlu_pro, default_a.")] = "ours",
) -> None:
    """Score again from predictions alone; no model needed. By another protocol: scores.PROTOCOL.json, beside ours."""
    from gazal.evaluation.protocols import OURS
    from gazal.evaluation.score import results_table, score_folder
    from gazal.evaluation.sensitivity import compare_protocols

    print(results_table(score_folder(folder, protocol)))
    if protocol == OURS:
        compare_protocols(folder)


@app.command()
def reproduce(recipe: RecipeOption = "embedded", overrides: SetOption = [], run: RunOption = "", benchmarks: BenchmarksOption = "") -> None:
    """Run the five notebooks; an interrupted run continues."""
    import json

    from gazal.evaluation.score import results_table
    from gazal.reproduce import reproduce as reproduce_run
    from gazal.runs import relative

    folder = reproduce_run(recipe, overrides, run, benchmarks)
    print("\n" + results_table(json.loads((folder / "eval" / "scores.json").read_text(encoding="utf-8"))))
    for name in ("figures", "tables", "paper.pdf", "eval/scores.json", "notebooks"):
        print(f"{name + ':':<18}{relative(folder / name)}")
    print(DISCLAIMER)


@app.command()
def paper(recipe: RecipeOption = "embedded", overrides: SetOption = [], run: RunOption = "", benchmarks: BenchmarksOption = "") -> None:
    """Tables, figures and PDF again from saved predictions; loads no model."""
    from gazal.paper.make import make_paper
    from gazal.recipe import load_recipe
    from gazal.runs import relative, run_path

    folder = run_path(load_recipe(recipe, overrides), run)
    if not (folder / "eval" / "scores.json").exists():
        raise GazalError(f"{relative(folder)}: no eval/scores.json there; run make reproduce first")
    for path in make_paper(folder):
        print(relative(path))


@app.command("embedded-base")
def embedded_base(
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; by default the packaged one.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Fewer steps, for a trial.")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile; needs a C++ compiler.")] = True,
) -> None:
    """Train the embedded base model from nothing (seeded; about an hour on two cores)."""
    from gazal.base.train import ASSETS, BaseTraining, train_base

    train_base(out or ASSETS, BaseTraining(**({"steps": steps} if steps else {})), compiled)


def main() -> None:
    """Run the command; GazalError becomes one line on stderr and exit code 1."""
    try:
        app()
    except GazalError as error:
        print(f"gazal: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("gazal: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
