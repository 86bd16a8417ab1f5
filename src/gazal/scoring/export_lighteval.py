"""Predictions as lighteval's files (0.13.0, ``lighteval/logging/evaluation_tracker.py``, ``--save-details``).

There is ``results/<model>/results_<date>.json`` and, with a row for each item,
``details/<model>/<date>/details_<task>|<shots>_<date>.parquet``. Its columns are doc, metric and model_response. They
hold all fields of lighteval's ``Doc`` and ``ModelResponse`` and no other, of the types that lighteval writes. So
``Doc(**row["doc"])`` and ``ModelResponse(**row["model_response"])`` take a row.

What they have no field for is in ``doc.specific``, its place for such. There stand, beside its own
``extracted_predictions`` (here one a completion) and ``extracted_golds``, the option texts, subject, context,
``n_tokens`` and ``finish_reasons``. The metric is its ``extractive_match``, by log-likelihood its ``acc``; ``all`` is
the mean over tasks. Token ids and hashes of prompts are not known and are empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gazal.answers.markup import part
from gazal.common.files import atomic_write, write_json
from gazal.items.prompts import Prompt
from gazal.items.schema import Item
from gazal.scoring.export_task import Task, as_text

_TEXTS, _NUMBERS, _UNSET = pa.list_(pa.string()), pa.list_(pa.int64()), pa.null()
_SPECIFIC = pa.struct(
    [
        ("extracted_predictions", _TEXTS),
        ("extracted_golds", _TEXTS),
        ("options", _TEXTS),
        ("subject", pa.string()),
        ("context", _TEXTS),
        ("n_tokens", _NUMBERS),
        ("finish_reasons", _TEXTS),
    ]
)
_DOC = pa.struct(
    [
        ("query", pa.string()),
        ("choices", _TEXTS),
        ("gold_index", pa.int64()),
        ("instruction", pa.string()),
        ("images", _UNSET),
        ("specific", _SPECIFIC),
        ("unconditioned_query", _UNSET),
        ("original_query", _UNSET),
        ("id", pa.string()),
        ("task_name", pa.string()),
        ("fewshot_samples", pa.list_(_UNSET)),
        ("sampling_methods", _TEXTS),
        ("fewshot_sorting_class", _UNSET),
        ("generation_size", pa.int64()),
        ("stop_sequences", pa.list_(_UNSET)),
        ("use_logits", pa.bool_()),
        ("num_samples", pa.int64()),
        ("generation_grammar", _UNSET),
    ]
)
_RESPONSE = pa.struct(
    [
        ("input", pa.string()),
        ("input_tokens", _NUMBERS),
        ("text", _TEXTS),
        ("output_tokens", pa.list_(_NUMBERS)),
        ("text_post_processed", _TEXTS),
        ("reasonings", _TEXTS),
        ("logprobs", pa.list_(pa.float64())),
        ("argmax_logits_eq_gold", pa.list_(pa.bool_())),
        ("logits", _UNSET),
        ("unconditioned_logprobs", _UNSET),
        ("truncated_tokens_count", pa.int64()),
        ("padded_tokens_count", pa.int64()),
    ]
)
# Names that lighteval's GenerationParameters takes; it refuses others.
_GENERATION = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")
_COUNTED = {"hashes": {}, "truncated": 0, "non_truncated": 0, "padded": 0, "non_padded": 0}


def write_lighteval(out: Path, model: str, tasks: list[Task], date: str) -> list[Path]:
    """Write one model's results and details below ``out``; return the files."""
    files, results, configs = [], {}, {}
    for task in tasks:
        name, metric = f"{task.name}|{task.shots}", "acc" if task.likeliest else "extractive_match"
        results[name] = {metric: float(task.means.mean())}
        if len(task.items) > 1:
            results[name][f"{metric}_stderr"] = task.stderr
        configs[name] = {
            "name": task.name,
            "metrics": [{"metric_name": metric, "higher_is_better": True, "category": _category(task)}],
            "num_fewshots": task.shots,
            "generation_size": _size(task),
            "num_samples": [len(task.frame) // len(task.items)],
            "original_num_docs": -1,
            "effective_num_docs": len(task.items),
            "version": 0,
        }
        files.append(out / "details" / model / date / f"details_{name}_{date}.parquet")
        number = pa.int64() if task.likeliest else pa.float64()
        schema = pa.schema([("doc", _DOC), ("metric", pa.struct([(metric, number)])), ("model_response", _RESPONSE)])
        rows = [
            {
                "doc": _doc(task, name, item, prompt, rows),
                "metric": {metric: right},
                "model_response": _response(task, item, prompt, rows),
            }
            for item, prompt, rows, right in task.rows()
        ]
        with atomic_write(files[-1], "wb") as handle:
            pq.write_table(pa.Table.from_pylist(rows, schema), handle)
    sampling = tasks[0].sampling
    unknown = ("max_samples", "job_id", "start_time", "end_time", "total_evaluation_time_secondes")
    config = {"lighteval_sha": "?", "num_fewshot_seeds": 1, **dict.fromkeys(unknown)} | {
        "model_name": model,
        "model_config": {
            "model_name": model,
            "generation_parameters": {key: sampling[key] for key in _GENERATION if key in sampling},
            "sampling": sampling,
            "system_prompt": tasks[0].header.get("prompt", {}).get("system") or None,
        },
    }
    measures = sorted({key for row in results.values() for key in row})
    every = {key: float(np.mean([row[key] for row in results.values() if key in row])) for key in measures}
    write_json(
        summary := out / "results" / model / f"results_{date}.json",
        {
            "config_general": config,
            "results": {**results, "all": every},
            "versions": {},
            "config_tasks": configs,
            "summary_tasks": dict.fromkeys(results, _COUNTED),
            "summary_general": _COUNTED,
        },
    )
    return [summary, *files]


def _category(task: Task) -> str:
    return "LOGPROBS" if task.likeliest else "GENERATIVE"


def _size(task: Task) -> int | None:
    return -1 if task.likeliest else task.sampling.get("max_new_tokens")


def _doc(task: Task, name: str, item: Item, prompt: Prompt, rows: pd.DataFrame) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {
        "query": messages[-1]["content"],
        "choices": list(item.options),
        "gold_index": list(item.options).index(item.answer_idx),
        "instruction": "".join(message["content"] for message in messages if message["role"] == "system"),
        "id": item.id,
        "task_name": name,
        "fewshot_samples": [],
        "num_samples": len(rows),
        "generation_size": _size(task),
        "sampling_methods": [_category(task)],
        "stop_sequences": [],
        "use_logits": False,
        "specific": {
            "extracted_predictions": task.letters(rows),
            "extracted_golds": [item.answer_idx],
            "options": list(item.options.values()),
            "subject": item.reasoning_type or item.subject,
            "context": item.context,
            "n_tokens": list(rows["n_tokens"]),
            "finish_reasons": list(rows["finish_reason"]),
        },
    }


def _response(task: Task, item: Item, prompt: Prompt, rows: pd.DataFrame) -> dict[str, Any]:
    texts = [] if task.likeliest else list(rows["completion"])
    parted = [part(text) for text in texts]
    return {
        "input": as_text(prompt),
        "input_tokens": [],
        "text": texts,
        "output_tokens": [],
        "text_post_processed": [one.answer or "" for one in parted],
        "reasonings": [(one.thought or "").strip() or None for one in parted],
        "logprobs": task.logprobs(item, rows) if task.likeliest else [],
        "argmax_logits_eq_gold": [],
        "truncated_tokens_count": 0,
        "padded_tokens_count": 0,
    }
