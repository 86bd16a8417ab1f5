"""``scores.json`` as text: the table of results with what has to be known to read it, and a table of details."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from gazal.answers.protocols import protocol

NOTED = 0.2  # a share of unread or cut completions from which the table says so
LISTED = 8  # differences that are named
NONE = "–"


def results_table(scores: dict[str, Any]) -> str:
    """Markdown: models by benchmarks, accuracy in % with its 95 % interval, then chance and the best shortcut. Below it, in
    words: what was not run and why, which differences hold, which difference each benchmark could have shown, completions that were cut or not read,
    macro-F1, accuracy without repeated items where it differs, and robustness to the order of options."""
    not_run = scores.get("not_run", {})
    benchmarks = list(dict.fromkeys([*(b for m in scores["models"].values() for b in m["benchmarks"]), *not_run]))

    def size(benchmark: str) -> str:
        found = next(
            (m["benchmarks"][benchmark]["n"] for m in scores["models"].values() if benchmark in m["benchmarks"]), None
        )
        return benchmark if found is None else f"{benchmark} (n={found})"

    def shortcut(row: dict[str, float]) -> str:
        name = max(row, key=row.__getitem__)  # chance comes first and wins ties
        return "none above chance" if name == "chance" else f"{_percent(row[name])} ({name})"

    rows = [["accuracy, % (95 % interval)", *map(size, benchmarks)]]
    for model, entry in scores["models"].items():
        rows.append(
            [model, *(_accuracy(entry["benchmarks"][b]) if b in entry["benchmarks"] else "not run" for b in benchmarks)]
        )
    known = scores.get("baselines", {})
    if known:
        rows.append(["chance", *(_percent(known[b]["chance"]) if b in known else "" for b in benchmarks)])
        rows.append(["best shortcut", *(shortcut(known[b]) if b in known else "" for b in benchmarks)])
    notes = [f"{name} not run: {reason}" for name, reason in not_run.items()]
    notes += [note for about in NOTES for note in about(scores)]
    if "protocol" in scores:
        notes.append(f"Scored by the protocol {scores['protocol']}, not by ours: {protocol(scores['protocol']).rule}.")
    return "\n\n".join([_markdown(rows), "\n".join(notes)] if notes else [_markdown(rows)])


def details_table(scores: dict[str, Any]) -> str:
    """Markdown: a row for each benchmark and model: accuracy, shares of completions unparsed, truncated and empty in %, mean
    tokens, right answers per 1,000 tokens, and with several samples maj@k and pass@k of all samples."""
    header = [
        "benchmark",
        "model",
        "n",
        "accuracy, % (95 % interval)",
        "unparsed, %",
        "truncated, %",
        "empty, %",
        "tokens",
        "right per 1,000 tokens",
    ]
    rows = []
    for benchmark in dict.fromkeys(b for m in scores["models"].values() for b in m["benchmarks"]):
        for model, entry in scores["models"].items():
            if score := entry["benchmarks"].get(benchmark):
                shares = [
                    _percent(score[name]) if name in score else NONE for name in ("unparsed", "truncated", "empty")
                ]
                rate = score.get("right_per_1k_tokens")
                tokens = [f"{score['mean_tokens']:.0f}", NONE if rate is None else f"{rate:.2f}"]
                rows.append([benchmark, model, str(score["n"]), _accuracy(score), *shares, *tokens, *_at_k(score)])
    return _markdown([[*header, *(["maj@k", "pass@k"] if any(len(row) > len(header) for row in rows) else [])], *rows])


def in_percent(share: float, digits: int = 1) -> float:
    """A share as percent as it is printed: halves go away from zero, as the paper's own arithmetic has it (0.0625 is 6.3), and what
    binary fractions lose does not count (0.2875 is 28.8)."""
    return math.copysign(math.floor(round(abs(share) * 10 ** (digits + 2), 6) + 0.5) / 10**digits, share)


def _percent(share: float) -> str:
    return f"{in_percent(share):.1f}"


def _accuracy(score: dict[str, Any]) -> str:
    return f"{_percent(score['accuracy'])} ({_percent(score['ci95'][0])}–{_percent(score['ci95'][1])})"


def _at_k(score: dict[str, Any]) -> list[str]:
    last = str(score.get("samples", 1))
    return [f"{_accuracy(score['at_k'][kind][last])}, k={last}" for kind in ("maj", "pass")] if "at_k" in score else []


def _markdown(rows: list[list[str]]) -> str:
    """The first row is the header; rows that are too short are filled up."""
    rows = [row + [""] * (len(rows[0]) - len(row)) for row in rows]
    rows = [[text.replace("|", "\\|") for text in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cells(scores: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for model, entry in scores["models"].items():
        for benchmark, score in entry["benchmarks"].items():
            yield model, benchmark, score


def _power(scores: dict[str, Any]) -> Iterator[str]:
    """For each benchmark by its pairs of models or, where one model is alone, against chance."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in scores.get("paired", []):
        if "detectable" in row:
            pairs.setdefault(row["benchmark"], []).append(row)
    alone = {
        benchmark: [score] for _, benchmark, score in _cells(scores) if benchmark not in pairs and "detectable" in score
    }
    for what, found in (("difference between two models on the same items", pairs), ("accuracy above chance", alone)):
        sizes = [
            f"{_points([row['detectable'] for row in rows])} on {benchmark} (n = {rows[0]['n']})"
            for benchmark, rows in found.items()
        ]
        if sizes:
            yield f"True {what} that so many items show with 80 % power, in points: {', '.join(sizes)}. Less would likely go unseen."


def _hold(scores: dict[str, Any]) -> Iterator[str]:
    """Which paired differences are left after Holm's correction."""
    tested = [row for row in scores.get("paired", []) if "p_holm" in row]
    found = [
        f"{row['a']} to {row['b']} on {row['benchmark']} {100 * row['delta']:+.1f}".replace("-", "−")
        for row in tested
        if row["p_holm"] <= 0.05
    ]
    if tested:
        shown = ", ".join(found[:LISTED]) + (
            f" and {len(found) - LISTED} more in scores.json" if len(found) > LISTED else ""
        )
        yield f"Paired differences in points that hold after Holm's correction for {len(tested)} test{'s' * (len(tested) > 1)} (p ≤ 0.05): {shown or 'none'}."


def _points(shares: list[float | None]) -> str:
    points = sorted({round(100 * share) for share in shares if share is not None})
    return "none" if None in shares else f"{points[0]}" if len(points) == 1 else f"{points[0]} to {points[-1]}"


def _cut(scores: dict[str, Any]) -> Iterator[str]:
    for model, benchmark, score in _cells(scores):
        limit, not_asked = (score.get("sampling") or {}).get("max_new_tokens"), score.get("not_asked", 0)
        if not_asked:
            yield f"{model} on {benchmark}: {_percent(not_asked)} % of prompts left no room in the model's context: not asked, and wrong."
        if (cut := score["truncated"] - not_asked) >= NOTED:
            remedy = (
                f"{limit} tokens; raise evaluation.max_new_tokens"
                if limit
                else "their token limit; ask again with a higher one"
            )
            yield f"{model} on {benchmark}: {100 * cut:.0f} % of completions were cut at {remedy}."


def _unread(scores: dict[str, Any]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for model, benchmark, score in _cells(scores):
        if score["unparsed"] >= NOTED:
            reasons = {name: count for name, count in score.get("reasons", {}).items() if name != "ok"}
            most = f", most often {max(reasons, key=reasons.__getitem__)}" if reasons else ""
            found.setdefault(benchmark, []).append(f"{100 * score['unparsed']:.0f} % of {model}{most}")
    for benchmark, shares in found.items():
        yield f"{benchmark}: completions in which no answer is read, which count as wrong: {'; '.join(shares)}."


def _macro_f1(scores: dict[str, Any]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for model, benchmark, score in _cells(scores):
        if "macro_f1" in score:
            low, high = score["macro_f1"]["ci95"]
            found.setdefault(benchmark, []).append(
                f"{model} {_percent(score['macro_f1']['value'])} ({_percent(low)}–{_percent(high)})"
            )
    for benchmark, values in found.items():
        yield f"{benchmark}, macro-F1 in %: {', '.join(values)}."


def _deduplicated(scores: dict[str, Any]) -> Iterator[str]:
    found: dict[tuple[str, int], list[str]] = {}
    for model, benchmark, score in _cells(scores):
        part = score.get("deduplicated")
        if part and part["n"] < score["n"] and part["accuracy"] != score["accuracy"]:
            found.setdefault((benchmark, part["n"]), []).append(f"{model} {_accuracy(part)}")
    for (benchmark, n), values in found.items():
        yield f"{benchmark} without repeated items (n = {n}): {', '.join(values)}."


def _robust(scores: dict[str, Any]) -> Iterator[str]:
    for model, benchmarks in scores.get("robustness", {}).items():
        for benchmark, found in benchmarks.items():
            accuracy, bias = found["accuracy"], found["letter_bias"]
            letter = max(bias, key=bias.__getitem__, default=None)
            likes = (
                f"; chooses {letter} {100 * bias[letter]:.0f} points more often than it is right"
                if letter and bias[letter] >= 0.05
                else ""
            )
            yield (
                f"{model} on {benchmark} in {found['orders']} orders of the options: accuracy {_percent(accuracy['lowest'])} to {_percent(accuracy['highest'])}, "
                f"same answer in all orders {100 * found['same_answer']:.0f} %{likes}."
            )


NOTES: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (
    _hold,
    _power,
    _cut,
    _unread,
    _macro_f1,
    _deduplicated,
    _robust,
)
