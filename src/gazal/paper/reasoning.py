"""Reasoning quality in the paper: accuracy against faithfulness (``eval/faithfulness.json``), a figure and a table."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gazal.paper.evaluation_figures import look, model_handle
from gazal.paper.inputs import STAGES, TEST, TYPES, Results, model_label
from gazal.paper.style import DASHED, GREY, LIGHT, PAGE, house_style, new_figure, tidy, to_ends
from gazal.scoring.table import Table, count, group_rules, with_interval


def judged(results: Results) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the benchmark whose think blocks were judged and each model's cell on it; ("", {}) for none.

    If the embedded test was judged, it is that.
    """
    models = results.faithfulness.get("models", {})
    found = {b for entry in models.values() for b, cell in entry["benchmarks"].items() if "precision" in cell}
    benchmark = TEST if TEST in found else min(found, default="")
    return benchmark, {
        m: models[m]["benchmarks"][benchmark]
        for m in results.models
        if benchmark and benchmark in models.get(m, {}).get("benchmarks", {})
    }


def _ends(rate: dict[str, Any]) -> list[list[float]]:
    return to_ends(rate["value"], rate["ci95"])


def _panel(ax: Axes, results: Results, cells: dict[str, dict[str, Any]], kind: str) -> None:
    ax.plot([0, 100], [0, 100], zorder=0.8, **DASHED)
    points = {model: cell["by"][kind] for model, cell in cells.items() if kind in cell["by"]}
    path = [[100 * points[s][name]["value"] for name in ("faultless", "accuracy")] for s in STAGES if s in points]
    style = "-|>,head_width=0.16,head_length=0.3"
    for start, end in pairwise(path):
        arrow = {"arrowstyle": style, "color": LIGHT, "lw": 1, "shrinkA": 3, "shrinkB": 4}
        ax.annotate("", end, start, arrowprops=arrow, zorder=0.9)
    for at, (model, found) in enumerate(points.items()):
        x, y = found["faultless"], found["accuracy"]
        colour, marker = look(results, model)
        size = 3.4 + 0.9 * (len(points) - at)  # a later stage on the same place leaves a rim
        face = (
            {"mfc": colour, "mec": "white", "mew": 0.5}
            if found["precision"]
            else {"mfc": "white", "mec": colour, "mew": 1}
        )
        bars = {"xerr": _ends(x), "yerr": _ends(y), "elinewidth": 0.8, "capsize": 1.5}
        ax.errorbar(100 * x["value"], 100 * y["value"], fmt=marker, ms=size, color=colour, **face, **bars)
    ticks = [0, 25, 50, 75, 100]
    ax.set(title=TYPES[kind], xlim=(-5, 105), ylim=(-5, 105), xticks=ticks, yticks=ticks, aspect="equal")
    tidy(ax, "both")


def fig_faithfulness(results: Results) -> Figure:
    """Accuracy against the share of completions whose every claim is true, by reasoning type, stages joined in order;
    intervals both ways. Two columns wide."""
    _, cells = judged(results)
    kinds = [kind for kind in TYPES if any(kind in cell["by"] for cell in cells.values())]
    with house_style():
        figure = new_figure(PAGE, 2.25)
        axes = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
        for ax, kind in zip(axes, kinds, strict=True):
            _panel(ax, results, cells, kind)
        corner = {"fontsize": 6, "color": GREY, "style": "italic"}
        axes[0].text(4, 101, "right, some\nclaim wrong", ha="left", va="top", **corner)
        axes[0].text(102, 4, "claims true,\nanswer wrong", ha="right", va="bottom", **corner)
        figure.supxlabel("Completions whose every claim is true (%)", fontsize=7.5)
        axes[0].set_ylabel("Accuracy (%)")
        handles = [model_handle(results, m, ls="", ms=4.5) for m in cells]
        figure.legend(handles=handles, loc="outside upper center", ncol=8, columnspacing=1.4, handletextpad=0.2)
    return figure


COLUMNS = {
    "accuracy": "Accuracy",
    "precision": "Claims true",
    "coverage": "Needed claims covered",
    "arithmetic": "Arithmetic right",
    "faultless": "All claims true",
    "follows": "Answer follows",
}


OUTCOMES = {"wrong_reasons": "Right for wrong reasons", "wrong_from_right_steps": "Wrong from right steps"}


def _groups(cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all of a model's items, then its reasoning types, by their labels."""
    return {"All items": cell} | {
        label: cell["by"][kind] for kind, label in TYPES.items() if kind in cell.get("by", {})
    }


def faithfulness_table(results: Results) -> Table:
    """Show models by reasoning type: completions, claims, accuracy, each measure with its interval.

    A model that makes no claims has one row.
    """
    benchmark, cells = judged(results)
    name, rows = results.benchmark_names.get(benchmark, benchmark), []
    for model, cell in cells.items():
        for label, found in _groups(cell).items() if cell["precision"] else [("All items", cell)]:
            claims = sum(kind["made"] for kind in found["claims"].values())
            rates = [(found | found["outcomes"])[name] for name in COLUMNS | OUTCOMES]
            counts = [count(found["completions"]), count(claims)]
            rows.append([model_label(model), label, *counts, *map(with_interval, rates)])
    return Table(
        "faithfulness",
        f"Reasoning held against the source, {name.lower()}: percent with 95 % intervals, by model and reasoning type.",
        [*("Model", "Type", "Completions", "Claims"), *(COLUMNS | OUTCOMES).values()],
        rows,
        text_columns=2,
        rules=group_rules(rows),
        notes=[
            "Claims true: of the claims made. Needed claims covered: of those that the full traces need; a brief "
            "trace covers few. Arithmetic right: of the sums, gains and comparisons, whatever their numbers. All "
            "claims true: of completions. Answer follows: of the completions that make claims and answer, the stated "
            "numbers single the answer out. Right for wrong reasons: of the right answers with claims, some claim or "
            "quotation of the question is wrong or the answer does not follow. Wrong from right steps: of "
            "completions, every claim is true and the stated numbers single out the key, yet another option is "
            "answered. Intervals are clustered by item. A dash: nothing to judge. Only steps in the forms of the "
            "generator's traces are read: prose makes no claim here, be it right or wrong, and counts as not read "
            "(the table of the structure)."
        ],
    )


PARTS = {
    "think": "Closed think block",
    "steps": "Numbered steps",
    "assessment": "Assessment heading",
    "answer": "One answer line, last",
    "sections": "Four sections",
}


def structure_table(results: Results) -> Table:
    """Show the share of completions that keep each part of the card's structure, and of steps not read as claims.

    By benchmark, model and reasoning type.
    """
    rows, models = [], results.faithfulness.get("models", {})
    for benchmark, name in results.benchmark_names.items():
        for model in results.models:
            if cell := models.get(model, {}).get("benchmarks", {}).get(benchmark):
                for label, found in _groups(cell).items():
                    rates = [*(found["structure"].get(part) for part in PARTS), found.get("unread")]
                    about = [name, model_label(model), label, count(found["completions"])]
                    rows.append([*about, *map(with_interval, rates)])
    return Table(
        "structure",
        "The card's structure, part by part: percent of completions with 95 % intervals, by benchmark, model and "
        "reasoning type.",
        ["Benchmark", "Model", "Type", "Completions", *PARTS.values(), "Steps not read"],
        rows,
        text_columns=3,
        rules=group_rules(rows, 2),
        notes=[
            "Numbered steps: the think block is steps numbered Step 1 to n in order, none empty. Four sections: the "
            "card's, in order, none empty, the management numbered; knowledge-derived items have none. Steps not "
            "read: percent of the steps some part of which is in no form of the generator's traces, such as prose; "
            "that says nothing of their truth. Intervals are clustered by item."
        ],
    )
