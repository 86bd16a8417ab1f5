"""Check whether the Hugging Face hub answers, once a process and within seconds.

Resolving a name has no timeout of its own, and the clients of the hub retry for minutes. So no code here or elsewhere
uses the hub before :func:`hub_problem` has found that it answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import TypeVar

import httpx
from huggingface_hub import constants, is_offline_mode

from gazal.common.errors import GazalError

PROBE_SECONDS = 2.5  # with the seconds that Python needs to start, an answer within five
T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return or raise what ``ask()`` does; raise TimeoutError after ``seconds`` and leave its daemon thread behind."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(ask())
        except BaseException as error:  # raised to the caller below
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return results[0]


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids the network (read when huggingface_hub is imported)."""
    return is_offline_mode()


@lru_cache
def hub_problem() -> str | None:
    """Return why the hub (HF_ENDPOINT) cannot be used, or None; take at most three seconds, once a process.

    With HF_HUB_OFFLINE that is None: the hub's clients then read their cache alone, and fail at once without it.
    """
    if offline():
        return None
    try:
        status = within(PROBE_SECONDS + 0.2, lambda: httpx.head(constants.ENDPOINT, timeout=PROBE_SECONDS).status_code)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return f"the Hugging Face hub cannot be reached ({first_line(error)})"
    return f"the Hugging Face hub answers with error {status}" if status >= 500 else None


def is_hub_id(name: str) -> bool:
    """Return whether ``name`` has the form owner/name and is no file or folder here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


class Unreachable(GazalError):
    """Something on the hub that cannot be reached.

    ``reason`` is fit for a result file: no paths, no advice. The message has ``detail`` too, and advice, if ``local``
    says what can replace the hub.
    """

    def __init__(self, what: str, reason: str, detail: str = "", local: str = "") -> None:
        self.reason = reason
        advice = (
            f"; use a mirror (HF_ENDPOINT=URL), a cache that holds it (HF_HOME=FOLDER HF_HUB_OFFLINE=1), or {local}"
            if local
            else ""
        )
        super().__init__(f"{what}: {self.reason}{f' ({detail})' if detail else ''}{advice}")


def require_hub(what: str, local: str) -> None:
    """Raise Unreachable if the hub does not answer."""
    if problem := hub_problem():
        raise Unreachable(what, problem, local=local)


def offline_note() -> str:
    """Return what to add to the reason of a load that failed."""
    return ", HF_HUB_OFFLINE is set and it is not in the local cache" if offline() else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
