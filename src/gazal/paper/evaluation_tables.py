"""Tables of the evaluation: results on the embedded test, paired tests, benchmarks, and details of how models answered."""

from __future__ import annotations

from typing import Any

from gazal.paper.inputs import BASELINES, TEST, TYPES, Results, model_label
from gazal.scoring.report import how_answered
from gazal.scoring.table import NONE, Table, group_rules, number, p_value, percent, points, with_interval


def results_table(results: Results) -> Table:
    """Stages by overall and per-type accuracy, format, unparsed, truncated, tokens; shortcuts below."""
    rows = []
    for model in results.models:
        entry = results.score(model, TEST)
        if entry:
            by = entry.get("by", {})
            rows.append(
                [
                    model_label(model),
                    with_interval(entry),
                    *(with_interval(by.get(k)) for k in TYPES),
                    percent(entry.get("format")),
                    percent(entry["unparsed"]),
                    percent(entry["truncated"]),
                    number(entry.get("mean_tokens")),
                ]
            )
    stages = len(rows)
    for name, label in BASELINES.items():
        if results.baseline(name) is not None:
            rows.append(
                [
                    f"Shortcut: {label.lower()}",
                    percent(results.baseline(name)),
                    *(percent(results.baseline(name, k)) for k in TYPES),
                    *[NONE] * 4,
                ]
            )
    sizes = {results.score(m, TEST)["n"] for m in results.models if results.score(m, TEST)}
    return Table(
        "results",
        f"Embedded test{', n = ' + str(sizes.pop()) if len(sizes) == 1 else ''}: accuracy in percent with 95 % intervals, by stage and reasoning type.",
        ["Model", "All items", *TYPES.values(), "Format", "Unparsed", "Truncated", "Tokens"],
        rows,
        rules=frozenset({stages - 1} if 0 < stages < len(rows) else ()),
        notes=[
            "Accuracy counts every item: an unparsed answer is wrong. Format, unparsed and truncated are percent of completions; tokens is the mean length. "
            "The items are knowledge-derived, no clinical vignettes and no proxy for MedQA."
        ],
    )


def paired_table(results: Results) -> Table:
    """Every saved paired test: difference in points, 95 % interval, p, and where the run holds them Holm's p and what could have been seen."""
    names, saved = results.benchmark_names, results.scores.get("paired", [])
    corrected = any("p_holm" in row for row in saved)
    rows = []
    for row in saved:
        name, models = (
            names.get(row["benchmark"], row["benchmark"]),
            f"{model_label(row['a'])} → {model_label(row['b'])}",
        )
        by = row.get("by", {}) if row["benchmark"] == TEST else {}
        for label, test in [(name, row), *((f"{name}, {TYPES[k].lower()}", by[k]) for k in TYPES if k in by)]:
            cells = [
                label,
                models,
                points(test["delta"]),
                f"[{points(test['ci95'][0])}, {points(test['ci95'][1])}]",
                p_value(test["p"]),
            ]
            if corrected:
                holm = test.get("p_holm")
                cells = [
                    *cells[:2],
                    f"{test['n']:,}" if "n" in test else NONE,
                    *cells[2:],
                    NONE if holm is None else p_value(holm),
                    percent(test.get("detectable")),
                ]
            rows.append(cells)
    header = ["Benchmark", "Models", "Difference", "95 % interval", "p"]
    notes = ["Two-sided p, not corrected for the number of tests."]
    if corrected:
        header = [*header[:2], "Items", *header[2:], "Holm's p", "Could have seen"]
        notes = [
            "Two-sided p: exact McNemar, a permutation test where several completions an item are sampled. Holm's p corrects for all comparisons of whole sets; those by reasoning "
            "type are no part of that family and stay uncorrected. Could have seen: the smallest true difference in points that a test at 0.05 on so many items shows with 80 % power, where the "
            "two models differ on as many items as here; a dash, no difference or not computed."
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
    """A model's measured row; below it the same without repeated items and macro-F1, where there is such a score."""
    scores = {b: results.score(model, b) for b in names}
    rows = [
        [
            f"{model_label(model)} (this run)",
            NONE,
            *(f"{with_interval(s)}, n = {s['n']:,}" if s else "not run" for s in scores.values()),
        ]
    ]
    parts = {b: part for b, s in scores.items() if s and (part := s.get("deduplicated")) and part["n"] < s["n"]}
    if parts:
        rows.append(
            [
                "… without repeated items",
                NONE,
                *(f"{with_interval(parts[b])}, n = {parts[b]['n']:,}" if b in parts else NONE for b in names),
            ]
        )
    f1 = {b: s["macro_f1"] for b, s in scores.items() if s and s.get("macro_f1")}
    if f1:
        rows.append(
            [
                "… macro-F1",
                NONE,
                *(with_interval(f1.get(b)) for b in names),
            ]
        )
    return rows


def benchmarks_table(results: Results) -> Table:
    """Reported values (not ours) above, this run's measured ones with intervals below; chance; why not run."""
    names = {b: name for b, name in results.benchmark_names.items() if b != TEST}
    rows = [
        [f"{m['name']} (reported)", f"{m['billions']}B", *(f"{m[b]:.1f}" if b in m else NONE for b in names)]
        for m in results.published["models"].values()
    ]
    reported = len(rows)
    rows += [row for model in results.models for row in _measured(results, model, names)]
    rows.append(["Chance (this run's items)", NONE, *(percent(results.chance(b)) for b in names)])
    missing = [b for b in names if not any(results.score(m, b) for m in results.models)]
    source = results.published["source"]
    return Table(
        "benchmarks",
        f"Benchmark accuracy in percent. Reported: {source['title']} (arXiv:{source['arxiv']}), without intervals. This run: measured, with 95 % intervals.",
        ["Model", "Size", *names.values()],
        rows,
        rules=frozenset({reported - 1}),
        notes=[f"{names[b]} was not run: {results.not_run(b)}." for b in missing],
    )


def _at_k(score: dict[str, Any], kind: str) -> str:
    found = score.get("at_k", {}).get(kind, {})
    return f"{with_interval(found[last])}, k = {last}" if (last := max(found, key=int, default=None)) else NONE


def _bias(order: dict[str, Any]) -> str:
    """The letter that is chosen more or less often than it is right by most, with that excess in points."""
    bias = order.get("letter_bias") or {}
    letter = max(bias, key=lambda k: abs(bias[k]), default=None)
    return NONE if letter is None else f"{letter} {points(bias[letter])}"


def evaluation_table(results: Results) -> Table:
    """How models answered, on each benchmark: shares without an answer, tokens, right answers for them; with several samples
    maj@k and pass@k, with several orders of the options how far they matter."""
    header = [
        *("Benchmark", "Model", "Items", "Samples", "Accuracy", "Unparsed", "Truncated", "Empty", "Tokens"),
        *("Right per 1,000 tokens", "Maj@k", "Pass@k", "Orders", "Over orders", "Same answer", "Letter bias"),
    ]
    rows = []
    for benchmark, name in results.benchmark_names.items():
        for model in results.models:
            if score := results.score(model, benchmark):
                order = results.scores.get("robustness", {}).get(model, {}).get(benchmark, {})
                over = order and f"{percent(order['accuracy']['lowest'])}–{percent(order['accuracy']['highest'])}"
                asked = [f"{score['n']:,}", str(score.get("samples", NONE)), with_interval(score)]
                orders = [str(order.get("orders", NONE)), over or NONE, percent(order.get("same_answer")), _bias(order)]
                at_k = [_at_k(score, "maj"), _at_k(score, "pass")]
                rows.append([name, model_label(model), *asked, *how_answered(score), *at_k, *orders])
    kept = [at for at in range(len(header)) if at < header.index("Maj@k") or any(row[at] != NONE for row in rows)]
    header, *rows = ([row[at] for at in kept] for row in (header, *rows))
    notes = [
        "Unparsed, truncated and empty are percent of completions, tokens their mean length; right answers per 1,000 completion tokens."
    ]
    if "Maj@k" in header:
        notes.append("Maj@k: the commonest answer of k completions, ties shared; pass@k: any of k is right.")
    if "Orders" in header:
        notes.append(
            "Over orders: lowest and highest accuracy over the orders of the options; same answer: percent of items answered by the same option in all orders; "
            "letter bias: the letter chosen more or less often than it is right by most, in points."
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
