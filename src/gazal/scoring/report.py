"""``scores.json`` as text: the table of results with what has to be known to read it, and a table of details."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gazal.answers.protocols import protocol
from gazal.scoring.table import Table, number, percent, signed, with_interval

NOTED = 0.2  # a share of unread or cut completions from which the table says so
LISTED = 8  # differences that are named
ACCURACY = "accuracy, % (95 % interval)"


def results_table(scores: dict[str, Any]) -> str:
    """Return Markdown: models by benchmarks, accuracy in % with its 95 % interval, then chance and the best shortcut.

    Below it in words: what was not run and why, which differences hold and which each benchmark could have shown.
    Then completions that were cut or not read, macro-F1, accuracy without repeated items if it differs, and
    robustness to the order of options.
    """
    not_run = scores.get("not_run", {})
    sizes: dict[str, int] = {}
    for _, benchmark, score in _cells(scores):
        sizes.setdefault(benchmark, score["n"])
    benchmarks = {b: f"{b} (n={n})" for b, n in sizes.items()} | {b: b for b in not_run if b not in sizes}

    def shortcut(row: dict[str, float]) -> str:
        name = max(row, key=row.__getitem__)  # chance comes first and wins ties
        return "none above chance" if name == "chance" else f"{percent(row[name])} ({name})"

    rows = [
        [model, *(_interval(entry["benchmarks"][b]) if b in entry["benchmarks"] else "not run" for b in benchmarks)]
        for model, entry in scores["models"].items()
    ]
    known = scores.get("baselines", {})
    if known:
        rows.append(["chance", *(percent(known[b]["chance"]) if b in known else "" for b in benchmarks)])
        rows.append(["best shortcut", *(shortcut(known[b]) if b in known else "" for b in benchmarks)])
    notes = [f"{name} not run: {reason}" for name, reason in not_run.items()]
    notes += [note for about in NOTES for note in about(scores)]
    if "protocol" in scores:
        notes.append(f"Scored by the protocol {scores['protocol']}, not by ours: {protocol(scores['protocol']).rule}.")
    table = Table("", "", [ACCURACY, *benchmarks.values()], rows).terminal()
    return "\n\n".join([table, "\n".join(notes)] if notes else [table])


def details_table(scores: dict[str, Any]) -> str:
    """Return Markdown, a row for each benchmark and model: accuracy and the cells of :func:`how_answered`.

    If there are several samples, also maj@k and pass@k of all samples.
    """
    header = ["benchmark", "model", "n", ACCURACY, "unparsed, %", "truncated, %", "empty, %"]
    header += ["tokens", "right per 1,000 tokens"]
    rows = []
    for benchmark in dict.fromkeys(b for m in scores["models"].values() for b in m["benchmarks"]):
        for model, entry in scores["models"].items():
            if score := entry["benchmarks"].get(benchmark):
                rows.append([benchmark, model, str(score["n"]), _interval(score), *how_answered(score), *_at_k(score)])
    more = ["maj@k", "pass@k"] if any(len(row) > len(header) for row in rows) else []
    return Table("", "", [*header, *more], rows).terminal()


def how_answered(score: dict[str, Any]) -> list[str]:
    """Return five cells: completions unparsed, truncated, empty in %, mean tokens, right answers per 1,000 tokens."""
    shares = [percent(score.get(name)) for name in ("unparsed", "truncated", "empty")]
    return [*shares, number(score.get("mean_tokens")), number(score.get("right_per_1k_tokens"), 2)]


def _interval(score: dict[str, Any]) -> str:
    return with_interval(score, "{} ({}–{})")


def _at_k(score: dict[str, Any]) -> list[str]:
    last = str(score.get("samples", 1))
    return [f"{_interval(score['at_k'][kind][last])}, k={last}" for kind in ("maj", "pass")] if "at_k" in score else []


def _cells(scores: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for model, entry in scores["models"].items():
        for benchmark, score in entry["benchmarks"].items():
            yield model, benchmark, score


def _power(scores: dict[str, Any]) -> Iterator[str]:
    """Yield what each benchmark could have shown: between its models or, if one model is alone, above chance."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in scores.get("paired", []):
        if "detectable" in row:
            pairs.setdefault(row["benchmark"], []).append(row)
    alone = {b: [score] for _, b, score in _cells(scores) if b not in pairs and "detectable" in score}
    for what, found in (("difference between two models on the same items", pairs), ("accuracy above chance", alone)):
        sizes = [
            f"{_points([row['detectable'] for row in rows])} on {benchmark} (n = {rows[0]['n']})"
            for benchmark, rows in found.items()
        ]
        if sizes:
            shown = f"True {what} that so many items show with 80 % power, in points"
            yield f"{shown}: {', '.join(sizes)}. Less would likely go unseen."


def _hold(scores: dict[str, Any]) -> Iterator[str]:
    """Yield the paired differences that are left after Holm's correction."""
    tested = [row for row in scores.get("paired", []) if "p_holm" in row]
    held = [row for row in tested if row["p_holm"] <= 0.05]
    found = [f"{row['a']} to {row['b']} on {row['benchmark']} {signed(100 * row['delta'])}" for row in held]
    if tested:
        rest = f" and {len(found) - LISTED} more in scores.json" if len(found) > LISTED else ""
        shown = ", ".join(found[:LISTED]) + rest or "none"
        tests = f"{len(tested)} test{'s' * (len(tested) > 1)}"
        yield f"Paired differences in points that hold after Holm's correction for {tests} (p ≤ 0.05): {shown}."


def _points(shares: list[float | None]) -> str:
    points = sorted({round(100 * share) for share in shares if share is not None})
    return "none" if None in shares else f"{points[0]}" if len(points) == 1 else f"{points[0]} to {points[-1]}"


def _cut(scores: dict[str, Any]) -> Iterator[str]:
    for model, benchmark, score in _cells(scores):
        limit, not_asked = (score.get("sampling") or {}).get("max_new_tokens"), score.get("not_asked", 0)
        if not_asked:
            share = f"{percent(not_asked)} % of prompts"
            yield f"{model} on {benchmark}: {share} left no room in the model's context: not asked, and wrong."
        if refused := score.get("refused", 0):
            yield f"{model} on {benchmark}: {percent(refused)} % of prompts were refused by the server, and are wrong."
        if (cut := score["truncated"] - not_asked) >= NOTED:
            remedy = "their token limit; ask again with a higher one"
            if limit:
                remedy = f"{limit} tokens; raise evaluation.max_new_tokens"
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
            found.setdefault(benchmark, []).append(f"{model} {_interval(score['macro_f1'])}")
    for benchmark, values in found.items():
        yield f"{benchmark}, macro-F1 in %: {', '.join(values)}."


def _deduplicated(scores: dict[str, Any]) -> Iterator[str]:
    found: dict[tuple[str, int], list[str]] = {}
    for model, benchmark, score in _cells(scores):
        part = score.get("deduplicated")
        if part and part["n"] < score["n"] and part["accuracy"] != score["accuracy"]:
            found.setdefault((benchmark, part["n"]), []).append(f"{model} {_interval(part)}")
    for (benchmark, n), values in found.items():
        yield f"{benchmark} without repeated items (n = {n}): {', '.join(values)}."


def _robust(scores: dict[str, Any]) -> Iterator[str]:
    for model, benchmarks in scores.get("robustness", {}).items():
        for benchmark, found in benchmarks.items():
            accuracy, bias = found["accuracy"], found["letter_bias"]
            letter = max(bias, key=bias.__getitem__, default=None)
            likes = ""
            if letter and bias[letter] >= 0.05:
                likes = f"; chooses {letter} {100 * bias[letter]:.0f} points more often than it is right"
            yield (
                f"{model} on {benchmark} in {found['orders']} orders of the options: accuracy "
                f"{percent(accuracy['lowest'])} to {percent(accuracy['highest'])}, same answer in all orders "
                f"{100 * found['same_answer']:.0f} %{likes}."
            )


NOTES = (_hold, _power, _cut, _unread, _macro_f1, _deduplicated, _robust)
