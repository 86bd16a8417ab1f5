"""OpenAI-compatible servers: their names, how long to wait for them, and what a failure means."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT = 300.0  # seconds that a server may ask us to wait; more stops the run


def public_endpoint(url: str) -> str:
    """Return scheme, host and port of ``url``: no credentials, no path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def public_model(name: str) -> str:
    """Return a model's name as shown; of a local folder its last part alone."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if re.match(r"[/~.\\]|[A-Za-z]:[/\\]", name) else name


def same_model(asked: str, served: str) -> bool:
    """Return whether ``served`` can be the model ``asked``: revision, folder, provider, date and tag may differ."""

    def base(name: str) -> str:
        return re.split(r"[@:]", re.split(r"[/\\]", name.rstrip("/\\"))[-1])[0].casefold()

    one, two = base(asked), base(served)
    return bool(one) and bool(two) and (one.startswith(two) or two.startswith(one))


def without_secrets(text: str, endpoint: str, key: str) -> str:
    """Return ``text`` without the key, which some servers repeat, and without the endpoint's credentials and path."""
    for secret, shown in ((key if len(key) > 5 else "", "[key]"), (endpoint, public_endpoint(endpoint))):
        text = text.replace(secret, shown) if secret else text
    return text


def retry_after(headers: Any, now: float) -> float | None:
    """Return the seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or a date); None without either."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(ValueError, TypeError):
            if math.isfinite(seconds := float(headers.get(name)) / unit):
                return max(0.0, seconds)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after")).timestamp() - now)
    return None


def back_off(tries: int, first: float, most: float = 60.0, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds before try ``tries`` + 1: ``first`` doubled up to ``most``, less up to half at random."""
    return min(most, first * 2.0 ** min(tries - 1, 30)) * (1 - draw() / 2)


def passing(status: int, body: str) -> bool:
    """Return whether an HTTP error may pass by itself: a busy or failing server, not an empty account."""
    return status in RETRIED and "insufficient_quota" not in body


def said_in(body: str) -> str:
    """Return the message in an error's body: of JSON its ``error`` or ``detail``, of a page nothing."""
    try:
        value = json.loads(body)
        value = value.get("error", value.get("detail", value))
        return str(value.get("message", value) if isinstance(value, dict) else value)
    except (ValueError, AttributeError):
        return "" if body.lstrip().startswith("<") else body


def stream_events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what follows ``data:`` in server-sent events; a last line without its end does not count."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line[5:].strip() for line in lines if line.startswith(b"data:"))


def refusal(status: int, body: str) -> str:
    """Return what an HTTP error means, in words, with the server's own message."""
    said = said_in(body)
    hint = {
        401: "does not accept the key in OPENAI_API_KEY",
        403: "forbids this to the key in OPENAI_API_KEY",
        404: "has no such model or path (an endpoint often ends in /v1)",
        429: "too many requests",
    }.get(status, "refuses the request" if status < 500 else "failed")
    return f"{hint} (status {status}{': ' + said if said.strip() else ''})"
