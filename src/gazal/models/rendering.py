"""Render and tokenise prompts: the same text and token ids for every engine that runs a model itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from gazal.answers.ending import AnswerEnd, opens_answer
from gazal.answers.markup import opens_thinking
from gazal.common.errors import GazalError
from gazal.common.hub import first_line
from gazal.items.prompts import Prompt
from gazal.recipe.evaluation import EvaluationSection

CHUNK = 512  # prompts rendered and tokenised at a time


class TokenLists(Sequence[np.ndarray]):
    """Lists of token ids in one int32 array.

    100,000 prompts of 300 tokens take 120 MB; as Python lists they take ten times that.
    """

    def __init__(self, lists: Iterator[list[list[int]]]) -> None:
        pieces, lengths = [np.zeros(0, np.int32)], [0]
        for chunk in lists:
            pieces.append(np.fromiter((i for ids in chunk for i in ids), np.int32, sum(map(len, chunk))))
            lengths += map(len, chunk)
        self.ids, self.ends = np.concatenate(pieces), np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.ids[self.ends[index] : self.ends[index + 1]]


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]], turn: list[dict[str, str]]
) -> int | None:
    """Return the token that the template writes after a completion; None if it writes nothing."""
    whole = cast(str, tokenizer.apply_chat_template(prompt + turn, tokenize=False))
    _, last_line, after = whole.rpartition(turn[0]["content"].rstrip().splitlines()[-1])
    ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if last_line else []
    return ids[0] if ids else None


class Renderer:
    """One model's tokenizer and template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name

    def text(self, prompt: Prompt, thinking: str = "template") -> str:
        """Return the rendered prompt, of a chat up to and with the assistant's opening.

        ``thinking`` ``on`` or ``off`` sets the template's ``enable_thinking``. Raise GazalError for a chat that the
        template refuses, and for a template that does not know ``enable_thinking``.
        """
        if isinstance(prompt, str):
            if thinking != "template":
                raise GazalError(
                    f"model {self.name}: evaluation.thinking={thinking} is a chat template's, "
                    "and plain prompts have none: set template"
                )
            return prompt
        text = self._chat(prompt, **({} if thinking == "template" else {"enable_thinking": thinking == "on"}))
        if thinking != "template" and text == self._chat(prompt, enable_thinking=thinking != "on"):
            raise GazalError(
                f"model {self.name}: its chat template does not know enable_thinking: set evaluation.thinking=template"
            )
        return text

    def _chat(self, messages: list[dict[str, str]], **options: Any) -> str:
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        except jinja2.TemplateSyntaxError as error:
            raise GazalError(f"model {self.name}: its chat template is no Jinja ({error})") from error
        except jinja2.TemplateError as error:
            raise GazalError(
                f"model {self.name}: its chat template refuses the prompt ({error}); try model.system=''"
            ) from error
        except Exception as error:  # what the template computes may raise anything
            raise GazalError(
                f"model {self.name}: its chat template fails ({type(error).__name__}: {first_line(error)})"
            ) from error
        if "".join(messages[-1]["content"].split()) not in "".join(cast(str, text).split()):  # tokenize=False
            raise GazalError(f"model {self.name}: its chat template leaves out the prompt's last message")
        return cast(str, text)

    def opens_think(self, prompt: Prompt, thinking: str = "template") -> bool:
        """Return whether the rendered prompt ends with an opening mark of :mod:`gazal.answers.markup`, as ``<think>``."""
        return opens_thinking(self.text(prompt, thinking))

    def answer_end(self, prompt: Prompt, settings: EvaluationSection) -> AnswerEnd | None:
        """Return what cuts the completions of prompts like ``prompt``, None if they are not to be cut."""
        if not settings.stop_when_answered:
            return None
        return AnswerEnd(self.tokenizer, self.opens_think(prompt, settings.thinking), opens_answer(prompt))

    def token_lists(self, prompts: Sequence[Prompt], thinking: str = "template") -> TokenLists:
        """Return the token ids of ``prompts``, which are built and rendered a few at a time.

        Plain text gets the special tokens that the tokenizer puts before any text (BOS). A chat's are in its template.
        """
        return TokenLists(self._encoded(prompts, thinking))

    def _encoded(self, prompts: Sequence[Prompt], thinking: str) -> Iterator[list[list[int]]]:
        for start in range(0, len(prompts), CHUNK):
            chunk = (prompts[i] for i in range(start, min(start + CHUNK, len(prompts))))
            for plain, run in groupby(chunk, lambda prompt: isinstance(prompt, str)):
                texts = [self.text(prompt, thinking) for prompt in run]
                ids = self.tokenizer(texts, add_special_tokens=plain)["input_ids"]
                yield [_without_eos(one, self.tokenizer.eos_token_id) for one in ids] if plain else ids


def _without_eos(ids: list[int], eos: object) -> list[int]:
    """Return ``ids`` without the EOS with which some tokenizers (such as T5's) end every text."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids
