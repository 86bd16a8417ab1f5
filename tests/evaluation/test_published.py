"""The paper's table: the recipe that names its models, the ledger, and the path that fills it, with a real tiny model and a local server."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from helpers.openai_server import scripted_server
from typer.testing import CliRunner

from gazal.cli import app
from gazal.common.errors import GazalError
from gazal.common.paths import PAPER, RECIPES
from gazal.data import benchmarks
from gazal.engines.load import LazyEngine
from gazal.evaluation.targets import find_targets
from gazal.items.writing import write_items_jsonl
from gazal.knowledge.generate import synthesize
from gazal.paper.claims import check_claims
from gazal.paper.inputs import read_yaml
from gazal.paper.ledger import claims_ledger, ledger_table, stand_ins, write_ledger
from gazal.recipe.evaluation import EvaluationSection
from gazal.recipe.load import load_recipe

PUBLISHED = read_yaml(PAPER / "published.yaml")
RECIPE = load_recipe("published")
HUB = {name: entry.model for name, entry in RECIPE.models.items()}


def test_the_recipe_knows_the_eight_models_of_the_table_under_its_names():
    assert list(HUB) == list(PUBLISHED["models"]) and len(HUB) == 8
    assert (
        HUB["gazal-r1"] == "TachyHealth/Gazal-R1-32B-GRPO-preview"
        and HUB["gazal-r1-sft"] == "TachyHealth/Gazal-R1-32B-sft-merged-preview"
    )
    assert HUB["qwen-3-32b"] == "Qwen/Qwen3-32B"
    for entry in RECIPE.models.values():
        assert (entry.engine, entry.dtype, entry.thinking) == ("vllm", "bfloat16", "template")
    settings = RECIPE.evaluation
    assert (
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.max_new_tokens,
        settings.benchmark_limit,
    ) == (0.7, 0.8, 20, 2048, None)
    assert settings.benchmarks == ["medqa", "medmcqa", "pubmedqa", "mmlu_pro_medical"] and set(
        settings.benchmarks
    ) == set(PUBLISHED["benchmarks"])


def test_each_model_says_where_its_values_are_from():
    text = (RECIPES / "published.yaml").read_text(encoding="utf-8")
    lines = [
        line
        for line in text.partition("\nmodels:\n")[2].partition("\nevaluation:\n")[0].splitlines()
        if re.match(r"    \w+: \S", line)
    ]
    assert len(lines) == 8 * 4 + 1
    assert all(re.search(r"card|chosen, (because|as|by)", line.partition("#")[2]) for line in lines)


@pytest.mark.parametrize(
    ("override", "name", "field", "value"),
    [
        ("models.llama-3.1-405b.model=embedded", "llama-3.1-405b", "model", "embedded"),
        ("models.qwen-2.5-72b.engine=transformers", "qwen-2.5-72b", "engine", "transformers"),
        ("models.gazal-r1.max_new_tokens=64", "gazal-r1", "max_new_tokens", 64),
        ("models.mine={model: a/b}", "mine", "model", "a/b"),
        ("models.mine.model=a/b", "mine", "model", "a/b"),
        ("models.llama-3.1-70b={model: a/b}", "llama-3.1-70b", "model", "a/b"),
    ],
)
def test_an_override_reaches_a_model_whose_name_holds_dots(override, name, field, value):
    recipe = load_recipe("published", [override])
    assert getattr(recipe.models[name], field) == value
    assert {k: v for k, v in recipe.models.items() if k != name} == {
        k: v for k, v in RECIPE.models.items() if k != name
    }


@pytest.mark.parametrize("override", ["models.llama-3.1-405c.model=embedded", "models.llama-3.1-405b.modell=embedded"])
def test_a_name_that_is_not_there_is_one_line(override):
    with pytest.raises(GazalError, match=r"published.yaml: models\.llama-3"):
        load_recipe("published", [override])


def test_a_name_brings_its_own_values_and_other_models_the_recipes():
    recipe = load_recipe(
        "published", ["models.qwq-32b.temperature=0.6", "models.qwq-32b.system=Hello", "models.qwq-32b.revision=abc"]
    )
    qwq, other = find_targets(["qwq-32b", "some/folder/merged"], recipe)
    assert (qwq.name, qwq.spec, qwq.revision, qwq.dtype) == ("qwq-32b", "Qwen/QwQ-32B", "abc", "bfloat16")
    assert (qwq.recipe.evaluation.temperature, qwq.recipe.evaluation.top_p) == (0.6, 0.8)
    assert (qwq.recipe.model.system, qwq.recipe.model.prompt_opens_think) == ("Hello", True)
    assert (other.name, other.recipe, other.dtype) == ("folder", recipe, None)
    assert qwq.changed({"engine": "transformers"}).recipe.evaluation.engine == "transformers"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no model is asked for \(the recipe knows gazal-r1, "),
        ([" "], "--model: empty; expected a folder, .* or one of gazal-r1"),
        (["a/sft/merged", "b/sft/merged"], "predictions would lie in the folder sft, as those of a/sft/merged"),
        (["gazal-r1", "gazal-r1"], "in the folder gazal-r1"),
        (["somewhere/eval"], "a folder of predictions cannot be named eval"),
        (["openai:http://h/v1#items"], "cannot be named items"),
        (["permuted"], "cannot be named permuted"),
    ],
)
def test_models_that_cannot_be_asked_together(names, message):
    with pytest.raises(GazalError, match=message):
        find_targets(names, RECIPE)


def cell(accuracy, low, high, n=1273):
    return {"n": n, "accuracy": accuracy, "ci95": [low, high], "truncated": 0.02, "unparsed": 0.0}


def how(model, **more):
    return {
        "model": model,
        "engine": "vllm",
        "dtype": "bfloat16",
        "temperature": 0.7,
        "samples": 1,
        "max_new_tokens": 2048,
        "system": "Think.",
        **more,
    }


def measured(deltas, benchmark="medqa"):
    """Scores in which gazal-r1 differs from the others by ``deltas``: points and half-widths."""
    rows = []
    for at, (name, (delta, half)) in enumerate(deltas.items()):
        low, high = (delta - half) / 100, (delta + half) / 100
        swapped = at % 2  # a pair is saved in one of its two orders
        rows.append(
            {
                "a": "gazal-r1" if swapped else name,
                "b": name if swapped else "gazal-r1",
                "benchmark": benchmark,
                "delta": (-delta if swapped else delta) / 100,
                "ci95": [-high, -low] if swapped else [low, high],
                "p": 0.5,
            }
        )
    return {"models": {}, "paired": rows}


def test_the_ledger_sets_measured_beside_reported():
    asked = {
        "qwen-3-32b": how("Qwen/Qwen3-32B"),
        "qwq-32b": how("QwQ-32B"),
        "med42-70b": how("embedded"),
        "mine": how("mine"),
    }
    scores = {
        "models": {
            "qwen-3-32b": {"benchmarks": {"medqa": cell(0.84, 0.82, 0.86), "pubmedqa": cell(0.60, 0.56, 0.64, 100)}},
            "qwq-32b": {"benchmarks": {"medqa": cell(0.8, 0.7, 0.9, 50)}},
            "med42-70b": {"benchmarks": {"medqa": cell(0.8, 0.7, 0.9, 50)}},
            "gazal-r1": {"benchmarks": {"medqa": cell(0.8, 0.7, 0.9, 50)}},
            "mine": {"benchmarks": {"quiz": cell(0.8, 0.7, 0.9, 50)}},
        }
    }
    table = ledger_table(PUBLISHED, scores, asked)
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert len(rows) == 32
    assert rows["Qwen 3 32B", "MedQA"] == [
        "84.4",
        "84.0 [82.0, 86.0]",
        "1,273",
        "−0.4",
        "2.0",
        "reported value inside the interval",
    ]
    assert rows["Qwen 3 32B", "PubMedQA"] == [
        "76.7",
        "60.0 [56.0, 64.0]",
        "100 of 500",
        "−16.7",
        "2.0",
        "reported value outside the interval",
    ]
    assert (
        rows["QwQ 32B", "MedQA"][5] == "reported value inside the interval; the model's name is all we know of it"
    )  # 72.3 in [70, 90]; a folder
    assert rows["Med42-Llama3.1-70B", "MedQA"][5] == "no verdict: asked was embedded"
    assert rows["Gazal-R1 (final)", "MedQA"][5] == "not run"  # nothing says how that was asked
    assert sum(row[5] == "not run" for row in rows.values()) == 32 - 4
    text, tex = table.markdown(), table.latex()
    assert (
        "vllm, bfloat16, T 0.7, at most 2,048 tokens, 1 an item; system prompt: Think." in text
        and "asked was Qwen/Qwen3-32B" in text
    )
    assert "stands in for another" in text and tex.count(r"\midrule") == 8 and r"$-$16.7" in tex
    assert stand_ins(asked) == {"med42-70b": "embedded"}


@pytest.mark.parametrize(
    ("how_asked", "verdict"),
    [
        (how("Qwen/QwQ-32B"), "reported value inside the interval"),
        (how("someone/QwQ-32B"), "no verdict: asked was someone/QwQ-32B"),
        (how("QwQ"), "no verdict: asked was QwQ"),
        (
            how("Qwen/QwQ-32B", engine="server"),
            "reported value inside the interval; the model's name is all we know of it",
        ),
        (how("someone/QwQ-32B", engine="server"), "no verdict: asked was someone/QwQ-32B"),
    ],
)
def test_a_name_counts_only_for_its_owner_and_is_no_proof(how_asked, verdict):
    table = ledger_table(
        PUBLISHED, {"models": {"qwq-32b": {"benchmarks": {"medqa": cell(0.8, 0.7, 0.9, 50)}}}}, {"qwq-32b": how_asked}
    )
    assert [row[7] for row in table.rows if row[0] == "QwQ 32B" and row[1] == "MedQA"] == [verdict]
    assert ("taken at its word" in " ".join(table.notes)) == ("name is all" in verdict)


def test_a_servers_folder_is_shown_by_its_last_name():
    (one,) = find_targets(["openai:http://localhost:8000/v1#/home/me/models/QwQ-32B"], RECIPE)
    assert one.settings()["model"] == one.name == "QwQ-32B"


@pytest.mark.parametrize(
    ("deltas", "word"),
    [
        ({"llama-3.1-405b": (5.0, 2.0)}, "yes: +5.0 [+3.0, +7.0]"),
        ({"llama-3.1-405b": (-5.0, 2.0)}, "no: −5.0 [−7.0, −3.0]"),
        ({"llama-3.1-405b": (1.0, 2.0)}, "undecided: +1.0 [−1.0, +3.0]"),
        ({}, "not measured"),
    ],
)
def test_a_claim_that_one_model_beats_another_is_judged_by_the_paired_interval(deltas, word):
    verdicts = check_claims(PUBLISHED, measured(deltas), ["gazal-r1", "llama-3.1-405b"])
    found = {v.benchmark: v.measured for v in verdicts if v.text == "Gazal-R1 beats the 405B model"}
    assert found["MedQA"] == word and found["PubMedQA"] == "not measured"


def test_the_highest_needs_all_models_and_the_gain_its_value():
    others = [name for name in PUBLISHED["models"] if name != "gazal-r1"]
    deltas = {name: (3.0 + at, 2.0) for at, name in enumerate(others)}

    def word(deltas, names=tuple(HUB), text="Gazal-R1 is the highest of the eight models", benchmark="medqa"):
        shown = PUBLISHED["benchmarks"][benchmark]
        return next(
            v.measured
            for v in check_claims(PUBLISHED, measured(deltas, benchmark), names)
            if v.text == text and v.benchmark == shown
        )

    assert word(deltas) == f"yes: +3.0 [+1.0, +5.0] against {PUBLISHED['models'][others[0]]['name']}"
    assert word(deltas | {"qwq-32b": (0.5, 2.0)}).startswith("undecided: +0.5 [−1.5, +2.5] against QwQ")
    assert word(deltas | {"qwq-32b": (-3.0, 2.0)}).startswith("no: −3.0")
    assert word({name: delta for name, delta in deltas.items() if name != "qwq-32b"}) == "not measured"
    assert word(deltas, [name for name in HUB if name != "qwq-32b"]) == "not measured"  # a stand-in
    gain = {"text": "GRPO adds 2.0 points over SFT", "benchmark": "pubmedqa"}
    assert word({"gazal-r1-sft": (1.0, 1.5)}, **gain).startswith("yes") and word(
        {"gazal-r1-sft": (5.0, 1.5)}, **gain
    ).startswith("no")
    sizes = [v.measured for v in check_claims(PUBLISHED) if v.benchmark == "size"]
    assert sizes == ["–"] and {v.measured for v in check_claims(PUBLISHED) if v.benchmark != "size"} == {"not measured"}
    assert len(claims_ledger(PUBLISHED, measured(deltas), {name: how(model) for name, model in HUB.items()}).rows) == 9


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A folder with small sets under two benchmarks' names; the published counts are set to theirs."""
    folder = tmp_path / "sets"
    items = synthesize(16, 5, variety="plain")
    for name, part in {"medqa": items[:10], "pubmedqa": items[10:]}.items():
        source = benchmarks.SOURCES[name]
        monkeypatch.setitem(benchmarks.SOURCES, name, source._replace(count=len(part), options=None))
        write_items_jsonl(folder / f"{source.stem}.jsonl", part)
    return folder


def run(*words, sets, folder):
    fixed = [
        "evaluate",
        "--recipe",
        "published",
        "--benchmarks",
        str(sets),
        "--run",
        str(folder),
        "--set",
        "evaluation.max_new_tokens=8",
        "--set",
        "evaluation.benchmarks=[medqa, pubmedqa]",
    ]
    return CliRunner().invoke(app, [*fixed, *map(str, words)])


def stand_in(name, model):
    return ["--model", name, "--set", f"models.{name}.model={model}", "--set", f"models.{name}.engine=transformers"]


def test_names_are_evaluated_into_the_runs_ledger_and_a_second_run_loads_nothing(
    tiny_model, sets, tmp_path, monkeypatch
):
    own = tmp_path / "Qwen3-32B"  # a copy of the hub's model under its own name, as the ledger sees it
    shutil.copytree(tiny_model, own)
    folder = tmp_path / "run"
    words = [
        *stand_in("qwen-3-32b", own),
        *stand_in("llama-3.1-70b", tiny_model),
        "--set",
        "models.llama-3.1-70b.max_new_tokens=9",
    ]
    result = run(*words, sets=sets, folder=folder)
    assert result.exit_code == 0, result.output
    assert "Qwen 3 32B, MedQA: reported 84.4, measured" in result.output
    ledger = (folder / "tables" / "ledger.md").read_text(encoding="utf-8")
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line
        for line in ledger.splitlines()
        if line.startswith("| ")
    }
    assert (
        "reported value outside the interval" in rows["Qwen 3 32B", "MedQA"] and "| 10 |" in rows["Qwen 3 32B", "MedQA"]
    )
    assert (
        "no verdict: asked was tiny" in rows["Llama 3.1 70B Instruct", "PubMedQA"]
        and "not run" in rows["QwQ 32B", "MedQA"]
    )
    assert (folder / "tables" / "ledger.tex").exists() and (folder / "tables" / "claims_measured.md").exists()
    asked = json.loads((folder / "eval" / "asked.json").read_text())
    assert (asked["qwen-3-32b"]["max_new_tokens"], asked["llama-3.1-70b"]["max_new_tokens"]) == (8, 9)
    assert str(tmp_path) not in json.dumps(asked) + ledger
    monkeypatch.setattr("gazal.engines.load.load_engine", lambda *_, **__: pytest.fail("loaded again"))
    again = run(*words, sets=sets, folder=folder)
    assert again.exit_code == 0 and (folder / "tables" / "ledger.md").read_text(encoding="utf-8") == ledger


def test_one_model_that_cannot_be_had_does_not_stop_the_others(tiny_model, sets, tmp_path):
    result = run("--model", "gazal-r1", *stand_in("qwen-3-32b", tiny_model), sets=sets, folder=tmp_path / "run")
    assert isinstance(result.exception, GazalError) and str(result.exception) == "1 of 2 models not evaluated: gazal-r1"
    lines = [line for line in result.stderr.splitlines() if line.startswith("gazal: ")]
    assert (
        len(lines) == 1
        and lines[0].startswith("gazal: model TachyHealth/Gazal-R1-32B-GRPO-preview: ")
        and "HF_HUB_OFFLINE" in lines[0]
    )
    assert "no verdict: asked was tiny" in (tmp_path / "run" / "tables" / "ledger.md").read_text(encoding="utf-8")
    alone = run("--model", "gazal-r1", sets=sets, folder=tmp_path / "other")
    assert isinstance(alone.exception, GazalError) and "TachyHealth/Gazal-R1-32B-GRPO-preview" in str(alone.exception)
    assert not (tmp_path / "other" / "eval" / "scores.json").exists()


def test_a_model_too_large_for_its_device_is_one_line(tiny_model, sets, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr("gazal.engines.local.generate_batches", full)
    result = run(*stand_in("qwen-3-32b", tiny_model), sets=sets, folder=tmp_path / "run")
    assert isinstance(result.exception, GazalError) and "model qwen-3-32b: out of memory; `gazal plan`" in str(
        result.exception
    )


def test_several_models_and_benchmarks_after_one_option(tiny_model, tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        write_items_jsonl(tmp_path / f"{name}.jsonl", synthesize(4, seed, variety="plain"))
    shutil.copytree(tiny_model, tmp_path / "other")
    words = [
        "evaluate",
        "--model",
        tiny_model,
        tmp_path / "other",
        "--benchmark",
        tmp_path / "one.jsonl",
        tmp_path / "two.jsonl",
        "--out",
        tmp_path / "out",
        "--set",
        "evaluation.max_new_tokens=8",
    ]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {model: set(entry["benchmarks"]) for model, entry in scores["models"].items()} == {
        "tiny": {"one", "two"},
        "other": {"one", "two"},
    }
    assert not (tmp_path / "out" / "tables").exists()  # none of the paper's models


def test_a_server_stands_for_a_model_by_its_name(sets, tmp_path):
    pytest.importorskip("openai")
    with scripted_server() as (url, script):
        script.text = lambda body: "Step 1: it is so.\n</think>\n\n**Answer:** A"
        words = ["--model", "qwq-32b", "--set", f"models.qwq-32b.model=openai:{url}#Qwen/QwQ-32B"]
        result = run(*words, sets=sets, folder=tmp_path / "run")
        assert result.exit_code == 0, result.output
        asked = len(script.asked)
        assert run(*words, sets=sets, folder=tmp_path / "run").exit_code == 0 and len(script.asked) == asked == 16
    ledger = (tmp_path / "run" / "tables" / "ledger.md").read_text(encoding="utf-8")
    line = next(line for line in ledger.splitlines() if line.startswith("| QwQ 32B | MedQA"))
    assert (
        "side the interval" in line and "server" in ledger and "asked was Qwen/QwQ-32B" in ledger and url not in ledger
    )


def test_the_ledger_is_written_only_for_the_tables_models(tmp_path):
    assert write_ledger(tmp_path, {"models": {}}) == [] and not list(tmp_path.iterdir())
    (tmp_path / "asked.json").write_text("[1]")
    with pytest.raises(GazalError, match="asked.json: not a JSON object of protocols"):
        write_ledger(tmp_path, {"models": {}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--recipe", "embedded", "--model", "embedded"],
            "--out: not given, and runs/embedded/eval is for that run's own models",
        ),
        (["--recipe", "published"], r"no model is asked for \(the recipe knows gazal-r1"),
        (["--recipe", "published", "--model", "x", "--method", "guess"], "--method guess: expected generate or loglik"),
        (["--recipe", "published", "--model", "x", "--engine", "jax"], "--engine jax: expected transformers or vllm"),
    ],
)
def test_a_bad_call_is_one_line(words, message):
    result = CliRunner().invoke(app, ["evaluate", *words])
    assert (
        isinstance(result.exception, GazalError)
        and re.search(message, str(result.exception))
        and "\n" not in str(result.exception)
    )


def test_a_finished_stage_is_left_alone(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "manifest.json").write_text("{}")
    result = CliRunner().invoke(
        app, ["evaluate", "--recipe", "published", "--model", "embedded", "--run", str(tmp_path)]
    )
    assert isinstance(result.exception, GazalError) and "a finished stage of a run" in str(result.exception)


def test_an_engine_is_known_before_it_is_loaded(tiny_model):
    engine = LazyEngine(tiny_model, RECIPE.evaluation.model_copy(update={"engine": "transformers"}), "float32")
    assert engine.name == "tiny" and engine.identity.startswith("files:") and engine._loaded is None
    assert engine.opens_think([{"role": "user", "content": "?"}]) is False and engine._loaded is not None
    assert engine._loaded.identity == engine.identity
    engine.close()
    assert engine._loaded is None
    with pytest.raises(GazalError, match="no such folder"):
        LazyEngine("nowhere", RECIPE.evaluation)


def test_a_models_weights_are_hashed_once(tiny_model, monkeypatch):
    """The engine that is loaded takes the identity that was found before it: at 32B each reading takes minutes."""
    lazy = LazyEngine(tiny_model, EvaluationSection(), "float32")
    monkeypatch.setattr("gazal.engines.load.identity_of", lambda *_: pytest.fail("hashed again"))
    assert lazy.model is not None and lazy._engine().identity == lazy.identity
    lazy.close()
