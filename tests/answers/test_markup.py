"""Thinking in every model's marks: what is parted, what is read, and where a completion is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazal.answers.ending import closed_at
from gazal.answers.extract import Reason, extract, has_think_block
from gazal.answers.markup import MARKUPS, OWN, SPOKEN, opens_thinking, part
from gazal.common.paths import ROOT
from gazal.rewards.functions import score_completion

OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Alteplase"}
THOUGHT = "At first the answer is A.\nAnswer: A\nBut no: it bleeds."
PAIRS = [  # what opens the thinking, and what ends it
    ("<think>", "</think>"),
    ("<thinking>\n", "\n</thinking>\n\n"),
    ("<Thought>", "</Thought>"),
    ('<reasoning lang="en">', "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|>\n<|start|>assistant<|channel|>final <|message|>"),
    ("<|channel|>commentary to=user<|message|>", "<|end|><|channel|>final<|constrain|>text<|message|>"),
    ("analysis", "assistantfinal"),
    ("[THINK]", "[/THINK]"),
    ("[thinking]", "[/thinking]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ("## Thinking\n\n", "\n\n## Final Response\n\n"),
    ("### Thinking Process:\n", "\n### Final Answer:\n"),
    ("Here is my thought process:\n", "\nHere's my response:\n"),
]
ENDS = """<|im_end|> <|endoftext|> <|eot_id|> <|eom_id|> <|end_of_text|> <|return|> <|end|> </s> <eos> <end_of_turn>
<|end_of_turn|> <|endofturn|> [|endofturn|] <｜end▁of▁sentence｜> <｜User｜> <|user|> <|start_header_id|> <|im_start|>
<|END_OF_TURN_TOKEN|> <|END_RESPONSE|> <|end_of_solution|> <start_of_turn> [INST] <|call|>""".split()


@pytest.mark.parametrize("opens, closes", PAIRS)
def test_thinking_is_parted_from_the_answer(opens, closes):
    parted = part(f"{opens}{THOUGHT}{closes}**Answer:** B")
    assert parted.thought.strip() == THOUGHT and parted.answer.strip() == "**Answer:** B" and parted.opened
    assert extract(f"{opens}{THOUGHT}{closes}**Answer:** B", OPTIONS).letter == "B"
    assert extract(f"{opens}{THOUGHT}{closes}\nIt cannot be said.", OPTIONS).letter is None


@pytest.mark.parametrize("opens, closes", PAIRS)
@pytest.mark.parametrize("cut", [-1, 20, 30])
def test_a_cut_thought_is_no_answer_and_no_end(opens, closes, cut):
    text = (opens + THOUGHT)[: len(opens) + (cut if cut > 0 else len(THOUGHT))]
    assert extract(text, OPTIONS) == (None, Reason.UNCLOSED_THINK) and part(text).answer is None
    assert closed_at(text + "\n") is None  # a completion is not cut short inside its thinking
    end = closed_at(f"{opens}{THOUGHT}{closes}**Answer:** B\nMore.\n**Answer:** C")
    assert f"{opens}{THOUGHT}{closes}**Answer:** B\nMore."[:end].endswith("**Answer:** B")


@pytest.mark.parametrize("opens, closes", PAIRS)
def test_rewards_accept_the_recipes_own_marks_alone(opens, closes):
    text = f"{opens}Step 1: it bleeds.{closes}\n\n## Clinical Assessment\n**Answer:** B"
    scores = score_completion(text, OPTIONS, "B")
    own = part(text).markup is OWN
    assert has_think_block(text) == own and (scores.accuracy, scores.format) == ((1, 1) if own else (0, 0))


@pytest.mark.parametrize("opens, closes", [pair for pair in PAIRS if part(f"x{pair[1]}y").thought])
def test_a_block_that_the_template_opened_needs_no_opening_mark(opens, closes):
    text = f"{THOUGHT}{closes}**Answer:** B"
    for think_open in (False, True):
        assert extract(text, OPTIONS, think_open).letter == "B" and not part(text, think_open).opened
    assert extract(THOUGHT, OPTIONS, True).letter is None


def test_only_its_own_mark_closes_a_block():
    assert part("<think>a <reasoning>b</reasoning> Answer: A").answer is None
    assert part("[THINK]a </think> Answer: A").answer is None
    assert part("a <reasoning>b</reasoning> Answer: A", think_open=True).answer is None
    assert extract("<think>a [THINK] b</think>Answer: B", OPTIONS).letter == "B"
    assert extract("**Answer:** B\n<reasoning>It bleeds.</reasoning>", OPTIONS).letter == "B"  # reasons last
    assert extract("Answer: B <think>It bleeds.</think>", OPTIONS).reason is Reason.EMPTY


@pytest.mark.parametrize("mark", ENDS)
def test_what_follows_the_turn_does_not_count(mark):
    assert extract(f"**Answer:** B{mark}\n**Answer:** C", OPTIONS).letter == "B"
    assert closed_at(f"So it is{mark}\n**Answer:** C\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "**Answer:** Bassistant\n\n**Answer:** C",
        "**Answer:** B. Heparin.assistant\n\n**Answer:** C",
        "**Answer:** B\nassistant\n**Answer:** C",
        "**Answer:** B\nmodel\n**Answer:** C",
        "**Answer:** B\nuser\nAnd now? Answer: C",
        "<|im_start|>assistant\n**Answer:** B<|im_end|>",
        "<start_of_turn>model\n**Answer:** B<end_of_turn>\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n**Answer:** B<|eot_id|>",
        "<｜Assistant｜>\n**Answer:** B",
    ],
)
def test_roles_around_a_turn(text):
    assert extract(text, OPTIONS).letter == "B"


@pytest.mark.parametrize(
    "text",
    [
        "The physician assistant\n\nsaw her.\n\n**Answer:** B",
        "The drug abuser\n\nand the nervous system\n\n**Answer:** B",
        "Analysis: it bleeds.\n**Answer:** B",
        "She is <50 years, [Ca] <2.1, [IV] fluids.\n**Answer:** B",
        "## Answer\n**Answer:** B",
        "Thinking it over, **Answer:** B",
    ],
)
def test_ordinary_words_are_no_marks(text):
    assert extract(text, OPTIONS).letter == "B" and part(text).thought is None


@pytest.mark.parametrize(
    "prompt, opened",
    [("…assistant\n<think>\n", True), ("…[THINK]", True), ("…<|begin_of_thought|>\n\n", True), ("…assistant\n", False),
     ("<think>\n\n</think>\n\n", False), ("about <think> marks", False)],
)  # fmt: skip
def test_a_prompt_that_opens_the_block(prompt, opened):
    assert opens_thinking(prompt) is opened


@given(st.lists(st.sampled_from([*(mark for pair in PAIRS for mark in pair), *ENDS, "x", " ", "\n", "Answer: B"])))
def test_nothing_is_lost_or_made_up(pieces):
    text = "".join(pieces)
    for think_open in (False, True):
        parted = part(text, think_open)
        assert (parted.thought or "") in text and (parted.answer or "") in text and parted.end <= len(text)
        assert all(0 <= start <= stop <= parted.end for start, stop in parted.spans)
        assert parted.markup in (None, *MARKUPS, *SPOKEN)
        if parted.answer is None:
            assert extract(text, OPTIONS, think_open) == (None, Reason.UNCLOSED_THINK)


def test_the_shared_cases():
    path = ROOT.parent / "shared" / "cases" / "answers.jsonl"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        assert extract(case["completion"], case["options"]).letter == case["expected"], case["id"]


@pytest.mark.parametrize(
    "text, letter",
    [
        ("\\boxed{A/B = 2}\n\nAnswer: D", "D"),
        ("\\boxed{A + C = 3}\n\nAnswer: D", "D"),
        ("\\boxed{A/D}", None),
        ("\\boxed{D}", "D"),
        ("\\fbox{D}", "D"),
        ("$\\framebox{D. Alteplase}$", "D"),
        ("At first glance the answer is A.\n\n**Answer:** D", "D"),
        ("Initially, the best answer is A. Now the others", None),
        ("At first I took A, but the answer is D.", "D"),
    ],
)
def test_boxes_and_first_views(text, letter):
    assert extract(text, OPTIONS).letter == letter


def test_entities_are_the_characters_they_stand_for():
    options = {"A": "&lt;5%", "B": "&gt;50%", "C": "AT&T"}
    for text, letter in [("The answer is <5%", "A"), ("Answer: &gt;50%", "B"), ("Answer: C. AT&T", "C")]:
        assert extract(text, options).letter == letter
