"""Predictions as lm-eval's and lighteval's files: their names, their shapes, our numbers."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.items import make_item
from helpers.predictions import folder as prediction_folder
from helpers.predictions import row
from helpers.scripted_engine import Scripted
from typer.testing import CliRunner

from gazal.cli import app
from gazal.common.errors import GazalError
from gazal.evaluation.predict import predict
from gazal.predictions.file import fingerprint
from gazal.predictions.folder import save_items
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection
from gazal.scoring.export import export
from gazal.scoring.score import score_folder

ITEMS = [make_item(n, subject="s", context=["seen"]) for n in range(10)]


class Numbered(Scripted):
    """Answers A to the first sample, nothing readable to the second."""

    def reply(self, index, samples, messages):
        answered = index % samples == 0
        return (
            super()
            .reply(0, 1, [{"content": "Question 0?"}])
            ._replace(index=index, **({} if answered else {"text": "<b>unsure</b>"}))
        )


@pytest.fixture
def folder(tmp_path):
    """Model m on quiz (2 samples) and short (1 sample), the predictions of one moment."""
    root = tmp_path / "eval"
    for name, items, samples in (("quiz", ITEMS, 2), ("short", ITEMS[:1], 1)):
        save_items(root, name, items)
        path = predict(
            Numbered(),
            items,
            EvaluationSection(samples=samples),
            root / "m" / f"{name}.parquet",
            prompting=Prompting("be careful"),
            seed=3,
            say=lambda line: None,
        )
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return root


DATE = "2023-11-14T22-13-20.000000"


def test_lm_eval_results(folder, tmp_path):
    files = export(folder, tmp_path / "out", "lm-eval")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in files] == [
        f"m/results_{DATE}.json",
        f"m/samples_quiz_{DATE}.jsonl",
        f"m/samples_short_{DATE}.jsonl",
    ]
    results = json.loads(files[0].read_text())
    accuracy = score_folder(folder)["models"]["m"]["benchmarks"]["quiz"]["accuracy"]
    means = [0.5 if item.answer_idx == "A" else 0.0 for item in ITEMS]
    assert results["results"]["quiz"]["acc,none"] == accuracy == sum(means) / 10 == 0.15
    spread = math.sqrt(sum((mean - 0.15) ** 2 for mean in means) / 9 / 10)
    assert (
        results["results"]["quiz"]["acc_stderr,none"] == pytest.approx(spread)
        and results["results"]["short"]["acc_stderr,none"] == "N/A"
    )
    assert results["results"]["quiz"]["alias"] == "quiz" and results["n-samples"]["quiz"] == {
        "original": 10,
        "effective": 10,
    }
    assert results["configs"]["quiz"]["output_type"] == "generate_until" and results["configs"]["quiz"]["repeats"] == 2
    assert (
        results["n-shot"]["quiz"] == 0
        and results["higher_is_better"]["quiz"] == {"acc": True}
        and set(results["versions"]) == {"quiz", "short"}
    )
    assert (results["model_name"], results["config"]["random_seed"], results["system_instruction"]) == (
        "m",
        3,
        "be careful",
    )
    assert str(tmp_path) not in files[0].read_text()


def test_lm_eval_samples(folder, tmp_path):
    _, quiz, short = export(folder, tmp_path / "out", "lm-eval")
    lines = [json.loads(line) for line in quiz.read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == list(range(10)) and [line["target"] for line in lines] == [
        item.answer_idx for item in ITEMS
    ]
    first = lines[0]
    assert set(first) == {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
        "acc",
    }
    assert first["doc"]["question"] == "Question 0?" and first["doc"]["options"] == ITEMS[0].options
    prompt = json.loads(first["arguments"]["gen_args_0"]["arg_0"])
    assert prompt[0] == {"role": "system", "content": "be careful"} and prompt[1]["content"].startswith(
        "seen\nQuestion 0?"
    )
    assert (
        first["resps"][0][1] == "<b>unsure</b>"
        and first["filtered_resps"] == [["A", "[invalid]"]]
        and first["acc"] == 0.5
    )
    assert json.loads(short.read_text())["filtered_resps"] == ["A"]
    loaded = datasets.load_dataset("json", data_files=str(quiz), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 10 and sum(loaded["acc"]) / 10 == 0.15


def test_lighteval(folder, tmp_path):
    results, quiz, _ = export(folder, tmp_path / "out", "lighteval")
    assert results == tmp_path / "out" / "results" / "m" / f"results_{DATE}.json"
    assert quiz == tmp_path / "out" / "details" / "m" / DATE / f"details_quiz|0_{DATE}.parquet"
    found = json.loads(results.read_text())
    assert found["results"]["quiz|0"]["extractive_match"] == 0.15 and found["results"]["all"][
        "extractive_match"
    ] == pytest.approx((0.15 + 1) / 2)
    assert set(found) == {"config_general", "results", "versions", "config_tasks", "summary_tasks", "summary_general"}
    loaded = datasets.load_dataset("parquet", data_files=str(quiz), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["doc", "metric", "model_response"] and loaded.num_rows == 10
    row = loaded[1]
    assert (
        row["doc"]["choices"] == list("ABCD")
        and row["doc"]["gold_index"] == 1
        and row["doc"]["task_name"] == "quiz|0"
        and row["doc"]["id"] == "item-1"
    )
    assert (
        row["metric"] == {"extractive_match": 0.0}
        and row["doc"]["query"].startswith("seen\nQuestion 1?")
        and row["doc"]["instruction"] == "be careful"
    )
    assert row["model_response"]["reasonings"] == ["Step 1: x", None] and row["model_response"][
        "text_post_processed"
    ] == ["\n\n**Answer:** A", "<b>unsure</b>"]
    specific = row["doc"]["specific"]
    assert (
        row["model_response"]["text"][0].startswith("<think>")
        and specific["n_tokens"] == [5, 5]
        and specific["extracted_predictions"] == ["A", "[invalid]"]
    )
    assert (
        "extractive_match_stderr" not in found["results"]["short|0"]
        and found["results"]["all"]["extractive_match_stderr"] == found["results"]["quiz|0"]["extractive_match_stderr"]
    )
    assert found["config_general"]["model_config"]["generation_parameters"].keys() == {
        "temperature",
        "top_p",
        "top_k",
        "max_new_tokens",
        "seed",
    }


LIGHTEVAL = {
    "doc": {
        "query": "string",
        "choices": ["string"],
        "gold_index": "int64",
        "instruction": "string",
        "images": "null",
        "specific": {},
        "unconditioned_query": "null",
        "original_query": "null",
        "id": "string",
        "task_name": "string",
        "fewshot_samples": ["null"],
        "sampling_methods": ["string"],
        "fewshot_sorting_class": "null",
        "generation_size": "int64",
        "stop_sequences": ["null"],
        "use_logits": "bool",
        "num_samples": "int64",
        "generation_grammar": "null",
    },
    "model_response": {
        "input": "string",
        "input_tokens": ["int64"],
        "text": ["string"],
        "output_tokens": [["int64"]],
        "text_post_processed": ["string"],
        "reasonings": ["string"],
        "logprobs": ["double"],
        "argmax_logits_eq_gold": ["bool"],
        "logits": "null",
        "unconditioned_logprobs": "null",
        "truncated_tokens_count": "int64",
        "padded_tokens_count": "int64",
    },
}
"""Fields, order and types of the details that lighteval 0.13.0 itself wrote (datasets 4.8.5), from a generative task (its metric
gpqa_instruct_metric) and a log-likelihood task (loglikelihood_acc); a list that only one of them fills has its type from there."""


def shape(kind):
    if pa.types.is_struct(kind):
        return {field.name: shape(field.type) for field in kind}
    return [shape(kind.value_type)] if pa.types.is_list(kind) else str(kind)


def test_details_have_the_fields_and_types_that_lighteval_writes(folder, tmp_path):
    by_loglik(tmp_path / "likely" / "eval")
    for root, metric in ((folder, {"extractive_match": "double"}), (tmp_path / "likely" / "eval", {"acc": "int64"})):
        results, details, *_ = export(root, tmp_path / "out", "lighteval")
        found = shape(pa.struct(list(pq.ParquetFile(details).schema_arrow)))
        specific, found["doc"]["specific"] = found["doc"]["specific"], {}
        assert found == {"doc": LIGHTEVAL["doc"], "metric": metric, "model_response": LIGHTEVAL["model_response"]}
        assert [list(found[part]) for part in LIGHTEVAL] == [list(LIGHTEVAL[part]) for part in LIGHTEVAL]
        assert specific["extracted_predictions"] == specific["extracted_golds"] == ["string"]
        config = json.loads(results.read_text())["config_general"]
        assert set(config) == {
            "lighteval_sha",
            "num_fewshot_seeds",
            "max_samples",
            "job_id",
            "start_time",
            "end_time",
            "total_evaluation_time_secondes",
            "model_config",
            "model_name",
        }


def by_loglik(root, norm="sum"):
    header = {
        "model": "x",
        "benchmark": "",
        "sampling": {"method": "loglik", "loglik_norm": norm, "loglik_choice": "letter", "seed": 1},
        "prompt": {"style": "plain", "system": ""},
    }
    header["benchmark"] = fingerprint(ITEMS)
    found = zip("ABCD", (2.5, 1.25, 3, 4), strict=True)
    answer = json.dumps({k: [-v, 1] if norm == "characters" else -v for k, v in found})
    fields = {"n_tokens": 0, "letter": "B", "reason": "ok"}
    rows = [
        row(
            item, answer if n else "", **fields, finish_reason="stop" if n else "length", correct=item.answer_idx == "B"
        )
        for n, item in enumerate(ITEMS)
    ]
    prediction_folder(root, ITEMS, "quiz", header=header, m=rows)


@pytest.mark.parametrize(("norm", "metric"), [("sum", "acc"), ("characters", "acc_norm")])
def test_log_likelihoods_are_multiple_choice(tmp_path, norm, metric):
    by_loglik(tmp_path / "eval", norm)
    results, quiz = export(tmp_path / "eval", tmp_path / "out", "lm-eval")
    found = json.loads(results.read_text())
    assert (
        found["configs"]["quiz"]["output_type"] == "multiple_choice"
        and found["results"]["quiz"][f"{metric},none"] == 0.3
    )
    unasked, second = [json.loads(line) for line in quiz.read_text().splitlines()][:2]
    assert second["target"] == "1" and second["arguments"]["gen_args_1"] == {
        "arg_0": second["arguments"]["gen_args_0"]["arg_0"],
        "arg_1": "B",
    }
    assert second["arguments"]["gen_args_0"]["arg_0"].startswith("seen\nQuestion: Question 1?")
    assert second["filtered_resps"] == [["-2.5", "None"], ["-1.25", "None"], ["-3", "None"], ["-4", "None"]] and second[
        "resps"
    ][1] == [["-1.25", "None"]]
    assert unasked["filtered_resps"][0] == ["None", "None"] and unasked[metric] == 0
    _, details = export(tmp_path / "eval", tmp_path / "out", "lighteval")
    row = pq.ParquetFile(details).read().to_pylist()[1]
    assert (
        row["metric"] == {"acc": 1.0}
        and row["model_response"]["logprobs"] == [-2.5, -1.25, -3, -4]
        and row["model_response"]["text"] == []
    )


def test_bad_requests_are_one_line(folder, tmp_path):
    with pytest.raises(GazalError, match="--format csv: expected lm-eval or lighteval"):
        export(folder, tmp_path, "csv")
    for path in (folder / "items").iterdir():
        path.unlink()
    with pytest.raises(GazalError, match="no items/<benchmark>.jsonl beside the predictions: nothing to export"):
        export(folder, tmp_path, "lm-eval")


@pytest.mark.parametrize("kind", ["lm-eval", "lighteval"])
def test_one_models_folder_is_enough(folder, tmp_path, kind):
    model = sorted(path.parent for path in folder.glob("*/*.parquet"))[0]
    names = {path.name for path in export(folder, tmp_path / "all", kind) if model.name in path.parts}
    assert names and {path.name for path in export(model, tmp_path / "one", kind)} == names


def test_the_command_names_what_it_wrote(folder, tmp_path):
    done = CliRunner().invoke(app, ["export", str(folder), "--out", str(tmp_path / "out"), "--format", "lm-eval"])
    assert done.exit_code == 0 and [Path(line).name for line in done.stdout.split()] == [
        f"results_{DATE}.json",
        f"samples_quiz_{DATE}.jsonl",
        f"samples_short_{DATE}.jsonl",
    ]
