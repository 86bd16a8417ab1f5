"""``<benchmark>.partial.jsonl``: replies as they come, in batches, so that a kill loses at most the current batch.

The first row names model, benchmark, sampling and prompt. Memory holds each reply's place in the file, not its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gazal.common.append_store import AppendStore
from gazal.engines.reply import Reply
from gazal.predictions.file import refused


def first_line(path: Path) -> Any:
    """Return the header of a partial file; None if there is no file, or nothing readable in its first line."""
    try:
        with open(path, "rb") as handle:
            return json.loads(handle.readline())
    except (OSError, ValueError):
        return None


class Partial:
    """A partial file of ``total`` replies, opened to be continued.

    ``check`` is called with the header of a file that exists. ``seen`` is called with the replies: first with those
    that the file holds, then with each batch that :meth:`append` adds. Refused prompts that the file holds are left
    out, as if they had not been asked. Raises GazalError as
    :class:`gazal.common.append_store.AppendStore` does.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        total: int,
        seen: Callable[[list[Reply]], None],
        check: Callable[[Any], None],
    ) -> None:
        self.seen, self.check, self.places = seen, check, np.full(total, -1, np.int64)
        self.store = AppendStore(path, self._take, first=header)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    @property
    def done(self) -> set[int]:
        """Return the indices of the replies that the file holds."""
        return set(np.flatnonzero(self.places >= 0).tolist())

    def append(self, batch: list[Reply]) -> None:
        """Save a batch. Halves of surrogate pairs, which no UTF-8 file can hold, become U+FFFD."""
        batch = [
            reply._replace(text=reply.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            for reply in batch
        ]
        for place, reply in zip(self.store.append(batch), batch, strict=True):
            self._note(place, reply)
        self.seen(batch)

    def read(self, index: int) -> Reply:
        """Return one saved reply."""
        return Reply(*self.store.read(self.places[index]))

    def _take(self, place: int, row: Any) -> None:
        if not place:
            return self.check(row)
        reply = Reply(*row)
        if refused(reply.finish_reason):
            return  # asked once more: it costs nothing, and the server may have been mended
        self._note(place, reply)
        self.seen([reply])

    def _note(self, place: int, reply: Reply) -> None:
        if not 0 <= reply.index < len(self.places):
            raise ValueError(f"no prompt {reply.index}")
        self.places[reply.index] = place
