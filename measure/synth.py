"""Time, memory, variety and shortcuts of the generator: ``python measure/synth.py [--million] [--processes 2]``.

Writes measure/results/synth.md. Each size is one ``gazal synth`` as a child process; memory is the
highest sum of the resident sizes of that process and all its children, looked at every 0.1 s (pages that they share
count more than once, so it errs upwards).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import psutil

from gazal import DISCLAIMER
from gazal.common.files import atomic_write, sha256
from gazal.items.shortcuts import baselines
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.forms import PLAIN, RICH
from gazal.knowledge.generate import draw

OUT = Path(__file__).parent / "results" / "synth.md"
SEED = 1
TRAIN, TEST = 6000, 3000  # items a type for the shortcuts


def memory(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            pass
    return total


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(n: int, processes: int, path: Path) -> dict[str, float]:
    """Seconds, processor seconds of all its processes, and peak MiB of one ``gazal synth``."""
    command = [
        sys.executable,
        "-m",
        "gazal",
        "synth",
        "--n",
        str(n),
        "--seed",
        str(SEED),
        "--out",
        str(path),
        "--processes",
        str(processes),
    ]
    started, before, peak = time.perf_counter(), _processor(), 0
    child = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        peak = max(peak, memory(child))
        time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"gazal synth --n {n}: exit {child.returncode}")
    return {
        "n": n,
        "processes": processes,
        "seconds": time.perf_counter() - started,
        "processor": _processor() - before,
        "mib": peak / 2**20,
    }


def variety(path: Path) -> list[str]:
    """What one file of rich items holds."""
    forms, count, lay, negative, aged, hard, keys = Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), {}
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            row = json.loads(line)
            kind = row["reasoning_type"]
            count[kind] += 1
            forms[kind, row["form"]] += 1
            lay[kind] += row.get("lay_terms", 0) > 0
            negative[kind] += row.get("negatives", 0) > 0
            aged[kind] += row.get("age_stated", False)
            hard[kind] += row["hard"]
            keys.setdefault(kind, set()).add(int(row["question_key"], 16))
    lines = [
        "| Type | Items | Different questions | Wordings (plain) | Least used wording, % | With lay terms, % | With negatives, % | Age by the score, % | Hard, % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in REASONING_TYPES:
        least = min(number for (one, _), number in forms.items() if one == kind)
        used = sum(one == kind for one, _ in forms)
        shares = [100 * value[kind] / count[kind] for value in (lay, negative, aged, hard)]
        lines.append(
            f"| {kind} | {count[kind]:,} | {len(keys[kind]):,} | {used} of {len(RICH[kind])} ({len(PLAIN[kind])}) | {100 * least / count[kind]:.1f} | "
            + " | ".join(f"{share:.0f}" for share in shares)
            + " |"
        )
    return lines


def shortcuts() -> list[str]:
    """Accuracy less chance, in points, of each shortcut; fitted on other buckets than it is tested on."""
    lines = ["| Variety | Items | Shortcut | " + " | ".join(REASONING_TYPES) + " | all |", "|---|---|---|" + "--:|" * 5]
    for kind_of in ("plain", "rich"):
        training = [item for kind in REASONING_TYPES for item in draw(kind, TRAIN, 1, range(15, 100), variety=kind_of)]
        test = [item for kind in REASONING_TYPES for item in draw(kind, TEST, 2, range(15), variety=kind_of)]
        for name, group in (("all", test), ("hard", [item for item in test if item.hard])):
            found = baselines(group, training)
            chance = found.pop("chance")
            for shortcut, value in found.items():
                cells = [value["by"][kind] - chance["by"][kind] for kind in REASONING_TYPES] + [
                    value["accuracy"] - chance["accuracy"]
                ]
                lines.append(
                    f"| {kind_of} | {name} ({len(group):,}) | {shortcut.replace('_', ' ')} | "
                    + " | ".join(f"{100 * cell:+.1f}" for cell in cells)
                    + " |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true", help="1,000,000 items too")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2, help="runs of the smallest size; the best time counts")
    args = parser.parse_args()
    sizes = [107_033, 250_000, *([1_000_000] if args.million else [])]
    with tempfile.TemporaryDirectory() as folder:
        path, hashes = Path(folder) / "items.jsonl", []
        runs = []
        for processes in (*[args.processes] * args.repeat, 1):
            runs.append(run(sizes[0], processes, path))
            hashes.append(sha256(path))
            print(runs[-1], flush=True)
        held = variety(path)
        many = [min(runs[:-1], key=lambda one: one["seconds"])]
        for n in sizes[1:]:
            many.append(run(n, args.processes, path))
            print(many[-1], flush=True)
    per, used = ([one[name] / one["n"] * 1e5 for one in many] for name in ("seconds", "processor"))
    slope = [(b["seconds"] - a["seconds"]) / (b["n"] - a["n"]) * 1e5 for a, b in pairwise(many)]
    text = [
        "# Generator",
        "",
        f"`python measure/synth.py{' --million' if args.million else ''}`; {DISCLAIMER}",
        "",
        "| Items | Processes | Seconds | Items a second | Seconds per 100,000 | Processor seconds per 100,000 | Peak memory, all processes, MiB |",
        "|--:|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {one['n']:,} | {one['processes']} | {one['seconds']:.1f} | {one['n'] / one['seconds']:,.0f} | {one['seconds'] / one['n'] * 1e5:.1f} | {one['processor'] / one['n'] * 1e5:.1f} | {one['mib']:.0f} |"
            for one in [runs[-1], *many]
        ),
        "",
        f"With {args.processes} processes each further 100,000 items cost {' s, then '.join(f'{s:.1f}' for s in slope)} s"
        + (f": {100 * (max(slope) / min(slope) - 1):.0f} % apart" if len(slope) > 1 else "")
        + f". The start (imports, HPO's files, balancing; once a process) takes about {many[0]['seconds'] - slope[0] * many[0]['n'] / 1e5:.0f} s; with it the seconds per 100,000 differ by up to "
        f"{100 * (max(per) / min(per) - 1):.0f} %, the processor seconds by {100 * (max(used) / min(used) - 1):.0f} %.",
        f"SHA-256 of {sizes[0]:,} items over {len(hashes)} runs ({args.processes} and 1 processes): {'equal' if len(set(hashes)) == 1 else 'DIFFERENT'} (`{hashes[0][:16]}…`).",
        "",
        f"## Variety of {sizes[0]:,} rich items",
        "",
        *held,
        "",
        "## Shortcuts: points above chance",
        "",
        f"Fitted on {TRAIN:,} items a type of other buckets, tested on {TEST:,} a type.",
        "",
        *shortcuts(),
        "",
    ]
    with atomic_write(OUT) as handle:
        handle.write("\n".join(text))
    print(f"{OUT.name} written")


if __name__ == "__main__":
    main()
