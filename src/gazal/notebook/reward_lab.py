"""What `notebooks/explore_rewards.ipynb` shows: each reward's shape, the total's landscape, one completion scored live.

`gazal.notebook.reward_figures` draws it. Nothing here has a formula of its own: `gazal.rewards.functions` and
`gazal.answers.extract` score made-up completions.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from trl.rewards import get_repetition_penalty_reward

from gazal import DISCLAIMER
from gazal.answers.extract import answer_region, extract
from gazal.common.errors import GazalError
from gazal.recipe.rewards import COMPONENTS, RewardConfig
from gazal.rewards.functions import length_reward, repetition_reward, score_completion
from gazal.rewards.red_team import KEY, OPTIONS, honest_completion

RIGHT, WRONG = honest_completion(), honest_completion(letter="A")
EXAMPLES = {
    "right, in format": RIGHT,
    "right, another form": "The findings fit heparin best.\nAnswer: C",
    "right, text after it": RIGHT + "\nI hope this helps.",
    "wrong, in format": WRONG,
    "wrong, another form": "The findings fit aspirin best.\nAnswer: A",
    "two answers": RIGHT + "\n**Answer:** A. Aspirin",
    "ruled out": RIGHT.rpartition("**Answer:**")[0] + "Heparin, not aspirin.",
    "no answer": RIGHT.rpartition("**Answer:**")[0] + "I cannot determine this.",
    "think left open": RIGHT.partition("</think>")[0] + "**Answer:** C. Heparin",
    "a loop, then right": RIGHT.replace("\n</think>", " and so on and on" * 60 + "\n</think>"),
    "empty": "",
}
"""Completions to OPTIONS with the key C, from honest to empty."""


def tokens(length: int, repeated: int, size: int) -> list[int]:
    """Return `length` token ids among which exactly `repeated` n-grams of `size` are repeats.

    Raises ValueError if they are too few tokens for that.
    """
    run = repeated + size if repeated else 0
    if min(length, repeated) < 0 or run > length:
        raise ValueError(f"{length} tokens cannot hold {repeated} repeated {size}-grams")
    return [0] * run + list(range(1, length - run + 1))


def length_shapes(cfg: RewardConfig, points: int = 121) -> pd.DataFrame:
    """Return the unweighted length reward up to 1.25 * cfg.max_tokens.

    Columns: kind (cosine, overlong), outcome (right, wrong), tokens, value.
    """
    grid = np.unique(np.linspace(0, 1.25 * cfg.max_tokens, points).round().astype(int))
    kinds = {kind: cfg.model_copy(update={"length_kind": kind}) for kind in ("cosine", "overlong")}
    return pd.DataFrame(
        [
            (kind, "right" if right else "wrong", n, length_reward(int(n), right, c))
            for kind, c in kinds.items()
            for right in (True, False)
            for n in grid
        ],
        columns=["kind", "outcome", "tokens", "value"],
    )


def repetition_shape(cfg: RewardConfig) -> pd.DataFrame:
    """Return columns repeated (n-grams, up to 1.5 * cfg.repetition_budget) and value (unweighted)."""
    counts = np.unique(np.linspace(0, 1.5 * cfg.repetition_budget, 61).astype(int))
    size = cfg.repetition_ngram
    return pd.DataFrame(
        {"repeated": counts, "value": [repetition_reward(tokens(int(r) + size, int(r), size), cfg) for r in counts]}
    )


def padded_loop(cfg: RewardConfig) -> pd.DataFrame:
    """Score a loop that earns the whole penalty, padded with ever more fresh text.

    Return columns padding (tokens), value, ratio (TRL's reward).
    """
    size = cfg.repetition_ngram
    loop = tokens(cfg.repetition_budget + size, cfg.repetition_budget, size)
    padding = np.unique(np.geomspace(1, 8 * len(loop), 40).astype(int))
    texts = [loop + list(range(1, int(n) + 1)) for n in padding]
    ratio = get_repetition_penalty_reward(size, cfg.repetition_max_penalty)(texts)
    return pd.DataFrame({"padding": padding, "value": [repetition_reward(t, cfg) for t in texts], "ratio": ratio})


def example_table(cfg: RewardConfig, examples: Mapping[str, str] = EXAMPLES) -> pd.DataFrame:
    """Return a row per example: its weighted components (words as tokens), total, the extractor's letter and reason."""
    rows = {}
    for name, text in examples.items():
        scores, found = score_completion(text, OPTIONS, KEY, cfg=cfg), extract(text, OPTIONS)
        parts = {part: weight * getattr(scores, part) for part, weight in zip(COMPONENTS, cfg.weights(), strict=True)}
        rows[name] = parts | {"total": scores.total, "letter": found.letter or "none", "reason": found.reason.value}
    return pd.DataFrame.from_dict(rows, orient="index")


def landscape(cfg: RewardConfig, text: str, lengths: Sequence[int], repeats: Sequence[int]) -> np.ndarray:
    """Return the total of `text` as if it had `lengths` tokens (columns) and `repeats` repeated n-grams (rows).

    A cell is NaN if so few tokens cannot hold so many repeats.
    """
    size = cfg.repetition_ngram
    return np.array([
        [
            score_completion(text, OPTIONS, KEY, token_ids=tokens(n, r, size), cfg=cfg).total
            if n >= (r + size if r else 0) else np.nan
            for n in lengths
        ]
        for r in repeats
    ])  # fmt: skip


def landscape_grid(cfg: RewardConfig, points: int = 41) -> tuple[list[int], list[int]]:
    """Return lengths to 1.25 * max_tokens and repeated n-grams to 1.5 * repetition_budget, at most `points` each."""
    ends = (1.25 * cfg.max_tokens, 1.5 * cfg.repetition_budget)
    lengths, repeats = (np.unique(np.linspace(0, end, points).round().astype(int)).tolist() for end in ends)
    return lengths, repeats


def limits(cfg: RewardConfig) -> pd.Series:
    """Return the totals that matter, over the grid.

    These are the bounds, the least and greatest of right and wrong answers in format, and the gap between the two.
    """
    right, wrong = (landscape(cfg, text, *landscape_grid(cfg, 21)) for text in (RIGHT, WRONG))
    low, high = cfg.bounds()
    return pd.Series({
        "least possible": low, "empty or truncated": score_completion("", OPTIONS, KEY, cfg=cfg).total,
        "worst wrong answer in format": np.nanmin(wrong), "best wrong answer in format": np.nanmax(wrong),
        "worst right answer in format": np.nanmin(right), "best right answer in format": np.nanmax(right),
        "greatest possible": high, "gap from best wrong to worst right": np.nanmin(right) - np.nanmax(wrong),
    })  # fmt: skip


_OPTION = re.compile(r"\s*([A-J])\s*[.:)]\s*(\S.*?)\s*")


def parse_options(text: str) -> dict[str, str]:
    """Read options from lines `A: text` (or `A. text`, `A) text`).

    Raises GazalError for any other line, naming it, for a letter given twice, and for fewer than two options.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _OPTION.fullmatch(line)
        if not match:
            raise GazalError(f"options: line {number}: expected a letter A to J and a text, such as 'A: Aspirin'")
        if match[1] in options:
            raise GazalError(f"options: line {number}: {match[1]} is there twice")
        options[match[1]] = match[2]
    if len(options) < 2:
        raise GazalError("options: fewer than two")
    return options


def report_html(completion: str, options: Mapping[str, str], key: str, think_open: bool, cfg: RewardConfig) -> str:
    """Return the extractor's reading and each reward of one completion, as HTML with its text escaped."""
    found = extract(completion, options, think_open)
    scores = score_completion(completion, options, key, cfg=cfg, think_open=think_open)
    low, high = cfg.bounds()
    rows = [
        f"<tr><td>{name}</td><td>{getattr(scores, name):+.3f}</td><td>× {weight:g}</td>"
        f"<td>{weight * getattr(scores, name):+.3f}</td></tr>"
        for name, weight in zip(COMPONENTS, cfg.weights(), strict=True)
    ]
    region = answer_region(completion, think_open)
    shown = "none: the think block is open" if region is None else html.escape(region[-2000:]) or "empty"
    verdict = "none" if found.letter is None else f"{found.letter}: {html.escape(options[found.letter])}"
    return (
        f"<p><b>Answer:</b> {verdict} ({'right' if found.letter == key else 'not right'})<br>"
        f"<b>Reason:</b> <code>{found.reason.value}</code>, {html.escape(found.reason.__doc__ or '')}</p>"
        f"<table><tr><th>reward</th><th>value</th><th>weight</th><th>adds</th></tr>{''.join(rows)}"
        f"<tr><th>total</th><th colspan=2>{low:+.2f} to {high:+.2f}</th><th>{scores.total:+.3f}</th></tr></table>"
        "<p><b>Answer region</b>, as read (length and n-grams are counted in words here):</p>"
        f"<pre style='white-space: pre-wrap'>{shown}</pre>"
        f"<p><i>{html.escape(DISCLAIMER)}</i></p>"
    )


class Explorer:
    """Widgets for one completion (`completion`, `options`, `key`, `think_open`); show `box`.

    `result` follows every change.
    """

    def __init__(self, cfg: RewardConfig, completion: str = RIGHT) -> None:
        wide = widgets.Layout(width="98%")
        self.cfg = cfg
        self.completion = widgets.Textarea(completion, rows=11, layout=wide)
        self.options = widgets.Textarea("\n".join(f"{k}: {v}" for k, v in OPTIONS.items()), rows=5, layout=wide)
        self.key = widgets.Dropdown(options=list(OPTIONS), value=KEY, description="Key")
        self.think_open = widgets.Checkbox(False, description="the prompt opened <think>", indent=False)
        self.examples = widgets.Dropdown(options=list(EXAMPLES), description="Example")
        self.result = widgets.HTML()
        parts = [
            widgets.Label("Completion"),
            self.completion,
            widgets.Label("Options, one a line"),
            self.options,
            self.key,
            self.think_open,
        ]
        self.box = widgets.VBox([self.examples, *parts, self.result])
        self.examples.observe(lambda change: self.completion.set_trait("value", EXAMPLES[change["new"]]), "value")
        self.options.observe(self._letters, "value")
        for widget in (self.completion, self.options, self.key, self.think_open):
            widget.observe(self._refresh, "value")
        self._refresh()

    def _letters(self, _: Any) -> None:
        """Offer the options' letters in the dropdown; keep the key if it is still one of them."""
        try:
            letters = list(parse_options(self.options.value))
        except GazalError:
            return
        if letters != list(self.key.options):
            key = self.key.value
            self.key.options = letters  # moves the key to the first of them
            if key in letters:
                self.key.value = key

    def _refresh(self, _: Any = None) -> None:
        try:
            options = parse_options(self.options.value)
            self.result.value = report_html(
                self.completion.value, options, self.key.value, self.think_open.value, self.cfg
            )
        except GazalError as error:
            self.result.value = f"<p><b>{html.escape(str(error))}</b></p>"
