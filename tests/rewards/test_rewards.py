"""The rewards: values, bounds, order, monotonicity, the TRL wrapper and the command line's two streams."""

import io
import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.recipe.rewards import COMPONENTS, RewardConfig
from gazal.rewards.functions import length_reward, repetition_reward, score_completion
from gazal.rewards.lines import extract_lines, reward_lines
from gazal.rewards.trl import trl_reward_functions

CASES = ROOT.parent / "shared" / "cases" / "data"
OPTIONS = {"A": "Aspirin", "B": "Warfarin", "C": "Heparin", "D": "Metformin"}
CFG = RewardConfig(max_tokens=200)


def completion(letter: str = "C", reasoning: str = "a fact speaks for it") -> str:
    return f"<think>\nStep 1: {reasoning}\n</think>\n\n## Clinical Assessment\n**Answer:** {letter}. {OPTIONS[letter]}"


RIGHT, WRONG = completion("C"), completion("A")


def total(text: str, cfg: RewardConfig = CFG, **kwargs: object) -> float:
    return score_completion(text, OPTIONS, "C", cfg=cfg, **kwargs).total  # type: ignore[arg-type]


def test_values_of_a_right_and_a_wrong_answer() -> None:
    right = score_completion(RIGHT, OPTIONS, "C", cfg=CFG, n_tokens=100)
    assert (right.accuracy, right.format, right.length, right.repetition) == (1.0, 1.0, 0.75, 0.0)
    assert right.total == pytest.approx(1.0 + 0.2 + 0.1 * 0.75)
    wrong = score_completion(WRONG, OPTIONS, "C", cfg=CFG, n_tokens=100)
    assert (wrong.accuracy, wrong.format, wrong.length, wrong.repetition) == (0.0, 1.0, 0.0, 0.0)


def test_length_is_clamped_and_counts_tokens() -> None:
    values = [length_reward(n, True, CFG) for n in (0, 100, 200, 201, 400, 10**6)]
    assert values == [1.0, 0.75, 0.5, 0.5, 0.5, 0.5]
    by_tokens = score_completion(RIGHT, OPTIONS, "C", token_ids=range(200), cfg=CFG).length
    by_words = score_completion(RIGHT, OPTIONS, "C", cfg=CFG).length
    assert by_tokens == 0.5 and by_words == length_reward(len(RIGHT.split()), True, CFG)


def test_overlong_is_trls() -> None:
    cfg = RewardConfig(length_kind="overlong", max_tokens=100, overlong_start=0.8)
    assert [length_reward(n, True, cfg) for n in (0, 80, 90, 100, 101)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert length_reward(50, True, RewardConfig(length_kind="none")) == 0.0


def test_repetition_counts_repeated_ngrams_up_to_the_budget() -> None:
    cfg = RewardConfig(repetition_ngram=3, repetition_budget=4)
    assert repetition_reward([1, 2, 3, 4, 1, 2], cfg) == 0.0
    assert repetition_reward([1, 2, 3, 1, 2, 3], cfg) == -0.25
    assert repetition_reward([5] * 100, cfg) == -1.0
    assert repetition_reward([], cfg) == repetition_reward([1, 1], cfg) == 0.0


@pytest.mark.parametrize(
    "cfg",
    [
        CFG,
        RewardConfig(length_kind="overlong"),
        RewardConfig(length_kind="none", format_partial=0.5),
        RewardConfig(repetition_max_penalty=0.0),
    ],
)
def test_empty_and_truncated_get_exactly_the_least(cfg: RewardConfig) -> None:
    least = cfg.bounds()[0]
    assert total("", cfg) == total(" \n\t", cfg) == total("\u200b", cfg) == total(RIGHT, cfg, truncated=True) == least
    assert total(RIGHT.partition("</think>")[0], cfg) == total(RIGHT, cfg, think_open=True, truncated=True) == least
    assert total(WRONG, cfg) > least


def test_partial_format_only_when_asked() -> None:
    trailing = RIGHT + "\nI hope this helps."
    assert score_completion(trailing, OPTIONS, "C", cfg=CFG).format == 0.0
    assert score_completion(trailing, OPTIONS, "C", cfg=RewardConfig(format_partial=0.3)).format == 0.3
    assert score_completion("C", OPTIONS, "C", cfg=RewardConfig(format_partial=0.3)).format == 0.0


def test_prefilled_think() -> None:
    rest = RIGHT.removeprefix("<think>")
    assert score_completion(rest, OPTIONS, "C", cfg=CFG, think_open=True).format == 1.0
    assert score_completion(RIGHT, OPTIONS, "C", cfg=CFG, think_open=True).format == 0.0


@pytest.mark.parametrize(
    "bad",
    [{"cosine_wrong_long": 0.1}, {"cosine_wrong_short": 0.6}, {"cosine_correct_short": 0.4}, {"accuracy_weight": 0.0}, {"unknown": 1},
     {"format_weight": -0.1}, {"max_tokens": 0}, {"max_tokens": 1.5}, {"repetition_max_penalty": 0.5}, {"length_weight": math.inf},
     {"cosine_correct_short": math.nan}],
)  # fmt: skip
def test_impossible_configurations_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RewardConfig(**bad)  # type: ignore[arg-type]


def test_every_field_says_what_it_is_and_where_it_comes_from() -> None:
    for name, field in RewardConfig.model_fields.items():
        assert field.description and any(f"source: {s}" in field.description for s in ("paper", "card", "chosen, ")), (
            name
        )


weights = st.floats(0, 3)
configs = st.builds(
    lambda cosine, **fields: RewardConfig(
        **dict(zip(("cosine_correct_short", "cosine_correct_long", "cosine_wrong_short", "cosine_wrong_long"), sorted(cosine, reverse=True), strict=True)),
        **fields,
    ),
    cosine=st.lists(st.floats(-2, 2), min_size=4, max_size=4), accuracy_weight=st.floats(0.01, 3), format_weight=weights,
    length_weight=weights, repetition_weight=weights, format_partial=st.floats(0, 0.9), length_kind=st.sampled_from(["cosine", "overlong", "none"]),
    max_tokens=st.integers(1, 500), overlong_start=st.floats(0, 1), repetition_ngram=st.integers(1, 6),
    repetition_budget=st.integers(1, 100), repetition_max_penalty=st.floats(-2, 0),
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=120),
    st.sampled_from(
        [RIGHT, WRONG, RIGHT + "\nmore", "Answer: C", "C or A", "<think>Step 1: C", "heparin", "heparin, not aspirin"]
    ),
    st.builds(completion, st.sampled_from("ABCD"), st.text(max_size=80)),
)


@given(texts, configs, st.none() | st.lists(st.integers(0, 5), max_size=80), st.booleans())
@settings(max_examples=300)
def test_bounded_and_deterministic(text: str, cfg: RewardConfig, ids: list[int] | None, truncated: bool) -> None:
    scores = score_completion(text, OPTIONS, "C", token_ids=ids, truncated=truncated, cfg=cfg)
    assert scores == score_completion(text, OPTIONS, "C", token_ids=ids, truncated=truncated, cfg=cfg)
    low, high = cfg.bounds()
    assert low - 1e-9 <= scores.total <= high + 1e-9
    for name, (least, most) in cfg.component_bounds().items():
        assert least - 1e-9 <= getattr(scores, name) <= most + 1e-9, name


@given(st.text("abcdefgh \n", max_size=200), configs, st.integers(0, 600))
@settings(max_examples=300)
def test_wrong_never_outranks_right_of_the_same_form(reasoning: str, cfg: RewardConfig, n_tokens: int) -> None:
    right, wrong = (total(completion(letter, reasoning), cfg, n_tokens=n_tokens, token_ids=[1] * 20) for letter in "CA")
    assert right > wrong


@given(st.sampled_from([RIGHT, WRONG, "Answer: C", "Answer: A", "C", "heparin", "Answer: C. Aspirin", "A or C", RIGHT + "\nx"]),
       st.lists(st.sampled_from(["zq", "foo", "the", "42", "\n", "—", "*", "lorem ipsum", "Step 3: x"]), min_size=1, max_size=60), configs)  # fmt: skip
@settings(max_examples=400)
def test_junk_before_after_or_in_the_reasoning_never_pays(text: str, words: list[str], cfg: RewardConfig) -> None:
    junk = " ".join(words)
    padded = [text + " " + junk, text + "\n" + junk, junk + " " + text, junk + "\n" + text]
    if "</think>" in text:
        padded.append(text.replace("\n</think>", f"\n{junk}\n</think>"))
    assert max(total(p, cfg) for p in padded) <= total(text, cfg) + 1e-9


@given(st.lists(st.integers(0, 4), max_size=60), st.lists(st.integers(0, 9), max_size=60), configs)
@settings(max_examples=300)
def test_padding_never_dilutes_repetition(ids: list[int], padding: list[int], cfg: RewardConfig) -> None:
    alone = repetition_reward(ids, cfg)
    assert max(repetition_reward(ids + padding, cfg), repetition_reward(padding + ids, cfg)) <= alone + 1e-12


@given(
    st.lists(st.integers(-3, 3) | st.integers(0, 2**40), max_size=80)
    | st.lists(st.sampled_from(["a", "b", "c"]), max_size=80),
    st.integers(1, 9),
)
@settings(max_examples=300)
def test_repetition_is_all_n_grams_less_the_distinct_ones(tokens: list[object], size: int) -> None:
    grams = list(zip(*(tokens[i:] for i in range(size)), strict=False))
    cfg = RewardConfig(repetition_ngram=size, repetition_budget=100)
    assert repetition_reward(tokens, cfg) == pytest.approx(-min(1.0, (len(grams) - len(set(grams))) / 100))


EOS = 9


@given(st.lists(st.tuples(texts, st.sampled_from("ABCD"), st.booleans()), min_size=1, max_size=8), st.randoms())
@settings(max_examples=60)
def test_batches_do_not_matter(rows: list[tuple[str, str, bool]], random: object) -> None:
    def score(batch: list[tuple[str, str, bool]]) -> list[tuple[float, ...]]:
        columns = [
            function([[{"role": "assistant", "content": t}] for t, _, _ in batch], completion_ids=[[1, 2, EOS if ended else 3] for *_, ended in batch],
                     options=[json.dumps(OPTIONS)] * len(batch), answer_idx=[a for _, a, _ in batch], prompts=None, trainer_state=None)
            for function in trl_reward_functions(CFG, eos_token_id=EOS)
        ]  # fmt: skip
        return list(zip(*columns, strict=True))

    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    whole = score(rows)
    assert score([rows[i] for i in order]) == [whole[i] for i in order]
    assert [score([row])[0] for row in rows] == whole


def test_trl_functions_read_every_form_of_batch() -> None:
    functions = trl_reward_functions(CFG, eos_token_id=[EOS, 8])
    assert [f.__name__ for f in functions] == list(COMPONENTS) and len(CFG.weights()) == 4
    filled = OPTIONS | dict.fromkeys("EFGHIJ")
    kwargs = {"answer_idx": ["C"] * 3, "completion_ids": [[1, EOS], [1, 8], [1, 2]], "log_metric": print}
    for completions in ([RIGHT] * 3, [[{"role": "assistant", "content": RIGHT}]] * 3):
        for options in ([filled] * 3, [json.dumps(OPTIONS)] * 3):
            assert functions[0](completions=completions, options=options, **kwargs) == [1.0, 1.0, 0.0]
            assert functions[1](completions=completions, options=options, **kwargs) == [1.0, 1.0, 0.0]
    assert functions[0]([RIGHT], options=[filled], answer_idx=["C"]) == [1.0]
    assert functions[0](["Answer: E"], options=[filled], answer_idx=["E"]) == [0.0]
    assert pickle.loads(pickle.dumps(functions[3]))([RIGHT], options=[filled], answer_idx=["C"]) == [0.0]


def test_each_completion_is_extracted_once_for_all_four(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    import gazal.rewards.functions as rewards

    original = rewards.extract
    monkeypatch.setattr(rewards, "extract", lambda *args: calls.append(args[0]) or original(*args))
    completions, columns = (
        [RIGHT, WRONG],
        {"options": [OPTIONS] * 2, "answer_idx": ["C"] * 2, "completion_ids": [[1, EOS]] * 2},
    )
    functions = trl_reward_functions(CFG)
    columns_of = [function(completions, **columns) for function in functions]
    assert calls == [RIGHT, WRONG] and columns_of[0] == [1.0, 0.0]
    assert functions[0]([WRONG, RIGHT], **columns) == [0.0, 1.0] and len(calls) == 4


def run(function: object, *rows: object) -> list[dict[str, object]]:
    out = io.StringIO()
    function([row if isinstance(row, str) else json.dumps(row) for row in rows], out)  # type: ignore[operator]
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_extract_lines() -> None:
    rows = [
        {"completion": RIGHT, "options": OPTIONS},
        "\n",
        {"completion": "Rest.", "options": OPTIONS | {"E": None}, "id": 3},
    ]
    assert run(extract_lines, *rows) == [{"letter": "C", "reason": "ok"}, {"letter": None, "reason": "no_answer"}]
    prefilled = {"completion": "</think>\ud83dAnswer: C", "options": OPTIONS, "think_open": True}
    assert run(extract_lines, prefilled) == [{"letter": "C", "reason": "ok"}]


def test_a_byte_order_mark_before_the_first_line_is_skipped() -> None:
    row = json.dumps({"completion": RIGHT, "options": OPTIONS, "answer_idx": "C"})
    for function in (extract_lines, reward_lines):
        assert run(function, "\ufeff" + row) == run(function, "\ufeff\n", row) == run(function, row)
    with pytest.raises(GazalError, match="row 2: not JSON"):
        run(extract_lines, row, "\ufeff" + row)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_shared_case_with_a_byte_order_mark_is_read() -> None:
    assert run(extract_lines, (CASES / "stdin_bom.jsonl").read_text(encoding="utf-8")) == [
        {"letter": "B", "reason": "ok"}
    ]


def test_reward_lines() -> None:
    row = {"completion": RIGHT, "options": OPTIONS, "answer_idx": "C"}
    scores = run(reward_lines, row, row | {"truncated": True}, row | {"n_tokens": 2048})
    assert list(scores[0]) == [*COMPONENTS, "total"] and scores[0]["accuracy"] == 1.0
    assert scores[1]["total"] == pytest.approx(RewardConfig().bounds()[0]) and scores[2]["length"] == 0.5


@pytest.mark.parametrize(
    ("row", "what"),
    [('{"completion": "C", "opt', "row 2: not JSON"), ("[1]", "row 2: Input should be a valid dictionary"), ({"options": OPTIONS}, "row 2: completion: Field required"),
     ({"completion": 3, "options": OPTIONS}, "completion: Input should be an instance of str"), ({"completion": "C"}, "options: Field required"),
     ({"completion": "C", "options": {"A": "x"}}, "options: fewer than two"), ({"completion": "C", "options": {"A": "x", "K": "y"}}, "options.K.[key]: Input should be 'A', "),
     ({"completion": "C", "options": {"A": "x", "B": 2}}, "options.B: Input should be an instance of str"), ({"completion": "C", "options": OPTIONS, "answer_idx": "C", "think_open": 1}, "think_open"),
     ("[" * 100_000, "row 2: not JSON"), ('{"completion": "B", "completion": "C"}', "row 2: key 'completion' is there twice in one object"),
     ('{"completion": "B", "options": {"A": "x", "B": "y", "B": "z"}, "answer_idx": "A"}', "row 2: key 'B' is there twice in one object")],
)  # fmt: skip
def test_bad_lines_are_one_clear_line(row: object, what: str) -> None:
    good = {"completion": RIGHT, "options": OPTIONS, "answer_idx": "C"}
    for function in (extract_lines, reward_lines):
        with pytest.raises(GazalError) as error:
            run(function, good, row)
        assert (
            str(error.value).startswith("<stdin>: row 2") and what in str(error.value) and "\n" not in str(error.value)
        )


@pytest.mark.parametrize(
    ("change", "what"),
    [({"answer_idx": "E"}, "answer_idx: 'E'"), ({"answer_idx": None}, "answer_idx: Input should be an instance of str"), ({"n_tokens": -1}, "n_tokens: Input should be greater than or equal to 0"),
     ({"n_tokens": True}, "n_tokens: Input should be a valid integer"), ({"truncated": "no"}, "truncated: Input should be a valid boolean")],
)  # fmt: skip
def test_bad_reward_fields(change: dict[str, object], what: str) -> None:
    with pytest.raises(GazalError, match=f"<stdin>: row 1: {what}"):
        run(reward_lines, {"completion": RIGHT, "options": OPTIONS, "answer_idx": "C"} | change)


def test_hostile_text_is_scored() -> None:
    for piece in (
        "Step 1: x ",
        "Step 1",
        "\n",
        "*",
        "**Answer:** C\n",
        "Answer: C. ",
        "</think>",
        "<think>\nStep 1: x\n</think>\nAnswer: C ***",
    ):
        text = "<think>\nStep 1: x\n</think>\n" + piece * (500_000 // len(piece))
        score_completion(text, OPTIONS, "C", token_ids=[1, EOS], cfg=CFG)
        score_completion(
            "<think>\n" + piece * (500_000 // len(piece)) + "</think>\nAnswer: C",
            OPTIONS,
            "C",
            token_ids=[1, EOS],
            cfg=CFG,
        )
