"""Tables of a run: data, contamination, claims, protocols; and the writing of all tables as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gazal.answers.protocols import PROTOCOLS
from gazal.paper.claims import check_claims
from gazal.paper.curves import SPLITS
from gazal.paper.evaluation_tables import benchmarks_table, evaluation_table, paired_table, results_table
from gazal.paper.inputs import TYPES, Results, model_label, read_results
from gazal.paper.reasoning import faithfulness_table, structure_table
from gazal.scoring.table import NONE, Table, count, group_rules, percent, with_interval, with_n


def data_table(results: Results) -> Table:
    """Show the items by split and reasoning type, and the share of the most frequent answer letter."""
    counts, letters = results.data.get("counts") or {}, results.data.get("letters") or {}
    kinds = TYPES | {k: k for found in counts.values() for k in found if k not in TYPES}
    rows = []
    for split, found in counts.items():
        total, most = sum(found.values()), max(letters.get(split, {}).items(), key=lambda pair: pair[1], default=None)
        share = f"{most[0]}: {percent(most[1] / sum(letters[split].values()))}" if most and most[1] else NONE
        rows.append([SPLITS.get(split, split), *(count(found.get(k, 0)) for k in kinds), count(total), share])
    release = results.data.get("release")
    return Table(
        "data",
        "Items by split and reasoning type; the most frequent answer letter in percent.",
        ["Split", *kinds.values(), "All", "Top letter"],
        rows,
        notes=[f"HPO release {release}."] if release else [],
    )


def claims_table(results: Results) -> Table:
    """Show the claims that the authors derive, checked against their own reported numbers."""
    rows = [
        [v.text, v.benchmark, v.numbers, "yes" if v.claimed else "no", "yes" if v.holds else "no", v.measured]
        for v in check_claims(results.published)
    ]
    return Table(
        "claims",
        "Claims the authors derive from their results table, recomputed from the reported numbers; measured: none of "
        "these models by this run (gazal evaluate --recipe published does).",
        ["Claim", "Benchmark", "Reported numbers", "Claimed", "Holds", "Measured"],
        rows,
        text_columns=6,
    )


def protocols_table(results: Results) -> Table:
    """Show the accuracy of each stage on each benchmark by protocol, and the highest less the lowest."""
    names = results.benchmark_names
    cells = [
        [
            names[row.benchmark],
            model_label(row.model),
            *(percent(row.accuracy[p]) for p in PROTOCOLS),
            percent(row.span),
        ]
        for row in results.protocol_rows
    ]
    return Table(
        "protocols",
        "The same completions scored by our protocol and by four others, re-implemented from their descriptions: "
        "accuracy in percent. Span: highest less lowest, the points that are protocol.",
        ["Benchmark", "Model", *(p.label for p in PROTOCOLS.values()), "Span"],
        cells,
        text_columns=2,
        rules=group_rules(cells),
        notes=[f"{p.label}: {p.rule}." for p in PROTOCOLS.values()],
    )


def readings_table(results: Results) -> Table:
    """Show what each protocol reads if the answer is plain, and if it is faked, doubled or absent."""
    honest, forms, red = (results.protocols.get(key, {}) for key in ("honest", "forms", "red_team"))

    def cells(name: str) -> list[str]:
        row = red.get("protocols", {}).get(name, {})
        worst = f"{row['family']} ({percent(row['family_key'], 0)})" if "family" in row else NONE
        agreement = [found.get("agreement", {}).get(name) for found in (honest, forms)]
        return [PROTOCOLS[name].label, *map(percent, [*agreement, row.get("letter"), row.get("key")]), worst]

    notes = [
        "Every reading of a protocol must be ours to agree. The last three columns are of red-team completions in "
        "which our extractor reads no answer; what is counted as right depends on where the key lies: a default "
        "letter is paid where it is the key."
    ]
    return Table(
        "readings",
        f"Agreement with ours, in percent, on {honest.get('completions', 0):,} honest, well-formed completions of "
        f"this run and on {forms.get('completions', 0)} honest forms; and {red.get('null', 0)} red-team completions "
        "without an answer: percent given a letter, percent counted as right, and the family most often counted as "
        "right.",
        ["Protocol", "Agrees: this run", "Agrees: forms", "Red team: letter", "Red team: right", "Worst family"],
        [cells(name) for name in PROTOCOLS],
        notes=notes,
    )


COUNTS = {
    "items": "Items",
    "training_documents": "Training documents",
    "removed_exact": "Removed, exact",
    "removed_near": "Removed, near",
    "matched": "Still matched",
    "pairs_exact": "Exact pairs inside",
    "pairs_near": "Near pairs inside",
    "clean": "Clean items",
}


def contamination_table(results: Results) -> Table:
    """Show each benchmark against the training data: removed, left, duplicates inside, accuracy on all and on clean."""
    rows = []
    for row in results.contamination_rows:
        about = [row["name"], *(count(row[name]) for name in COUNTS)]
        for model, found in row["scores"].items():
            rows.append([*about, model_label(model), with_interval(found["all"]), with_n(found["clean"])])
            about = [""] * len(about)
    not_compared = results.data.get("curation", {}).get("not_compared", {})
    return Table(
        "contamination",
        "Contamination: each whole benchmark against this run's training data, and accuracy in percent on all asked "
        "items and on the clean ones.",
        ["Benchmark", *COUNTS.values(), "Model", "All", "Clean"],
        rows,
        notes=[
            "Removed: training documents that matched an item of the benchmark and were taken out before training. "
            "Clean: without items that a training document still matches and without the later of two duplicates "
            "inside the benchmark. What the base model read is not known to this table.",
            *(
                f"{results.benchmark_names.get(b, b)} was not compared when the data was made: {why}."
                for b, why in not_compared.items()
            ),
        ],
    )


TABLES: tuple[Callable[[Results], Table], ...] = (
    results_table,
    paired_table,
    benchmarks_table,
    evaluation_table,
    data_table,
    contamination_table,
    claims_table,
)
OPTIONAL: dict[str, dict[str, Callable[[Results], Table]]] = {
    "protocols": {"protocols": protocols_table, "readings": readings_table},
    "faithfulness": {"faithfulness": faithfulness_table, "structure": structure_table},
}
"""By result file, which is also the name in Results: the tables that need it."""


def make_tables(run: str | Path, progress: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Write ``tables/<name>.md`` and ``.tex`` of a run; return the paths.

    If a run lacks a result file (``eval/protocols.json``), its tables are left out, older ones removed, and
    ``progress`` is told. Raises GazalError for unreadable results.
    """
    results, builds, written = read_results(run), [*TABLES], []
    for file, tables in OPTIONAL.items():
        if getattr(results, file):
            builds += tables.values()
            continue
        for name in tables:
            for suffix in ("md", "tex"):
                (Path(run) / "tables" / f"{name}.{suffix}").unlink(missing_ok=True)
        names = ", ".join(f"tables/{name}" for name in tables)
        progress(f"{names}: left out, this run has no eval/{file}.json (gazal score writes it)")
    for build in builds:
        table = build(results)
        written += table.write(Path(run) / "tables")
        progress(f"tables/{table.name}")
    return written
