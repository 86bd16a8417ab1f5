"""`gazal curate`: what is kept, bad input, formats, killed and repeated runs, memory."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.formats import check
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gazal.cli import app
from gazal.common.errors import GazalError
from gazal.curation.command import curate, curate_command
from gazal.curation.scan import clean_row
from gazal.curation.schemas import CurationFile
from gazal.items.reading import read_items, read_rows
from gazal.items.schema import Item
from gazal.knowledge.generate import synthesize
from gazal.recipe.data import CurationSection
from gazal.recipe.load import load_recipe

SETTINGS = CurationSection()
NAMES = ("train.jsonl", "removals.jsonl", "report.json")


def quiet(line: str) -> None:
    pass


def rows_of(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """``n`` different items as rows."""
    kinds: dict[str, dict[str, Any]] = {}
    for item in synthesize(3 * n + 40, seed):  # a score's criteria in another order ask the same: keep one of each
        row = item.model_dump(exclude_none=True)
        kinds.setdefault(
            repr((row["reasoning_type"], sorted(row["question"].replace("\n", ". ").replace(". ", "; ").split("; ")))),
            row,
        )
    return [row for row in kinds.values() if row["reasoning_type"] == "diagnosis"][:n]


ROWS = rows_of(24)


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        flat = [
            {**row, "options": json.dumps(row["options"])} if isinstance(row.get("options"), dict) else row
            for row in rows
        ]
        pq.write_table(
            pa.table(
                {name: [row.get(name) for row in flat] for name in dict.fromkeys(name for row in flat for name in row)}
            ),
            path,
        )
    elif path.name.endswith((".json", ".json.gz")):
        text = json.dumps(rows, indent=2, ensure_ascii=False)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(
    train: list[Path], test: list[Path], out: Path, **fields: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    curate_command(train, test, out, CurationSection(**fields), None, quiet)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    check(CurationFile, report)
    return lines(out / "train.jsonl"), lines(out / "removals.jsonl"), report


def test_command_line(tmp_path: Path) -> None:
    """Several files behind one --train, a repeat, a test item and a faulty row; then the report and the removals say so."""
    first = write(tmp_path / "a.jsonl", [*ROWS[:10], {**ROWS[0], "id": "again"}])
    second = write(
        tmp_path / "b.jsonl",
        [
            {**ROWS[1], "id": "twice"},
            *ROWS[10:14],
            {**ROWS[14], "answer_idx": "J"},
            {
                **ROWS[20],
                "id": "leaked",
                "options": dict(zip("ABCD", reversed(ROWS[20]["options"].values()), strict=True)),
            },
        ],
    )
    tests = [write(tmp_path / f"t{i}.jsonl", ROWS[18 + 2 * i : 20 + 2 * i]) for i in range(2)]
    command = [
        sys.executable,
        "-m",
        "gazal",
        "curate",
        "--train",
        str(first),
        str(second),
        "--test",
        str(tests[0]),
        "--test",
        str(tests[1]),
        "--out",
        str(tmp_path / "out"),
        "--set",
        "data.curation.language_min_chars=80",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "kept 14 of 18 items" in done.stdout, done.stderr
    kept, removals, report = (
        lines(tmp_path / "out" / "train.jsonl"),
        lines(tmp_path / "out" / "removals.jsonl"),
        json.loads((tmp_path / "out" / "report.json").read_text()),
    )
    assert kept == [*ROWS[:10], *ROWS[10:14]]
    assert [(r["id"], r["file"], r["row"], r["reason"]) for r in removals] == [
        ("again", "a.jsonl", 11, "duplicate:exact"),
        ("twice", "b.jsonl", 1, "duplicate:exact"),
        (ROWS[14]["id"], "b.jsonl", 6, "quality:no_answer"),
        ("leaked", "b.jsonl", 7, "contamination:t1:exact"),
    ]
    assert [r.get("match_id") for r in removals] == [ROWS[0]["id"], ROWS[1]["id"], None, ROWS[20]["id"]] and all(
        r["score"] == 1 and r["match_text"] and r["against"] for r in removals if "match_id" in r
    )
    assert removals[2]["field"] == "answer_idx" and removals[2]["text"] == "J"
    assert (
        report["settings"]["language_min_chars"] == 80
        and report["counts"]["read"] == 18
        and report["counts"]["kept"] == 14
    )
    assert {k: v for k, v in report["counts"]["removed"].items() if v} == {
        "duplicate:exact": 2,
        "quality:no_answer": 1,
        "contamination:t1:exact": 1,
    }
    assert report["files"] == [{"name": "a.jsonl", "read": 11, "kept": 10}, {"name": "b.jsonl", "read": 7, "kept": 4}]
    assert report["tests"] == {
        "t0": {"items": 2, "removed_exact": 0, "removed_near": 0, "items_hit": [], "within_pairs": 0},
        "t1": {"items": 2, "removed_exact": 1, "removed_near": 0, "items_hit": [ROWS[20]["id"]], "within_pairs": 0},
    }
    assert (
        report["quality"]["no_answer"] == 1
        and report["not_compared"] == {}
        and report["seconds"] > 0
        and report["peak_memory_mib"] > 0
    )
    assert (
        any("no recipe" in text for text in report["not_checked"])
        and str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)
    ignored = CliRunner().invoke(
        app, ["curate", "--train", str(first), "--out", str(tmp_path / "o"), "--set", "sft.max_length=100"]
    )
    assert isinstance(ignored.exception, GazalError) and "without --recipe" in str(ignored.exception)
    bad = subprocess.run(
        [*command[:5], str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 1 and bad.stderr.count("\n") == 1 and "none.jsonl: no such file" in bad.stderr


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet"])
def test_formats_give_the_same(tmp_path: Path, ending: str) -> None:
    rows = [
        *ROWS[:6],
        {**ROWS[2], "id": "again"},
        {
            "id": "free",
            "question": "Why does the leg hurt?",
            "reasoning": "Step 1: It is a thrombosis.",
            "response": "A thrombosis.",
        },
    ]
    kept, removals, report = run(
        [write(tmp_path / f"in{ending}", rows)], [write(tmp_path / f"t{ending}", ROWS[5:8])], tmp_path / "out"
    )
    assert [row["id"] for row in kept] == [*(row["id"] for row in ROWS[:5]), "free"] and [
        r["id"] for r in removals
    ] == [ROWS[5]["id"], "again"]
    assert report["tests"]["t"]["items"] == 3 and [kept[0][k] for k in ("options", "answer_idx", "question")] == [
        ROWS[0][k] for k in ("options", "answer_idx", "question")
    ]
    assert [item.id for item in read_items(tmp_path / "out" / "train.jsonl", training=True)] == [
        row["id"] for row in kept
    ]


def test_rows_stay_as_they_were_read(tmp_path: Path) -> None:
    """Bytes of JSON lines are copied: spacing, escapes, key order, unknown keys; a blank line and a missing last line break do not matter."""
    odd = '{"answer_idx":"B" , "id": "\\u00e9", "question": "Which?  ", "options": {"A": "x", "B": "y"}, "more": [1, {"z": null}]}'
    plain = json.dumps(ROWS[0], ensure_ascii=True)
    (tmp_path / "in.jsonl").write_text(f"\n{odd}\n\n{plain}", encoding="utf-8")
    curate_command([tmp_path / "in.jsonl"], [], tmp_path / "out", SETTINGS, None, quiet)
    assert (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8") == f"{odd}\n{plain}\n"


def test_foreign_rows(tmp_path: Path) -> None:
    foreign = [
        {"question": ROWS[0]["question"], "options": list(ROWS[0]["options"].values()), "answer": ROWS[0]["answer"]},
        {
            "id": 7,
            "question": ROWS[1]["question"],
            "options": "\n".join(f"{k}. {v}" for k, v in ROWS[1]["options"].items()),
            "answer": ROWS[1]["answer_idx"],
        },
        {
            "id": None,
            "question": "Is it so?",
            "context": {"contexts": ["An abstract.", "More of it."], "labels": ["A", "B"]},
        },
        {"question": "What is the dose of it in renal failure?"},
    ]
    kept, _, _ = run(
        [write(tmp_path / "x.jsonl", foreign)],
        [write(tmp_path / "t.json", [{"question": ROWS[9]["question"]}])],
        tmp_path / "out",
    )
    assert [row["id"] for row in kept] == ["x-1", "7", "x-3", "x-4"] and [row.get("options") for row in kept] == [
        ROWS[0]["options"],
        ROWS[1]["options"],
        None,
        None,
    ]
    assert kept[2]["context"] == ["An abstract.", "More of it."] and kept[0]["answer"] == ROWS[0]["answer"]


def test_a_leak_hidden_under_missing_ids_names_the_row(tmp_path: Path) -> None:
    without = [{k: v for k, v in row.items() if k != "id"} for row in ROWS[:5]]
    _, removals, report = run(
        [write(tmp_path / "x.parquet", without)], [write(tmp_path / "t.jsonl", without[3:4])], tmp_path / "out"
    )
    assert [(r["id"], r["row"], r["match_id"]) for r in removals] == [("x-4", 4, "t-1")] and report["tests"]["t"][
        "items_hit"
    ] == ["t-1"]


def test_earlier_files_win_and_contamination_counts_before_a_repeat(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "grpo.jsonl", ROWS[:4]),
        write(tmp_path / "sft.jsonl", [{**row, "id": f"s-{i}"} for i, row in enumerate(ROWS[2:8])]),
    )
    tests = {
        name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in {"one": ROWS[6:8], "two": ROWS[7:9]}.items()
    }
    curated = curate([first, second], tests, SETTINGS, say=quiet)
    assert [list(kept) for kept in curated.kept] == [[0, 1, 2, 3], [2, 3]] and all(
        kept.dtype == np.int64 for kept in curated.kept
    )
    assert [removal.reasons() for removal in curated.removals] == [
        ["duplicate:exact"],
        ["duplicate:exact"],
        ["contamination:one:exact"],
        ["contamination:one:exact", "contamination:two:exact"],
    ]
    assert (
        curated.report["tests"]["two"]["removed_exact"] == 1
        and curated.report["counts"]["removed"]["contamination:two:exact"] == 0
    )  # counted once, told twice
    curated.write_removals(tmp_path / "removals.jsonl")
    last = lines(tmp_path / "removals.jsonl")[-1]
    assert last["against"] == "one" and [(a["reason"], a["match_id"]) for a in last["also"]] == [
        ("contamination:two:exact", ROWS[7]["id"])
    ]


def test_lengths_need_a_tokenizer_and_a_limit(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl",
        [ROWS[0], {**ROWS[1], "reasoning": "Step 1: nothing. " * 900 + "\nanswer: " + ROWS[1]["answer_idx"]}],
    )

    def count(texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    assert any("context length" in text for text in curate([path], {}, SETTINGS, say=quiet).report["not_checked"])
    curated = curate([path], {}, SETTINGS, count, 500, quiet)
    assert (
        list(curated.kept[0]) == [0]
        and curated.report["quality"]["context_length"] == 1
        and curated.report["settings"]["max_tokens"] == 500
    )
    assert curated.report["not_checked"] == ["contamination: no test set given"]
    curate_command([path], [], tmp_path / "out", SETTINGS, load_recipe("embedded", ["sft.max_length=400"]), quiet)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (
        report["quality"]["context_length"] == 1
        and report["tokenizer"] == "embedded"
        and 300 < report["settings"]["max_tokens"] < 400
    )
    curate_command([path], [], tmp_path / "other", SETTINGS, load_recipe("embedded", ["model.base=some/model"]), quiet)
    assert any(
        "the tokenizer of some/model is not at hand" in text
        for text in json.loads((tmp_path / "other" / "report.json").read_text())["not_checked"]
    )


def cases(folder: Path) -> dict[str, tuple[list[Path], list[Path], str]]:
    good = write(folder / "good.jsonl", ROWS[:3])
    test = write(folder / "test.jsonl", ROWS[3:5])
    (folder / "link.jsonl").symlink_to(good)
    (folder / "cut.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:40] + "\n")
    (folder / "cut.json").write_text(json.dumps(ROWS[:2])[:-60])
    (folder / "unended.json").write_text(json.dumps(ROWS[:2])[:-1])
    (folder / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode())[:-20])
    (folder / "latin.jsonl").write_bytes('{"id": "1", "question": "Ménière?"}\n'.encode("latin-1"))
    (folder / "no.parquet").write_text("no Parquet")
    (folder / "empty.jsonl").write_text("")
    (folder / "empty.json").write_text("[]")
    (folder / "notes.txt").write_text("x")
    (folder / "sub").mkdir()
    (folder / "sub" / "good.jsonl").write_text(json.dumps(ROWS[9]) + "\n")

    def one(name: str, *rows: Any) -> Path:
        return write(folder / f"{name}.jsonl", [ROWS[0], *rows])

    bad = {
        "row 1: question: missing (found: case, reasoning, answer)": write(
            folder / "shape.jsonl", [{"case": "x", "reasoning": "y", "answer": "z"}]
        ),
        "row 2: question: expected text, found int": one("number", {"id": "1", "question": 3}),
        "row 2: question: missing (found: id)": one("none", {"id": "1"}),
        "row 2: expected an object, found list": one("list", [1]),
        f"row 3: id: {ROWS[0]['id']!r} is also row 1": one("ids", ROWS[1], ROWS[0]),
        "row 2: options: expected letters and texts, as": one("options", {"id": "1", "question": "x", "options": 4}),
        "row 2: options: not JSON": one("json", {"id": "1", "question": "x", "options": "{A: x}"}),
        "row 2: reasoning: expected text, found list": one(
            "reasoning", {"id": "1", "question": "x", "reasoning": ["y"]}
        ),
        "row 2: answer_idx: expected the letter of an option, as": one(
            "key", {"id": "1", "question": "x", "options": {"A": "x", "B": "y"}, "answer_idx": 1}
        ),
        "row 2: id: expected text, found float": one("id", {"id": 1.5, "question": "x"}),
        "row 2: context.0: expected text, found int 1": one("context", {"id": "1", "question": "x", "context": [1]}),
        "row 2: not JSON": folder / "cut.jsonl",
        "cut.json: row 2: not JSON": folder / "cut.json",
        "unended.json: row 3: expected one JSON array of objects": folder / "unended.json",
        "lines.json: row 1: expected one JSON array of objects": folder / "lines.json",
        "cut.jsonl.gz: cannot be read": folder / "cut.jsonl.gz",
        "latin.jsonl: cannot be read": folder / "latin.jsonl",
        "not a Parquet file": folder / "no.parquet",
        "empty.jsonl: no items": folder / "empty.jsonl",
        "empty.json: no items": folder / "empty.json",
        "notes.txt: expected a file of items that ends in .jsonl": folder / "notes.txt",
        "none.jsonl.gz: no such file": folder / "none.jsonl.gz",
        "sub: is a folder": folder / "sub",
    }
    return {message: ([path], [test], message) for message, path in bad.items()} | {
        "test": ([good], [one("t-empty", {"id": "1", "question": " "})], "row 2: question: empty"),
        "both": ([good], [good], "is the same file as --train"),
        "link": ([good], [folder / "link.jsonl"], "is the same file as --train"),
        "twice": ([good, good], [test], "is the same file as --train"),
        "names": ([good, folder / "sub" / "good.jsonl"], [test], "has the same name as"),
        "nothing": ([], [test], "--train: give at least one file"),
        "train": ([good], [write(folder / "sub" / "train.jsonl", ROWS[:1])], "a test set cannot be called train"),
    }


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    for name, (train, test, message) in cases(tmp_path).items():
        out = tmp_path / "out" / str(abs(hash(name)))
        with pytest.raises(GazalError) as error:
            curate_command(train, test, out, SETTINGS, None, quiet)
        assert message in str(error.value) and "\n" not in str(error.value), (name, error.value)
        assert not out.exists() or list(out.iterdir()) == [], name


def test_where_out_cannot_be(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", ROWS[:3])
    for out, message in ((good, "is a file, give a folder"), (good / "sub", "cannot be written")):
        with pytest.raises(GazalError, match=message):
            curate_command([good], [], out, SETTINGS, None, quiet)
    own = write(tmp_path / "out" / "train.jsonl", ROWS[:3])
    with pytest.raises(GazalError, match="its train.jsonl is one of the inputs"):
        curate_command([own], [], tmp_path / "out", SETTINGS, None, quiet)
    assert len(lines(own)) == 3


def test_run_again(tmp_path: Path) -> None:
    """Done with the same, refused with others, made again when a result was changed."""
    path, out = write(tmp_path / "x.jsonl", [*ROWS[:5], {**ROWS[0], "id": "again"}]), tmp_path / "out"
    curate_command([path], [], out, SETTINGS, None, quiet)
    before = {name: (out / name).read_bytes() for name in NAMES}
    said: list[str] = []
    curate_command([path], [], out, SETTINGS, None, said.append)
    assert (
        len(said) == 1 and "done already" in said[0] and {name: (out / name).read_bytes() for name in NAMES} == before
    )
    with pytest.raises(GazalError, match="other settings"):
        curate_command([path], [], out, CurationSection(language_min_chars=99), None, quiet)
    (out / "train.jsonl").write_text("changed")
    curate_command([path], [], out, SETTINGS, None, quiet)
    assert (out / "train.jsonl").read_bytes() == before["train.jsonl"]
    write(path, ROWS[:7])
    with pytest.raises(GazalError, match="other inputs"):
        curate_command([path], [], out, SETTINGS, None, quiet)
    (out / "report.json").write_text("{}")
    with pytest.raises(GazalError, match="is no report of a curation"):
        curate_command([path], [], out, SETTINGS, None, quiet)


def test_a_killed_run_leaves_no_half_file_and_can_be_run_again(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.json",
        [
            {**row, "id": f"{row['id']}-{n}", "question": f"{row['question']} Case {n}."}
            for n in range(700)
            for row in ROWS
        ],
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gazal", "curate", "--train", str(path), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.time() + 60
    while not list(out.glob(".work.*/.1.jsonl*")) and time.time() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (
        process.returncode == -signal.SIGKILL
        and list(out.glob(".work.*"))
        and not any((out / name).exists() for name in NAMES)
    )
    write(path, [*ROWS[:5], {**ROWS[0], "id": "again"}])
    kept, removals, _ = run([path], [], out)
    assert len(kept) == 5 and len(removals) == 1 and sorted(p.name for p in out.iterdir()) == sorted(NAMES)


@pytest.mark.slow
def test_a_large_array_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    with open(path, "w", encoding="utf-8") as handle:
        handle.write("[")
        for n in range(30_000):
            handle.write(("," if n else "") + json.dumps({"id": str(n), "question": "é" * 500 + "?"}))
        handle.write("]\n")
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000 and path.stat().st_size > 80 << 20 and peak < 24 << 20


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"question": st.text(max_size=30)},
            optional={
                "x": st.recursive(
                    st.none() | st.text(max_size=5) | st.floats(allow_nan=False),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=5,
                )
            },
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
)
def test_any_array_is_read_whatever_the_chunk(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], chunk: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gazal.items.reading.CHUNK", chunk)
        assert [row for _, row in read_rows(path)] == rows


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["good", "again", "empty", "no_answer", "unsupported"]), min_size=1, max_size=20))
def test_every_row_is_kept_or_removed_once(tmp_path_factory: pytest.TempPathFactory, plan: list[str]) -> None:
    folder, rows = tmp_path_factory.mktemp("plan"), []
    for n, what in enumerate(plan):
        row = {**ROWS[n if what != "again" else 0], "id": str(n)}
        other = next(letter for letter in row["options"] if letter != row["answer_idx"])
        rows.append(
            row
            | {"empty": {"question": ""}, "no_answer": {"answer_idx": "J"}, "unsupported": {"answer_idx": other}}.get(
                what, {}
            )
        )
    curated = curate([write(folder / "x.jsonl", rows)], {}, SETTINGS, say=quiet)
    counts = curated.report["counts"]
    kept = [
        n
        for n, what in enumerate(plan)
        if what == "good"
        or (
            what == "again"
            and (n == 0 or not any(p == "again" or (p == "good" and m == 0) for m, p in enumerate(plan[:n])))
        )
    ]
    assert list(curated.kept[0]) == kept and counts["read"] == len(plan) and counts["kept"] == len(kept)
    assert sum(counts["removed"].values()) == len(curated.removals) == len(plan) - len(kept)
    assert all(curated.report["quality"][what] == plan.count(what) for what in ("empty", "no_answer", "unsupported"))


def test_a_clean_row_is_the_row_itself() -> None:
    assert all(clean_row(Path("x.jsonl"), 1, row) is row for row in ROWS)
    assert all(
        Item.model_validate(clean_row(Path("x.jsonl"), 1, {**row, "options": json.dumps(row["options"])}))
        for row in ROWS
    )
