"""What a paper is made from: a run's saved result files and the published values. Reads, computes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gazal.answers.protocols import OURS, PROTOCOLS
from gazal.common.errors import GazalError
from gazal.common.files import read_jsonl
from gazal.common.paths import PAPER
from gazal.data.schemas import DataReport
from gazal.items.types import REASONING_TYPES
from gazal.scoring.contamination import unclean
from gazal.scoring.schemas import BenchmarkScore, Faithfulness, Scores
from gazal.scoring.table import in_percent

TEST = "test"  # the embedded test's name in scores.json
STAGES = {"base": "Base", "sft": "SFT", "grpo": "GRPO"}
TYPES = {"diagnosis": "Diagnosis", "uncertainty": "Uncertainty", "treatment": "Treatment", "prognosis": "Prognosis"}
BASELINES = {
    "chance": "Chance",
    "most_frequent_letter": "Most frequent letter",
    "longest_option": "Longest option",
    "most_annotated": "Most-annotated option",
    "option_prior": "Option prior",
    "matched_findings": "Matched findings",
}
assert tuple(TYPES) == REASONING_TYPES


def model_label(name: str) -> str:
    """Return a model's name for readers."""
    return STAGES.get(name, name)


@dataclass(frozen=True)
class Change:
    """A paired difference in accuracy, ``after`` minus ``before``, as shares.

    ``p`` is two-sided, ``p_holm`` corrected for all comparisons of the run. ``detectable``: the difference that ``n``
    items would have shown with 80 % power. None: an older run.
    """

    delta: float
    low: float
    high: float
    p: float
    p_holm: float | None = None
    n: int | None = None
    detectable: float | None = None

    @property
    def shown(self) -> bool:
        """Tell whether a difference is shown: p below 0.05, corrected if the run holds that."""
        return (self.p if self.p_holm is None else self.p_holm) < 0.05


@dataclass(frozen=True)
class ProtocolRow:
    """One model on one benchmark: accuracy by protocol, a share to 0.1 points, as it is printed."""

    benchmark: str
    model: str
    accuracy: dict[str, float]

    @property
    def span(self) -> float:
        """Return the highest less the lowest accuracy: how much of a score is protocol."""
        return round(max(self.accuracy.values()) - min(self.accuracy.values()), 3)


@dataclass(frozen=True)
class Results:
    """A run's result files as they are; what is absent is empty."""

    run: Path
    recipe: dict[str, Any]
    scores: Scores
    data: DataReport
    sft_log: pd.DataFrame
    grpo_log: pd.DataFrame
    pass_rates: dict[str, float]
    published: dict[str, Any]
    protocols: dict[str, Any]
    contamination: dict[str, Any]
    parity: dict[str, Any]
    lengths: dict[str, Any]
    faithfulness: Faithfulness = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Return the models with scores: the stages in order, then any other."""
        found = self.scores["models"]
        return [*(m for m in STAGES if m in found), *sorted(m for m in found if m not in STAGES)]

    def score(self, model: str, benchmark: str) -> BenchmarkScore | None:
        """Return one model's entry for one benchmark, or None if it was not run."""
        return self.scores["models"].get(model, {}).get("benchmarks", {}).get(benchmark)

    def change(self, before: str, after: str, benchmark: str) -> Change | None:
        """Return the saved paired test between two models, or None; scores.json holds ``b`` minus ``a``."""
        for row in self.scores.get("paired", []):
            if row["benchmark"] == benchmark and {row["a"], row["b"]} == {before, after}:
                low, high = row["ci95"]
                more = (row["p"], row.get("p_holm"), row.get("n"), row.get("detectable"))
                return (
                    Change(row["delta"], low, high, *more)
                    if row["b"] == after
                    else Change(-row["delta"], -high, -low, *more)
                )
        return None

    def baseline(self, name: str, kind: str | None = None, benchmark: str = TEST) -> float | None:
        """Return a shortcut's accuracy (share), over all items or one reasoning type; None if it is not known."""
        value = self.scores.get("baselines", {}).get(benchmark, {}).get(name)
        if value is None or (kind and not isinstance(value, dict)):
            value = self.data.get("baselines", {}).get(name) if benchmark == TEST else None
        if isinstance(value, dict):
            return value.get("by", {}).get(kind) if kind else value.get("accuracy")
        return None if kind else value

    def chance(self, benchmark: str) -> float | None:
        """Return the expected accuracy (share) of a uniform guess on one benchmark."""
        return self.baseline("chance", benchmark=benchmark)

    def groups(self, benchmark: str) -> list[str]:
        """Return the groups in any model's score on a benchmark: reasoning types in order, then subjects by name."""
        found = {g for m in self.models if (score := self.score(m, benchmark)) for g in score.get("by", {})}
        return [*(k for k in TYPES if k in found), *sorted(found - set(TYPES))]

    @property
    def benchmark_names(self) -> dict[str, str]:
        """Return names for readers: the embedded test, the published benchmarks, then any other of this run."""
        named = {TEST: "Embedded test"} | self.published["benchmarks"]
        return named | {
            b: b for m in self.models for b in self.scores["models"][m].get("benchmarks", {}) if b not in named
        }

    @property
    def protocol_rows(self) -> list[ProtocolRow]:
        """Return the accuracies under each protocol by benchmark and model; empty without ``protocols.json``."""
        found = self.protocols.get("benchmarks", {})
        cells = [(b, m) for b in self.benchmark_names for m in self.models if m in found.get(b, {})]
        return [
            ProtocolRow(b, m, {name: round(in_percent(share) / 100, 3) for name, share in found[b][m].items()})
            for b, m in cells
        ]

    @property
    def contamination_rows(self) -> list[dict[str, Any]]:
        """Return a row for each benchmark that was compared with the training data.

        It holds the name, and the counts of ``contamination.json`` with pairs and matched items as numbers. ``scores``
        holds each model's accuracy and interval, on all items that were run and on the clean ones.
        """
        rows = []
        for benchmark, label in self.benchmark_names.items():
            if entry := self.contamination.get(benchmark):
                kinds = [pair[2] for pair in entry["pairs"]]
                scores = {
                    m: {"all": s, "clean": s.get("clean")} for m in self.models if (s := self.score(m, benchmark))
                }
                rows.append(
                    entry
                    | {
                        "name": label,
                        "matched": len(entry["matched"]),
                        "pairs_exact": kinds.count("exact"),
                        "pairs_near": kinds.count("near"),
                        "clean": entry["items"] - len(unclean(entry)),
                        "scores": scores,
                    }
                )
        return rows

    def not_run(self, benchmark: str) -> str:
        """Return the reason why a benchmark has no scores, in one line."""
        return self.scores.get("not_run", {}).get(benchmark, "no predictions in this run")


def _json(path: Path, required: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise GazalError(f"{path}: no such file; evaluate the run first") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise GazalError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise GazalError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def read_yaml(path: Path, required: bool = True) -> dict[str, Any]:
    """Read a mapping from YAML; an optional file that is missing reads as empty."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise GazalError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise GazalError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(value, dict):
        raise GazalError(f"{path}: expected a mapping")
    return value


def _log(path: Path, column: str) -> pd.DataFrame:
    """Read the logged steps that hold ``column`` (a trainer's closing summary does not), by step; later lines win."""
    rows = [row for _, row in read_jsonl(path) if row.get(column) is not None] if path.exists() else []
    if rows and any("step" not in row for row in rows):
        raise GazalError(f"{path}: a row without the field step")
    frame = pd.DataFrame(rows)
    return frame.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True) if rows else frame


def _check(scores: Scores, path: Path) -> None:
    """Raise GazalError if a field that figures and tables need is missing or contradicts another."""
    if not isinstance(scores.get("models"), dict) or not scores["models"]:
        raise GazalError(f"{path}: models: no scored model")
    for model, entry in scores["models"].items():
        for benchmark, score in entry.get("benchmarks", {}).items():
            where = f"{path}: models.{model}.benchmarks.{benchmark}"
            for name in ("n", "accuracy", "ci95", "unparsed", "truncated"):
                if name not in score:
                    raise GazalError(f"{where}.{name}: missing")
            if not 0 <= score["accuracy"] <= 1:
                raise GazalError(f"{where}.accuracy: {score['accuracy']} is not between 0 and 1")
    accuracy = {(m, b): s["accuracy"] for m, e in scores["models"].items() for b, s in e.get("benchmarks", {}).items()}
    for row in scores.get("paired", []):
        a, b = accuracy.get((row["a"], row["benchmark"])), accuracy.get((row["b"], row["benchmark"]))
        if a is not None and b is not None and abs(row["delta"] - (b - a)) > 5e-6:  # both are rounded
            raise GazalError(
                f"{path}: paired: {row['a']}, {row['b']} on {row['benchmark']}: delta is not accuracy of b minus "
                "accuracy of a"
            )


def _check_protocols(protocols: dict[str, Any], scores: Scores, path: Path) -> None:
    """Raise GazalError if a protocol is missing, or ours is not as in scores.json.

    Then the file is of other predictions or of other code.
    """
    for benchmark, models in protocols.get("benchmarks", {}).items():
        for model, cells in models.items():
            where, again = f"{path}: benchmarks.{benchmark}.{model}", "write it again with gazal score"
            if set(cells) != set(PROTOCOLS):
                raise GazalError(f"{where}: expected {', '.join(PROTOCOLS)}; {again}")
            score = scores["models"].get(model, {}).get("benchmarks", {}).get(benchmark)
            if score is None or abs(score["accuracy"] - cells[OURS]) > 5e-6:
                raise GazalError(f"{where}.{OURS}: is not the accuracy in scores.json; {again}")


def _check_faithfulness(report: Faithfulness, scores: Scores, path: Path) -> None:
    """Raise GazalError if all items were judged and an accuracy is not as in scores.json: other predictions."""
    for model, entry in report.get("models", {}).items():
        for benchmark, cell in entry["benchmarks"].items():
            score = scores["models"].get(model, {}).get("benchmarks", {}).get(benchmark)
            if score is None or (
                score["n"] == cell["items"] and abs(score["accuracy"] - cell["accuracy"]["value"]) > 5e-6
            ):
                raise GazalError(
                    f"{path}: models.{model}.benchmarks.{benchmark}.accuracy: is not that in scores.json; "
                    "write it again with gazal score"
                )


def _check_lengths(lengths: dict[str, Any], scores: Scores, path: Path) -> None:
    """Raise GazalError if the completions are not as many as in scores.json: the file is of other predictions."""
    for benchmark, models in lengths.items():
        for model, found in models.items():
            score = scores["models"].get(model, {}).get("benchmarks", {}).get(benchmark, {})
            counted = sum(
                cell["completions"]
                for cell in (*found["fifths"], *([found["truncated"]] if found["truncated"] else []))
            )
            if counted != score.get("n", 0) * score.get("samples", 1):
                raise GazalError(
                    f"{path}: benchmarks.{benchmark}.{model}: is not of the predictions in scores.json; "
                    "write it again with gazal score"
                )


def read_results(run: str | Path) -> Results:
    """Read the result files of a run, ``runs/<recipe>/``: only scores.json is required, all others may be absent.

    Raises GazalError, one line naming file and field, for what cannot be read.
    """
    run = Path(run)
    scores = _json(run / "eval" / "scores.json", required=True)
    _check(scores, run / "eval" / "scores.json")
    protocols = _json(run / "eval" / "protocols.json")
    _check_protocols(protocols, scores, run / "eval" / "protocols.json")
    lengths = _json(run / "eval" / "lengths.json").get("benchmarks", {})
    _check_lengths(lengths, scores, run / "eval" / "lengths.json")
    faithfulness = _json(run / "eval" / "faithfulness.json")
    _check_faithfulness(faithfulness, scores, run / "eval" / "faithfulness.json")
    return Results(
        run=run,
        recipe=read_yaml(run / "recipe.yaml", required=False),
        scores=scores,
        data=_json(run / "data" / "report.json"),
        sft_log=_log(run / "sft" / "metrics.jsonl", "loss"),
        grpo_log=_log(run / "grpo" / "metrics.jsonl", "reward"),
        pass_rates=_json(run / "grpo" / "pass_rates.json"),
        published=read_yaml(PAPER / "published.yaml"),
        protocols=protocols,
        contamination=_json(run / "eval" / "contamination.json").get("tests", {}),
        parity={stage: found for stage in ("sft", "grpo") if (found := _json(run / stage / "parity.json"))},
        lengths=lengths,
        faithfulness=faithfulness,
    )
