"""Our evaluation beside lm-eval 0.4.13 (backend ``hf``) on the CPU: ``python measure/evaluation.py --benchmarks DIR``; writes
measure/results/evaluation.md and, item by item, evaluation.json (which git ignores). ``--parts letters chat texts speed`` chooses;
what is not chosen stays as it was. After a cut the agreement goes on where it was; when all of it that is chosen is there, it is
measured anew.

Agreement: SmolLM2-135M-Instruct in fp32 on a seeded sample of MedMCQA and of MedQA by log-likelihood: letters after the plain
prompt, letters after the chat prompt, and option texts per character (lm-eval's acc_norm). lm-eval builds its prompts itself from
local tasks (lm_eval_tasks/) and loads the model itself; that prompts and choices are ours byte for byte is checked.

Speed: chat prompt, greedy, at most 160 new tokens, the same items, nothing but EOS ends a completion, in bf16 and in fp32. Runs of the
two alternate in one process; a run is what happens from prompts to completions (ours: ``complete`` of the engine; theirs:
``generate_until``). lm-eval is asked at each of its batch sizes, and its best counts. Its batch size "auto" tries 64 rows of the
model's whole context first, here 100 GB of logits, and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import datasets
import torch
import yaml
from agreement import KINDS, as_text, compare, compared
from lm_eval import __version__ as lm_eval_version
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from smollm2 import smollm2

from gazal.answers.extract import extract
from gazal.common.files import atomic_write, write_json
from gazal.data.benchmarks import load_benchmark
from gazal.engines.load import load_engine
from gazal.evaluation.predict import predict
from gazal.items.schema import Item
from gazal.predictions.file import read_predictions
from gazal.predictions.loglik import choices
from gazal.predictions.prompting import prompting_of
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "evaluation.md"
RECORD = OUT.with_suffix(".json")
NAMES = ("medmcqa", "medqa")
WRITTEN = (
    "evaluation.temperature=0",
    "evaluation.top_p=1",
    "evaluation.top_k=0",
    "evaluation.max_new_tokens=160",
    "evaluation.stop_when_answered=false",
)
PARTS = (*KINDS, "speed")
TASKS = TaskManager(include_defaults=False)  # its own thousands of tasks need not be looked through


class Run(NamedTuple):
    """One timed run: wall and CPU seconds, completions in item order."""

    wall: float
    cpu: float
    texts: list[str]


# lm-eval


def task(kind: str, items: list[Item], folder: Path) -> dict[str, Any]:
    """A task of lm_eval_tasks/ on ``items``, which are written to ``folder`` as JSON lines."""
    path = folder / f"{kind}.json"
    rows = [
        {
            "question": item.question,
            "letters": list(item.options),
            "texts": list(item.options.values()),
            "key": list(item.options).index(item.answer_idx),
        }
        for item in items
    ]
    path.unlink(missing_ok=True)
    datasets.Dataset.from_list(rows).to_json(path, force_ascii=False)
    config = yaml.safe_load((HERE / "lm_eval_tasks" / f"{kind}.yaml").read_text(encoding="utf-8"))
    return {**config, "dataset_kwargs": {"data_files": {"test": str(path)}}}


def ask(lm: HFLM, config: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """lm-eval's samples of a task, in item order."""
    found = simple_evaluate(
        model=lm, tasks=[config], task_manager=TASKS, log_samples=True, bootstrap_iters=0, **options
    )
    return sorted(found["samples"][config["task"]], key=lambda sample: sample["doc_id"])


def lm(model: Path, dtype: str, batch_size: int) -> HFLM:
    return HFLM(pretrained=str(model), dtype=dtype, device="cpu", batch_size=batch_size)


# Agreement


def agreement(
    kind: str, samples: dict[str, list[Item]], asked: dict[str, Any], model: Path, before: dict[str, Any]
) -> None:
    """Each benchmark's items by both, written to the results as it goes; what ``before`` holds of the same is not asked again."""
    engine, theirs, form = load_engine(model, "float32"), lm(model, "float32", 8), KINDS[kind]
    recipe = load_recipe("embedded", form.settings)
    prompting = prompting_of(recipe)
    options = {"system_instruction": recipe.model.system, "apply_chat_template": True} if form.chat else {}

    def ours(items: list[Item]) -> list[list[float]]:
        out = Path(scratch, "ours.parquet")
        out.unlink(missing_ok=True)
        frame = read_predictions(
            predict(engine, items, recipe.evaluation, out, prompting=prompting, seed=0, say=lambda line: None)
        )
        found = [
            [value[0] if isinstance(value, list) else value for value in json.loads(text).values()]
            for text in frame["completion"]
        ]
        assert [
            compare(item, values, values, form.norm).ours for item, values in zip(items, found, strict=True)
        ] == list(frame["letter"])
        return found

    def other(items: list[Item]) -> list[list[float]]:
        rows = []
        for item, sample in zip(items, ask(theirs, task(kind, items, Path(scratch)), **options), strict=True):
            prompt, space = engine.render(prompting.prompt(item)), "" if form.chat else " "
            wanted = [(prompt, space + text) for text in choices(item, recipe.evaluation.loglik_choice).values()]
            assert [tuple(pair) for pair in sample["arguments"]] == wanted, (
                f"{item.id}: the prompts or the choices differ"
            )
            values = [float(pair[0]) for pair in sample["filtered_resps"]]
            right = compare(item, values, values, form.norm).theirs == item.answer_idx
            assert bool(sample["acc" if form.norm == "sum" else "acc_norm"]) == right, (
                f"{item.id}: lm-eval scores otherwise"
            )
            rows.append(values)
        return rows

    def keep(found: dict[str, Any]) -> None:
        save(agreement={which: found})
        print(
            f"{which}: {len(found['rows'])} of {len(items)} items, {sum(row['ours'] == row['theirs'] for row in found['rows'])} the same letter",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as scratch:
        for name, items in samples.items():
            which = f"{name} {kind}"
            compared(items, form.norm, ours, other, asked, before.get(which, {}), keep)


# Speed


def ours(engine: Any, items: list[Item], recipe: Recipe) -> Run:
    prompts = [prompting_of(recipe).prompt(item) for item in items]
    wall, cpu = time.perf_counter(), time.process_time()
    replies = sorted(reply for batch in engine.complete(prompts, recipe.evaluation, recipe.seed, ()) for reply in batch)
    return Run(time.perf_counter() - wall, time.process_time() - cpu, [reply.text for reply in replies])


def lm_eval_run(
    theirs: HFLM, batch_size: int, items: list[Item], recipe: Recipe, rendered: list[str], folder: Path
) -> Run:
    config = task("written", items, folder)
    config["generation_kwargs"] = {**config["generation_kwargs"], "max_gen_toks": recipe.evaluation.max_new_tokens}
    spent: list[float] = []
    generate = type(theirs).generate_until

    def clocked(requests: Any, disable_tqdm: bool = False) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        made = generate(theirs, requests, disable_tqdm=True)
        spent[:] = [time.perf_counter() - wall, time.process_time() - cpu]
        return made

    theirs.generate_until, theirs.batch_size_per_gpu = clocked, batch_size
    samples = ask(theirs, config, system_instruction=recipe.model.system, apply_chat_template=True)
    for item, text, sample in zip(items, rendered, samples, strict=True):
        assert sample["arguments"][0][0] == text, f"{item.id}: the prompts differ"
    return Run(*spent, [sample["resps"][0][0] for sample in samples])


def letters(texts: list[str], items: list[Item]) -> list[str | None]:
    return [extract(text, item.options).letter for text, item in zip(texts, items, strict=True)]


def parting(engine: Any, prompt: str, mine: str, other: str) -> float:
    """How far apart (nats) the model, asked alone, holds the two tokens at which two completions part."""
    encode = lambda text: (
        engine.tokenizer(prompt + text, add_special_tokens=False)["input_ids"] + [engine.tokenizer.eos_token_id]
    )
    a, b = encode(mine), encode(other)
    at = next(at for at, (x, y) in enumerate(zip(a, b)) if x != y)
    with torch.no_grad():
        logits = engine.model(torch.tensor([a[:at]]), logits_to_keep=1).logits[0, -1].float()
    return abs(float(logits[a[at]] - logits[b[at]]))


def speed(
    items: list[Item], model: Path, dtype: str, batch_sizes: list[int], repeats: int
) -> tuple[list[str], dict[str, Any]]:
    """Rows of the table, and all that was measured."""
    recipe = load_recipe("embedded", WRITTEN)
    engine = load_engine(model, dtype)
    rendered = [engine.render(prompting_of(recipe).prompt(item)) for item in items]
    sides: dict[str, Callable[[], Run]] = {"ours": lambda: ours(engine, items, recipe)}
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        theirs = lm(model, dtype, batch_sizes[0])
        for size in batch_sizes:
            sides[f"lm-eval, batch size {size}"] = lambda size=size: lm_eval_run(
                theirs, size, items, recipe, rendered, Path(scratch)
            )
        ours(engine, items[:2], recipe)  # warms up
        for _ in range(repeats):
            for name, run in sides.items():
                found = run()
                runs.setdefault(name, []).append(found)
                print(f"{dtype}, {name}: {found.wall:.1f} s, CPU {found.cpu:.1f} s", flush=True)
    mine = runs["ours"][0].texts
    read = letters(mine, items)
    tokens = [len(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in mine]
    lines, gaps, other_letter = [], {}, {}
    median = {
        name: (statistics.median(run.wall for run in found), statistics.median(run.cpu for run in found))
        for name, found in runs.items()
    }
    for name, found in runs.items():
        texts, (wall, cpu) = found[0].texts, median[name]
        gaps[name] = [
            round(parting(engine, prompt, a, b), 4)
            for prompt, a, b in zip(rendered, mine, texts, strict=True)
            if a != b
        ]
        other_letter[name] = [item.id for item, a, b in zip(items, read, letters(texts, items), strict=True) if a != b]
        lines.append(
            f"| {dtype} | {name} | {len(items) / wall:.2f} | {len(items) / cpu:.2f} | {wall / median['ours'][0]:.2f} | {cpu / median['ours'][1]:.2f} "
            f"| {len(items) - len(gaps[name])} | {len(items) - len(other_letter[name])} |"
        )
        print(lines[-1], flush=True)
    by_speed = sorted((name for name in median if name != "ours"), key=lambda name: median[name][0])
    record = {
        "ratio": median[by_speed[0]][0] / median["ours"][0],
        "cpu_ratio": min(median[name][1] for name in by_speed) / median["ours"][1],
        "by_speed": by_speed,
        "gaps": gaps,
        "other_letter": other_letter,
        "tokens": tokens,
        "items": [item.id for item in items],
        "seconds": {name: [[run.wall, run.cpu] for run in found] for name, found in runs.items()},
    }
    return lines, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder of benchmarks as JSON lines")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="the others stay as they were written"
    )
    parser.add_argument("--items", type=int, default=200, help="of each benchmark for agreement")
    parser.add_argument("--speed-items", type=int, default=16, help="of each benchmark for speed")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="lm-eval's")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["bfloat16", "float32"],
        help="all batch sizes in the first, the two best in the next",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if set(args.parts) != set(PARTS) and OUT.exists() and not RECORD.exists():
        parser.error(
            f"--parts: {RECORD.name} is not beside {OUT.name}, which would lose its other parts; leave --parts out"
        )
    datasets.disable_progress_bars()
    model = smollm2()
    samples = {name: load_benchmark(name, args.benchmarks, args.items, args.seed) for name in NAMES}
    where = f"lm-eval {lm_eval_version} (hf), torch {torch.__version__}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}, {platform.machine()}"
    kinds, asked = (
        [part for part in args.parts if part in KINDS],
        {"items": args.items, "seed": args.seed, "where": f"{where}; lm-eval's batch size 8"},
    )
    before = {which: found for which, found in saved()["agreement"].items() if found["asked"] == asked}
    if all(len(before.get(f"{name} {kind}", {"rows": ()})["rows"]) == args.items for name in NAMES for kind in kinds):
        before = {}  # nothing was cut: measured anew
    for kind in kinds:
        agreement(kind, samples, asked, model, before)
    if "speed" in args.parts:
        items = [item for found in samples.values() for item in found[: args.speed_items]]
        lines = [
            "| Precision | | Items/s | Items per CPU second | Its wall time / ours | Its CPU time / ours | Same completion | Same letter |"
        ]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
        measured: dict[str, Any] = {}
        sizes, notes = args.batch_sizes, []
        for dtype in args.dtypes:
            table, found = speed(items, model, dtype, sizes, args.repeats)
            measured[dtype] = found
            lines += table
            parted = [gap for gaps in found["gaps"].values() for gap in gaps]
            if parted:
                apart = f"{max(parted):.2g} nats apart (median {statistics.median(parted):.2g})"
                notes += [
                    f"{dtype}: where completions part, the model asked alone holds the two tokens at most {apart}."
                ]
            notes += [
                f"{dtype}: other letters than {name}: {', '.join(ids)}."
                for name, ids in found["other_letter"].items()
                if ids
            ]
            sizes = [size for size in sizes if f"lm-eval, batch size {size}" in found["by_speed"][:2]]
        made = measured[args.dtypes[0]]["tokens"]
        lengths = f"{statistics.mean(made):.0f} tokens in the mean, {statistics.median(made):.0f} in the median, {max(made)} at most"
        lines += [
            "",
            f"{len(items)} items, at most {load_recipe('embedded', WRITTEN).evaluation.max_new_tokens} new tokens; completions of {lengths}.",
        ]
        ratios = [
            f"{dtype} {found['ratio']:.2f}× by wall time, {found['cpu_ratio']:.2f}× by CPU time"
            for dtype, found in measured.items()
        ]
        lines += [
            f"Against lm-eval at its best batch size: {'; '.join(ratios)}.",
            "",
            *(f"- {note}" for note in notes),
            "",
        ]
        save(speed=measured, speed_text=[f"{where}.", "", *lines])
    print(OUT.read_text(encoding="utf-8"))


def saved() -> dict[str, Any]:
    """What was measured before."""
    return {"agreement": {}, "speed_text": []} | (
        json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    )


def save(agreement: dict[str, Any] | None = None, **speed: Any) -> None:
    """Both results files, with one part changed."""
    record = saved()
    record |= {**speed, "agreement": record["agreement"] | (agreement or {})}
    write_json(RECORD, record)
    lines = ["# Evaluation beside lm-eval", "", "`make bench-evaluation BENCHMARKS=DIR`; SmolLM2-135M-Instruct.", ""]
    if record["agreement"]:
        lines += ["## Same letters by log-likelihood", "", *as_text(record["agreement"])]
    if record["speed_text"]:
        lines += ["## Speed of written answers", "", *record["speed_text"]]
    with atomic_write(OUT) as handle:
        handle.write("\n".join(lines))


if __name__ == "__main__":
    main()
