"""The completions that the benchmark of rewards is run on: honest ones in many forms, and the red team's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from gazal.knowledge.generate import synthesize
from gazal.rewards.red_team import Case

TOKENIZER = Path(__file__).resolve().parent.parent / "src" / "gazal" / "assets" / "embedded_base" / "tokenizer.json"
FORMS = {
    "**Answer:** C. text": "<think>\n{reasoning}\n</think>\n\n## Clinical Assessment\n**Answer:** {letter}. {text}",
    "**Answer:** C": "<think>\n{reasoning}\n</think>\n\n## Clinical Assessment\n**Answer:** {letter}",
    "<answer>C</answer>": "<think>\n{reasoning}\n</think>\n<answer>\n{letter}\n</answer>",
    "\\boxed{C}": "<think>\n{reasoning}\n</think>\n\n\\boxed{{{letter}}}",
    "\\boxed{\\text{C}}": "<think>\n{reasoning}\n</think>\n\nThe answer is $\\boxed{{\\text{{{letter}}}}}$.",
    '"answer": "C"': '<think>\n{reasoning}\n</think>\n\n{{"answer": "{letter}"}}',
    "The answer is (C).": "{reasoning}\n\nThe answer is ({letter}).",
    "C, alone on a line": "{reasoning}\n\n{letter}",
    "the option's text": "<think>\n{reasoning}\n</think>\n\n{text}",
}
"""Honest forms that state an answer; `{letter}`, `{text}` and `{reasoning}` are filled in."""
SENTENCES = (
    "The {finding} that is described here speaks for {one} rather than for {two}.",
    "In {two} one would expect {finding} much later, if it came at all.",
    "{one} is known to begin with {finding}, and nothing in the history contradicts that.",
    "Against {two} stands the {finding}; it is hard to explain any other way.",
    "Without {finding} the case for {one} would be weak, but it is there from the start.",
    "Both {one} and {two} can lead to {finding}, so that this alone decides nothing.",
    "Next to the other findings, {finding} weighs little in favour of {two}.",
    "So far {one} explains more of what was found than {two} does; {finding} remains open.",
)
OTHER = ("<think>\n{reasoning}\n</think>\n\nI cannot determine this from what is given.", "<think>\n{reasoning}")


@dataclass
class Batch:
    """Completions of many items side by side; `ids`: their token ids, given to whoever counts tokens."""

    texts: list[str]
    options: list[dict[str, str]]
    keys: list[str]
    ids: list[list[int]]

    @property
    def messages(self) -> list[list[dict[str, str]]]:
        return [[{"role": "assistant", "content": text}] for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, n: int) -> Batch:
        return Batch(self.texts[:n], self.options[:n], self.keys[:n], self.ids[:n])


def honest_batch(n: int, tokenizer: Tokenizer, seed: int = 1, n_tokens: int = 300) -> Batch:
    """`n` distinct completions of about n_tokens, every form of FORMS and OTHER in turn, seven in ten of them right.

    Their steps are sentences and lines of the embedded corpus, mixed so that a token has about four characters, as in ordinary English text.
    """
    items, rng = synthesize(max(n // 8, 40), seed, variety="plain"), random.Random(seed)
    scores = [
        line.partition(": ")[2] for item in items for line in (item.reasoning or "").splitlines() if line.count(":") > 3
    ]
    findings = sorted({line.partition(":")[0].lower() for score in scores for line in score.split("; ")[1:-1]})
    forms = [*FORMS.values(), *OTHER]
    texts, options, keys = [], [], []
    for i in range(n):
        item, lines, size = items[i % len(items)], [], 25
        while size < n_tokens:
            one, two = rng.sample(list(item.options.values()), 2)
            step = (
                rng.choice(scores)
                if rng.random() < 0.3
                else rng.choice(SENTENCES).format(finding=rng.choice(findings), one=one, two=two)
            )
            lines.append(f"Step {len(lines) + 1}: {step}")
            size += len(tokenizer.encode(lines[-1] + "\n").ids)
        letter = (
            item.answer_idx if rng.random() < 0.7 else rng.choice([x for x in item.options if x != item.answer_idx])
        )
        texts.append(forms[i % len(forms)].format(reasoning="\n".join(lines), letter=letter, text=item.options[letter]))
        options.append(dict(item.options))
        keys.append(item.answer_idx)
    return Batch(texts, options, keys, token_ids(texts, tokenizer))


def cases_batch(cases: Sequence[Case], tokenizer: Tokenizer) -> Batch:
    """The red team's completions with their items."""
    texts = [case.completion for case in cases]
    return Batch(
        texts, [case.options for case in cases], [case.answer_idx for case in cases], token_ids(texts, tokenizer)
    )


def token_ids(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each text; a lone surrogate, which no tokenizer takes, is encoded as a question mark."""
    return [
        encoding.ids
        for encoding in tokenizer.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])
    ]
