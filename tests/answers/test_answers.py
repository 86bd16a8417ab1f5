"""The extractor: accepted forms, every null reason, look-alikes, format, linear time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.answers.extract import Extraction, Reason, extract, has_format
from gazal.answers.text import fold

OPTIONS = {"A": "Aspirin", "B": "Warfarin", "C": "Heparin", "D": "Metformin"}
THINK = "<think>\nStep 1: The answer is A, maybe B.\nStep 2: Weigh them.\n</think>\n\n"

ACCEPTED = [
    "<answer>C</answer>", "<answer>\nC. Heparin\n</answer>", "<answer>(c)</answer>", "<answer>heparin</answer>",
    "\\boxed{C}", "\\boxed{\\text{C}}", "$\\boxed{\\textbf{C. Heparin}}$", "The answer is $\\boxed{C}$.", "\\boxed{heparin}",
    "Answer: C", "answer: c", "ANSWER : (C)", "**Answer:** C", "**Answer: C**", "**Answer**: C. Heparin", "Answer - C", "Answer = C",
    "## Clinical Assessment\n**Answer:** C. Heparin", "**Answer:** C) heparin", "Answer: C, heparin", "Answer: C - Heparin.",
    "The answer is (C).", "The answer is C because it does not cross the placenta.", "The correct answer is option C.",
    "The correct answer to this question is C: heparin", "Therefore, the best answer is **C**.", "The answer is: C",
    '{"answer": "C"}', '{"answer": "C. Heparin", "confidence": 0.9}', "{'answer': 'C'}", '{"answer_idx": "C", "why": "not A"}',
    '```json\n{\n  "final_answer": "C"\n}\n```', "Final answer: C. heparin", "Final Answer: **C. Heparin**", "### Final Answer\n\nC",
    "**Answer**\nC. Heparin", "Answer:\n\nC", "Option C", "Option C.", "**Option C: Heparin**", "Therefore, option C.", "C", "c", "C.",
    "(C)", "**C**", "[C]", "C)", "`C`", "C. Heparin", "**C. Heparin**", "- C. heparin", "Heparin", "heparin.", "**Heparin**",
    "Answer: heparin", "The answer is heparin.", "The answer is heparin (C).", "Answer: heparin, because it is safe.",
    "Primary Diagnosis: heparin", "**Primary Diagnosis:** C. Heparin", "C is correct.", "Option C is the best answer.",
    "C (heparin) is the correct choice.", "I choose C.", "I would go with option C.", "The correct option is C", "Correct choice: (C)",
    "My choice is C", "The most likely answer is C.", "Ans: C", "Ａｎｓｗｅｒ：Ｃ", "答案：C", "答案是C。", "Respuesta: C", "Ответ: С",
    "Answer: \u202eC\u202c", "Ans\u200bwer: C\u200b", "Answer: 𝐂", "Answer: Ⓒ", "Answer: \u0421", "Answer: C\r\n", "Answer: C<|im_end|>",
    "A. Aspirin\nB. Warfarin\nC. Heparin\nD. Metformin\n\nAnswer: C", "A. Aspirin\nB. Warfarin\nC. Heparin\nD. Metformin\n\nC",
    "Answer: C\n\nExplanation: aspirin and warfarin are contraindicated; option A is wrong.", "Answer: C\nAnswer: C. Heparin",
    "The answer is not A. The answer is C.", "Answer: C, not A", "Answer: C. Start an infusion now", "Answer: C. Heparin - see A",
    "Answer: C, not A or B.", "Answer: C\n\nAnd A is wrong.", "Answer: C. Heparin and monitor aPTT", "<answer>Final answer: C</answer>",
    "The answer is:\n\nThe answer is C. Heparin.", "\\boxed{Answer: C}", "The answer is not obvious at first.\nAnswer: C", "Is the answer A? No.\nAnswer: C", "C. Heparin 5000 units is first line\nAnswer: C",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
@pytest.mark.parametrize("prefix", ["", THINK])
def test_accepted_forms(text: str, prefix: str) -> None:
    assert extract(prefix + text, OPTIONS) == Extraction("C", Reason.OK)


NULL = {
    Reason.EMPTY: ["", " \n\t ", THINK, "\u200b\u200e", "<|im_end|>Answer: C", "<think>x</think> Answer: C</think>"],
    Reason.UNCLOSED_THINK: ["<think>\nStep 1: the answer is C", "Answer: C <think>", "<think>a</think>Answer: C<think>b"],
    Reason.NO_ANSWER: [
        "Start an infusion.", "ABCD", "The answer is a beta blocker.", "The answer is I think unclear", "Answer: <letter>",
        "C-peptide", "Answer: C-reactive protein", "Answer: ~~C~~", "Answer: C\u0336", "</answer>C<answer>", "Answer: maybe C",
        "If she were pregnant, the answer is C.", "The wrong answer is A", "The asnwer is heprin", "hepar in", "Cheparin",
    ],
    Reason.DECLINED: ["I cannot determine this.", "I don't know.", "There is insufficient information.", "None of the above."],
    Reason.NEGATED: [
        "heparin, not aspirin", "not aspirin", "Answer: heparin, not aspirin", "Answer: not C", "The answer is not C.",
        "The answer isn't C.", "I do not think the answer is C.", "C is not correct", "Answer: C is wrong", "Answer: not heparin",
    ],
    Reason.HEDGED: [
        "A or B", "Answer: A or B", "Answer: A/B", "Answer: A and C", "Answer: A, B", "Answer: (A) or (C)", "Either A or B",
        "Answer: aspirin or heparin", "heparin or aspirin", "Answer: C. heparin or aspirin", "Answer: C?", "A B C D", "A, B, C, D",
        "Answer: A B C D", '{"answer": ["A", "C"]}', "The answer is C (or A).", "Answer: heparin / aspirin", "Answer: c or a",
        "Answer: A. B.", "B\nA\tA/B", "<answer>A or C</answer>", "\\boxed{A, C}",
        "Answer: C, or else A", "Answer: C (if not, A)", "Answer: C. Or A.", "Answer: C. Or aspirin.", "Answer: C\nor A", "Answer: C, alternatively A",
        "Answer: C, also A", "Answer: C as well as A", "Answer: C, failing that A", "Answer: C. A is also right.", "Answer: A (or rather C)",
        "Answer: A, no, C", "Answer: C. Heparin, or else A.", "Answer: C. A/C", "Answer: A. Aspirin B. Warfarin C. Heparin D. Metformin",
    ],
    Reason.RETRACTED: [
        "Answer: C. Wait, that is wrong.", "Answer: C\nActually, no.", "Answer: C. On second thought, it may be A.",
        "Answer: C. I take that back.", "C\n\nHmm, let me think again.", "The answer is C. The answer is not C.", "B\nnot B.", "Answer: C\nIt is not C.",
    ],
    Reason.CONFLICTING_ANSWERS: [
        "Answer: C\nAnswer: A", "<answer>A</answer> and <answer>C</answer>", "Answer: C. Wait, the answer is A.", "\\boxed{A} \\boxed{C}",
        "Answer: heparin\nFinal answer: aspirin", "Answer: C\nA", "Answer: C\n\nA", "Answer: C\nB\nA",
        "Answer: A<answer>C</answer>", "Answer: A\\boxed{C}", "Answer: A Final answer: C", "Answer: aspirin <answer>C</answer>", "Answer: A-Answer: C",
        "The answer is aspirin for this patient.\nAnswer: C", "Step 3:My choice is aspirin for now.\nAnswer: C",
        '{"answer": "C"}\nThe answer is A',
    ],
    Reason.SEVERAL_CANDIDATES: ["A\nB\nC\nD", "A. Aspirin\nB. Warfarin\nC. Heparin\nD. Metformin", "Aspirin\nHeparin", "A\n\nC"],
    Reason.LETTER_NOT_AN_OPTION: ["Answer: E", "Answer: K", "E", "\\boxed{J}", "<answer>F. Heparin</answer>", "Answer: C\nAnswer: E"],
    Reason.LETTER_TEXT_CONFLICT: [
        "Answer: C. Aspirin", "C. aspirin", "Final answer: **C. ASPIRIN**", "Answer: C (aspirin)", "Answer: C aspirin", "\\boxed{C. aspirin}",
        "Answer: C. Aspirin, because it is safe", "The answer is aspirin (C).", "Answer: C\nAspirin", "Answer: C. Aspirin is first line",
        "Answer: C. Aspirin zzz",
    ],
    Reason.TOO_MANY_CANDIDATES: ["Answer: C\n" * 5000, "x\n" * 5000 + "C"],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, texts in NULL.items() for t in texts])
def test_null_has_its_reason(reason: Reason, text: str) -> None:
    assert extract(text, OPTIONS) == Extraction(None, reason)


def test_every_reason_is_explained() -> None:
    assert all(reason.__doc__ and reason.value == str.__str__(reason) for reason in Reason)
    assert set(NULL) | {Reason.OK, Reason.AMBIGUOUS_TEXT} == set(Reason)


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("Answer: B. 12 points", {"A": "2 points", "B": "12 points"}, "B"),
        ("Answer: A. 12 points", {"A": "2 points", "B": "12 points"}, None),
        ("Answer: 2 points", {"A": "2 points", "B": "12 points"}, "A"),
        ("Answer: B. 500 mg q12h", {"A": "500 mg", "B": "500 mg q12h"}, "B"),
        ("Answer: A. 500 mg q12h", {"A": "500 mg", "B": "500 mg q12h"}, None),
        ("Answer: B. 500 mg", {"A": "500 mg", "B": "500 mg q12h"}, None),
        ("Answer: A. 500 mg q8h", {"A": "500 mg", "B": "500 mg q12h"}, "A"),
        ("Answer: E. coli", {"A": "S. aureus", "B": "E. coli", "C": "x", "D": "y", "E": "z"}, "B"),
        ("Answer: E. coli O157", {"A": "S. aureus", "B": "E. coli", "E": "Klebsiella"}, None),
        ("Answer: E. Klebsiella", {"A": "S. aureus", "B": "E. coli", "E": "Klebsiella"}, "E"),
        ("B cells", {"A": "T cells", "B": "NK cells", "C": "B cells"}, "C"),
        ("Answer: D. Both A and B", {"A": "x", "B": "y", "C": "z", "D": "Both A and B"}, "D"),
        ("Answer: both A and B", {"A": "x", "B": "y", "C": "z", "D": "Both A and B"}, "D"),
        ("Answer: None of the above", {"A": "x", "B": "None of the above"}, "B"),
        ("Answer: C", {"A": "C", "B": "A", "C": "B"}, "C"),
        ("Answer: S", {"A": "G1", "B": "S"}, "B"),
        ("S", {"A": "G1", "B": "S"}, "B"),
        ("Answer: Bb Bb", {"A": "bb bb", "B": "Bb Bb", "C": "Bb BB"}, "B"),
        ("Answer: B. bb bb", {"A": "bb bb", "B": "Bb Bb", "C": "Bb BB"}, None),
        ("Answer: It is rare", {"A": "It is rare", "B": "It is common"}, "A"),
        ("The most likely diagnosis is stroke", {"A": "The most likely diagnosis is stroke", "B": "Migraine"}, "A"),
        ("A. -10", {"A": "-10", "B": "10"}, "A"),
        ("B. .191", {"A": "191", "B": ".191"}, "B"),
        ("A. x \nB. y \nC. z", {"A": "x ", "B": "y ", "C": "z"}, None),
        ("A. x \nB. y \nC. z\n\nB. y", {"A": "x ", "B": "y ", "C": "z"}, "B"),
        ("Answer: ad", {"A": "ac", "B": "ad"}, "B"),
        ("Answer: yes", {"A": "yes", "B": "no", "C": "maybe"}, "A"),
        ("maybe", {"A": "yes", "B": "no", "C": "maybe"}, "C"),
        ("no", {"A": "yes", "B": "no", "C": "maybe"}, "B"),
        ("Answer: C. maybe", {"A": "yes", "B": "no", "C": "maybe"}, "C"),
        ("Answer: B. 2.5 mg", {"A": "2", "B": "2.5 mg/kg"}, "B"),
        ("Answer: A. 25", {"A": "5", "B": "2"}, "A"),
        ("Answer: A. 5 mg/kg", {"A": "10 mg/kg", "B": "5 mg"}, "A"),
        ("Answer: A. -5", {"A": "-5", "B": "5"}, "A"),
        ("Answer: J. ten", {c: f"text {c}" for c in "ABCDEFGHI"} | {"J": "ten"}, "J"),
        ("Answer: C. Heparin", {"A": "Heparin", "C": "Heparin"}, "C"),
        ("Answer: Heparin", {"A": "Heparin", "C": "Heparin"}, None),
        ("Answer: C", {"A": "x", "B": "y", "C": None}, None),
        ("Answer: A. Aspirin (81 mg)", {"A": "aspirin  (81 mg)", "B": "Aspirin"}, "A"),
        ("Answer: A. 5 µg", {"A": "5 μg", "B": "5 mg"}, "A"),
    ],
)
def test_option_texts(text: str, options: dict[str, str | None], letter: str | None) -> None:
    assert extract(text, options).letter == letter


def test_think_open() -> None:
    assert extract("Step 1: A.\n</think>\nAnswer: C", OPTIONS, think_open=True).letter == "C"
    assert extract("Answer: C", OPTIONS, think_open=True).reason is Reason.UNCLOSED_THINK
    assert extract("Step 1: A.\n</think>\nAnswer: C", OPTIONS).letter == "C"


GOOD = "<think>\nStep 1: a fact\nStep 2: another\n</think>\n\n## Clinical Assessment\n**Answer:** C. Heparin"


@pytest.mark.parametrize(
    "text",
    [GOOD, GOOD + "\n", GOOD.replace("C. Heparin", "C"), *(GOOD.replace("**Answer:** C. Heparin", form) for form in ("<answer>C</answer>", "<answer>\nC\n</answer>", "<answer>\n(C) Heparin\n</answer>")),
     GOOD.replace("**Answer:** C. Heparin", "\\boxed{C}"), GOOD.replace("Step 1:", "First,"), GOOD.replace("**", ""),
     GOOD.replace("**Answer:** C. Heparin", "C"), GOOD.replace("**Answer:** C. Heparin", "(C)"), GOOD.replace("**Answer:** C. Heparin", "Option C"),
     GOOD.replace("**Answer:** C. Heparin", '{"answer": "C"}'), GOOD.replace("**Answer:** C. Heparin", "The answer is (C).")],
)  # fmt: skip
def test_format_holds(text: str) -> None:
    assert has_format(text, OPTIONS)
    assert has_format(text.replace("<think>", ""), OPTIONS, think_open=True)
    assert not has_format(text, OPTIONS, think_open=True) and not has_format(text.replace("<think>", ""), OPTIONS)


@pytest.mark.parametrize(
    "text",
    ["", GOOD + "\nI hope this helps.", GOOD + "\n```", GOOD + "\n**Answer:** C", GOOD + "<|im_end|>", GOOD + "<|im_end|>more",
     "x " + GOOD, "<think>\n \n</think>\n\nAnswer: C", "<think>\u200b</think>Answer: C", GOOD.replace("</think>", "</think></think>"), "<think>" + GOOD,
     GOOD.replace("**Answer:**", "C\n**Answer:**"), GOOD.replace("**Answer:**", "The answer is A.\n**Answer:**"),
     GOOD.replace("**Answer:**", "C. Heparin\n**Answer:**"), GOOD.replace("C. Heparin", "unknown"), "Answer: C",
     GOOD.replace("**Answer:** C. Heparin", "**Answer:** C. Heparin\ne"), GOOD.replace("**Answer:**", "more junk <answer>C</answer>").replace(" C. Heparin", ""),
     *(GOOD.replace("**Answer:** C. Heparin", cut) for cut in ("<answer>C", "\\boxed{C", '{"answer": "C', "(C", "Answer: (C")),
     GOOD.replace("C. Heparin", "\u0421"), GOOD.replace("C. Heparin", "C\u200b"), GOOD.replace("C. Heparin", "\uff23"), GOOD + " Answer: C"],
)  # fmt: skip
def test_format_fails(text: str) -> None:
    assert not has_format(text, OPTIONS)


OTHERS = [
    "A is correct.", "Option A is the best.", "Aspirin is correct.", "Aspirin, warfarin", "Aspirin or heparin", "A, B", "<b>A</b>", "1. A", "Diagnosis: A",
    "Diagnosis: A. Aspirin", "Result: A", "(Aspirin)", "C", "C. Heparin", "Answer(aspirin) it is", "## Assessmentanswer: A", "BA BA", "}B)D",
]  # fmt: skip


@pytest.mark.parametrize("line", OTHERS)
def test_format_fails_where_an_earlier_line_states_an_option(line: str) -> None:
    assert not has_format(GOOD.replace("**Answer:**", f"{line}\n**Answer:**"), OPTIONS)


@pytest.mark.parametrize(
    "line",
    [
        "**Primary Diagnosis:** Heparin",
        "**Reasoning**",
        "Aspirin would not be enough here.",
        "1. Heparin",
        "---",
        "Both A and B are options.",
    ],
)
def test_format_holds_with_sections_before_the_answer(line: str) -> None:
    assert has_format(GOOD.replace("**Answer:**", f"{line}\n**Answer:**"), OPTIONS)


@pytest.mark.parametrize("line", ["C. Aspirin", "E", "C. Heparin and then some junk", "C. words", "A or B"])
def test_format_with_options_wants_a_clean_readable_answer(line: str) -> None:
    assert not has_format(GOOD.replace("C. Heparin", line), OPTIONS)


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "A",
                "e",
                "\u0301",
                "\u200b",
                "\uff21",
                "\ud83d",
                "\ufdfa",
                "x ",
                "\u2163",
                "\x1b[8m",
                "\r\n",
                "\u1100",
                "\u1161",
            ]
        )
    ).map("".join)
)
@settings(max_examples=300)
def test_folding_by_runs_is_folding_as_a_whole(text: str) -> None:
    assert fold(text) == fold(text + " " * 20_001)[:-20_001]


PIECES = st.sampled_from(
    ["<think>", "</think>", "Answer: ", "**", "C", "A", "B", " or ", "not ", "heparin", "Aspirin", ". ", "\n", "\\boxed{", "}", "<answer>",
     "</answer>", "(", ")", "Step 1: x\n", "wait", "the answer is ", "option ", "\u200b", "С", "?", '"', "I choose ", "E. coli", ":", "答案"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=200), st.booleans())
@settings(max_examples=600)
def test_any_text_gives_one_consistent_verdict(text: str, think_open: bool) -> None:
    result = extract(text, OPTIONS, think_open)
    assert result == extract(text, OPTIONS, think_open)
    assert (result.letter is None) == (result.reason is not Reason.OK)
    assert result.letter is None or result.letter in OPTIONS
    if has_format(text, OPTIONS, think_open):
        assert result.letter


@given(st.permutations(list(OPTIONS)), st.sampled_from(ACCEPTED[:40]))
@settings(max_examples=100)
def test_order_of_options_does_not_matter(order: list[str], text: str) -> None:
    assert extract(text, {letter: OPTIONS[letter] for letter in order}) == extract(text, OPTIONS)


@given(st.text(max_size=300).filter(lambda s: "think>" not in s and "<|" not in s and "</s>" not in s))
@settings(max_examples=200)
def test_reasoning_never_changes_the_answer(reasoning: str) -> None:
    assert extract(f"<think>{reasoning}</think>\nAnswer: C", OPTIONS).letter == "C"


HOSTILE = [
    "a", "A ", "(", "*", "\n", " ", "x\n", "Answer: ", "answer ", "Answer: C\n", "\\boxed{", "<answer>", "</answer>", "<think>", "</think>",
    "answer is not ", "**Answer:** C. Heparin\n", "-", "- \n", "\u200b", "Ｃ", "漢字", "ﷺ", "wait ", "C is correct ", "or A ", "option ", '"answer": ',
    "I choose ", "Heparin ", "#\n", "the answer to ", "<|im_end|", "Step 1: x ", "\\text{", "not ", "C\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_megabyte_is_read(piece: str) -> None:
    """Anything quadratic would not come back before the test run is given up."""
    body = piece * (1_000_000 // len(piece.encode()))
    for text in (body, body + "\nAnswer: C", "Answer: C\n" + body, "Answer: " + body, THINK + body):
        assert extract(text, OPTIONS).letter in (None, *OPTIONS)
