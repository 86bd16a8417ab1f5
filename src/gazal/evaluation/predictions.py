"""Predictions: one row per item and sample, saved per batch while they are made, Parquet at the end.

Next to ``<benchmark>.parquet`` lies ``<benchmark>.partial.jsonl`` until all is done: a header line that
names model, benchmark and sampling, then one line per batch. A kill loses at most the batch at work.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gazal.answers import extract
from gazal.errors import GazalError
from gazal.evaluation.prompting import Prompting
from gazal.files import atomic_write, read_jsonl
from gazal.items import Item
from gazal.recipe_evaluation import EvaluationSection

if TYPE_CHECKING:  # engines bring torch, which reading and scoring do without
    from gazal.evaluation.engines import Engine, Reply

SCHEMA = pa.schema([
    ("item_id", pa.string()), ("sample", pa.int64()), ("completion", pa.string()), ("n_tokens", pa.int64()),
    ("finish_reason", pa.string()), ("letter", pa.string()), ("reason", pa.string()), ("correct", pa.bool_()),
])
SAMPLING = ("method", "loglik_choice", "loglik_norm", "temperature", "top_p", "top_k", "max_new_tokens", "samples", "stop_when_answered")
REPORT_SECONDS = 20.0


def fingerprint(items: Iterable[Item]) -> str:
    """SHA-256 of what is asked and what counts as right, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.id, item.context, item.question, item.options, item.answer_idx], ensure_ascii=False).encode())
    return digest.hexdigest()


def _header(engine: Engine, items: list[Item], settings: EvaluationSection, prompting: Prompting, seed: int) -> dict[str, Any]:
    sampling = {key: getattr(settings, key) for key in SAMPLING}
    return {
        "model": engine.identity, "benchmark": fingerprint(items), "sampling": sampling | {"seed": seed},
        "prompt": prompting.header() | {"thinking": settings.thinking},
    }


def _check_same(path: Path, found: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
    other = [key for key in wanted if (found or {}).get(key) != wanted[key]]
    if other:
        raise GazalError(f"{path}: holds predictions of another {', another '.join(other)}; remove it or choose another folder")


def _drop_stale(path: Path, read: Callable[[Path], dict[str, Any] | None], wanted: dict[str, Any], say: Callable[[str], None]) -> None:
    try:
        if path.exists():
            _check_same(path, read(path), wanted)
    except GazalError:
        say(f"{path.parent.name}/{path.name}: of another model, benchmark or sampling: made again")
        path.unlink()


def _first_line(path: Path) -> dict[str, Any] | None:
    try:
        return next((row for _, row in read_jsonl(path)), None)
    except GazalError:
        return None


def _resume(path: Path, header: dict[str, Any]) -> dict[int, Reply]:
    """Replies saved by an interrupted run; what a kill cut off at the end is taken away."""
    from gazal.evaluation.engines import Reply

    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole:
        path.unlink(missing_ok=True)
        return {}
    try:
        _check_same(path, json.loads(whole[0]), header)
        replies = {reply[0]: Reply(*reply) for line in whole[1:] for reply in json.loads(line)}
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise GazalError(f"{path}: not a file of partial predictions ({error}); remove it") from error
    if len(whole) < len(lines):
        with open(path, "r+b") as handle:
            handle.truncate(sum(map(len, whole)))
    return replies


def predict(
    engine: Engine | str | Path, items: list[Item], settings: EvaluationSection, out: str | Path, *, prompting: Prompting, seed: int,
    replace: bool = False, say: Callable[[str], None] = print,
) -> Path:
    """Ask ``engine`` every item ``settings.samples`` times and write the predictions to ``out`` (Parquet).

    Rows are in item order, then sample. Where ``out`` is complete nothing is asked; where an
    interrupted run left a partial file, only what is missing is. Either may belong to another model,
    benchmark, sampling or prompt: then it is made again with ``replace``, else that raises GazalError, as
    does a folder that cannot be written.
    """
    from gazal.evaluation.engines import load_engine

    out = Path(out)
    engine = load_engine(engine) if isinstance(engine, (str, Path)) else engine
    header = _header(engine, items, settings, prompting, seed)
    partial = out.with_suffix(".partial.jsonl")
    if replace:
        _drop_stale(out, read_header, header, say)
        _drop_stale(partial, _first_line, header, say)
    if out.exists():
        _check_same(out, read_header(out), header)
        partial.unlink(missing_ok=True)  # a kill came between the two
        return out
    prompts = [prompting.prompt(item) for item in items for _ in range(settings.samples)]
    think_open = prompting.opens_think
    if prompts and engine.opens_think(prompts[0]) not in (None, think_open):
        fact, value = ("does not open", "false") if think_open else ("opens", "true")
        raise GazalError(f"model {engine.name}: its template {fact} <think>: set model.prompt_opens_think={value}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replies = _resume(partial, header)
        with open(partial, "a", encoding="utf-8") as handle:
            if not handle.tell():
                handle.write(json.dumps(header, ensure_ascii=False) + "\n")
            progress = _Progress(f"{out.parent.name} on {out.stem}", items, settings.samples, think_open, say, len(replies))
            for batch in engine.complete(prompts, settings, seed, replies.keys()) if len(replies) < len(prompts) else ():
                handle.write(json.dumps(batch, ensure_ascii=False) + "\n")
                handle.flush()
                replies |= {reply.index: reply for reply in batch}
                progress.add(batch)
    except OSError as error:
        raise GazalError(f"{partial}: cannot be written ({error.strerror or error})") from error
    rows = [_row(items[i // settings.samples], i % settings.samples, replies[i], think_open) for i in range(len(prompts))]
    with atomic_write(out, "wb") as handle:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA.with_metadata({"gazal": json.dumps(header, ensure_ascii=False)})), handle)
    partial.unlink(missing_ok=True)
    return out


def _row(item: Item, sample: int, reply: Reply, think_open: bool) -> dict[str, Any]:
    found = extract(reply.text, item.options, think_open=think_open)
    return {
        "item_id": item.id, "sample": sample, "completion": reply.text, "n_tokens": reply.n_tokens, "finish_reason": reply.finish_reason,
        "letter": found.letter, "reason": found.reason.value, "correct": found.letter == item.answer_idx,
    }


class _Progress:
    """A line every 20 seconds and one at the end: completions, rate, time left, accuracy so far."""

    def __init__(self, label: str, items: list[Item], samples: int, think_open: bool, say: Callable[[str], None], before: int) -> None:
        self.label, self.items, self.samples, self.think_open, self.say = label, items, samples, think_open, say
        self.done, self.asked, self.right, self.began, self.said = before, 0, 0, time.monotonic(), time.monotonic()
        if before:
            say(f"{label}: goes on at {before}/{len(items) * samples}")

    def add(self, batch: list[Reply]) -> None:
        items = [self.items[reply.index // self.samples] for reply in batch]
        self.right += sum(extract(r.text, i.options, think_open=self.think_open).letter == i.answer_idx for r, i in zip(batch, items, strict=True))
        self.done, self.asked, now = self.done + len(batch), self.asked + len(batch), time.monotonic()
        total = len(self.items) * self.samples
        if self.done == total or now - self.said > REPORT_SECONDS:
            self.said, rate = now, self.asked / max(now - self.began, 1e-9)
            left = f", {(total - self.done) / rate:.0f} s left" if self.done < total else ""
            self.say(f"{self.label}: {self.done}/{total}, {rate:.1f}/s{left}, accuracy so far {self.right / self.asked:.3f}")


def read_header(path: str | Path) -> dict[str, Any] | None:
    """Model, benchmark, sampling and prompt that a predictions file names; None for a file of other makers."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata[b"gazal"]) if b"gazal" in metadata else None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise GazalError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from error


def read_predictions(path: str | Path) -> pd.DataFrame:
    """The rows of a predictions file, checked: columns there, no item and sample twice, nothing missing."""
    try:
        frame = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise GazalError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from error
    missing = [name for name in SCHEMA.names if name not in frame.columns]
    if missing:
        raise GazalError(f"{path}: no column {', '.join(missing)}")
    if not len(frame):
        raise GazalError(f"{path}: no rows")
    for name in ("item_id", "sample", "completion", "n_tokens", "finish_reason", "correct"):
        if frame[name].isna().any():
            raise GazalError(f"{path}: row {int(frame[name].isna().argmax()) + 1}: {name}: empty")
    twice = frame.duplicated(["item_id", "sample"])
    if twice.any():
        row = int(twice.argmax())
        raise GazalError(f"{path}: row {row + 1}: item {frame['item_id'][row]!r}, sample {frame['sample'][row]} is there twice")
    counts = frame.groupby("item_id").size()
    if counts.nunique() > 1:
        raise GazalError(f"{path}: item {counts.idxmin()!r} has {counts.min()} samples, others {counts.max()}")
    return frame
