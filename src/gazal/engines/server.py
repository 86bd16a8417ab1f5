"""A model behind a server that speaks OpenAI's protocol: requests, ends of replies, and counts of their tokens.

Requests are for streams, so that a reply can be left once its answer is closed. Replies are yielded as they come, and
all that have come are yielded before an error is raised.

``n_tokens`` is the server's own count (``usage.completion_tokens``). If the server gives none, or the stream was left
before it came, the pieces of the stream are counted. Most servers send a token a piece. If an answer in one piece has
no count, its words and marks are counted. They are fewer than its tokens, and a warning says so.

Every failure is one GazalError that names model, server and item. :mod:`gazal.common.openai_client` says what is
retried. A prompt that the server refuses (too long for it, or kept out by a filter) is an empty reply with the finish
reason ``refused``. But if the first request is refused, or more than a tenth of all, that is a failure.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from gazal.answers.ending import closed_at, opens_answer
from gazal.answers.markup import opens_thinking
from gazal.common.endpoints import public_endpoint
from gazal.common.errors import GazalError
from gazal.common.files import file_safe
from gazal.common.openai_answer import Answer, Failure
from gazal.common.openai_client import Client
from gazal.common.openai_message import FILTERED, LENGTH
from gazal.engines.reply import REFUSED, Reply
from gazal.items.prompts import Prompt
from gazal.models.identity import identity_of
from gazal.recipe.evaluation import EvaluationSection

MARKS = frozenset("\n}>")  # without one of these in its last piece a text has not just closed its answer


class OpenAIEngine:
    """A server's model. ``retries``: further tries of one request, each after a longer wait."""

    def __init__(self, url: str, model: str, retries: int = 4) -> None:
        self.url, self.model, self.retries = url, model, retries
        self.name = file_safe(model)
        self._answered, self._told = threading.Event(), dict[str, float]()  # by any call: it is one server
        self.identity = identity_of(f"openai:{url}#{model}", None)

    def opens_think(self, prompt: Prompt, thinking: str = "template") -> bool | None:
        return opens_thinking(prompt) if isinstance(prompt, str) else None

    def complete(
        self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]
    ) -> Iterator[list[Reply]]:
        done, samples, total = set(done), settings.samples, len(prompts)
        if not total:
            return
        if isinstance(prompts[0], str) and settings.thinking != "template":
            raise GazalError(
                f"model {self.name}: evaluation.thinking={settings.thinking} is a chat template's, "
                "and plain prompts have none: set template"
            )
        think_open = self.opens_think(prompts[0])
        ending = {
            "think_open": bool(getattr(prompts, "opens_think", False)) if think_open is None else think_open,
            "answer_open": opens_answer(prompts[0]),
        }
        hints = {
            "top_k": "it takes no top_k: set evaluation.top_k=0",
            "chat_template_kwargs": "it takes no chat_template_kwargs: set evaluation.thinking=template",
            "late": "evaluation.timeout sets how long it has",
            "model": f"to ask for that, --model openai:{public_endpoint(self.url)}/…#{{}}",
        }

        def end(text: str) -> int | None:
            return closed_at(text, **ending) if settings.stop_when_answered else None

        def enough(piece: str, answer: Answer) -> bool:
            return not MARKS.isdisjoint(piece) and end(_text(answer)) is not None

        def ask(index: int) -> list[Reply]:
            item, sample = divmod(index, samples)
            where = f"item {item + 1} of {total // samples}" + (f", sample {sample + 1}" if samples > 1 else "")
            body = _body(prompts[index], settings, seed + sample)
            try:
                answer = client.retried(lambda: client.send(body, enough), where)
            except Failure as failure:
                if not failure.refused or index == first:
                    raise
                if 10 * (count := next(refusals)) > total:
                    failure.why += f"; {count} of {total} prompts are refused, and a tenth may be"
                    raise
                if count == 1:
                    client.tell(f"{where} is refused: {failure.why}; prompts that the server refuses count as wrong")
                return [Reply(index, "", 0, REFUSED)]
            return [_reply(index, answer, end, client.tell)]

        def say(line: str) -> None:
            logging.getLogger("gazal").warning("%s: %s", self.name, line)

        wanted, refusals = (index for index in range(total) if index not in done), itertools.count(1)
        first = None if done or self._answered.is_set() else 0  # if it is refused, all may be
        try:
            tries, known = 1 + self.retries, {"answered": self._answered, "told": self._told}
            with Client(self.url, self.model, settings.timeout, say, hints, tries, **known) as client:
                yield from client.together(ask, wanted, settings.concurrency)
        except Failure as failure:
            where = f"{failure.where}, {public_endpoint(self.url)}: {failure.why}"
            raise GazalError(f"model {self.name}: the server{failure.what} ({where})") from failure


def _body(prompt: Prompt, settings: EvaluationSection, seed: int) -> dict[str, Any]:
    extra: dict[str, Any] = {"top_k": settings.top_k} if settings.top_k else {}
    if settings.thinking != "template":
        extra["chat_template_kwargs"] = {"enable_thinking": settings.thinking == "on"}
    return {
        **({"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}),
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": seed,
        "extra_body": extra or None,
    }


def _text(answer: Answer) -> str:
    """Return the answer with the think block that some servers cut out, set apart by one empty line as the card does.

    The block stays open if nothing came after it and the answer was cut.
    """
    if not answer.thought:
        return answer.text
    closing = "" if answer.finish != "stop" and not answer.text else "\n</think>\n\n" + answer.text.lstrip("\n")
    return f"<think>\n{answer.thought.strip()}{closing}"


def _reply(index: int, answer: Answer, end: Callable[[str], int | None], tell: Callable[[str], None]) -> Reply:
    text, count = _text(answer), answer.count("completion_tokens") or answer.pieces
    if text and not count:
        count = len(re.findall(r"\w+|[^\w\s]", text))
        tell("the server does not say how many tokens its answers have: words and marks are counted, which are fewer")
    if not text:
        tell(f"an answer has no text (finish_reason {answer.reason!r}); it counts as empty")
    at = end(text)
    cut = at is None and answer.finish in (LENGTH, FILTERED)
    return Reply(index, text[:at], count, str(answer.finish) if cut else "stop")
