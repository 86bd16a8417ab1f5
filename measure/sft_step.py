"""What our SFT costs over a bare TRL SFTTrainer: ``python measure/sft_step.py``; writes measure/results/sft_step.md.

The embedded recipe on the packaged base. Ours has the metrics log, health, throughput and whole checkpoints (hashed, renamed) at the
recipe's interval; TRL's trainer has the same arguments, its own checkpoints at that interval among them. The two run in two threads that take turns step by
step on the same batches, so that both see the same machine; a turn is what happens between two steps' beginnings, in CPU time of
its thread, with one torch thread.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from gazal.common.files import atomic_write
from gazal.knowledge.generate import synthesize
from gazal.models.loading import base_path, load_model, load_tokenizer, lora_config
from gazal.recipe.load import load_recipe
from gazal.trainer.health import Health
from gazal.trainer.metrics import MetricsLog
from gazal.training.sft import sft_dataset, sft_trainer

OUT = Path(__file__).parent / "results" / "sft_step.md"
WARM = 4  # steps not counted


class Turns(TrainerCallback):
    """Lets its trainer take one step, then the other's; ``seconds`` holds the CPU time of each turn."""

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore) -> None:
        self.mine, self.other, self.seconds, self.started = mine, other, [], None

    def _stop(self) -> None:
        if self.started is not None:
            self.seconds.append(time.thread_time() - self.started)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self._stop()
        self.other.release()
        self.mine.acquire()
        self.started = time.thread_time()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._stop()
        self.other.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=104)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("embedded")
    items = synthesize(args.steps * recipe.sft.batch_size, 1, variety="plain", n_diseases=recipe.data.n_diseases)
    tokenizer, dataset = load_tokenizer(base_path(recipe.model)), sft_dataset(items, recipe.model.system)
    turns = [threading.Semaphore(0), threading.Semaphore(0)]
    clocks = {"ours": Turns(*turns), "TRL's": Turns(*reversed(turns))}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, str(number)) for number, name in enumerate(clocks)}
        log = MetricsLog(folders["ours"] / "metrics.jsonl", ("loss", "mean_token_accuracy"))
        torch.manual_seed(0)
        ours = sft_trainer(
            recipe,
            dataset,
            tokenizer,
            folders["ours"],
            [log, Health(recipe.sft.health, "sft"), clocks["ours"]],
            train_sampling_strategy="sequential",
        )
        ours.made_from = "benchmark"
        torch.manual_seed(0)
        bare = copy.deepcopy(ours.args)
        bare.output_dir = str(folders["TRL's"])
        theirs = SFTTrainer(
            model=load_model(base_path(recipe.model), recipe.model.dtype).train(),
            args=bare,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(recipe.sft.adapter),
            callbacks=[clocks["TRL's"]],
        )
        theirs.remove_callback(PrinterCallback)
        threads = [threading.Thread(target=work) for work in (ours.train_from_newest, theirs.train)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        losses = [[row["loss"] for row in trainer.state.log_history if "loss" in row] for trainer in (ours, theirs)]
    assert losses[0] == losses[1] and len(losses[0]) == args.steps, "the two did not train the same"
    mine, other = (np.array(clock.seconds[WARM:]) for clock in clocks.values())
    overhead, error = (
        (mine - other).mean() / other.mean(),
        (mine - other).std(ddof=1) / np.sqrt(len(mine)) / other.mean(),
    )
    saves = [step - 1 - WARM for step in range(recipe.sft.checkpoint_steps, args.steps, recipe.sft.checkpoint_steps)]
    plain = np.delete(mine - other, saves).mean() / other.mean()
    lines = [
        "# An SFT step",
        "",
        f"`python measure/sft_step.py`; embedded recipe, {len(mine)} steps of {recipe.sft.batch_size} examples in turns, {len(saves)} checkpoints of each; CPU time of one thread."
        " The losses of the two are equal at each step.",
        "",
        "| | Milliseconds a step |",
        "|---|--:|",
        f"| bare TRL SFTTrainer | {1e3 * other.mean():.1f} |",
        f"| ours | {1e3 * mine.mean():.1f} |",
        "",
        f"Overhead {100 * overhead:+.2f} % ± {100 * error:.2f} (standard error of the paired differences); {100 * plain:+.2f} % in steps without a checkpoint.",
        "",
    ]
    with atomic_write(OUT) as handle:
        handle.write("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
