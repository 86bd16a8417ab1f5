"""Read one answer of OpenAI's protocol out of a server's bytes: JSON, or a stream of events, whatever its name."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gazal.common.endpoints import judge_trouble, public_model, retry_after, said_in, same_model, trouble_in
from gazal.common.openai_answer import Answer, Failure
from gazal.common.openai_message import NotText

NO_CHAT = "'s answer is no chat completion"
BOM = b"\xef\xbb\xbf"
EVENTS = re.compile(rb"(?:\A|[\r\n])data:")
OTHER = b"{[<"  # how JSON and pages begin
LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.S)  # what follows a last "\r" decides what it is
ODD = (ValueError, TypeError, AttributeError, LookupError, RecursionError)  # of JSON in another form


def stream_events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the data of server-sent events; a last line without its end does not count.

    An event's data may take several lines. Some servers part events by one line end, so JSON that is whole is yielded.
    """
    rest, event, first = b"", b"", True
    for piece in chain(pieces, (None,)):
        *lines, rest = LINE_END.split(rest + (piece or b""))
        if piece is None and rest.endswith(b"\r"):
            lines.append(rest[:-1])
        for line in lines:
            line, first = line.removeprefix(BOM) if first else line, False
            if line.startswith(b"data:"):
                event += (b"\n" if event else b"") + line[5:].strip()
            if event and (not line or _whole(event)):
                yield event
                event = b""


def _whole(event: bytes) -> bool:
    if event[-1:] not in (b"}", b"]"):
        return False
    try:
        json.loads(event)
    except (ValueError, RecursionError):
        return event == b"[DONE]"
    return True


@dataclass
class Reader:
    """Reads an answer of ``model``. ``hint`` helps with another model's, ``tell`` says what is odd.

    ``enough``, of the last piece and the answer so far, says when to leave a stream. Raises Failure.
    """

    model: str
    headers: Any
    hint: str
    tell: Callable[[str], None]
    enough: Callable[[str, Answer], bool] | None = None

    def read(self, pieces: Iterator[bytes]) -> Answer:
        """Return the answer in ``pieces`` of a body."""
        kind, start = self.headers.get("content-type", "").partition(";")[0].strip().lower(), b""
        if "event-stream" in kind:
            for piece in pieces:
                start += piece
                if head := start.lstrip(BOM + b" \t\r\n")[:1]:
                    if head not in OTHER:
                        return self._stream(chain([start], pieces))
                    break
        raw = (start + b"".join(pieces)).removeprefix(BOM)
        events = raw.lstrip()[:1] not in OTHER and EVENTS.search(raw)
        return self._stream([raw]) if events else self._one(raw, kind)

    def _stream(self, pieces: Iterable[bytes]) -> Answer:
        answer = Answer()
        try:
            for data in stream_events(pieces):
                if data == b"[DONE]":
                    answer.finish = answer.finish or "stop"
                    break
                chunk = json.loads(data)
                self._check(chunk, data.decode(errors="replace"))
                answer.note(chunk.get("usage"))
                for choice in (chunk.get("choices") or [])[:1]:
                    message = choice.get("delta") or (not answer.text and choice.get("message")) or choice
                    piece = answer.add(message, choice.get("finish_reason"))
                    if self.enough and self.enough(piece, answer):
                        return answer
        except NotText as error:
            raise Failure(str(error), NO_CHAT, paid=True) from error
        except ODD as error:
            raise Failure(f"a broken stream ({error})", again=True, paid=True) from error
        if answer.finish is None:
            raise Failure("the stream ended in the middle", again=True, paid=True)
        if not self.enough:
            answer.value = self._as_one(answer)
        return answer.end()

    def _as_one(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON of an answer that came as a stream, though none was wanted."""
        message = {"role": "assistant", "content": answer.text, "reasoning_content": answer.thought}
        if answer.refusal:
            message["refusal"] = answer.refusal
        choice = {"index": 0, "message": message, "finish_reason": answer.finish}
        return {"model": self.model, "choices": [choice], "usage": answer.usage}

    def _one(self, raw: bytes, kind: str) -> Answer:
        text = raw.decode(errors="replace")
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            page = raw.lstrip().startswith(b"<")
            if page or "html" in kind:
                why = f"it is {kind if 'html' in kind else 'markup'}; the URL often ends in /v1"
                raise Failure(why, NO_CHAT, body=text) from error
            raise Failure("a broken body", again=True, paid=True, body=text) from error
        try:
            self._check(value, text)
            choice, answer = value["choices"][0], Answer(value=value)
            answer.note(value.get("usage"))
            answer.add(choice.get("message") or {"content": choice["text"]}, choice.get("finish_reason") or "stop")
            answer.pieces = 0
        except NotText as error:
            raise Failure(str(error), NO_CHAT, paid=True, body=text) from error
        except ODD as error:
            why = "it has no choices" if isinstance(value, dict) and value.get("choices") == [] else "other JSON"
            raise Failure(why, NO_CHAT, paid=True, body=text) from error
        return answer.end()

    def _check(self, value: dict[str, Any], raw: str) -> None:
        """Raise Failure for an error under status 200, as routers report their provider's, and for another model.

        A server may add or leave out a folder, provider, revision, date or tag of the name, which is said once.
        """
        if trouble := trouble_in(value):
            again, refused = judge_trouble(trouble, raw)
            wait, paid = retry_after(self.headers, time.time()) or 0.0, bool(value.get("choices"))
            raise Failure(f"it says {said_in(raw)}", again=again, wait=wait, paid=paid, refused=refused, body=raw)
        served, asked = str(value.get("model") or self.model), public_model(self.model)
        if not same_model(self.model, served):
            what = f" answers as model {public_model(served)!r}, not {asked!r}"
            raise Failure(self.hint.format(public_model(served)), what, paid=True, body=raw)
        if public_model(served) != asked:
            self.tell(f"the server answers as model {public_model(served)!r}")
