"""What answers prompts: a transformers model in this process, vLLM (:mod:`gazal.evaluation.vllm_engine`), or a server that
speaks OpenAI's protocol (:mod:`gazal.evaluation.server`).

All are asked the same prompts and give the same replies; prediction files do not tell them apart. With
``settings.stop_when_answered`` a reply ends where :func:`gazal.answers.ending.closed_at` says; stopping there is only the saving.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.common.files import file_safe
from gazal.common.paths import EMBEDDED
from gazal.items.prompts import Prompt
from gazal.models.generation import generate_batches
from gazal.models.identity import fast_dtype, identity_of, server_of
from gazal.models.loading import load_model, load_tokenizer
from gazal.models.rendering import Renderer
from gazal.models.tensors import tensor_hash
from gazal.recipe.evaluation import EvaluationSection


class Reply(NamedTuple):
    """``text`` without special tokens; ``n_tokens`` with the EOS; ``finish_reason`` ``stop`` or ``length``."""

    index: int
    text: str
    n_tokens: int
    finish_reason: str


class Engine(Protocol):
    """``name`` is file-safe; ``identity`` changes whenever the model's answers could."""

    name: str
    identity: str

    def opens_think(self, prompt: Prompt, thinking: str = "template") -> bool | None:
        """Whether the rendered prompt ends inside ``<think>``; None where the engine cannot see it."""

    def complete(
        self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]
    ) -> Iterator[list[Reply]]:
        """Replies in batches, without the prompt indices in ``done`` (whole batches of an earlier call).

        ``prompts`` may be built on access: an engine reads each where it needs it and holds no list of them. Where the
        sequence has an attribute ``opens_think``, that is what the recipe says of prompts that the engine cannot see rendered.
        """


class TransformersEngine:
    """A causal language model in this process, on the device where it lies.

    ``identity`` defaults to a hash of the parameters; :func:`load_engine` gives one of the files.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "model",
        identity: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, file_safe(name)
        self.identity = identity or f"parameters:{tensor_hash(model.named_parameters())}"
        self.renderer = Renderer(tokenizer, self.name)
        self.render, self.opens_think = self.renderer.text, self.renderer.opens_think

    def complete(
        self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]
    ) -> Iterator[list[Reply]]:
        if not len(prompts):
            return
        answer_end = self.renderer.answer_end(prompts[0], settings)
        for batch in generate_batches(
            self.model,
            self.tokenizer,
            self.renderer.token_lists(prompts, settings.thinking),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            seed=seed,
            batch_tokens=settings.batch_tokens,
            done=done,
            answer_end=answer_end,
        ):
            texts = self.tokenizer.batch_decode([one.ids for one in batch], skip_special_tokens=True)
            if answer_end:
                texts = [text[: answer_end.at(text)] for text in texts]
            yield [
                Reply(one.index, text, len(one.ids), one.finish_reason) for one, text in zip(batch, texts, strict=True)
            ]


def load_engine(
    spec: str | Path,
    dtype: str | None = None,
    revision: str | None = None,
    engine: str = "transformers",
    context: int | None = None,
    identity: str | None = None,
) -> Engine:
    """The engine of ``spec``: a folder, a hub id, ``embedded``, or ``openai:URL#name``; ``dtype`` None is :func:`fast_dtype`;
    ``engine`` (``transformers`` or ``vllm``) runs what is no server; ``context``: tokens of prompt and completion for which vLLM keeps
    room, None for all that the model can; ``identity``: what :func:`identity_of` says, where that is known: it reads all weights.

    Raises GazalError for a folder that is no model and for a hub that cannot be reached.
    """
    text = str(spec)
    if text.startswith("openai:"):
        from gazal.evaluation.server import OpenAIEngine

        return OpenAIEngine(*server_of(text))
    path, dtype = str(EMBEDDED) if text == "embedded" else text, dtype or fast_dtype()
    if engine == "vllm":
        from gazal.evaluation.vllm_engine import load_vllm

        return load_vllm(path, text, dtype, revision, context, identity)
    tokenizer = load_tokenizer(path, revision)
    model = load_model(path, dtype, revision)
    return TransformersEngine(model, tokenizer, text, identity or identity_of(text, dtype, revision))
