"""The item schema: what is refused, and that nothing is lost on the way to a file and back."""

import gzip
import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages, completion_text, question_text
from gazal.items.reading import read_items
from gazal.items.schema import LETTERS, Item, TrainingExample
from gazal.items.types import REASONING_TYPES
from gazal.items.writing import write_items_jsonl, write_items_parquet

GOOD = {"id": "a1", "question": "Which?", "options": {"A": "one", "B": "two", "C": "three"}, "answer_idx": "B"}
# Surrogates are no text that UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@st.composite
def one_item(draw: st.DrawFn, number: int = 0) -> Item:
    letters = LETTERS[: draw(st.integers(2, 10))]
    optional = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "context": st.lists(TEXT, min_size=1, max_size=3),
                "answer": TEXT,
                "reasoning_type": st.sampled_from(REASONING_TYPES),
                "subject": TEXT,
                "source": TEXT,
                "reasoning": TEXT,
                "bucket": st.integers(0, 99),
                "note": TEXT,
            },
        )
    )
    return Item(
        id=f"{number}-{draw(TEXT)}",
        question=draw(TEXT.filter(str.strip)),
        options={letter: draw(TEXT.filter(str.strip)) for letter in letters},
        answer_idx=draw(st.sampled_from(letters)),
        **optional,
    )


@st.composite
def some_items(draw: st.DrawFn) -> list[Item]:
    return [draw(one_item(number)) for number in range(draw(st.integers(1, 4)))]


def write_rows(path: Path, *rows: object) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(GazalError) as caught:
        read_items(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


def options(n: int) -> dict[str, str]:
    return {letter: f"option {letter}" for letter in "ABCDEFGHIJK"[:n]}


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer_idx": "D"}, "answer_idx"),
        ({"answer_idx": "two"}, "answer_idx"),
        ({"answer_idx": "b"}, "answer_idx"),
        ({"answer_idx": None}, "answer_idx"),
        ({"options": options(1), "answer_idx": "A"}, "options"),
        ({"options": {}}, "options"),
        ({"options": options(11)}, "options"),
        ({"options": {"A": "x", "C": "y"}, "answer_idx": "A"}, "options"),
        ({"options": ["x", "y"]}, "options"),
        ({"options": {"A": "x", "B": 2}}, "options.B"),
        ({"question": ""}, "question"),
        ({"question": " \n "}, "question"),
        ({"question": 5}, "question"),
        ({"id": 7}, "id"),
        ({"id": "a1"}, "id"),
        ({"id": " "}, "id"),
        ({"context": "one text"}, "context"),
        ({"reasoning_type": "guess"}, "reasoning_type"),
        ({"answer_idx": 1}, "answer_idx"),
        ({"answer_idx": "B "}, "answer_idx"),
        ({"options": {"A": "x", "B": " "}}, "options.B"),
        ({"options": {"A": "x", "B": None}}, "options.B"),
        ({"options": "A. x"}, "options"),
        ({"options": None}, "options"),
        ({"options": {"a": "x", "b": "y"}, "answer_idx": "a"}, "options"),
        ({"options": {"B": "x", "A": "y"}}, "options"),
        ({"year": float("nan")}, "year"),
        ({"subject": float("nan")}, "subject"),
        ({"note": {"deep": [float("inf")]}}, "note"),
        ({"question": "\ud800"}, "question"),
        ({"\ud800": 1}, "?"),
    ],
)
def test_bad_item_names_file_row_and_field(tmp_path: Path, name: str, change: dict, field: str) -> None:
    message = refusal(write_rows(tmp_path / name, GOOD, GOOD | {"id": "a2"} | change))
    assert f"{name}: row 2: {field}:" in message
    assert message.encode()


@pytest.mark.parametrize("field", ["id", "question", "options", "answer_idx"])
def test_missing_field_is_named(tmp_path: Path, field: str) -> None:
    row = {key: value for key, value in GOOD.items() if key != field}
    assert f"row 1: {field}:" in refusal(write_rows(tmp_path / "items.jsonl", row))


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_cut_line_names_its_row(tmp_path: Path, name: str) -> None:
    assert f"{name}: row 3: not JSON" in refusal(write_rows(tmp_path / name, GOOD, "", json.dumps(GOOD)[:-9]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": 7}, "id: expected text, found int 7"),
        ({"answer_idx": 1}, 'answer_idx: expected the letter of an option, as "B", found int 1'),
        ({"answer_idx": "b"}, "answer_idx: 'b' is not among the options A, B, C"),
        (
            {"options": ["x", "y"]},
            'options: expected letters and texts, as {"A": "…", "B": "…"}, found list [\'x\', \'y\']',
        ),
        ({"options": {"A": "x", "B": None}}, "options.B: expected text, found null"),
        ({"options": {"B": "x", "A": "y"}}, "options: expected the letters A to B in order, found B, A"),
        ({"context": "one"}, "context: expected a list of texts, found str 'one'"),
        (
            {"reasoning_type": "guess"},
            "reasoning_type: expected one of diagnosis, uncertainty, treatment, prognosis, found str 'guess'",
        ),
        ({"year": float("nan")}, "year: nan is no JSON value; leave the field out"),
        ({"question": "\ud800"}, "question: '\\ud800' is half a surrogate pair, no text"),
    ],
)
def test_a_refusal_says_what_is_expected_and_what_was_found(tmp_path: Path, change: dict, said: str) -> None:
    assert refusal(write_rows(tmp_path / "items.jsonl", GOOD | change)).endswith(f"items.jsonl: row 1: {said}")


def test_a_missing_field_says_what_is_there(tmp_path: Path) -> None:
    row = {"id": "a", "question": "?", "choices": ["x", "y"], "answer": "x"}
    assert refusal(write_rows(tmp_path / "items.jsonl", row)).endswith(
        "row 1: options: missing (found: id, question, choices, answer)"
    )


@pytest.mark.parametrize("name", ["items.json", "items.json.gz"])
def test_a_json_array_is_read_and_its_bad_rows_are_named(tmp_path: Path, name: str) -> None:
    rows = [GOOD, GOOD | {"id": "a2", "subject": "Ätiologie 癌"}]
    (one, two) = read_items(write_rows(tmp_path / name, json.dumps(rows, indent=1, ensure_ascii=False)))
    assert (one.id, two.subject) == ("a1", "Ätiologie 癌")
    assert "row 2: answer_idx: 'Z' is not among" in refusal(
        write_rows(tmp_path / name, json.dumps([GOOD, GOOD | {"id": "b", "answer_idx": "Z"}]))
    )
    assert "row 2: expected an object, found str" in refusal(write_rows(tmp_path / name, json.dumps([GOOD, "text"])))
    array = "expected one JSON array of objects; JSON lines end in .jsonl"
    good = json.dumps(GOOD)
    for text in (good, f"{good}\n{good}", "", f"[{good}", f"{good}]", f"[{good},]", f"[{good}]]", f"[[{good}]]", "[]]"):
        assert array in refusal(write_rows(tmp_path / name, text))
    assert f"row 2: {array}" in refusal(write_rows(tmp_path / name, f"[{good} {good}]"))
    assert "row 2: not JSON" in refusal(write_rows(tmp_path / name, f"[{good}, {good[:-9]}"))
    assert f"row 2: {array}" in refusal(write_rows(tmp_path / name, f"[{good}] x"))
    assert "no items" in refusal(write_rows(tmp_path / name, "[]"))
    assert "no such file" in refusal(tmp_path / f"other-{name}")


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz", "items.json", "items.json.gz"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"B": "two"', '"B": "two", "B": "three"'),
        ('"answer_idx": "B"', '"answer_idx": "B", "answer_idx": "A"'),
        ('"id": "a1"', '"id": "a1", "note": {"x": [{"y": 1, "y": 1}]}'),
    ],
)
def test_a_key_that_is_there_twice_is_refused_by_row(tmp_path: Path, name: str, old: str, new: str) -> None:
    first, second = json.dumps(GOOD | {"id": "a0"}), json.dumps(GOOD)
    assert old in second
    rows = [first, second.replace(old, new)]
    text = f"[{', '.join(rows)}]" if ".json" in name and ".jsonl" not in name else "\n".join(rows)
    key = new.rpartition(": ")[0].rpartition(", ")[2].strip('"')
    assert refusal(write_rows(tmp_path / name, text)).endswith(
        f"{name}: row 2: key {key!r} is there twice in one object"
    )


def test_a_letter_twice_in_the_json_text_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    row = GOOD | {"options": '{"A": "one", "B": "two", "B": "three"}'}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "items.parquet")
    assert refusal(tmp_path / "items.parquet").endswith("row 1: options: key 'B' is there twice in one object")


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz", "items.json"])
def test_encodings(tmp_path: Path, name: str) -> None:
    def write(data: bytes) -> Path:
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    row = json.dumps(GOOD | {"question": "Wozu dient Thyroxin, später?"}, ensure_ascii=False)
    text = f"[{row}]" if name.endswith(".json") else f"{row}\r\n\r\n"
    assert (
        read_items(write(text.encode("utf-8-sig")))[0].question
        == read_items(write(text.encode()))[0].question
        == "Wozu dient Thyroxin, später?"
    )
    for encoding in ("latin-1", "utf-16"):
        assert "cannot be read" in refusal(write(text.encode(encoding)))
    if not name.endswith(".json"):
        assert "cannot be read (row 2: byte 0xe4 at column 50 is not UTF-8)" in refusal(
            write(json.dumps(GOOD).encode() + b"\n" + row.encode("latin-1"))
        )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b"", "no items"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "no items"),
        ("x.jsonl.gz", b"", "no items"),
        ("x.jsonl.gz", json.dumps(GOOD).encode(), "cannot be read (Not a gzipped file"),
        ("x.json.gz", json.dumps([GOOD]).encode(), "cannot be read (Not a gzipped file"),
        ("x.jsonl.gz", gzip.compress(b"{" * 99, mtime=0)[:-9], "cannot be read"),
        (
            "x.jsonl",
            gzip.compress(json.dumps(GOOD).encode(), mtime=0),
            "cannot be read (row 1: byte 0x8b at column 2 is not UTF-8)",
        ),
        ("x.jsonl", json.dumps([GOOD]).encode(), "row 1: expected an object, found list"),
        ("x.jsonl", b'{"id": ' + b"[" * 100_000, "row 1: not JSON"),
        ("x.json", b"[" * 100_000, "row 1: expected one JSON array"),
        ("x.json", b'[{"id": ' + b"[" * 100_000, "row 1: not JSON"),
        ("x.json", b'[{"id": ' + b"1" * 5000 + b"}]", "row 1: not JSON"),
        ("x.jsonl", b'{"id": ' + b"1" * 5000 + b"}", "row 1: not JSON that can be read"),
        (
            "x.csv",
            b"id,question\n",
            "expected a file of items that ends in .jsonl, .jsonl.gz, .json, .json.gz, .parquet",
        ),
        ("x", b"{}", "expected a file of items that ends in"),
    ],
)
def test_files_that_are_no_items_files(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_a_folder_is_no_items_file(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").mkdir()
    assert "is a folder" in refusal(tmp_path / "items.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_file_without_ids_is_named_by_its_rows_where_that_is_allowed(tmp_path: Path, name: str) -> None:
    def write(*rows: dict) -> Path:
        if name.endswith("jsonl"):
            return write_rows(tmp_path / name, *rows)
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / name)
        return tmp_path / name

    bare = {key: value for key, value in GOOD.items() if key != "id"}
    for rows in ([bare, bare], [bare | {"id": None}] * 2):
        assert [item.id for item in read_items(write(*rows), ids=False)] == ["row-1", "row-2"]
    assert "row 1: id: " in refusal(write(bare, bare))
    assert [item.id for item in read_items(write(GOOD), ids=False)] == ["a1"]
    for rows, what in ([bare | {"id": None}, bare | {"id": "a"}], "there"), ([GOOD, bare | {"id": None}], "missing"):
        with pytest.raises(
            GazalError, match=f"{name}: row 2: id: {what}, unlike in the rows before; give one to every row, or to none"
        ):
            read_items(write(*rows), ids=False)


def test_parquet_of_other_makers(tmp_path: Path) -> None:
    """Options as a column of letters, where Arrow fills the missing ones with null; a date is no JSON value."""
    rows = [GOOD, GOOD | {"id": "a2", "options": options(5)}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    assert [list(item.options) for item in read_items(tmp_path / "items.parquet")] == [
        ["A", "B", "C"],
        ["A", "B", "C", "D", "E"],
    ]
    pq.write_table(pa.Table.from_pylist([row | {"seen": date(2024, 1, 2)} for row in rows]), tmp_path / "items.parquet")
    assert "row 1: seen: date is no JSON value; make it text, or leave the field out" in refusal(
        tmp_path / "items.parquet"
    )
    maps = pa.array([[*options(n).items()] for n in (3, 5)], pa.map_(pa.string(), pa.string()))
    plain = pa.table(
        {"id": ["a1", "a2"], "question": pa.array(["Which?"] * 2).dictionary_encode(), "answer_idx": ["B", "E"]}
    )
    pq.write_table(plain.append_column("options", maps), tmp_path / "items.parquet")
    assert [item.options for item in read_items(tmp_path / "items.parquet")] == [options(3), options(5)]
    pq.write_table(
        plain.append_column("options", pa.array([[("A", "x"), ("A", "y")]] * 2, maps.type)), tmp_path / "items.parquet"
    )
    assert "not a Parquet file of items" in refusal(tmp_path / "items.parquet")


def test_parquet_text_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"id": ["a"], "question": bad}), tmp_path / "items.parquet")
    assert "not a Parquet file of items ('utf-8' codec can't decode byte 0xff" in refusal(tmp_path / "items.parquet")


def test_duplicate_id_names_both_rows(tmp_path: Path) -> None:
    message = refusal(write_rows(tmp_path / "items.jsonl", GOOD, GOOD | {"id": "other"}, GOOD))
    assert "row 3: id: 'a1'" in message and "row 1" in message


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz", "items.parquet"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    assert "no such file" in refusal(tmp_path / name)


def test_file_without_items_is_refused(tmp_path: Path) -> None:
    assert "no items" in refusal(write_rows(tmp_path / "items.jsonl", "", ""))
    write_items_parquet(tmp_path / "items.parquet", [])
    assert "no items" in refusal(tmp_path / "items.parquet")


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    assert "Parquet" in refusal(write_rows(tmp_path / "items.parquet", GOOD))


@pytest.mark.parametrize(
    "change", [{"options": '{"A": "x", "B'}, {"options": '{"A": "x"}'}, {"answer_idx": "Z"}, {"options": "[1]"}]
)
def test_bad_item_in_parquet_names_row_and_field(tmp_path: Path, change: dict) -> None:
    rows = [
        GOOD | {"options": json.dumps(GOOD["options"])},
        GOOD | {"id": "a2", "options": json.dumps(GOOD["options"])} | change,
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    assert f"row 2: {next(iter(change))}" in refusal(tmp_path / "items.parquet")


@pytest.mark.parametrize("n", [2, 10])
def test_two_to_ten_options_and_unknown_keys_are_kept(tmp_path: Path, n: int) -> None:
    row = GOOD | {"options": options(n), "answer_idx": "ABCDEFGHIJ"[n - 1], "year": 2020}
    (item,) = read_items(write_rows(tmp_path / "items.jsonl.gz", row))
    assert item.model_dump(exclude_none=True) == row


@settings(max_examples=40)
@given(items=some_items())
def test_json_lines_round_trip(tmp_path_factory, items: list[Item]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    assert write_items_jsonl(path, items) == len(items)
    assert read_items(path) == items


@settings(max_examples=40)
@given(items=some_items())
def test_parquet_round_trip_keeps_every_column(tmp_path_factory, items: list[Item]) -> None:
    """Also columns that the first item does not have."""
    path = tmp_path_factory.getbasetemp() / "round.parquet"
    write_items_parquet(path, items)
    assert [item.model_dump(exclude_none=True) for item in read_items(path)] == [
        item.model_dump(exclude_none=True) for item in items
    ]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def cut():
        yield Item(**GOOD)
        raise GazalError("the source broke")

    for write, name in ((write_items_jsonl, "x.jsonl"), (write_items_parquet, "x.parquet")):
        with pytest.raises(GazalError):
            write(tmp_path / name, cut())
    assert not list(tmp_path.iterdir())


@settings(max_examples=40)
@given(item=one_item())
def test_prompt_shows_everything_but_the_key(item: Item) -> None:
    system, user = build_messages(item, "Be careful.")
    assert (system["role"], user["role"], system["content"]) == ("system", "user", "Be careful.")
    assert build_messages(item, "") == [user] and user["content"] == question_text(item)
    for text in [
        *(item.context or []),
        item.question,
        *(f"{letter}. {option}" for letter, option in item.options.items()),
    ]:
        assert text in user["content"]
    other = next(letter for letter in item.options if letter != item.answer_idx)
    assert (
        question_text(item.model_copy(update={"answer_idx": other, "reasoning": "x", "answer": "y"})) == user["content"]
    )


@settings(max_examples=40)
@given(item=one_item())
def test_completion_ends_with_the_key_and_its_text(item: Item) -> None:
    text = completion_text(item, "Step 1: so.")
    assert text.startswith("<think>\nStep 1: so.\n</think>\n\n## Clinical Assessment\n")
    assert text.endswith(f"**Answer:** {item.answer_idx}")


def test_an_item_with_a_foreign_key_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="answer_idx"):
        Item(**GOOD | {"answer_idx": "E"})


# --- free-text training examples

FREE = {"id": "f1", "question": "Why?", "reasoning": "Because.", "response": "It is so."}


@pytest.mark.parametrize("name", ["mixed.jsonl", "mixed.parquet"])
def test_free_text_and_multiple_choice_round_trip_together(tmp_path: Path, name: str) -> None:
    items = [TrainingExample(**FREE), Item(**GOOD | {"reasoning": "So."}), TrainingExample(**FREE | {"id": "f2"})]
    (write_items_parquet if name.endswith("parquet") else write_items_jsonl)(tmp_path / name, items)
    again = read_items(tmp_path / name, training=True)
    assert [type(item) for item in again] == [TrainingExample, Item, TrainingExample]
    assert [item.model_dump(exclude_none=True) for item in again] == [
        FREE,
        items[1].model_dump(exclude_none=True),
        FREE | {"id": "f2"},
    ]
    assert "row 1: options:" in refusal(tmp_path / name), "a question without options is no test item"


def test_free_text_prompt_and_completion() -> None:
    example = TrainingExample(**FREE)
    assert (
        question_text(example) == "Why?"
        and completion_text(example, example.reasoning) == "<think>\nBecause.\n</think>\n\nIt is so."
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"question": " "}, "question"),
        ({"reasoning": ""}, "reasoning"),
        ({"reasoning": None}, "reasoning"),
        ({"response": "\n"}, "response"),
    ],
)
def test_bad_free_text_names_row_and_field(tmp_path: Path, change: dict, field: str) -> None:
    with pytest.raises(GazalError, match=f"row 2: {field}:"):
        read_items(write_rows(tmp_path / "items.jsonl", FREE, FREE | {"id": "f2"} | change), training=True)
