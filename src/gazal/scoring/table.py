"""The one table of results and its cells: plain text, written for the terminal, as Markdown and as LaTeX (booktabs)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from gazal.common.files import atomic_write

NONE = "–"
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\to$",
    "…": r"\dots{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "\N{NO-BREAK SPACE}": "~",
    "\n": " ",
}


def escape_latex(text: str) -> str:
    """Return text as LaTeX shows it literally: specials escaped, common signs as commands; letters stay UTF-8."""
    return "".join(LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Return text that stays inside one cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", " ")


@dataclass(frozen=True)
class Table:
    """Cells as plain text; ``rules`` are the numbers of rows that a thin line follows."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    text_columns: int = 1  # columns from the left that hold words, set flush left
    rules: frozenset[int] = frozenset()
    notes: list[str] = field(default_factory=list)

    def terminal(self) -> str:
        """Return Markdown whose columns line up, without caption and notes; rows that are too short are filled up."""
        rows = [row + [""] * (len(self.header) - len(row)) for row in (self.header, *self.rows)]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        header, *lines = (_line(map(str.ljust, row, widths)) for row in rows)
        return "\n".join([header, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines])

    def markdown(self) -> str:
        """Return a GitHub table under its caption, with the notes below."""
        align = [":--" if i < self.text_columns else "--:" for i in range(len(self.header))]
        header, *lines = (_line(map(escape_markdown, row)) for row in (self.header, *self.rows))
        body = "\n".join([header, _line(align), *lines])
        notes = "".join(f"\n{escape_markdown(note)}\n" for note in self.notes)
        return f"**{escape_markdown(self.caption)}**\n\n{body}\n{notes}"

    def latex(self) -> str:
        r"""Return a ``table*`` that needs ``\usepackage{booktabs}`` and UTF-8 input."""
        align = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
        lines = [
            r"\begin{table*}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"  \caption{{{escape_latex(self.caption)}}}",
            rf"  \label{{tab:{self.name}}}",
            rf"  \begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"    \toprule",
            "    " + " & ".join(map(escape_latex, self.header)) + r" \\",
            r"    \midrule",
        ]
        for at, row in enumerate(self.rows):
            cells = [escape_latex(cell) for cell in row]
            cells[0] = "{}" + cells[0] if cells[0].startswith("[") else cells[0]  # else read as an argument of \\
            lines.append("    " + " & ".join(cells) + r" \\")
            if at in self.rules:
                lines.append(r"    \midrule")
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\smallskip\footnotesize {escape_latex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table*}", ""])

    def write(self, folder: Path) -> list[Path]:
        """Write ``<name>.md`` and ``<name>.tex`` into ``folder``; return the paths."""
        texts = {folder / f"{self.name}.md": self.markdown(), folder / f"{self.name}.tex": self.latex()}
        for path, text in texts.items():
            with atomic_write(path) as handle:
                handle.write(text)
        return list(texts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def group_rules(rows: list[list[str]], columns: int = 1) -> frozenset[int]:
    """Return the numbers of rows after which one of the first ``columns`` cells changes."""
    return frozenset(n for n, (row, after) in enumerate(pairwise(rows)) if row[:columns] != after[:columns])


def in_percent(share: float, digits: int = 1) -> float:
    """Return a share as percent as it is printed: 0.0625 is 6.3, as halves go away from zero in the paper's arithmetic.

    What binary fractions lose does not count: 0.2875 is 28.8.
    """
    return math.copysign(math.floor(round(abs(share) * 10 ** (digits + 2), 6) + 0.5) / 10**digits, share)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as percent without the sign: 0.7154 → ``71.5``; None → a dash."""
    return NONE if share is None else f"{in_percent(share, digits):.{digits}f}"


def number(value: float | None, digits: int = 0) -> str:
    """Return a plain number; None → a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """Return a number of things with commas between thousands; None → a dash."""
    return NONE if value is None else f"{value:,}"


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign, minus as typographers set it."""
    return f"{value:+.{digits}f}".replace("-", "−")


def points(share: float) -> str:
    """Return a difference in percentage points with its sign: −0.051 → ``−5.1``."""
    return signed(in_percent(share))


def with_interval(entry: dict[str, Any] | None, form: str = "{} [{}, {}]") -> str:
    """Return an entry's accuracy, or else its value, with its 95 % interval in percent; None → a dash.

    By default the form is ``71.5 [68.6, 74.2]``.
    """
    return form.format(*map(percent, (entry.get("accuracy", entry.get("value")), *entry["ci95"]))) if entry else NONE


def with_n(entry: dict[str, Any] | None, none: str = NONE) -> str:
    """Return :func:`with_interval` and the number of items behind it; None → ``none``."""
    return f"{with_interval(entry)}, n = {count(entry['n'])}" if entry else none


def p_value(p: float | None) -> str:
    """Return a p-value with at most two significant digits, never a bare zero; None → a dash."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
