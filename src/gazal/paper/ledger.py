"""The ledger: each reported value of the paper's table beside what was measured here for that model and benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gazal.common.paths import PAPER
from gazal.data.benchmarks import PARTS, SOURCES
from gazal.evaluation.targets import read_settings
from gazal.paper.claims import check_claims
from gazal.paper.inputs import read_yaml
from gazal.recipe.load import load_recipe
from gazal.runs import relative
from gazal.scoring.table import NONE, Table, count, group_rules, in_percent, number, percent, signed, with_interval

NOT_RUN = "not run"
PROTOCOL_WORDS = {
    "method": "by {}",
    "temperature": "T {}",
    "top_p": "top-p {}",
    "top_k": "top-k {}",
    "max_new_tokens": "at most {:,} tokens",
    "samples": "{} an item",
    "thinking": "thinking: {}",
    "prompt": "{} prompt",
    "few_shot": "{} solved items before",
}


def stand_ins(asked: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the models that only bear a name of the published table: ``{name: the model that was prompted}``.

    A model is the real one if it is the shipped recipe's hub id, or that id's last part without an owner (a folder, a
    server's model).
    """
    known = {name: entry.model.lower() for name, entry in load_recipe("published").models.items()}
    return {
        name: str(how.get("model"))
        for name, how in asked.items()
        if name in known and str(how.get("model")).lower() not in (known[name], known[name].rpartition("/")[2])
    }


def _by_name(how: dict[str, Any]) -> bool:
    """Tell whether only a name says which model answered, as with a server or a folder."""
    return how.get("engine") == "server" or "/" not in str(how.get("model"))


def _whole(benchmark: str) -> int | None:
    parts = PARTS.get(benchmark, (benchmark,))
    return sum(SOURCES[part].count for part in parts) if all(part in SOURCES for part in parts) else None


def _verdict(reported: float, cell: dict[str, Any], stand_in: str | None, how: dict[str, Any]) -> str:
    if stand_in:
        return f"no verdict: asked was {stand_in}"
    low, high = (in_percent(end, 2) for end in cell["ci95"])
    return f"reported value {'inside' if low <= reported <= high else 'outside'} the interval" + (
        "; the model's name is all we know of it" if _by_name(how) else ""
    )


def ledger_table(published: dict[str, Any], scores: dict[str, Any], asked: dict[str, dict[str, Any]]) -> Table:
    """Show models by benchmarks: reported, measured with interval and n, difference in points, share cut, verdict."""
    others, rows = stand_ins(asked), []
    for key, model in published["models"].items():
        cells = scores["models"].get(key, {}).get("benchmarks", {}) if key in asked else {}
        for benchmark, name in published["benchmarks"].items():
            reported, cell = model.get(benchmark), cells.get(benchmark)
            if reported is None:
                continue
            if cell is None:
                rows.append([model["name"], name, number(reported, 1), NOT_RUN, NONE, NONE, NONE, NOT_RUN])
                continue
            n, whole = cell["n"], _whole(benchmark)
            off = signed(in_percent(cell["accuracy"]) - reported)
            size = count(n) if n == whole or whole is None else f"{count(n)} of {count(whole)}"
            verdict = _verdict(reported, cell, others.get(key), asked[key])
            found = [number(reported, 1), with_interval(cell), size, off, percent(cell["truncated"]), verdict]
            rows.append([model["name"], name, *found])
    source = published["source"]
    return Table(
        "ledger",
        f"The published table and what was measured here: accuracy in percent. Reported: {source['title']} "
        f"(arXiv:{source['arxiv']}), without intervals or n. Measured: this project, with 95 % intervals; cut: "
        "percent of completions that ended at the token limit.",
        ["Model", "Benchmark", "Reported", "Measured", "n", "Difference", "Cut", "Verdict"],
        rows,
        text_columns=2,
        rules=group_rules(rows),
        notes=_notes(published, asked, others),
    )


def _notes(published: dict[str, Any], asked: dict[str, dict[str, Any]], others: dict[str, str]) -> list[str]:
    """Return a line for each way of prompting, with the models that were prompted so, and what limits the table."""
    ways: dict[str, list[str]] = {}
    for key, how in asked.items():
        if key in published["models"]:
            words = ", ".join(form.format(how[name]) for name, form in PROTOCOL_WORDS.items() if name in how)
            way = f"{how.get('engine')}, {how.get('dtype') or 'precision as it comes'}, {words}"
            way += f"; system prompt: {how.get('system') or 'none'}"
            revision = f"@{how['revision']}" if how.get("revision") else ""
            named = f"{published['models'][key]['name']} (asked was {how.get('model')}{revision})"
            ways.setdefault(way, []).append(named)
    notes = [f"{', '.join(names)}: {way.rstrip('.')}." for way, names in ways.items()]
    if others:
        notes.append("A model that stands in for another gets no verdict and counts for no claim.")
    if any(_by_name(how) for key, how in asked.items() if key in published["models"] and key not in others):
        notes.append(
            "A folder or a server's model that bears the name is taken at its word: which weights answered is not "
            "proved."
        )
    return [
        *notes,
        "The protocol of the reported values (prompts, sampling, precision, samples) is not published; a value "
        "outside the interval may be protocol.",
    ]


def claims_ledger(published: dict[str, Any], scores: dict[str, Any], asked: dict[str, dict[str, Any]]) -> Table:
    """Show the derived claims, recomputed from the reported values and judged again by the measured ones."""
    others = stand_ins(asked)
    rows = [
        [v.text, v.benchmark, v.numbers, "yes" if v.holds else "no", v.measured]
        for v in check_claims(published, scores, set(asked) - set(others))
        if v.claimed
    ]
    return Table(
        "claims_measured",
        "Claims that the authors derive from their table: from the reported numbers, and from what was measured here.",
        ["Claim", "Benchmark", "Reported numbers", "Holds as reported", "Measured"],
        rows,
        text_columns=5,
        notes=[
            "Measured, by the 95 % interval of the paired difference on the same items: yes where all of it agrees "
            "(for a gain: where it holds the claimed value), no where all of it disagrees, else undecided; not "
            "measured where a model that is needed was not run."
        ],
    )


def write_ledger(
    folder: str | Path, scores: dict[str, Any], say: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Write ``tables/ledger`` and ``tables/claims_measured`` (.md and .tex); say the ledger's rows that were run.

    ``folder``: a run's, or one of predictions. If no model of the published table was run, nothing is written.
    """
    folder = Path(folder)
    root = folder / "eval" if (folder / "eval").is_dir() else folder
    published, asked = read_yaml(PAPER / "published.yaml"), read_settings(root)
    if not set(asked) & set(published["models"]):
        return []
    written = []
    for table in (ledger_table(published, scores, asked), claims_ledger(published, scores, asked)):
        written += table.write(folder / "tables")
        if table.name == "ledger":
            for model, name, reported, found, n, off, _, verdict in table.rows:
                if found != NOT_RUN:
                    say(f"{model}, {name}: reported {reported}, measured {found} (n = {n}), {off} points; {verdict}")
    say(relative(written[0]))
    return written
