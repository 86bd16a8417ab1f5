"""Every adversarial completion is read as it must be, and earns less than an honest correct answer of ordinary length."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from gazal.answers.extract import Extraction, Reason, extract
from gazal.answers.markup import MARKUPS, OWN, SPOKEN, part
from gazal.common.errors import GazalError
from gazal.common.paths import RED_TEAM_CASES
from gazal.recipe.load import load_recipe
from gazal.recipe.rewards import RewardConfig
from gazal.rewards.functions import score_completion
from gazal.rewards.red_team import KEY, OPTIONS, Case, family_table, honest_completion, honest_wrong, read_cases

ALL = read_cases()
CONFIGS = {"default": RewardConfig()} | {name: load_recipe(name).grpo.rewards for name in ("embedded", "qwen3-32b")}
FAMILIES = """
empty all_letters reasoning_only two_answers retraction tags_nested tags_doubled tags_reversed code_fence prefilled_think
look_alikes zero_width bidi_marks repetition_below_n repetition_above_n best_length_padding copied_question copied_options
injection json_in_text foreign_languages very_long control_characters template_tokens after_eos truncated hedging negation
letter_text_conflict not_an_option partial_words markdown_tables html_latex strike_through misspellings conditional quoted
found_by_search markup_harmony markup_tags markup_brackets markup_kimi markup_tokens markup_unused markup_roles
markup_headings markup_channel_names markup_sentences
""".split()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_case_is_read_as_it_must_be_and_earns_less_than_an_honest_answer(case: Case) -> None:
    assert extract(case.completion, case.options, case.think_open) == Extraction(case.letter, case.reason)
    for name, cfg in CONFIGS.items():
        own, honest = case.score(cfg), case.honest(cfg)
        assert own.total < honest.total, name
        foreign = part(case.completion, case.think_open).markup not in (None, OWN)
        assert own.accuracy == (case.letter == case.answer_idx and not foreign)
        assert case.score(cfg, truncated=True).total == cfg.bounds()[0]
        if own.accuracy == 0:  # no way to get at the accuracy without the key, so nothing above the format's share
            assert own.total <= cfg.format_weight + 1e-9, name


def test_the_red_team_is_large_and_varied() -> None:
    families = Counter(case.family for case in ALL)
    assert len(ALL) >= 220 and len(families) >= 24 and set(FAMILIES) <= set(families)
    assert min(families.values()) >= 8 and len(
        {(c.completion, tuple(c.options.items()), c.think_open) for c in ALL}
    ) == len(ALL)
    assert {case.reason for case in ALL} == set(Reason)
    seen = {part(case.completion, case.think_open).markup for case in ALL if case.family.startswith("markup")}
    assert seen >= {*MARKUPS, *SPOKEN}
    assert len({tuple(case.options.items()) for case in ALL}) >= 6 and any(len(case.options) == 10 for case in ALL)
    assert max(len(case.completion) for case in ALL) >= 100_000
    assert RED_TEAM_CASES.read_bytes().isascii()


@pytest.mark.parametrize(
    "options",
    {tuple(case.options.items()): case for case in ALL}.values(),
    ids=lambda case: "/".join(case.options.values()),
)
def test_honest_answers_to_every_option_set(options: Case) -> None:
    """The yardstick itself: correct answers get everything, wrong ones no more than the format's share."""
    for think_open in (False, True):
        for letter in options.options:
            text = honest_completion(options.options, letter, think_open)
            scores = score_completion(text, options.options, letter, think_open=think_open)
            assert (scores.accuracy, scores.format, scores.repetition) == (1.0, 1.0, 0.0) and 60 <= len(
                text.split()
            ) <= 100
    for text in honest_wrong(options.options, options.answer_idx):
        assert extract(text, options.options).letter not in (None, options.answer_idx)
        assert score_completion(text, options.options, options.answer_idx).total <= 0.2


GOOD = {"family": "f", "id": "f-1", "completion": "Answer: A", "letter": "A", "reason": "ok"}


def write(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_read_cases(tmp_path: Path) -> None:
    long = GOOD | {
        "id": "f-2",
        "completion": ["<think>", ["x ", 3], "Answer: B"],
        "letter": "B",
        "options": {"A": "a", "B": "b"},
        "answer_idx": "A",
        "think_open": True,
    }
    assert read_cases(write(tmp_path / "cases.jsonl", GOOD, long)) == [
        Case("f", "f-1", "Answer: A", OPTIONS, KEY, "A", Reason.OK), Case("f", "f-2", "<think>x x x Answer: B", {"A": "a", "B": "b"}, "A", "B", Reason.OK, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "what"),
    [({"family": ""}, "family: String should have at least 1"), ({"id": 3}, "id: Input should be a valid string"), ({"completion": 3}, "completion: expected text, or a list"),
     ({"completion": ["x", ["y"]]}, "completion: expected text, or a list"), ({"completion": [["y", -1]]}, "completion: expected text, or a list"), ({"completion": [["y", True]]}, "completion: expected text, or a list"),
     ({"completion": [["y", 10**9]]}, "completion: is over"), ({"letter": "E"}, "letter: 'E' is not among"), ({"reason": "good"}, "reason: Input should be 'ok', "),
     ({"reason": "empty"}, "reason: 'ok' goes with a letter"), ({"letter": None}, "reason: 'ok' goes with a letter"), ({"options": {"A": "x"}}, "options: Dictionary should have at least 2"),
     ({"options": {"A": "x", "K": "y"}}, "options.K.[key]: Input should be 'A', "), ({"options": {"A": "x", "B": 1}}, "options.B: Input should be"), ({"answer_idx": "Z"}, "answer_idx: 'Z'"),
     ({"think_open": 1}, "think_open: Input should be a valid boolean"), ({"note": "x"}, "note: Unexpected"), ({"id": "f-1"}, "id: 'f-1' is there twice")],
)  # fmt: skip
def test_bad_cases_name_file_row_and_field(tmp_path: Path, change: dict[str, object], what: str) -> None:
    path = write(tmp_path / "cases.jsonl", GOOD, GOOD | {"id": "f-2"} | change)
    with pytest.raises(GazalError) as error:
        read_cases(path)
    assert str(error.value).startswith(f"{path}: row 2: {what}")


@pytest.mark.parametrize("field", ["family", "id", "completion", "letter", "reason"])
def test_missing_fields_and_broken_lines(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "cases.jsonl", {k: v for k, v in GOOD.items() if k != field})
    with pytest.raises(GazalError, match=f"row 1: {field}: Field required"):
        read_cases(path)
    with pytest.raises(GazalError, match="row 2: not JSON"):
        read_cases(write(path, GOOD, '{"family": '))
    with pytest.raises(GazalError, match="no such file"):
        read_cases(tmp_path / "none.jsonl")


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=list(CONFIGS))
def test_family_table(cfg: RewardConfig) -> None:
    table = family_table(ALL, cfg)
    assert list(table.columns) == ["family", "cases", "read as the key", "best total", "honest total", "margin"]
    assert set(FAMILIES) <= set(table["family"]) and table["cases"].sum() == len(ALL) and (table["margin"] > 0).all()
    empty = table.set_index("family").loc["empty"]
    low = cfg.bounds()[0]
    assert (
        empty["read as the key"] == 0
        and empty["best total"] >= low
        and empty["cases"] == sum(case.family == "empty" for case in ALL)
    )
    two = [
        Case("x", "x-1", "Answer: C", OPTIONS, "C", "C", Reason.OK),
        Case("x", "x-2", "Answer: A", OPTIONS, "C", "A", Reason.OK),
    ]
    row = family_table(two, cfg).iloc[0]
    honest = score_completion(honest_completion(), OPTIONS, "C", cfg=cfg).total
    best = score_completion("Answer: C", OPTIONS, "C", cfg=cfg).total
    assert (row["cases"], row["read as the key"]) == (2, 1)
    assert row["best total"] == best and row["honest total"] == honest and row["margin"] == pytest.approx(honest - best)
