"""Rows of JSON in a file to which one process at a time appends; a kill loses at most the batch at work."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gazal.common.errors import GazalError

Take = Callable[[int, Any], None]


class AppendStore:
    """A file with a row a line, held until ``close``; a comma at the end of a line says that its batch goes on.

    Opening it calls ``take(place, row)`` for each row, in order, and cuts an unfinished batch off into ``torn``. With
    ``aside`` that file has it before it is cut. ``first`` is the row with which a new file begins. ``strict`` waits for
    the disk after each batch (``fsync``) and refuses a file system without locks. Memory holds one batch. Raise GazalError if another process holds the file, if
    it cannot be written, and for a row that is not JSON. So too for a row that ``take`` cannot use.
    """

    def __init__(
        self, path: Path, take: Take, first: Any = None, strict: bool = False, aside: Path | None = None
    ) -> None:
        self.path, self.strict, self.aside = path, strict, aside
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 - held until close()
            try:
                self._lock()
                self.torn = self._load(take)
                if first is not None and not os.fstat(self._file.fileno()).st_size:
                    self.append([first])
            except BaseException:
                self._file.close()
                raise

    def append(self, rows: list[Any]) -> list[int]:
        """Save a batch of rows; return their places, for ``read``."""
        lines, places = [json.dumps(row).encode() for row in rows], []  # ASCII: text may hold half a surrogate pair
        with self._writing():
            self._file.seek(0, os.SEEK_END)
            for number, line in enumerate(lines, 1):
                places.append(self._file.tell())
                self._file.write(line + (b",\n" if number < len(lines) else b"\n"))
            self._file.flush()
            if self.strict:
                os.fsync(self._file.fileno())
        return places

    def read(self, place: int) -> Any:
        """Return the row at ``place``."""
        self._file.seek(place)
        return _parse(self._file.readline())

    def close(self) -> None:
        """Let go of the file; remove it if nothing was ever written."""
        with suppress(OSError):  # ``append`` has said that the disk is full
            if not os.fstat(self._file.fileno()).st_size:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def _load(self, take: Take) -> bytes:
        row = end = whole = 0
        batch: list[tuple[int, int, Any]] = []
        self._file.seek(0)
        try:
            for row, line in enumerate(self._file, 1):
                if not line.endswith(b"\n"):
                    break
                batch.append((row, end, _parse(line)))
                end += len(line)
                if not line.endswith(b",\n"):
                    for row, place, value in batch:  # noqa: B007 - the error names the row
                        take(place, value)
                    whole, batch = end, []
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise GazalError(
                f"{self.path}: row {row}: not as written here ({error!r}); remove it and all after it to go on without"
            ) from error
        self._file.seek(whole)
        torn = self._file.read()
        if torn and self.aside:
            with open(self.aside, "ab") as handle:
                handle.write(torn + b"\n")
        self._file.truncate(whole)
        return torn

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.path.exists():  # who held it removed it as empty, after it was opened here
                raise BlockingIOError
        except BlockingIOError:
            raise GazalError(f"{self.path}: another process is at work there") from None
        except OSError:
            if self.strict:
                raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GazalError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def _parse(line: bytes) -> Any:
    return json.loads(line.rstrip(b",\n"))
