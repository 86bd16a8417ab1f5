"""Options that are written inside a question's text."""

from __future__ import annotations

import re

from gazal.items.schema import LETTERS

# How options are written: each on its line ("A. x", "A) x", "(A) x"), or inline in one of the three forms.
# Inline, "A." opens the options only behind punctuation: "hepatitis A. Which …" does not.
STYLES = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^[ \t]*\(?([A-J])[.):][ \t]*",
        r"(?<!\w)\(([A-J])\)\s*",
        r"(?<![\w(])([A-J])\)\s*",
        r"(?:(?<=[?.:;!)\]])\s*(?=A)|\A(?=A)|\n\s*|(?<=\s)(?!A))([A-J])\.\s+",
    )
)
INLINE_POINT = STYLES[-1]
HEADER = re.compile(r"(?:\A|\n|(?<=[?.!]))\s*(?:answer\s+)?(?:choices|options)\s*:\s*\Z", re.IGNORECASE)
CUE = re.compile(r"\n\s*(?:the\s+)?(?:correct\s+)?answer(?:\s+is)?\s*:?\s*\Z", re.IGNORECASE)


def parse_options(text: str) -> tuple[str, dict[str, str]] | None:
    """Split ``text`` into the question and its lettered options; return None if that is not certain.

    Not certain are fewer than two options, an empty option, and letters that are missing, out of order or there twice.
    So are inline "A." options of which some begin with a capital and some do not ("D. Enterotoxigenic E. coli").
    """
    for style in STYLES:
        marks: list[re.Match[str]] = []
        for mark in style.finditer(text):
            if not marks or mark.start() > marks[-1].end():  # in "B. E. coli" the E is no mark
                marks.append(mark)
        letters = [mark[1] for mark in marks]
        if "A" not in letters:
            continue
        marks = marks[letters.index("A") :]
        n = next((i for i, mark in enumerate(marks) if mark[1] != LETTERS[i : i + 1]), len(marks))
        if n < 2:
            continue
        if any(LETTERS.index(mark[1]) <= n + 1 for mark in marks[n:]):
            return None
        ends = [mark.start() for mark in marks[1:n]] + [len(text)]
        texts = [text[mark.end() : end].strip(" \t\n;,") for mark, end in zip(marks, ends, strict=False)]
        texts[-1], _, after = texts[-1].partition("\n\n")  # an instruction behind the options stays in the question
        texts[-1] = CUE.sub("", texts[-1])
        if not all(texts) or (style is INLINE_POINT and len({option[0].islower() for option in texts}) > 1):
            return None
        question = "\n".join(part for part in (HEADER.sub("", text[: marks[0].start()]).strip(), after.strip()) if part)
        return question, dict(zip(LETTERS, texts, strict=False))
    return None
