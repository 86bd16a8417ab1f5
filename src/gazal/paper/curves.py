"""Figures of training and data: loss, rewards, composition. Each is a pure function of what was logged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gazal.paper.inputs import TYPES
from gazal.paper.style import COLOURS, COLUMN, GREY, LIGHT, PAGE, SERIES, house_style, new_figure, tidy

SPLITS = {"sft": "SFT", "grpo": "GRPO", "dev": "Dev", "test": "Test"}


def running_mean(values: pd.Series) -> pd.Series:
    """Return the centred mean over a tenth of the steps (one step for short logs), narrower at the ends."""
    return values.rolling(max(1, len(values) // 10), center=True, min_periods=1).mean()


def _curve(
    ax: Axes, log: pd.DataFrame, column: str, colour: str, spread: str | None = None, label: str | None = None
) -> None:
    """Draw logged values as a thin line, their running mean as a thick one, and ± 1 standard deviation if logged."""
    values = log[column].astype(float)
    sns.lineplot(x=log["step"], y=values, ax=ax, color=colour, lw=0.6, alpha=0.45)
    sns.lineplot(x=log["step"], y=running_mean(values), ax=ax, color=colour, lw=1.5, label=label, legend=False)
    if spread and spread in log:
        smooth, sd = running_mean(values), running_mean(log[spread].astype(float))
        ax.fill_between(log["step"], smooth - sd, smooth + sd, color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="Optimizer step", ylabel="")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    tidy(ax)


def fig_sft_loss(log: pd.DataFrame) -> Figure:
    """Draw the training loss by step, and the token accuracy if it was logged. One column wide."""
    panels = [("loss", "Loss (nats per token)")]
    if "mean_token_accuracy" in log:
        panels.append(("mean_token_accuracy", "Token accuracy"))
    with house_style():
        figure = new_figure(COLUMN, 1.6)
        for ax, (column, name) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _curve(ax, log.dropna(subset=[column]), column, COLOURS["sft"])
            ax.set_ylabel(name)
        figure.axes[0].set_ylim(bottom=0)
    return figure


def reward_components(log: pd.DataFrame) -> list[str]:
    """Return the names of the reward functions in a TRL log, in logged order: ``rewards/<name>/mean``."""
    return [c.split("/")[1] for c in log.columns if c.startswith("rewards/") and c.endswith("/mean")]


def fig_grpo_rewards(log: pd.DataFrame) -> Figure:
    """Draw each reward with its spread; below, total, length, truncation with zero-signal share, entropy.

    Two columns wide.
    """
    names = reward_components(log)
    with house_style():
        figure = new_figure(PAGE, 3.0)
        columns = max(4, len(names))
        grid = figure.subplots(2, columns, sharex=True, squeeze=False)
        for ax, name, colour in zip(grid[0], names, SERIES * 2, strict=False):
            _curve(ax, log, f"rewards/{name}/mean", colour, f"rewards/{name}/std")
            ax.set(title=name.replace("_", " ").capitalize(), xlabel="")
        grid[0, 0].set_ylabel("Unweighted reward")
        total, length, shares, entropy, *rest = grid[1]
        _curve(total, log, "reward", "#222222", "reward_std")
        total.set(title="Total", ylabel="Weighted reward")
        lost = {
            "frac_reward_zero_std": (SERIES[1], "equal rewards"),
            "zero_signal/accuracy": (SERIES[2], "equal accuracy"),
            "completions/clipped_ratio": (SERIES[0], "truncated"),
        }
        for ax, title, unit, lines in (
            (length, "Completion length", "Tokens", {"completions/mean_length": (SERIES[0], "")}),
            (shares, "Lost signal", "Share", lost),
            (entropy, "Entropy", "Nats per token", {"entropy": (SERIES[2], "")}),
        ):
            logged = [column for column in lines if column in log]
            for column in logged:
                _curve(ax, log, column, lines[column][0], label=lines[column][1])
            ax.set(title=title, ylabel=unit)
            if not logged:
                ax.set_axis_off()
            elif title == "Lost signal":
                top = max(0.2, float(log[logged].max().max()))
                ax.set_ylim(-0.03 * top, (1.2 + 0.15 * len(logged)) * top)
                ax.legend(loc="upper right", borderaxespad=0, handlelength=1, labelspacing=0.2)
        for ax in [*grid[0, len(names) :], *rest]:
            ax.set_axis_off()
    return figure


def fig_data_composition(
    counts: dict[str, dict[str, int]], pass_rates: dict[str, float], kept: tuple[float, float] = (0.0, 1.0)
) -> Figure:
    """Draw items by split and reasoning type; beside it a histogram of pass rates, if they were measured.

    Pass rates outside ``kept`` are pale. Two columns wide.
    """
    splits = [s for s in SPLITS if s in counts] + [s for s in counts if s not in SPLITS]
    kinds = [k for k in TYPES if any(k in counts[s] for s in splits)]
    kinds += sorted({k for s in splits for k in counts[s]} - set(kinds))
    cells = [(SPLITS.get(s, s), TYPES.get(k, k), counts[s].get(k, 0)) for s in splits for k in kinds]
    rows = pd.DataFrame(cells, columns=["split", "Reasoning type", "items"])
    with house_style():
        figure = new_figure(PAGE if pass_rates else COLUMN, 1.9)
        widths = [1.35, 1] if pass_rates else [1]
        ax, *beside = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        above = {"bbox_to_anchor": (0.5, 1.0), "columnspacing": 1}
        bars = {"palette": SERIES[: len(kinds)], "saturation": 1, "width": 0.82}
        sns.barplot(rows, x="split", y="items", hue="Reasoning type", ax=ax, **bars)
        for bar in ax.containers:  # four digits are wider than a bar
            ax.bar_label(bar, fontsize=5.5, padding=2, color=GREY, rotation=90)
        ax.set(xlabel="Split", ylabel="Items", ylim=(0, 1.25 * rows["items"].max()))
        sns.move_legend(ax, "lower center", ncol=4 if pass_rates else 2, title=None, **above)
        tidy(ax)
        for ax in beside:
            values = np.array(list(pass_rates.values()), float)
            levels = np.unique(values)
            step = float(np.diff(levels).min()) if len(levels) > 1 else 0.25
            edges = np.arange(-step / 2, 1 + step, max(step, 0.05))
            inside = (values >= kept[0]) & (values <= kept[1])
            for chosen, label, colour in ((inside, "trained on", COLOURS["sft"]), (~inside, "set aside", LIGHT)):
                if chosen.any():
                    look = {"color": colour, "label": f"{label}: {chosen.sum()}", "alpha": 1, "shrink": 0.85, "lw": 0}
                    sns.histplot(x=values[chosen], bins=edges, ax=ax, **look)
            ax.legend(loc="lower center", ncol=2, **above)
            ax.set(xlabel="Pass rate of the SFT model (share of rollouts)", ylabel="GRPO items")
            tidy(ax)
    return figure
