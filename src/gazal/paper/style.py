"""The house style: one font, one palette, two widths, and saving that is whole and repeatable."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gazal.common.files import atomic_write

if TYPE_CHECKING:
    from IPython.display import Image

COLUMN, PAGE = 3.35, 7.0  # inches: one and two columns of a printed page
DPI = 200
# Okabe and Ito's palette: told apart with every common colour vision; stages also differ in mark and hatch.
COLOURS = {"base": "#8C8C8C", "sft": "#0072B2", "grpo": "#D55E00"}
MARKERS = {"base": "s", "sft": "o", "grpo": "D"}
HATCHES = {"base": "", "sft": "", "grpo": "////"}
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
INK, GREY, LIGHT = "#222222", "#6B6B6B", "#C9C9C9"
DASHED: dict[str, Any] = {"color": GREY, "lw": 0.8, "ls": (0, (4, 2))}  # chance, and what else is no result
BELOW: dict[str, Any] = {"loc": "outside lower center", "columnspacing": 1.4}  # a figure's legend

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

METADATA = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the house style inside the block only; afterwards the caller's own settings hold again."""
    with matplotlib.rc_context(), sns.axes_style("ticks"):
        matplotlib.rcParams.update(RC)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) with constrained layout, outside pyplot's global state."""
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def tidy(ax: Axes, grid: str = "y") -> Axes:
    """Remove the top and right spines and keep grid lines of one axis only (empty: none)."""
    sns.despine(ax=ax)
    ax.grid(False)
    if grid:
        ax.grid(True, axis=grid)
    return ax


def rows_of_names(ax: Axes, names: Sequence[str], **more: Any) -> None:
    """Name the rows of a figure that is read from left to right: no ticks, upright grid; ``more`` as ``Axes.set``."""
    ax.set(yticks=range(len(names)), yticklabels=names, **more)
    ax.tick_params(axis="y", length=0)
    tidy(ax, "x")


def to_ends(value: float, ends: tuple[float, float]) -> list[list[float]]:
    """Return how far the ends of an interval lie from a share, in percent, as matplotlib's error bars want them."""
    low, high = ends
    return [[100 * max(value - low, 0)], [100 * max(high - value, 0)]]


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.pdf`` and ``name.png`` (200 dpi), each whole or not at all; same input, same bytes: no dates."""
    written = [folder / f"{name}.{suffix}" for suffix in METADATA]
    for path, suffix in zip(written, METADATA, strict=True):
        with atomic_write(path, "wb") as handle:
            handle.write(_rendered(figure, suffix))
    return written


def _rendered(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=suffix, metadata=METADATA[suffix], dpi=DPI)
    return buffer.getvalue()


def picture(figure: Figure) -> Image:
    """Return a figure as the PNG that a notebook shows, without pyplot's global state."""
    from IPython.display import Image  # notebooks alone need it

    return Image(_rendered(figure, "png"), width=int(110 * figure.get_figwidth()))
