"""A model run by transformers in this process.

All engines get the same prompts and give replies of one form, so that prediction files do not tell them apart. With
``settings.stop_when_answered`` a reply ends at :func:`gazal.answers.ending.closed_at`; to stop there only saves time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.answers.decoding import Decoder
from gazal.common.files import file_safe
from gazal.engines.reply import Reply
from gazal.items.prompts import Prompt
from gazal.models.generation import generate_batches
from gazal.models.rendering import Renderer
from gazal.models.tensors import tensor_hash
from gazal.models.weights import require_rows, rows_of
from gazal.recipe.evaluation import EvaluationSection


class TransformersEngine:
    """A causal language model in this process, on the device that holds it.

    ``identity`` is by default a hash of the parameters; :func:`load_engine` gives one of the files. Raise GazalError if
    the tokenizer has ids that the model's embedding has no row for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "model",
        identity: str | None = None,
    ) -> None:
        require_rows(name, tokenizer, rows_of(model))
        self.model, self.tokenizer, self.name = model, tokenizer, file_safe(name)
        self.identity = identity or f"parameters:{tensor_hash(model.named_parameters())}"
        self.renderer, self.decode = Renderer(tokenizer, self.name), Decoder(tokenizer)
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
            texts = [self.decode(one.ids) for one in batch]
            if answer_end:
                texts = [text[: answer_end.at(text)] for text in texts]
            yield [
                Reply(one.index, text, len(one.ids), one.finish_reason) for one, text in zip(batch, texts, strict=True)
            ]
