"""The paper as a PDF: the typst wheel on paper/main.typ, which reads the run's result files itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typst

from gazal import DISCLAIMER
from gazal.answers.protocols import PROTOCOLS
from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.common.paths import PAPER
from gazal.paper.claims import check_claims
from gazal.paper.evaluation_tables import evaluation_table
from gazal.paper.figures import make_figures
from gazal.paper.inputs import BASELINES, STAGES, TYPES, Results, read_results
from gazal.paper.reasoning import faithfulness_table, judged
from gazal.paper.tables import make_tables
from gazal.scoring.table import Table

SOURCES = ("main.typ", "numbers.typ", "published.yaml", "captions.yaml", "references.yml")
INPUTS = ("eval/scores.json", "data/report.json", "recipe.yaml", "figures/*.pdf")


def _derived(results: Results) -> dict[str, Any]:
    """Return what the paper cannot read from one result file: labels, checked claims, merged baselines, tables."""
    return {
        "disclaimer": DISCLAIMER,
        "stages": STAGES,
        "types": TYPES,
        "labels": BASELINES,
        "claims": [vars(check) for check in check_claims(results.published)],
        "baselines": {
            name: {
                "accuracy": results.baseline(name),
                "by": {k: v for k in TYPES if (v := results.baseline(name, k)) is not None},
            }
            for name in BASELINES
            if results.baseline(name) is not None
        },
        "chance": {b: results.chance(b) for b in results.published["benchmarks"] if results.chance(b) is not None},
        "pass_rates": list(results.pass_rates.values()),
        "parity": [
            {
                "stage": STAGES[stage],
                "prompts": found["prompts"],
                "errors": {
                    name: f"{error:.1e}".replace("e-0", "e-") for name, error in found["largest_relative_error"].items()
                },
            }
            for stage, found in results.parity.items()
        ],
        "protocols": _protocols(results),
        "contamination": results.contamination_rows,
        "lengths": results.lengths,
        "names": results.benchmark_names,
        "evaluation": _cells(evaluation_table(results)),
        "faithfulness": _faithfulness(results),
    }


def _cells(table: Table) -> dict[str, Any]:
    """Return a table for typst: its rows, the rows that a rule follows, and the columns that must not wrap."""
    wide = [name for name, *cells in zip(table.header, *table.rows, strict=True) if any(" " in cell for cell in cells)]
    return {
        "header": table.header,
        "rows": table.rows,
        "rules": sorted(table.rules),
        "text_columns": table.text_columns,
        "wide": wide,
    }


def _faithfulness(results: Results) -> dict[str, Any] | None:
    """Return the judged benchmark's cells by model, its paired differences and its table; None if there are none."""
    benchmark, cells = judged(results)
    if not cells:
        return None
    paired = [row for row in results.faithfulness["paired"] if row["benchmark"] == benchmark]
    return {
        "benchmark": results.benchmark_names.get(benchmark, benchmark),
        "models": cells,
        "paired": paired,
        "table": _cells(faithfulness_table(results)),
    }


def _protocols(results: Results) -> dict[str, Any] | None:
    """Return protocols.json with labels, and its rows as the table has them; None for a run without it."""
    if not results.protocols:
        return None
    names = results.benchmark_names
    rows = [{**vars(row), "benchmark": names[row.benchmark], "span": row.span} for row in results.protocol_rows]
    return {**results.protocols, "rows": rows, "labels": {name: found.label for name, found in PROTOCOLS.items()}}


@contextmanager
def stage_sources(results: Results) -> Iterator[tuple[Path, dict[str, str]]]:
    """Copy the sources and the run's files into one temporary folder, so that a run may lie anywhere.

    Yield that folder, which is typst's root, and the document's inputs. Raises GazalError for a missing source.
    """
    with tempfile.TemporaryDirectory(prefix="gazal-paper-") as folder:
        root = Path(folder)
        for name in SOURCES:
            if not (PAPER / name).is_file():
                raise GazalError(f"{PAPER / name}: no such file; the paper compiles from a checkout of the project")
            shutil.copyfile(PAPER / name, root / name)
        found = sorted(path for pattern in INPUTS for path in results.run.glob(pattern))
        for path in found:
            copy = root / "run" / path.relative_to(results.run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (root / "derived.json").write_text(json.dumps(_derived(results), ensure_ascii=False), encoding="utf-8")
        yield root, {"files": json.dumps([path.relative_to(results.run).as_posix() for path in found])}


def compile_paper(run: str | Path) -> Path:
    """Compile ``paper.pdf`` of a run from its saved results and figures (make those first); return its path.

    The same inputs give the same bytes: typst uses its own fonts and writes no date. Raises GazalError if the
    results cannot be read or the paper does not compile.
    """
    run = Path(run)
    with stage_sources(read_results(run)) as (root, inputs):
        try:
            pdf = typst.compile(
                str(root / "main.typ"), root=str(root), sys_inputs=inputs, ignore_system_fonts=True, timestamp=0
            )
        except (RuntimeError, typst.TypstError) as error:
            raise GazalError(f"paper/main.typ: does not compile ({error})") from error
    target = run / "paper.pdf"
    with atomic_write(target, "wb") as handle:
        handle.write(pdf)
    return target


def make_paper(run: str | Path, progress: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Make figures, tables and paper.pdf from a run's saved results, without a model; return every path written."""
    written = [*make_figures(run, progress), *make_tables(run, progress)]
    written.append(compile_paper(run))
    progress("paper.pdf")
    return written
