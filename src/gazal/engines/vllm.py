"""A model run by vLLM, on a GPU machine (``pip install 'gazal[gpu]'``).

Prompts are rendered and tokenised as for :class:`gazal.engines.local.TransformersEngine` and given to vLLM as token
ids. Completions come back as token ids, and are decoded and cut by the same functions. vLLM cannot end a request by
such a rule, so cutting saves no time here. Each request has its own seed, so batches do not matter. A kill loses the
batch at work, and later requests are the same as without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig, PreTrainedTokenizerBase

from gazal.answers.decoding import Decoder
from gazal.answers.ending import AnswerEnd
from gazal.common.errors import GazalError
from gazal.common.files import file_safe
from gazal.common.hub import first_line
from gazal.engines.reply import Reply
from gazal.items.prompts import Prompt
from gazal.models.generation import with_eos
from gazal.models.identity import identity_of
from gazal.models.loading import load_config, load_tokenizer
from gazal.models.rendering import Renderer
from gazal.recipe.evaluation import EvaluationSection

BATCH = 256  # requests handed to vLLM at a time
# Of vllm.v1.engine.FINISH_REASON_STRINGS; "abort" and "error" are no answers, and the next run prompts again.
FINISHED = ("stop", "length")


def sampling_arguments(
    settings: EvaluationSection, seed: int, index: int, room: int, stops: Sequence[int]
) -> dict[str, Any]:
    """Return the arguments of ``vllm.SamplingParams`` for prompt ``index``, with ``room`` tokens left in the context.

    ``stops`` are the ids that end a completion (vLLM's own are the tokenizer's EOS and the generation config's). The
    rest of the model's generation config is not used. Text is decoded here, not by vLLM.
    """
    greedy = settings.temperature == 0
    return {
        "n": 1,
        "temperature": settings.temperature,
        "top_p": 1.0 if greedy else settings.top_p,
        "top_k": 0 if greedy else settings.top_k,
        "max_tokens": min(settings.max_new_tokens, room),
        "stop_token_ids": list(stops),
        "detokenize": False,
        "seed": None if greedy else int(np.random.SeedSequence([seed, index]).generate_state(1)[0]),
    }


def to_reply(
    index: int,
    ids: Sequence[int],
    finish_reason: str | None,
    tokenizer: PreTrainedTokenizerBase,
    answer_end: AnswerEnd | None,
) -> Reply:
    """Return the reply of a ``CompletionOutput``'s ``token_ids`` and ``finish_reason``."""
    if answer_end:
        kept, text, closed = answer_end.cut(list(ids))
    else:
        kept, text, closed = ids, Decoder(tokenizer)(ids), False
    return Reply(index, text, len(kept), "stop" if closed or finish_reason == "stop" else "length")


class VLLMEngine:
    """A model that vLLM runs.

    ``llm``: a ``vllm.LLM``; ``context``: tokens that prompt and completion have together; ``stops``: ids that end a
    completion.
    """

    def __init__(
        self, llm: Any, tokenizer: PreTrainedTokenizerBase, name: str, identity: str, context: int, stops: Sequence[int]
    ) -> None:
        self.llm, self.tokenizer, self.name = llm, tokenizer, file_safe(name)
        self.identity, self.context, self.stops = identity, context, stops
        self.renderer = Renderer(tokenizer, self.name)
        self.opens_think = self.renderer.opens_think

    def complete(
        self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]
    ) -> Iterator[list[Reply]]:
        import vllm

        if not len(prompts):
            return
        lists = self.renderer.token_lists(prompts, settings.thinking)
        answer_end, done = self.renderer.answer_end(prompts[0], settings), set(done)
        wanted = (i for i in range(len(lists)) if i not in done)
        while batch := list(islice(wanted, BATCH)):
            fits = [i for i in batch if len(lists[i]) < self.context]
            asked = [
                vllm.SamplingParams(**sampling_arguments(settings, seed, i, self.context - len(lists[i]), self.stops))
                for i in fits
            ]
            given = [{"prompt_token_ids": lists[i].tolist()} for i in fits]
            try:
                outputs = self.llm.generate(given, asked, use_tqdm=False) if fits else []
            except Exception as error:  # vLLM's own classes have no common base, and its workers' errors come as any
                raise GazalError(
                    f"model {self.name}: vLLM stopped ({first_line(error)}); "
                    "the same command goes on where this one stopped"
                ) from error
            made = {i: output.outputs[0] for i, output in zip(fits, outputs, strict=True)}
            yield [Reply(i, "", 0, "length") for i in batch if i not in made] + [
                to_reply(i, one.token_ids, one.finish_reason, self.tokenizer, answer_end)
                for i, one in made.items()
                if one.finish_reason in FINISHED
            ]

    def close(self) -> None:
        """Let vLLM go, and with it the GPU's memory."""
        self.llm = None


def gpus_for(heads: int, devices: int) -> int:
    """Return over how many of ``devices`` GPUs, at most, vLLM can share a model with so many attention heads."""
    return max(count for count in range(1, max(devices, 1) + 1) if heads % count == 0)


def load_vllm(
    path: str, name: str, dtype: str, revision: str | None, context: int | None = None, identity: str | None = None
) -> VLLMEngine:
    """Load a whole model in vLLM: a folder of merged weights, or a hub id.

    It has room for sequences of ``context`` tokens, by default of as many as the model knows and the GPUs hold. Raise
    GazalError for an adapter, without vLLM, and if vLLM cannot load the model.
    """
    folder = Path(path)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise GazalError(
            f"model {name}: an adapter; vLLM cannot load DoRA adapters (vllm#6983, vllm#10849): "
            "merge it first, or take the run's …/merged"
        )
    identity = identity or identity_of(name, dtype, revision, "vllm")
    tokenizer, config = load_tokenizer(path, revision), load_config(path, revision)
    try:
        import torch
        import vllm
    except ImportError as error:
        raise GazalError(
            f"model {name}: evaluation.engine=vllm needs vLLM: pip install 'gazal[gpu]' ({first_line(error)})"
        ) from error
    try:
        llm = vllm.LLM(
            model=path,
            tokenizer=path,
            revision=revision,
            tokenizer_revision=revision,
            dtype=dtype,
            trust_remote_code=False,
            generation_config="vllm",
            tensor_parallel_size=gpus_for(config.get_text_config().num_attention_heads, torch.cuda.device_count()),
            max_model_len=context or -1,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise GazalError(f"model {name}: vLLM cannot load it ({first_line(error)})") from error
    try:
        configured = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
    except OSError:  # a model without such a file
        configured = config.get_text_config().eos_token_id
    room, stops = llm.llm_engine.model_config.max_model_len, with_eos(tokenizer, configured)
    return VLLMEngine(llm, tokenizer, name, identity, room, stops)
