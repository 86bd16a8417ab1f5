"""Decode completions and keep the marks of their thinking, which some tokenizers hold as special tokens and drop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from gazal.answers.markup import is_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HARMONY = ("<|channel|>", "<|message|>", "<|constrain|>", "<|start|>", "<|end|>")  # pieces of its marks


class Decoder:
    """Text of token ids without special tokens, but with those that mark thinking (``[THINK]``, gpt-oss's channels)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        pieces = HARMONY if HARMONY[0] in special.values() else ()
        kept = {number for number, token in special.items() if token in pieces or is_mark(token)}
        self.hidden = special.keys() - kept if kept else None

    def __call__(self, ids: Sequence[int]) -> str:
        shown = [number for number in ids if number not in self.hidden] if self.hidden else list(ids)
        return cast(str, self.tokenizer.decode(shown, skip_special_tokens=self.hidden is None))
