"""Steps of the GPU check that train: the embedded recipe as a CPU trained it, what saves memory, a 4-bit base, FSDP2, and the tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from gazal.errors import GazalError
from gazal.files import atomic_write
from gazal.generation import generate
from gazal.grpo.rollouts import encode_prompts
from gazal.grpo.train import train_grpo
from gazal.items import Item, read_items, write_items_parquet
from gazal.model_folders import EMBEDDED
from gazal.models import load_model, load_tokenizer
from gazal.prompts import build_messages
from gazal.recipe import Recipe, dump_recipe, load_recipe
from gazal.sft.train import sft_dataset, sft_trainer, train_sft
from gazal.training import launch
from gpu_steps import NotHere, Run

BF16 = ("model.dtype=bfloat16", "sft.bf16=true", "grpo.bf16=true")
TRAINER = ("grpo.rollouts=trainer",)  # a 4-bit or sharded policy has no merged copy
LOSS_FP32 = 1e-4  # relative; two arithmetics of one CPU (AVX-512 and plain) parted by 1.1e-6 in 30 steps
LOSS_BF16 = 0.02  # relative; a CPU's own in bf16 parted by 0.0042 in 30 steps
LOSS_8BIT = 0.05  # relative; chosen, because moments in 8 bits are noise of another kind, and none was measured
LOSS_LIGER = 1e-3  # relative; chosen, because its kernels sum in another order, and none was measured
RESUMED = 1e-2  # relative; nothing on a CPU, and a GPU's sums may come in another order
ALIKE = 0.9  # share of completions; the two arithmetics parted in 1 of 24 sampled ones
DIFFERENCE, SHARE, MERGE = "largest relative difference of losses", "share of completions equal to a CPU's in fp32", "merge error in fp32, relative"
TESTS = ("test_options.py", "test_exact.py", "test_generation.py", "test_preflight.py")


def recipe(run: Run, *overrides: str) -> Recipe:
    """The embedded recipe, cut to the check's sizes."""
    sizes = run.sizes
    return load_recipe("embedded", [
        f"sft.batch_size={sizes.sft_rows}", f"grpo.steps={sizes.grpo_steps}", f"grpo.prompts_per_step={sizes.prompts}", f"grpo.num_generations={sizes.generations}",
        f"grpo.batch_size={sizes.prompts * sizes.generations // 2}", f"grpo.max_completion_length={sizes.completion}", f"grpo.log_completions={sizes.prompts}",
        "grpo.pass_rate_samples=0", "grpo.warmup_steps=0", *overrides,  # the first step of a warm-up has rate 0
    ])


@cache
def split(pack: Path, name: str) -> list[Item]:
    """A split of the embedded recipe's data."""
    return read_items(pack / "data" / f"{name}.parquet", training=name == "sft")


def sft_items(run: Run) -> list[Item]:
    """The examples of ``sft_steps`` steps."""
    return split(run.pack, "sft")[: run.sizes.sft_steps * run.sizes.sft_rows]


def grpo_items(run: Run) -> list[Item]:
    """The prompts of ``grpo_steps`` steps."""
    return split(run.pack, "grpo")[: run.sizes.grpo_steps * run.sizes.prompts]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a stage."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(trainer: Any) -> list[float]:
    """The logged losses of a trainer."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def apart(found: list[float], expected: list[float]) -> float:
    """The largest relative difference. Raises ValueError for other lengths."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def same(found: list[str], expected: list[str]) -> float:
    """The share of equal texts. Raises ValueError for other lengths."""
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def greedy(run: Run, model: Path, dtype: str) -> list[str]:
    """Greedy completions of the first test items."""
    items, tokenizer = split(run.pack, "test")[: run.sizes.greedy], load_tokenizer(model)
    ids = encode_prompts(tokenizer, [build_messages(item, "") for item in items])
    made = sorted(generate(load_model(model, dtype), tokenizer, ids, max_new_tokens=run.sizes.completion))
    return [tokenizer.decode(done.ids, skip_special_tokens=True) for done in made]


def sft(run: Run, folder: Path, *overrides: str, callbacks: list[TrainerCallback] | None = None) -> dict[str, Any]:
    """The SFT stage with its merge and its proofs: losses, parity, tokens a second."""
    made = recipe(run, *overrides)
    train_sft(made, sft_items(run), folder, callbacks)
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))["largest_relative_error"]
    logged = rows(folder)
    return {"losses": [row["loss"] for row in logged], "parity": parity, "tokens_per_second": logged[-1]["tokens_per_second"]}


def grpo(run: Run, start: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    """The GRPO stage from the merged model ``start``: mean rewards, kept completions, parity."""
    train_grpo(recipe(run, *overrides), grpo_items(run), start, folder)
    kept = pd.read_parquet(folder / "completions.parquet")
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))["largest_relative_error"]
    return {
        "rewards": [row["reward"] for row in rows(folder)], "losses": [row["loss"] for row in rows(folder)], "kept": kept["completion"].tolist(), "parity": parity,
        "tokens": sum(row["completions/mean_length"] for row in rows(folder)) / len(rows(folder)),
    }


def expect(run: Run) -> None:
    """Write what this machine's CPU finds into the pack (gpu_pack.sh)."""
    folder = run.folder("expected")
    made = {"sft": sft(run, folder / "sft"), "grpo": grpo(run, folder / "sft" / "merged", folder / "grpo")}
    made |= {"greedy base": greedy(run, EMBEDDED, "float32"), "greedy SFT": greedy(run, folder / "sft" / "merged", "float32"), "torch": torch.__version__}
    with atomic_write(run.pack / f"expected-{'shrunken' if run.cpu else 'whole'}.json") as out:
        json.dump(made, out, indent=1)


def fp32(run: Run) -> None:
    """Step 2: SFT, GRPO and greedy completions beside what a CPU found."""
    beside_cpu(run, "float32", LOSS_FP32, ALIKE, run.sizes.sft_steps)


def bf16(run: Run) -> None:
    """Step 3: the same in bf16. Completions part at near-ties, so none need be the same."""
    beside_cpu(run, "bfloat16", LOSS_BF16, 0.0, run.sizes.bf16_steps, *BF16)


def beside_cpu(run: Run, dtype: str, bound: float, alike: float, steps: int, *overrides: str) -> None:
    """``bound``: of losses, relative; ``alike``: least share of completions that are a CPU's."""
    folder, parts = run.folder("run"), run.sizes
    with run.check(f"SFT, {steps} steps, beside a CPU's in fp32") as found:
        epochs = (steps - 0.5) / parts.sft_steps  # of the same examples in the same order; the warm-up does not depend on what follows
        made, expected = sft(run, folder / "sft", *overrides, f"sft.epochs={epochs}"), run.expected["sft"]["losses"][:steps]
        found.figures |= {"first loss, relative difference": apart(made["losses"][:1], expected[:1]), DIFFERENCE: apart(made["losses"], expected), "last loss": made["losses"][-1]}
        found.figures |= {MERGE: made["parity"]["float32"], "the same in bf16": made["parity"]["bfloat16"], "tokens/s": made["tokens_per_second"]}
        found.expect(found.figures[DIFFERENCE] <= bound, f"losses differ by more than {bound:g} of a CPU's")
    with run.check(f"GRPO, {parts.grpo_steps} steps, beside a CPU's in fp32") as found:
        run.needs(dtype)
        run.needs_folder(folder / "sft" / "merged")
        made, expected = grpo(run, folder / "sft" / "merged", folder / "grpo", *overrides), run.expected["grpo"]
        found.figures |= {SHARE: same(made["kept"], expected["kept"]), "mean tokens": made["tokens"], "mean reward": made["rewards"][-1]}
        found.figures |= {"largest difference of mean rewards": max(abs(a - b) for a, b in zip(made["rewards"], expected["rewards"], strict=True)), MERGE: made["parity"]["float32"]}
        found.expect(found.figures[SHARE] >= alike, f"under {alike:.0%} of the kept completions are a CPU's")
    for name, model in (("base", EMBEDDED), ("SFT", folder / "sft" / "merged")):
        with run.check(f"greedy completions of {parts.greedy} items, {name}") as found:
            run.needs(dtype)
            run.needs_folder(model)
            share = same(greedy(run, model, dtype), run.expected[f"greedy {name}"])
            found.figures[SHARE] = share
            found.expect(share >= alike, f"under {alike:.0%} are a CPU's")


class Clock(TrainerCallback):
    """``seconds`` of each optimizer step, and the device's peak ``memory`` in bytes (0 on a CPU) since training began."""

    def __init__(self, run: Run) -> None:
        self.run, self.seconds, self.memory, self.began = run, [], 0, 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not self.run.cpu:
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.began = self.run.synchronize()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.seconds.append(self.run.synchronize() - self.began)
        self.memory = 0 if self.run.cpu else torch.cuda.max_memory_allocated()


def variant(run: Run, name: str, *overrides: str) -> tuple[list[float], Clock]:
    """Losses and times of SFT without its end (merge and proofs), on the examples of step 2."""
    made, clock = recipe(run, *overrides), Clock(run)
    torch.manual_seed(made.seed)
    trainer = sft_trainer(made, sft_dataset(sft_items(run), ""), load_tokenizer(EMBEDDED, to_train=True), run.folder(name), [clock], save_strategy="no")
    trainer.train()
    return losses(trainer), clock


def report_variant(run: Run, what: str, bound: float, made: Callable[[], tuple[list[float], float, int]], module: str = "") -> None:
    """One line: losses of a variant, which needs CUDA and ``module``, beside those of a CPU with everything whole."""
    with run.check(what) as found:
        if module:
            run.needs_cuda(module)
        values, seconds, memory = made()
        found.figures |= {"ms/step": 1e3 * seconds, "peak MB": memory / 1e6} if memory else {"ms/step": 1e3 * seconds}
        found.figures[DIFFERENCE] = apart(values, run.expected["sft"]["losses"])
        found.expect(found.figures[DIFFERENCE] <= bound, f"losses differ by more than {bound:g} of a CPU's")


def middle(values: list[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


def savers(run: Run) -> None:
    """Step 4."""
    def plain(name: str, *overrides: str) -> tuple[list[float], float, int]:
        values, clock = variant(run, name, *overrides)
        return values, middle(clock.seconds), clock.memory

    def liger() -> tuple[list[float], float, int]:  # which patches modules of its process
        made = json.loads((run.alone("liger") / "made.json").read_text(encoding="utf-8"))
        return made["losses"], made["seconds"], made["memory"]

    report_variant(run, "SFT, all logits, fused AdamW", LOSS_FP32, lambda: plain("full"))
    report_variant(run, "SFT, logits in chunks", LOSS_FP32, lambda: plain("chunked", "sft.logits=chunked"))
    report_variant(run, "SFT, 8-bit AdamW", LOSS_8BIT, lambda: plain("8bit", "sft.optimizer=adamw_8bit"), "bitsandbytes")
    report_variant(run, "SFT, logits by liger", LOSS_LIGER, liger, "liger_kernel")


def liger_alone(run: Run) -> None:
    values, clock = variant(run, "trained", "sft.logits=liger")
    (run.work / "made.json").write_text(json.dumps({"losses": values, "seconds": middle(clock.seconds), "memory": clock.memory}))


class Kill(TrainerCallback):
    """SIGKILL in the middle of training."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Moves(TrainerCallback):
    """What training did to each kind of the adapter's tensors: the largest absolute change, and their dtype."""

    KINDS = ("lora_A", "lora_B", "lora_magnitude_vector")

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.moved: dict[str, float] = {}
        self.dtypes: dict[str, str] = {}

    def _now(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in model.named_parameters() if any(kind in name for kind in self.KINDS)}

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self.before = self._now(model)

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        for name, value in self._now(model).items():
            kind = next(kind for kind in self.KINDS if kind in name)
            self.moved[kind] = max(self.moved.get(kind, 0.0), (value - self.before[name]).abs().max().item())
            self.dtypes[kind] = str(value.dtype).removeprefix("torch.")


def four_bit_overrides(run: Run) -> tuple[str, ...]:
    """A 4-bit base where there are CUDA and bitsandbytes; the rest of the step needs neither."""
    return ("sft.checkpoint_steps=2", *TRAINER, *(() if run.cpu or not find_spec("bitsandbytes") else (*BF16, "model.load_in_4bit=true")))


def four_bit(run: Run) -> None:
    """Step 5."""
    overrides, moves, base = four_bit_overrides(run), Moves(), "a 4-bit base"
    if "model.load_in_4bit=true" not in overrides:
        base = "an unquantised base (4-bit needs CUDA and bitsandbytes)"
    whole: list[float] = []
    with run.check(f"SFT on {base}, {run.sizes.sft_steps} steps, with merge") as found:
        made = sft(run, run.folder("whole"), *overrides, callbacks=[moves])
        whole += made["losses"]
        found.figures |= {"first loss": whole[0], "last loss": whole[-1], MERGE: made["parity"]["float32"], "tokens/s": made["tokens_per_second"]}
    with run.check(f"each part of DoRA moves on {base}") as found:
        if not moves.moved:
            raise NotHere("the training above did not end")
        found.figures |= {f"{kind} moved at most ({moves.dtypes[kind]})": moved for kind, moved in moves.moved.items()}
        found.expect(len(moves.moved) == len(Moves.KINDS), "a part is missing")
        for kind, moved in moves.moved.items():
            found.expect(moved > 0, f"{kind} stays as it was (in bf16 a magnitude near 1 does not move by less than 0.004: trl#7268)")
    with run.check(f"SIGKILL and resume on {base}") as found:
        if not whole:
            raise NotHere("the training above did not end")
        cut = run.alone("killed", check=False) / "sft"
        steps = sorted(int(path.name.rpartition("-")[2]) for path in (cut / ".checkpoints").glob("checkpoint-*"))
        found.expect(bool(steps) and not (cut / "adapter").exists(), "the killed process left no checkpoint, or ended")
        again = sft(run, cut, *overrides)["losses"]
        found.figures |= {"resumed from step": steps[-1] if steps else 0, DIFFERENCE: apart(again, whole), "largest difference of an adapter's weight": largest_difference(cut, run.work / run.step / "whole")}
        found.expect(apart(again, whole) <= RESUMED, "the resumed run is not the whole one")
    with run.check(f"GRPO on {base}, one step, rollouts through the adapter") as found:
        run.needs_folder(run.work / run.step / "whole" / "merged")
        made = grpo(run, run.work / run.step / "whole" / "merged", run.folder("grpo"), *overrides, "grpo.steps=1")
        found.figures |= {"mean reward": made["rewards"][-1], "loss": made["losses"][-1], MERGE: made["parity"]["float32"]}


def largest_difference(one: Path, other: Path) -> float:
    """The largest absolute difference of two saved adapters."""
    a, b = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


def killed_alone(run: Run) -> None:
    sft(run, run.work / "sft", *four_bit_overrides(run), callbacks=[Kill(run.sizes.sft_steps // 2 + 1)])


def tests(run: Run) -> None:
    """Step 8. Raises NotHere where what the tests make their items from is missing."""
    with run.check("tests of options, exactness, generation, preflight") as found:
        root = Path(__file__).resolve().parent.parent
        words = ["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *(["-n", "4", "--dist", "loadfile"] if find_spec("xdist") and not run.cpu else []), *(["-k", run.sizes.tests] if run.sizes.tests else [])]
        done = subprocess.run([sys.executable, "-m", "pytest", *words, *(f"tests/{name}" for name in TESTS)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout)
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        found.figures |= {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?)", last)}
        failed = re.findall(r"^(?:FAILED|ERROR) tests/\S+?::(\S+)", done.stdout, re.MULTILINE)
        found.expect(done.returncode == 0, "; ".join(failed) or f"pytest ended with code {done.returncode}: {last}")


class Shards(TrainerCallback):
    """Notes what share of the parameters are sharded (DTensor), and their device."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        values = list(model.parameters())
        self.path.write_text(json.dumps({"sharded": sum(hasattr(value, "full_tensor") for value in values) / len(values), "device": str(values[0].device)}))


def fsdp2(run: Run) -> None:
    """Step 9: both stages in one process that ``accelerate launch`` starts, and that shards with nobody."""
    folder = run.folder("run")
    made = recipe(run, *TRAINER, "launch.strategy=fsdp2")
    with atomic_write(folder / "recipe.yaml") as handle:
        handle.write(dump_recipe(made))
    write_items_parquet(folder / "data" / "sft.parquet", sft_items(run))
    write_items_parquet(folder / "data" / "grpo.parquet", grpo_items(run))
    command = launch.launch_command

    def both(*arguments: Any) -> list[str]:  # the same command, whose worker trains both stages and notes what is sharded
        return ["gpu_worker" if word == "gazal.training.worker" else word for word in command(*arguments)]

    error: GazalError | None = None
    for stage in ("sft", "grpo"):
        with run.check(f"{stage.upper()} under FSDP2, one process") as found:
            if stage == "sft":
                try:
                    with patch.object(launch, "launch_command", both):
                        launch.start_workers(stage, folder, made)
                except GazalError as raised:
                    error = raised
            if error and not (folder / ("grpo" if stage == "sft" else "none")).exists():
                raise error
            noted = json.loads((folder / stage / "shards.json").read_text(encoding="utf-8"))
            found.figures |= {"share of parameters sharded": noted["sharded"], "device": noted["device"]}
            if stage == "sft":
                found.figures[DIFFERENCE] = apart([row["loss"] for row in rows(folder / stage)], run.expected["sft"]["losses"])
                found.expect(found.figures[DIFFERENCE] <= LOSS_FP32, f"losses differ by more than {LOSS_FP32:g} of a CPU's")
            else:
                found.figures["mean reward"] = rows(folder / stage)[-1]["reward"]
            found.expect(noted["sharded"] > 0, "accelerate sharded nothing")


ALONE = {"liger": liger_alone, "killed": killed_alone, "expect": expect}
