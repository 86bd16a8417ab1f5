"""What ``scores.json`` and ``faithfulness.json`` hold. Shares lie between 0 and 1; intervals are at 95 %."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from gazal.common.formats import Count, Difference, Format, Interval, Share


class Part(TypedDict):
    """Accuracy on some items."""

    n: Count
    """Items."""
    accuracy: Share
    """Mean over items of the mean over an item's completions. An answer that cannot be read is wrong."""
    ci95: Interval
    """Of the accuracy; the item is the unit."""


class Cell(Part):
    """A model's accuracy on some items, and what goes with it."""

    unparsed: Share
    """Share of completions in which no answer is read."""
    truncated: Share
    """Share of completions that were cut at the token limit."""
    empty: Share
    """Share of completions of white space alone."""
    mean_tokens: Annotated[float, Field(ge=0)]
    """Tokens of a completion."""
    right_per_1k_tokens: Annotated[float, Field(ge=0)] | None
    """Right answers per 1,000 completion tokens; null without tokens."""
    format: NotRequired[Share]
    """Share of completions of one think block and one answer, its last line; absent if unknown."""


class GroupCell(Cell):
    """The items of one reasoning type or subject."""

    chance: NotRequired[Share]
    """Accuracy of a uniform guess; absent without items beside the predictions."""


class MacroF1(TypedDict):
    """Macro-averaged F1."""

    value: Share
    ci95: Interval


class AtOneK(TypedDict):
    """Expected accuracy over all draws of k of an item's samples."""

    accuracy: Share
    ci95: Interval


AtK = TypedDict(
    "AtK",
    {
        "maj": Annotated[dict[str, AtOneK], Field(description="By k: the commonest of k answers is right")],
        "pass": Annotated[dict[str, AtOneK], Field(description="By k: one of k answers is right")],
    },
)


class BenchmarkScore(Cell):
    """A model on a benchmark."""

    clean: Part | None
    """Without the items that ``contamination.json`` names; null without such a file."""
    deduplicated: Part | None
    """Without items that repeat an earlier one of the benchmark; null without items beside the predictions."""
    samples: Count
    """Completions of an item."""
    not_asked: Share
    """Share of prompts that left no room in the model's context. They are empty, truncated too, and wrong."""
    refused: Share
    """Share of prompts that the server refused: too long for it, or kept out by its filter. Empty, and wrong."""
    sampling: dict[str, Any] | None
    """How the model answered: values of the recipe's ``evaluation`` and the seed; null if not known."""
    reasons: dict[str, Count]
    """Completions by why a letter, or none, was read. By another protocol: by how it came by its letter."""
    detectable: NotRequired[Share | None]
    """Smallest true accuracy above chance that so many answers tell from chance with 80 % power; null if none does."""
    macro_f1: NotRequired[MacroF1]
    """Present if all items have the same option texts."""
    at_k: NotRequired[AtK]
    """Present with several samples; k = 1, 2, 4, … and all samples."""
    by: dict[str, GroupCell]
    """By reasoning type, else by subject."""


class ModelScores(TypedDict):
    """A model."""

    benchmarks: dict[str, BenchmarkScore]


class Comparison(TypedDict):
    """Two models on the same items."""

    delta: Difference
    """Accuracy of ``b`` minus accuracy of ``a``."""
    ci95: Interval
    """Of the delta, paired by item."""
    p: Share
    """Two-sided, six significant digits, not adjusted."""
    n: Count
    """Items."""


class PairedScore(Comparison):
    """Two models on one benchmark; ``a`` is the earlier stage."""

    a: str
    b: str
    benchmark: str
    detectable: Share | None
    """Smallest true difference that so many items show with 80 % power at this disagreement; null if none."""
    by: dict[str, Comparison]
    """By reasoning type, else by subject. These tests are not in Holm's family."""
    p_holm: Share
    """``p`` adjusted by Holm over all rows of ``paired``."""


class MeanAccuracy(TypedDict):
    """Accuracy over several orders of the options."""

    mean: Share
    lowest: Share
    """Of the orders' accuracies."""
    highest: Share
    ci95: Interval
    """Of the mean; clustered by item."""


class Robustness(TypedDict):
    """A model on the items of a benchmark that it answered in several orders of the options."""

    orders: Count
    n: Count
    """Items."""
    accuracy: MeanAccuracy
    same_answer: Share
    """Share of items with the same option as answer in all orders; an answer that is not read is not the same."""
    same_answer_ci95: Interval
    letter_bias: dict[str, Difference]
    """By letter: share of the answers read that chose it, minus share for which it was right."""
    letter_bias_ci95: dict[str, Interval]
    """Bootstrap over items."""


class Scores(Format):
    """``eval/scores.json``: by our extractor. ``scores.<protocol>.json`` is by another, with nothing paired."""

    protocol: NotRequired[str]
    """Who read the answers; absent for ours."""
    models: dict[str, ModelScores]
    paired: list[PairedScore]
    """Each benchmark and pair of models."""
    baselines: dict[str, dict[str, Share]]
    """By benchmark and shortcut (``gazal.items.shortcuts``): accuracy."""
    not_run: dict[str, str]
    """By benchmark: why it has no predictions."""
    robustness: dict[str, dict[str, Robustness]]
    """By model and benchmark."""


class Rate(TypedDict):
    """A share of ``of`` completions, claims, relations, quotations or steps."""

    value: Share
    ci95: Interval
    """The item is the unit."""
    of: Count
    """The denominator."""


class Structure(TypedDict):
    """Share of completions that keep a part of the model card's structure (``gazal.knowledge.claims.structure``)."""

    think: Rate
    steps: Rate
    assessment: Rate
    answer: Rate
    sections: NotRequired[Rate]
    """Only of benchmarks that no source settles."""


class Shaped(TypedDict):
    """A model on a benchmark; all that is known if no source settles its items."""

    items: Count
    completions: Count
    accuracy: Rate
    """Of completions."""
    structure: Structure


class Claims(TypedDict):
    """Claims of one kind."""

    made: Count
    right: Count


class Judged(Shaped):
    """A model on items that a source settles. A rate is null if its denominator is 0."""

    faultless: Rate | None
    """Of completions: claims are made and none is wrong."""
    precision: Rate | None
    """Of claims: right ones."""
    coverage: Rate | None
    """Of the claims that the full traces need: made, right, nowhere contradicted. A brief trace covers few."""
    arithmetic: Rate | None
    """Of relations between stated numbers: those that hold."""
    follows: Rate | None
    """Of completions that answer and make claims: the stated numbers single the answer out."""
    wrong_reasons: Rate | None
    """Of right answers with claims: a claim or quotation is wrong, or the answer does not follow."""
    tied: Rate | None
    """Of completions that make claims: several options come out equal."""
    quotes: Rate | None
    """Of repetitions of the question: right ones."""
    unread: Rate | None
    """Of steps: some part could not be read."""
    claims: dict[str, Claims]
    """By kind (``gazal.knowledge.claims.KINDS``)."""
    strange: Count
    """Claims about what the question does not name."""
    beside: Count
    """True claims about criteria that the question leaves out; in no other number."""
    outcomes: dict[str, Rate]
    """Of completions, exactly one each (``gazal.knowledge.verdicts.OUTCOMES``)."""


class JudgedBenchmark(Judged):
    """A model on a benchmark whose items a source settles."""

    by: dict[str, Judged]
    """By reasoning type."""


class ModelFaithfulness(TypedDict):
    """A model; answers by log-likelihood are left out."""

    benchmarks: dict[str, JudgedBenchmark | Shaped]


class Change(TypedDict):
    """A rate of ``b`` minus that of ``a``."""

    delta: Difference
    ci95: Interval
    """Percentile bootstrap over items."""


class PairedFaithfulness(TypedDict):
    """Two models on the same items of one benchmark, by measure; a measure that one of them lacks is absent."""

    a: str
    b: str
    benchmark: str
    all: dict[str, Change]
    by: dict[str, dict[str, Change]]
    """By reasoning type."""


class Faithfulness(Format):
    """``eval/faithfulness.json``: each claim of the think blocks held against the item's source."""

    models: dict[str, ModelFaithfulness]
    paired: list[PairedFaithfulness]
    unsettled: dict[str, Count]
    """By benchmark: items whose source does not give their question and key (another release?). They are left out."""
