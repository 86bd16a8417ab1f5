"""The ``gazal`` command: thin doors to the rooms. Bad input is one line on stderr and exit code 1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from gazal import DISCLAIMER
from gazal.common.errors import GazalError
from gazal.items.types import REASONING_TYPES
from gazal.planning.door import plan
from gazal.recipe.command_line import BenchmarksOption, KeyBaseOption, RecipeOption, RunOption, SetOption, with_key_base
from gazal.teacher.door import teach

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=f"Gazal: a reproducible medical reasoning recipe. {DISCLAIMER}",
)


def show_version(wanted: bool) -> None:
    """Print the version of the installed package, and end."""
    if wanted:
        from importlib.metadata import version

        print(f"gazal {version('gazal')}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Take the options that stand before a command; each acts by its own callback."""


@app.command()
def extract() -> None:
    """Read {completion, options} JSON lines on stdin; write {letter, reason}; never guesses."""
    from gazal.rewards.lines import extract_lines

    extract_lines(sys.stdin, sys.stdout)


@app.command()
def reward(recipe: RecipeOption = "embedded") -> None:
    """Read {completion, options, answer_idx} JSON lines on stdin; write the four rewards and their total."""
    from gazal.recipe.load import load_recipe
    from gazal.rewards.lines import reward_lines

    reward_lines(sys.stdin, sys.stdout, load_recipe(recipe).grpo.rewards)


@app.command()
def synth(
    n: Annotated[int, typer.Option("--n", min=1, help="Number of items.")],
    out: Annotated[Path, typer.Option("--out", help="JSON-lines file to write.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same bytes.")] = 0,
    kind: Annotated[
        str | None, typer.Option("--type", help=f"One of {', '.join(REASONING_TYPES)}; all by default.")
    ] = None,
    variety: Annotated[
        str, typer.Option("--variety", help="rich, or plain: three wordings a type, no lay terms, no negatives.")
    ] = "rich",
    diseases: Annotated[
        int, typer.Option("--diseases", min=8, help="Diseases in the pool; the packaged base knows the 150.")
    ] = 150,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="By default one a core; the bytes are the same.")
    ] = None,
) -> None:
    """Make knowledge-derived items of the four reasoning types."""
    from gazal.knowledge.generate_many import write_synth

    if kind is not None and kind not in REASONING_TYPES:
        raise GazalError(f"--type {kind}: expected one of {', '.join(REASONING_TYPES)}")
    if variety not in ("plain", "rich"):
        raise GazalError(f"--variety {variety}: expected plain or rich")
    count = write_synth(
        out, n, seed, (kind,) if kind else REASONING_TYPES, processes, n_diseases=diseases, variety=variety
    )
    print(f"{out}: {count} items")


app.command()(teach)


MANY = ("--train", "--test", "--model", "--benchmark")


class ManyValues(typer.core.TyperCommand):
    """A command whose ``MANY`` options take several values: ``--train a b`` is ``--train a --train b``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the arguments with the option's name put before each further value."""
        spread: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in MANY else ""
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(arg)
        return super().parse_args(ctx, spread)


@app.command(cls=ManyValues)
def curate(
    train: Annotated[
        list[Path],
        typer.Option(
            "--train", help="Training files (.jsonl, .jsonl.gz, .json, .parquet); of repeats the first stays."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for train.jsonl, removals.jsonl and report.json.")],
    test: Annotated[list[Path], typer.Option("--test", help="Test files that the training data must not hold.")] = [],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="A name in recipes/ or a YAML file: its data.curation, and the tokens of its model; "
            "without one no lengths are counted.",
        ),
    ] = "",
    overrides: SetOption = [],
) -> None:
    """Remove duplicates, test items and faulty rows from training files; each removal is listed with its reason."""
    from gazal.curation.command import curate_command
    from gazal.recipe.load import load_recipe

    resolved = load_recipe(recipe or "embedded", overrides)
    for override in overrides:
        if not recipe and not override.startswith("data.curation."):
            raise GazalError(f"--set {override}: without --recipe only data.curation counts")
    curate_command(train, test, out, resolved.data.curation, resolved if recipe else None)


@app.command()
def sources(recipe: RecipeOption = "embedded", overrides: SetOption = []) -> None:
    """List a recipe's training data: rows, bytes and revision of what it would download."""
    from gazal.data.listing import list_sources
    from gazal.recipe.load import load_recipe

    list_sources(load_recipe(recipe, overrides).data)


@app.command(
    cls=ManyValues,
    help="Evaluate models on benchmarks or items files; "
    "of the paper's eight models (--recipe published) the ledger is filled.",
)
def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            "--model", help="Folder, hub id, openai:URL#name, or a name in the recipe's models; may be repeated."
        ),
    ] = [],
    benchmark: Annotated[
        list[str],
        typer.Option(
            "--benchmark",
            help="A benchmark's name or an items file; may be repeated. By default the recipe's, sampled as it says.",
        ),
    ] = [],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for predictions and scores.json; run again, it continues. By default eval/ of the run.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Items of each benchmark (seeded sample).")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Completions per item; by default the recipe's.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="generate: a written answer; loglik: the likeliest option. By default the recipe's."
        ),
    ] = None,
    permute: Annotated[
        int | None, typer.Option("--permute", min=0, help="Further orders of the options in which each item is asked.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="transformers or vllm, for every model; by default the recipe's.")
    ] = None,
    benchmarks: BenchmarksOption = "",
    key_base: KeyBaseOption = None,
    recipe: RecipeOption = "embedded",
    overrides: SetOption = [],
    run: RunOption = "",
) -> None:
    """Evaluate models on benchmarks or items files, and write the paper's ledger."""
    from gazal.evaluation.command import evaluate_command, evaluation_folder
    from gazal.paper.ledger import write_ledger
    from gazal.recipe.load import load_recipe

    for option, value, known in (
        ("--method", method, ("generate", "loglik")),
        ("--engine", engine, ("transformers", "vllm")),
    ):
        if value not in (None, *known):
            raise GazalError(f"{option} {value}: expected {' or '.join(known)}")
    resolved = load_recipe(recipe, with_key_base(overrides, key_base))
    folder, eval_dir = evaluation_folder(resolved, out, run)
    evaluate_command(
        model,
        benchmark,
        limit=limit,
        samples=samples,
        out=eval_dir,
        recipe=resolved,
        folder=Path(benchmarks) if benchmarks else None,
        changes={"method": method, "permute": permute, "engine": engine},
        then=lambda scores: write_ledger(folder, scores, print),
    )


@app.command()
def check(
    model: Annotated[str, typer.Option("--model", help="Folder, hub id, openai:URL#name, or a name in the recipe.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Longest completion.")] = 512,
    recipe: RecipeOption = "embedded",
    overrides: SetOption = [],
) -> None:
    """Say in plain words what a model folder or a server is: loading, template, EOS, thinking, one completion."""
    from gazal.evaluation.check import check_model
    from gazal.recipe.load import load_recipe

    check_model(model, load_recipe(recipe, overrides), tokens)


@app.command()
def score(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of predictions (<model>/<benchmark>.parquet, or one model's), or a run folder."),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", help="ours, or another's: best_of_first_and_last, last_letter, mmlu_pro, default_a."
        ),
    ] = "ours",
) -> None:
    """Score again from predictions alone; no model needed. By another protocol: scores.PROTOCOL.json, beside ours."""
    from gazal.answers.protocols import OURS
    from gazal.answers.protocols import protocol as protocol_of
    from gazal.paper.ledger import write_ledger
    from gazal.predictions.folder import read_answers
    from gazal.scoring.faithfulness import measure_faithfulness
    from gazal.scoring.lengths import measure_lengths
    from gazal.scoring.protocol_comparison import compare_protocols
    from gazal.scoring.report import details_table, results_table
    from gazal.scoring.score import score_folder

    protocol_of(protocol)  # an unknown one stops before anything is read
    answers = read_answers(folder)
    scores = score_folder(folder, protocol, answers)
    print(results_table(scores))
    if protocol == OURS:
        print(f"\n{details_table(scores)}")
        compare_protocols(folder, answers)
        measure_lengths(folder, answers)
        measure_faithfulness(folder, answers)
        write_ledger(folder, scores, print)


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Folder of predictions, or a run folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write into.")],
    kind: Annotated[str, typer.Option("--format", help="lm-eval or lighteval.")],
) -> None:
    """Predictions as the result files of lm-eval or lighteval; no model needed."""
    from gazal.scoring.export import export

    for path in export(folder, out, kind):
        print(path)


app.command()(plan)


@app.command()
def reproduce(
    recipe: RecipeOption = "embedded",
    overrides: SetOption = [],
    run: RunOption = "",
    benchmarks: BenchmarksOption = "",
    key_base: KeyBaseOption = None,
) -> None:
    """Run the five notebooks; an interrupted run continues."""
    import json

    from gazal.reproduce import reproduce as reproduce_run
    from gazal.runs import relative
    from gazal.scoring.report import results_table

    folder = reproduce_run(recipe, with_key_base(overrides, key_base), run, benchmarks)
    print("\n" + results_table(json.loads((folder / "eval" / "scores.json").read_text(encoding="utf-8"))))
    for name in ("figures", "tables", "paper.pdf", "eval/scores.json", "notebooks"):
        print(f"{name + ':':<18}{relative(folder / name)}")
    print(DISCLAIMER)


@app.command()
def paper(
    recipe: RecipeOption = "embedded", overrides: SetOption = [], run: RunOption = "", benchmarks: BenchmarksOption = ""
) -> None:
    """Tables, figures and PDF again from saved predictions; loads no model."""
    from gazal.paper.compile import make_paper
    from gazal.recipe.load import load_recipe
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
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="torch.compile; needs a C++ compiler.")
    ] = True,
) -> None:
    """Train the embedded base model from nothing (seeded; about half an hour on two cores)."""
    from gazal.common.paths import EMBEDDED
    from gazal.knowledge.base_train import BaseTraining, train_base

    train_base(out or EMBEDDED, BaseTraining(**({"steps": steps} if steps else {})), compiled)


def main() -> None:
    """Run the command; bad input and wrong usage become one line on stderr, with exit codes 1 and 2."""
    try:
        code = app(standalone_mode=False)
    except GazalError as error:
        print(f"gazal: {error}", file=sys.stderr)
        code = 1
    except typer.BadParameter.__base__ as error:  # typer's UsageError, which has no public name
        if message := error.format_message():  # empty where the help was shown instead
            print(f"gazal: {message}", file=sys.stderr)
        code = 2
    if code == 130:  # what typer makes of Ctrl-C
        print("gazal: interrupted; the same command continues", file=sys.stderr)
    sys.exit(code)
