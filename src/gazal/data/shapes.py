"""One converter for each shape of dataset: a row becomes an Item or, without options, a TrainingExample.

The columns are those that third parties' loading code reads. A converter raises ValueError, with the reason, if a row
cannot be used. White space in option texts is collapsed: some published options run over several lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, NamedTuple

from gazal.common.errors import GazalError
from gazal.common.files import not_json
from gazal.common.json_text import load_json
from gazal.data.medmcqa_keys import ORIGIN, key_base
from gazal.items.options import parse_options
from gazal.items.schema import LETTERS, Item, TrainingExample

Row = dict[str, Any]
Convert = Callable[..., Item]  # convert(row, id=…, source=…)
NOT_FOUND = "options not found in the text"
VERDICTS = {"yes": "A", "no": "B", "maybe": "C"}


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _texts(row: Row, *fields: str) -> list[str]:
    """Return the fields as stripped text without think tags. Raises ValueError if one is empty."""
    texts = []
    for field in fields:
        value = row.get(field)
        texts.append(re.sub(r"</?think>", "", value).strip() if isinstance(value, str) else "")
        if not texts[-1]:
            raise ValueError(f"{field} is empty or no text")
    return texts


def _optional(row: Row, field: str) -> str | None:
    value = row.get(field)
    return value.strip() or None if isinstance(value, str) else None


def _choice(question: str, options: Collection[Any], key: Any, **fields: Any) -> Item:
    """Return an Item of option texts in letter order; ``key`` is a letter."""
    texts = [" ".join(text.split()) if isinstance(text, str) else "" for text in options]
    if not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(f"{len(texts)} options, expected 2 to {len(LETTERS)}")
    if not all(texts):
        raise ValueError(f"option {LETTERS[texts.index('')]} is empty or no text")
    lettered = dict(zip(LETTERS, texts, strict=False))
    if key not in lettered:
        raise ValueError(f"answer {key!r} is no letter of the options")
    return Item(question=question, options=lettered, answer_idx=key, answer=lettered[key], **fields)


def _letter(answer: str, options: dict[str, str]) -> str | None:
    """Return the option that ``answer`` names: ``B``, ``(B)``, its text, or ``B. its text …``.

    None if it is not certain.
    """
    if bare := re.fullmatch(r"\(?([A-J])[).:]?", answer):
        return bare[1] if bare[1] in options else None
    same = [letter for letter, text in options.items() if _normal(text) == _normal(answer)]
    if len(same) == 1:
        return same[0]
    both = re.fullmatch(r"\(?([A-J])[).:]\s*(.+)", answer, re.DOTALL)
    return both[1] if both and both[1] in options and _normal(both[2]).startswith(_normal(options[both[1]])) else None


def _structured_medical(row: Row, **about: str) -> Item:
    case, reasoning, answer = _texts(row, "case", "reasoning", "answer")
    return TrainingExample(question=case, reasoning=reasoning, response=answer, **about)


def _medreason(row: Row, **about: str) -> Item:
    """Return multiple choice if the answer (``text. Explanation: …``) names exactly one option, else free text."""
    question, reasoning, answer = _texts(row, "question", "reasoning", "answer")
    about["source"] += f", {row['dataset_name']} {row['id_in_dataset']}"
    listed = _optional(row, "options") or ""
    parsed = parse_options(listed)
    key = _letter(re.split(r"\.?\s*\bExplanation\s*:", answer)[0].strip(), parsed[1]) if parsed else None
    if parsed and key:
        return _choice(question, parsed[1].values(), key, reasoning=reasoning, explanation=answer, **about)
    question = "\n".join(filter(None, (question, listed)))
    return TrainingExample(question=question, reasoning=reasoning, response=answer, **about)


def _medical_grpo(row: Row, **about: str) -> Item:
    text, answer = _texts(row, "question", "answer")
    parsed = parse_options(text)
    if not parsed or not parsed[0]:
        raise ValueError(NOT_FOUND)
    key = _letter(answer, parsed[1])
    if key is None:
        raise ValueError("answer is no letter of the options")
    return _choice(parsed[0], parsed[1].values(), key, **about)


def _ultramedical(row: Row, **about: str) -> Item:
    """Convert the first human turn, with options inside its text, and the reply to it, which is the reasoning.

    ``answer`` is the key. Without options the item is free text, if ``answer`` is text of its own (``yes``). Without
    ``answer`` there is no reasoning apart from the answer, which is an error.
    """
    turns = row["conversations"] or []
    if isinstance(turns, dict):  # a declared sequence of objects is stored as an object of lists
        turns = [dict(zip(turns, values, strict=True)) for values in zip(*turns.values(), strict=True)]
    turns = [turn for turn in turns if isinstance(turn, dict)]
    asked = next((i for i, turn in enumerate(turns) if turn.get("from") in ("human", "user")), None)
    if asked is None or asked + 1 >= len(turns) or turns[asked + 1].get("from") not in ("gpt", "assistant"):
        raise ValueError("conversations: no human turn with a reply to it")
    said = {"human turn": turns[asked].get("value"), "reply": turns[asked + 1].get("value")}
    question, reply = _texts(said, *said)
    about["source"] += f", {row['id']}"
    answer, parsed = _optional(row, "answer"), parse_options(question)
    if parsed and parsed[0] and answer:
        key = _letter(answer, parsed[1])
        if key is None:
            raise ValueError("answer is no letter of the options")
        return _choice(parsed[0], parsed[1].values(), key, reasoning=reply, **about)
    if not answer:
        raise ValueError("no answer beside the reply")
    if re.fullmatch(r"\(?[A-J][).:]?", answer):
        raise ValueError(NOT_FOUND)
    return TrainingExample(question=question, reasoning=reply, response=answer, **about)


def _medqa(row: Row, **about: str) -> Item:
    """Convert options that are an object of letters, or a list of ``{"key": letter, "value": text}``.

    The list is bigbio's configuration of the source.
    """
    (question,) = _texts(row, "question")
    options = row["options"]
    if isinstance(options, list) and all(isinstance(one, dict) and {"key", "value"} <= set(one) for one in options):
        options = {one["key"]: one["value"] for one in options}
    options = _without_nulls(options) if isinstance(options, dict) else {}
    if sorted(options) != list(LETTERS[: len(options)]):
        raise ValueError(f"options: expected letters from A on, found {', '.join(options) or 'none'}")
    return _choice(question, [options[letter] for letter in sorted(options)], row["answer_idx"], **about)


def _medmcqa(row: Row, base: int, **about: str) -> Item:
    (question,) = _texts(row, "question")
    if not isinstance(row["cop"], int) or row["cop"] < 0:
        raise ValueError("cop: no key")
    key = row["cop"] - base
    about["id"] = _optional(row, "id") or about["id"]
    return _choice(
        question,
        [row[name] for name in ("opa", "opb", "opc", "opd")],
        "ABCD"[key] if 0 <= key < 4 else row["cop"],
        subject=_optional(row, "subject_name"),
        reasoning=_optional(row, "exp"),
        **about,
    )


def _pubmedqa(row: Row, **about: str) -> Item:
    (question,) = _texts(row, "question")
    context = row["context"].get("contexts") if isinstance(row["context"], dict) else None
    if not context:
        raise ValueError("context: no contexts")
    pmid = str(row["pubid"])
    return _choice(
        question,
        VERDICTS,
        VERDICTS.get(row["final_decision"], row["final_decision"]),
        context=list(context),
        pmid=pmid,
        reasoning=_optional(row, "long_answer"),
        **about | {"id": pmid},
    )


def _counted(key: Any) -> Any:
    """Return the letter of a key that counts from 0; any other key as it is."""
    return LETTERS[key] if type(key) is int and 0 <= key < len(LETTERS) else key


def _mmlu_pro(row: Row, **about: str) -> Item:
    (question,) = _texts(row, "question")
    about["id"] = f"mmlupro-{row['question_id']}"
    item = _choice(
        question,
        row["options"] if isinstance(row["options"], list) else [],
        _counted(row["answer_index"]),
        subject=row["category"],
        src=row.get("src"),
        reasoning=_optional(row, "cot_content"),
        **about,
    )
    if not _names(row.get("answer"), item):
        raise ValueError(
            f"answer {row['answer']!r:.40} and answer_index {row['answer_index']} ({item.answer_idx}) disagree"
        )
    return item


def _names(said: Any, item: Item) -> bool:
    """Return whether ``said`` (a letter, a number from 0, an option's text, or nothing) fits the item's key."""
    text = "" if said is None else str(_counted(said)).strip()
    if not text:
        return True
    letter = _letter(text.upper() if len(text) < 4 else text, item.options)
    return letter == item.answer_idx or (letter is None and _normal(text) == _normal(item.options[item.answer_idx]))


def _mmlu(row: Row, **about: str) -> Item:
    (question,) = _texts(row, "question")
    if not isinstance(row["choices"], list):
        raise ValueError("choices: expected a list of texts")
    return _choice(question, row["choices"], _counted(row["answer"]), subject=_optional(row, "subject"), **about)


def _item(row: Row, **about: str) -> Item:
    """Convert a row in the item schema (``options`` is JSON text in Parquet).

    With ``response`` in place of options it is free text.
    """
    value = _without_nulls(row)
    value["id"] = str(value.get("id", about["id"]))
    if isinstance(value.get("options"), str):
        try:
            value["options"] = load_json(value["options"])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"options: {not_json(error)}") from error
    free_text = "response" in value and not value.get("options")
    if free_text:
        value = {name: field for name, field in value.items() if name not in ("options", "answer_idx")}
    return tidy((TrainingExample if free_text else Item).model_validate({"source": about["source"]} | value))


def _without_nulls(value: Any) -> Any:
    """Return dicts without the keys that ``datasets`` filled in because another row has them."""
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(field) for name, field in value.items() if field is not None}


def tidy(item: Item) -> Item:
    """Return the item with white space in option texts and in the answer collapsed.

    This is the same object if nothing changes.
    """
    options = {letter: " ".join(text.split()) for letter, text in item.options.items()}
    answer = " ".join(item.answer.split()) if item.answer else item.answer
    same = options == item.options and answer == item.answer
    return item if same else item.model_copy(update={"options": options, "answer": answer})


class Shape(NamedTuple):
    """Columns that must be there, columns that are used if they are there, and the converter."""

    columns: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Convert


SHAPES = {
    "structured_medical": Shape(("case", "reasoning", "answer"), (), _structured_medical),
    "medreason": Shape(("dataset_name", "id_in_dataset", "question", "options", "reasoning", "answer"), (), _medreason),
    "medical_grpo": Shape(("question", "answer"), (), _medical_grpo),
    "ultramedical": Shape(("id", "conversations", "answer"), (), _ultramedical),
    "medqa": Shape(("question", "options", "answer_idx"), (), _medqa),
    "medmcqa": Shape(("question", "opa", "opb", "opc", "opd", "cop"), ("id", "subject_name", "exp"), _medmcqa),
    "pubmedqa": Shape(("pubid", "question", "context", "final_decision"), ("long_answer",), _pubmedqa),
    "mmlu_pro": Shape(
        ("question_id", "question", "options", "answer_index", "category"),
        ("answer", "src", "cot_content"),
        _mmlu_pro,
    ),
    "mmlu": Shape(("question", "choices", "answer"), ("subject",), _mmlu),
    "items": Shape(("question",), (), _item),
}


def converter(shape: str, rows: Iterable[tuple[int, Row]], where: str, base: int | None = None) -> tuple[Convert, str]:
    """Return the converter of ``shape``, and a note on the set (empty, or a sentence for the report).

    ``rows`` are all rows with their numbers, from 1; ``base`` is what MedMCQA's keys count from, if they do not
    tell. Raises GazalError, naming ``where``, if the keys make no sense.
    """
    if shape != "medmcqa":
        return SHAPES[shape].convert, ""
    try:
        found = key_base(rows, base)
    except ValueError as error:
        raise GazalError(f"{where}: {error}") from error
    if found is None:  # the converter says of each row that it has no key
        return partial(_medmcqa, base=0), ""
    return partial(_medmcqa, base=found), f"cop counts from {found} ({ORIGIN[found]})"
