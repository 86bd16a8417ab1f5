"""Turn the lines of a GPU check into a page and into the table that docs/gpu.md shows: ``python measure/gpu_table.py LINES [LINES …]``.

LINES are the lines.jsonl of one check, in the order of its calls (``--from``). Writes results/gpu/<card>-<date>.md and the table
between ``<!-- gpu -->`` and ``<!-- /gpu -->``; lines of a CPU are printed only. Without LINES the list of steps in docs/gpu.md is written anew.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_run import MACHINE, ROOT, STEPS

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, file_safe, read_jsonl

RESULTS, DOCS = ROOT / "results" / "gpu", ROOT / "docs" / "gpu.md"
KEYS = {"step": str, "what": str, "outcome": str, "seconds": (int, float), "why": str, "figures": dict}
OUTCOMES = ("pass", "missed", "fail", "skipped")
ABOUT = ("card", "memory in GB", "driver", "CUDA")
PACKED = "pack"  # the step with which each call begins
NO_TIME = "no time left"


def read_calls(
    paths: list[Path], say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
) -> list[list[dict[str, Any]]]:
    """The lines of each call of the check. A last line that was cut is left out, aloud. Raises GazalError naming file, row and field for anything else."""
    calls: list[list[dict[str, Any]]] = []
    known = {PACKED, MACHINE.name, *(step.name for step in STEPS)}
    for path in paths:
        for row, line in _whole_lines(path, say):
            for key, kind in KEYS.items():
                if not isinstance(line.get(key), kind):
                    raise GazalError(f"{path}: row {row}: {key}: not a line of the GPU check")
            for key, values in (("outcome", OUTCOMES), ("step", known)):
                if line[key] not in values:
                    raise GazalError(f"{path}: row {row}: {key}: {line[key]!r} is none of {', '.join(sorted(values))}")
            for name, step in (("date", PACKED), ("code", PACKED), ("card", MACHINE.name)):
                if (
                    line["step"] == step
                    and line["outcome"] == "pass"
                    and not isinstance(line["figures"].get(name), str)
                ):
                    raise GazalError(f"{path}: row {row}: figures: {name} is missing")
            if line["step"] == PACKED:
                calls.append([])
            if not calls:
                raise GazalError(f"{path}: row {row}: step: a check begins with the step {PACKED}")
            calls[-1].append(line)
    return calls


def _whole_lines(path: Path, say: Callable[[str], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    ends = path.read_bytes().endswith(b"\n") if path.is_file() else True
    rows = 0 if ends else len(path.read_bytes().splitlines())
    lines = read_jsonl(path)
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except GazalError as error:
            if f"row {rows}:" not in str(error):
                raise
            return say(f"{path}: row {rows}: cut, left out")


def joined(calls: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One check of several calls: of each step the lines of the last call that ran it. Calls that found no card are left out.
    Raises GazalError for two cards, two states of the code, or none that ran."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        ran: dict[str, list[dict[str, Any]]] = {}
        for line in call:
            ran.setdefault(line["step"], []).append(line)
        if any(step not in ran or ran[step][0]["outcome"] != "pass" for step in (PACKED, MACHINE.name)):
            continue
        for step, key in ((PACKED, "code"), (MACHINE.name, "card")):
            values = [lines[step][0]["figures"][key] for lines in (kept, ran) if step in lines]
            if len(set(values)) > 1:
                raise GazalError(f"the calls are of two checks: {key} {values[0]} and {values[1]}")
        for step, lines in ran.items():
            if step not in kept or (step not in (PACKED, MACHINE.name) and not lines[0]["why"].startswith(NO_TIME)):
                kept[step] = lines
    if not kept:
        raise GazalError("no call found a card and a pack")
    return [line for step in (PACKED, MACHINE.name, *(step.name for step in STEPS)) for line in kept.get(step, [])]


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
        if line["step"] not in (PACKED, MACHINE.name):
            outcome = line["outcome"] + (f": {line['why']}" if line["why"] else "")
            figures = "; ".join(f"{name} {shown(value)}" for name, value in line["figures"].items())
            rows.append(cells(line["step"], line["what"], outcome, f"{line['seconds']:.1f}", figures))
    return "\n".join(rows)


def page(lines: list[dict[str, Any]]) -> str:
    """The whole result: card, date, command, code, versions, seconds, table."""
    told, about = lines[0]["figures"], lines[1]["figures"]
    card = ", ".join(f"{name} {shown(about[name])}" for name in ABOUT[1:] if name in about)
    versions = ", ".join(f"{name} {value}" for name, value in about.items() if name not in ABOUT)
    counts = ", ".join(f"{sum(line['outcome'] == outcome for line in lines[2:])} {outcome}" for outcome in OUTCOMES)
    seconds = ", ".join(
        f"{step} {sum(line['seconds'] for line in lines if line['step'] == step):.0f}"
        for step in dict.fromkeys(line["step"] for line in lines)
    )
    return "\n".join(
        [
            f"# GPU check on {about['card']}, {told['date']}",
            "",
            f"`{told['command']}`, code {told['code']}" + (f"; {card}" if card else "") + ".",
            "",
            f"{versions}.",
            "",
            f"{counts} (missed: right, but short of a goal). Seconds by step: {seconds}.",
            "",
            table(lines),
            "",
        ]
    )


def steps_table() -> str:
    """The steps with their times."""
    rows = [cells("Step", "Looks at", "Seconds planned", "At most"), "|:--|:--|--:|--:|"]
    return "\n".join(
        [*rows, *(cells(f"`{step.name}`", step.about, str(step.planned), str(step.limit)) for step in STEPS)]
    )


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
    text, card, date = page(lines), lines[1]["figures"]["card"], lines[0]["figures"]["date"]
    print(text)
    if "CPU" in card:
        print("no card: nothing is written", file=sys.stderr)
        return
    out = arguments.results / f"{file_safe(card).lower()}-{date[:10]}.md"
    if out.exists() and date not in out.read_text(encoding="utf-8"):  # another check of that day
        out = out.with_stem(f"{out.stem}-{date[11:16].replace(':', '')}")
    with atomic_write(out) as handle:
        handle.write(text)
    write_docs(arguments.docs, "gpu", f"{card}, {date} ([whole page](../results/gpu/{out.name})):\n\n{table(lines)}")
    print(f"{out} and {arguments.docs}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except GazalError as error:
        sys.exit(str(error))
