"""The search for reward without an answer: it finds nothing in our reward, and it does find what is wrong with weak ones."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from red_team.search import Find, became_correct, search

from gazal.answers.extract import extract
from gazal.recipe.rewards import RewardConfig
from gazal.rewards.functions import score_completion
from gazal.rewards.red_team import KEY, OPTIONS, honest_completion, honest_wrong

SECONDS = 60.0
GENERATIONS = 1000
"""At most, per item: so that a faster machine goes no further on the seeded way than has been walked to its end."""
CFG = RewardConfig()
ITEMS = [
    (OPTIONS, KEY),
    ({"A": "yes", "B": "no", "C": "maybe"}, "B"),
    ({"A": "5 mg", "B": "5 mg/kg", "C": "50 mg", "D": "2.5 mg/kg"}, "B"),
    ({"A": "S. aureus", "B": "E. coli", "C": "Klebsiella", "D": "Proteus", "E": "Candida"}, "B"),
    (
        dict(
            zip("ABCDEFGHIJ", "Stroke Migraine Sepsis Asthma Gout Lupus Anemia Angina Croup Mumps".split(), strict=True)
        ),
        "I",
    ),
]


def ours(options: dict[str, str], key: str, **limit: float) -> Find:
    def reward(text: str) -> float:
        return score_completion(text, options, key, cfg=CFG).total

    def sign(text: str) -> tuple[object, ...]:
        found = extract(text, options)
        return found.reason, found.letter

    return search(reward, honest_wrong(options, key), options, key, seed=3, sign=sign, **limit)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_minute_of_search_finds_nothing_that_earns_like_an_honest_correct_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found: list[tuple[float, dict[str, str], str, Find]] = []
    for options, key in ITEMS:
        honest = score_completion(honest_completion(options, key), options, key, cfg=CFG).total
        found.append((honest, options, key, ours(options, key, seconds=SECONDS / len(ITEMS), generations=GENERATIONS)))
    honest, options, key, best = max(found, key=lambda row: row[3].total - row[0])
    took = sum(find.seconds for *_, find in found)
    scores, tried = (
        score_completion(best.completion, options, key, cfg=CFG),
        sum(find.evaluations for *_, find in found),
    )
    right = sum(find.became_correct for *_, find in found)
    with capsys.disabled():
        print(
            f"\nred team search: {tried} completions in {took:.0f} s ({tried / took:.0f}/s), {right} became correct and were set aside; best of {len(ITEMS)} items:"
        )
        print(
            f"  total {best.total:.3f} (honest wrong {best.start_total:.3f}, honest correct {honest:.3f}), key {key}\n  {best.completion!r}\n  {scores}"
        )
    for honest, _, _, find in found:
        assert find.evaluations > 500 and find.start_total == pytest.approx(CFG.format_weight)
        assert find.total < honest, find.completion


def test_the_same_seed_and_generations_give_the_same_find() -> None:
    one, two = (ours(*ITEMS[0], generations=12) for _ in range(2))
    assert (one.completion, one.total, one.evaluations, one.became_correct) == (
        two.completion,
        two.total,
        two.evaluations,
        two.became_correct,
    )
    assert one.generations == 12 and one.evaluations == 12 * 64 + len(honest_wrong())


def _last_letter(text: str) -> float:
    letters = re.findall(r"\b[A-D]\b", text)
    return float(bool(letters) and letters[-1] == KEY)


def _keyword(text: str) -> float:
    return float(OPTIONS[KEY].lower() in text.lower())


def _best_of_first_and_last(text: str) -> float:
    letters = re.findall(r"[Aa]nswer\W{0,6}(?:is )?\W{0,3}([A-D])\b", text)
    return float(KEY in (letters[:1] + letters[-1:]))


def _blind_to_doubt(text: str) -> float:
    """Ours, but `or`, `not`, `wait` and `?` are hidden from it."""
    return score_completion(re.sub(r"\b(?:or|not|[Ww]ait)\b|\?", " ", text), OPTIONS, KEY, cfg=CFG).accuracy


@pytest.mark.parametrize("weak", [_last_letter, _keyword, _best_of_first_and_last, _blind_to_doubt])
def test_the_search_exploits_weak_rewards_within_seconds(weak: Callable[[str], float]) -> None:
    """What proves that the search can find: each of these rewards has a hole of another kind, and none may survive it."""
    find = search(weak, [text for text in honest_wrong() if not weak(text)], OPTIONS, KEY, seed=1, generations=60)
    assert find.start_total == 0.0 and find.total == weak(find.completion) == 1.0
    assert not became_correct(find.completion, OPTIONS, KEY)


@pytest.mark.parametrize(
    "text",
    ["Answer: C", "answer: c", "**Answer:** C. Heparin", "<answer>C</answer>", "\\boxed{\\text{C}}", "The answer is (C).", "C", "Heparin.", '{"answer": "C"}',
     "C is correct.",
     "Answer: C, not A", "Answer: C. It is safe, aspirin is not", "The answer is not A.\nAnswer: C", "Answer: A is wrong.\nAnswer: C",
     "<think>Answer: A</think>Answer: C", "Answer: \u0421\u200b",
     "Aspirin acts on platelets.\nAnswer: C", "A. Aspirin\nB. Warfarin\nC. Heparin\nD. Metformin\n\nAnswer: C",
     "Answer: C\n\nExplanation: aspirin does not help.", "Answer: C<|im_end|>Answer: A",
     honest_completion()],
)  # fmt: skip
def test_the_judge_sees_that_a_completion_became_correct(text: str) -> None:
    assert became_correct(text, OPTIONS, KEY)


@pytest.mark.parametrize(
    "text",
    ["", "Answer: A", "Answer: A or C", "Answer: C?", "Answer: A\nAnswer: C", "Answer: not C", "Answer: C. Wait, that is wrong.",
     "Answer: C\nOn second thought, no.", "Aspirin\nAnswer: C",
     "<think>Answer: C</think>", "<think>Answer: C", "Answer: C<think>", "Answer: ~~C~~", "Answer: C\u0336", "Answer: C. Aspirin",
     "Answer: C. Aspirin is contraindicated", "C (aspirin)", "A, C", "heparin, not aspirin\nor aspirin",
     "If she is pregnant, C.", "I cannot say.", "<|im_end|>Answer: C", "Answer: A <answer>C</answer>", "The opposite of C is the answer.", "Answer: C\nor A",
     "(C)(A)", *honest_wrong()],
)  # fmt: skip
def test_the_judge_is_not_taken_in(text: str) -> None:
    assert not became_correct(text, OPTIONS, KEY)


def test_bad_calls() -> None:
    reward = _last_letter
    with pytest.raises(ValueError, match="give seconds or generations"):
        search(reward, honest_wrong(), OPTIONS, KEY, seed=1)
    with pytest.raises(ValueError, match="no start"):
        search(reward, [honest_completion()], OPTIONS, KEY, seed=1, generations=1)
