"""A run that nobody interrupts, and copies of it whose stages are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gazal.common.files import sha256
from gazal.items.writing import write_items_jsonl
from gazal.knowledge.generate import synthesize
from gazal.recipe.recipe import Recipe
from gazal.runs import CHECKPOINTS
from gazal.trainer.metrics import TIMES

from .resume_stages import PARENTS, run_stage

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


@contextmanager
def whole_run(tiny_model: Path, root: Path) -> Iterator[Whole]:
    """A run of all stages with the tiny model, in ``root``."""
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
