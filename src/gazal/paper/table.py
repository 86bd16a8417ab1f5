"""What a table is: cells as plain text, written as Markdown and as LaTeX (booktabs); and how numbers stand in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gazal.paper.inputs import STAGES
from gazal.scoring.report import in_percent

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
    """Text as LaTeX shows it literally: specials escaped, common signs as commands; letters stay UTF-8."""
    return "".join(LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Text that stays inside one cell of a Markdown table."""
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

    def markdown(self) -> str:
        """A GitHub table under its caption, notes below."""
        align = [":--" if i < self.text_columns else "--:" for i in range(len(self.header))]
        lines = [self.header, align, *self.rows]
        body = "\n".join(
            "| " + " | ".join(cell if cells is align else escape_markdown(cell) for cell in cells) + " |"
            for cells in lines
        )
        notes = "".join(f"\n{escape_markdown(note)}\n" for note in self.notes)
        return f"**{escape_markdown(self.caption)}**\n\n{body}\n{notes}"

    def latex(self) -> str:
        r"""A ``table*`` that needs ``\usepackage{booktabs}`` and UTF-8 input."""
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
        for number, row in enumerate(self.rows):
            cells = [escape_latex(cell) for cell in row]
            cells[0] = "{}" + cells[0] if cells[0].startswith("[") else cells[0]  # else read as an argument of \\
            lines.append("    " + " & ".join(cells) + r" \\")
            if number in self.rules:
                lines.append(r"    \midrule")
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\smallskip\footnotesize {escape_latex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table*}", ""])


def percent(share: float | None, digits: int = 1) -> str:
    """A share as percent without the sign: 0.7154 → ``71.5``; None → a dash."""
    return NONE if share is None else f"{in_percent(share, digits):.{digits}f}"


def points(share: float) -> str:
    """A difference in percentage points with its sign: −0.051 → ``−5.1``."""
    return f"{in_percent(share):+.1f}".replace("-", "−")


def with_interval(entry: dict[str, Any] | None) -> str:
    """Accuracy with its 95 % interval, percent: ``71.5 [68.6, 74.2]``."""
    return (
        NONE
        if not entry
        else f"{percent(entry['accuracy'])} [{percent(entry['ci95'][0])}, {percent(entry['ci95'][1])}]"
    )


def p_value(p: float) -> str:
    """Two significant digits, never a bare zero."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def model_label(name: str) -> str:
    """A model's name for readers."""
    return STAGES.get(name, name)
