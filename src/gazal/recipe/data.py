"""The recipe's ``data`` section: sources, splits and curation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from gazal.common.formats import Share
from gazal.recipe.section import AtLeastOne, PositiveShare, Section

Shape = Literal[
    "synth",
    "items",
    "structured_medical",
    "medreason",
    "medical_grpo",
    "ultramedical",
    "medqa",
    "medmcqa",
    "pubmedqa",
    "mmlu_pro",
    "mmlu",
]


class SourceSection(Section):
    """One source of training data."""

    name: str = Field(
        description="`synth`, a hub id (owner/name), or a local file or folder. source: chosen, must be given"
    )
    use: Literal["sft", "grpo"] = Field(description="The stage that trains on it. source: chosen, must be given")
    shape: Shape = Field(description="Its columns, see gazal.data.shapes. source: chosen, must be given")
    revision: str | None = Field(
        default=None, description="Hub commit; null takes today's and records it. source: chosen, because main moves"
    )
    config: str | None = Field(
        default=None,
        description="Configuration of a hub dataset that has several. source: chosen, because most have one",
    )
    file: str | None = Field(
        default=None,
        description="Data file inside a hub dataset or a folder; null for all of the split. "
        "source: chosen, because most need none",
    )
    split: str = Field(
        default="train", description="Split of the dataset. source: chosen, because training data is in train"
    )
    weight: PositiveFloat = Field(
        default=1.0,
        description="Share of the stage's examples, relative to its other sources. "
        "source: chosen, because equal shares favour none",
    )
    limit: int | None = Field(
        default=None, ge=1, description="At most so many items, null for all. source: chosen, because none is needed"
    )


class CurationSection(Section):
    """What is removed from the training data, and how it is found."""

    short_stem_words: NonNegativeInt = Field(
        default=6,
        description="A stem of so few words is compared together with its options. "
        "source: chosen, because 12 such stems of the benchmarks are shared by 26 different questions",
    )
    long_stem_words: AtLeastOne = Field(
        default=8,
        description="Specific words that a stem needs to be a near duplicate without its options (twice as many where "
        "the options are others). source: chosen, because in a shorter one a word changed asks something else",
    )
    bands: AtLeastOne = Field(
        default=24,
        description="Bands of the MinHash signature of a stem's words. "
        "source: chosen, because with rows 5 two stems at Jaccard 0.7 meet with 99 %",
    )
    band_rows: AtLeastOne = Field(
        default=5,
        description="Minima in a band; bands times rows are the permutations. "
        "source: chosen, because unrelated stems at Jaccard 0.2 meet with 1 %",
    )
    frequent_share: PositiveShare = Field(
        default=0.05,
        description="Words of more than this share of the stems are left out of signatures. "
        "source: chosen, because a template's words find only its siblings (at least 50 stems)",
    )
    near_stem: PositiveShare = Field(
        default=0.7,
        description="Weighted Jaccard of two long stems that makes them near duplicates. "
        "source: chosen, because 10 % of words edited leave 0.85 on average and 0.69 at the 2nd percentile",
    )
    near_stem_same_options: PositiveShare = Field(
        default=0.55,
        description="The same where they share their options. source: chosen, because the options are evidence too",
    )
    near_stem_all_options: PositiveShare = Field(
        default=0.4,
        description="The same against a test item, all of whose options (three or more) are the same. "
        "source: chosen, because of 3,718 other questions none reaches it, and a short stem loses half by one word",
    )
    same_options: PositiveShare = Field(
        default=0.6,
        description="Share of the smaller option set, in options or weighted words, found in the other that makes "
        "options the same. source: chosen, because reworded sets of the benchmarks share that",
    )
    same_options_short: PositiveShare = Field(
        default=0.85,
        description="The same for short stems. "
        "source: chosen, because there one option in four more is another question",
    )
    shingle_words: AtLeastOne = Field(
        default=5,
        description="Words of a shingle of contexts and long stems looked up in whole texts. "
        "source: chosen, because unrelated abstracts share few of five",
    )
    context_share: PositiveShare = Field(
        default=0.3,
        description="Share of a test context's shingles that a training text may not hold. "
        "source: chosen, because unrelated texts of the benchmarks hold at most 0.044",
    )
    stem_share: PositiveShare = Field(
        default=0.75,
        description="The same for a test stem of 40 words or more, its numbers among them. "
        "source: chosen, because one word in twenty edited leaves 0.77",
    )
    language: str | None = Field(
        default="en",
        pattern="^[a-z]{2,3}$",
        description="ISO 639 code of the training texts, null for any language. "
        "source: chosen, because the corpora and benchmarks are English",
    )
    language_min_chars: AtLeastOne = Field(
        default=60,
        description="Shorter texts are judged by their script alone. "
        "source: chosen, because a detector guesses at short medical texts",
    )
    language_confidence: PositiveShare = Field(
        default=0.7,
        description="How sure py3langid must be of another language. "
        "source: chosen, because no English one of 12,000 benchmark texts reaches it",
    )
    foreign_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of letters neither Latin nor Greek that makes an English text foreign. "
        "source: chosen, because English ones have almost none",
    )
    sentence_end_share: PositiveShare = Field(
        default=0.9,
        description="A text without a sentence's end is truncated where at least this share of the file's texts has "
        "one. source: chosen, because scraped explanations have two thirds",
    )


class DataSection(Section):
    """Training, dev and test items."""

    n_diseases: int = Field(
        default=150, ge=8, description="Diseases in the pool. source: chosen, because the embedded base knows these"
    )
    sft: int = Field(
        default=1600, ge=4, description="SFT examples. source: chosen, because format is learnt with fewer"
    )
    grpo: int = Field(
        default=2000,
        ge=4,
        description="GRPO prompts before the pass-rate filter. "
        "source: chosen, because each is used at most once or twice",
    )
    dev: int = Field(
        default=400, ge=4, description="Dev items (tuning). source: chosen, because its interval is then ±5 points"
    )
    test: int = Field(
        default=1000, ge=4, description="Test items. source: chosen, because paired gains of 4 points become visible"
    )
    brief_share: Share = Field(
        default=0.5,
        description="Share of SFT traces that state conclusions only. source: chosen, because real corpora mix depths",
    )
    variety: Literal["plain", "rich"] = Field(
        default="rich",
        description="Wording of knowledge-derived items: three forms a type, or twelve and more with lay terms and "
        "pertinent negatives. source: chosen, because real questions vary",
    )
    sources: list[SourceSection] = Field(
        default=[
            SourceSection(name="synth", use="sft", shape="synth"),
            SourceSection(name="synth", use="grpo", shape="synth"),
        ],
        min_length=1,
        description="Where training data comes from. source: chosen, because knowledge-derived items need no hub",
    )
    key_base: Literal[0, 1] | None = Field(
        default=None,
        description="What the keys (`cop`) of MedMCQA's files count from, if a file's own keys do not tell; null: "
        "such a file is refused. source: chosen, because the hub counts from 0 and the original files from 1",
    )
    curation: CurationSection = Field(default_factory=CurationSection, description="Duplicates, contamination, quality")

    @model_validator(mode="after")
    def _check(self) -> DataSection:
        for i, source in enumerate(self.sources):
            if (source.name == "synth") != (source.shape == "synth"):
                raise ValueError(f"sources.{i}: name and shape must both be synth, or neither")
            if source.shape == "synth" and any(
                other.shape == "synth" and other.use == source.use for other in self.sources[:i]
            ):
                raise ValueError(f"sources.{i}: synth is there twice for {source.use}")
        for use in ("sft", "grpo"):
            if not any(source.use == use for source in self.sources):
                raise ValueError(f"sources: none for {use}")
        return self
