"""``<benchmark>.partial.jsonl``: replies as they come, a line a batch, so that a kill loses at most the batch at work.

The first line names model, benchmark, sampling and prompt. Memory holds where each reply lies, never its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: nothing stops a second process there
    fcntl = None

from gazal.common.errors import GazalError

if TYPE_CHECKING:
    from gazal.engines.reply import Reply


def first_line(path: Path) -> Any:
    """The header of a partial file; None where there is no file, or nothing readable in its first line."""
    try:
        with open(path, "rb") as handle:
            return json.loads(handle.readline())
    except (OSError, ValueError):
        return None


class Partial:
    """A partial file of ``total`` replies, opened to go on: what a kill cut off at its end is taken away.

    ``seen`` is called with each batch: first those that the file holds, then each that :meth:`append` adds.
    Raises GazalError for a file of another header or another program, for one at which another process
    is at work, and where it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        total: int,
        seen: Callable[[list[Reply]], None],
        check: Callable[[Any], None],
    ) -> None:
        self.path, self.seen = path, seen
        self.start, self.length = np.full(total, -1, np.int64), np.zeros(total, np.int64)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.handle = open(path, "a+b")
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._lock()
            self._load(header, check)
        except BaseException:
            self.handle.close()
            raise

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk is said once, where it was written to
            self.handle.close()

    @property
    def done(self) -> set[int]:
        """Indices of the replies that the file holds."""
        return set(np.flatnonzero(self.start >= 0).tolist())

    def append(self, batch: list[Reply]) -> None:
        """Save a batch as one line. Halves of surrogate pairs, which no UTF-8 file can hold, become U+FFFD."""
        batch = [
            reply._replace(text=reply.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            for reply in batch
        ]
        try:
            line = self._index(batch, self.handle.seek(0, 2))
            self.handle.write(line)
            self.handle.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self.seen(batch)

    def read(self, index: int) -> Reply:
        """One saved reply."""
        from gazal.engines.reply import Reply

        self.handle.seek(self.start[index])
        return Reply(*json.loads(self.handle.read(self.length[index])))

    def _index(self, batch: list[Reply], start: int) -> bytes:
        """The batch as a line of bytes; notes where in a file its replies lie when the line begins at ``start``."""
        pieces = [json.dumps(reply, ensure_ascii=False).encode() for reply in batch]
        at = start + 1
        for reply, piece in zip(batch, pieces, strict=True):
            if not 0 <= reply.index < len(self.start):
                raise ValueError(f"no prompt {reply.index}")
            self.start[reply.index], self.length[reply.index] = at, len(piece)
            at += len(piece) + 2
        return b"[" + b", ".join(pieces) + b"]\n"

    def _load(self, header: dict[str, Any], check: Callable[[Any], None]) -> None:
        from gazal.engines.reply import Reply

        whole = row = 0
        self.handle.seek(0)
        try:
            for row, line in enumerate(self.handle, 1):
                if not line.endswith(b"\n"):
                    break
                if row == 1:
                    check(json.loads(line))
                else:
                    batch = [Reply(*reply) for reply in json.loads(line)]
                    if self._index(batch, whole) != line:
                        raise ValueError("not as written here")
                    self.seen(batch)
                whole += len(line)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            remedy = f"remove rows {row} and on to keep those before, or the file" if row > 1 else "remove it"
            raise GazalError(
                f"{self.path}: row {row}: not of a file of partial predictions ({error}); {remedy}"
            ) from error
        try:
            self.handle.truncate(whole)
            if not whole:
                self.handle.write(json.dumps(header, ensure_ascii=False).encode() + b"\n")
                self.handle.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _lock(self) -> None:
        try:
            if fcntl:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GazalError(f"{self.path}: another process is at work on these predictions") from None
        except OSError:
            pass  # a file system without locks

    def _unwritable(self, error: OSError) -> GazalError:
        return GazalError(f"{self.path}: cannot be written ({error.strerror or error})")
