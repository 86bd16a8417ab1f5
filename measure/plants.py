"""Planted duplicates and real questions that are none, to measure what a duplicate finder finds: a thousand, and HARD ones.

Word edits are those of EDA (Wei and Zou 2019, arXiv:1901.11196) at its rate of 10 %: a word is replaced, inserted, deleted or
swapped with the next; words come from other stems in place of a thesaurus, which is harder. Numbers and words of polarity stay.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gazal.curation.text import POLARITY

TESTS = {
    "medqa": "medqa_test_4opt",
    "medmcqa": "medmcqa_validation",
    "pubmedqa": "pubmedqa_test500",
    "mmlu_pro_health": "mmlu_pro_health",
    "mmlu_pro_biology": "mmlu_pro_biology",
}
OTHERS = (
    "medmcqa_train_selfbiorag",
    "medqa_train_4opt_selfbiorag",
    "medqa_dev_4opt_mediq",
    "pubmedqa_train500",
    "huatuo_o1_demo198",
)
# Real questions of OTHERS that do ask what a test item asks: candidates of the loosest settings, read one by one.
KNOWN = {
    "huatuo_o1_demo198-151": "MedMCQA bc8e9ed4-81fd-4c8e-9381-ae6c4d193066, word for word",
    "huatuo_o1_demo198-154": "MedMCQA da529e73-61fe-4b52-81b1-8686b6a62ffd, word for word",
    "huatuo_o1_demo198-193": "MedMCQA b5135682-e700-4fda-a6b2-39b289c3cc41, word for word",
    "medmcqa_train_selfbiorag-853": "MedMCQA 6ea9c844-6c19-4b2a-81ff-b31837c44bd9, other punctuation",
    "huatuo_o1_demo198-82": "MedMCQA 4982eef9-e03f-4b52-af7d-e0e2f588358e, stem and options reworded",
    "medmcqa_train_selfbiorag-450": "MedMCQA c52f3d8b-9255-4eb2-a6b8-dffc3d149662, reworded, same key, other distractors",
    "medmcqa_train_selfbiorag-396": "MedMCQA c9c266bf-134a-477c-a88a-02f41cb10f46, stem and options reworded",
    "medmcqa_train_selfbiorag-929": "MedMCQA d8ae56a0-ea28-4047-9387-b0d1cf376fc4, reworded, two options shared",
}
EDIT_RATE = 0.1
SHORT = 6  # words
FREE = re.compile(r"\D+")
MARKS = ".,;:?!()[]\"'’“”-–"
NUMBER = re.compile(r"(?<![\w.])(?<!^)\d+(?:\.\d+)?(?![\w])")  # not the one that numbers the question


class Plant(NamedTuple):
    """A training row made from a test item, and whether it is to be found."""

    kind: str
    row: dict[str, Any]
    test: str
    test_id: str
    duplicate: bool


def rows(folder: Path, stem: str) -> Iterator[dict[str, Any]]:
    """Rows of a benchmark file; those without an id get one."""
    with gzip.open(folder / f"{stem}.jsonl.gz", "rt", encoding="utf-8") as handle:
        for number, line in enumerate(handle):
            row = json.loads(line)
            row.setdefault("id", f"{stem}-{number}")
            yield row


def edit_words(text: str, pool: list[str], rng: np.random.Generator) -> str:
    """``EDIT_RATE`` of the words edited, at least one; numbers, words with digits and words of polarity stay."""
    tokens = text.split()
    for _ in range(max(1, round(EDIT_RATE * len(tokens)))):
        free = [
            k for k, word in enumerate(tokens) if FREE.fullmatch(word) and word.strip(MARKS).casefold() not in POLARITY
        ]
        if not free:
            break
        k, other = int(rng.choice(free)), pool[int(rng.integers(len(pool)))]
        match int(rng.integers(4)):
            case 0:
                tokens[k] = other
            case 1:
                tokens.insert(k, other)
            case 2:
                del tokens[k]
            case _:
                if k + 1 in free:
                    tokens[k : k + 2] = tokens[k + 1], tokens[k]
                else:
                    tokens[k] = other
    return " ".join(tokens)


FANCY = {"'": "’", '"': "”", "-": "–", "fi": "ﬁ", "fl": "ﬂ", " ": "\u00a0", "e": "é", "a": "á", "...": "…", "o": "ö"}


def disguise(text: str, rng: np.random.Generator) -> str:
    """White space, case, punctuation and Unicode changed; the words stay."""
    text = text.upper() if rng.random() < 0.3 else text.title() if rng.random() < 0.3 else text
    for plain, fancy in FANCY.items():
        if rng.random() < 0.5:
            text = text.replace(plain, fancy)
    text = re.sub(
        r"[,.;:?!](?=\s|$)", lambda mark: mark[0] if rng.random() < 0.5 else rng.choice(["", " ;", " …", "!"]), text
    )
    return re.sub(r"[ \u00a0]", lambda gap: gap[0] if rng.random() < 0.8 else rng.choice(["  ", "\t", "\n"]), text)


def change_numbers(text: str, rng: np.random.Generator) -> str:
    """One number of the text another one: a different question."""
    found = list(NUMBER.finditer(text))
    number = found[int(rng.integers(len(found)))]
    value = float(number[0]) + int(rng.integers(1, 30))
    return text[: number.start()] + (str(int(value)) if "." not in number[0] else f"{value:.1f}") + text[number.end() :]


REMOVED = str.maketrans("", "", ",.;:")


def replace_words(text: str, pool: list[str], rng: np.random.Generator) -> str:
    """``EDIT_RATE`` of the words replaced, at least one, whatever they are: numbers and words of polarity too."""
    tokens = text.split()
    for k in rng.choice(len(tokens), max(1, round(EDIT_RATE * len(tokens))), replace=False):
        tokens[k] = pool[int(rng.integers(len(pool)))]
    return " ".join(tokens)


def move_number(text: str, rng: np.random.Generator) -> str:
    """One number of the text moved to another place in it."""
    found = list(NUMBER.finditer(text))
    number = found[int(rng.integers(len(found)))]
    tokens = (text[: number.start()] + text[number.end() :]).split()
    tokens.insert(int(rng.integers(len(tokens) + 1)), number[0])
    return " ".join(tokens)


def has_number(row: dict[str, Any]) -> bool:
    return bool(NUMBER.search(row["question"])) and len(row["question"].split()) > SHORT


def reordered(options: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    return dict(zip(options, (list(options.values())[k] for k in rng.permutation(len(options))), strict=True))


def appended(row: dict[str, Any], rng: np.random.Generator) -> str:
    """The question with its options behind it, in one of the ways that training sets write them."""
    pattern, gap = (("{}. {}", "\n"), ("{}) {}", "\n"), ("({}) {}", " "), ("{}: {}", "\n"))[int(rng.integers(4))]
    return row["question"] + "\n" + gap.join(pattern.format(*option) for option in row["options"].items())


class Maker:
    """Makes plants of every kind; ``filler`` gives the reasoning of a training text (words of unrelated rows)."""

    def __init__(self, pool: list[str], filler: Callable[[], str], rng: np.random.Generator) -> None:
        self.pool, self.filler, self.rng = pool, filler, rng

    def _row(self, row: dict[str, Any], **changed: Any) -> dict[str, Any]:
        return {"question": row["question"], "options": row["options"], "reasoning": self.filler()} | changed

    def verbatim(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row)

    def options_appended(self, row: dict[str, Any]) -> dict[str, Any]:
        made = self._row(row, question=appended(row, self.rng), response=self.filler())
        del made["options"]
        return made

    def options_reordered(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row, options=reordered(row["options"], self.rng))

    def disguised(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(
            row,
            question=disguise(row["question"], self.rng),
            options={key: disguise(text, self.rng) for key, text in row["options"].items()},
        )

    def words_edited(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row, question=edit_words(row["question"], self.pool, self.rng))

    def words_edited_open(self, row: dict[str, Any]) -> dict[str, Any]:
        made = self.words_edited(row) | {"response": self.filler()}
        del made["options"]
        return made

    def short_stem(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row, options=reordered(row["options"], self.rng))

    def abstract_in_rationale(self, row: dict[str, Any]) -> dict[str, Any]:
        made = self._row(row, question="Summarise the evidence and say what follows from it.", response=self.filler())
        made["reasoning"] = f"{self.filler()} {' '.join(row['context'])} {self.filler()}"
        del made["options"]
        return made

    def same_pmid(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(
            row, question=f"What did this study of {int(self.rng.integers(2, 900))} centres conclude?", pmid=row["id"]
        )

    def numbers_changed(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row, question=change_numbers(row["question"], self.rng))

    def punctuation_removed(self, row: dict[str, Any]) -> dict[str, Any]:
        options = {letter: text.translate(REMOVED) for letter, text in row["options"].items()}
        return self._row(row, question=row["question"].translate(REMOVED), options=options)

    def words_replaced(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row, question=replace_words(row["question"], self.pool, self.rng))

    def words_replaced_in_a_case(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.words_replaced(row) | {"options": reordered(row["options"], self.rng)}

    def numbers_changed_in_a_case(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.numbers_changed(row)

    def numbers_moved(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._row(row, question=move_number(row["question"], self.rng))


def _short(row: dict[str, Any]) -> bool:
    return len(re.findall(r"\w+", row["question"])) <= SHORT


def _multiple_choice(row: dict[str, Any]) -> bool:
    return not _short(row) and len(row["options"]) > 1 and "context" not in row


def _case(row: dict[str, Any]) -> bool:
    """A long question with a number, whose options are not numbers: they give its answer away."""
    computed = sum(bool(re.search(r"\d", text)) for text in row["options"].values())
    return (
        _multiple_choice(row)
        and bool(NUMBER.search(row["question"]))
        and len(row["question"].split()) >= 25
        and not computed
    )


def _asks_by_number(row: dict[str, Any]) -> bool:
    """A question that another number makes another one: it is short, or its options are numbers."""
    quantities = all(re.match(r"\W*\d", text) for text in row["options"].values())
    return has_number(row) and "context" not in row and (quantities or len(row["question"].split()) <= 12)


# kind: (number, which test items serve, duplicate). "words edited, open" needs a stem that means something alone.
KINDS: dict[str, tuple[int, Callable[[dict[str, Any]], bool], bool]] = {
    "verbatim": (120, _multiple_choice, True),
    "options appended": (120, _multiple_choice, True),
    "options reordered": (100, _multiple_choice, True),
    "disguised": (120, _multiple_choice, True),
    "words edited": (140, _multiple_choice, True),
    "words edited open": (60, lambda row: len(row["question"].split()) >= 20 and "context" not in row, True),
    "short stem": (80, lambda row: _short(row) and "context" not in row, True),
    "abstract in rationale": (80, lambda row: "context" in row, True),
    "same pmid": (20, lambda row: "context" in row, True),
    "numbers changed": (160, _asks_by_number, False),
}
# What used to be missed; each has a stream of its own.
HARD: dict[str, tuple[int, Callable[[dict[str, Any]], bool], bool]] = {
    "punctuation removed": (200, lambda row: len(row["options"]) > 1 and "context" not in row, True),
    "words replaced": (200, _multiple_choice, True),
    "words replaced in a case": (200, _case, True),
    "numbers changed in a case": (200, _case, True),
    "numbers moved": (200, _case, True),
}
ALL_KINDS = KINDS | HARD


def make_plants(
    folder: Path,
    seed: int = 0,
    filler: Callable[[], str] = lambda: "",
    kinds: dict[str, tuple[int, Callable[[dict[str, Any]], bool], bool]] = KINDS,
) -> list[Plant]:
    """Plants in the shares of ``kinds``; same seed, same plants.

    Test items are drawn without replacement: for ``KINDS`` over all kinds, else anew for each.
    """
    rng = np.random.default_rng([seed, 41])
    tests = [(name, row) for name, stem in TESTS.items() for row in rows(folder, stem)]
    pool = sorted(
        {
            word
            for _, row in tests
            for word in re.findall(r"[^\W\d_]{3,}", row["question"])
            if word.casefold() not in POLARITY
        }
    )
    maker = Maker(pool, filler, rng)
    free = [tests[k] for k in rng.permutation(len(tests))]
    plants: list[Plant] = []
    for number, (kind, (count, fits, duplicate)) in enumerate(kinds.items()):
        if kinds is not KINDS:
            maker.rng = np.random.default_rng([seed, 43, number])
            free = [tests[k] for k in maker.rng.permutation(len(tests))]
        chosen = list(islice((k for k, (_, row) in enumerate(free) if fits(row)), count))
        for k in chosen:
            name, row = free[k]
            made = getattr(maker, kind.replace(" ", "_"))(row)
            word = "plant" if kinds is KINDS else "hard"
            plants.append(Plant(kind, {"id": f"{word}-{len(plants)}"} | made, name, str(row["id"]), duplicate))
        taken = set(chosen)
        free = [pair for k, pair in enumerate(free) if k not in taken]
    return plants
