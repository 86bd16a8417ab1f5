"""Our evaluation beside lm-eval 0.4.13 (backend ``hf``) on the CPU: ``python benchmarks/evaluation.py --benchmarks DIR``; writes
benchmarks/results/evaluation.md and, item by item, evaluation.json.

Agreement: SmolLM2-135M-Instruct in fp32 on a seeded sample of MedMCQA and of MedQA, plain prompt, letters by log-likelihood, and on
some of the items option texts per character (lm-eval's acc_norm). lm-eval builds its prompts itself from local tasks
(lm_eval_tasks/) and loads the model itself; that the prompts are ours byte for byte is checked.

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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import datasets
import torch
import yaml
from lm_eval import __version__ as lm_eval_version
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from smollm2 import smollm2

from gazal.answers import extract
from gazal.evaluation.benchmarks import load_benchmark
from gazal.evaluation.engines import load_engine
from gazal.evaluation.loglik import read_letter
from gazal.evaluation.predictions import predict, read_predictions
from gazal.evaluation.prompting import prompting_of
from gazal.files import atomic_write, write_json
from gazal.items import Item
from gazal.recipe import Recipe, load_recipe

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "evaluation.md"
NAMES = ("medmcqa", "medqa")
LOGLIK = ("evaluation.method=loglik", "evaluation.prompt=plain", "model.system=''")
WRITTEN = ("evaluation.temperature=0", "evaluation.top_p=1", "evaluation.top_k=0", "evaluation.max_new_tokens=160", "evaluation.stop_when_answered=false")
METHODS = {"letters": ("letter", "sum"), "texts": ("text", "characters")}


class Compared(NamedTuple):
    """One item by log-likelihood: the two letters, the largest difference of a log-likelihood (nats), and how far our best
    option leads our second (after the norm)."""

    id: str
    ours: str
    theirs: str
    difference: float
    lead: float


class Run(NamedTuple):
    """One timed run: wall and CPU seconds, completions in item order."""

    wall: float
    cpu: float
    texts: list[str]


# lm-eval


def task(kind: str, items: list[Item], folder: Path, **changes: Any) -> dict[str, Any]:
    """A task of lm_eval_tasks/ on ``items``, which are written to ``folder`` as JSON lines."""
    path = folder / f"{kind}.json"
    rows = [
        {"question": item.question, "letters": list(item.options), "texts": list(item.options.values()), "key": list(item.options).index(item.answer_idx)}
        for item in items
    ]
    path.unlink(missing_ok=True)
    datasets.Dataset.from_list(rows).to_json(path, force_ascii=False)
    config = yaml.safe_load((HERE / "lm_eval_tasks" / f"{kind}.yaml").read_text(encoding="utf-8"))
    return {**config, "dataset_kwargs": {"data_files": {"test": str(path)}}, **changes}


def ask(lm: HFLM, config: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """lm-eval's samples of a task, in item order."""
    found = simple_evaluate(model=lm, tasks=[config], log_samples=True, bootstrap_iters=0, **options)
    return sorted(found["samples"][config["task"]], key=lambda sample: sample["doc_id"])


def lm(model: Path, dtype: str, batch_size: int) -> HFLM:
    return HFLM(pretrained=str(model), dtype=dtype, device="cpu", batch_size=batch_size)


# Agreement


def by_loglik(kind: str, items: list[Item], model: Path, engine: Any, theirs: HFLM, folder: Path, clock: dict[str, float]) -> list[Compared]:
    """Both on one sample; CPU seconds (model time and all around it) are added to ``clock``."""
    choice, norm = METHODS[kind]
    recipe = load_recipe("embedded", [*LOGLIK, f"evaluation.loglik_choice={choice}", f"evaluation.loglik_norm={norm}"])
    prompting, out = prompting_of(recipe), folder / f"{kind}.parquet"
    out.unlink(missing_ok=True)
    with timed(clock, f"{kind} ours"):
        frame = read_predictions(predict(engine, items, recipe.evaluation, out, prompting=prompting, seed=0, say=lambda line: None))
    with timed(clock, f"{kind} lm-eval"):
        samples = ask(theirs, task(kind, items, folder))
    compared = []
    for item, completion, letter, sample in zip(items, frame["completion"], frame["letter"], samples, strict=True):
        assert sample["arguments"][0][0] == prompting.prompt(item), f"{item.id}: the prompts differ"
        mine = [value[0] if isinstance(value, list) else value for value in yaml.safe_load(completion).values()]
        other = [float(pair[0]) for pair in sample["filtered_resps"]]
        lengths = [len(text) if norm == "characters" else 1 for text in (item.options.values())]
        normed = [value / length for value, length in zip(other, lengths, strict=True)]
        best, second = sorted((value / length for value, length in zip(mine, lengths, strict=True)), reverse=True)[:2]
        letter_there = list(item.options)[max(range(len(other)), key=normed.__getitem__)]
        assert read_letter(completion, norm) == letter
        assert bool(sample["acc" if kind == "letters" else "acc_norm"]) == (letter_there == item.answer_idx), f"{item.id}: lm-eval scores otherwise"
        compared.append(Compared(item.id, letter, letter_there, max(abs(a - b) for a, b in zip(mine, other, strict=True)), best - second))
    return compared


@contextmanager
def timed(clock: dict[str, float], name: str) -> Iterator[None]:
    began = time.process_time()
    yield
    clock[name] = clock.get(name, 0.0) + time.process_time() - began


def agreement(samples: dict[str, list[Item]], texts: int, model: Path) -> tuple[list[str], dict[str, Any]]:
    engine, theirs = load_engine(model, "float32"), lm(model, "float32", 8)
    lines = ["| Benchmark | Compared | Items | Same letter | Largest difference of a log-likelihood | Closest lead | Accuracy, both |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    record: dict[str, Any] = {}
    clock: dict[str, float] = {}
    differing = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in METHODS:
            for name, items in samples.items():
                items = items if kind == "letters" else items[:texts]
                found = by_loglik(kind, items, model, engine, theirs, Path(scratch), clock)
                same = [one for one in found if one.ours == one.theirs]
                right = [sum(letter == item.answer_idx for letter, item in zip(letters, items, strict=True)) / len(items)
                         for letters in ([one.ours for one in found], [one.theirs for one in found])]
                lines.append(
                    f"| {name} | {kind}, {METHODS[kind][1]} | {len(items)} | {len(same)} | {max(one.difference for one in found):.1e} "
                    f"| {min(one.lead for one in found):.1e} | {' / '.join(dict.fromkeys(f'{value:.3f}' for value in right))} |"
                )
                record[f"{name} {kind}"] = [one._asdict() for one in found]
                differing += [
                    f"- {name}, {kind}, {one.id}: ours {one.ours}, lm-eval {one.theirs}; our lead {one.lead:.1e}, difference {one.difference:.1e}"
                    for one in found if one.ours != one.theirs
                ]
                print(lines[-1], flush=True)
    lines += ["", "Differing items:" if differing else "No item differs.", *differing]
    chosen = [f"{which} {', '.join(f'{letter} {n}' for letter, n in sorted(Counter(row['ours'] for row in rows).items()))}" for which, rows in record.items()]
    lines += ["", f"Letters chosen, which say how much their agreement is worth: {'; '.join(chosen)}."]
    spent = [f"{kind} {clock[kind + ' ours']:.0f} / {clock[kind + ' lm-eval']:.0f}" for kind in METHODS]
    lines += ["", f"CPU seconds, ours / lm-eval (batch size 8): {'; '.join(spent)}."]
    return lines, record


# Speed


def ours(engine: Any, items: list[Item], recipe: Recipe) -> Run:
    prompts = [prompting_of(recipe).prompt(item) for item in items]
    wall, cpu = time.perf_counter(), time.process_time()
    replies = sorted(reply for batch in engine.complete(prompts, recipe.evaluation, recipe.seed, ()) for reply in batch)
    return Run(time.perf_counter() - wall, time.process_time() - cpu, [reply.text for reply in replies])


def lm_eval_run(theirs: HFLM, batch_size: int, items: list[Item], recipe: Recipe, rendered: list[str], folder: Path) -> Run:
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
    encode = lambda text: engine.tokenizer(prompt + text, add_special_tokens=False)["input_ids"] + [engine.tokenizer.eos_token_id]  # noqa: E731
    a, b = encode(mine), encode(other)
    at = next(at for at, (x, y) in enumerate(zip(a, b)) if x != y)
    with torch.no_grad():
        logits = engine.model(torch.tensor([a[:at]]), logits_to_keep=1).logits[0, -1].float()
    return abs(float(logits[a[at]] - logits[b[at]]))


def speed(items: list[Item], model: Path, dtype: str, batch_sizes: list[int], repeats: int) -> tuple[list[str], dict[str, Any]]:
    """Rows of the table, and all that was measured."""
    recipe = load_recipe("embedded", WRITTEN)
    engine = load_engine(model, dtype)
    rendered = [engine.render(prompting_of(recipe).prompt(item)) for item in items]
    sides: dict[str, Callable[[], Run]] = {"ours": lambda: ours(engine, items, recipe)}
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        theirs = lm(model, dtype, batch_sizes[0])
        for size in batch_sizes:
            sides[f"lm-eval, batch size {size}"] = lambda size=size: lm_eval_run(theirs, size, items, recipe, rendered, Path(scratch))
        ours(engine, items[:2], recipe)  # warms up
        for repeat in range(repeats):
            for name, run in sides.items():
                found = run()
                runs.setdefault(name, []).append(found)
                print(f"{dtype}, {name}: {found.wall:.1f} s, CPU {found.cpu:.1f} s", flush=True)
    mine = runs["ours"][0].texts
    read = letters(mine, items)
    tokens = [len(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in mine]
    lines, gaps, other_letter = [], {}, {}
    median = {name: (statistics.median(run.wall for run in found), statistics.median(run.cpu for run in found)) for name, found in runs.items()}
    for name, found in runs.items():
        texts, (wall, cpu) = found[0].texts, median[name]
        gaps[name] = [round(parting(engine, prompt, a, b), 4) for prompt, a, b in zip(rendered, mine, texts, strict=True) if a != b]
        other_letter[name] = [item.id for item, a, b in zip(items, read, letters(texts, items), strict=True) if a != b]
        lines.append(
            f"| {dtype} | {name} | {len(items) / wall:.2f} | {len(items) / cpu:.2f} | {wall / median['ours'][0]:.2f} | {cpu / median['ours'][1]:.2f} "
            f"| {len(items) - len(gaps[name])} | {len(items) - len(other_letter[name])} |"
        )
        print(lines[-1], flush=True)
    by_speed = sorted((name for name in median if name != "ours"), key=lambda name: median[name][0])
    record = {
        "ratio": median[by_speed[0]][0] / median["ours"][0], "cpu_ratio": min(median[name][1] for name in by_speed) / median["ours"][1], "by_speed": by_speed,
        "gaps": gaps, "other_letter": other_letter, "tokens": tokens, "items": [item.id for item in items],
        "seconds": {name: [[run.wall, run.cpu] for run in found] for name, found in runs.items()},
    }
    return lines, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder of benchmarks as JSON lines")
    parser.add_argument("--agreement", action="store_true", help="only this part; the other stays as it was written")
    parser.add_argument("--speed", action="store_true", help="likewise")
    parser.add_argument("--items", type=int, default=200, help="of each benchmark for agreement")
    parser.add_argument("--texts", type=int, default=30, help="of these, how many by option texts too")
    parser.add_argument("--speed-items", type=int, default=16, help="of each benchmark for speed")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="lm-eval's")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], help="all batch sizes in the first, the two best in the next")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    both = args.agreement == args.speed
    datasets.disable_progress_bars()
    model = smollm2()
    part = {name: load_benchmark(name, args.benchmarks, args.items, args.seed) for name in NAMES}
    where = f"lm-eval {lm_eval_version} (hf), torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    saved = OUT.with_suffix(".json")
    record: dict[str, Any] = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() and not both else {"text": {}}
    if both or args.agreement:
        table, record["agreement"] = agreement(part, args.texts, model)
        record["text"]["agreement"] = ["## Same letters by log-likelihood", "", *table, ""]
    if both or args.speed:
        items = [item for found in part.values() for item in found[: args.speed_items]]
        lines = ["## Speed of written answers", ""]
        lines += ["| Precision | | Items/s | Items per CPU second | Its wall time / ours | Its CPU time / ours | Same completion | Same letter |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
        record["speed"] = {}
        sizes, notes = args.batch_sizes, []
        for dtype in args.dtypes:
            table, found = speed(items, model, dtype, sizes, args.repeats)
            record["speed"][dtype] = found
            lines += table
            parted = [gap for gaps in found["gaps"].values() for gap in gaps]
            if parted:
                apart = f"{max(parted):.2g} nats apart (median {statistics.median(parted):.2g})"
                notes += [f"{dtype}: where completions part, the model asked alone holds the two tokens at most {apart}."]
            notes += [f"{dtype}: other letters than {name}: {', '.join(ids)}." for name, ids in found["other_letter"].items() if ids]
            sizes = [size for size in sizes if f"lm-eval, batch size {size}" in found["by_speed"][:2]]
        made = record["speed"][args.dtypes[0]]["tokens"]
        lengths = f"{statistics.mean(made):.0f} tokens in the mean, {statistics.median(made):.0f} in the median, {max(made)} at most"
        lines += ["", f"{len(items)} items, at most {load_recipe('embedded', WRITTEN).evaluation.max_new_tokens} new tokens; completions of {lengths}."]
        ratios = [f"{dtype} {found['ratio']:.2f}× by wall time, {found['cpu_ratio']:.2f}× by CPU time" for dtype, found in record["speed"].items()]
        lines += [f"Against lm-eval at its best batch size: {'; '.join(ratios)}.", "", *(f"- {note}" for note in notes), ""]
        record["text"]["speed"] = lines
    lines = ["# Evaluation beside lm-eval", "", f"`make bench-evaluation BENCHMARKS=DIR`; SmolLM2-135M-Instruct, {where}.", ""]
    text = "\n".join([*lines, *record["text"].get("agreement", []), *record["text"].get("speed", [])])
    print(text)
    with atomic_write(OUT) as handle:
        handle.write(text)
    write_json(saved, record)


if __name__ == "__main__":
    main()
