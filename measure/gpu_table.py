"""Turn the lines of a GPU check into a page and into the table that docs/gpu.md shows: ``python measure/gpu_table.py LINES [LINES …]``.

LINES are the lines.jsonl of one check, in the order of its calls (``--from``). Writes results/gpu/<card>-<date>.md and the table
between ``<!-- gpu -->`` and ``<!-- /gpu -->``; lines of a CPU are printed only. Without LINES the list of steps in docs/gpu.md is written anew.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from gazal.errors import GazalError
from gazal.files import atomic_write, file_safe, read_jsonl
from gpu_run import MACHINE, ROOT, STEPS

RESULTS, DOCS = ROOT / "results" / "gpu", ROOT / "docs" / "gpu.md"
KEYS = {"step": str, "what": str, "outcome": str, "seconds": (int, float), "why": str, "figures": dict}
OUTCOMES = ("pass", "missed", "fail", "skipped")
ABOUT = ("card", "driver", "CUDA", "memory, GB")


def read_calls(paths: list[Path]) -> list[list[dict[str, Any]]]:
    """The lines of each call of the check. Raises GazalError naming file, row and field for anything else."""
    calls: list[list[dict[str, Any]]] = []
    for path in paths:
        for row, line in read_jsonl(path):
            for key, kind in KEYS.items():
                if not isinstance(line.get(key), kind):
                    raise GazalError(f"{path}: row {row}: {key}: not a line of the GPU check")
            if line["outcome"] not in OUTCOMES:
                raise GazalError(f"{path}: row {row}: outcome: {line['outcome']!r} is none of {', '.join(OUTCOMES)}")
            if line["step"] == "pack":
                calls.append([])
            if not calls:
                raise GazalError(f"{path}: row {row}: step: a check begins with the step pack")
            calls[-1].append(line)
    if not calls:
        raise GazalError(f"{paths[0]}: no lines")
    return calls


def joined(calls: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One check of several calls: of each step the lines of the last call that ran it. Raises GazalError for two cards or two states of the code."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        ran: dict[str, list[dict[str, Any]]] = {}
        for line in call:
            ran.setdefault(line["step"], []).append(line)
        for step in ("pack", "machine"):
            key = {"pack": "code", "machine": "card"}[step]
            values = [lines[step][0]["figures"].get(key) for lines in (kept, ran) if step in lines]
            if len(set(values)) > 1:
                raise GazalError(f"the calls are of two checks: {key} {values[0]} and {values[1]}")
        kept |= ran if not kept else {step: lines for step, lines in ran.items() if step not in ("pack", "machine")}
    order = ["pack", MACHINE.name, *(step.name for step in STEPS)]
    return [line for step in order for line in kept.get(step, [])]


def shown(value: Any) -> str:
    """A figure as the table has it: three digits."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cells(*values: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def table(lines: list[dict[str, Any]]) -> str:
    """The checks, a row each."""
    rows = [cells("Step", "Looked at", "Outcome", "Seconds", "Figures"), "|:--|:--|:--|--:|:--|"]
    for line in lines:
        if line["step"] not in ("pack", MACHINE.name):
            outcome = line["outcome"] + (f": {line['why']}" if line["why"] else "")
            figures = "; ".join(f"{name} {shown(value)}" for name, value in line["figures"].items())
            rows.append(cells(line["step"], line["what"], outcome, f"{line['seconds']:.1f}", figures))
    return "\n".join(rows)


def page(lines: list[dict[str, Any]]) -> str:
    """The whole result: card, date, command, code, versions, table."""
    told, about = (next((line["figures"] for line in lines if line["step"] == step), {}) for step in ("pack", MACHINE.name))
    versions = ", ".join(f"{name} {value}" for name, value in about.items() if name not in ABOUT)
    card = ", ".join(f"{name} {shown(about[name])}" for name in ABOUT[1:] if name in about)
    counts = ", ".join(f"{sum(line['outcome'] == outcome for line in lines)} {outcome}" for outcome in OUTCOMES)
    head = [f"# GPU check on {about.get('card', 'an unknown machine')}, {told.get('date', 'undated')}", "", f"`{told.get('command', '')}`, code {told.get('code', 'unknown')}. {card}.", ""]
    return "\n".join([*head, f"{versions}.", "", f"{counts}; missed: right, but short of a goal.", "", table(lines), ""])


def steps_table() -> str:
    """The steps with their times."""
    rows = [cells("Step", "Looks at", "Seconds planned", "At most"), "|:--|:--|--:|--:|"]
    return "\n".join([*rows, *(cells(f"`{step.name}`", step.about, str(step.planned), str(step.limit)) for step in STEPS)])


def between(text: str, name: str, new: str) -> str:
    """``text`` with ``new`` between its markers of ``name``. Raises GazalError where it has none."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise GazalError(f"{DOCS.name}: the markers <!-- {name} --> and <!-- /{name} --> are not there")
    return pattern.sub(lambda found: found[1] + new + found[2], text)


def write_docs(docs: Path, name: str, new: str) -> None:
    """Put ``new`` between the markers of ``name``."""
    text = between(docs.read_text(encoding="utf-8"), name, new)
    with atomic_write(docs) as handle:
        handle.write(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lines", nargs="*", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    arguments = parser.parse_args()
    write_docs(arguments.docs, "steps", steps_table())
    if not arguments.lines:
        return
    lines = joined(read_calls(arguments.lines))
    text, card = page(lines), next((line["figures"].get("card", "") for line in lines if line["step"] == MACHINE.name), "")
    print(text)
    if not card or "CPU" in card:
        print("no card: nothing is written", file=sys.stderr)
        return
    date = next(line["figures"]["date"] for line in lines if line["step"] == "pack")[:10]
    out = arguments.results / f"{file_safe(card).lower()}-{date}.md"
    with atomic_write(out) as handle:
        handle.write(text)
    write_docs(arguments.docs, "gpu", f"{card}, {date} ([whole page](../results/gpu/{out.name})):\n\n{table(lines)}")
    print(f"{out} and {arguments.docs}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except GazalError as error:
        sys.exit(str(error))
