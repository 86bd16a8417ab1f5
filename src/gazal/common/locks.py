"""Let one process work at a time, by a lock file that the kernel releases however its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gazal.common.errors import GazalError

# Files of the locks held here; a process that works on their behalf inherits them (subprocess's pass_fds).
HELD: list[int] = []
WAIT = 15.0  # seconds; an orphaned notebook kernel sees within two that its parent is gone


@contextmanager
def only_one(path: Path, work: str, wait: float = WAIT, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the lock file ``path`` (``flock``) while the block runs; ``work`` says what for.

    If another process holds it, say so by ``say``, wait up to ``wait`` seconds and then raise GazalError naming that
    process. On a file system without locks, say so and run the block without one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as handle:
        _take(handle, path, work, wait, say)
        handle.truncate(0)
        handle.write(f"process {os.getpid()} ({work})")
        handle.flush()
        HELD.append(handle.fileno())
        try:
            yield
        finally:
            HELD.remove(handle.fileno())


def _take(handle, path: Path, work: str, wait: float, say: Callable[[str], None]) -> None:
    until, said = time.monotonic() + wait, False
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read() or "another process"
            if time.monotonic() >= until:
                raise GazalError(f"{path.parent}: {holder} is at work there; {work} can begin when that ends") from None
            if not said:
                say(f"{holder} is still at work in this run folder: waiting up to {wait:.0f} s for it to end")
                said = True
            time.sleep(0.2)
        except OSError as error:
            return say(f"this file system has no locks ({error.strerror}): see that no other process writes here")
