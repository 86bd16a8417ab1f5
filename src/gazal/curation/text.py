"""The question of a row in comparable form: normalised words, the stem without its options, options, context, PMID.

Rows are plain mappings in the item schema, or foreign rows without a key. They may have ``question``, ``options``
(mapping or list), ``context`` (text, list, or PubMedQA's mapping), ``reasoning``, ``response`` and ``pmid``. Nothing is
validated here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gazal.items.options import parse_options

WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
NUMBERED = re.compile(
    r"\s*(?:q(?:uestion|ues)?\s*\.?\s*(?:no\s*\.?\s*)?[#(]?\d{1,4}\s*[.):\]]|[#(]?\d{1,4}\s*[.)\]])\s+(?=\S)",
    re.IGNORECASE,
)
PMID = re.compile(r"(?:pubmedqa|pmid|pubmed)?[-_: ]*0*([1-9]\d{4,8})", re.IGNORECASE)
# Words of how a question is put, not of what it is about: they never make a stem specific.
FUNCTION = frozenset(
    """
a about after all among an and any are as at be been best but by can cause caused causes characteristic choose commonest
commonly consistent correct describes does each either except false feature features finding findings following for from
has have he her his how if in include included includes incorrect is it its least likely may mention most no none not of
on one only option or order patient patients present presents regarding seen select she should single statement
statements than that the their them then there these they this those to true used was were what when where which who why
will with without would you your answer question questions choice choices given all above below both e g i s t
""".split()
)
# Words that turn a short question into another one, by their meaning.
POLARITY = {word: word for word in "left acute chronic before after proximal distal medial lateral".split()} | {
    word: said
    for said, line in {
        "not": "not no except never none without least false incorrect untrue wrong contraindicated",
        "more": "increase increased increases higher highest maximum",
        "less": "decrease decreased decreases low lower lowest minimum",
        "front": "anterior",
        "back": "posterior",
        "above": "superior upper above",
        "below": "inferior below",
        "male": "male man boy",
        "female": "female woman girl",
    }.items()
    for word in line.split()
}
# Options that say nothing by themselves.
VAGUE = frozenset("yes no maybe true false both neither none all a b c d e".split()) | {
    "all of the above",
    "none of the above",
    "any of the above",
    "none of these",
    "all of these",
    "none of the options",
}
BULLET = re.compile(r"\n\s*[-*•+]\s+")
ACCENT = re.compile("[\u0300-\u036f]")
THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
FANCY = "–—−‘’“”…\u00a0·•×/"  # separate words, also where ASCII would drop them
SPACED = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else 32 for code in range(256))


def normal(text: str) -> str:
    """Return the text in lower case, compatibility forms decomposed, without accents and commas of thousands.

    Ligatures, full width and superscripts become plain characters; punctuation stays.
    """
    if not text.isascii():
        text = ACCENT.sub("", unicodedata.normalize("NFKD", text)).replace("\u00ad", "").replace("\u200b", "")
    text = text.casefold()
    return THOUSANDS.sub("", text) if "," in text else text


def words(text: str) -> list[str]:
    """Return words and numbers of a text: ``5mg`` and ``5 mg`` are the same two; ``1.50`` stays as it is written."""
    return WORD.findall(normal(text))


def plain_words(text: str) -> list[str]:
    """Return the words of a long text: runs of ASCII letters and digits, without accents.

    All else separates words. This is four times as fast as ``words``.
    """
    if not text.isascii():
        for mark in FANCY:
            text = text.replace(mark, " ")
        text = unicodedata.normalize("NFKD", text)
    return text.encode("ascii", "ignore").translate(SPACED).decode().split()


def is_number(word: str) -> bool:
    return word[:1] <= "9"  # of what WORD finds


def number(word: str) -> str:
    """Return a number's one spelling: no leading or trailing zeros."""
    whole, point, part = word.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (point + part if part else "")


def squeezed(spoken: Iterable[str]) -> str:
    """Return words and numbers without anything between them, so that no comma, point or space counts."""
    return "".join(spoken).replace(".", "")


def computed(options: Sequence[Sequence[str]]) -> bool:
    """Return whether half of the options or more are numbers, such as doses, scores and stages.

    Such an option begins with a number, or a third of its words are numbers.
    """
    numeric = sum(is_number(said[0]) or 3 * sum(map(is_number, said)) >= len(said) for said in options if said)
    return 2 * numeric >= len(options) > 0


def enumeration(text: str) -> list[list[str]]:
    """Return the ``a; b; c`` lists of a stem, each sorted: a stem with another element asks something else.

    ``a | b`` and lines with a bullet are lists too.
    """
    text = BULLET.sub("; ", normal(text))
    if ";" not in text and "|" not in text:
        return []
    lists = []
    for chunk in re.split(r"[\n:?]|\.(?=\s|$)", text):
        parts = re.split(r"[;|]", chunk)
        if len(parts) > 1:
            elements = {" ".join(sorted(WORD.findall(part))).replace(".", "") for part in parts} - {""}
            if len(elements) > 1:
                lists.append(sorted(elements))
    return sorted(lists)


class Question(NamedTuple):
    """A question as a row holds it: the texts as they stand; ``body`` is all in which a context may hide."""

    id: str
    stem: str
    options: list[str]
    context: str
    body: str
    pmid: int
    asks: str  # of a generator's item its key, else the split bucket that hashes it; "" from other sources


def _text(value: Any) -> str:
    """Return the text of any form in which rows hold it: text, list, or PubMedQA's ``{"contexts": […]}``."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _text(value.get("contexts"))
    if isinstance(value, Iterable):
        return "\n".join(part for part in value if isinstance(part, str))
    return ""


def _options(value: Any) -> list[str]:
    if isinstance(value, str):
        parsed = parse_options(value)
        return list(parsed[1].values()) if parsed else []
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, Iterable) else ()
    return [text for text in values if isinstance(text, str) and text.strip()]


def _pmid(row: Mapping[str, Any], has_context: bool) -> int:
    for field in ("pmid", "pubid", "id") if has_context else ("pmid", "pubid"):
        found = PMID.fullmatch(str(row.get(field) or "").strip())
        if found:
            return int(found[1])
    found = re.fullmatch(r"pubmedqa[-_:]0*([1-9]\d{4,8})", str(row.get("id") or ""), re.IGNORECASE)
    return int(found[1]) if found else 0


def asked(row: Mapping[str, Any]) -> Question:
    """Return what ``row`` asks. If it has no options of its own, those inside the question are parsed."""
    question, options, context = _text(row.get("question")), _options(row.get("options")), _text(row.get("context"))
    stem = question
    if len(question) > 8 and ("A" in question or "a)" in question):
        parsed = parse_options(question)
        if parsed and parsed[0]:
            stem = parsed[0]
            options = options or list(parsed[1].values())
    numbered = NUMBERED.match(stem)
    if numbered:
        stem = stem[numbered.end() :]
    others = (_text(row.get(field)) for field in ("reasoning", "response", "explanation"))
    body = "\n".join(filter(None, (question, context, *others)))
    asks = next((f"{field} {row[field]}" for field in ("question_key", "bucket") if row.get(field) is not None), "")
    return Question(str(row.get("id", "")), stem, options, context, body, _pmid(row, bool(context)), asks)
