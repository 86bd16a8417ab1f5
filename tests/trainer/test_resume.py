"""SIGKILL at any moment, then the same stage again: what it leaves is, byte for byte, what an uninterrupted run leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.resume_stages import PARENTS, run_stage

from gazal.common.errors import GazalError
from gazal.common.files import atomic_folder, remove_stale, sha256, write_json
from gazal.common.locks import only_one
from gazal.items.reading import read_items
from gazal.items.writing import write_items_jsonl, write_items_parquet
from gazal.knowledge.generate import synthesize
from gazal.recipe.recipe import Recipe
from gazal.runs import CHECKPOINTS, RunFolder
from gazal.trainer.checkpoints import EXTRA, KEPT, WHOLE, checkpoints, is_whole, newest_whole, seal
from gazal.trainer.metrics import TIMES

KILLS, CHAIN = 20, 4  # kills a stage; of one run folder, before it may end


@dataclass
class Whole:
    """A run that nobody interrupted, made as far as asked for; per stage its seconds and its changes of the file system. ``checkpoints`` are those of SFT."""

    run: Path
    recipe: Recipe
    start: Callable[..., multiprocessing.Process]
    checkpoints: Path
    seconds: dict[str, float] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)

    def before(self, stage: str, path: Path) -> Path:
        """A copy of the run as it was before ``stage``, which the run itself has had."""
        stages = list(PARENTS)[: list(PARENTS).index(stage) + 1]
        for name in stages[len(self.seconds) :]:
            began = time.monotonic()
            self.changes[name] = int(self.finish(name, self.run)[-1])
            self.seconds[name] = time.monotonic() - began
            if name == "sft":
                shutil.copytree(self.run / name / CHECKPOINTS, self.checkpoints)
        path.mkdir(parents=True)
        shutil.copy(self.run / "recipe.yaml", path)
        for name in stages[:-1]:
            shutil.copytree(self.run / name, path / name, ignore=shutil.ignore_patterns(CHECKPOINTS))
        return path

    def cut_sft(self, path: Path) -> Path:
        """A copy of the run as a kill at the end of SFT leaves it: checkpoints and no manifest."""
        self.before("sft", path)
        shutil.copytree(self.checkpoints, path / "sft" / CHECKPOINTS)
        return path

    def finish(self, stage: str, path: Path) -> list[str]:
        """Run ``stage`` to its end; returns what it said."""
        process = self.start(stage, path)
        process.join()
        said = path.with_suffix(".log").read_text(encoding="utf-8").splitlines()
        assert process.exitcode == 0, said
        return said


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory) -> Iterator[Whole]:
    root = tmp_path_factory.mktemp("resume")
    write_items_jsonl(root / "quiz.jsonl", synthesize(6, 9, variety="plain"))
    adapter = {
        "rank": 4,
        "alpha": 4,
        "dropout": 0.1,
    }  # with dropout the weights depend on the state of the random numbers
    recipe = Recipe.model_validate(
        {
            "threads": 1,
            "model": {"base": str(tiny_model), "system": ""},
            "data": {"sft": 24, "grpo": 6, "dev": 4, "test": 12, "variety": "plain"},
            "sft": {
                "batch_size": 4,
                "gradient_accumulation": 2,
                "epochs": 2.0,
                "learning_rate": 1e-2,
                "warmup_steps": 1,
                "checkpoint_steps": 1,
                "bf16": False,
                "adapter": adapter,
            },
            # Three steps an epoch, so that the last step is not at an epoch's end; two forward passes of one generation.
            "grpo": {
                "steps": 5,
                "prompts_per_step": 2,
                "num_generations": 8,
                "batch_size": 8,
                "learning_rate": 1e-2,
                "warmup_steps": 0,
                "checkpoint_steps": 1,
                "bf16": False,
                "pass_rate_samples": 2,
                "pass_rate_low": 0.0,
                "pass_rate_high": 1.0,
                "max_completion_length": 40,
                "probe_prompts": 0,
                "adapter": adapter,
                "health": {"zero_signal_steps": 0, "max_truncated": 1.0},
                "rewards": {"length_kind": "cosine", "max_tokens": 40},
            },
            "evaluation": {
                "benchmarks": [str(root / "quiz.jsonl")],
                "max_new_tokens": 12,
                "batch_tokens": 512,
                "temperature": 0.7,
            },
        }
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.resume_stages"])

    def start(stage: str, path: Path, **options: int) -> multiprocessing.Process:
        process = context.Process(
            target=run_stage, args=(stage, path, recipe, path.with_suffix(".log")), kwargs=options
        )
        process.start()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the fork server's, which knows no other
        patch.setenv("OMP_NUM_THREADS", "1")
        yield Whole(root / "whole", recipe, start, root / CHECKPOINTS)


def left(run: Path, stage: str) -> dict[str, object]:
    """What a stage left, by name: hashes; of the metrics the rows, without the times in them."""
    files = [
        path
        for path in (run / stage).rglob("*")
        if path.is_file() and CHECKPOINTS not in path.parts and path.name != "manifest.json"
    ]
    if stage == "figures":
        files += [*(run / "tables").iterdir(), run / "paper.pdf"]
    found: dict[str, object] = {
        str(path.relative_to(run)): sha256(path) for path in files if path.name != "metrics.jsonl"
    }
    for path in (run / stage).glob("metrics.jsonl"):
        found["metrics"] = [
            {k: v for k, v in json.loads(line).items() if k not in TIMES} for line in path.read_text().splitlines()
        ]
    return found


def progress(run: Path, stage: str) -> int:
    """How much of a stage a kill left to go on from."""
    patterns = {
        "sft": f"{CHECKPOINTS}/checkpoint-*",
        "grpo": f"{CHECKPOINTS}/checkpoint-*",
        "eval": "*/*.p*",
        "figures": "*.p*",
    }
    return len(list((run / stage).glob(patterns[stage])))


@pytest.mark.parametrize("stage", ["sft", "eval"])
def test_killed_anywhere_a_stage_ends_in_the_same_bytes(whole, stage, tmp_path):
    kill_anywhere(whole, stage, tmp_path)


def await_a_batch(process: multiprocessing.Process, folder: Path) -> None:
    """Wait until a file of predictions holds a batch and lacks others: asking is so short a part of the stage that chance may miss it."""
    while process.is_alive():
        with suppress(FileNotFoundError):  # the last batch was saved meanwhile
            if any(path.read_bytes().count(b"\n") > 1 for path in folder.rglob("*.partial.jsonl")):
                return


def kill_anywhere(whole: Whole, stage: str, tmp_path: Path) -> None:
    """Kill a stage at random moments and changes of the file system until it was hit often enough; each run folder must end as the whole run's."""
    whole.before(stage, tmp_path / "0")
    expected, seeded = left(whole.run, stage), random.Random(f"kills of {stage}")
    steps = [row["step"] for row in expected.get("metrics", [])]
    assert expected and steps == [*range(1, len(steps) + 1)]
    found: list[int] = []
    said: list[str] = []
    chain = 0
    while len(found) < KILLS:
        chain += 1
        path = whole.before(stage, tmp_path / f"{chain}")
        for _ in range(CHAIN):
            seconds, change = seeded.uniform(0, whole.seconds[stage]), seeded.randint(1, whole.changes[stage])
            if stage == "eval" and not found:
                process = whole.start(stage, path)
                await_a_batch(process, path / stage)
                process.kill()
            elif seeded.random() < 0.5:
                process = whole.start(stage, path)
                process.join(seconds)
                process.kill()
            else:
                process = whole.start(stage, path, deadly=change)
            process.join()
            if process.exitcode == 0:  # it ended before its kill
                break
            assert process.exitcode == -signal.SIGKILL, path.with_suffix(".log").read_text()
            found.append(progress(path, stage))
        else:
            whole.finish(stage, path)
        assert left(path, stage) == expected, f"chain {chain}"
        assert not list(path.rglob("*.tmp"))
        said += path.with_suffix(".log").read_text(encoding="utf-8").splitlines()
        shutil.rmtree(path)
    assert max(found) > 0, "no kill came late enough to leave something to go on from"
    if stage != "figures":
        assert any("goes on " in line for line in said)
    print(f"{stage}: {len(found)} kills in {chain} runs; {sum(n > 0 for n in found)} left something to go on from")


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


def test_the_checkpoint_before_a_torn_one_gives_the_same_bytes(whole, tmp_path):
    path = whole.cut_sft(tmp_path / "run")
    truncate(path / "sft" / CHECKPOINTS / "checkpoint-6" / "adapter_model.safetensors")
    (path / "sft" / CHECKPOINTS / ".staging" / "checkpoint-6").mkdir(
        parents=True
    )  # what a kill while it was written leaves
    said = whole.finish("sft", path)
    assert "checkpoint-6 is torn: not used" in said and "goes on from checkpoint-5" in said
    assert left(path, "sft") == left(whole.run, "sft")


def test_from_the_last_steps_checkpoint_nothing_is_trained(whole, tmp_path):
    path = whole.cut_sft(tmp_path / "run")
    said = whole.finish("sft", path)
    assert "goes on from checkpoint-6" in said and not any(line.startswith("step ") for line in said)
    assert left(path, "sft") == left(whole.run, "sft")
    # The manifest is there, so the next run of the stage is meant: it begins anew.
    path.with_suffix(".log").unlink()
    assert not any("goes on" in line for line in whole.finish("sft", path))


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
