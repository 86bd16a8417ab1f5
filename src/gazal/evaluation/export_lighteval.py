"""Predictions as lighteval's files (0.13.0, ``lighteval/logging/evaluation_tracker.py``, ``--save-details``).

``results/<model>/results_<date>.json`` and ``details/<model>/<date>/details_<task>|<shots>_<date>.parquet``, a row an item, with
the columns doc, metric and model_response: fields of its ``Doc`` and ``ModelResponse``, and in the latter what it has no field for
(``extracted`` letters, ``n_tokens``, ``finish_reasons``, one a completion). The metric is its ``extractive_match``, by
log-likelihood its ``acc``; ``all`` is the mean over tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gazal.files import atomic_write, write_json
from gazal.items import Item

if TYPE_CHECKING:
    from gazal.evaluation.export import Task

_TEXTS = pa.list_(pa.string())
_DOC = pa.struct([
    ("query", pa.string()), ("choices", _TEXTS), ("gold_index", pa.int64()), ("id", pa.string()), ("task_name", pa.string()), ("num_samples", pa.int64()),
    ("generation_size", pa.int64()), ("sampling_methods", _TEXTS), ("specific", pa.struct([("options", _TEXTS), ("subject", pa.string()), ("context", _TEXTS)])),
])
_RESPONSE = pa.struct([
    ("input", pa.string()), ("text", _TEXTS), ("text_post_processed", _TEXTS), ("reasonings", _TEXTS), ("logprobs", pa.list_(pa.float64())),
    ("extracted", _TEXTS), ("n_tokens", pa.list_(pa.int64())), ("finish_reasons", _TEXTS),
])


def write_lighteval(out: Path, model: str, tasks: list[Task], date: str) -> list[Path]:
    """Write one model's results and details below ``out``; returns the files."""
    files, results = [], {}
    for task in tasks:
        name, metric = f"{task.name}|{task.shots}", "acc" if task.likeliest else "extractive_match"
        results[name] = {metric: float(task.means.mean()), f"{metric}_stderr": task.stderr}
        files.append(out / "details" / model / date / f"details_{name}_{date}.parquet")
        schema = pa.schema([("doc", _DOC), ("metric", pa.struct([(metric, pa.float64())])), ("model_response", _RESPONSE)])
        rows = [
            {"doc": _doc(task, name, item, prompt, rows), "metric": {metric: right}, "model_response": _response(task, item, prompt, rows)}
            for item, prompt, rows, right in task.rows()
        ]
        with atomic_write(files[-1], "wb") as handle:
            pq.write_table(pa.Table.from_pylist(rows, schema), handle)
    config = {"lighteval_sha": "?", "model_name": model, "model_config": {"model_name": model, "generation_parameters": tasks[0].sampling}}
    every = {key: float(np.mean(found)) for key in ("acc", "extractive_match") if (found := [row[key] for row in results.values() if key in row])}
    write_json(summary := out / "results" / model / f"results_{date}.json", {
        "config_general": config, "results": {**results, "all": every}, "versions": {}, "config_tasks": {}, "summary_tasks": {}, "summary_general": {},
    })
    return [summary, *files]


def _doc(task: Task, name: str, item: Item, prompt: str, rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "query": prompt, "choices": list(item.options), "gold_index": list(item.options).index(item.answer_idx), "id": item.id, "task_name": name, "num_samples": len(rows),
        "generation_size": task.sampling.get("max_new_tokens"), "sampling_methods": ["LOGPROBS" if task.likeliest else "GENERATIVE"],
        "specific": {"options": list(item.options.values()), "subject": item.reasoning_type or item.subject, "context": item.context},
    }


def _response(task: Task, item: Item, prompt: str, rows: pd.DataFrame) -> dict[str, Any]:
    texts = [] if task.likeliest else list(rows["completion"])
    parted = [text.rpartition("</think>") for text in texts]
    return {
        "input": prompt, "text": texts, "text_post_processed": [answer.strip() for _, _, answer in parted],
        "reasonings": [thought.partition("<think>")[2].strip() or thought.strip() or None for thought, _, _ in parted],
        "logprobs": task.logprobs(item, rows) if task.likeliest else [], "extracted": task.letters(rows),
        "n_tokens": list(rows["n_tokens"]), "finish_reasons": list(rows["finish_reason"]),
    }
