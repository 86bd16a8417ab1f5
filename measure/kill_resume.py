"""Kill-and-resume of a real run: ``gazal reproduce``, SIGKILLed at seeded random moments, against a run that nobody interrupted.

``python measure/kill_resume.py --reference runs/embedded --run runs/killed [--recipe embedded] [--set KEY=VALUE …] [--kills 3] [--seed 0]``
The reference was made by ``gazal reproduce`` with the same recipe. Its time is cut into as many parts as there are kills, and
one moment is drawn in each. A kill takes the command and its notebook kernel; with ``--only-parent`` the command alone, and
the next call begins at once, while the orphaned kernel may still be at work. Prints Markdown; exit code 1 where a file differs.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from gazal.common.errors import GazalError
from gazal.common.files import sha256
from gazal.runs import STAGES
from gazal.trainer.metrics import TIMES

GROUPS = {
    "adapters": "*/adapter/*",
    "merged models": "*/merged/*",
    "metrics (times left out)": "*/metrics.jsonl",
    "completions": "grpo/*.parquet",
    "predictions": "eval/*/*.parquet",
    "scores": "eval/scores.json",
    "protocols": "eval/protocols.json",
    "figures": "figures/*.p*",
    "tables": "tables/*",
    "paper": "paper.pdf",
}
GOES_ON = re.compile(r"goes on .*|.*is torn.*|.*waiting up to.*|== \S+: done before")


def moments(seconds: float, kills: int, seed: int) -> list[float]:
    """One seeded random moment in each of ``kills`` equal parts of ``seconds``."""
    drawn = random.Random(seed)
    return [(part + drawn.random()) * seconds / kills for part in range(kills)]


def where(run: Path) -> str:
    """The stage that is not finished, and how far it is."""
    for stage in STAGES:
        folder = run / stage
        if not (folder / "manifest.json").exists():
            lines = (
                (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
                if (folder / "metrics.jsonl").exists()
                else []
            )
            checkpoints = sorted(int(p.name.rpartition("-")[2]) for p in folder.glob(".checkpoints/checkpoint-*"))
            parts = [f"step {len(lines)}, checkpoints {', '.join(map(str, checkpoints)) or 'none'}"] if lines else []
            parts += [
                f"{p.parent.name}/{p.stem.removesuffix('.partial')}: {len(p.read_bytes().splitlines()) - 1} replies"
                for p in folder.rglob("*.partial.jsonl")
            ]
            return f"{stage} ({'; '.join(parts) or 'begun' if folder.exists() else 'not begun'})"
    return "all stages finished"


def call(command: list[str], log: Path, after: float | None, only_parent: bool) -> tuple[int, str]:
    """Run ``command``, killing it ``after`` seconds (None: never); its exit code and output."""
    with open(log, "w+", encoding="utf-8") as handle:
        process = psutil.Popen(command, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(after)
        except psutil.TimeoutExpired:
            family = [process] if only_parent else [process, *process.children(recursive=True)]
            for member in family:
                try:
                    member.kill()
                except psutil.NoSuchProcess:
                    pass
            psutil.wait_procs(family)
        return process.wait(), log.read_text(encoding="utf-8", errors="replace")


def content(path: Path) -> object:
    """A file's hash; of metrics the rows, without the times in them; None where there is no such file."""
    if path.name == "metrics.jsonl" and path.is_file():
        return [
            {k: v for k, v in json.loads(line).items() if k not in TIMES}
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
    return sha256(path) if path.is_file() else None


def compare(reference: Path, run: Path) -> dict[str, tuple[int, list[str]]]:
    """Per group the number of files, and the names of those that differ or are in one run only."""
    found = {}
    for group, pattern in GROUPS.items():
        names = {
            str(path.relative_to(root)) for root in (reference, run) for path in root.glob(pattern) if path.is_file()
        }
        differ = [name for name in sorted(names) if content(reference / name) != content(run / name)]
        found[group] = len(names), differ
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", default="embedded")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--benchmarks", default="")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-parent", action="store_true")
    options = parser.parse_args()
    if options.run.exists():
        raise GazalError(f"{options.run}: exists; give a new folder")
    total = sum(json.loads((options.reference / "notebooks" / "times.json").read_text(encoding="utf-8")).values())
    command = [sys.executable, "-m", "gazal", "reproduce", "--recipe", options.recipe, "--run", str(options.run)]
    command += [word for override in options.overrides for word in ("--set", override)] + (
        ["--benchmarks", options.benchmarks] if options.benchmarks else []
    )
    log, before, rows = options.run.with_suffix(".log"), 0.0, []
    log.parent.mkdir(parents=True, exist_ok=True)
    for moment in [*moments(total, options.kills, options.seed), None]:
        began = time.monotonic()
        code, output = call(command, log, None if moment is None else moment - before, options.only_parent)
        went_on = (
            "; ".join(dict.fromkeys(match[0] for match in map(GOES_ON.search, output.splitlines()) if match))
            or "the beginning"
        )
        killed = where(options.run) if code == -signal.SIGKILL else f"exit code {code}"
        rows.append(f"| {len(rows) + 1} | {went_on} | {time.monotonic() - began:.0f} s | {killed} |")
        print(rows[-1], file=sys.stderr, flush=True)
        if code != -signal.SIGKILL:
            break
        before = moment
    if code:
        print(output[-3000:], file=sys.stderr)
        return 1
    compared = compare(options.reference, options.run)
    target = "the command alone, its kernel left to itself" if options.only_parent else "the command with its kernel"
    print(
        f"{len(rows) - 1} kills (SIGKILL, {target}; seed {options.seed}), recipe `{options.recipe}`; the uninterrupted run took {total:.0f} s.\n"
    )
    print("| call | went on from | ran | killed in |\n|---|---|---|---|", *rows, sep="\n")
    print("\n| against the uninterrupted run | files | equal bytes |\n|---|---|---|")
    for group, (count, differ) in compared.items():
        print(
            f"| {group} | {count} | {'all' if count and not differ else 'differ: ' + ', '.join(differ) if differ else 'there are none'} |"
        )
    return int(any(differ or not count for count, differ in compared.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GazalError as error:
        sys.exit(f"kill_resume: {error}")
