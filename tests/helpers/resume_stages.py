"""What a process runs that may be killed: one stage as its notebook runs it. Preloaded, so that such a process starts in no time."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import datasets
import torch
import transformers
import trl.trainer.grpo_trainer
import trl.trainer.sft_trainer  # noqa: F401

import gazal.training.grpo
import gazal.training.sft  # noqa: F401
from gazal.data.cards import write_cards
from gazal.data.splits import make_splits
from gazal.evaluation.command import evaluate_stages
from gazal.paper.compile import make_paper
from gazal.recipe.recipe import Recipe
from gazal.runs import RunFolder
from gazal.scoring.faithfulness import measure_faithfulness
from gazal.scoring.lengths import measure_lengths
from gazal.scoring.protocol_comparison import compare_protocols
from gazal.scoring.score import score_folder
from gazal.training.worker import train

PARENTS = {"data": [], "sft": ["data"], "grpo": ["data", "sft"], "eval": ["data", "sft", "grpo"], "figures": ["eval"]}
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def run_stage(stage: str, path: Path, recipe: Recipe, log: Path, threads: int = 1, deadly: int = 0) -> None:
    """Run one stage of the run folder ``path``; what it says goes to ``log``.

    With ``deadly`` the process kills itself right before its so-manieth change of the file system (a file opened
    for writing, made, renamed or removed); without, the number of changes is the log's last line.
    """
    changes = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event in CHANGES or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            changes += 1
            if changes == deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    with open(log, "a", buffering=1, encoding="utf-8") as handle, redirect_stdout(handle):
        sys.addaudithook(count)
        run = RunFolder(path, recipe)
        with run.stage(stage, parents=PARENTS[stage]) as folder:
            STAGE_WORK[stage](run, recipe, folder)
        print(changes)


def _data(run: RunFolder, recipe: Recipe, folder: Path) -> None:
    make_splits(recipe, folder, None)
    write_cards(folder, recipe)


def _train(run: RunFolder, recipe: Recipe, folder: Path) -> None:
    train(folder.name, run.path, recipe.launch)


def _eval(run: RunFolder, recipe: Recipe, folder: Path) -> None:
    evaluate_stages(run.path, recipe, None)
    score_folder(folder)
    compare_protocols(folder)
    measure_lengths(folder)
    measure_faithfulness(folder)


def _figures(run: RunFolder, recipe: Recipe, folder: Path) -> None:
    make_paper(run.path)


STAGE_WORK = {"data": _data, "sft": _train, "grpo": _train, "eval": _eval, "figures": _figures}
