"""Tables of a run as Markdown and as LaTeX (booktabs): results, paired tests, benchmarks, data, contamination, claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gazal.evaluation.protocols import PROTOCOLS
from gazal.files import atomic_write
from gazal.paper.claims import check_claims
from gazal.paper.curves import SPLITS
from gazal.paper.inputs import BASELINES, STAGES, TEST, TYPES, Results, in_percent, read_results

NONE = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$",
    "…": r"\dots{}", "’": "'", "‘": "`", "“": "``", "”": "''", "\N{NO-BREAK SPACE}": "~", "\n": " ",
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
        body = "\n".join("| " + " | ".join(cell if cells is align else escape_markdown(cell) for cell in cells) + " |" for cells in lines)
        notes = "".join(f"\n{escape_markdown(note)}\n" for note in self.notes)
        return f"**{escape_markdown(self.caption)}**\n\n{body}\n{notes}"

    def latex(self) -> str:
        r"""A ``table*`` that needs ``\usepackage{booktabs}`` and UTF-8 input."""
        align = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
        lines = [r"\begin{table*}", r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}", rf"  \caption{{{escape_latex(self.caption)}}}", rf"  \label{{tab:{self.name}}}",
                 rf"  \begin{{tabular}}{{@{{}}{align}@{{}}}}", r"    \toprule", "    " + " & ".join(map(escape_latex, self.header)) + r" \\", r"    \midrule"]
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


def with_interval(entry: dict[str, Any] | None) -> str:
    """Accuracy with its 95 % interval, percent: ``71.5 [68.6, 74.2]``."""
    return NONE if not entry else f"{percent(entry['accuracy'])} [{percent(entry['ci95'][0])}, {percent(entry['ci95'][1])}]"


def p_value(p: float) -> str:
    """Two significant digits, never a bare zero."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _model(name: str) -> str:
    return STAGES.get(name, name)


def results_table(results: Results) -> Table:
    """Stages by overall and per-type accuracy, format, unparsed, truncated, tokens; shortcuts below."""
    rows = []
    for model in results.models:
        entry = results.score(model, TEST)
        if entry:
            by = entry.get("by", {})
            tokens = f"{entry['mean_tokens']:.0f}" if entry.get("mean_tokens") is not None else NONE
            rows.append([_model(model), with_interval(entry), *(with_interval(by.get(k)) for k in TYPES),
                         percent(entry.get("format")), percent(entry["unparsed"]), percent(entry["truncated"]), tokens])
    stages = len(rows)
    for name, label in BASELINES.items():
        if results.baseline(name) is not None:
            rows.append([f"Shortcut: {label.lower()}", percent(results.baseline(name)), *(percent(results.baseline(name, k)) for k in TYPES), *[NONE] * 4])
    sizes = {results.score(m, TEST)["n"] for m in results.models if results.score(m, TEST)}
    return Table(
        "results", f"Embedded test{', n = ' + str(sizes.pop()) if len(sizes) == 1 else ''}: accuracy in percent with 95 % intervals, by stage and reasoning type.",
        ["Model", "All items", *TYPES.values(), "Format", "Unparsed", "Truncated", "Tokens"], rows, rules=frozenset({stages - 1} if 0 < stages < len(rows) else ()),
        notes=["Accuracy counts every item: an unparsed answer is wrong. Format, unparsed and truncated are percent of completions; tokens is the mean length. "
               "The items are knowledge-derived, no clinical vignettes and no proxy for MedQA."],
    )


def paired_table(results: Results) -> Table:
    """Every saved paired test: difference in points, 95 % interval, p."""
    names = results.benchmark_names
    rows = []
    for row in results.scores.get("paired", []):
        name, models = names.get(row["benchmark"], row["benchmark"]), f"{_model(row['a'])} → {_model(row['b'])}"
        by = row.get("by", {}) if row["benchmark"] == TEST else {}
        for label, test in [(name, row), *((f"{name}, {TYPES[k].lower()}", by[k]) for k in TYPES if k in by)]:
            low, high = test["ci95"]
            numbers = [f"{in_percent(test['delta']):+.1f}", f"[{in_percent(low):+.1f}, {in_percent(high):+.1f}]"]
            rows.append([label, models, *(n.replace("-", "−") for n in numbers), p_value(test["p"])])
    return Table("paired", "Paired tests between stages, on the same items: difference in accuracy in percentage points.",
                 ["Benchmark", "Models", "Difference", "95 % interval", "p"], rows, text_columns=2, notes=["Two-sided p, not corrected for the number of tests."])


def benchmarks_table(results: Results) -> Table:
    """Reported values (not ours) above, this run's measured ones with intervals below; chance; why not run."""
    names = {b: name for b, name in results.benchmark_names.items() if b != TEST}
    rows = [[f"{m['name']} (reported)", f"{m['billions']}B", *(f"{m[b]:.1f}" if b in m else NONE for b in names)] for m in results.published["models"].values()]
    reported = len(rows)
    for model in results.models:
        cells = [results.score(model, b) for b in names]
        rows.append([f"{_model(model)} (this run)", NONE, *(f"{with_interval(c)}, n = {c['n']}" if c else "not run" for c in cells)])
    rows.append(["Chance (this run's items)", NONE, *(percent(results.chance(b)) for b in names)])
    missing = [b for b in names if not any(results.score(m, b) for m in results.models)]
    source = results.published["source"]
    return Table("benchmarks", f"Benchmark accuracy in percent. Reported: {source['title']} (arXiv:{source['arxiv']}), without intervals. This run: measured, with 95 % intervals.",
                 ["Model", "Size", *names.values()], rows, rules=frozenset({reported - 1}), notes=[f"{names[b]} was not run: {results.not_run(b)}." for b in missing])


def data_table(results: Results) -> Table:
    """Items by split and reasoning type, and the share of the most frequent answer letter."""
    counts, letters = results.data.get("counts") or {}, results.data.get("letters") or {}
    kinds = TYPES | {k: k for found in counts.values() for k in found if k not in TYPES}
    rows = []
    for split, found in counts.items():
        total, most = sum(found.values()), max(letters.get(split, {}).items(), key=lambda pair: pair[1], default=None)
        share = f"{most[0]}: {percent(most[1] / sum(letters[split].values()))}" if most and most[1] else NONE
        rows.append([SPLITS.get(split, split), *(f"{found.get(k, 0):,}" for k in kinds), f"{total:,}", share])
    release = results.data.get("release")
    return Table("data", "Items by split and reasoning type; the most frequent answer letter in percent.",
                 ["Split", *kinds.values(), "All", "Top letter"], rows, notes=[f"HPO release {release}."] if release else [])


def claims_table(results: Results) -> Table:
    """The ledger: derived claims of the paper against its own reported numbers."""
    rows = [[v.text, v.benchmark, v.numbers, "yes" if v.claimed else "no", "yes" if v.holds else "no"] for v in check_claims(results.published)]
    return Table("claims", "Claims the authors derive from their results table, recomputed from the reported numbers (not measured here).",
                 ["Claim", "Benchmark", "Reported numbers", "Claimed", "Holds"], rows, text_columns=5)


def protocols_table(results: Results) -> Table:
    """Stages and benchmarks by protocol: accuracy, and the span between the most and the least generous."""
    rows, names = results.protocol_rows, results.benchmark_names
    ends = frozenset(i for i, (row, following) in enumerate(zip(rows, rows[1:], strict=False)) if row.benchmark != following.benchmark)
    cells = [[names[row.benchmark], _model(row.model), *(percent(row.accuracy[p]) for p in PROTOCOLS), percent(row.span)] for row in rows]
    return Table("protocols", "The same completions scored by our protocol and by four others, re-implemented from their descriptions: accuracy in percent. "
                 "Span: highest less lowest, the points that are protocol.",
                 ["Benchmark", "Model", *(p.label for p in PROTOCOLS.values()), "Span"], cells, text_columns=2, rules=ends,
                 notes=[f"{p.label}: {p.rule}." for p in PROTOCOLS.values()])


def readings_table(results: Results) -> Table:
    """What each protocol reads where the answer is plain, and where it is faked, doubled or absent."""
    honest, forms, red = (results.protocols.get(key, {}) for key in ("honest", "forms", "red_team"))

    def cells(name: str) -> list[str]:
        row = red.get("protocols", {}).get(name, {})
        worst = f"{row['family']} ({percent(row['family_key'], 0)})" if "family" in row else NONE
        return [PROTOCOLS[name].label, *(percent(found.get("agreement", {}).get(name)) for found in (honest, forms)), percent(row.get("letter")), percent(row.get("key")), worst]

    notes = ["Every reading of a protocol must be ours to agree. The last three columns are of red-team completions in which our extractor reads no answer; "
             "what is counted as right depends on where the key lies: a default letter is paid where it is the key."]
    return Table("readings", f"Agreement with ours, in percent, on {honest.get('completions', 0):,} honest, well-formed completions of this run and on {forms.get('completions', 0)} honest forms; "
                 f"and {red.get('null', 0)} red-team completions without an answer: percent given a letter, percent counted as right, and the family most often counted as right.",
                 ["Protocol", "Agrees: this run", "Agrees: forms", "Red team: letter", "Red team: right", "Worst family"], [cells(name) for name in PROTOCOLS], notes=notes)


def contamination_table(results: Results) -> Table:
    """Each benchmark against the training data: what was removed, what is left, duplicates inside, accuracy on all and on clean items."""
    rows = []
    for row in results.contamination_rows:
        removed = [NONE if row[key] is None else f"{row[key]:,}" for key in ("removed_exact", "removed_near")]
        counts = [f"{row['items']:,}", f"{row['training_documents']:,}", *removed, f"{row['matched']:,}", f"{row['pairs_exact']:,}", f"{row['pairs_near']:,}", f"{row['clean']:,}"]
        for at, (model, found) in enumerate(row["scores"].items()):
            clean = found["clean"]
            rows.append([*([row["name"], *counts] if not at else [""] * 9), _model(model), with_interval(found["all"]), f"{with_interval(clean)}, n = {clean['n']:,}" if clean else NONE])
    not_compared = results.data.get("curation", {}).get("not_compared", {})
    return Table("contamination", "Contamination: each whole benchmark against this run's training data, and accuracy in percent on all asked items and on the clean ones.",
                 ["Benchmark", "Items", "Training documents", "Removed, exact", "Removed, near", "Still matched", "Exact pairs inside", "Near pairs inside", "Clean items", "Model", "All", "Clean"], rows,
                 notes=["Removed: training documents that matched an item of the benchmark and were taken out before training. Clean: without items that a training document "
                        "still matches and without the later of two duplicates inside the benchmark. What the base model read is not known to this table.",
                        *(f"{results.benchmark_names.get(b, b)} was not compared when the data was made: {why}." for b, why in not_compared.items())])


TABLES: tuple[Callable[[Results], Table], ...] = (results_table, paired_table, benchmarks_table, data_table, contamination_table, claims_table)
OF_PROTOCOLS: tuple[Callable[[Results], Table], ...] = (protocols_table, readings_table)


def make_tables(run: str | Path, progress: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Write ``tables/<name>.md`` and ``.tex`` of a run; returns the paths. A run without ``eval/protocols.json`` gets no
    tables of protocols, older ones are removed, and ``progress`` is told. Raises GazalError for unreadable results."""
    results, written = read_results(run), []
    if not results.protocols:
        for name in ("protocols", "readings"):
            for suffix in ("md", "tex"):
                (Path(run) / "tables" / f"{name}.{suffix}").unlink(missing_ok=True)
        progress("tables/protocols, tables/readings: left out, this run has no eval/protocols.json (gazal score writes it)")
    for build in (*TABLES, *(OF_PROTOCOLS if results.protocols else ())):
        table = build(results)
        for suffix, text in (("md", table.markdown()), ("tex", table.latex())):
            path = Path(run) / "tables" / f"{table.name}.{suffix}"
            with atomic_write(path) as handle:
                handle.write(text)
            written.append(path)
        progress(f"tables/{table.name}")
    return written
