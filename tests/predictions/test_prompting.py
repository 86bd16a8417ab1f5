"""Prompts: the two forms to the byte, shots that are never asked, a header that tells prompts apart, and one text for every engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.items import make_item
from helpers.openai_server import scripted_server
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.answers.extract import extract
from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.data.benchmarks import load_benchmark
from gazal.data.repeats import asking
from gazal.engines.load import load_engine
from gazal.engines.reply import Reply
from gazal.evaluation.command import evaluate_command
from gazal.evaluation.predict import predict
from gazal.items.schema import Item
from gazal.items.writing import write_items_jsonl
from gazal.models.loading import load_tokenizer
from gazal.models.rendering import Renderer
from gazal.predictions.file import read_header, read_predictions
from gazal.predictions.prompting import Prompting, draw_shots, prompting_of
from gazal.recipe.evaluation import EvaluationSection
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe

FOLDER = ROOT.parent / "shared" / "benchmarks"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks folder is not here")
ITEM = Item(
    id="i",
    question="Which one?",
    context=["First.", "Second: ≥ 5 µg."],
    options={"A": "this", "B": "thät", "C": "癌"},
    answer_idx="B",
)
SHOT = Item(id="s", question="And here?", options={"A": "yes", "B": "no"}, answer_idx="A")
THOUGHT = SHOT.model_copy(update={"id": "t", "reasoning": "Step 1: it is so."})


def recipe(**evaluation: object) -> Recipe:
    return Recipe.model_validate({"seed": 3, "model": {"system": "Sys."}, "evaluation": evaluation})


def evaluate_quiz(model, folder, recipe, said):
    """Run ``gazal evaluate`` on ``folder/quiz.jsonl`` into ``folder/out``."""
    evaluate_command(
        str(model),
        [str(folder / "quiz.jsonl")],
        limit=None,
        samples=None,
        out=folder / "out",
        recipe=recipe,
        say=said.append,
    )


def test_the_chat_form_to_the_byte():
    asked = {"role": "user", "content": "First.\nSecond: ≥ 5 µg.\nWhich one?\nA. this\nB. thät\nC. 癌"}
    assert Prompting().prompt(ITEM) == [asked]
    assert Prompting("Sys.", instruction="Be brief.", shots=(SHOT, THOUGHT)).prompt(ITEM) == [
        {"role": "system", "content": "Sys."},
        {"role": "user", "content": "And here?\nA. yes\nB. no\nBe brief."},
        {"role": "assistant", "content": "**Answer:** A"},
        {"role": "user", "content": "And here?\nA. yes\nB. no\nBe brief."},
        {
            "role": "assistant",
            "content": "<think>\nStep 1: it is so.\n</think>\n\n## Clinical Assessment\n**Answer:** A",
        },
        {"role": "user", "content": asked["content"] + "\nBe brief."},
    ]


def test_the_plain_form_to_the_byte():
    asked = "First.\nSecond: ≥ 5 µg.\nQuestion: Which one?\nA. this\nB. thät\nC. 癌\nAnswer:"
    assert Prompting(style="plain").prompt(ITEM) == asked
    shown = "Question: And here?\nA. yes\nB. no\nLetter only.\nAnswer: A"
    prompting = Prompting("Sys.", style="plain", instruction="Letter only.", shots=(SHOT, THOUGHT))
    assert (
        prompting.prompt(ITEM) == f"Sys.\n\n{shown}\n\n{shown}\n\n{asked.replace('Answer:', 'Letter only.')}\nAnswer:"
    )


@here
def test_plain_medqa_is_lm_evals_medqa():
    """https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/tasks/medqa/preprocess_medqa.py: question, four options, "Answer:"."""
    for item in load_benchmark("medqa", FOLDER, 20):
        a, b, c, d = item.options.values()
        assert (
            Prompting(style="plain").prompt(item)
            == f"Question: {item.question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"
        )


@pytest.mark.parametrize("shots", [(), (SHOT,), (SHOT, THOUGHT)])
@pytest.mark.parametrize("style", ["chat", "plain"])
def test_every_engine_sees_the_same_bytes(tiny_model, style, shots):
    """What a model in this process is given, and what one behind a server is: a plain text as it is, messages to which the server puts the same template."""
    prompt = Prompting("Sys.", style=style, shots=shots).prompt(ITEM)
    with scripted_server() as (url, script):
        ((reply,),) = load_engine(f"openai:{url}#m").complete([prompt], EvaluationSection(), 1, ())
    assert reply.text == "**Answer:** A"
    tokenizer = load_tokenizer(tiny_model)
    rendered = Renderer(tokenizer, "m").text(prompt)
    sent = script.asked[0]["prompt" if style == "plain" else "messages"]
    assert (
        rendered.encode()
        == (
            sent
            if style == "plain"
            else tokenizer.apply_chat_template(sent, tokenize=False, add_generation_prompt=True)
        ).encode()
    )
    assert all(
        text in rendered
        for text in (
            *ITEM.context,
            ITEM.question,
            *(f"{letter}. {text}" for letter, text in ITEM.options.items()),
            *(shot.question for shot in shots),
        )
    )


PROMPTINGS = st.builds(
    Prompting,
    st.sampled_from(["", "Sys."]),
    st.booleans(),
    st.sampled_from(["chat", "plain"]),
    st.sampled_from(["", "Be brief."]),
    st.lists(st.sampled_from([SHOT, THOUGHT, make_item(1), make_item(2), make_item(2, id="item-1")]), max_size=3).map(
        tuple
    ),
)


@settings(max_examples=200)
@given(one=PROMPTINGS, other=PROMPTINGS)
def test_another_prompt_has_another_header(one, other):
    assert json.loads(json.dumps(one.header())) == one.header()
    if one.prompt(ITEM) != other.prompt(ITEM):
        assert one.header() != other.header()
    if one == other:
        assert one.header() == other.header()


@settings(max_examples=60)
@given(
    count=st.integers(0, 12),
    asked=st.sets(st.integers(0, 15)),
    seed=st.integers(0, 9),
    copied=st.sets(st.integers(0, 9)),
)
def test_shots_are_seeded_new_and_never_asked(count, asked, seed, copied):
    candidates = [*(make_item(n) for n in range(10)), *(make_item(n, id=f"copy-{n}") for n in sorted(copied))]
    items = [make_item(n, id=f"{'item' if n % 2 else 'other'}-{n}") for n in sorted(asked)]
    shots = draw_shots(candidates, count, seed, items)
    assert shots == draw_shots(candidates, count, seed, items)
    assert len(shots) == min(count, 10 - len(asked & set(range(10)))) == len(set(map(asking, shots)))
    assert not {shot.id for shot in shots} & {item.id for item in items} and not set(map(asking, shots)) & set(
        map(asking, items)
    )
    free = draw_shots(candidates, count, seed)
    if not {shot.question for shot in free} & {item.question for item in items}:
        assert free == shots  # which items are asked changes nothing


def test_the_rows_of_two_files_without_ids_are_not_the_same_items():
    asked, others = ([make_item(n + at, id=f"row-{n}") for n in range(3)] for at in (0, 10))
    assert len(draw_shots(others, 3, 0, asked)) == 3 and draw_shots(asked, 3, 0, asked) == ()


def write_sets(folder: Path) -> Path:
    write_items_jsonl(folder / "medqa_dev_4opt_mediq.jsonl", [make_item(n, id=f"dev-{n}") for n in range(50)])
    rows = [make_item(n, subject="x").model_dump(exclude_none=True) for n in range(50, 80)]
    (folder / "medmcqa_train_selfbiorag.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != "id"}) + "\n" for row in rows)
    )
    return folder


def test_each_benchmark_has_shots_of_its_own(tmp_path):
    folder, items = write_sets(tmp_path), [make_item(n) for n in range(20)]
    one, other = (prompting_of(recipe(few_shot=4), name, items, folder) for name in ("medqa", "medmcqa"))
    assert len(one.shots) == len(other.shots) == 4 and not {shot.question for shot in one.shots} & {
        item.question for item in items
    }
    assert {shot.id.split("-")[0] for shot in one.shots} == {"dev"} and {
        shot.id.split("-")[0] for shot in other.shots
    } == {"row"}
    assert one == prompting_of(recipe(few_shot=4), "medqa", items[::-1], folder)
    assert one.shots[:2] == prompting_of(recipe(few_shot=2), "medqa", items, folder).shots
    assert (one.system, one.style, one.opens_think) == ("Sys.", "chat", False)


def test_shots_of_a_file_and_of_the_runs_dev_split(tmp_path):
    write_items_jsonl(tmp_path / "mine.jsonl", [make_item(n, reasoning=f"Step 1: {n}.") for n in range(9)])
    for changed in ({"few_shot_items": str(tmp_path / "mine.jsonl")}, {}):
        found = prompting_of(
            recipe(few_shot=3, **changed), "test", [make_item(4)], None, None if changed else tmp_path / "mine.jsonl"
        )
        assert len(found.shots) == 3 and all(
            turn["content"].startswith("<think>\nStep 1: ") for turn in found.prompt(ITEM)[2:-1:2]
        )


@pytest.mark.parametrize(
    ("evaluation", "benchmark", "message"),
    [
        (
            {"few_shot": 2},
            "quiz",
            "evaluation.few_shot=2: quiz has no development items: give evaluation.few_shot_items=FILE",
        ),
        (
            {"few_shot": 51},
            "medqa",
            "evaluation.few_shot=51: medqa's development items: 50 items that are not asked themselves",
        ),
        (
            {"few_shot": 2},
            "pubmedqa",
            "no development items .pubmedqa: pubmedqa_train500.jsonl.gz is not in the benchmarks folder.; give evaluation.few_shot_items=FILE",
        ),
        ({"few_shot": 2, "few_shot_items": "absent.jsonl"}, "medqa", "absent.jsonl: no such file"),
    ],
)
def test_shots_that_cannot_be_had_are_one_line(tmp_path, evaluation, benchmark, message):
    with pytest.raises(GazalError, match=message) as caught:
        prompting_of(recipe(**evaluation), benchmark, [], write_sets(tmp_path))
    assert "\n" not in str(caught.value)


def test_shots_without_reasoning_are_said_where_the_model_may_think(tiny_model, tmp_path):
    thinks, chat = EvaluationSection(thinking="on"), Prompting(shots=(SHOT, THOUGHT))
    assert chat.caution(thinks).startswith("1 of 2 solved items shown have no reasoning: ") and chat.caution(
        EvaluationSection()
    )
    assert (
        Prompting(shots=(THOUGHT,)).caution(thinks)
        is Prompting().caution(thinks)
        is Prompting(style="plain", shots=(SHOT,)).caution(EvaluationSection())
        is None
    )
    assert chat.caution(EvaluationSection(thinking="off")) is chat.caution(EvaluationSection(method="loglik")) is None
    write_items_jsonl(tmp_path / "quiz.jsonl", [make_item(0)])
    write_items_jsonl(tmp_path / "shots.jsonl", [make_item(1)])
    said: list[str] = []
    made = recipe(few_shot=1, few_shot_items=str(tmp_path / "shots.jsonl"), max_new_tokens=8)
    evaluate_quiz(tiny_model, tmp_path, made, said)
    assert [line.startswith("quiz: 1 of 1 solved items shown have no reasoning") for line in said[:1]] == [True]


@here
def test_real_shots_are_never_asked():
    for name in ("medqa", "medmcqa", "pubmedqa", "mmlu_pro_medical"):
        items = load_benchmark(name, FOLDER)
        shots = prompting_of(recipe(few_shot=5), name, items, FOLDER).shots
        assert len(shots) == 5 and not set(map(asking, shots)) & set(map(asking, items))
        assert all(shot.context for shot in shots) == (name == "pubmedqa")
    items = load_benchmark("medmcqa", FOLDER)
    assert (
        len(prompting_of(recipe(few_shot=999), "medmcqa", items, FOLDER).shots) == 999
    )  # all but the one that is in the test set
    with pytest.raises(GazalError, match="999 items that are not asked"):
        prompting_of(recipe(few_shot=1000), "medmcqa", items, FOLDER)


def test_without_shots_nothing_is_read():
    assert prompting_of(recipe(few_shot_items="absent.jsonl"), "quiz", [ITEM]) == Prompting("Sys.")
    plain = prompting_of(
        Recipe.model_validate(
            {"model": {"prompt_opens_think": True}, "evaluation": {"prompt": "plain", "instruction": "X."}}
        )
    )
    assert (plain.style, plain.instruction, plain.opens_think) == ("plain", "X.", False)
    assert prompting_of(load_recipe("card")).system.startswith("You are a careful clinical reasoner.")


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        (" B", " B"),
        (" B\n\nQuestion: What?\nA. x\nB. y\nAnswer: C", " B"),
        (" B. two  \n Question: And?", " B. two"),
        ("\nQuestion: ?", ""),
        (" B. Question: none", " B. Question: none"),
    ],
)
def test_a_plain_completion_ends_where_the_model_asks_a_question_of_its_own(completion, kept):
    assert completion[: Prompting(style="plain").end(completion)] == kept
    assert Prompting().end(completion) is None


class Continuing:
    name = identity = "continuing"

    def opens_think(self, prompt):
        return None

    def complete(self, prompts, settings, seed, done):
        assert all(isinstance(prompts[i], str) for i in range(len(prompts)))
        yield [
            Reply(i, " B\n\nQuestion: What now?\nA. x\nB. y\nAnswer: C\n\nQuestion: ", 30, "length")
            for i in range(len(prompts))
            if i not in done
        ]


def test_the_answer_to_a_question_of_the_models_own_is_not_scored(tmp_path):
    out = predict(
        Continuing(),
        [make_item(n) for n in range(4)],
        EvaluationSection(prompt="plain"),
        tmp_path / "b.parquet",
        prompting=Prompting(style="plain"),
        seed=1,
        say=lambda line: None,
    )
    rows = read_predictions(out)
    assert (
        set(rows["letter"]) == {"B"}
        and set(rows["completion"]) == {" B"}
        and set(rows["finish_reason"]) == {"stop"}
        and set(rows["n_tokens"]) == {30}
    )
    assert extract(rows["completion"][0], make_item(1).options).letter == "B"


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_a_real_model_is_asked_with_shots(tiny_model, tmp_path, style):
    write_items_jsonl(tmp_path / "quiz.jsonl", [make_item(n) for n in range(6)])
    write_items_jsonl(tmp_path / "shots.jsonl", [make_item(n) for n in range(3, 12)])
    made = recipe(prompt=style, few_shot=2, few_shot_items=str(tmp_path / "shots.jsonl"), max_new_tokens=8)
    said: list[str] = []
    evaluate_quiz(tiny_model, tmp_path, made, said)
    header = read_header(tmp_path / "out" / "tiny" / "quiz.parquet")["prompt"]
    assert (header["style"], header["few_shot"], len(header["shots"])) == (style, 2, 64)
    again = made.model_copy(update={"seed": 4})
    with pytest.raises(GazalError, match="another prompt"):
        evaluate_quiz(tiny_model, tmp_path, again, said)
