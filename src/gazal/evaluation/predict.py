"""Predictions: one row per item and sample, saved per batch while they are made, Parquet at the end.

Next to ``<benchmark>.parquet`` lies ``<benchmark>.partial.jsonl`` until all is done: a header line that
names model, benchmark and sampling, then one line per reply. A kill loses at most the current batch.
No list of all prompts or completions is held: memory grows with the items alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gazal.answers.extract import Extraction, Reason, extract
from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.engines.reply import Engine, Reply
from gazal.evaluation.partial import Partial, first_line
from gazal.evaluation.progress import Progress, Readings
from gazal.items.prompts import Prompt
from gazal.items.schema import Item
from gazal.predictions.file import SCHEMA, fingerprint, read_header
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

SAMPLING = (
    "method",
    "loglik_choice",
    "loglik_norm",
    "temperature",
    "top_p",
    "top_k",
    "max_new_tokens",
    "samples",
    "stop_when_answered",
)
ROW_GROUP = 4096  # rows written at a time


class Prompts(Sequence[Prompt]):
    """The prompt of each item ``samples`` times, each built when it is read."""

    def __init__(self, items: Sequence[Item], samples: int, prompting: Prompting) -> None:
        self.items, self.samples, self.prompting = items, samples, prompting

    @property
    def opens_think(self) -> bool:
        """Return whether they open ``<think>`` by the recipe, for engines that do not see them rendered."""
        return self.prompting.opens_think

    def __len__(self) -> int:
        return len(self.items) * self.samples

    def __getitem__(self, index: int) -> Prompt:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.prompting.prompt(self.items[index % len(self) // self.samples])


def _header(
    engine: Engine, items: list[Item], settings: EvaluationSection, prompting: Prompting, seed: int
) -> dict[str, Any]:
    sampling = {key: getattr(settings, key) for key in SAMPLING}
    return {
        "model": engine.identity,
        "benchmark": fingerprint(items),
        "sampling": sampling | {"seed": seed},
        "prompt": prompting.header() | {"thinking": settings.thinking},
    }


def _brief(value: Any) -> str:
    text = re.sub(r"[0-9a-f]{16,}", lambda digest: digest[0][:8], " ".join(str(value).split()))
    return repr(text if len(text) <= 60 else text[:57] + "…") if isinstance(value, str) else text[:60]


def _difference(found: Any, wanted: Any) -> str:
    """Describe what is there and what is wanted, for each entry that differs."""
    if not isinstance(wanted, dict):
        return f"{_brief(found)}, wanted {_brief(wanted)}"
    found = found if isinstance(found, dict) else {}
    silent = [name for name in wanted if name not in found]  # an older version's header
    other = [
        f"{name}: {_brief(found[name])}, wanted {_brief(wanted[name])}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    more = [f"{name}: {_brief(found[name])}, wanted none" for name in found if name not in wanted]
    return "; ".join([*other, *more, *([f"does not say {', '.join(silent)}"] if silent else [])])


def _check_same(path: Path, found: Any, wanted: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise GazalError(
            f"{path}: does not say which model and benchmark its predictions are of; remove it or choose another folder"
        )
    other = [
        f"{key} ({'other items, options or keys' if key == 'benchmark' else _difference(found.get(key), wanted[key])})"
        for key in wanted
        if found.get(key) != wanted[key]
    ]
    if other:
        raise GazalError(
            f"{path}: holds predictions of another {', another '.join(other)}; remove it or choose another folder"
        )


def _drop_stale(path: Path, read: Callable[[Path], Any], wanted: dict[str, Any], say: Callable[[str], None]) -> None:
    try:
        if path.exists():
            _check_same(path, read(path), wanted)
    except GazalError:
        say(f"{path.parent.name}/{path.name}: of another model, benchmark or sampling: made again")
        path.unlink()


def predict(
    engine: Engine | str | Path,
    items: list[Item],
    settings: EvaluationSection,
    out: str | Path,
    *,
    prompting: Prompting,
    seed: int,
    replace: bool = False,
    say: Callable[[str], None] = print,
    label: str | None = None,
) -> Path:
    """Prompt ``engine`` with every item ``settings.samples`` times and write the predictions to ``out`` (Parquet).

    Rows are in item order, then by sample. If ``out`` is complete, the engine does nothing; if an interrupted run left
    a partial file, only the missing replies are generated, and those of prompts that a server had refused. If either is
    of another model, benchmark, sampling or prompt, it is made again with ``replace``, and raises GazalError without.
    So does a folder that cannot be written, or more than one sample by log-likelihood. ``label`` names the work in the
    lines that ``say`` prints.
    """
    out = Path(out)
    if settings.method == "loglik" and settings.samples > 1:
        raise GazalError(f"evaluation.samples={settings.samples}: log-likelihoods are the same each time; set 1")
    if isinstance(engine, (str, Path)):
        from gazal.engines.load import load_engine

        engine = load_engine(engine)
    header = _header(engine, items, settings, prompting, seed)
    partial = out.with_suffix(".partial.jsonl")
    if replace:
        _drop_stale(out, read_header, header, say)
        _drop_stale(partial, first_line, header, say)
    if out.exists():
        _check_same(out, read_header(out), header)
        if first_line(partial) == header:
            partial.unlink()  # a kill came between the two
        return out
    prompts = Prompts(items, settings.samples, prompting)
    if settings.method == "generate":
        _check_think(engine, prompts, prompting.opens_think, settings.thinking)
    readings = Readings(items, settings.samples, _reader(settings, prompting.opens_think))
    with Partial(
        partial, header, len(prompts), readings.add, lambda found: _check_same(partial, found, header)
    ) as saved:
        progress = Progress(label or f"{out.parent.name} on {out.stem}", readings, say)
        if len(done := saved.done) < len(prompts):
            _say_control(engine, items, progress.label, say)
            for batch in _replies(engine, items, prompts, prompting, settings, seed, done):
                saved.append(batch)
                progress.tell()
        if missing := len(prompts) - len(saved.done):
            raise GazalError(
                f"{partial}: model {engine.name} left {missing} of {len(prompts)} prompts without an answer; "
                "run again to ask them"
            )
        _write(out, header, saved, readings)
    if readings.not_asked:
        say(
            f"{progress.label}: {readings.not_asked} of {len(prompts)} prompts leave no room in the model's context: "
            "they were not asked and count as wrong"
        )
    if readings.refused:
        say(
            f"{progress.label}: {readings.refused} of {len(prompts)} prompts were refused by the server: "
            "they count as wrong"
        )
    partial.unlink(missing_ok=True)
    return out


def _check_think(engine: Engine, prompts: Prompts, think_open: bool, thinking: str) -> None:
    if not prompts:
        return
    opens = engine.opens_think(prompts[0], *([] if thinking == "template" else [thinking]))
    if opens not in (None, think_open):
        fact, value = ("does not open", "false") if think_open else ("opens", "true")
        raise GazalError(
            f"model {engine.name}: its template {fact} <think>: "
            f"set model.prompt_opens_think={value} (of a model that the recipe names, its own)"
        )


def _say_control(engine: Engine, items: list[Item], label: str, say: Callable[[str], None]) -> None:
    """Say how many items hold text such as ``<|im_end|>``: it ends a turn of some models, which changes the prompt."""
    tokens = getattr(getattr(engine, "tokenizer", None), "all_special_tokens", [])
    if not tokens:  # a server shows none
        return
    mark = re.compile("|".join(map(re.escape, tokens)))
    found = [
        (item.id, hit[0])
        for item in items
        if (hit := mark.search("\n".join([*(item.context or ()), item.question, *item.options.values()])))
    ]
    if found:
        say(
            f"{label}: {len(found)} of {len(items)} items hold text that this model reads as a control token, "
            f"such as {found[0][1]!r} (first: {found[0][0]!r})"
        )


def _reader(settings: EvaluationSection, think_open: bool) -> Callable[[str, Item], Extraction]:
    """Return the function that reads a letter and a reason from a completion."""
    if settings.method == "loglik":
        from gazal.predictions.loglik import read_letter

        def likeliest(text: str, item: Item) -> Extraction:
            letter = read_letter(text, settings.loglik_norm)
            return Extraction(letter, Reason.OK if letter else Reason.EMPTY)

        return likeliest
    return lambda text, item: extract(text, item.options, think_open=think_open)


def _replies(
    engine: Engine,
    items: list[Item],
    prompts: Prompts,
    prompting: Prompting,
    settings: EvaluationSection,
    seed: int,
    done: set[int],
) -> Iterator[list[Reply]]:
    if settings.method == "loglik":
        from gazal.evaluation import loglik

        return loglik.replies(engine, items, prompting, settings, done)
    return (
        [_cut(reply, prompting.end(reply.text)) for reply in batch]
        for batch in engine.complete(prompts, settings, seed, done)
    )


def _cut(reply: Reply, end: int | None) -> Reply:
    return reply if end is None else reply._replace(text=reply.text[:end], finish_reason="stop")


def _write(out: Path, header: dict[str, Any], saved: Partial, readings: Readings) -> None:
    """Write the predictions in item order, then by sample, a row group at a time."""
    schema, total = SCHEMA.with_metadata({"gazal": json.dumps(header, ensure_ascii=False)}), len(readings.letters)
    with atomic_write(out, "wb") as handle, pq.ParquetWriter(handle, schema) as writer:
        for start in range(0, total, ROW_GROUP):
            rows = [_row(saved.read(index), readings) for index in range(start, min(start + ROW_GROUP, total))]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _row(reply: Reply, readings: Readings) -> dict[str, Any]:
    item, (letter, reason) = readings.items[reply.index // readings.samples], readings.reading(reply.index)
    return {
        "item_id": item.id,
        "sample": reply.index % readings.samples,
        "completion": reply.text,
        "n_tokens": reply.n_tokens,
        "finish_reason": reply.finish_reason,
        "letter": letter,
        "reason": reason.value,
        "correct": letter == item.answer_idx,
    }
