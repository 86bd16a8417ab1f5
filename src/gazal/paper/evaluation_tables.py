"""Tables of the evaluation: results on the embedded test, paired tests, benchmarks, and how models answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gazal.paper.inputs import BASELINES, TEST, TYPES, Results, model_label
from gazal.scoring.report import how_answered
from gazal.scoring.table import NONE, Table, count, group_rules, number, p_value, percent, points, with_interval, with_n


def results_table(results: Results) -> Table:
    """Show the stages by overall and per-type accuracy, format, unparsed, truncated, tokens; shortcuts below."""
    scores = {model: score for model in results.models if (score := results.score(model, TEST))}
    rows = []
    for model, score in scores.items():
        accuracy = [score, *(score.get("by", {}).get(kind) for kind in TYPES)]
        shares = [score.get("format"), score["unparsed"], score["truncated"]]
        tokens = number(score.get("mean_tokens"))
        rows.append([model_label(model), *map(with_interval, accuracy), *map(percent, shares), tokens])
    for name, label in BASELINES.items():
        if results.baseline(name) is not None:
            shares = [results.baseline(name, kind) for kind in (None, *TYPES)]
            rows.append([f"Shortcut: {label.lower()}", *map(percent, shares), *[NONE] * 4])
    sizes = {score["n"] for score in scores.values()}
    size = f", n = {sizes.pop()}" if len(sizes) == 1 else ""
    return Table(
        "results",
        f"Embedded test{size}: accuracy in percent with 95 % intervals, by stage and reasoning type.",
        ["Model", "All items", *TYPES.values(), "Format", "Unparsed", "Truncated", "Tokens"],
        rows,
        rules=frozenset({len(scores) - 1} if 0 < len(scores) < len(rows) else ()),
        notes=[
            "Accuracy counts every item: an unparsed answer is wrong. Format, unparsed and truncated are percent of "
            "completions; tokens is the mean length. The items are knowledge-derived, no clinical vignettes and no "
            "proxy for MedQA."
        ],
    )


def _columns(rows: list[list[str]], kept: Sequence[int]) -> list[list[str]]:
    """Return rows of these columns alone, in this order."""
    return [[row[at] for at in kept] for row in rows]


def paired_table(results: Results) -> Table:
    """Show every saved paired test: difference in points, 95 % interval, p.

    If the run holds them, also Holm's p and what could have been seen.
    """
    names, saved = results.benchmark_names, results.scores.get("paired", [])
    corrected = any("p_holm" in row for row in saved)
    rows = [["Benchmark", "Models", "Difference", "95 % interval", "p", "Items", "Holm's p", "Could have seen"]]
    for row in saved:
        name = names.get(row["benchmark"], row["benchmark"])
        models = f"{model_label(row['a'])} → {model_label(row['b'])}"
        by = row.get("by", {}) if row["benchmark"] == TEST else {}
        for label, test in [(name, row), *((f"{name}, {TYPES[k].lower()}", by[k]) for k in TYPES if k in by)]:
            low, high = map(points, test["ci95"])
            cells = [label, models, points(test["delta"]), f"[{low}, {high}]", p_value(test["p"])]
            more = [count(test.get("n")), p_value(test.get("p_holm")), percent(test.get("detectable"))]
            rows.append([*cells, *more])
    header, *rows = _columns(rows, (0, 1, 5, 2, 3, 4, 6, 7) if corrected else range(5))
    notes = ["Two-sided p, not corrected for the number of tests."]
    if corrected:
        notes = [
            "Two-sided p: exact McNemar, a permutation test where several completions an item are sampled. Holm's p "
            "corrects for all comparisons of whole sets; those by reasoning type are no part of that family and stay "
            "uncorrected. Could have seen: the smallest true difference in points that a test at 0.05 on so many "
            "items shows with 80 % power, where the two models differ on as many items as here; a dash, no "
            "difference or not computed."
        ]
    return Table(
        "paired",
        "Paired tests between models, on the same items: difference in accuracy in percentage points.",
        header,
        rows,
        text_columns=2,
        notes=notes,
    )


def _measured(results: Results, model: str, names: dict[str, str]) -> list[list[str]]:
    """Return a model's measured row; below it, if scored, the same without repeated items, and macro-F1."""
    scores = {b: results.score(model, b) or {} for b in names}
    parts = {b: part for b, s in scores.items() if (part := s.get("deduplicated")) and part["n"] < s["n"]}
    f1 = [s.get("macro_f1") for s in scores.values()]
    rows = [[f"{model_label(model)} (this run)", NONE, *(with_n(s, "not run") for s in scores.values())]]
    rows += [["… without repeated items", NONE, *(with_n(parts.get(b)) for b in names)]] if parts else []
    return rows + ([["… macro-F1", NONE, *map(with_interval, f1)]] if any(f1) else [])


def benchmarks_table(results: Results) -> Table:
    """Show the reported values (not ours), this run's measured ones with intervals, chance, and why one is missing."""
    names = {b: name for b, name in results.benchmark_names.items() if b != TEST}
    rows = [
        [f"{m['name']} (reported)", f"{m['billions']}B", *(number(m.get(b), 1) for b in names)]
        for m in results.published["models"].values()
    ]
    reported = len(rows)
    rows += [row for model in results.models for row in _measured(results, model, names)]
    rows.append(["Chance (this run's items)", NONE, *(percent(results.chance(b)) for b in names)])
    missing = [b for b in names if not any(results.score(m, b) for m in results.models)]
    source = results.published["source"]
    return Table(
        "benchmarks",
        f"Benchmark accuracy in percent. Reported: {source['title']} (arXiv:{source['arxiv']}), without intervals. "
        "This run: measured, with 95 % intervals.",
        ["Model", "Size", *names.values()],
        rows,
        rules=frozenset({reported - 1}),
        notes=[f"{names[b]} was not run: {results.not_run(b)}." for b in missing],
    )


def _at_k(score: dict[str, Any], kind: str) -> str:
    found = score.get("at_k", {}).get(kind, {})
    return f"{with_interval(found[last])}, k = {last}" if (last := max(found, key=int, default=None)) else NONE


def _over_orders(found: dict[str, Any]) -> list[str]:
    """Return four cells: orders, lowest and highest accuracy, same answers, the letter of the greatest bias."""
    low, high = (percent(found["accuracy"][name]) for name in ("lowest", "highest"))
    bias = found.get("letter_bias") or {}
    letter = max(bias, key=lambda k: abs(bias[k]), default=None)
    cells = [str(found.get("orders", NONE)), f"{low}–{high}", percent(found.get("same_answer"))]
    return [*cells, NONE if letter is None else f"{letter} {points(bias[letter])}"]


def evaluation_table(results: Results) -> Table:
    """Show how models answered, on each benchmark: shares without an answer, tokens, right answers for them.

    If there are several samples, also maj@k and pass@k; if several orders of the options, how far they matter.
    """
    header = [
        *("Benchmark", "Model", "Items", "Samples", "Accuracy", "Unparsed", "Truncated", "Empty", "Tokens"),
        *("Right per 1,000 tokens", "Maj@k", "Pass@k", "Orders", "Over orders", "Same answer", "Letter bias"),
    ]
    rows = []
    for benchmark, name in results.benchmark_names.items():
        for model in results.models:
            if score := results.score(model, benchmark):
                asked = [count(score["n"]), str(score.get("samples", NONE)), with_interval(score)]
                order = results.scores.get("robustness", {}).get(model, {}).get(benchmark)
                more = [_at_k(score, "maj"), _at_k(score, "pass"), *(_over_orders(order) if order else [NONE] * 4)]
                rows.append([name, model_label(model), *asked, *how_answered(score), *more])
    kept = [at for at in range(len(header)) if at < header.index("Maj@k") or any(row[at] != NONE for row in rows)]
    header, *rows = _columns([header, *rows], kept)
    notes = [
        "Unparsed, truncated and empty are percent of completions, tokens their mean length; right answers per 1,000 "
        "completion tokens."
    ]
    if "Maj@k" in header:
        notes.append("Maj@k: the commonest answer of k completions, ties shared; pass@k: any of k is right.")
    if "Orders" in header:
        notes.append(
            "Over orders: lowest and highest accuracy over the orders of the options; same answer: percent of items "
            "answered by the same option in all orders; letter bias: the letter chosen more or less often than it is "
            "right by most, in points."
        )
    return Table(
        "evaluation",
        "How models answered: accuracy in percent with 95 % intervals, completions without an answer, length.",
        header,
        rows,
        text_columns=2,
        rules=group_rules(rows),
        notes=notes,
    )
