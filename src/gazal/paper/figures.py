"""Figures of results (accuracy by stage, benchmark comparison), and the making of all figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gazal.common.paths import PAPER
from gazal.paper.curves import fig_data_composition, fig_grpo_rewards, fig_sft_loss
from gazal.paper.evaluation_figures import fig_deltas, fig_lengths, fig_subjects, has_subjects
from gazal.paper.inputs import BASELINES, STAGES, TEST, TYPES, Results, read_results, read_yaml
from gazal.paper.reasoning import fig_faithfulness, judged
from gazal.paper.style import (
    BELOW,
    COLOURS,
    DASHED,
    GREY,
    HATCHES,
    INK,
    LIGHT,
    MARKERS,
    PAGE,
    house_style,
    new_figure,
    save_figure,
    tidy,
    to_ends,
)

SHORTCUT_MARKS = {
    "most_frequent_letter": "v",
    "longest_option": "^",
    "most_annotated": "P",
    "option_prior": "X",
    "matched_findings": "d",
}


def _stage_bar(ax: Axes, x: float, stage: str, percent: float, width: float, above: float = 0) -> None:
    """Draw a stage's bar with its number on top, or as far above it as its error bar reaches."""
    ax.bar(x, percent, width, color=COLOURS[stage], hatch=HATCHES[stage], edgecolor="white", lw=0.3)
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 6}
    ax.annotate(f"{percent:.0f}", (x, percent + above), (0, 1), **place)


def _stage_entries(results: Results) -> Iterator[tuple[int, str, float, dict[str, Any]]]:
    """Per stage and group (0: all items, then the reasoning types): group, stage, bar offset, entry."""
    stages = [s for s in STAGES if results.score(s, TEST)]
    for i, stage in enumerate(stages):
        entry = results.score(stage, TEST)
        groups = [entry, *(entry.get("by", {}).get(kind) for kind in TYPES)]
        for group, found in enumerate(groups):
            if found:
                yield group, stage, 0.2 * i - 0.4, found


def fig_stages(results: Results) -> Figure:
    """Accuracy on the embedded test by stage and reasoning type with 95 % intervals and shortcuts, and
    the share of completions in the required format. Two columns wide."""
    shortcuts = {n: mark for n, mark in SHORTCUT_MARKS.items() if results.baseline(n) is not None}
    with house_style():
        figure = new_figure(PAGE, 2.75)
        left, right = figure.subplots(1, 2, width_ratios=[4.6, 1])
        stages: list[str] = []
        for group, stage, offset, entry in _stage_entries(results):
            stages += [stage] if stage not in stages else []
            value, error = 100 * entry["accuracy"], to_ends(entry["accuracy"], entry["ci95"])
            _stage_bar(left, group + offset, stage, value, 0.19, error[1][0])
            left.errorbar(group + offset, value, yerr=error, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.6)
        for group, kind in enumerate([None, *TYPES]):
            # One slot to the right of the bars, marks dodged sideways so that equal values stay apart.
            for i, (name, mark) in enumerate(shortcuts.items()):
                value = results.baseline(name, kind)
                if value is not None:
                    left.plot(group + 0.17 + 0.065 * i, 100 * value, mark, ms=4.5, mfc=GREY, mec="white", mew=0.3)
            chance = results.baseline("chance", kind)  # treatment's items have other numbers of options
            if chance is not None:
                left.plot([group - 0.5, group + 0.5], [100 * chance] * 2, zorder=0.9, **DASHED)
        left.axvline(0.5, color=LIGHT, lw=0.8)
        left.set(xticks=range(1 + len(TYPES)), xticklabels=["All items", *TYPES.values()], xlim=(-0.6, 4.55))
        left.set(ylabel="Accuracy (%)", title="Accuracy")
        handles: list[Any] = [Patch(fc=COLOURS[s], hatch=HATCHES[s], ec="white", label=STAGES[s]) for s in stages]
        handles += [Line2D([], [], label="Chance", **DASHED)] if results.chance(TEST) is not None else []
        shortcut: dict[str, Any] = {"color": GREY, "ms": 4.5, "ls": ""}
        handles += [Line2D([], [], marker=mark, label=BASELINES[n], **shortcut) for n, mark in shortcuts.items()]
        figure.legend(handles=handles, ncol=5, **BELOW)
        for i, stage in enumerate(stages):
            share = results.score(stage, TEST).get("format")
            if share is not None:
                _stage_bar(right, i, stage, 100 * share, 0.7)
        right.set(xticks=range(len(stages)), xticklabels=[STAGES[s] for s in stages])
        right.set(ylabel="In format (%)", title="Format")
        for ax in (left, right):
            ax.set_ylim(0, 105)
            ax.tick_params(axis="x", length=0)
            tidy(ax)
    return figure


def _reported_rows(ax: Axes, models: dict[str, Any], benchmark: str) -> None:
    for y, (key, model) in enumerate(models.items()):
        ours = key.startswith("gazal")
        value, weight = model[benchmark], "bold" if ours else "normal"
        ax.hlines(y, 0, value, color=LIGHT, lw=0.7)
        ax.plot(value, y, "o", ms=4.2, color="#222222" if ours else "#9A9A9A")
        ax.text(value + 3.5, y, f"{value:.1f}", va="center", fontsize=6, fontweight=weight)


def fig_benchmarks(results: Results) -> Figure:
    """Draw the paper's comparison (8 models, 4 benchmarks, as reported), and this run's models below the rule.

    The latter are measured, with 95 % intervals. Two columns wide, one panel per benchmark.
    """
    published = results.published
    models, benchmarks = published["models"], published["benchmarks"]
    stages = [s for s in STAGES if s in results.scores["models"]]
    first = len(models) + 0.6
    with house_style():
        figure = new_figure(PAGE, 2.95)
        axes = figure.subplots(1, len(benchmarks), sharey=True)
        for ax, (benchmark, name) in zip(axes, benchmarks.items(), strict=True):
            _reported_rows(ax, models, benchmark)
            measured = [(first + i, s, results.score(s, benchmark)) for i, s in enumerate(stages)]
            for y, stage, entry in measured:
                if entry:
                    value, colour = 100 * entry["accuracy"], COLOURS[stage]
                    error = to_ends(entry["accuracy"], entry["ci95"])
                    mark = {"fmt": MARKERS[stage], "ms": 4.2, "mfc": "white", "mec": colour, "mew": 1.1}
                    ax.errorbar(value, y, xerr=error, ecolor=colour, elinewidth=1, capsize=1.8, **mark)
                    ax.text(value + error[1][0] + 3.5, y, f"{value:.1f}", va="center", fontsize=6, color=colour)
            if not any(entry for _, _, entry in measured) and stages:
                centred = {"ha": "center", "va": "center", "fontsize": 7, "style": "italic", "color": GREY}
                ax.text(50, first + (len(stages) - 1) / 2, "not run", **centred)
            chance = results.chance(benchmark)
            if chance is not None:
                ax.plot([100 * chance] * 2, [-0.6, first + len(stages) - 0.5], color=GREY, lw=0.9, ls=":", zorder=0.9)
            ax.axhline(len(models) - 0.2, color=INK, lw=0.6)
            ax.set(title=name, xlim=(0, 104), xticks=[0, 25, 50, 75, 100], xlabel="Accuracy (%)")
            ax.tick_params(axis="y", length=0)
            tidy(ax, "")
        ticks = [*range(len(models)), *(first + i for i in range(len(stages)))]
        axes[0].set(
            yticks=ticks,
            yticklabels=[*(m["name"] for m in models.values()), *(f"This run: {STAGES[s]}" for s in stages)],
            ylim=(first + len(stages) - 0.4, -0.7),
        )
        for label, key in zip(axes[0].get_yticklabels(), [*models, *stages], strict=True):
            label.set_color(COLOURS.get(key, INK))
            label.set_fontweight("bold" if key.startswith("gazal") else "normal")
    return figure


def caption(name: str) -> str:
    """Return a figure's caption from paper/captions.yaml, which says what error bars and bands are."""
    return read_yaml(PAPER / "captions.yaml")[name]


def figure_jobs(results: Results) -> dict[str, tuple[bool, Callable[[], Figure]]]:
    """Return for every figure, by name, whether this run has data for it and the function that draws it."""
    counts, grpo = results.data.get("counts") or {}, results.recipe.get("grpo", {})
    kept = (grpo.get("pass_rate_low", 0.0), grpo.get("pass_rate_high", 1.0))
    return {
        "sft_loss": (not results.sft_log.empty, lambda: fig_sft_loss(results.sft_log)),
        "grpo_rewards": (not results.grpo_log.empty, lambda: fig_grpo_rewards(results.grpo_log)),
        "stages": (any(results.score(s, TEST) for s in STAGES), lambda: fig_stages(results)),
        "benchmarks": (True, lambda: fig_benchmarks(results)),
        "deltas": (True, lambda: fig_deltas(results)),
        "subjects": (has_subjects(results), lambda: fig_subjects(results)),
        "lengths": (bool(results.lengths), lambda: fig_lengths(results)),
        "faithfulness": (bool(judged(results)[1]), lambda: fig_faithfulness(results)),
        "data_composition": (bool(counts), lambda: fig_data_composition(counts, results.pass_rates, kept)),
    }


def make_figures(run: str | Path, progress: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Draw every figure that the run's saved results allow into ``figures/`` as PDF and PNG; return the paths.

    A figure whose inputs are absent is left out and reported to ``progress``; an older file of it is removed. Raises
    GazalError for unreadable results.
    """
    results, folder = read_results(run), Path(run) / "figures"
    written: list[Path] = []
    for name, (possible, draw) in figure_jobs(results).items():
        if possible:
            written += save_figure(draw(), folder, name)
            progress(f"figures/{name}")
        else:
            for suffix in ("pdf", "png"):
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
            progress(f"figures/{name}: left out, this run has no data for it")
    return written
