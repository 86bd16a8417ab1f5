"""The whole path with a real tiny model, and with a local server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.openai_server import scripted_server, tokens

from gazal.common.errors import GazalError
from gazal.common.files import file_safe, sha256
from gazal.engines.load import load_engine
from gazal.engines.local import TransformersEngine
from gazal.evaluation.command import evaluate_command, evaluate_stages
from gazal.items.writing import write_items_jsonl, write_items_parquet
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_model, load_tokenizer
from gazal.predictions.file import read_predictions
from gazal.recipe.recipe import Recipe
from gazal.scoring.score import score_folder

RECIPE = Recipe.model_validate({"evaluation": {"max_new_tokens": 8, "benchmarks": ["medqa"]}})


@pytest.fixture(scope="module")
def quiz(tmp_path_factory):
    path = tmp_path_factory.mktemp("items") / "quiz.jsonl"
    write_items_jsonl(path, synthesize(12, 5, variety="plain"))
    return path


def evaluate(model, benchmarks, out, **options):
    said: list[str] = []
    values = {"limit": None, "samples": None, "recipe": RECIPE, **options}
    return evaluate_command(str(model), [str(b) for b in benchmarks], out=out, say=said.append, **values), said


def test_a_model_folder_on_an_items_file(tiny_model, quiz, tmp_path):
    scores, said = evaluate(tiny_model, [quiz], tmp_path, limit=8, samples=2)
    assert list(scores["models"]) == ["tiny"]
    assert scores["models"]["tiny"]["benchmarks"]["quiz"]["n"] == 8
    assert len(read_predictions(tmp_path / "tiny" / "quiz.parquet")) == 16
    assert "quiz (n=8)" in said[-1]
    before = sha256(tmp_path / "scores.json"), sha256(tmp_path / "tiny" / "quiz.parquet")
    (tmp_path / "scores.json").unlink()
    score_folder(tmp_path)
    evaluate(tiny_model, [quiz], tmp_path, limit=8, samples=2)
    assert (sha256(tmp_path / "scores.json"), sha256(tmp_path / "tiny" / "quiz.parquet")) == before
    with pytest.raises(GazalError, match="holds other items"):
        evaluate(tiny_model, [quiz], tmp_path, limit=7)


def test_three_samples_an_item_and_then_nothing_is_asked_or_loaded(tiny_model, quiz, tmp_path, monkeypatch):
    first, _ = evaluate(tiny_model, [quiz], tmp_path, limit=3, samples=3)
    assert first["models"]["tiny"]["benchmarks"]["quiz"]["samples"] == 3
    monkeypatch.setattr("gazal.engines.load.load_engine", lambda *_, **__: pytest.fail("loaded again"))
    again, said = evaluate(tiny_model, [quiz], tmp_path, limit=3, samples=3)
    assert again == first and not [line for line in said if "items/s" in line]
    monkeypatch.undo()
    (tmp_path / "tiny" / "quiz.parquet").unlink()
    assert evaluate(tiny_model, [quiz], tmp_path, limit=3, samples=3)[0] == first


def test_a_folder_that_cannot_be_written_is_one_line(tiny_model, quiz, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GazalError, match="cannot be written") as refusal:
        evaluate(tiny_model, [quiz], tmp_path / "file" / "out")
    assert "\n" not in str(refusal.value)


def test_an_override_on_the_command_line_holds_for_every_model(tiny_model, quiz, tmp_path):
    evaluate(tiny_model, [quiz], tmp_path, limit=4, changes={"permute": 2, "method": None, "engine": None})
    assert len(read_predictions(tmp_path / "tiny" / "permuted" / "quiz.parquet")) == 8
    assert json.loads((tmp_path / "asked.json").read_text())["tiny"]["method"] == "generate"


def test_a_run_evaluates_its_stages_and_replaces_what_was_retrained(tiny_model, tmp_path):
    items = synthesize(16, 6, variety="plain")
    for split, part in {"sft": items[:4], "grpo": items[4:8], "test": items[8:]}.items():
        write_items_parquet(tmp_path / "data" / f"{split}.parquet", part)
    for stage in ("sft", "grpo"):
        shutil.copytree(tiny_model, tmp_path / stage / "merged")
    recipe = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"base": str(tiny_model)})})
    scores = score_folder(evaluate_stages(tmp_path, recipe, say=lambda line: None))
    assert list(scores["models"]) == ["base", "sft", "grpo"]
    assert {row["p"] for row in scores["paired"]} == {1.0} and len(scores["paired"]) == 3
    assert "HF_HUB_OFFLINE" in scores["not_run"]["medqa"]
    assert "option_prior" in scores["baselines"]["test"]
    (tmp_path / "sft" / "merged" / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    said: list[str] = []
    evaluate_stages(tmp_path, recipe, say=said.append)
    assert [line for line in said if "made again" in line] == [
        "sft/test.parquet: of another model, benchmark or sampling: made again"
    ]


def test_a_recipe_may_name_an_items_file_whose_whole_is_compared_with_the_training_data(tiny_model, tmp_path):
    items = synthesize(20, 6, variety="plain")
    for split, part in {"sft": items[:4], "grpo": items[4:8], "test": items[8:12]}.items():
        write_items_parquet(tmp_path / "data" / f"{split}.parquet", part)
    write_items_parquet(tmp_path / "mine.parquet", items[12:])
    update = {"benchmarks": [str(tmp_path / "mine.parquet")], "benchmark_limit": 2, "stages": ["base"]}
    recipe = RECIPE.model_copy(
        update={
            "model": RECIPE.model.model_copy(update={"base": str(tiny_model)}),
            "evaluation": RECIPE.evaluation.model_copy(update=update),
        }
    )
    out = evaluate_stages(tmp_path, recipe, say=lambda line: None)
    assert score_folder(out)["models"]["base"]["benchmarks"]["mine"]["n"] == 2
    assert json.loads((out / "contamination.json").read_text())["tests"]["mine"]["items"] == 8


def test_identity_follows_the_weights(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    one, two = (TransformersEngine(load_model(tiny_model), tokenizer) for _ in range(2))
    assert one.identity == two.identity
    next(two.model.parameters()).data[0, 0] += 1
    assert TransformersEngine(two.model, tokenizer).identity != one.identity
    assert load_engine(tiny_model, "float32").identity != load_engine(tiny_model, "bfloat16").identity


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("runs/x/sft/merged", "sft"),
        ("Qwen/Qwen3-32B", "Qwen3-32B"),
        ("../a b/", "a-b"),
        ("/", "model"),
    ],
)
def test_names_are_safe_for_files(name, safe):
    assert file_safe(name) == safe


@pytest.mark.parametrize(
    ("model", "benchmark", "message"),
    [
        ("no/such/folder", None, "model no/such/folder: no such folder"),
        ("openai:localhost#x", None, "expected openai:URL#name"),
        (
            "openai:http://me:word@host:port/v1#x@1",
            None,
            "^model openai:http://…@host:port/v1#x@1: expected openai:URL",
        ),
        ("openai:http://[::1/v1#x", None, "expected openai:URL#name"),
        ("", None, "--model: empty"),
        ("anything", " ", "--benchmark: empty"),
        ("anything", "somewhere/medqa.jsonl.gz", "an items file with the name of a benchmark"),
        ("anything", "quizz", "benchmark quizz: unknown"),
        ("anything", "medqa", "medqa: .*HF_HUB_OFFLINE"),
    ],
)
def test_bad_requests_leave_nothing_behind(model, benchmark, message, quiz, tmp_path):
    with pytest.raises(GazalError, match=message):
        evaluate(model, [benchmark or quiz], tmp_path / "out")
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.fixture
def server():
    pytest.importorskip("openai")
    with scripted_server() as (url, script):
        script.text, script.thought, script.usage = "**Answer:** B", "Step 1: guess.", tokens(1, 7)
        script.streams, script.headers = False, {"retry-after-ms": "1"}
        yield f"openai:{url}", script


@pytest.mark.slow
def test_an_openai_server_with_retries_and_resuming(server, quiz, tmp_path):
    url, script = server
    answered, limit = 0, 20  # then it breaks for good

    def act(body, number):
        nonlocal answered
        broken = answered >= limit or number % 3 == 2
        answered += not broken
        return 500 if broken else "ok"

    script.act = act
    with pytest.raises(GazalError, match="model my-model: the server failed"):
        evaluate(f"{url}#my-model", [quiz], tmp_path, samples=2)
    limit = 10**9
    scores, said = evaluate(f"{url}#my-model", [quiz], tmp_path, samples=2)
    assert "goes on at 20/24" in said[0]
    assert answered == 24 < len(script.asked)
    score = scores["models"]["my-model"]["benchmarks"]["quiz"]
    assert (score["unparsed"], score["format"], score["mean_tokens"]) == (0, 1, 7)
    assert read_predictions(tmp_path / "my-model" / "quiz.parquet")["letter"].eq("B").all()


def test_a_server_that_answers_html_is_one_line(server, quiz, tmp_path):
    server[1].act = lambda body, number: "html"
    with pytest.raises(GazalError, match="model html: the server's answer is no chat completion"):
        evaluate(f"{server[0]}#html", [quiz], tmp_path)


def test_a_server_that_takes_no_top_k_says_what_to_set(server, quiz, tmp_path):
    refusal = {"_status": 422, "detail": "Unexpected fields in the request: {top_k}"}
    server[1].act = lambda body, number: refusal if "top_k" in body else "ok"
    with pytest.raises(
        GazalError, match=r"model strict: the server failed .*; it takes no top_k: set evaluation.top_k=0"
    ):
        evaluate(
            f"{server[0]}#strict",
            [quiz],
            tmp_path,
            recipe=Recipe.model_validate({"evaluation": {"max_new_tokens": 8, "top_k": 20}}),
        )
