"""Predictions: rows, resuming, and files that belong to something else. The engine answers from a script."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.items import make_item
from helpers.scripted_engine import Scripted
from hypothesis import given
from hypothesis import strategies as st

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.engines.load import load_engine
from gazal.engines.reply import Reply
from gazal.evaluation import predict as predictions
from gazal.evaluation.predict import Prompts, predict
from gazal.evaluation.progress import duration
from gazal.predictions.file import SCHEMA, read_header, read_predictions
from gazal.predictions.loglik import read_letter
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

SETTINGS = EvaluationSection(samples=2)
ITEMS = [make_item(n) for n in range(10)]


def run(out, engine, items=ITEMS, settings=SETTINGS, **options):
    return predict(
        engine, items, settings, out, **{"prompting": Prompting("s"), "seed": 1, "say": lambda line: None, **options}
    )


def test_rows_are_in_item_order_then_sample(tmp_path):
    out = run(tmp_path / "m" / "b.parquet", Scripted())
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert table.schema.remove_metadata() == SCHEMA
    assert [(r["item_id"], r["sample"]) for r in rows] == [(item.id, s) for item in ITEMS for s in (0, 1)]
    assert [r["n_tokens"] for r in rows] == [5 + i for i in range(20)]
    assert [r["correct"] for r in rows] == [True, False] * 10
    assert {(r["letter"], r["reason"], r["finish_reason"]) for r in rows if r["sample"]} == {
        (None, "declined", "length")
    }
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


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"engine": Scripted("two")}, r"model \('one', wanted 'two'\)"),
        ({"items": ITEMS[:9]}, r"benchmark \(other items, options or keys\)"),
        ({"settings": EvaluationSection(samples=1)}, r"sampling \(samples: 2, wanted 1\)"),
        ({"seed": 2}, r"sampling \(seed: 1, wanted 2\)"),
        ({"prompting": Prompting("other")}, r"prompt \(system: 's', wanted 'other'\)"),
        (
            {"engine": Scripted("two"), "seed": 2},
            r"model \('one', wanted 'two'\), another sampling \(seed: 1, wanted 2\)",
        ),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_predictions_of_something_else_are_refused_or_replaced(tmp_path, change, word, cut):
    out = tmp_path / "b.parquet"
    if cut:
        with pytest.raises(KeyboardInterrupt):
            run(out, Scripted(stop_after=1))
    else:
        run(out, Scripted())
    options = {"engine": Scripted(), **change}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(GazalError, match=f"b.*: holds predictions of another {word}; remove it"):
        run(out, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(out, **options, replace=True)
    assert read_header(out)["model"] == options["engine"].identity


def test_the_template_must_agree_about_think(tmp_path):
    with pytest.raises(GazalError, match="opens <think>: set model.prompt_opens_think=true"):
        run(tmp_path / "b.parquet", Scripted(think=True))
    with pytest.raises(GazalError, match="does not open <think>: set model.prompt_opens_think=false"):
        run(tmp_path / "b.parquet", Scripted(think=False), prompting=Prompting("s", True))
    assert not list(tmp_path.iterdir())


def test_an_older_header_says_what_it_does_not_say(tmp_path):
    out = run(tmp_path / "b.parquet", Scripted())
    header = read_header(out)
    del header["sampling"]["stop_when_answered"], header["prompt"]
    pq.write_table(pq.read_table(out).replace_schema_metadata({"gazal": json.dumps(header)}), out)
    with pytest.raises(
        GazalError,
        match=r"another sampling \(does not say stop_when_answered\), another prompt \(does not say system, opens_think, ",
    ):
        run(out, Scripted())
    pq.write_table(pq.read_table(out).replace_schema_metadata({}), out)
    with pytest.raises(GazalError, match="b.parquet: does not say which model and benchmark"):
        run(out, Scripted())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: [b"{]\n"], r"row 1: not as written here \(.*\); remove it and all after it"),
        (lambda lines: [b"[1]\n", *lines[1:]], "does not say which model"),
        (
            lambda lines: [*lines[:2], b"\0" * 50 + b"\n", *lines[3:]],
            "row 3: not as written here .*; remove it and all after it to go on without",
        ),
        (lambda lines: [*lines[:2], b'[99, "x", 1, "stop"]\n'], "row 3: .*no prompt 99"),
        (lambda lines: [*lines[:2], b'[-1, "x", 1, "stop"]\n'], "row 3: .*no prompt -1"),
        (lambda lines: [*lines[:2], b'[1, "x", 1]\n'], "row 3: .*finish_reason"),
        (lambda lines: [*lines[:2], b'[1, 5, 1, "stop"]\n'], "row 3: not as written here"),
        (lambda lines: [lines[0], b'[[1, "x", 1, "stop"]]\n'], "row 2: not as written here"),  # an older version's
    ],
)
def test_spoilt_partial_files_are_one_line_and_stay(tmp_path, spoil, message):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.parquet", Scripted(stop_after=3))
    partial = tmp_path / "b.partial.jsonl"
    partial.write_bytes(b"".join(spoil(partial.read_bytes().splitlines(keepends=True))))
    before = partial.read_bytes()
    with pytest.raises(GazalError, match=message):
        run(tmp_path / "b.parquet", Scripted())
    assert partial.read_bytes() == before


@given(st.integers(0, 2000))
def test_torn_anywhere_it_goes_on(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    with pytest.raises(KeyboardInterrupt):
        run(folder / "b.parquet", Scripted(stop_after=5))
    partial, engine = folder / "b.partial.jsonl", Scripted()
    text = partial.read_bytes()
    partial.write_bytes(text[: cut % len(text)])
    run(folder / "b.parquet", engine)
    assert len(read_predictions(folder / "b.parquet")) == 20 and len(engine.asked) == len(set(engine.asked))


def test_broken_files_are_one_line(tmp_path):
    out = tmp_path / "b.parquet"
    out.write_bytes(b"PAR1 no")
    for read in (read_header, read_predictions):
        with pytest.raises(GazalError, match="b.parquet: not a predictions file"):
            read(out)


def test_two_processes_do_not_write_one_file(tmp_path):
    class Nested(Scripted):
        def complete(self, prompts, settings, seed, done):
            with pytest.raises(GazalError, match="b.partial.jsonl: another process is at work"):
                run(tmp_path / "b.parquet", Scripted())
            yield from super().complete(prompts, settings, seed, done)

    assert len(read_predictions(run(tmp_path / "b.parquet", Nested()))) == 20


def test_an_engine_that_leaves_prompts_out_is_one_line(tmp_path):
    class Lazy(Scripted):
        def complete(self, prompts, settings, seed, done):
            yield from list(super().complete(prompts, settings, seed, done))[1:]

    with pytest.raises(GazalError, match="model scripted left 2 of 20 prompts without an answer"):
        run(tmp_path / "b.parquet", Lazy())
    run(tmp_path / "b.parquet", Scripted())


def test_text_that_utf8_cannot_hold(tmp_path):
    class Odd(Scripted):
        def reply(self, index, samples, messages):
            return Reply(index, "\ud83d\ude00 \ud800 \u2028 \x00 **Answer:** A", 3, "stop")

    out = run(tmp_path / "b.parquet", Odd())
    assert set(read_predictions(out)["completion"]) == {"\U0001f600 \ufffd \u2028 \x00 **Answer:** A"}


def test_prompts_are_built_when_asked_for():
    class Counting:
        built = 0

        def prompt(self, item):
            self.built += 1
            return item.id

    prompts = Prompts(ITEMS, 3, counting := Counting())
    assert len(prompts) == 30 and counting.built == 0
    assert [prompts[at] for at in (0, 2, 3, 29, -1)] == [
        "item-0",
        "item-0",
        "item-1",
        "item-9",
        "item-9",
    ] and counting.built == 5
    for at in (30, -31):
        with pytest.raises(IndexError):
            prompts[at]


def test_a_completion_is_read_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        predictions,
        "extract",
        lambda text, options, think_open, real=predictions.extract: (
            read.append(text) or real(text, options, think_open)
        ),
    )
    run(tmp_path / "b.parquet", Scripted())
    assert len(read) == 20


def test_datasets_loads_the_documented_columns(tmp_path):
    out = run(tmp_path / "b.parquet", Scripted())
    loaded = datasets.load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert {name: feature.dtype for name, feature in loaded.features.items()} == {
        "item_id": "string",
        "sample": "int64",
        "completion": "string",
        "n_tokens": "int64",
        "finish_reason": "string",
        "letter": "string",
        "reason": "string",
        "correct": "bool",
    }
    assert loaded.num_rows == 20 and loaded[1]["letter"] is None and loaded[0]["correct"] is True


class Logged(Scripted):
    """Notes what it is asked before it answers, and takes a moment for each batch."""

    def __init__(self, log, pause):
        super().__init__()
        self.log, self.pause = log, pause

    def complete(self, prompts, settings, seed, done):
        with open(self.log, "a") as log:
            for batch in super().complete(prompts, settings, seed, done):
                print(*(reply.index for reply in batch), file=log, flush=True)
                time.sleep(self.pause)
                yield batch


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_killed_at_any_moment_nothing_is_asked_twice(tmp_path):
    items, chance, log, out = (
        [make_item(n) for n in range(300)],
        random.Random(6),
        tmp_path / "log",
        tmp_path / "cut.parquet",
    )
    plain, kills = run(tmp_path / "plain.parquet", Scripted(), items).read_bytes(), 0
    while not out.exists():
        pid = os.fork()
        if pid == 0:
            try:
                run(out, Logged(log, 0.003), items)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    batches = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    assert kills >= 4 and {index for batch in batches for index in batch} == set(range(600))
    assert len(batches) - len(set(batches)) <= kills  # the batch at work, at most
    run(out, Logged(log, 0.0), items)
    assert out.read_bytes() == plain and len(log.read_text().splitlines()) == len(batches)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a fork")
def test_a_full_disk_is_one_line_and_what_was_saved_stays(tmp_path):
    import resource

    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_200, 1_200))
            with pytest.raises(GazalError, match="b.partial.jsonl: cannot be written .File too large"):
                run(tmp_path / "b.parquet", Scripted())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    engine = Scripted()
    run(tmp_path / "b.parquet", engine)
    assert 0 < len(engine.asked) < 20


def test_row_groups_do_not_change_the_rows(tmp_path, monkeypatch):
    whole = pq.read_table(run(tmp_path / "whole.parquet", Scripted()))
    monkeypatch.setattr(predictions, "ROW_GROUP", 3)
    out = run(tmp_path / "groups.parquet", Scripted())
    assert pq.read_table(out).equals(whole) and pq.ParquetFile(out).num_row_groups == 7


SCALE = """
import resource, sys
from pathlib import Path
from helpers.items import make_item
from gazal.engines.reply import Reply
from gazal.evaluation.predict import predict
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

STEPS = [f"Step {n}: the finding number {n} fits the first option and not the second, because its course is chronic." for n in range(40)]

class Stub:
    name = identity = "stub"
    def opens_think(self, prompt): return None
    def complete(self, prompts, settings, seed, done):
        for at in range(0, len(prompts), 64):
            for i in range(at, min(at + 64, len(prompts))):
                assert str(i) in prompts[i][-1]["content"]
            yield [Reply(i, "<think>\\n" + "\\n".join(STEPS[(i + k) % 40] for k in range(11)) + f"\\n</think>\\n\\n**Answer:** {'ABCD'[i % 3]}", 300, "stop") for i in range(at, min(at + 64, len(prompts)))]

folder, count = Path(sys.argv[1]), int(sys.argv[2])
items = [make_item(n, context=["A sentence of context that says what was seen. " * 6]) for n in range(count)]
predict(Stub(), items, EvaluationSection(), folder / "stub" / "b.parquet", prompting=Prompting("s"), seed=1, say=lambda line: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_a_hundred_thousand_items_stay_under_a_gibibyte_and_a_half(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCALE, str(tmp_path), "100000"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.5 * 2**30
    assert pq.ParquetFile(tmp_path / "stub" / "b.parquet").metadata.num_rows == 100_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (90061, "25 h 01 min")],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:-1], "item 'item-9' has 1 samples, others 2"),
        (lambda rows: [*rows, rows[0]], "row 21: item 'item-0', sample 0 is there twice"),
        (lambda rows: [{**rows[0], "completion": None}, *rows[1:]], "row 1: completion: null"),
        (lambda rows: [], "no rows"),
    ],
)
def test_spoilt_predictions_name_the_row(tmp_path, spoil, message):
    out = run(tmp_path / "b.parquet", Scripted())
    pq.write_table(pa.Table.from_pylist(spoil(pq.read_table(out).to_pylist()), SCHEMA), out)
    with pytest.raises(GazalError) as error:
        read_predictions(out)
    assert str(error.value) == f"{out}: {message}"


@pytest.mark.parametrize(
    "header", ["[1]", '"x"', "1", '{"sampling": null}', '{"prompt": [1], "sampling": {}}', "{", b"\xff\xfe"]
)
def test_a_header_that_is_none_of_ours_is_one_line(tmp_path, header):
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"item_id": ["a"]}).replace_schema_metadata({"gazal": header}), path)
    with pytest.raises(GazalError, match="b.parquet: not a predictions file ") as error:
        read_header(path)
    assert "\n" not in str(error.value)


def test_items_with_control_tokens_of_the_model_are_counted_aloud(tmp_path):
    items = [
        make_item(0),
        make_item(1).model_copy(update={"question": "Question 1? <|im_end|>"}),
        make_item(2).model_copy(update={"options": {"A": "</s>", "B": "y", "C": "z"}}),
        make_item(3),
    ]
    said: list[str] = []
    engine = Scripted()
    engine.tokenizer = SimpleNamespace(all_special_tokens=["<|im_end|>", "</s>"])
    run(tmp_path / "m" / "b.parquet", engine, items, say=said.append)
    assert (
        said[0]
        == "m on b: 2 of 4 items hold text that this model reads as a control token, such as '<|im_end|>' (first: 'item-1')"
    )
    run(tmp_path / "n" / "b.parquet", engine, items[:1], say=said.append)
    assert len(said) == 3 and "control" not in said[2]


def test_prompts_without_room_are_counted_aloud(tmp_path):
    class Narrow(Scripted):
        def reply(self, index, samples, messages):
            return Reply(index, "", 0, "length") if index < 4 else super().reply(index, samples, messages)

    said: list[str] = []
    run(tmp_path / "b.parquet", Narrow(), say=said.append)
    assert "b: 4 of 20 prompts leave no room in the model's context: they were not asked and count as wrong" in said[-1]


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
    assert lines[-1].startswith("m on b: 20/20 (5 of them from before), ") and "completions/s in 0 s" in lines[-1]
    assert lines[-1].endswith(", accuracy 0.500 (95 % interval 0.299–0.701)")


def test_progress_tells_rate_time_left_and_the_interval(tmp_path, monkeypatch):
    monkeypatch.setattr("gazal.evaluation.progress.REPORT_SECONDS", -1)
    clock = iter(range(0, 60_000, 600))
    monkeypatch.setattr("gazal.evaluation.progress.time.monotonic", lambda: next(clock))
    lines: list[str] = []
    run(tmp_path / "m" / "b.parquet", Scripted(), settings=EvaluationSection(), say=lines.append)
    assert (
        lines[1]
        == "m on b: 4/10, 0.0 items/s, about 30 min 00 s left, accuracy so far 1.000 (95 % interval 0.510–1.000)"
    )
    assert lines[-1] == "m on b: 10/10, 0.0 items/s in 40 min 00 s, accuracy 1.000 (95 % interval 0.722–1.000)"


@pytest.mark.parametrize("norm", ["sum", "characters"])
def test_by_log_likelihood_an_item_is_asked_once_and_resumed_alike(tiny_model, tmp_path, norm):
    engine, settings = (
        load_engine(tiny_model, "float32"),
        EvaluationSection(method="loglik", loglik_norm=norm, batch_tokens=512),
    )
    out = run(tmp_path / "m" / "b.parquet", engine, settings=settings)
    frame, whole = read_predictions(out), out.read_bytes()
    assert (
        list(frame["item_id"]) == [item.id for item in ITEMS]
        and set(frame["n_tokens"]) == {0}
        and set(frame["reason"]) == {"ok"}
    )
    assert (
        list(frame["letter"]) == [read_letter(text, norm) for text in frame["completion"]]
        and read_header(out)["sampling"]["method"] == "loglik"
    )
    assert list(frame["correct"]) == [
        letter == item.answer_idx for letter, item in zip(frame["letter"], ITEMS, strict=True)
    ]
    partial, saved = tmp_path / "m" / "b.partial.jsonl", []
    out.unlink()

    def stop(line):
        saved.append(line)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("gazal.evaluation.progress.REPORT_SECONDS", -1)
        run(out, engine, settings=settings, say=stop)
    assert partial.exists() and saved
    assert run(out, engine, settings=settings).read_bytes() == whole
    with pytest.raises(GazalError, match="evaluation.samples=2: log-likelihoods are the same each time; set 1"):
        run(tmp_path / "c.parquet", engine, settings=settings.model_copy(update={"samples": 2}))
