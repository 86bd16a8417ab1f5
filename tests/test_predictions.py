"""Predictions: rows, resuming, and files that belong to something else. The engine answers from a script."""

from __future__ import annotations

import json
import os

import pyarrow.parquet as pq
import pytest
from conftest import make_item

from gazal.errors import GazalError
from gazal.evaluation.engines import Reply
from gazal.evaluation.predictions import SCHEMA, predict, read_header, read_predictions
from gazal.evaluation.prompting import Prompting
from gazal.recipe_evaluation import EvaluationSection

SETTINGS = EvaluationSection(samples=2)
ITEMS = [make_item(n) for n in range(10)]


class Scripted:
    """Answers item n's sample s with its key when s is 0, with nothing readable otherwise; batches of three."""

    def __init__(self, identity: str = "one", stop_after: int = 99, think: bool | None = None) -> None:
        self.name, self.identity, self.stop_after, self.think, self.asked = "scripted", identity, stop_after, think, []

    def opens_think(self, messages):
        return self.think

    def complete(self, prompts, settings, seed, done):
        batches = [range(at, min(at + 3, len(prompts))) for at in range(0, len(prompts), 3)]
        for count, batch in enumerate(b for b in reversed(batches) if not set(b) <= set(done)):
            if count == self.stop_after:
                raise KeyboardInterrupt
            self.asked += batch
            yield [self.reply(i, settings.samples, prompts[i]) for i in batch]

    def reply(self, index, samples, messages):
        key = "ABCD"[int(messages[-1]["content"].split()[1].rstrip("?")) % 4]
        text = "I do not know." if index % samples else f"<think>\nStep 1: x\n</think>\n\n**Answer:** {key}"
        return Reply(index, text, 5 + index, "length" if index % samples else "stop")


def run(out, engine, items=ITEMS, settings=SETTINGS, **options):
    return predict(engine, items, settings, out, **{"prompting": Prompting("s"), "seed": 1, "say": lambda line: None, **options})


def test_rows_are_in_item_order_then_sample(tmp_path):
    out = run(tmp_path / "m" / "b.parquet", Scripted())
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert table.schema.remove_metadata() == SCHEMA
    assert [(r["item_id"], r["sample"]) for r in rows] == [(item.id, s) for item in ITEMS for s in (0, 1)]
    assert [r["n_tokens"] for r in rows] == [5 + i for i in range(20)]
    assert [r["correct"] for r in rows] == [True, False] * 10
    assert {(r["letter"], r["reason"], r["finish_reason"]) for r in rows if r["sample"]} == {(None, "declined", "length")}
    assert read_header(out)["model"] == "one" and len(read_predictions(out)) == 20
    assert os.listdir(tmp_path / "m") == ["b.parquet"]


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path):
    whole = run(tmp_path / "whole.parquet", Scripted()).read_bytes()
    out = tmp_path / "cut.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(out, Scripted(stop_after=3))
    assert not out.exists()
    partial = tmp_path / "cut.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-25])  # the kill cut the last line
    engine = Scripted()
    assert run(out, engine).read_bytes() == whole
    assert len(engine.asked) == 20 - 3 - 2 and not partial.exists()  # two batches (2 and 3 rows) were whole
    engine = Scripted()
    run(out, engine)
    assert engine.asked == []


@pytest.mark.parametrize(("change", "word"), [
    ({"engine": Scripted("two")}, "model"), ({"items": ITEMS[:9]}, "benchmark"),
    ({"settings": EvaluationSection(samples=1)}, "sampling"), ({"seed": 2}, "sampling"), ({"prompting": Prompting("other")}, "prompt"),
])
@pytest.mark.parametrize("cut", [False, True])
def test_predictions_of_something_else_are_refused_or_replaced(tmp_path, change, word, cut):
    out = tmp_path / "b.parquet"
    if cut:
        with pytest.raises(KeyboardInterrupt):
            run(out, Scripted(stop_after=1))
    else:
        run(out, Scripted())
    options = {"engine": Scripted(), **change}
    with pytest.raises(GazalError, match=f"b.*: holds predictions of another {word}; remove it"):
        run(out, **options)
    run(out, **options, replace=True)
    assert read_header(out)["model"] == options["engine"].identity


def test_the_template_must_agree_about_think(tmp_path):
    with pytest.raises(GazalError, match="opens <think>: set model.prompt_opens_think=true"):
        run(tmp_path / "b.parquet", Scripted(think=True))
    with pytest.raises(GazalError, match="does not open <think>: set model.prompt_opens_think=false"):
        run(tmp_path / "b.parquet", Scripted(think=False), prompting=Prompting("s", True))
    assert not list(tmp_path.iterdir())


def test_broken_files_are_one_line(tmp_path):
    out, partial = tmp_path / "b.parquet", tmp_path / "b.partial.jsonl"
    partial.write_text("{]\n")
    with pytest.raises(GazalError, match="not a file of partial predictions"):
        run(out, Scripted())
    out.write_bytes(b"PAR1 no")
    for read in (read_header, read_predictions):
        with pytest.raises(GazalError, match="b.parquet: not a predictions file"):
            read(out)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda rows: rows[:-1], "item 'item-9' has 1 samples, others 2"),
    (lambda rows: [*rows, rows[0]], "row 21: item 'item-0', sample 0 is there twice"),
    (lambda rows: [{**rows[0], "completion": None}, *rows[1:]], "row 1: completion: empty"),
    (lambda rows: [], "no rows"),
])
def test_spoilt_predictions_name_the_row(tmp_path, spoil, message):
    import pyarrow as pa

    out = run(tmp_path / "b.parquet", Scripted())
    pq.write_table(pa.Table.from_pylist(spoil(pq.read_table(out).to_pylist()), SCHEMA), out)
    with pytest.raises(GazalError) as error:
        read_predictions(out)
    assert str(error.value) == f"{out}: {message}"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GazalError, match="cannot be written"):
        run(tmp_path / "file" / "b.parquet", Scripted())


def test_progress_says_where_it_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "m" / "b.parquet", Scripted(stop_after=2))
    lines: list[str] = []
    run(tmp_path / "m" / "b.parquet", Scripted(), say=lines.append)
    assert lines[0] == "m on b: goes on at 5/20"
    assert lines[-1].startswith("m on b: 20/20, ") and lines[-1].endswith("accuracy so far 0.533")
    assert json.dumps(lines)
