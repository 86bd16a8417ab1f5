"""Scoring by log-likelihood: choose the option's letter (or text) that is likeliest after the prompt.

Definitions are those of lm-eval 0.4.13 (https://github.com/EleutherAI/lm-evaluation-harness), ``output_type:
multiple_choice``. The argmax of the summed log-likelihood is its ``acc``. The argmax of the sum divided by the choice's
characters is its ``acc_norm``. The first of equals wins. Division by the number of scored tokens is ours.

As there, a choice follows a plain prompt after one space, and a chat's opening directly. White space at the prompt's
end is scored with the choice, since the two may merge into one token. Reading predictions needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from gazal.common.errors import GazalError
from gazal.engines.reply import Engine, Reply
from gazal.items.schema import Item
from gazal.predictions.loglik import choices, to_completion
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

TAIL_COST = 16  # tokens of the budget that a token counts which continuations do not share, for its logits
CHUNK = 512  # prompts encoded at a time to learn their lengths


def replies(
    engine: Engine, items: Sequence[Item], prompting: Prompting, settings: EvaluationSection, done: Collection[int]
) -> Iterator[list[Reply]]:
    """Yield a reply for each item whose index is not in ``done``, in batches within ``settings.batch_tokens``.

    The longest come first. :func:`read_letter` reads a reply's text; its ``n_tokens`` is 0. An item that does not fit
    the model's context gets an empty text and the finish reason ``length``. Raises GazalError for an engine that is no
    model in this process, and for a prompt that opens ``<think>``. The same for log-likelihoods that are not finite.
    """
    from transformers import PreTrainedModel

    from gazal.models.generation import group_by_length, plan_batches
    from gazal.models.likelihood import encode, score_batch

    if not isinstance(model := getattr(engine, "model", None), PreTrainedModel):
        raise GazalError(
            f"model {engine.name}: log-likelihoods need a model in this process (evaluation.engine=transformers); "
            "set evaluation.method=generate"
        )
    if items and engine.opens_think(prompting.prompt(items[0]), settings.thinking):
        raise GazalError(
            f"model {engine.name}: its prompt opens <think>, where no option stands: "
            "evaluation.thinking=off, or evaluation.prompt=plain"
        )
    tokenizer, done = engine.tokenizer, set(done)

    def text(item: Item) -> tuple[str, list[str], bool]:
        prompt = prompting.prompt(item)
        plain = isinstance(prompt, str)  # its special tokens are the tokenizer's own, a chat's are in its template
        lead = " " if plain and not prompt[-1:].isspace() else ""
        return (
            engine.render(prompt, settings.thinking),
            [lead + choice for choice in choices(item, settings.loglik_choice).values()],
            plain,
        )

    costs, tops = [], []
    for start in range(0, len(items), CHUNK):
        prompts, continuations, plain = zip(*map(text, items[start : start + CHUNK]), strict=True)
        encoded = tokenizer(list(prompts), add_special_tokens=plain[0])["input_ids"]
        for ids, texts in zip(encoded, continuations, strict=True):
            tail = max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
            tops.append(len(ids) + tail)
            costs.append(len(ids) + 1 if tail == 1 else len(texts) * max(len(ids) + tail, TAIL_COST * tail))
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    fits = [place for place, top in enumerate(tops) if top <= room]
    if too_long := sorted(set(range(len(items))) - set(fits) - done):
        yield [Reply(place, "", 0, "length") for place in too_long]
    planned = plan_batches([costs[place] for place in fits], 0, settings.batch_tokens)
    batches = [[fits[at] for at in batch] for batch in planned]
    for batch in [whole[part] for whole in batches for part in group_by_length([costs[place] for place in whole])]:
        wanted = [place for place in batch if place not in done]
        if not wanted:
            continue
        rows = [encode(tokenizer, *text(items[place])) for place in wanted]
        scored = score_batch(model, rows, tokenizer.pad_token_id)
        if not all(math.isfinite(one.loglik) for row in scored for one in row):
            raise GazalError(f"model {engine.name}: its log-likelihoods are no numbers")
        asked = [choices(items[place], settings.loglik_choice) for place in wanted]
        yield [
            Reply(place, to_completion(texts, row, settings.loglik_norm), 0, "stop")
            for place, texts, row in zip(wanted, asked, scored, strict=True)
        ]
