"""Quality filters over training rows: each removal has one of the reasons in ``REASONS``.

They are made to raise few false alarms: a row goes only where its own text shows the fault. Rates on real
texts stand in ``tests/curation/test_quality.py``, which measures them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from gazal.answers.extract import extract
from gazal.items.prompts import completion_text, question_text
from gazal.items.schema import LETTERS, Item, TrainingExample
from gazal.recipe.data import CurationSection

REASONS = ("empty", "no_answer", "truncated", "wrong_language", "unsupported", "context_length")
CountTokens = Callable[[list[str]], list[int]]
TRACES = ("reasoning", "response")
TOKEN_BATCH = 256
HABIT_ROWS = 10  # so many texts of a file must be there before it has a habit

# Words with which no sentence ends, not even one that lacks its full stop.
UNFINISHED = frozenset(
    "the an of and or to with in on at by from as is are was were be been has have had that which who whose when while because if than "
    "but these those its their his her into between during within can could will would should must".split()
)
ENGLISH = frozenset(
    "the and which with this that from been what when where following should after who whom does not step answer: finding findings: finding? "
    "are were by have has its their may usually because these those there than into between during within without they used".split()
)
# Medical English is Greek and Latin, and Nigerian Pidgin is spelt like it: neither speaks against English.
NEAR_ENGLISH = {"en", "la", "pcm"}
# Letters of other scripts, without Greek ones and Cyrillic ones that look Latin: English texts use both (MedQA's test set has items that are half Cyrillic look-alikes).
NON_LATIN = re.compile(
    r"[^\W\d_\u0000-\u03ff\u1d00-\u1fff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06авеорсухѕіјАВЕКМНОРСТУХЅІЈ]"
)
SENTENCE_END = re.compile(r"[a-z)][.!?](?=\s+[A-Z])")
LIST_LINE = re.compile(r"\s*(?:[-*•#|>+]|\(?\w{1,3}[.):]\s|step \d+:|\**[\w /-]{1,40}:)", re.I)
CONCLUSION = re.compile(r"answer|option|choice|\\boxed|correct")  # in lower case
LONG_LINE = 300  # characters; a longer line without a word of conclusion is no conclusion
FURNITURE = re.compile(
    r"^\s*#+.*$|^[^\n.]{1,40}:\s*$|\*\*(?:primary diagnosis|reasoning|immediate management|follow-up|(?:final )?answer)\s*:?\s*\*\*:?|<[^<>]*>",
    re.M | re.I,
)
NO_CONTENT = {"null", "nan", "n/a", "tbd", "todo", "undefined", "[removed]", "[deleted]"}
REFUSAL = re.compile(
    r"(?:i['’]?m sorry,? (?:but )?|i am sorry,? (?:but )?|sorry,? (?:but )?|unfortunately,? )?(?:as an ai\b|i (?:cannot|can['’]t|am unable to|am not able to|won['’]t) (?:provide|answer|assist|help(?! but)|give|offer|comply|fulfil))",
    re.I,
)


class Finding(NamedTuple):
    """Why a row goes: its item number (from 0), id, reason, the field that shows it and what is there."""

    row: int
    id: str
    reason: str
    field: str
    text: str


class QualityFilter:
    """The filters for the rows of one file: ``check`` each in order, then ``finish`` once.

    count_tokens: texts to their numbers of tokens; with None or without max_tokens nothing is removed for its length.
    A row's length is its prompt's plus its completion's. No tokenizer makes more tokens than bytes of UTF-8, so
    short rows are not counted at all.
    """

    def __init__(
        self, settings: CurationSection, count_tokens: CountTokens | None = None, max_tokens: int | None = None
    ) -> None:
        self.settings, self.count_tokens, self.max_tokens = settings, count_tokens, max_tokens
        self.findings: list[Finding] = []
        self._number = -1
        self._ended: Counter[tuple[str, bool]] = Counter()
        self._unended: list[Finding] = []
        self._to_count: list[tuple[int, dict[str, Any]]] = []

    def check(self, row: dict[str, Any]) -> None:
        """Judge the next row (see ``gazal.curation.scan.clean_row``)."""
        self._number += 1
        found = (
            _empty(row)
            or _no_answer(row)
            or self._truncated(row)
            or wrong_language(row, self.settings)
            or _unsupported(row)
        )
        if found:
            self.findings.append(
                Finding(
                    self._number, row["id"], *found[:2], found[2][-200:] if found[0] == "truncated" else found[2][:200]
                )
            )
        elif self.count_tokens and self.max_tokens is not None and _bytes(row) > self.max_tokens:
            self._to_count.append((self._number, row))
            if len(self._to_count) == TOKEN_BATCH:
                self._count()

    def finish(self) -> list[Finding]:
        """All findings, by row. In a file whose texts as a rule end their last sentence, one that does not is truncated."""
        self._count()
        gone = {found.row for found in self.findings}
        self.findings += [found for found in self._unended if found.row not in gone and self.habit(found.field)]
        return sorted({found.row: found for found in reversed(self.findings)}.values())

    def habit(self, field: str) -> bool:
        """Whether the file's texts in ``field`` end their last sentence."""
        ended, unended = self._ended[field, True], self._ended[field, False]
        return ended + unended >= HABIT_ROWS and ended >= self.settings.sentence_end_share * (ended + unended)

    def no_habit(self) -> list[str]:
        """The fields whose texts do not end their last sentence as a rule, so that one which does not says nothing; as text."""
        fields = [field for field in TRACES if self._ended[field, False] and not self.habit(field)]
        return [
            f"truncated {field}: {self._ended[field, False]} of {self._ended[field, False] + self._ended[field, True]} end without a sentence's end, too many to tell a cut"
            for field in fields
        ]

    def _truncated(self, row: dict[str, Any]) -> tuple[str, str, str] | None:
        for field in TRACES:
            text = (row.get(field) or "").rstrip()
            if not text:
                continue
            if cut_short(text):
                return "truncated", field, text
            ended = sentence_ended(text)
            if ended is not None:
                self._ended[field, ended] += 1
                if not ended:
                    self._unended.append(Finding(self._number, row["id"], "truncated", field, text[-200:]))
        return None

    def _count(self) -> None:
        rows, self._to_count = self._to_count, []
        if not rows or self.count_tokens is None or self.max_tokens is None:
            return
        pairs = [_texts(row) for _, row in rows]
        counts = self.count_tokens([text for pair in pairs for text in pair])
        for (number, row), prompt, completion in zip(rows, counts[::2], counts[1::2], strict=True):
            if prompt + completion > self.max_tokens:
                self.findings.append(
                    Finding(number, row["id"], "context_length", "tokens", f"{prompt + completion} tokens")
                )


def _empty(row: dict[str, Any]) -> tuple[str, str, str] | None:
    """A question, trace or option without text, or fewer than two options. What a row need not have may be missing."""
    for field in ("question", *TRACES):
        text = row.get(field)
        if text is not None and not text.strip():
            return "empty", field, text
    options = row.get("options") or {}
    if (
        len(options) == 1
        or not all(text.strip() for text in options.values())
        or (not options and row.get("answer_idx"))
    ):
        return "empty", "options", " | ".join(options.values())
    return None


def _no_answer(row: dict[str, Any]) -> tuple[str, str, str] | None:
    """A multiple-choice row whose key is none of its options; a free-text row with a trace whose response says nothing."""
    if row.get("options"):
        return None if key_of(row) else ("no_answer", "answer_idx", str(row.get("answer_idx") or row.get("answer")))
    response = row.get("response")
    if response is None:
        return ("no_answer", "response", "missing") if row.get("reasoning") and not row.get("answer") else None
    said = response.rpartition("</think>")[2].strip()
    if (
        REFUSAL.match(said)
        or said.lower().rstrip(".") in NO_CONTENT
        or (len(said) < 400 and not re.search(r"[^\W_]", FURNITURE.sub("", said)))
    ):
        return "no_answer", "response", response
    return None


def key_of(row: dict[str, Any]) -> str | None:
    """The letter of the right option: ``answer_idx``, or where that is missing the one option that ``answer`` names (``C``, ``(C)``, ``C. text``, ``text``)."""
    options: dict[str, str] = row["options"]
    key = row.get("answer_idx")
    if key is not None:
        return key if key in options else None
    answer = row.get("answer")
    if not isinstance(answer, str):
        return None
    answer = _plain(answer.split("Explanation:")[0])
    named = [
        letter
        for letter, text in options.items()
        if answer in (_plain(letter), _plain(text), _plain(f"{letter}. {text}"))
    ]
    return named[0] if len(named) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .()")


def cut_short(text: str) -> bool:
    """Whether the text itself shows that its end is missing.

    An open ``<think>``, code fence, or ``**`` in the last line; a last word or sign that ends no sentence; or, after
    five sentences with an end, one without in the same paragraph.
    """
    if "<think>" in text and text.rfind("<think>") > text.rfind("</think>"):
        return True
    if "```" in text and len(re.findall(r"^\s*```", text, re.M)) % 2:
        return True
    last = text[text.rfind("\n") + 1 :]
    if last.count("**") % 2 and re.search(r"(?<![^\s(:])\*\*[^*]*$", last):
        return True
    words = last[-400:].split()
    if len(words) >= 4 and (words[-1] in UNFINISHED or text[-1] in ",([{" or words[-1] in ("–", "—", "=", "&")):
        return True
    if not text[-1].isalpha() or not words[-1].islower():
        return False
    *before, tail = SENTENCE_END.split(last)
    return bool(before) and len(tail.split()) >= 3 and len(SENTENCE_END.findall(text)) >= 5


def sentence_ended(text: str) -> bool | None:
    """Whether the last line ends its sentence; None where it is a list's, a heading or too short to be one."""
    if text[-1] in ".!?…。！？)]\"'”’»*`>:;|}":
        return True
    last = text[text.rfind("\n") + 1 :]
    return None if LIST_LINE.match(last) or len(last.split()) < 5 else False


def wrong_language(row: dict[str, Any], settings: CurationSection) -> tuple[str, str, str] | None:
    """A question or trace in another language than the recipe's: by its script, or by py3langid where the text is long enough."""
    if settings.language is None:
        return None
    for field in ("question", *TRACES):
        text = row.get(field) or ""
        parts = (text,) if len(text) <= 400 else (text[:300], text[-300:])  # a trace may change its language halfway
        if any(foreign(part, settings) for part in parts):
            return "wrong_language", field, text
    options = " | ".join((row.get("options") or {}).values())
    return (
        ("wrong_language", "options", options)
        if settings.language == "en" and foreign_script(options, settings.foreign_share)
        else None
    )


def foreign_script(text: str, share: float) -> bool:
    """Whether more than ``share`` of the text's letters are neither Latin nor Greek."""
    if text.isascii():
        return False
    others = len(NON_LATIN.findall(text))
    return others > 0 and others > share * sum(map(str.isalpha, text))


def foreign(text: str, settings: CurationSection) -> bool:
    """Whether ``text`` is in another language: for English no common words, then the detector sure of another one."""
    english = settings.language == "en"
    if english and foreign_script(text, settings.foreign_share):
        return True
    if len(text) < settings.language_min_chars:
        return False
    if english:
        words = text.lower().split()
        if sum(map(ENGLISH.__contains__, words)) >= max(2, len(words) / 25):
            return False
    language, confidence = _identifier().classify(text)
    return (
        language not in (NEAR_ENGLISH if english else {settings.language})
        and confidence >= settings.language_confidence
    )


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _unsupported(row: dict[str, Any]) -> tuple[str, str, str] | None:
    """A trace whose concluding line reads as another option than the key, as far as the whole trace does not gainsay it."""
    options = row.get("options")
    key = key_of(row) if options and set(options) <= set(LETTERS) else None
    if options is None or key is None:
        return None
    for field in TRACES:
        text = (row.get(field) or "").rstrip()
        if not text:
            continue
        lines = [line for line in text[-1500:].split("\n") if line.strip()][-5:]
        line = next(
            (line for line in reversed(lines) if CONCLUSION.search(line.lower())),
            lines[-1] if len(lines[-1]) <= LONG_LINE else "",
        )
        letter = extract(line, options).letter
        if letter not in (None, key) and extract(text, options).letter == letter:
            return "unsupported", field, f"{letter}: {line.strip()}"
    return None


def _texts(row: dict[str, Any]) -> tuple[str, str]:
    """The prompt and the completion that training would see; the latter is empty where there is no trace."""
    row = {**row, "options": row.get("options") or {}}
    item = (Item if row["options"] else TrainingExample).model_construct(**row)
    answer = row.get("answer_idx") if row["options"] else row.get("response")
    if row.get("reasoning") and answer is not None:
        return question_text(item), completion_text(item, row["reasoning"])
    return question_text(item), row.get("response") or ""


def _bytes(row: dict[str, Any]) -> int:
    """At least the bytes of both texts."""
    texts = [
        row["question"],
        *(row.get(field) or "" for field in TRACES),
        *(row.get("options") or {}).values(),
        *(row.get("context") or ()),
    ]
    return (
        100
        + sum(len(text) if text.isascii() else len(text.encode(errors="replace")) for text in texts)
        + 4 * len(texts)
    )
