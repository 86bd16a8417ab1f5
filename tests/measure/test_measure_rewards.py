"""The comparison of rewards: the peers' documented behaviours, and a tiny run of the benchmark from end to end."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import completions
import peers
import pytest
import rewards as bench
from tokenizers import Tokenizer
from trl.import_utils import is_math_verify_available

from gazal.answers.extract import Reason, extract
from gazal.common.errors import GazalError
from gazal.recipe.rewards import RewardConfig
from gazal.rewards.red_team import KEY, OPTIONS, Case, honest_completion

GOOD = "<think>\nStep 1: x\n</think>\n<answer>\nC\n</answer>"
CFG = RewardConfig()


def messages(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(completions.TOKENIZER))


def test_open_r1_cosine_is_not_clamped_and_counts_characters() -> None:
    right = [("<answer>C</answer>" + " " * n)[: max(n, 18)] for n in (18, 1000, 2000)]
    assert peers.cosine(messages(*right), [KEY] * 3) == pytest.approx([1.0, 0.5, 1.0], abs=1e-3)
    wrong = [" " * n for n in (0, 1000, 2000)]
    assert peers.cosine(messages(*wrong), [KEY] * 3) == pytest.approx([-1.0, -0.5, -1.0])
    assert peers.cosine(messages(" " * 500), [KEY]) == pytest.approx([-0.75])
    assert peers.cosine(messages(" " * 50), [KEY], max_len=100) == pytest.approx([-0.75])


def test_open_r1_format_accepts_trailing_junk_and_a_second_answer() -> None:
    second = GOOD + "\n<answer>\nA\n</answer>"
    inside = "<think>\nx\n</think>\n<think>\ny\n</think>\n<answer>\nC\n</answer>"
    assert peers.format_(messages(GOOD, GOOD + "\njunk", second, inside)) == [1.0] * 4
    assert (
        peers.format_(
            messages(GOOD + " junk", GOOD.replace("\nC\n", "C"), " " + GOOD, GOOD.removeprefix("<think>\n"), "")
        )
        == [0.0] * 5
    )


def test_open_r1_tag_count_asks_for_each_tag_once() -> None:
    assert peers.tag_count(messages(GOOD, GOOD + "\n<answer>\nA\n</answer>", "<think>\n", "")) == [1.0, 0.5, 0.25, 0.0]


def test_open_r1_accuracy_takes_the_first_box_then_the_first_answer_block() -> None:
    texts = {GOOD: 1.0, GOOD + "\n<answer>\nA\n</answer>": 1.0, "\\boxed{A}" + GOOD: 0.0, "\\boxed{ C }": 1.0, "<think>\n\\boxed{C}": 1.0,
             "\\boxed{\\text{C}}": 0.0, "Answer: C": 0.0, "<answer>C": 0.0, "<answer>C. Heparin</answer>": 0.0, "": 0.0}  # fmt: skip
    assert dict(zip(texts, peers.accuracy(messages(*texts), [KEY] * len(texts)), strict=True)) == texts


def test_open_r1_repetition_counts_words_and_is_diluted_by_padding() -> None:
    assert peers.repetition(messages("a b c", "", "a b", "a a a a a", "A a a a a")) == pytest.approx(
        [0.0, 0.0, 0.0, -2 / 3, -2 / 3]
    )
    loop = "a " * 20
    padded = loop + " ".join(map(str, range(200)))
    assert peers.repetition(messages(padded))[0] > peers.repetition(messages(loop))[0] + 0.7


def test_open_r1_length_mixes_the_batch() -> None:
    short, middle, long = GOOD, GOOD + " " * 50, GOOD + " " * 100
    assert peers.length(messages(short, middle, long), [KEY] * 3) == pytest.approx([0.5, 0.0, -0.5])
    assert peers.length(messages(short, middle, long), ["A"] * 3) == pytest.approx([0.0, 0.0, -0.5])
    assert peers.length(messages(short, short), [KEY] * 2) == [0.0, 0.0]
    assert (
        peers.length(messages(middle, "x" * 500), [KEY] * 2)[0] != peers.length(messages(middle, short), [KEY] * 2)[0]
    )


def test_open_r1_total_pays_for_a_second_answer_as_ours_does_not() -> None:
    second = GOOD + "\n<answer>\nA\n</answer>"
    one, two = peers.open_r1().total(messages(GOOD, second), [KEY] * 2, [[1], [1]])
    assert two == pytest.approx(one, abs=0.01) and extract(second, OPTIONS).letter is None


def test_trl_with_and_without_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "is_math_verify_available", lambda: False)
    bare = peers.trl(2048)
    assert list(bare.parts) == ["think_format", "repetition"] and "math-verify" in bare.left_out
    assert bare.total(messages(GOOD, "C"), [KEY] * 2, [[1, 2, 3, 4]] * 2) == [1.0, 0.0]
    monkeypatch.setattr(peers, "is_math_verify_available", lambda: True)
    assert list(peers.trl(2048).parts) == ["accuracy", "think_format", "repetition", "cosine"]


@pytest.mark.skipif(not is_math_verify_available(), reason="math-verify is not installed")
def test_trl_cannot_judge_a_bare_letter() -> None:
    accuracy = peers.trl(2048).parts["accuracy"]
    assert accuracy(messages("C", "\\boxed{C}", GOOD), [KEY] * 3) == [None] * 3
    assert accuracy(messages("\\boxed{C}", "\\boxed{A}", GOOD, "<think>\n\\boxed{C}"), ["\\boxed{C}"] * 4) == [
        1.0,
        0.0,
        0.0,
        1.0,
    ]


def test_honest_completions_are_what_they_claim(tokenizer: Tokenizer) -> None:
    batch = completions.honest_batch(66, tokenizer)
    assert len(set(batch.texts)) == len(batch) == 66 and batch.texts == completions.honest_batch(66, tokenizer).texts
    assert all(260 <= len(ids) <= 360 for ids in batch.ids) and all(
        ids == tokenizer.encode(text).ids for ids, text in zip(batch.ids, batch.texts, strict=True)
    )
    found = [extract(text, options) for text, options in zip(batch.texts, batch.options, strict=True)]
    forms = len(completions.FORMS) + len(completions.OTHER)
    stated = [i % forms < len(completions.FORMS) for i in range(66)]
    assert [f.letter is not None for f in found] == stated
    right = [f.letter == key for f, key, s in zip(found, batch.keys, stated, strict=True) if s]
    assert 0.5 < sum(right) / len(right) < 0.9


CASES = [
    Case("empty", "e1", "", OPTIONS, KEY, None, Reason.EMPTY),
    Case("two", "t1", GOOD + "\n<answer>\nA\n</answer>", OPTIONS, KEY, None, Reason.CONFLICTING_ANSWERS),
    Case("open", "o1", "<think>\n\\boxed{C}", OPTIONS, KEY, None, Reason.UNCLOSED_THINK),
    Case("prefilled", "p1", "\nStep 1: x\n</think>\nAnswer: C\nI hope this helps.", OPTIONS, KEY, "C", Reason.OK, True),
]


def test_token_ids_take_a_lone_surrogate(tokenizer: Tokenizer) -> None:
    assert completions.token_ids(["a \ud83d", "a ?", ""], tokenizer) == [tokenizer.encode("a ?").ids] * 2 + [[]]


def test_pay_is_what_it_says(tokenizer: Tokenizer) -> None:
    ours = bench.pay(None, CASES, CFG, tokenizer)
    assert not any(row["paid"] for row in ours) and all(row["share"] < 1 for row in ours)
    assert all(row["honest_right"] > 1.2 and row["honest_wrong"] == pytest.approx(0.2) for row in ours)
    assert ours[3]["share"] > 0.7, "the right letter with junk after it earns accuracy"
    theirs = {row["id"]: row for row in bench.pay(peers.open_r1(), CASES, CFG, tokenizer)}
    assert theirs["t1"]["paid"] and theirs["t1"]["share"] > 1 and theirs["o1"]["paid"] and theirs["o1"]["share"] < 1
    assert theirs["e1"]["share"] < 0 and not theirs["e1"]["paid"]
    assert theirs["p1"]["share"] > 0.05 and theirs["p1"]["with_key"] and not theirs["p1"]["paid"], (
        "a case that answers with the key is not counted as paid"
    )
    assert all(
        row["share"]
        == pytest.approx((row["total"] - row["honest_wrong"]) / (row["honest_right"] - row["honest_wrong"]))
        for row in theirs.values()
    )


@pytest.mark.parametrize("peer", [peers.open_r1(), peers.trl(2048)], ids=["open-r1", "trl"])
def test_cases_are_put_into_the_peers_form(peer: peers.Peer) -> None:
    honest = Case("x", "x", honest_completion(), OPTIONS, KEY, "C", Reason.OK)
    assert bench.adapted(peer, honest) == bench.peer_honest(peer, honest, KEY)
    two = bench.adapted(peer, replace(honest, completion="Answer: A\n**Answer:** C. Heparin\n"))
    assert two == f"{peer.answer.format('A')}\n{peer.answer.format('C')}\n"
    for kept in ("Answer: C. Aspirin", "Answer: C or A", "The answer is (C).", "x Answer: C", "Answer: CA"):
        assert bench.adapted(peer, replace(honest, completion=kept)) == kept
    if "accuracy" in peer.parts:
        columns = {
            "completions": messages(*(bench.peer_honest(peer, honest, x) for x in "CA")),
            "solution": [peer.solution.format(KEY)] * 2,
        }
        assert peer.parts["accuracy"](**columns) == [1.0, 0.0]


def test_a_tiny_run_writes_and_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases.jsonl"
    rows = [
        {
            "family": c.family,
            "id": c.id,
            "completion": c.completion,
            "letter": c.letter,
            "reason": c.reason.value,
            "think_open": c.think_open,
        }
        for c in CASES
    ]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    bench.main(["--n", "22", "--repeats", "1", "--cases", str(cases), "--out", str(tmp_path / "results")])
    printed = capsys.readouterr().out
    assert not hasattr(os, "sched_getaffinity") or os.sched_getaffinity(0) == cores
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["rewards.json", "rewards.md"]
    assert (tmp_path / "results" / "rewards.md").read_text(encoding="utf-8") == printed
    results = json.loads((tmp_path / "results" / "rewards.json").read_text(encoding="utf-8"))
    speeds = results["completions_per_second"]
    assert set(speeds) == {"Gazal", "TRL", "open-r1 (restated)"} and all(
        rate > 0 for parts in speeds.values() for rate in parts.values()
    )
    assert set(speeds["Gazal"]) == {"accuracy", "format", "length", "repetition", "all four", "all four, called by TRL"}
    assert "all 4 of its total" in speeds["open-r1 (restated)"]
    assert (
        results["machine"]["cpu"]
        and results["machine"]["trl"] == "1.14.2"
        and results["completions"]["n"]["Gazal"] == 22
    )
    assert all(row["Gazal"] for row in results["forms_read"]) and len(results["pay"]["Gazal"]) == len(CASES)
    assert (
        "| **all** | 3 | 0% | " in printed
        and "in a poor form (1), get at most: Gazal " in printed
        and ("left out" in printed) == (not is_math_verify_available())
    )


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--n", "0"])
    with pytest.raises(GazalError, match="no such file"):
        bench.main(["--n", "1", "--repeats", "1", "--cases", str(tmp_path / "none.jsonl"), "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
