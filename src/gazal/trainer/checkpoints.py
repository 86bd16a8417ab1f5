"""Checkpoints that are written whole or not at all, and the newest whole one to continue from.

The Trainer writes into a staging folder. A list of the files' hashes is added, all files are fsynced, and the folder
is renamed into place. A checkpoint whose files differ from the list is torn, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from gazal.common.files import sync, write_json

KEPT = 2  # the newest, and the one before it
WHOLE, EXTRA = "whole.json", "extra_state.json"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under ``folder``, newest first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def _hash(path: Path) -> str:
    """Return XXH3 of a file's bytes: as fast as memory, while SHA-256 of a large checkpoint takes a minute."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, xxhash.xxh3_128).hexdigest()


def seal(made: Path) -> None:
    """List the files of a finished checkpoint with their hashes, and fsync everything."""
    files = [path for path in sorted(made.rglob("*")) if path.is_file()]
    write_json(made / WHOLE, {str(path.relative_to(made)): _hash(path) for path in files})
    for path in (*made.rglob("*"), made):
        sync(path)


def is_whole(checkpoint: Path) -> bool:
    """Return whether every file that was listed when the checkpoint was written is there with its hash."""
    try:
        files = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
        return EXTRA in files and all(_hash(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def extra_state(checkpoint: Path) -> dict[str, Any]:
    """Return what a whole checkpoint holds beside the Trainer's own state."""
    return json.loads((checkpoint / EXTRA).read_text(encoding="utf-8"))


def newest_whole(folder: Path, made_from: str, say: Callable[[str], None] = print) -> Path | None:
    """Return the newest whole checkpoint under ``folder`` with this ``made_from``, or None.

    Newer ones that are torn or were made from something else are removed, each with a line.
    """
    for checkpoint in checkpoints(folder):
        if not is_whole(checkpoint):
            say(f"{checkpoint.name} is torn: not used")
        elif extra_state(checkpoint)["made_from"] != made_from:
            say(f"{checkpoint.name} was made from other data, another model or other settings: not used")
        else:
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


class WholeCheckpoints:
    """Mixin for a Trainer: :meth:`_save_checkpoint` through a staging folder.

    ``extra`` holds further state to keep: by name two functions, one that returns a JSON value and one that restores
    it. ``made_from`` is a hash of everything that training starts from; a checkpoint with another hash is not used.
    """

    extra: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]
    made_from: str = ""
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
            extra = {key: get() for key, (get, _) in self.extra.items()}
            write_json(made / EXTRA, {"made_from": self.made_from} | extra)
            seal(made)
            shutil.rmtree(folder / name, ignore_errors=True)
            made.rename(folder / name)
            sync(folder)
            for old in checkpoints(folder)[KEPT:]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Write none: it would take as long as the rest of a small checkpoint, and nobody publishes one."""

    def _run_epoch(self, **arguments: Any) -> None:
        # from a checkpoint of the last step, transformers would train one step more
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**arguments)

    def train_from_newest(self, say: Callable[[str], None] = print) -> None:
        """Train to the end, from the newest whole checkpoint if there is one."""
        with self.accelerator.main_process_first():  # the first removes what cannot be used before the others look
            newest = newest_whole(Path(self.args.output_dir), self.made_from, say)
        if newest:
            state = extra_state(newest)
            for key, (_, put) in self.extra.items():
                put(state[key])
            say(f"goes on from {newest.name}")
        self.train(resume_from_checkpoint=str(newest) if newest else None)
