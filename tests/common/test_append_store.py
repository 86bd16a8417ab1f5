"""The append store: whole batches, whatever a kill cut; one process; damage refused."""

from __future__ import annotations

import errno
import fcntl

import pytest

from gazal.common.append_store import AppendStore
from gazal.common.errors import GazalError

BATCHES = [[{"n": 0}, ["half a pair: \ud800", ",\n"], 2.5], [], [{"n": 1, "text": "é\u2028"}], [None, "x,"]]


def fill(path, **options):
    store, places = AppendStore(path, lambda place, row: None, **options), []
    for batch in BATCHES:
        places += store.append(batch)
    store.close()
    return places


def load(path):
    """Rows and places of a file, what was torn off it, and each row as it is read again."""
    found = []
    store = AppendStore(path, lambda place, row: found.append((place, row)))
    again = [store.read(place) for place, _ in found]
    store.close()
    return [row for _, row in found], [place for place, _ in found], store.torn, again


@pytest.mark.parametrize("strict", [False, True])
def test_rows_come_back_in_order_at_their_places(tmp_path, strict):
    path, rows = tmp_path / "folder" / "rows.jsonl", [row for batch in BATCHES for row in batch]
    places = fill(path, strict=strict)
    assert load(path) == (rows, places, b"", rows)


def test_cut_anywhere_whole_batches_stay_and_the_rest_is_torn_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    fill(path)
    whole, ends = path.read_bytes(), [0]
    for batch in filter(None, BATCHES):
        ends.append(whole.index(b"\n", ends[-1]) + 1)
        for _ in batch[1:]:
            ends[-1] = whole.index(b"\n", ends[-1]) + 1
    assert ends[-1] == len(whole) and len(ends) == 4
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = max(end for end in ends if end <= cut)
        rows, _, torn, again = load(path)
        assert rows == again == [row for batch in list(filter(None, BATCHES))[: ends.index(kept)] for row in batch]
        assert torn == whole[kept:cut] and (path.read_bytes() if kept else b"") == whole[:kept]
        assert path.exists() == bool(kept)  # a file without a row goes


def test_a_new_file_begins_with_its_first_row_and_an_old_one_does_not(tmp_path):
    for _ in range(2):
        AppendStore(tmp_path / "rows.jsonl", lambda place, row: None, first={"of": "me"}).close()
    assert load(tmp_path / "rows.jsonl")[0] == [{"of": "me"}]


@pytest.mark.parametrize("damage", [b"{]", b"", b"\0\0", b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_damage_before_the_end_is_one_line_and_nothing_changes(tmp_path, damage):
    path = tmp_path / "rows.jsonl"
    fill(path)
    path.write_bytes(path.read_bytes() + damage + b"\n[1]\n[1")
    before = path.read_bytes()
    for _ in range(2):  # the first try does not hold the file
        with pytest.raises(GazalError, match=r"rows.jsonl: row 7: not as written here \(.*; remove it and all after"):
            load(path)
    assert path.read_bytes() == before
    path.write_bytes(before.splitlines(keepends=True)[0])
    assert load(path)[0] == []  # as advised, within a batch


def test_a_row_that_its_owner_cannot_use_is_named_within_its_batch(tmp_path):
    def take(place, row):
        row["n"]

    fill(tmp_path / "rows.jsonl")
    with pytest.raises(GazalError, match=r"rows.jsonl: row 2: not as written here \(TypeError"):
        AppendStore(tmp_path / "rows.jsonl", take)


def test_one_process_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    store = AppendStore(path, lambda place, row: None)
    with pytest.raises(GazalError, match="rows.jsonl: another process is at work there"):
        load(path)
    store.close()
    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (path.unlink(), lock(file, how)))
    with pytest.raises(GazalError, match="rows.jsonl: another process is at work there"):
        load(path)  # the file that it opened is gone


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    fill(tmp_path / "rows.jsonl")
    with pytest.raises(GazalError, match=r"rows.jsonl: cannot be written \(No locks available\)"):
        fill(tmp_path / "rows.jsonl", strict=True)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GazalError, match=r"rows.jsonl: cannot be written \(File exists\)"):
        fill(tmp_path / "file" / "rows.jsonl")
