"""Files are written whole or not at all, and unreadable ones are one line."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, read_jsonl, sha256, write_json


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_error_is_always_one_line() -> None:
    assert str(GazalError("a\n  b\tc\r\n")) == "a b c"


@pytest.mark.parametrize(("mode", "content"), [("w", "häé\n"), ("wb", b"\x00\xff")])
def test_atomic_write_makes_folders_and_leaves_one_file(tmp_path: Path, mode: str, content: str | bytes) -> None:
    target = tmp_path / "new" / "deep" / "file.txt"
    with atomic_write(target, mode) as handle:
        handle.write(content)
        assert not target.exists()
    assert target.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert everything(tmp_path) == ["new", "new/deep", "new/deep/file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GazalError])
def test_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as handle:
        handle.write("half of the n")
        handle.flush()
        raise error("stopped")
    assert everything(tmp_path) == ["file.txt"] and target.read_text() == "old"


def test_write_json_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"fine": [1] * 10_000, "not json": object()})
    assert everything(tmp_path) == []


def test_write_json_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ä": [1, None, 0.5]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ä": [1, None, 0.5]} and text.endswith("}\n") and "ä" in text


# Whoever runs the tests may be root, for whom permission bits do not count: these places refuse anybody.
@pytest.mark.parametrize("place", ["file/x.json", "file/deep/x.json", "folder"])
def test_place_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    before = everything(tmp_path)
    with pytest.raises(GazalError, match="cannot be written") as caught:
        write_json(tmp_path / place, {})
    assert place in str(caught.value) and everything(tmp_path) == before


def test_place_that_the_system_refuses_is_one_line() -> None:
    with pytest.raises(GazalError, match="cannot be written"):
        write_json("/proc/no-file-can-be-made-here.json", {})


@settings(max_examples=50)
@given(
    st.lists(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=4), max_size=6),
    st.booleans(),
)
def test_read_jsonl_reads_what_was_written(tmp_path_factory, rows: list[dict], zipped: bool) -> None:
    path = tmp_path_factory.getbasetemp() / ("rows.jsonl.gz" if zipped else "rows.jsonl")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if _encodable(row))
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert [row for _, row in read_jsonl(path)] == [row for row in rows if _encodable(row)]


def _encodable(row: dict) -> bool:
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in json.dumps(row, ensure_ascii=False))


def test_read_jsonl_counts_rows_from_one_and_blank_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"a": 1', "not JSON"), ("[1]", "expected an object"), ("nul", "not JSON"), ('"text"', "expected an object")],
)
def test_read_jsonl_names_file_and_row(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(GazalError, match=said) as caught:
        list(read_jsonl(path))
    assert "x.jsonl: row 2:" in str(caught.value)


def _damaged() -> dict[str, bytes]:
    packed = gzip.compress(
        "\n".join(json.dumps({"id": i, "text": hashlib.sha256(bytes([i])).hexdigest()}) for i in range(200)).encode()
    )
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 0xFF
    return {
        "cut.jsonl.gz": packed[:-20],
        "flipped.jsonl.gz": bytes(flipped),
        "block.jsonl.gz": packed[:10] + b"\x07" + packed[11:],
        "plain.jsonl.gz": b"{}",
        "latin.jsonl": b'{"a": "\xe9"}',
        "bytes.jsonl": b"\xff\xfe{",
    }


@pytest.mark.parametrize("name", list(_damaged()))
def test_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_damaged()[name])
    with pytest.raises(GazalError, match=name):
        list(read_jsonl(tmp_path / name))


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz", "."])
def test_missing_file_or_folder_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(GazalError, match="no such file|cannot be read"):
        list(read_jsonl(tmp_path / name))


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_name_too_long_for_the_disk_is_one_line(tmp_path):
    with (
        pytest.raises(GazalError, match=r"cannot be written \(File name too long\)"),
        atomic_write(tmp_path / ("n" * 250)),
    ):
        pass
    assert not list(tmp_path.iterdir())
