"""Predictions as the files of other harnesses: lm-eval's here, lighteval's beside.

``lm-eval`` (0.4.13, ``--output_path DIR --log_samples``; ``lm_eval/result_schema.py`` in its wheel):
``<model>/results_<date>.json`` and ``<model>/samples_<task>_<date>.jsonl``, a line for each item. ``acc,none`` is the
mean over items of the mean over an item's completions. ``acc_stderr,none`` is its standard error over items, "N/A"
for one item. By log-likelihood divided by characters the metric is ``acc_norm``. A letter that was not read is
``[invalid]``.

``lighteval``: see :mod:`gazal.scoring.export_lighteval`.

Files are named by the time at which the predictions were written (UTC). What predictions do not hold is left out.
So prompts are messages (not by the model's template) without solved items, there are no token ids, and whether an
option was greedy is "None".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, write_json
from gazal.items.schema import Item
from gazal.predictions.folder import read_answers
from gazal.scoring.export_lighteval import write_lighteval
from gazal.scoring.export_task import Task, as_text


def export(eval_dir: str | Path, out: str | Path, kind: str) -> list[Path]:
    """Write what ``kind`` (``lm-eval`` or ``lighteval``) would have written; return the files.

    Raises GazalError for another kind, and as :func:`gazal.predictions.folder.read_answers` does. It also does so if no
    benchmark's items lie beside its predictions, as these formats hold nothing without them.
    """
    if kind not in KINDS:
        raise GazalError(f"--format {kind}: expected {' or '.join(KINDS)}")
    root, answers, items = read_answers(eval_dir)
    tasks: dict[str, list[Task]] = {}
    for (model, name), frame in answers.items():
        if items[name]:
            means = frame.groupby("item_id", sort=False)["correct"].mean().to_numpy(float)
            tasks.setdefault(model, []).append(Task(name, items[name], frame, means))
    if not tasks:
        raise GazalError(f"{root}: no items/<benchmark>.jsonl beside the predictions: nothing to export")
    written: list[Path] = []
    for model, found in tasks.items():
        latest = max(task.frame.attrs["path"].stat().st_mtime for task in found)
        date = datetime.fromtimestamp(latest, UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
        written += KINDS[kind](Path(out), model, found, date)
    return written


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _lm_eval(out: Path, model: str, tasks: list[Task], date: str) -> list[Path]:
    results: dict[str, Any] = {}
    files: list[Path] = []
    for task in tasks:
        by_characters = task.likeliest and task.sampling.get("loglik_norm") == "characters"
        metric, hashes = "acc_norm" if by_characters else "acc", hashlib.sha256()
        files.append(out / model / f"samples_{task.name}_{date}.jsonl")
        with atomic_write(files[-1]) as handle:
            for place, (item, prompt, rows, right) in enumerate(task.rows()):
                sample = _lm_eval_sample(task, place, item, as_text(prompt), rows)
                sample |= {"metrics": [metric], metric: right}
                hashes.update("".join(sample[key] for key in ("doc_hash", "prompt_hash", "target_hash")).encode())
                handle.write(json.dumps(sample, ensure_ascii=False) + "\n")
        n = len(task.items)
        result = {"alias": task.name, "name": task.name, "sample_len": n}
        result |= {f"{metric},none": float(task.means.mean()), f"{metric}_stderr,none": task.stderr}
        for section, value in {
            "results": result,
            "group_subtasks": [],
            "configs": {
                "task": task.name,
                "output_type": "multiple_choice" if task.likeliest else "generate_until",
                "num_fewshot": task.shots,
                "repeats": len(task.frame) // n,
                "generation_kwargs": task.sampling,
            },
            "versions": None,
            "n-shot": task.shots,
            "higher_is_better": {metric: True},
            "n-samples": {"original": n, "effective": n},
            "task_hashes": hashes.hexdigest(),
        }.items():
            results.setdefault(section, {})[task.name] = value
    header, seed = tasks[0].header, tasks[0].sampling.get("seed")
    results["config"] = {"model": "gazal", "model_args": {"identity": header.get("model")}, "random_seed": seed}
    results |= {"model_source": "gazal", "model_name": model, "model_name_sanitized": model}
    results["system_instruction"] = header.get("prompt", {}).get("system") or None
    write_json(summary := out / model / f"results_{date}.json", results)
    return [summary, *files]


def _lm_eval_sample(task: Task, place: int, item: Item, prompt: str, rows: pd.DataFrame) -> dict[str, Any]:
    target, arguments, responses = item.answer_idx, [(prompt, task.sampling)], [list(rows["completion"])]
    filtered: list[Any] = [task.letters(rows) if len(rows) > 1 else task.letters(rows)[0]]
    if task.likeliest:
        target = str(list(item.options).index(item.answer_idx))
        choices = item.options.values() if task.sampling.get("loglik_choice") == "text" else item.options
        arguments = [(prompt, choice) for choice in choices]
        filtered = [[str(number), "None"] for number in task.logprobs(item, rows)]
        responses = [[pair] for pair in filtered]
    doc = item.model_dump(exclude_none=True)
    return {
        "doc_id": place,
        "doc": doc,
        "target": target,
        "arguments": {f"gen_args_{n}": {"arg_0": one, "arg_1": two} for n, (one, two) in enumerate(arguments)},
        "resps": responses,
        "filtered_resps": filtered,
        "filter": "none",
        "doc_hash": _digest(doc),
        "prompt_hash": _digest(prompt),
        "target_hash": _digest(target),
    }


KINDS: dict[str, Callable[[Path, str, list[Task], str], list[Path]]]
KINDS = {"lm-eval": _lm_eval, "lighteval": write_lighteval}
