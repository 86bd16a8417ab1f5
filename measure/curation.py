"""Duplicates and contamination: recall and false positives on plants, time and memory at 140,000 documents, against shared 8-grams.

    python measure/curation.py [--benchmarks ../shared/benchmarks] [--large]

Writes measure/results/curation.md and curation.json. Documents are sentences of real questions, abstracts and explanations put
together anew (seeded), so that lengths and vocabulary are real. Each measurement runs in a process of its own; CPU seconds are all processes' together; memory is the peak
of the sum of resident sets over its process tree, children included, sampled every 50 ms (shared pages count in each).
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from plants import ALL_KINDS, HARD, KNOWN, OTHERS, TESTS, Plant, make_plants, rows

from gazal.common.files import atomic_write, write_json
from gazal.curation.command import curate
from gazal.curation.duplicates import find_duplicates, find_within
from gazal.curation.minhash import Ragged, band_keys
from gazal.recipe.data import CurationSection

RESULTS = Path(__file__).parent / "results"
METHODS = {"ours": "Gazal", "8-gram": "8-gram, question", "8-gram-whole": "8-gram, whole text"}
LABELS = {**METHODS, "command": "gazal curate, all of it"}
GRAM = 8
COPIES = 0.01  # of the documents, exact copies of an earlier one


# ---- the 8-gram method, written from open-r1's description of its decontamination --------------------------------------------


def grams(text: str) -> Iterator[str]:
    """Word 8-grams of a text in lower case, punctuation off, white space collapsed."""
    words = re.sub(r"[^\w\s]", "", text.lower()).split()
    return (" ".join(words[k : k + GRAM]) for k in range(len(words) - GRAM + 1))


def shared_grams(train: list[Path], folder: Path, whole: bool) -> list[tuple[int, int]]:
    """(file, row) of training rows that share any 8-gram with any test question; ``whole`` looks at reasoning and response too."""
    known = {gram for stem in TESTS.values() for row in rows(folder, stem) for gram in grams(row["question"])}
    found = []
    for file, path in enumerate(train):
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle):
                row = json.loads(line)
                text = (
                    " ".join(row.get(field) or "" for field in ("question", "reasoning", "response"))
                    if whole
                    else row["question"]
                )
                if any(gram in known for gram in grams(text)):
                    found.append((file, number))
    return found


# ---- documents --------------------------------------------------------------------------------------------------------------


def sentences(texts: list[str]) -> list[str]:
    return [part for text in texts for part in re.split(r"(?<=[.?!])\s+", text.strip()) if 4 <= len(part.split()) <= 60]


class Documents:
    """Seeded documents of 300 to 500 words from sentences that stand in no test question."""

    def __init__(self, folder: Path) -> None:
        others = [row for stem in OTHERS for row in rows(folder, stem)]
        told = [row["explanation"] for row in rows(folder, TESTS["medmcqa"]) if row.get("explanation")]
        self.stems = sentences([row["question"] for row in others])
        self.told = sentences(
            told
            + [part for row in others for part in row.get("context") or []]
            + [row.get("complex_cot") or "" for row in others]
        )
        self.lengths = np.array([len(text.split()) for text in self.told])
        self.options = sorted({text for row in others for text in (row["options"] or {}).values() if text.strip()})

    def write(self, path: Path, count: int, seed: int) -> dict[str, float]:
        """Write ``count`` documents: half multiple choice, half free text; returns their number, words and exact copies."""
        rng = np.random.default_rng([seed, 3])
        words = copies = 0
        recent: list[dict[str, Any]] = []
        with path.open("w", encoding="utf-8") as handle:
            for number in range(count):
                if recent and rng.random() < COPIES:
                    row = recent[int(rng.integers(len(recent)))] | {"id": f"doc-{number}"}
                    copies += 1
                else:
                    row = self._row(number, rng)
                    recent = [*recent[-200:], row] if number % 50 == 0 else recent
                words += sum(len(row.get(field, "").split()) for field in ("question", "reasoning", "response"))
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        return {
            "documents": count,
            "words": round(words / count),
            "copies": copies,
            "mebibytes": round(path.stat().st_size / 2**20),
        }

    def _row(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        def some(pool: list[str], n: int) -> str:
            return " ".join(pool[k] for k in rng.integers(0, len(pool), n))

        stem = re.sub(
            r"\d+",
            lambda found: str(int(rng.integers(1, 10 ** len(found[0])))),
            some(self.stems, int(rng.integers(2, 7))),
        )
        chosen = rng.integers(0, len(self.told), 100)  # as many of them as make up the length
        chosen = chosen[
            : np.searchsorted(np.cumsum(self.lengths[chosen]), int(rng.integers(300, 500)) - len(stem.split())) + 1
        ]
        reasoning = " ".join(self.told[k] for k in chosen)
        row = {"id": f"doc-{number}", "question": stem, "reasoning": reasoning}
        if rng.random() < 0.5:
            letters = zip("ABCD", rng.integers(0, len(self.options), 4), strict=True)
            return row | {"options": {letter: self.options[k] for letter, k in letters}, "answer_idx": "A"}
        return row | {"response": some(self.told, 2)}


# ---- measurements, each in a process of its own ------------------------------------------------------------------------------


def task(name: str, folder: Path, train: list[Path]) -> dict[str, Any]:
    """Run one method on training files; what it found, and its own lines."""
    told: list[str] = []
    tests = {key: folder / f"{stem}.jsonl.gz" for key, stem in TESTS.items()}
    if name == "command":  # quality filters and reports included, as `gazal curate` without a tokenizer
        curated = curate(train, tests, CurationSection(), say=told.append)
        reasons = [(removal.file, removal.row, removal.reasons()[0]) for removal in curated.removals]
        told.append(
            "removed by quality filters: "
            + (", ".join(f"{n:,} {reason}" for reason, n in curated.report["quality"].items() if n) or "none")
        )
        return {
            "found": [r[:2] for r in reasons if r[2].startswith("contamination")],
            "inside": sum(r[2].startswith("duplicate") for r in reasons),
            "told": told,
        }
    if name == "ours":
        matches = find_duplicates(train, tests, CurationSection(), say=told.append)
        return {
            "found": [m[:2] for m in matches if m.against != "train"],
            "inside": sum(m.against == "train" for m in matches),
            "told": told,
        }
    return {"found": shared_grams(train, folder, name == "8-gram-whole"), "told": told}


def measured(name: str, folder: Path, train: list[Path], out: Path) -> dict[str, Any]:
    """``task`` in a new process: its answer, ``seconds`` and ``peak_mib`` of the process tree."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, __file__, "--benchmarks", str(folder), "--task", name, "--out", str(out), *map(str, train)]
    )
    tree, peak, before = psutil.Process(process.pid), 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    while process.poll() is None:
        try:
            peak = max(peak, sum(part.memory_info().rss for part in [tree, *tree.children(recursive=True)]))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{name}: failed")
    return json.loads(out.read_text(encoding="utf-8")) | {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(after[:2]) - sum(before[:2]), 1),
        "peak_mib": round(peak / 2**20),
    }


def on_plants(folder: Path, work: Path, seed: int) -> dict[str, Any]:
    """Recall by kind and false positives of every method on the plants among real questions."""
    others = [row for stem in OTHERS for row in rows(folder, stem)]
    rng = np.random.default_rng([seed, 9])
    told = sentences([part for row in rows(folder, "pubmedqa_train500") for part in row["context"]])
    filler = lambda: " ".join(told[k] for k in rng.integers(0, len(told), 6))
    plants = [*make_plants(folder, seed, filler), *make_plants(folder, seed, filler, HARD)]
    planted, real = work / "plants.jsonl", work / "real.jsonl"
    planted.write_text("".join(json.dumps(plant.row) + "\n" for plant in plants), encoding="utf-8")
    real.write_text("".join(json.dumps(row) + "\n" for row in others), encoding="utf-8")
    answer: dict[str, Any] = {"plants": len(plants), "real": len(others) - len(KNOWN), "methods": {}}
    for name in METHODS:
        run = measured(name, folder, [planted, real], work / "out.json")
        found = {tuple(pair) for pair in run["found"]}
        answer["methods"][name] = counted(plants, [row["id"] for row in others], found)
    return answer


def counted(plants: list[Plant], ids: list[str], found: set[tuple[int, ...]]) -> dict[str, Any]:
    hits = Counter(plant.kind for number, plant in enumerate(plants) if (0, number) in found)
    planted = Counter(plant.kind for plant in plants)
    kinds = {kind: [hits[kind], planted[kind]] for kind in ALL_KINDS if planted[kind]}
    right = [counts for kind, counts in kinds.items() if ALL_KINDS[kind][2]]
    return {
        "kinds": kinds,
        "recall": [sum(c[0] for c in right), sum(c[1] for c in right)],
        "real_flagged": [ids[number] for file, number in sorted(found) if file == 1 and ids[number] not in KNOWN],
        "known_found": sum(ids[number] in KNOWN for file, number in found if file == 1),
    }


def signature_speed() -> dict[str, float]:
    """Seconds to sign 20,000 sets of 20 to 70 words with 120 permutations: ours, and datasketch and rensa where installed."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 70, 20_000)
    values = rng.integers(0, 1 << 32, sizes.sum(), dtype=np.uint64)
    sets = Ragged(values.astype(np.uint32), sizes)
    answer = {}
    began = time.perf_counter()
    for _ in band_keys(sets, np.arange(len(sizes)), 24, 5, 0):
        pass
    answer["numpy, bands"] = time.perf_counter() - began
    try:
        import datasketch  # not a dependency: for the comparison only

        began = time.perf_counter()
        for k in range(2000):
            signature = datasketch.MinHash(num_perm=120, hashfunc=int)
            signature.update_batch(values[sets.starts[k] : sets.starts[k + 1]].tolist())
        answer["datasketch"] = 10 * (time.perf_counter() - began)
    except ImportError:
        pass
    try:
        import rensa

        began = time.perf_counter()
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(values, sets.starts.astype(np.uint64), 120, 0)
        np.array(matrix.to_rows(), np.uint32)
        answer["rensa, rows as an array"] = time.perf_counter() - began
    except ImportError:
        pass
    return {name: round(seconds, 2) for name, seconds in answer.items()}


# ---- the page ---------------------------------------------------------------------------------------------------------------


def page(result: dict[str, Any]) -> str:
    plants, methods = result["plants"], result["plants"]["methods"]
    lines = [
        "# Duplicates and contamination",
        "",
        "Made by `python measure/curation.py" + (" --large" if result.get("large") else "") + "`; do not edit.",
        "",
    ]
    lines += [
        f"## {plants['plants']} plants, found of planted",
        "",
        "| Plant | " + " | ".join(METHODS[name] for name in methods) + " |",
        "|---|" + "---|" * len(methods),
    ]
    lines += [
        f"| {kind}{'' if ALL_KINDS[kind][2] else ' (must stay)'} | "
        + " | ".join(f"{run['kinds'][kind][0]} / {run['kinds'][kind][1]}" for run in methods.values())
        + " |"
        for kind in plants["methods"]["ours"]["kinds"]
    ]
    lines += [
        "| **recall** | "
        + " | ".join(f"{100 * run['recall'][0] / run['recall'][1]:.1f} %" for run in methods.values())
        + " |"
    ]
    lines += [
        "| **real other questions flagged** | "
        + " | ".join(
            f"{len(run['real_flagged'])} / {plants['real']} ({100 * len(run['real_flagged']) / plants['real']:.1f} %)"
            for run in methods.values()
        )
        + " |"
    ]
    lines += [
        "| real questions known to be test items | "
        + " | ".join(f"{run['known_found']} / {len(KNOWN)}" for run in methods.values())
        + " |",
        "",
        f"Plants are made from the five test sets ({', '.join(TESTS)}); the other questions are {', '.join(OTHERS)}, less {len(KNOWN)} that do ask what a test item asks:",
        "",
        *(f"- {row}: {why}" for row, why in KNOWN.items()),
        "",
        "## Time and memory",
        "",
        "| Method | Documents | Words each | Seconds | CPU seconds | Peak memory (MiB) | Flagged against tests | Duplicates inside |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        lines.append(
            f"| {LABELS[run['method']]} | {run['documents']:,} | {run['words']} | {run['seconds']} | {run['cpu_seconds']} | {run['peak_mib']} | {run['flagged']} | {run['inside']} |"
        )
    lines += [
        "",
        *(
            f"- {LABELS[run['method']]}, {run['documents']:,}: {line}"
            for run in result["runs"]
            for line in run["told"]
            if "candidate" in line or ("quality" in line and "by" in line)
        ),
        "",
    ]
    lines += [
        "Documents hold 1 % exact copies of earlier ones; copies made: "
        + ", ".join(f"{size['copies']:,} of {size['documents']:,}" for size in result["sizes"])
        + ".",
        "",
    ]
    lines += [
        "## Inside MMLU-Pro, health and biology",
        "",
        f"{result['within']['exact']} exact pairs, {result['within']['near']} near pairs.",
        "",
    ]
    lines += [
        "## Signatures",
        "",
        "20,000 sets of 20 to 70 words, 120 permutations, one core, seconds: "
        + "; ".join(f"{name} {seconds}" for name, seconds in result["signatures"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--benchmarks", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "benchmarks"
    )
    parser.add_argument("--documents", type=int, default=140_000)
    parser.add_argument("--large", action="store_true", help="ten times the documents as well")
    parser.add_argument("--work", type=Path, help="folder for the documents (default: a temporary one)")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("train", nargs="*", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        args.out.write_text(json.dumps(task(args.task, args.benchmarks, args.train)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        work = Path(name)
        result: dict[str, Any] = {
            "plants": on_plants(args.benchmarks, work, 0),
            "runs": [],
            "sizes": [],
            "signatures": signature_speed(),
        }
        within = Counter(
            kind
            for *_, kind, _ in find_within(
                [args.benchmarks / f"{TESTS[key]}.jsonl.gz" for key in ("mmlu_pro_health", "mmlu_pro_biology")],
                CurationSection(),
            )
        )
        result["within"] = {"exact": within["exact"], "near": within["near"]}
        documents = Documents(args.benchmarks)
        for count in (args.documents, *([10 * args.documents] if args.large else [])):
            path = work / "documents.jsonl"
            size = documents.write(path, count, 0)
            print(f"{count:,} documents, {size['words']} words each, {size['mebibytes']} MiB", flush=True)
            result["sizes"].append(size)
            for method in LABELS if count == args.documents else ("ours",):
                run = measured(method, args.benchmarks, [path], work / "out.json")
                figures = {key: run[key] for key in ("seconds", "cpu_seconds", "peak_mib", "told")}
                result["runs"].append(
                    {
                        "method": method,
                        **size,
                        **figures,
                        "flagged": len({tuple(pair) for pair in run["found"]}),
                        "inside": run.get("inside", "—"),
                    }
                )
                print(json.dumps(result["runs"][-1]), flush=True)
            result["large"] = count > args.documents
            write_json(RESULTS / "curation.json", result)  # after each size: the large one takes long
            with atomic_write(RESULTS / "curation.md") as handle:
                handle.write(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
