"""Quality filters over training rows: each removal has one of the reasons in ``REASONS``.

They are made to raise few false alarms: a row goes only if its own text shows the fault.
``tests/curation/test_quality.py`` measures the rates on real texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from gazal.answers.extract import extract
from gazal.answers.markup import part
from gazal.items.prompts import completion_text, question_text
from gazal.items.schema import LETTERS, Item, TrainingExample
from gazal.recipe.data import CurationSection

REASONS = ("empty", "no_answer", "truncated", "wrong_language", "unsupported", "context_length")
CountTokens = Callable[[list[str]], list[int]]
TRACES = ("reasoning", "response")
TOKEN_BATCH = 256
Fault = tuple[str, str, str]  # a finding's reason, field and text
HABIT_ROWS = 10  # so many texts of a file must be there before it has a habit

# Words with which no sentence ends, not even one that lacks its full stop.
UNFINISHED = frozenset(
    "the an of and or to with in on at by from as is are was were be been has have had that which who whose when while "
    "because if than but these those its their his her into between during within can could will would should "
    "must".split()
)
ENGLISH = frozenset(
    "the and which with this that from been what when where following should after who whom does not step answer: "
    "finding findings: finding? are were by have has its their may usually because these those there than into between "
    "during within without they used".split()
)
# Medical English is Greek and Latin, and Nigerian Pidgin is spelt like it: neither speaks against English.
NEAR_ENGLISH = {"en", "la", "pcm"}
# Letters of other scripts, without Greek ones and Cyrillic ones that look Latin. English texts use both: MedQA's test
# set has items that are half Cyrillic look-alikes.
NON_LATIN = re.compile(
    r"[^\W\d_\u0000-\u03ff\u1d00-\u1fff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06авеорсухѕіјАВЕКМНОРСТУХЅІЈ]"
)
SENTENCE_END = re.compile(r"[a-z)][.!?](?=\s+[A-Z])")
LIST_LINE = re.compile(r"\s*(?:[-*•#|>+]|\(?\w{1,3}[.):]\s|step \d+:|\**[\w /-]{1,40}:)", re.I)
CONCLUSION = re.compile(r"answer|option|choice|\\boxed|correct")  # in lower case
LONG_LINE = 300  # characters; a longer line without a word of conclusion is no conclusion
FURNITURE = re.compile(
    r"^\s*#+.*$|^[^\n.]{1,40}:\s*$"
    r"|\*\*(?:primary diagnosis|reasoning|immediate management|follow-up|(?:final )?answer)\s*:?\s*\*\*:?|<[^<>]*>",
    re.M | re.I,
)
NO_CONTENT = {"null", "nan", "n/a", "tbd", "todo", "undefined", "[removed]", "[deleted]"}
REFUSAL = re.compile(
    r"(?:i['’]?m sorry,? (?:but )?|i am sorry,? (?:but )?|sorry,? (?:but )?|unfortunately,? )?"
    r"(?:as an ai\b|i (?:cannot|can['’]t|am unable to|am not able to|won['’]t) "
    r"(?:provide|answer|assist|help(?! but)|give|offer|comply|fulfil))",
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

    ``count_tokens`` maps texts to their numbers of tokens. Without it or without ``max_tokens`` no row is removed for
    its length: the tokens of its prompt and its completion together. No tokenizer makes more tokens than bytes of
    UTF-8, so short rows are not counted at all.
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
        found = _empty(row) or _no_answer(row) or self._truncated(row)
        if found := found or wrong_language(row, self.settings) or _unsupported(row):
            reason, field, text = found
            shown = text[-200:] if reason == "truncated" else text[:200]
            self.findings.append(Finding(self._number, row["id"], reason, field, shown))
        elif self.count_tokens and self.max_tokens is not None and _bytes(row) > self.max_tokens:
            self._to_count.append((self._number, row))
            if len(self._to_count) == TOKEN_BATCH:
                self._count()

    def finish(self) -> list[Finding]:
        """Return all findings, by row.

        If a file's texts as a rule end their last sentence, a text that does not is truncated.
        """
        self._count()
        gone = {found.row for found in self.findings}
        self.findings += [found for found in self._unended if found.row not in gone and self.habit(found.field)]
        return sorted({found.row: found for found in reversed(self.findings)}.values())

    def habit(self, field: str) -> bool:
        """Return whether the file's texts in ``field`` end their last sentence as a rule."""
        ended, unended = self._ended[field, True], self._ended[field, False]
        return ended + unended >= HABIT_ROWS and ended >= self.settings.sentence_end_share * (ended + unended)

    def no_habit(self) -> list[str]:
        """Return a line for each field whose texts do not end their last sentence as a rule.

        In such a field a missing end says nothing.
        """
        counts = {field: (self._ended[field, False], self._ended[field, True]) for field in TRACES}
        return [
            f"truncated {field}: {unended} of {unended + ended} end without a sentence's end, too many to tell a cut"
            for field, (unended, ended) in counts.items()
            if unended and not self.habit(field)
        ]

    def _truncated(self, row: dict[str, Any]) -> Fault | None:
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
            if (total := prompt + completion) > self.max_tokens:
                self.findings.append(Finding(number, row["id"], "context_length", "tokens", f"{total} tokens"))


def _empty(row: dict[str, Any]) -> Fault | None:
    """Find a question, trace or option without text, or fewer than two options; what is optional may be missing."""
    for field in ("question", *TRACES):
        text = row.get(field)
        if text is not None and not text.strip():
            return "empty", field, text
    options = row.get("options") or {}
    too_few = len(options) == 1 or (not options and row.get("answer_idx"))
    if too_few or not all(text.strip() for text in options.values()):
        return "empty", "options", " | ".join(options.values())
    return None


def _no_answer(row: dict[str, Any]) -> Fault | None:
    """Find a multiple-choice row whose key is no option, or a free-text row with a trace but an empty response."""
    if row.get("options"):
        return None if key_of(row) else ("no_answer", "answer_idx", str(row.get("answer_idx") or row.get("answer")))
    response = row.get("response")
    if response is None:
        return ("no_answer", "response", "missing") if row.get("reasoning") and not row.get("answer") else None
    answer = part(response).answer
    said = (response if answer is None else answer).strip()
    bare = len(said) < 400 and not re.search(r"[^\W_]", FURNITURE.sub("", said))
    if bare or REFUSAL.match(said) or said.lower().rstrip(".") in NO_CONTENT:
        return "no_answer", "response", response
    return None


def key_of(row: dict[str, Any]) -> str | None:
    """Return the letter of the right option, None if it is not certain.

    This is ``answer_idx``. If that is missing, it is the one option that ``answer`` names: ``C``, ``(C)``,
    ``C. text`` or ``text``.
    """
    options: dict[str, str] = row["options"]
    key = row.get("answer_idx")
    if key is not None:
        return key if key in options else None
    answer = row.get("answer")
    if not isinstance(answer, str):
        return None
    answer = _plain(answer.split("Explanation:")[0])
    forms = {letter: (letter, text, f"{letter}. {text}") for letter, text in options.items()}
    named = [letter for letter, texts in forms.items() if answer in map(_plain, texts)]
    return named[0] if len(named) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .()")


def cut_short(text: str) -> bool:
    """Return whether the text itself shows that its end is missing.

    The signs are an open think block or code fence, an open ``**`` in the last line, or a last word that ends no
    sentence. After five complete sentences an incomplete one in the same paragraph is a sign too.
    """
    if part(text).answer is None:
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
    """Return whether the last line ends its sentence; None if it is a list's, a heading or too short to be one."""
    if text[-1] in ".!?…。！？)]\"'”’»*`>:;|}":
        return True
    last = text[text.rfind("\n") + 1 :]
    return None if LIST_LINE.match(last) or len(last.split()) < 5 else False


def wrong_language(row: dict[str, Any], settings: CurationSection) -> Fault | None:
    """Find a question or trace in another language than the recipe's.

    Its script tells, or py3langid if the text is long enough.
    """
    if settings.language is None:
        return None
    for field in ("question", *TRACES):
        text = row.get(field) or ""
        parts = (text,) if len(text) <= 400 else (text[:300], text[-300:])  # a trace may change its language halfway
        if any(foreign(part, settings) for part in parts):
            return "wrong_language", field, text
    options = " | ".join((row.get("options") or {}).values())
    if settings.language == "en" and foreign_script(options, settings.foreign_share):
        return "wrong_language", "options", options
    return None


def foreign_script(text: str, share: float) -> bool:
    """Return whether more than ``share`` of the text's letters are neither Latin nor Greek."""
    if text.isascii():
        return False
    others = len(NON_LATIN.findall(text))
    return others > 0 and others > share * sum(map(str.isalpha, text))


def foreign(text: str, settings: CurationSection) -> bool:
    """Return whether ``text`` is in another language.

    For English it must have no common words before the detector is consulted, which must be sure.
    """
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
    own = NEAR_ENGLISH if english else {settings.language}
    return language not in own and confidence >= settings.language_confidence


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _unsupported(row: dict[str, Any]) -> Fault | None:
    """Find a trace whose concluding line gives another option than the key, if the whole trace gives that one too."""
    options = row.get("options")
    key = key_of(row) if options and set(options) <= set(LETTERS) else None
    if options is None or key is None:
        return None
    for field in TRACES:
        text = (row.get(field) or "").rstrip()
        if not text:
            continue
        lines = [line for line in text[-1500:].split("\n") if line.strip()][-5:]
        last = lines[-1] if len(lines[-1]) <= LONG_LINE else ""
        line = next((line for line in reversed(lines) if CONCLUSION.search(line.lower())), last)
        letter = extract(line, options).letter
        if letter not in (None, key) and extract(text, options).letter == letter:
            return "unsupported", field, f"{letter}: {line.strip()}"
    return None


def _texts(row: dict[str, Any]) -> tuple[str, str]:
    """Return the prompt and the completion that training would see; the latter is empty without a trace."""
    row = {**row, "options": row.get("options") or {}}
    item = (Item if row["options"] else TrainingExample).model_construct(**row)
    answer = row.get("answer_idx") if row["options"] else row.get("response")
    if row.get("reasoning") and answer is not None:
        return question_text(item), completion_text(item, row["reasoning"])
    return question_text(item), row.get("response") or ""


def _bytes(row: dict[str, Any]) -> int:
    """Return an upper bound on the bytes of both texts."""
    traces, options = (row.get(field) or "" for field in TRACES), row.get("options") or {}
    texts = [row["question"], *traces, *options.values(), *(row.get("context") or ())]
    size = sum(len(text) if text.isascii() else len(text.encode(errors="replace")) for text in texts)
    return 100 + size + 4 * len(texts)
