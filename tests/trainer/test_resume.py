"""SIGKILL at any moment, then the same stage again: what it leaves is, byte for byte, what an uninterrupted run leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.resume import kill_anywhere, left

from gazal.common.errors import GazalError
from gazal.common.files import atomic_folder, remove_stale, write_json
from gazal.common.locks import only_one
from gazal.items.reading import read_items
from gazal.items.writing import write_items_parquet
from gazal.recipe.recipe import Recipe
from gazal.runs import CHECKPOINTS, RunFolder
from gazal.trainer.checkpoints import EXTRA, KEPT, WHOLE, checkpoints, is_whole, newest_whole, seal


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "eval"])
def test_killed_anywhere_a_stage_ends_in_the_same_bytes(whole, stage, tmp_path):
    kill_anywhere(whole, stage, tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


SPOILS: dict[str, Callable[[Path], None]] = {
    "a truncated file": lambda c: truncate(c / "optimizer.pt"),
    "other bytes": lambda c: (c / "scheduler.pt").write_bytes(b"0" * (c / "scheduler.pt").stat().st_size),
    "a missing file": lambda c: (c / "adapter_model.safetensors").unlink(),
    "a missing list": lambda c: (c / WHOLE).unlink(),
    "an empty list": lambda c: (c / WHOLE).write_text("{}"),
    "a cut list": lambda c: truncate(c / WHOLE),
}


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_torn_checkpoint_is_recognised(whole, spoil, tmp_path):
    folder = whole.cut_sft(tmp_path / "run") / "sft" / CHECKPOINTS
    newest, before = checkpoints(folder)
    assert [c.name for c in (newest, before)] == ["checkpoint-6", "checkpoint-5"] and is_whole(newest) and KEPT == 2
    made_from = json.loads((newest / EXTRA).read_text())["made_from"]
    spoil(newest)
    lines: list[str] = []
    assert newest_whole(folder, made_from, lines.append) == before and not newest.exists()
    assert lines == ["checkpoint-6 is torn: not used"]
    spoil(before)
    assert newest_whole(folder, made_from, lines.append) is None and not checkpoints(folder)


@pytest.mark.slow
def test_the_checkpoint_before_a_torn_one_gives_the_same_bytes(whole, tmp_path):
    path = whole.cut_sft(tmp_path / "run")
    truncate(path / "sft" / CHECKPOINTS / "checkpoint-6" / "adapter_model.safetensors")
    (path / "sft" / CHECKPOINTS / ".staging" / "checkpoint-6").mkdir(
        parents=True
    )  # what a kill while it was written leaves
    said = whole.finish("sft", path)
    assert "checkpoint-6 is torn: not used" in said and "goes on from checkpoint-5" in said
    assert left(path, "sft") == left(whole.run, "sft")


@pytest.mark.slow
def test_from_the_last_steps_checkpoint_nothing_is_trained(whole, tmp_path):
    path = whole.cut_sft(tmp_path / "run")
    said = whole.finish("sft", path)
    assert "goes on from checkpoint-6" in said and not any(line.startswith("step ") for line in said)
    assert left(path, "sft") == left(whole.run, "sft")
    # The manifest is there, so the next run of the stage is meant: it begins anew.
    path.with_suffix(".log").unlink()
    assert not any("goes on" in line for line in whole.finish("sft", path))


@pytest.mark.slow
def test_checkpoints_of_other_data_are_not_used(whole, tmp_path):
    path = whole.cut_sft(tmp_path / "run")
    items = read_items(path / "data" / "sft.parquet", training=True)
    write_items_parquet(path / "data" / "sft.parquet", items[::-1])
    said = whole.finish("sft", path)
    assert said[:2] == [
        f"checkpoint-{n} was made from other data, another model or other settings: not used" for n in (6, 5)
    ]
    assert (
        left(path, "sft")["sft/adapter/adapter_model.safetensors"]
        != left(whole.run, "sft")["sft/adapter/adapter_model.safetensors"]
    )


def test_the_next_stage_removes_checkpoints_and_stale_files(tmp_path):
    run = RunFolder(tmp_path / "run", Recipe())
    with run.stage("sft") as folder:
        (folder / CHECKPOINTS).mkdir()
        (folder / CHECKPOINTS / "big").write_text("x")
        (folder / "out").write_text("x")
    assert (
        json.loads((folder / "manifest.json").read_text())["outputs"].keys() == {"out"}
        and (folder / CHECKPOINTS / "big").exists()
    )
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (run.path / "tables").mkdir()
    (run.path / "tables" / f".a.md.{dead.pid}.tmp").write_text("half")
    (folder / f".merged.{dead.pid}.tmp").mkdir()
    with run.stage("grpo", parents=["sft"]):
        assert not (folder / CHECKPOINTS).exists() and not list(run.path.rglob("*.tmp"))


def test_what_living_processes_write_is_left_alone(tmp_path):
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "x").write_text("1")
        remove_stale(tmp_path)
        assert (temporary / "x").exists() and not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "x").read_text() == "1"
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "x").write_text("2")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "x").read_text() == "1"


def test_a_sealed_checkpoint_lists_every_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_text("a")
    write_json(tmp_path / EXTRA, {"made_from": "x"})
    seal(tmp_path)
    assert json.loads((tmp_path / WHOLE).read_text()).keys() == {"deep/a", EXTRA} and is_whole(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from gazal.common.locks import only_one
with only_one(Path(sys.argv[1]), "stage sft"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_write_one_run_folder(tmp_path):
    lock = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    lines: list[str] = []
    with (
        pytest.raises(
            GazalError,
            match=rf"process {holder.pid} \(stage sft\) is at work there; stage grpo can begin when that ends",
        ),
        only_one(lock, "stage grpo", 0.5, lines.append),
    ):
        pytest.fail("both have the lock")
    assert lines == [
        f"process {holder.pid} (stage sft) is still at work in this run folder: waiting up to 0 s for it to end"
    ]
    holder.kill()  # a killed holder leaves no lock behind
    holder.wait()
    with only_one(lock, "stage grpo", 0.0, lines.append):
        assert lock.read_text().endswith("(stage grpo)")


def test_a_stage_waits_for_an_orphan_to_end(tmp_path):
    run = RunFolder(tmp_path, Recipe())
    orphan = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("60", "1"), str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert orphan.stdout.readline() == "held\n"
    with run.stage("data") as folder:
        (folder / "out").write_text("x")
    assert orphan.wait() == 0 and run.done("data")
