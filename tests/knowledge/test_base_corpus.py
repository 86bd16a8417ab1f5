"""What the embedded base may read, and the tokenizer that it reads with."""

import re
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from gazal.data.sources import BUCKETS
from gazal.items.prompts import SYSTEM, question_text
from gazal.items.schema import Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.base_corpus import Corpus, chat
from gazal.knowledge.base_tokenizer import train_tokenizer
from gazal.knowledge.base_train import BASE_BUCKETS
from gazal.knowledge.generate import draw
from gazal.knowledge.parts import bucket, evidence
from gazal.knowledge.scores import load_scores


@pytest.fixture(scope="module")
def read() -> tuple[list[str], list[Item]]:
    """Documents of early and late training, and every item that any of them was made from."""
    corpus = Corpus(150, 0, BASE_BUCKETS, SYSTEM, seed=1)
    made: list[Item] = []
    plain = corpus.item

    def kept(kind: str) -> Item:
        made.append(plain(kind))
        return made[-1]

    corpus.item = kept
    documents = [*islice(corpus.documents(0.1), 700), *islice(corpus.documents(0.9), 1200)]
    return documents, made


@pytest.fixture(scope="module")
def tokenizer(read: tuple[list[str], list[Item]]) -> PreTrainedTokenizerFast:
    return train_tokenizer(read[0], 4096)


def asked_bucket(text: str) -> int | None:
    """The bucket of the whole question that a text holds, worked out from its words; None when it holds none."""
    if found := re.search(r"Findings: (.+)\.\n?", text):
        return bucket("diagnosis|" + "|".join(sorted(found[1].split("; "))))
    if found := re.search(r"equally likely: (.+)\.\n.*\nA\. (.+)\nB\. (.+)\nC\. (.+)\nD\. (.+?)(?:<|\n|$)", text):
        return bucket("uncertainty|" + "|".join([*sorted(found[1].split("; ")), *sorted(found.groups()[1:])]))
    if found := re.search(r"(?:CrCl|eGFR): (\d+) \S+\.\nDrug: (.+)\.\n?", text):
        return bucket(f"treatment|{found[2]}|{found[1]}")
    if found := re.search(r"([^\n]+?)\. Present: (.+)\. Absent: all others\.", text):
        fields = {c.name: c.field for score in load_scores() if score.name == found[1] for c in score.criteria}
        return bucket(f"prognosis|{found[1]}|" + "|".join(sorted(fields[name] for name in found[2].split("; "))))
    return None


@pytest.mark.parametrize("kind", REASONING_TYPES)
def test_bucket_can_be_worked_out_from_the_text(kind: str) -> None:
    for item in draw(kind, 25, seed=4, buckets=BUCKETS["test"], variety="plain"):
        assert asked_bucket(question_text(item)) == item.bucket


def test_base_buckets_are_no_splits() -> None:
    assert not [n for buckets in BUCKETS.values() for n in buckets if n in BASE_BUCKETS] and min(BASE_BUCKETS) == 65


def test_no_document_is_made_from_an_item_of_a_split(read: tuple[list[str], list[Item]]) -> None:
    assert len(read[1]) > 400 and {item.reasoning_type for item in read[1]} == set(REASONING_TYPES)
    assert min(item.bucket for item in read[1]) >= 65


def test_no_document_holds_a_question_of_a_split(read: tuple[list[str], list[Item]]) -> None:
    found = [asked_bucket(text) for text in read[0]]
    asked = [number for number in found if number is not None]
    assert len(asked) > 400 and min(asked) >= 65


def test_no_document_thinks(read: tuple[list[str], list[Item]]) -> None:
    for text in read[0]:
        rest = text.replace(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n", "")
        assert not [word for word in ("<think>", "</think>") if word in rest]
    assert any(SYSTEM in text for text in read[0])


def test_documents_follow_the_seed_and_the_moment() -> None:
    def first(seed: int, moment: float) -> list[str]:
        return list(islice(Corpus(40, 0, BASE_BUCKETS, "", seed).documents(moment), 150))

    assert first(1, 0.0) == first(1, 0.0) != first(2, 0.0)
    assert sum("<|im_start|>" in t for t in first(1, 0.0)) < sum("<|im_start|>" in t for t in first(1, 0.9))


def test_statements_of_evidence_are_true(read: tuple[list[str], list[Item]]) -> None:
    corpus = Corpus(150, 0, BASE_BUCKETS, "", seed=1)
    row, column = ({name: n for n, name in enumerate(names)} for names in (corpus.pool.diseases, corpus.pool.findings))
    listed = re.compile(r"^Step \d+: (?:[A-D]\. )?")
    lines = [
        listed.sub("", line)
        for text in read[0]
        if "<|im_start|>" not in text
        for line in text.split("\n")
        if "; total: " in line
    ]
    assert len(lines) > 300
    for line in lines:
        disease, rest = line.split(": ", 1)
        *pairs, total = [part.rsplit(": ", 1) for part in rest.split("; ")]
        levels = [int(corpus.pool.levels[row[disease], column[finding]]) for finding, _ in pairs]
        assert (
            min(levels) >= 0 and [int(value) for _, value in pairs] == levels and total == ["total", str(sum(levels))]
        )
        assert line == evidence(disease, [finding for finding, _ in pairs], levels)


def test_plain_questions_are_answered_by_letter_and_text() -> None:
    corpus = Corpus(40, 0, BASE_BUCKETS, SYSTEM, seed=3)
    for _ in range(30):
        text = corpus.question()
        form = r"<\|im_start\|>assistant\n(?:Answer:|## Clinical Assessment\n\*\*Answer:\*\*) ([A-J])\. (.+)<\|im_end\|>\n$"
        letter, option = re.search(form, text).groups()
        assert f"\n{letter}. {option}" in text.split("<|im_start|>assistant")[0]


# --- the tokenizer


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("Step 1: A. x: 3; y: 0; total: 3\n\n\t ٣.٥  e\u0301 \u2028 🩺 <think>a</think> **B** (1.5)")
@example("<|im_start|>user\nq<|im_end|>\n<|endoftext|> ")
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_documents_and_prompts_come_back(
    tokenizer: PreTrainedTokenizerFast, read: tuple[list[str], list[Item]]
) -> None:
    for text in read[0][::40]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_think_tags_are_single_tokens_and_survive_decoding(tokenizer: PreTrainedTokenizerFast) -> None:
    for tag in ("<think>", "</think>"):
        (number,) = tokenizer(tag)["input_ids"]
        assert number not in tokenizer.all_special_ids
    ids = tokenizer("<think>\nStep 1: so.\n</think>\n\n## Clinical Assessment<|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\nStep 1: so.\n</think>\n\n## Clinical Assessment"


def test_eos_ends_a_turn_and_is_not_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert {tokenizer.eos_token_id, tokenizer.pad_token_id} <= set(tokenizer.all_special_ids)
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


def test_vocabulary_is_as_large_as_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 4096 and max(tokenizer.get_vocab().values()) < 4096


def test_chat_template_is_the_corpus_form_and_never_opens_think(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "<think>\na\n</think>\n\nb"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == chat("u", turns[2]["content"], "s")
    prompt = tokenizer.apply_chat_template(turns[1:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n" and chat("u", "a").startswith(prompt)


def test_entities_are_few_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    pool = Corpus(150, 0, BASE_BUCKETS, "", 0).pool
    disease = [len(tokenizer(f"\n{name}:")["input_ids"]) - 2 for name in pool.diseases]
    finding = [len(tokenizer(f"; {name}:")["input_ids"]) - 2 for name in pool.findings]
    assert sum(disease) / len(disease) < 1.5 and sum(finding) / len(finding) < 3.5


def test_values_and_letters_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerFast) -> None:
    """``: 3; `` is one token whatever stands before it, and an option's letter never melts into its text."""
    first, second = tokenizer("Fever: 3; Weight loss: 3; ")["input_ids"], tokenizer("Seizure: 3; ")["input_ids"]
    assert first[-1] == second[-1] and tokenizer.decode(second[-1:]) == ": 3; "
    letters = [tokenizer(f"\n{letter}. Fever")["input_ids"][1] for letter in "ABCD"]
    assert [tokenizer.decode([number]) for number in letters] == ["A. ", "B. ", "C. ", "D. "]
