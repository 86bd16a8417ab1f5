"""Figures of the evaluation: stage deltas with what could have been seen, accuracy by subject and by length."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from gazal.paper.inputs import STAGES, TEST, TYPES, Change, Results, model_label
from gazal.paper.style import (
    BELOW,
    COLOURS,
    COLUMN,
    DASHED,
    GREY,
    INK,
    LIGHT,
    MARKERS,
    PAGE,
    SERIES,
    house_style,
    new_figure,
    rows_of_names,
    tidy,
    to_ends,
)
from gazal.scoring.table import p_value

FEW = 20  # items below which a cell is grey: its interval is wider than 40 points
DIVERGING = "PuOr"  # ColorBrewer's, safe for all common colour visions; white is chance
PALE = "#EFEFEF"


def look(results: Results, model: str) -> tuple[str, str]:
    """Return a model's colour and mark: stages have their own, others take turns."""
    others = [m for m in results.models if m not in STAGES]
    return (
        (COLOURS[model], MARKERS[model])
        if model in COLOURS
        else (SERIES[(2 + others.index(model)) % len(SERIES)], "^vP*X<>"[others.index(model) % 7])
    )


def model_handle(results: Results, model: str, **more: Any) -> Line2D:
    """Return a model's line of a legend."""
    colour, marker = look(results, model)
    return Line2D([], [], color=colour, marker=marker, label=model_label(model), **more)


def stage_pairs(results: Results) -> list[tuple[str, str]]:
    """Return the neighbouring stages that this run compares; always SFT with GRPO, for which others report values."""
    pairs = [("base", "sft"), ("sft", "grpo")] if "sft" in results.models else [("base", "grpo"), ("sft", "grpo")]
    return [
        pair
        for pair in pairs
        if pair == ("sft", "grpo") or any(results.change(*pair, b) for b in results.benchmark_names)
    ]


def _delta(ax: Axes, y: float, change: Change, colour: str, marker: str) -> None:
    if change.detectable is not None:
        corner, width = (-100 * change.detectable, y - 0.18), 200 * change.detectable
        ax.add_patch(Rectangle(corner, width, 0.36, fc=LIGHT, alpha=0.55, lw=0, zorder=0.8))
    error, face = to_ends(change.delta, (change.low, change.high)), colour if change.shown else "white"
    mark = {"fmt": marker, "ms": 4.5, "color": colour, "mfc": face, "mew": 1}
    ax.errorbar(100 * change.delta, y, xerr=error, elinewidth=1, capsize=2, **mark)
    p = p_value(change.p if change.p_holm is None else change.p_holm)
    _beside(ax, y, p, fontweight="bold" if change.shown else "normal")


def _beside(ax: Axes, y: float, text: str, **more: Any) -> None:
    ax.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=6.5, **more)


def fig_deltas(results: Results) -> Figure:
    """Draw accuracy gained from stage to stage, paired: 95 % intervals, Holm's p, what could have been seen.

    Beside SFT to GRPO stands what the authors report. Two columns wide.
    """
    published, counterpart = results.published, results.published["stages"]
    names, pairs = results.benchmark_names, stage_pairs(results)
    reported = published["benchmarks"]
    rows = [b for b in names if b in (TEST, *reported) or any(results.change(*pair, b) for pair in pairs)]
    after, before = (published["models"][counterpart[s]] for s in ("grpo", "sft"))
    corrected = any(row.get("p_holm") is not None for row in results.scores.get("paired", []))
    with house_style():
        figure = new_figure(PAGE if len(pairs) > 1 else COLUMN, 0.62 + 0.29 * len(rows) + 0.15 * (len(pairs) == 1))
        figure.get_layout_engine().set(wspace=0.05)
        for ax, (a, b) in zip(figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0], pairs, strict=True):
            for y, benchmark in enumerate(rows):
                others = (a, b) == ("sft", "grpo") and benchmark in reported
                if others:
                    ax.plot(after[benchmark] - before[benchmark], y - 0.27, "o", ms=4, mfc="white", mec=INK, mew=0.9)
                change = results.change(a, b, benchmark)
                if change:
                    _delta(ax, y + 0.13 * others, change, *look(results, b))
                else:
                    _beside(ax, y, "not run", style="italic", color=GREY)
            ax.axvline(0, color=INK, lw=0.7)
            left, right = ax.get_xlim()
            ax.set(xlim=(min(left, -2), max(right, 3)), xlabel="Difference in accuracy (percentage points)")
            ax.annotate(
                "Holm's p" if corrected else "p", (1.02, 1.02), xycoords="axes fraction", fontsize=6.5, color=GREY
            )
            labels = [names[row] for row in rows]
            rows_of_names(ax, labels, ylim=(len(rows) - 0.45, -0.55), title=f"{STAGES[a]} → {STAGES[b]}")
        line: dict[str, Any] = {"marker": "D", "ls": "-", "lw": 1, "ms": 4.5, "color": GREY}
        measured = any(results.change(*pair, b) for pair in pairs for b in rows)
        handles: list[Any] = []
        if measured:
            handles = [Line2D([], [], label="This run, p < 0.05", **line)]
            handles += [Line2D([], [], mfc="white", label="p ≥ 0.05", **line)]
        handles += [Line2D([], [], marker="o", ls="", ms=4, mfc="white", mec=INK, mew=0.9, label="Reported")]
        if any(row.get("detectable") is not None for row in results.scores.get("paired", [])):
            handles.append(Patch(fc=LIGHT, alpha=0.55, label="too small for this n (80 % power)"))
        figure.legend(handles=handles, ncol=2 * len(pairs), **BELOW)
    return figure


def above_chance(accuracy: float, chance: float) -> float:
    """Return accuracy on a scale from 0 (chance) to 1 (all right): sets with other numbers of options then compare."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def has_subjects(results: Results) -> bool:
    """Tell whether any benchmark of known chance has scores by reasoning type or subject."""
    return bool(_stacks(results))


def _stacks(results: Results) -> list[list[str]]:
    """Lay out the benchmarks with groups in one or two columns of about equal height, the first at the top left."""
    names = list(results.benchmark_names)
    found = [b for b in names if results.groups(b) and results.chance(b) is not None]
    stacks: list[list[str]] = [[] for _ in found[:2]]
    for benchmark in sorted(found, key=lambda b: -len(results.groups(b))):
        min(stacks, key=lambda stack: sum(len(results.groups(b)) + 2 for b in stack)).append(benchmark)
    return sorted((sorted(stack, key=names.index) for stack in stacks), key=lambda stack: names.index(stack[0]))


def _grid(ax: Axes, results: Results, benchmark: str, scale: ScalarMappable) -> None:
    groups, models = results.groups(benchmark), [m for m in results.models if results.score(m, benchmark)]
    counts = []
    for y, group in enumerate(groups):
        cells = [results.score(m, benchmark).get("by", {}).get(group) for m in models]
        sizes = [cell["n"] for cell in cells if cell]
        counts.append(f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,}–{max(sizes):,}")
        for x, cell in enumerate(cells):
            chance = (cell or {}).get("chance", results.chance(benchmark) or 0.0)
            few = cell is None or cell["n"] < FEW
            colour: Any = PALE if few else scale.to_rgba(above_chance(cell["accuracy"], chance))
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=colour, ec="white", lw=1))
            if cell:
                apart = not few and not cell["ci95"][0] <= chance <= cell["ci95"][1]
                dark = not few and 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.5
                colour = GREY if few else "white" if dark else INK
                text = {"ha": "center", "va": "center", "fontsize": 6, "fontweight": "bold" if apart else "normal"}
                ax.text(x, y, f"{100 * cell['accuracy']:.0f}", color=colour, **text)
    ax.set(xlim=(-0.5, len(models) - 0.5), ylim=(len(groups) - 0.5, -0.5), title=results.benchmark_names[benchmark])
    ax.set(xticks=range(len(models)), yticks=range(len(groups)))
    turned = {"rotation": 0, "ha": "center"} if len(models) <= 4 else {"rotation": 45, "ha": "right"}
    ax.set_xticklabels([model_label(m) for m in models], **turned)
    ax.set_yticklabels([f"{TYPES.get(g, g[:1].upper() + g[1:])} ({n})" for g, n in zip(groups, counts, strict=True)])
    ax.tick_params(length=0, labelsize=6.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def fig_subjects(results: Results) -> Figure:
    """Draw accuracy by reasoning type and subject, model by model, coloured against chance.

    Cells of few items are grey. Two columns wide.
    """
    scale = ScalarMappable(Normalize(-1, 1), DIVERGING)
    stacks = _stacks(results)
    around = 2.2 if len(results.models) <= 4 else 4.5  # a panel's title and its models' names, in rows
    rows = max(sum(len(results.groups(b)) + around for b in stack) for stack in stacks)
    with house_style():
        height = 0.155 * rows + 0.1
        figure = new_figure(PAGE if len(stacks) > 1 else COLUMN, height + 0.38)
        above, below = figure.subfigures(2, 1, height_ratios=[height, 0.38])
        for part, stack in zip(above.subfigures(1, len(stacks), squeeze=False)[0], stacks, strict=True):
            used = sum(len(results.groups(b)) + around for b in stack)
            heights = [*(len(results.groups(b)) for b in stack), *([rows - used] if rows - used > 1 else [])]
            axes = part.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
            for ax, benchmark in zip(axes, stack, strict=False):
                _grid(ax, results, benchmark, scale)
            for ax in axes[len(stack) :]:
                ax.set_axis_off()
        place = below.add_axes((0.36, 0.55, 0.28, 0.25))
        bar = below.colorbar(scale, cax=place, orientation="horizontal", ticks=[-0.45, 0, 1])
        labels = bar.ax.set_xticklabels(["below", "chance", "all right"], fontsize=6.5)
        for label, side in zip(labels, ("right", "center", "left"), strict=True):
            label.set_horizontalalignment(side)
        bar.ax.set_xlim(-0.5, 1)
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
    return figure


def _by_length(ax: Axes, found: dict[str, Any], results: Results, value: str, chance: float | None) -> None:
    """Draw fifths of the completions that ended, joined by a line, and those cut at the limit as one open mark.

    Marks of few items are pale.
    """
    for model in (m for m in results.models if m in found):
        colour, marker = look(results, model)
        cells = found[model]["fifths" if value == "accuracy" else "within"]
        truncated = found[model]["truncated"] if value == "accuracy" else None
        x = "tokens" if value == "accuracy" else "fifth"
        ax.plot([c[x] for c in cells], [100 * c[value] for c in cells], color=colour, lw=0.9, alpha=0.6)
        for cell in [*cells, *([truncated] if truncated else [])]:
            error, face = to_ends(cell[value], cell["ci95"]), "white" if cell is truncated else colour
            mark = {"fmt": marker, "ms": 3.2, "color": colour, "mfc": face, "mew": 0.8}
            mark["alpha"] = 1 if cell["items"] >= FEW else 0.35
            ax.errorbar(cell[x], 100 * cell[value], yerr=error, elinewidth=0.7, capsize=1.2, **mark)
    if chance is not None:
        ax.axhline(100 * chance, zorder=0.9, **DASHED)
    tidy(ax)


def _per_thousand(ax: Axes, results: Results, benchmarks: list[str]) -> None:
    """Right answers per 1,000 completion tokens, benchmark by benchmark."""
    scores = {m: [(results.score(m, b) or {}).get("right_per_1k_tokens") for b in benchmarks] for m in results.models}
    rates = {m: found for m, found in scores.items() if any(rate is not None for rate in found)}
    step = min(0.16, 0.8 / max(len(rates), 1))
    for i, (model, found) in enumerate(rates.items()):
        colour, marker = look(results, model)
        points = [(y + step * (i - (len(rates) - 1) / 2), rate) for y, rate in enumerate(found) if rate is not None]
        ax.plot([rate for _, rate in points], [y for y, _ in points], marker, color=colour, ms=4, ls="")
    ax.set(xlabel="Right answers per 1,000 tokens", title="Right for its length")
    ax.set_xlim(left=0)
    rows_of_names(ax, [results.benchmark_names[b] for b in benchmarks], ylim=(len(benchmarks) - 0.5, -0.5))


def fig_lengths(results: Results) -> Figure:
    """Accuracy by completion length on each benchmark, the same within groups of the first, and right answers per 1,000
    tokens. Two columns wide."""
    benchmarks = [b for b in results.benchmark_names if b in results.lengths][:5]
    within = next((b for b in benchmarks if any(m["within"] for m in results.lengths[b].values())), None)
    with house_style():
        figure = new_figure(PAGE, 3.5)
        above, below = figure.subfigures(2, 1, height_ratios=[1, 1.05])
        axes = above.subplots(1, len(benchmarks), sharey=True, squeeze=False)[0]
        for ax, benchmark in zip(axes, benchmarks, strict=True):
            _by_length(ax, results.lengths[benchmark], results, "accuracy", results.chance(benchmark))
            ax.set_title(results.benchmark_names[benchmark], fontsize=6.8)
            ax.set_ylim(-4, 104)
            ax.set_xlim(left=0)
        axes[0].set_ylabel("Accuracy (%)")
        above.supxlabel("Completion length (tokens)", fontsize=7.5)
        left, right = below.subplots(1, 2, width_ratios=[1.1, 1])
        if within:
            _by_length(left, results.lengths[within], results, "gain", None)
            left.axhline(0, color=INK, lw=0.6, zorder=0.9)
            left.set(
                xticks=range(1, 6),
                xticklabels=["shortest", "", "middle", "", "longest"],
                xlabel="Fifth by length within its type or subject",
                ylabel="Accuracy less the\ngroup's (points)",
                title=f"{results.benchmark_names[within]}: within {'types' if within == TEST else 'subjects'}",
            )
        else:
            left.set_axis_off()
        _per_thousand(right, results, benchmarks)
        shown = [m for m in results.models if any(m in results.lengths[b] for b in benchmarks)]
        handles = [model_handle(results, m, ms=4, lw=0.9) for m in shown]
        handles += [
            Line2D([], [], color=GREY, marker="o", mfc="white", ms=4, ls="", label="cut at the token limit"),
            Line2D([], [], label="chance", **DASHED),
        ]
        figure.legend(handles=handles, ncol=min(len(handles), 6), **BELOW)
    return figure
