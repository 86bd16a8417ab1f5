"""Check the files of a run folder: ``python tests/helpers/check_run.py runs/embedded``.

Every file of the run layout for stages 1 to 5 exists, parses and makes sense; scores.json is recomputed from the
predictions where that is a plain mean. Prints one line per problem and exits 1, or one line that all is well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.parquet as pq
import yaml
from safetensors import safe_open

MODELS = ("base", "sft", "grpo")
REASONING_TYPES = ("diagnosis", "uncertainty", "treatment", "prognosis")
PREDICTION_COLUMNS = {"item_id", "sample", "completion", "n_tokens", "finish_reason", "letter", "reason", "correct"}
PROTOCOLS = {"ours", "best_of_first_and_last", "last_letter", "mmlu_pro", "default_a"}
TABLES = ("data/sft", "data/grpo", "data/dev", "data/test", "grpo/completions")
STAGES = ("data", "sft", "grpo", "eval", "figures")
MANIFEST_KEYS = {"recipe", "seed", "code", "packages", "parents", "inputs", "outputs", "wall_seconds"}
FIGURES = {
    "sft_loss",
    "grpo_rewards",
    "stages",
    "benchmarks",
    "deltas",
    "subjects",
    "lengths",
    "faithfulness",
    "data_composition",
}
PAPER_TABLES = {
    "results",
    "paired",
    "benchmarks",
    "evaluation",
    "data",
    "contamination",
    "claims",
    "protocols",
    "readings",
    "faithfulness",
    "structure",
}


class Check:
    """Collects problems; a file that cannot be opened is one problem, and the rest goes on."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.problems: list[str] = []

    def expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    def load(self, name: str, parse: Callable[[Path], Any]) -> Any:
        """The parsed file, or None after noting why there is none."""
        path = self.run / name
        if not path.is_file() or path.stat().st_size == 0:
            self.problems.append(f"{name}: {'empty' if path.is_file() else 'missing'}")
            return None
        try:
            return parse(path)
        except Exception as error:  # whatever a parser raises on a broken file is one problem
            self.problems.append(f"{name}: cannot be read ({type(error).__name__}: {str(error).splitlines()[:1]})")
            return None

    def names(self, pattern: str) -> list[str]:
        """Files below the run that match, as names relative to it, sorted."""
        return sorted(str(path.relative_to(self.run)) for path in self.run.glob(pattern) if path.is_file())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_tensors(path: Path) -> int:
    """Number of tensors; raises ValueError when one holds a value that is not finite."""
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - an open file of tensors is no dict
            if not tensors.get_tensor(name).isfinite().all():
                raise ValueError(f"{name} is not finite")
        return len(list(tensors.keys()))


def begins(magic: bytes) -> Callable[[Path], bool]:
    """A parser that wants a file to begin with ``magic``."""

    def parse(path: Path) -> bool:
        with open(path, "rb") as handle:
            if handle.read(len(magic)) != magic:
                raise ValueError(f"does not begin with {magic!r}")
        return True

    return parse


def check_data(check: Check, min_test: int) -> None:
    for name in TABLES:
        table = check.load(f"{name}.parquet", pq.read_table)
        check.expect(table is None or table.num_rows > 0, f"{name}.parquet: no rows")
    report = check.load("data/report.json", read_json)
    check.expect(report is None or isinstance(report, dict), "data/report.json: not an object")
    test = check.load("data/test.parquet", pq.read_table)
    if test is None or not min_test:
        return
    check.expect(test.num_rows >= min_test, f"data/test.parquet: {test.num_rows} items, expected at least {min_test}")
    kinds = test.column("reasoning_type").to_pylist() if "reasoning_type" in test.column_names else []
    for kind in REASONING_TYPES:
        check.expect(kinds.count(kind) >= min_test // 5, f"data/test.parquet: only {kinds.count(kind)} items of {kind}")


def check_training(check: Check, stage: str) -> None:
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        check.load(f"{stage}/{name}", read_tensors)
    for name in ("adapter/adapter_config.json", "merged/config.json", "merged/tokenizer.json"):
        check.load(f"{stage}/{name}", read_json)
    rows = check.load(f"{stage}/metrics.jsonl", read_lines) or []
    for number, row in enumerate(rows, 1):
        broken = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        check.expect(not broken, f"{stage}/metrics.jsonl: row {number}: not finite: {', '.join(broken)}")


def check_score(check: Check, where: str, score: Any, table: Any) -> None:
    """One entry of scores.json against the schema and against its predictions table (None: there is none)."""
    keys = {
        "n",
        "accuracy",
        "ci95",
        "unparsed",
        "truncated",
        "empty",
        "mean_tokens",
        "right_per_1k_tokens",
        "deduplicated",
        "samples",
        "by",
    }
    if not isinstance(score, dict) or keys - set(score):
        check.problems.append(f"{where}: lacks {sorted(keys - set(score)) if isinstance(score, dict) else 'an object'}")
        return
    low, high = score["ci95"]
    check.expect(
        0 <= low <= score["accuracy"] <= high <= 1, f"{where}: accuracy {score['accuracy']} outside {low}..{high}"
    )
    for key in ("unparsed", "truncated", "empty"):
        check.expect(0 <= score[key] <= 1, f"{where}: {key} is {score[key]}, not a share")
    alone = score["deduplicated"]
    check.expect(
        alone is not None
        and 0 < alone["n"] <= score["n"]
        and (alone["n"] < score["n"] or alone["accuracy"] == score["accuracy"]),
        f"{where}: deduplicated makes no sense",
    )
    if "macro_f1" in score:
        low, high = score["macro_f1"]["ci95"]
        check.expect(
            0 <= low <= score["macro_f1"]["value"] <= high <= 1,
            f"{where}: macro_f1 {score['macro_f1']['value']} outside {low}..{high}",
        )
    check.expect(
        ("at_k" in score) == (score["samples"] > 1), f"{where}: at_k is there with several samples, and only then"
    )
    check.expect(score["n"] > 0 and score["mean_tokens"] > 0, f"{where}: n or mean_tokens is not above 0")
    if table is None:
        check.problems.append(f"{where}: has no predictions file")
        return
    items, correct = set(table.column("item_id").to_pylist()), table.column("correct").to_pylist()
    check.expect(len(items) == score["n"], f"{where}: n is {score['n']}, the predictions hold {len(items)} items")
    mean = sum(map(bool, correct)) / max(len(correct), 1)
    check.expect(
        abs(mean - score["accuracy"]) < 1e-3, f"{where}: accuracy {score['accuracy']}, the predictions say {mean}"
    )


def check_evaluation(check: Check) -> None:
    tables: dict[tuple[str, str], Any] = {}
    for name in check.names("eval/*/*.parquet"):
        table = check.load(name, pq.read_table)
        missing = PREDICTION_COLUMNS - set(table.column_names) if table is not None else set()
        check.expect(not missing, f"{name}: lacks the columns {', '.join(sorted(missing))}")
        if table is not None and not missing:
            tables[Path(name).parent.name, Path(name).stem] = table
    scores = check.load("eval/scores.json", read_json)
    if scores is None:
        return
    broken = [
        key
        for key, kind in (("models", dict), ("paired", list), ("baselines", dict))
        if not isinstance(scores.get(key), kind)
    ]
    if broken:
        check.problems.append(f"eval/scores.json: missing or of the wrong type: {', '.join(broken)}")
        return
    for model in MODELS:
        benchmarks = scores["models"].get(model, {}).get("benchmarks", {})
        check.expect(bool(benchmarks), f"eval/scores.json: nothing for the model {model}")
        for benchmark, score in benchmarks.items():
            check_score(check, f"eval/scores.json: {model} on {benchmark}", score, tables.pop((model, benchmark), None))
    for model, benchmark in tables:
        check.expect(model not in MODELS, f"eval/{model}/{benchmark}.parquet: not in scores.json")
    check.expect(bool(scores["paired"]), "eval/scores.json: no paired comparison")
    for number, pair in enumerate(scores["paired"]):
        where = f"eval/scores.json: paired[{number}]"
        if {"a", "b", "benchmark", "delta", "ci95", "p", "p_holm", "n", "detectable"} - set(pair):
            check.problems.append(f"{where}: incomplete")
            continue
        check.expect(
            pair["p"] <= pair["p_holm"] <= 1, f"{where}: p_holm {pair['p_holm']} is below p {pair['p']}, or above 1"
        )
        check.expect(0 <= pair["p"] <= 1 and -1 <= pair["delta"] <= 1, f"{where}: p {pair['p']}, delta {pair['delta']}")
        check.expect(pair["ci95"][0] <= pair["ci95"][1], f"{where}: the interval is reversed")
    check.expect(bool(scores["baselines"]), "eval/scores.json: no baselines")
    for benchmark, row in scores["baselines"].items():
        check.expect("chance" in row, f"eval/scores.json: baselines of {benchmark} lack chance")
        for name, value in row.items():
            sane = not isinstance(value, (int, float)) or 0 <= value <= 1
            check.expect(sane, f"eval/scores.json: baseline {name} of {benchmark} is {value}")


def beside_scores(check: Check, name: str) -> tuple[dict | None, list[tuple[str, str, dict]]]:
    """A report that goes with scores.json, and model, benchmark and score of each cell there; None and nothing where either is missing."""
    report, scores = check.load(name, read_json), check.load("eval/scores.json", read_json)
    if report is None or scores is None:
        return None, []
    return report, [
        (model, benchmark, score)
        for model, entry in scores.get("models", {}).items()
        for benchmark, score in entry.get("benchmarks", {}).items()
    ]


def check_protocols(check: Check) -> None:
    """protocols.json: every protocol on every scored model and benchmark, ours as in scores.json, the controls there."""
    report, scored = beside_scores(check, "eval/protocols.json")
    if report is None:
        return
    for model, benchmark, score in scored:
        where, cells = (
            f"eval/protocols.json: {model} on {benchmark}",
            report["benchmarks"].get(benchmark, {}).get(model, {}),
        )
        check.expect(set(cells) == PROTOCOLS, f"{where}: scored by {', '.join(cells) or 'no protocol'}")
        check.expect(all(0 <= value <= 1 for value in cells.values()), f"{where}: an accuracy is not a share")
        check.expect(
            cells.get("ours") == score["accuracy"],
            f"{where}: ours is {cells.get('ours')}, eval/scores.json says {score['accuracy']}",
        )
    for name in ("honest", "forms"):
        check.expect(
            not report[name]["completions"] or report[name]["agreement"]["ours"] == 1,
            f"eval/protocols.json: {name}: ours does not agree with itself",
        )
    red = report["red_team"].get("protocols", {})
    check.expect(
        set(red) == PROTOCOLS and red["ours"]["letter"] == 0,
        "eval/protocols.json: red_team: not of every protocol, or ours reads what it does not read",
    )


def check_lengths(check: Check) -> None:
    """lengths.json: every scored model and benchmark, all completions in its fifths or cut, and together as accurate as in scores.json."""
    report, scored = beside_scores(check, "eval/lengths.json")
    if report is None:
        return
    for model, benchmark, score in scored:
        where, found = f"eval/lengths.json: {model} on {benchmark}", report["benchmarks"].get(benchmark, {}).get(model)
        if found is None:
            check.problems.append(f"{where}: missing")
            continue
        cells = [*found["fifths"], *([found["truncated"]] if found["truncated"] else [])]
        count = sum(cell["completions"] for cell in cells)
        check.expect(
            count == score["n"] * score["samples"],
            f"{where}: {count} completions, eval/scores.json says {score['n'] * score['samples']}",
        )
        right = sum(cell["items"] * cell["accuracy"] for cell in cells)
        check.expect(
            score["samples"] > 1 or abs(right - score["n"] * score["accuracy"]) < 0.01,
            f"{where}: {right} right answers, eval/scores.json says otherwise",
        )
        check.expect(
            all(cell["ci95"][0] <= cell["accuracy"] <= cell["ci95"][1] for cell in cells),
            f"{where}: an accuracy lies outside its interval",
        )


def check_contamination(check: Check) -> None:
    """contamination.json: every scored benchmark is in it, and no clean score holds more items than the whole."""
    report, scored = beside_scores(check, "eval/contamination.json")
    if report is None:
        return
    for model, benchmark, score in scored:
        where, found, clean = (
            f"eval/contamination.json: {benchmark}",
            report["tests"].get(benchmark),
            score.get("clean"),
        )
        if found is None or clean is None:
            check.problems.append(f"{where}: was not compared, or {model} has no clean score")
            continue
        check.expect(
            clean["n"] <= score["n"] <= found["items"] and found["training_documents"] > 0,
            f"{where}: counts make no sense",
        )
        check.expect(
            bool(found["matched"] or found["pairs"]) or clean["accuracy"] == score["accuracy"],
            f"{where}: nothing matches, yet the clean score of {model} differs",
        )
    if "mmlu_pro_medical" in report["tests"]:
        exact = sum(pair[2] == "exact" for pair in report["tests"]["mmlu_pro_medical"]["pairs"])
        check.expect(
            exact == 95, f"eval/contamination.json: mmlu_pro_medical: {exact} exact duplicate pairs, known are 95"
        )
    curation = (check.load("data/report.json", read_json) or {}).get("curation", {})
    counts = curation.get("counts", {})
    check.expect(
        counts.get("read", 0) > 0
        and counts.get("read") == counts.get("kept", 0) + sum(counts.get("removed", {}).values()),
        "data/report.json: curation: read is not kept plus removed",
    )


def check_paper(check: Check) -> None:
    for folder, kinds, wanted in (("figures", ("pdf", "png"), FIGURES), ("tables", ("md", "tex"), PAPER_TABLES)):
        stems = [{Path(name).stem for name in check.names(f"{folder}/*.{kind}")} for kind in kinds]
        for stem in sorted(stems[0] ^ stems[1]):
            check.problems.append(f"{folder}/{stem}: not in both of {kinds[0]} and {kinds[1]}")
        missing = wanted - (stems[0] & stems[1])
        check.expect(not missing, f"{folder}: lacks {', '.join(sorted(missing))}")
    for name in [*check.names("figures/*.pdf"), "paper.pdf"]:
        check.load(name, begins(b"%PDF-"))
    for name in check.names("figures/*.png"):
        check.load(name, begins(b"\x89PNG\r\n"))
    for name in check.names("tables/*.md") + check.names("tables/*.tex"):
        check.load(name, lambda path: path.read_text(encoding="utf-8"))


def check_notebooks(check: Check) -> None:
    for number in range(1, 6):
        names = check.names(f"notebooks/0{number}_*.ipynb")
        check.expect(len(names) == 1, f"notebooks/0{number}_*.ipynb: {len(names)} files, expected 1")
        for name in names:
            notebook = check.load(name, lambda path: nbformat.read(path, as_version=4))
            code = [cell for cell in notebook.cells if cell.cell_type == "code"] if notebook else []
            check.expect(
                all(c.execution_count for c in code if c.source.strip()), f"{name}: has cells that were not executed"
            )
            check.expect(not any(o.output_type == "error" for c in code for o in c.outputs), f"{name}: holds an error")


def digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_manifests(check: Check) -> None:
    for stage in STAGES:
        manifest = check.load(f"{stage}/manifest.json", read_json)
        if manifest is None:
            continue
        missing = sorted(MANIFEST_KEYS - set(manifest))
        if missing:
            check.problems.append(f"{stage}/manifest.json: lacks {', '.join(missing)}")
            continue
        check.expect(bool(manifest["outputs"]), f"{stage}/manifest.json: names no outputs")
        files = {f"{stage}/{name}": value for name, value in manifest["outputs"].items()}
        files |= {f"{parent}/manifest.json": value for parent, value in manifest["parents"].items()}
        for name, value in files.items():
            path = check.run / name
            check.expect(
                path.is_file() and digest(path) == value, f"{name}: is not the file that {stage}/manifest.json names"
            )


def check_no_machine_paths(check: Check) -> None:
    """No text result names the folder that this checkout happens to lie in."""
    here = str(Path(__file__).resolve().parents[2])
    for pattern in ("recipe.yaml", "**/*.json", "**/*.jsonl", "**/*.ipynb", "**/*.md", "**/*.tex"):
        for name in check.names(pattern):
            check.expect(
                here not in (check.run / name).read_text(encoding="utf-8"), f"{name}: names a folder of this machine"
            )


def check_run(run: Path, min_test: int = 600) -> list[str]:
    """Problems of a run folder, one line each; none when it is whole.

    ``min_test``: fewest items of the test split, a fifth of them of each reasoning type; 0 for a shrunken recipe.
    """
    check = Check(run)
    if not run.is_dir():
        return [f"{run}: no such folder"]
    recipe = check.load("recipe.yaml", lambda path: yaml.safe_load(path.read_text(encoding="utf-8")))
    check.expect(recipe is None or isinstance(recipe, dict), "recipe.yaml: not a mapping")
    check_data(check, min_test)
    for stage in ("sft", "grpo"):
        check_training(check, stage)
    check_evaluation(check)
    check_protocols(check)
    check_lengths(check)
    check_contamination(check)
    check_paper(check)
    check_notebooks(check)
    check_manifests(check)
    check_no_machine_paths(check)
    return check.problems


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the files of a run folder.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--min-test", type=int, default=600, help="fewest test items; 0 for a shrunken recipe")
    arguments = parser.parse_args()
    problems = check_run(arguments.run, arguments.min_test)
    for problem in problems:
        print(f"{arguments.run}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{arguments.run}: every result file is there and makes sense")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
