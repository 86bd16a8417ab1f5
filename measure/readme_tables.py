"""README's tables of results from run folders and scored folders: ``python measure/readme_tables.py --runs RUN1 RUN2 RUN3 --real NAME=DIR …``.

Prints the tables of the first run (results, faithfulness, real benchmarks) and of all runs by seed; with ``--write`` it puts them
into README.md instead, each between ``<!-- NAME -->`` and ``<!-- /NAME -->``. DIR is what ``gazal evaluate --out DIR`` wrote.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import ttest_1samp

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.paper.evaluation_tables import results_table
from gazal.paper.inputs import STAGES, TEST, Results, read_results
from gazal.paper.reasoning import COLUMNS, faithfulness_table
from gazal.scoring.table import NONE, Table, percent, points, with_interval

README = Path(__file__).resolve().parent.parent / "README.md"
REAL = {"medqa": "MedQA", "medmcqa": "MedMCQA", "pubmedqa": "PubMedQA", "mmlu_pro_medical": "MMLU-Pro medical"}
LIKELY = {"letter": "letters", "text": "option texts"}


def alone(table: Table, narrow: bool = True) -> str:
    """The table's Markdown without caption and notes; ``narrow``: without spaces in the rule and in empty cells."""
    text = table.markdown().split("\n\n")[1].strip()
    if not narrow:
        return text
    header, rule, *rows = re.sub(r"(?<=\|) +(?=\|)", " ", text).split("\n")
    return "\n".join([header, rule.replace(" ", ""), *rows])


def seeds_table(runs: list[Results]) -> Table:
    """Stages on the embedded test and what each added, a row a run; of three and more the mean gain of GRPO with its 95 % t interval. Raises GazalError for a run without all three stages."""
    rows = []
    for run in runs:
        scores, changes = (
            [run.score(stage, TEST) for stage in STAGES],
            [run.change("base", "sft", TEST), run.change("sft", "grpo", TEST)],
        )
        if None in scores or None in changes:
            raise GazalError(
                f"{run.run}: eval/scores.json: expected {', '.join(STAGES)} on {TEST} and the paired tests between them"
            )
        sft, grpo = changes
        rows.append(
            [
                str(run.recipe.get("seed", NONE)),
                *(percent(score["accuracy"]) for score in scores),
                f"{points(sft.delta)} (p = {sft.p:.2g})",
                f"{points(grpo.delta)} ({points(grpo.low)} to {points(grpo.high)}, p = {grpo.p:.2g})",
                " / ".join(percent(score.get("format")) for score in scores),
            ]
        )
    if len(runs) > 2:
        gains = [run.change("sft", "grpo", TEST).delta for run in runs]
        found = ttest_1samp(gains, 0)
        low, high = found.confidence_interval()
        rows.append(
            [
                "mean",
                "",
                "",
                "",
                "",
                f"{points(statistics.fmean(gains))} ({points(low)} to {points(high)}, t over seeds, p = {found.pvalue:.2g})",
                "",
            ]
        )
    return Table(
        "seeds", "", ["seed", "base", "SFT", "GRPO", "base → SFT", "SFT → GRPO (95 % interval)", "format, %"], rows
    )


def claims_table(run: Results) -> Table:
    """The paper's table of faithfulness without its counts and without models that make no claims."""
    whole = faithfulness_table(run)
    kept = [
        name
        for name in whole.header
        if (name in COLUMNS.values() and name != COLUMNS["arithmetic"]) or name.startswith(("Right for", "Wrong from"))
    ]
    rows = [dict(zip(whole.header, row, strict=True)) for row in whole.rows]
    named = [
        (row["Model"] + ("" if row["Type"] == "All items" else f", {row['Type'].lower()}"), row)
        for row in rows
        if row["Claims"] != "0"
    ]
    return Table("faithfulness", "", ["", *kept], [[name, *(row[column] for column in kept)] for name, row in named])


def real_table(run: Results, others: list[tuple[str, dict[str, Any]]]) -> Table:
    """Published benchmarks: the run's stages, then each model of other scored folders by its given name; chance is that of the run's items."""
    models = [
        (f"Embedded {label if label.isupper() else label.lower()}", run.scores["models"][stage])
        for stage, label in STAGES.items()
        if stage in run.models
    ]
    models += [
        (f"{given or model}, {_asked(entry)}", entry)
        for given, scores in others
        for model, entry in scores["models"].items()
    ]
    names = {name: label for name, label in REAL.items() if any(name in entry["benchmarks"] for _, entry in models)}
    rows = [_real(label, entry, names) for label, entry in models if names.keys() & entry["benchmarks"].keys()]
    rows += [["Chance", "", *(percent(run.chance(name)) for name in names), "", ""]] if rows else []
    return Table(
        "real", "", ["% [95 % interval]", "n each", *names.values(), "no answer read, %", "macro-F1, PubMedQA"], rows
    )


def _asked(entry: dict[str, Any]) -> str:
    """How a model was asked, as its scores say."""
    sampling = [score["sampling"] for score in entry["benchmarks"].values() if score.get("sampling")]
    asked = [
        "written" if one["method"] == "generate" else f"log-likelihood of {LIKELY[one['loglik_choice']]}"
        for one in sampling
    ]
    return " and ".join(dict.fromkeys(asked)) or "as saved"


def _real(label: str, entry: dict[str, Any], names: dict[str, str]) -> list[str]:
    scores = [entry["benchmarks"].get(name) for name in names]
    sizes = dict.fromkeys(f"{score['n']:,}" for score in scores if score)
    unread = " / ".join(percent(score and score["unparsed"], 0) for score in scores)
    f1 = entry["benchmarks"].get("pubmedqa", {}).get("macro_f1", {}).get("value")
    return [label, " / ".join(sizes), *map(with_interval, scores), unread, percent(f1)]


def tables(runs: list[str], real: list[str]) -> Iterator[tuple[str, str]]:
    """Each table's name and Markdown; those for which nothing was measured are left out. Raises GazalError for a folder that was not scored."""
    found = [read_results(run) for run in runs]
    others = [
        (name, _scores(Path(folder, "scores.json"))) for name, _, folder in (pair.rpartition("=") for pair in real)
    ]
    yield "results", alone(results_table(found[0]), narrow=False)  # as it stands in tables/results.md
    for table in (seeds_table(found), claims_table(found[0]), real_table(found[0], others)):
        if table.rows:
            yield table.name, alone(table)


def _scores(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GazalError(f"{path}: cannot be read ({error}); gazal evaluate or gazal score writes it") from error


def replaced(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between its two markers. Raises GazalError where they do not stand there once."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise GazalError(f"{README.name}: expected <!-- {name} --> and, after it, <!-- /{name} --> once")
    return pattern.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs",
        nargs="+",
        required=True,
        metavar="RUN",
        help="finished run folders; all tables but that of seeds are of the first",
    )
    parser.add_argument(
        "--real",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="scored folders of other models on the real benchmarks",
    )
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=README,
        metavar="FILE",
        help="put the tables between their markers there (README.md)",
    )
    options = parser.parse_args(arguments)
    try:
        made = list(tables(options.runs, options.real))
        if options.write:
            text = options.write.read_text(encoding="utf-8")
            for name, table in made:
                text = replaced(text, name, table)
            with atomic_write(options.write) as handle:
                handle.write(text)
    except GazalError as error:
        raise SystemExit(str(error)) from error
    if not options.write:
        print("\n\n".join(f"<!-- {name} -->\n\n{table}\n\n<!-- /{name} -->" for name, table in made))


if __name__ == "__main__":
    main()
