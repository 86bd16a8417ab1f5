"""The house style: one font, one palette, two widths, and saving that is whole and repeatable."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gazal.common.files import atomic_write

COLUMN, PAGE = 3.35, 7.0  # inches: one and two columns of a printed page
DPI = 200
# Okabe and Ito's palette: told apart with every common colour vision; stages also differ in mark and hatch.
COLOURS = {"base": "#8C8C8C", "sft": "#0072B2", "grpo": "#D55E00"}
MARKERS = {"base": "s", "sft": "o", "grpo": "D"}
HATCHES = {"base": "", "sft": "", "grpo": "////"}
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
INK, GREY, LIGHT = "#222222", "#6B6B6B", "#C9C9C9"

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.5,
    "grid.linewidth": 0.4,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "pdf.fonttype": 42,
    "svg.hashsalt": "gazal",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


@contextmanager
def house_style() -> Iterator[None]:
    """The style inside the block only: a caller's own settings come back."""
    with matplotlib.rc_context(), sns.axes_style("ticks"):
        matplotlib.rcParams.update(RC)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that lays itself out; no pyplot state, so nothing leaks between figures."""
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def tidy(ax: Axes, grid: str = "y") -> Axes:
    """No top or right spine, grid lines along one axis only."""
    sns.despine(ax=ax)
    ax.grid(False)
    if grid:
        ax.grid(True, axis=grid)
    return ax


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.pdf`` and ``name.png`` (200 dpi), each whole or not at all, free of dates: same input, same bytes."""
    written = []
    for suffix, metadata in (
        ("pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
        ("png", {"Software": None}),
    ):
        buffer = io.BytesIO()
        with house_style():
            figure.savefig(buffer, format=suffix, metadata=metadata, dpi=DPI)
        path = folder / f"{name}.{suffix}"
        with atomic_write(path, "wb") as handle:
            handle.write(buffer.getvalue())
        written.append(path)
    return written


def picture(figure: Figure) -> Image:
    """A figure as a notebook shows it, as PNG; it needs no pyplot, so no state outlives the cell."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", metadata={"Software": None}, dpi=DPI)
    return Image(buffer.getvalue(), width=int(110 * figure.get_figwidth()))
