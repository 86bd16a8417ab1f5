"""OpenAI-compatible servers: their names, how long to wait for them, and what a failure means."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from gazal.common.environment import proxies
from gazal.common.redact import hide

SECRET = re.compile("key|token|secret|pass|auth|sig", re.I)  # names of a URL's fields
# Said of one prompt, not of a setting: it is too long for the model, or a filter does not let it through.
PROMPT = re.compile(
    r"prompt|context|content.?(?:filter|policy|management)|moderation|flagged|safety|too long|too many tokens"
    r"|inappropriate|sensitive|inspection|inputs?\b.*\btokens?\b|\btokens?\b.*\b(?:exceed|limit)",
    re.I | re.S,
)
LASTING = re.compile("invalid|unauthori|authenti|quota|permission|not.?found|unsupported|balance|billing|denied", re.I)
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT = 300.0  # seconds that a server may ask us to wait; more stops the run


def usable_url(url: str) -> bool:
    """Return whether ``url`` is a server's address: http or https, a host, and no port or a number."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def public_endpoint(url: str) -> str:
    """Return scheme, host and port of ``url``: no credentials, no path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def public_spec(spec: str) -> str:
    """Return a model as a command names it (``openai:URL#name``), without the address's user and password."""
    return re.sub("//[^#]*@", "//…@", spec)


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
    """Return ``text`` without the key, which some servers repeat, and without the endpoint's credentials and path.

    The credentials of proxies go too. :func:`hide` knows the forms in which a secret is found.
    """
    text = text.replace(endpoint, public_endpoint(endpoint)) if endpoint else text
    for secret in (key, *(one for url in (endpoint, *proxies().values()) for one in _credentials(url))):
        text = hide(text, secret)
    return text


def _credentials(url: str) -> list[str]:
    """Return what a URL holds of user, password and keys, longest first."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError:
        return []
    known = parts.netloc.rpartition("@")[0]
    user, _, password = known.partition(":")
    keys = [value for name, value in parse_qsl(parts.query) if SECRET.search(name)]
    found = {known, password or user, *keys}
    return sorted(found | set(map(unquote, found)), key=len, reverse=True)


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


def refuses_prompt(status: int, body: str) -> bool:
    """Return whether an HTTP error is of this prompt alone: too long for the model, or kept out by a filter."""
    value = _error(body)
    words = said_in(body) + (f" {value.get('code')} {value.get('type')}" if isinstance(value, dict) else "")
    if status == 403:
        return re.search("flagged|moderation", words) is not None
    return status == 413 or (status in (400, 422) and PROMPT.search(words) is not None)


def trouble_in(value: dict[str, Any]) -> Any:
    """Return the error that a server reports under status 200, None without one.

    It is ``error``, of the answer or its first choice, or a code and a message where choices should be.
    """
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    for error in (value.get("error"), first.get("error") if isinstance(first, dict) else None):
        if error and (not isinstance(error, dict) or any(error.values())):  # some send one without a word
            return error
    return value if "choices" not in value and _message(value) else None


def judge_trouble(trouble: Any, raw: str) -> tuple[bool, bool]:
    """Return whether an error under status 200 may pass, and whether it is of this prompt alone."""
    value = trouble if isinstance(trouble, dict) else {}
    code, kind = (str(value.get(name) or "") for name in ("code", "type"))
    status = int(code) if code.isdecimal() and len(code) == 3 else 0
    refused = refuses_prompt(status, raw) if status else PROMPT.search(f"{code} {kind}") is not None
    passes = passing(status, raw) if status else not LASTING.search(f"{code} {kind} {_message(value)}")
    return passes and not refused, refused


def _message(value: dict[str, Any]) -> str:
    found = (value.get(name) for name in ("message", "msg", "error_msg", "errmsg", "detail"))
    return next((str(one) for one in found if one), "")


def _error(body: str) -> Any:
    """Return the error in the JSON of a body, else its value; of what is no JSON the text, of a page None."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None if body.lstrip("\ufeff \t\r\n").startswith("<") else body
    return (trouble_in(value) or value) if isinstance(value, dict) else value


def said_in(body: str) -> str:
    """Return the message in an error's body: of JSON its ``error``, ``message`` or ``detail``, of a page nothing."""
    value = _error(body)
    try:
        said = (_message(value) or str(value)) if isinstance(value, dict) else str(value)
    except RecursionError:  # too deep to print
        return ""
    return "" if value is None else said


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
