"""Files of any number of knowledge-derived items: processes make the chunks, one stream writes them."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context, parent_process
from pathlib import Path
from time import perf_counter
from typing import Any

from gazal.common.files import atomic_write
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.generate import chunk_rows, equal_shares

Line = tuple[int, str]  # the id's hash as a number, the item as JSON
WORTH_A_PROCESS = 10_000  # items per process: a process takes seconds to start


def write_synth(
    path: str | Path,
    n: int,
    seed: int,
    kinds: tuple[str, ...] = REASONING_TYPES,
    processes: int | None = None,
    say: Callable[[str], None] = print,
    **pool: Any,
) -> int:
    """Write ``n`` different items, spread evenly over ``kinds``, as JSON lines, and return ``n``.

    The bytes depend on ``n``, ``seed``, ``kinds`` and ``pool`` (``n_diseases``, ``variety``) alone, not on
    ``processes`` (None: one per core). No item repeats, and no question repeats within a chunk.
    Memory holds a few chunks and a set of the ids' hashes, never all items. The file is written whole or not at all.
    """
    started, written = perf_counter(), 0
    processes = min(processes or os.cpu_count() or 1, 1 + n // WORTH_A_PROCESS)
    left = equal_shares(n, kinds)
    with _made(kinds, seed, processes, pool) as chunks, atomic_write(path) as handle:
        streams = [_different(chunks(kind)) for kind in kinds]
        while written < n:
            for number, items in enumerate(streams):
                if left[number]:
                    handle.write(next(items))
                    left[number] -= 1
                    written += 1
                    if written % 50_000 == 0 and written < n:
                        say(f"{written} of {n} items, {written / (perf_counter() - started):.0f} a second")
    return n


def _different(chunks: Iterator[Iterable[Line]]) -> Iterator[str]:
    """Yield the lines of all chunks, each id once."""
    seen: set[int] = set()
    for chunk in chunks:
        for number, line in chunk:
            if number not in seen:
                seen.add(number)
                yield line


def _lines(kind: str, chunk: int, seed: int, pool: dict[str, Any]) -> Iterator[Line]:
    for row in chunk_rows(kind, chunk, seed, **pool):
        yield int(row["id"].rpartition("-")[2], 16), json.dumps(row, ensure_ascii=False) + "\n"


def _work(kind: str, chunk: int, seed: int, pool: dict[str, Any]) -> list[Line]:
    return list(_lines(kind, chunk, seed, pool))


def _end_with_parent() -> None:
    """End this worker when its parent ends, else it would wait for work for ever."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _made(
    kinds: tuple[str, ...], seed: int, processes: int, pool: dict[str, Any]
) -> Iterator[Callable[[str], Iterator[Iterable[Line]]]]:
    """Yield a function from a kind to its chunks in order; several processes make chunks ahead of their use."""
    if processes == 1:
        yield lambda kind: (_lines(kind, chunk, seed, pool) for chunk in count())
        return
    executor = ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent)

    def chunks(kind: str) -> Iterator[Iterable[Line]]:
        ahead: deque[Future[list[Line]]] = deque()
        for chunk in count():
            ahead.append(executor.submit(_work, kind, chunk, seed, pool))
            if len(ahead) > -(-processes // len(kinds)):
                yield ahead.popleft().result()

    try:
        yield chunks
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
