"""The figures of `notebooks/explore_rewards.ipynb`, drawn from `gazal.notebook.reward_lab`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gazal.notebook.reward_lab import (
    RIGHT,
    WRONG,
    example_table,
    landscape,
    landscape_grid,
    length_shapes,
    padded_loop,
    repetition_shape,
)
from gazal.paper.style import GREY, INK, LIGHT, PAGE, SERIES, house_style, new_figure, rows_of_names, tidy
from gazal.recipe.rewards import COMPONENTS, RewardConfig
from gazal.rewards.functions import score_completion
from gazal.rewards.red_team import KEY, OPTIONS
from gazal.scoring.table import signed

COLOURS = dict(zip(COMPONENTS, SERIES, strict=False))


def fig_length(cfg: RewardConfig) -> Figure:
    """Draw both length schedules over tokens, right and wrong; the recipe's own is named in its title."""
    shapes = length_shapes(cfg)
    with house_style():
        figure = new_figure(PAGE, 2.3)
        for ax, (kind, shape) in zip(figure.subplots(1, 2), shapes.groupby("kind", sort=True), strict=True):
            lines = [(o, s) for o, s in shape.groupby("outcome")]
            if kind == "overlong":
                lines = [("right or wrong", lines[0][1])]
            colours = [INK] if kind == "overlong" else SERIES
            for (outcome, line), colour, dash in zip(lines, colours, ("-", "--"), strict=False):
                ax.plot(line["tokens"], line["value"], dash, color=colour, label=outcome)
            _mark_limit(ax, cfg.max_tokens, "max_tokens", 3, ha="left")
            title = kind + (" (this recipe)" if kind == cfg.length_kind else "")
            ax.set(title=title, xlabel="Tokens", ylabel="Length reward", ylim=_padded(shape["value"]))
            ax.legend(loc="lower left" if kind == "overlong" else "center left")
            tidy(ax)
    return figure


def fig_repetition(cfg: RewardConfig) -> Figure:
    """Draw the penalty over repeated n-grams, and a loop padded with fresh text with TRL's ratio beside it."""
    shape, loop = repetition_shape(cfg), padded_loop(cfg)
    with house_style():
        figure = new_figure(PAGE, 2.3)
        left, right = figure.subplots(1, 2)
        left.plot(shape["repeated"], shape["value"], color=COLOURS["repetition"])
        _mark_limit(left, cfg.repetition_budget, "repetition_budget", -3, ha="right")
        left.set(title=f"Repeated {cfg.repetition_ngram}-grams", xlabel="Repeated n-grams")
        right.plot(loop["padding"], loop["value"], color=COLOURS["repetition"], label="count (ours)")
        right.plot(loop["padding"], loop["ratio"], "--", color=GREY, label="ratio (TRL)")
        right.set(title="The same loop, padded with fresh text", xlabel="Tokens of padding", xscale="log")
        right.legend(loc="upper left")
        for ax in (left, right):
            values = pd.concat([shape["value"], loop["value"], loop["ratio"]])
            ax.set(ylabel="Repetition reward", ylim=_padded(values))
            tidy(ax)
    return figure


def fig_examples(cfg: RewardConfig) -> Figure:
    """Draw the weighted components of `EXAMPLES`, stacked from zero both ways, with totals and reason codes."""
    table = example_table(cfg)
    rows, (low, high) = range(len(table)), cfg.bounds()
    with house_style():
        figure = new_figure(PAGE, 0.27 * len(table) + 0.9)
        ax = figure.subplots()
        up, down = np.zeros(len(table)), np.zeros(len(table))
        for part in COMPONENTS:
            values = table[part].to_numpy()
            start = np.where(values >= 0, up, down)
            ax.barh(rows, values, 0.62, left=start, color=COLOURS[part], ec="white", lw=0.3, label=part)
            up, down = up + values.clip(min=0), down + values.clip(max=0)
        ax.plot(table["total"], rows, "D", ms=3.6, mfc="white", mec=INK, mew=0.8, zorder=3, label="total")
        for y, (total, reason) in enumerate(zip(table["total"], table["reason"], strict=True)):
            _beside(ax, (high, y), 8, f"{_signed(total)}  {reason}")
        _mark_bounds(ax, low, high)
        ax.set(xlabel="Weighted reward", xlim=(low - 0.06 * (high - low), high + 0.35 * (high - low)))
        rows_of_names(ax, table.index)
        ax.invert_yaxis()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncol=5)
    return figure


def fig_landscape(cfg: RewardConfig) -> Figure:
    """Draw heat maps of the total over length and repetition, right and wrong answers in format.

    Both are on one scale: `cfg.bounds()`.
    """
    lengths, repeats = landscape_grid(cfg)
    low, high = cfg.bounds()
    with house_style():
        figure = new_figure(PAGE, 2.7)
        axes = figure.subplots(1, 2, sharey=True)
        maps = [landscape(cfg, text, lengths, repeats) for text in (RIGHT, WRONG)]
        for ax, values, outcome, ink in zip(axes, maps, ("Right", "Wrong"), (INK, "white"), strict=True):
            ax.set_facecolor(LIGHT)
            least, most = np.nanmin(values), np.nanmax(values)
            scale = {"cmap": "cividis", "vmin": low, "vmax": high}
            mesh = ax.pcolormesh(lengths, repeats, values, shading="nearest", rasterized=True, **scale)
            ax.axvline(cfg.max_tokens, color=ink, lw=0.8, ls=":")
            ax.axhline(cfg.repetition_budget, color=ink, lw=0.8, ls=":")
            levels = [x for x in MaxNLocator(6).tick_values(least, most) if least < x < most]
            if levels:
                lines = ax.contour(lengths, repeats, values, levels=levels, colors=ink, linewidths=0.6)
                ax.clabel(lines, fmt=_signed, fontsize=6)
            span = f"{_signed(least)} to {_signed(most)}"
            ax.set(title=f"{outcome}, in format: {span}", xlabel="Tokens", xlim=(0, lengths[-1]), ylim=(0, repeats[-1]))
            tidy(ax, "")
        axes[0].set_ylabel(f"Repeated {cfg.repetition_ngram}-grams")
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=14)
        bar.ax.set_title("Total", loc="left")
        for values, name, colour in zip(maps, ("right", "wrong"), (INK, "white"), strict=True):
            least, most = np.nanmin(values), np.nanmax(values)
            bar.ax.axhspan(least, most, fc="none", ec=colour, lw=1)
            _beside(bar.ax, (1, (least + most) / 2), 4, name)
        bar.set_ticks([low, high], labels=[f"{_signed(low)} least", f"{_signed(high)} greatest"])
    return figure


def fig_families(table: pd.DataFrame, cfg: RewardConfig) -> Figure:
    """Draw the best total of each red-team family beside the honest right answer to the same item.

    `table` comes from `gazal.rewards.red_team`.
    """
    table = table.sort_values(["best total", "family"]).reset_index(drop=True)
    rows, wrong = range(len(table)), score_completion(WRONG, OPTIONS, KEY, cfg=cfg).total
    with house_style():
        figure = new_figure(PAGE, 0.155 * len(table) + 0.9)
        ax = figure.subplots()
        ax.hlines(rows, table["best total"], table["honest total"], color=LIGHT, lw=0.8)
        ax.plot(table["best total"], rows, "o", ms=4, color=SERIES[1], zorder=3, label="best of the family")
        mark = {"ms": 4, "mfc": "white", "mec": SERIES[0], "mew": 1}
        ax.plot(table["honest total"], rows, "D", zorder=3, label="honest right answer", **mark)
        ax.axvline(wrong, color=GREY, lw=0.8, ls=":", label="honest wrong answer")
        _mark_bounds(ax, *cfg.bounds())
        rows_of_names(ax, table["family"].str.replace("_", " "), ylim=(-0.7, len(table) - 0.3), xlabel="Total")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncol=3)
    return figure


def _signed(value: float) -> str:
    return signed(value, 2)


def _beside(ax: Axes, place: tuple[float, float], right: float, text: str) -> None:
    ax.annotate(text, place, (right, 0), textcoords="offset points", va="center", fontsize=6.5)


def _mark_limit(ax: Axes, x: float, name: str, right: float, ha: str) -> None:
    ax.axvline(x, color=GREY, lw=0.8, ls=":")
    at: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": ha}
    ax.annotate(name, (x, 0.9), (right, 0), color=GREY, fontsize=6.5, **at)


def _padded(values: Any) -> tuple[float, float]:
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.06 * (high - low or 1.0)
    return low - margin, high + margin


def _mark_bounds(ax: Axes, low: float, high: float) -> None:
    for bound, name in ((low, "least"), (high, "greatest")):
        ax.axvline(bound, color=INK, lw=0.7, ls=(0, (4, 2)))
        at: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
        ax.annotate(name, (bound, 1), (0, 1), fontsize=6, **at)
