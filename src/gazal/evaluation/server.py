"""A server that speaks OpenAI's protocol: chats to ``/chat/completions``, plain text to ``/completions``.

Answers are asked for as streams, so that a reply can be left where its answer is closed; a server that answers in one piece
all the same is read as well. Replies are handed on as they come, and what has come is handed on before an error is raised.

``n_tokens`` is the server's own count (``usage.completion_tokens``). Where it gives none, or the stream was left before it came, it
is the number of pieces that the stream brought (most servers send a token a piece); of an answer in one piece without a
count, its words and marks, which are fewer than its tokens, and that is said.

Every failure is one GazalError that names model, server and item: what the connection does is tried again (the openai
client's retries and back-off; a stream that breaks off, here), what the server says is not.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from gazal.answer_end import closed_at, opens_answer
from gazal.endpoints import back_off, broken_connection, public_endpoint, public_model, refusal, said_in, same_model, without_secrets
from gazal.errors import GazalError
from gazal.evaluation.engines import Reply
from gazal.evaluation.identity import identity_of
from gazal.evaluation.prompting import Prompt
from gazal.files import file_safe
from gazal.recipe_evaluation import EvaluationSection

MARKS = frozenset("\n}>")  # without one of these in its last piece a text has not just closed its answer
HINTS = {"top_k": "it takes no top_k: set evaluation.top_k=0", "chat_template_kwargs": "it takes no chat_template_kwargs: set evaluation.thinking=template"}


class _Failure(Exception):
    """A request that brought no answer: ``the server{what}``, why, and whether to try again."""

    def __init__(self, why: str, what: str = " failed", again: bool = False) -> None:
        super().__init__(why)
        self.what, self.again = what, again


@dataclass
class _Answer:
    """One answer as far as it has come."""

    thought: str = ""
    text: str = ""
    pieces: int = 0
    used: int = 0
    finish: str | None = None

    def whole(self) -> str:
        """With the think block that some servers cut out of the text, set apart by one empty line as the card does; open where
        nothing came after it before the limit."""
        if not self.thought:
            return self.text
        return f"<think>\n{self.thought.strip()}" + ("" if self.finish == "length" and not self.text else "\n</think>\n\n" + self.text.lstrip("\n"))


@dataclass
class _Asking:
    """What holds for all requests of one call: ``ending`` are :func:`closed_at`'s options, None where nothing is cut."""

    client: Any
    settings: EvaluationSection
    prompts: Sequence[Prompt]
    seed: int
    ending: dict[str, bool] | None
    limit_field: str = "max_tokens"
    stream: dict[str, Any] = field(default_factory=lambda: {"stream": True, "stream_options": {"include_usage": True}})

    def at(self, text: str) -> int | None:
        return None if self.ending is None else closed_at(text, **self.ending)

    def body(self, index: int) -> dict[str, Any]:
        settings, prompt = self.settings, self.prompts[index]
        extra = {"top_k": settings.top_k} if settings.top_k else {}
        if settings.thinking != "template":
            extra["chat_template_kwargs"] = {"enable_thinking": settings.thinking == "on"}
        return {
            **({"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}), self.limit_field: settings.max_new_tokens,
            "temperature": settings.temperature, "top_p": settings.top_p, "seed": self.seed + index % settings.samples, "extra_body": extra or None, **self.stream,
        }


class OpenAIEngine:
    """A server's model; its key is read from ``OPENAI_API_KEY``. ``retries``: further tries of one request, each after a longer wait."""

    def __init__(self, url: str, model: str, retries: int = 4) -> None:
        try:
            import httpx2  # what the openai client raises while an answer in one piece is read
            import openai
        except ImportError as error:
            raise GazalError("openai: models need the openai package (pip install openai)") from error
        self._openai, self._transport = openai, httpx2.TransportError
        self.url, self.model, self.retries = url, model, retries
        self._key = os.environ.get("OPENAI_API_KEY") or "none"
        self.name = file_safe(model)
        self.identity = identity_of(f"openai:{url}#{model}", None)
        self._counted = True

    def opens_think(self, prompt: Prompt, thinking: str = "template") -> bool | None:
        return prompt.rstrip().endswith("<think>") if isinstance(prompt, str) else None

    def complete(self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]) -> Iterator[list[Reply]]:
        done = set(done)
        wanted = (i for i in range(len(prompts)) if i not in done)
        if not len(prompts):
            return
        if isinstance(prompts[0], str) and settings.thinking != "template":
            raise GazalError(f"model {self.name}: evaluation.thinking={settings.thinking} is a chat template's, and plain prompts have none: set template")
        think_open = self.opens_think(prompts[0])
        ending = {"think_open": bool(getattr(prompts, "opens_think", False)) if think_open is None else think_open, "answer_open": opens_answer(prompts[0])}
        client = self._openai.OpenAI(base_url=self.url, api_key=self._key, timeout=settings.timeout, max_retries=self.retries)
        asking = _Asking(client, settings, prompts, seed, ending if settings.stop_when_answered else None)
        pool, flying, trouble = ThreadPoolExecutor(settings.concurrency), set[Future[Reply]](), None
        try:
            while True:
                while trouble is None and len(flying) < settings.concurrency and (index := next(wanted, None)) is not None:
                    flying.add(pool.submit(self._ask, asking, index))
                if not flying:
                    break
                ended, flying = wait(flying, return_when=FIRST_COMPLETED)
                trouble = trouble or next((error for one in ended if (error := one.exception())), None)
                if replies := [one.result() for one in ended if not one.exception()]:
                    yield sorted(replies)
            if trouble:
                raise trouble
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()

    def _ask(self, asking: _Asking, index: int) -> Reply:
        tries = 0
        while True:
            tries += 1
            try:
                return self._reply(asking, index, self._attempt(asking, index))
            except _Failure as failure:
                if failure.again and tries <= self.retries:
                    time.sleep(back_off(tries, 0.5, 8.0))
                    continue
                samples, total = asking.settings.samples, len(asking.prompts)
                where = f"item {index // samples + 1} of {total // samples}" + (f", sample {index % samples + 1}" if samples > 1 else "")
                why = " ".join(without_secrets(str(failure), self.url, self._key).split())[:300] + (f", {tries} times" if failure.again else "")
                raise GazalError(f"model {self.name}: the server{failure.what} ({where}, {public_endpoint(self.url)}: {why})") from failure

    def _attempt(self, asking: _Asking, index: int) -> _Answer:
        """One request, which the client itself repeats until an answer begins. Raises _Failure."""
        openai, body, begun = self._openai, asking.body(index), False
        route = asking.client.completions if "prompt" in body else asking.client.chat.completions
        try:
            with route.with_streaming_response.create(model=self.model, **body) as response:
                begun, kind = True, response.headers.get("content-type", "")
                if "event-stream" in kind:
                    return self._streamed(response.parse(), asking)
                return self._in_one_piece(response.read().decode(errors="replace"), kind)
        except openai.APIStatusError as error:
            refused = self._refused(error.status_code, error.response.text, asking, body)
        except (openai.APIConnectionError, self._transport) as error:
            what, late = broken_connection(error, asking.settings.timeout)[0], "Timeout" in f"{type(error).__name__} {type(error.__cause__).__name__}"
            raise _Failure(what + ("; evaluation.timeout sets how long it has" if late else ""), again=begun and not late) from error
        except openai.OpenAIError as error:  # what a server says inside a stream
            raise _Failure(f"{type(error).__name__}: {error}") from error
        except ValueError as error:
            raise _Failure(f"a broken stream ({error})", again=True) from error
        if refused:
            raise refused
        return self._attempt(asking, index)

    def _refused(self, status: int, text: str, asking: _Asking, body: dict[str, Any]) -> _Failure | None:
        """What an HTTP error means; None where the request is to be put in other words, which ``asking`` then has."""
        said = said_in(text)
        if 400 <= status < 500 or status == 501:
            if "max_completion_tokens" in said and "max_tokens" in body:  # the newer name, which some models insist on
                asking.limit_field = "max_completion_tokens"
                return None
            if "stream_options" in said and "stream_options" in body:
                asking.stream = {"stream": True}
                return None
            if "stream" in said.lower() and "stream" in body:
                asking.stream = {}
                return None
        hints = [hint for name, hint in HINTS.items() if name in (body["extra_body"] or {}) and name in text]
        return _Failure("; ".join([refusal(status, text), *hints]))

    def _streamed(self, stream: Any, asking: _Asking) -> _Answer:
        answer, deadline = _Answer(), time.monotonic() + asking.settings.timeout
        for chunk in stream:
            self._check_model(getattr(chunk, "model", None))
            answer.used = getattr(getattr(chunk, "usage", None), "completion_tokens", None) or answer.used
            for choice in (getattr(chunk, "choices", None) or [])[:1]:
                delta = getattr(choice, "delta", None)
                thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
                text = getattr(delta, "content", None) or getattr(choice, "text", None) or ""
                answer.thought, answer.text, answer.pieces = answer.thought + thought, answer.text + text, answer.pieces + bool(thought or text)
                answer.finish = choice.finish_reason or answer.finish
                if not MARKS.isdisjoint(text) and asking.at(answer.whole()) is not None:
                    return answer
            if time.monotonic() > deadline and not answer.finish:
                raise _Failure(f"no whole answer within {asking.settings.timeout:g} s; evaluation.timeout sets how long it has")
        if answer.finish is None:
            raise _Failure("the stream ended in the middle", again=True)
        return answer

    def _in_one_piece(self, raw: str, kind: str) -> _Answer:
        try:
            value = json.loads(raw)
        except ValueError as error:
            if "html" in kind or raw.lstrip().startswith("<"):
                raise _Failure(f"it is {kind.partition(';')[0] or 'markup'}; the URL often ends in /v1", "'s answer is no chat completion") from error
            raise _Failure("a broken body", again=True) from error
        trouble = value.get("error") if isinstance(value, dict) else None
        if trouble and not value.get("choices"):  # routers report their provider's error under status 200
            raise _Failure(f"it says {said_in(raw)}")
        try:
            self._check_model(value.get("model"))
            choice, usage = value["choices"][0], value.get("usage") or {}
            message = choice.get("message") or {"content": choice["text"]}
            thought = message.get("reasoning_content") or message.get("reasoning") or ""
            return _Answer(str(thought), str(message.get("content") or ""), 0, int(usage.get("completion_tokens") or 0), str(choice.get("finish_reason") or "stop"))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise _Failure("it has no choices" if isinstance(value, dict) and value.get("choices") == [] else "other JSON", "'s answer is no chat completion") from error

    def _check_model(self, served: str | None) -> None:
        """Servers may add or leave out a folder, provider, revision, date or tag; another name is another model."""
        if served and not same_model(self.model, str(served)):
            name = public_model(str(served))
            raise _Failure(f"to ask for that, --model openai:{public_endpoint(self.url)}/…#{name}", f" answers as model {name!r}, not {public_model(self.model)!r}")

    def _reply(self, asking: _Asking, index: int, answer: _Answer) -> Reply:
        text = answer.whole()
        at, count = asking.at(text), answer.used or answer.pieces
        if text and not count:
            count = len(re.findall(r"\w+|[^\w\s]", text))
            if self._counted:
                self._counted = False
                said = "%s: the server does not say how many tokens its answers have: words and marks are counted, which are fewer"
                logging.getLogger("gazal").warning(said, self.name)
        return Reply(index, text[:at], count, "length" if at is None and answer.finish == "length" else "stop")
