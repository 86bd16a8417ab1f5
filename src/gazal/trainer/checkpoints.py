"""Checkpoints that are written whole or not at all, and the newest whole one to go on from.

The Trainer writes into a staging folder; a list of the files' hashes is added, the disk made to hold it all, and
the folder renamed into place. A checkpoint whose files are not the listed ones is torn, and the one before it is used.
"""

from __future__ import annotations

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
    """The checkpoints under ``folder``, newest first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def _hash(path: Path) -> str:
    """XXH3 of a file's bytes: as fast as memory, where a large model's checkpoint takes SHA-256 a minute."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def seal(made: Path) -> None:
    """List the files of a finished checkpoint with their hashes, and have the disk hold everything."""
    write_json(
        made / WHOLE, {str(path.relative_to(made)): _hash(path) for path in sorted(made.rglob("*")) if path.is_file()}
    )
    for path in (*made.rglob("*"), made):
        sync(path)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that was listed when the checkpoint was written is there with its hash."""
    try:
        files = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
        return EXTRA in files and all(_hash(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def extra_state(checkpoint: Path) -> dict[str, Any]:
    """What a whole checkpoint holds beside the Trainer's own state."""
    return json.loads((checkpoint / EXTRA).read_text(encoding="utf-8"))


def newest_whole(folder: Path, made_from: str, say: Callable[[str], None] = print) -> Path | None:
    """The newest whole checkpoint under ``folder`` that was made from the same (``made_from``), None without one; others are removed, aloud."""
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

    ``extra`` holds what more to keep: a name with two functions, one that gives a JSON value and one that takes
    it back. ``made_from`` is a hash of all that training starts from: a checkpoint of another is not gone on from.
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
            write_json(
                made / EXTRA, {"made_from": self.made_from} | {key: get() for key, (get, _) in self.extra.items()}
            )
            seal(made)
            shutil.rmtree(folder / name, ignore_errors=True)
            made.rename(folder / name)
            sync(folder)
            for old in checkpoints(folder)[KEPT:]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """None: it would take as long as the rest of a small checkpoint, and nobody publishes one."""

    def _run_epoch(self, **arguments: Any) -> None:
        if (
            self.state.global_step < self.state.max_steps
        ):  # from a checkpoint of the last step, transformers would train one more
            super()._run_epoch(**arguments)

    def train_from_newest(self, say: Callable[[str], None] = print) -> None:
        """Train to the end, going on from the newest whole checkpoint where there is one."""
        with self.accelerator.main_process_first():  # the first removes what cannot be used, the others see it gone
            newest = newest_whole(Path(self.args.output_dir), self.made_from, say)
        if newest:
            state = extra_state(newest)
            for key, (_, put) in self.extra.items():
                put(state[key])
            say(f"goes on from {newest.name}")
        self.train(resume_from_checkpoint=str(newest) if newest else None)
