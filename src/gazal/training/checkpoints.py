"""Checkpoints that are written whole or not at all, and the newest whole one to go on from.

The Trainer writes into a staging folder; a list of the files' hashes is added, and the folder renamed
into place. A checkpoint whose files are not the listed ones is torn, and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from gazal.files import sha256, write_json

KEPT = 2  # the newest, and the one before it
WHOLE, EXTRA = "whole.json", "extra_state.json"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under ``folder``, newest first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that was listed when the checkpoint was written is there with its hash."""
    try:
        files = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
        return all(sha256(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def newest_whole(folder: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest whole checkpoint under ``folder``, None without one; torn ones are removed, aloud."""
    for checkpoint in checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint
        say(f"{checkpoint.name} is torn: the one before it is used")
        shutil.rmtree(checkpoint)
    return None


class WholeCheckpoints:
    """Mixin for a Trainer: :meth:`_save_checkpoint` through a staging folder. ``extra`` holds what more
    to keep: a name with two functions, one that gives a JSON value and one that takes it back."""

    extra: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]
    _staging = False

    def _get_output_dir(self, trial: Any) -> str:
        folder = Path(super()._get_output_dir(trial))
        return str(folder / ".staging" if self._staging else folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        staging, name = folder / ".staging", f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            made = staging / name
            write_json(made / EXTRA, {key: get() for key, (get, _) in self.extra.items()})
            write_json(made / WHOLE, {str(p.relative_to(made)): sha256(p) for p in sorted(made.rglob("*")) if p.is_file()})
            shutil.rmtree(folder / name, ignore_errors=True)
            made.rename(folder / name)
            for old in checkpoints(folder)[KEPT:]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def train_from_newest(self, say: Callable[[str], None] = print) -> None:
        """Train to the end, going on from the newest whole checkpoint where there is one."""
        newest = newest_whole(Path(self.args.output_dir), say)
        if newest:
            state = json.loads((newest / EXTRA).read_text(encoding="utf-8"))
            for key, (_, put) in self.extra.items():
                put(state[key])
            say(f"goes on from {newest.name}")
        self.train(resume_from_checkpoint=str(newest) if newest else None)
