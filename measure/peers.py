"""Other projects' rewards for comparison: TRL's own functions, and open-r1's stated formulas written anew for lettered answers.

Numbers of pull requests are those of https://github.com/huggingface/open-r1.

All have TRL's signature (`completions`: lists of one message, `solution`, `completion_ids`) and give one value a completion.
TRL's accuracy and cosine judge mathematics with the package math-verify, which Gazal does not need: without it they are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl.import_utils import is_math_verify_available
from trl.rewards import accuracy_reward, get_cosine_scaled_reward, get_repetition_penalty_reward, think_format_reward

Messages = Sequence[Sequence[dict[str, str]]]

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FORMAT = re.compile(r"^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$", re.S | re.M)
_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")


def _texts(completions: Messages) -> list[str]:
    return [turns[0]["content"] for turns in completions]


def accuracy(completions: Messages, solution: Sequence[str], **_: Any) -> list[float]:
    r"""1.0 where the first `\boxed{…}`, or without one the first `<answer>…</answer>`, holds exactly the key.

    open-r1's `accuracy_reward` (src/open_r1/rewards.py) takes the first match anywhere in the completion, boxed first, and
    compares it as mathematics; a bare letter is none, so this is the exact match of the stripped content.
    """
    return [float(_stated(text) == key) for text, key in zip(_texts(completions), solution, strict=True)]


def _stated(text: str) -> str | None:
    if boxed := _BOXED.search(text):
        return boxed[1].strip()
    inside, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return inside.strip() if closed else None


def format_(completions: Messages, **_: Any) -> list[float]:
    r"""1.0 where the text opens with `<think>\n…\n</think>\n<answer>\n…\n</answer>` and a line ends there (open-r1 PR #418).

    `$` matches at any line's end and nothing is asked of what follows: junk and a second answer block on later lines pass.
    """
    return [float(_FORMAT.match(text) is not None) for text in _texts(completions)]


def tag_count(completions: Messages, **_: Any) -> list[float]:
    """A quarter for each of the four tags that stands exactly once with its line breaks (open-r1 PR #418)."""
    return [sum(text.count(tag) == 1 for tag in _TAGS) / 4 for text in _texts(completions)]


def cosine(
    completions: Messages, solution: Sequence[str], max_len: int = 1000,
    correct: tuple[float, float] = (0.5, 1.0), wrong: tuple[float, float] = (-1.0, -0.5), **_: Any,
) -> list[float]:  # fmt: skip
    """low + (high - low) / 2 * (1 + cos(pi * characters / max_len)), not clamped (open-r1 PR #206; arXiv 2502.03373, C.1).

    Right answers go from `correct[1]` (empty) to `correct[0]` (max_len) and back up as they grow on; wrong ones go the other
    way, from `wrong[0]` to `wrong[1]` and back. open-r1's default max_len is 1,000.
    """
    values = []
    for text, right in zip(_texts(completions), accuracy(completions, solution), strict=True):
        end, start = correct if right else reversed(wrong)
        values.append(end + (start - end) / 2 * (1 + math.cos(math.pi * len(text) / max_len)))
    return values


def repetition(completions: Messages, ngram_size: int = 3, max_penalty: float = -1.0, **_: Any) -> list[float]:
    """max_penalty * (1 - distinct / all) n-grams of lower-cased words split at white space (open-r1 PR #266; 2502.03373, C.2)."""
    values = []
    for text in _texts(completions):
        words = text.lower().split()
        ngrams = [tuple(words[i : i + ngram_size]) for i in range(len(words) - ngram_size + 1)]
        values.append(max_penalty * (1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0)
    return values


def length(completions: Messages, solution: Sequence[str], **_: Any) -> list[float]:
    """0.5 - (len - min) / (max - min) over the batch, at most 0 where wrong (Kimi k1.5, arXiv 2501.12599; open-r1 PR #292).

    Characters, and the least and greatest of the whole batch: different prompts are mixed, and a value depends on its neighbours.
    """
    sizes = [len(text) for text in _texts(completions)]
    low, high = min(sizes), max(sizes)
    if low == high:
        return [0.0] * len(sizes)
    shares = [0.5 - (size - low) / (high - low) for size in sizes]
    return [
        share if right else min(0.0, share)
        for share, right in zip(shares, accuracy(completions, solution), strict=True)
    ]


@dataclass(frozen=True)
class Peer:
    """A reward system: its parts, of which `total` adds up all (weights 1, GRPOConfig's default), and how it is answered.

    answer: the honest form that the system asks for, with the key's letter in place of `{}`. solution: the same for the key.
    """

    name: str
    parts: dict[str, Callable[..., list[float | None]]]
    answer: str
    solution: str = "{}"
    extra: dict[str, Callable[..., list[float | None]]] = field(default_factory=dict)
    left_out: str = ""

    def total(self, completions: Messages, keys: Sequence[str], ids: Sequence[Sequence[int]]) -> list[float]:
        """Sum of the parts of each completion; `keys`: letters, `ids`: token ids. A part's None counts as nothing, as in TRL."""
        solution = [self.solution.format(key) for key in keys]
        columns = [part(completions=completions, solution=solution, completion_ids=ids) for part in self.parts.values()]
        return [math.fsum(value or 0.0 for value in row) for row in zip(*columns, strict=True)]


def open_r1() -> Peer:
    """accuracy, format, cosine and repetition as open-r1 states them; tag_count and length are timed beside them."""
    return Peer("open-r1 (restated)", {"accuracy": accuracy, "format": format_, "cosine": cosine, "repetition": repetition},
                "<answer>\n{}\n</answer>", extra={"tag_count": tag_count, "length": length})  # fmt: skip


def trl(max_tokens: int) -> Peer:
    """TRL's accuracy, think_format, cosine (over max_tokens) and repetition, with their defaults.

    A bare letter cannot be parsed as mathematics: with the solution `C` accuracy gives None for every completion. So the
    solution is `\\boxed{C}`, and `\\boxed{…}` the one honest form that is read.
    """
    parts: dict[str, Any] = {"think_format": think_format_reward, "repetition": get_repetition_penalty_reward()}
    missing = not is_math_verify_available()
    if not missing:
        parts = {"accuracy": accuracy_reward, **parts, "cosine": get_cosine_scaled_reward(max_len=max_tokens)}
    return Peer(
        "TRL",
        parts,
        "\\boxed{{{}}}",
        "\\boxed{{{}}}",
        left_out="accuracy and cosine: need the package math-verify" if missing else "",
    )
