"""A client whose server is a function: no socket, so that a test decides where each piece of a body ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx2
import openai

from gazal.common.openai_client import Client

HINTS = {"late": "timeout", "model": "ask for {}"}
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}


class _Pieces(httpx2.SyncByteStream):
    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def body_of(pieces: Iterable[bytes | Exception], kind: str | None, status: int = 200) -> httpx2.Response:
    """A response whose body comes in these pieces; an exception among them breaks the connection."""
    headers = {"content-type": kind} if kind is not None else {}
    return httpx2.Response(status, headers=headers, stream=_Pieces(pieces))


def mock_client(answer: Callable[[], httpx2.Response], **options: Any) -> Client:
    """A client of the model m whose every request is answered by ``answer``."""
    options = {"timeout": 5.0, "say": lambda line: None, "hints": HINTS, "first_wait": 0.0, "tries": 2, **options}
    client = Client("http://server.test/v1", "m", **options)
    http = httpx2.Client(transport=httpx2.MockTransport(lambda request: answer()))
    client._api = openai.OpenAI(base_url=client.url, api_key=client._key, http_client=http, max_retries=0)
    return client
