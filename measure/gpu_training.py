"""Steps of the GPU check that train: the embedded recipe as a CPU trained it, what saves memory, a 4-bit base, FSDP2, and the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import torch
from gpu_run import expected
from gpu_steps import UNDONE, Found, NotHere, Run
from safetensors.torch import load_file
from transformers import TrainerCallback

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, write_json
from gazal.common.paths import EMBEDDED
from gazal.items.prompts import build_messages
from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.items.writing import write_items_parquet
from gazal.models.generation import generate
from gazal.models.loading import load_model, load_tokenizer
from gazal.recipe.load import dump_recipe, load_recipe
from gazal.recipe.recipe import Recipe
from gazal.runs import CHECKPOINTS
from gazal.trainer.checkpoints import checkpoints
from gazal.training import launch
from gazal.training.grpo import train_grpo
from gazal.training.rollouts import encode_prompts
from gazal.training.sft import sft_dataset, sft_trainer, train_sft

BF16 = ("model.dtype=bfloat16", "sft.bf16=true", "grpo.bf16=true")
TRAINER = ("grpo.rollouts=trainer",)  # a 4-bit or sharded policy has no merged copy
LOSS_FP32 = (
    1e-4  # relative; two kinds of arithmetic of one CPU (its vector units, and none) parted by 1.5e-6 in 30 steps
)
LOSS_BF16 = 0.02  # relative; a CPU's own in bf16 parted by 0.0042 in 30 steps
LOSS_8BIT = 0.05  # relative; chosen, because moments in 8 bits are noise of another kind, and none was measured
LOSS_LIGER = 1e-3  # relative; chosen, because its kernels sum in another order, and none was measured
RESUMED = 1e-2  # relative; nothing on a CPU, and a GPU's sums may come in another order
ALIKE = (
    0.9  # share of completions; with the two kinds of arithmetic all 24 sampled and all 100 greedy ones were the same
)
MOVED = 0.9  # share of an adapter's elements; chosen, because on a CPU in fp32 all but a few move
DIFFERENCE, SHARE = "largest relative difference of losses", "share of completions equal to a CPU's in fp32"
TESTS = ("trainer/test_options.py", "trainer/test_proof.py", "models/test_generation.py", "training/test_preflight.py")


def recipe(run: Run, *overrides: str) -> Recipe:
    """The embedded recipe, cut to the check's sizes."""
    sizes = run.sizes
    return load_recipe(
        "embedded",
        [
            f"sft.batch_size={sizes.sft_rows}",
            f"grpo.steps={sizes.grpo_steps}",
            f"grpo.prompts_per_step={sizes.prompts}",
            f"grpo.num_generations={sizes.generations}",
            f"grpo.batch_size={sizes.prompts * sizes.generations // 2}",
            f"grpo.max_completion_length={sizes.completion}",
            f"grpo.log_completions={sizes.prompts}",
            "grpo.pass_rate_samples=0",
            "grpo.warmup_steps=0",
            *overrides,  # the first step of a warm-up has rate 0
        ],
    )


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
    """The largest relative difference, NaN where a value is. Raises ValueError for other lengths."""
    return float(
        np.max([abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True)])
    )  # Python's max may leave a NaN out


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
    """The SFT stage with its merge and its proofs: ``losses``, ``merge`` (its errors), ``tokens/s``, ``error`` (why the stage failed at
    its end, empty where it did not). Raises GazalError where it logged no step."""
    error = ended(folder, lambda: train_sft(recipe(run, *overrides), sft_items(run), folder, callbacks))
    logged = rows(folder)
    return {
        "losses": [row["loss"] for row in logged],
        "merge": merge_errors(folder),
        "tokens/s": logged[-1]["tokens_per_second"],
        "error": error,
    }


def grpo(run: Run, start: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    """The GRPO stage from the merged model ``start``: ``rewards`` and ``losses`` (means of each step), ``kept`` (completions by step),
    ``tokens`` (mean of a completion), ``merge`` and ``error`` as of :func:`sft`."""
    error = ended(folder, lambda: train_grpo(recipe(run, *overrides), grpo_items(run), start, folder))
    logged, kept = rows(folder), folder / "completions.parquet"
    table = pd.read_parquet(kept) if kept.is_file() else pd.DataFrame({"step": [], "completion": []})
    return {
        "rewards": [row["reward"] for row in logged],
        "losses": [row["loss"] for row in logged],
        "tokens": sum(row["completions/mean_length"] for row in logged) / len(logged),
        "kept": [table[table["step"] == row["step"]]["completion"].tolist() for row in logged],
        "merge": merge_errors(folder),
        "error": error,
    }


def ended(folder: Path, train: Callable[[], object]) -> str:
    """Train; why it failed after it had logged a step. Raises its GazalError where it had not."""
    try:
        train()
    except GazalError as error:
        if not (folder / "metrics.jsonl").is_file() or not rows(folder):
            raise
        traceback.print_exc()
        return str(error)
    return ""


def merge_errors(folder: Path) -> dict[str, float]:
    """Relative errors of the merge by dtype, as figures; none where it was not made."""
    path = folder / "parity.json"
    found = json.loads(path.read_text(encoding="utf-8"))["largest_relative_error"] if path.is_file() else {}
    return {f"merge error in {name}, relative": value for name, value in found.items()}


def expect(run: Run) -> None:
    """Write what this machine's CPU finds into the pack (gpu_pack.sh)."""
    folder = run.folder("expected")
    made = {"sft": sft(run, folder / "sft"), "grpo": grpo(run, folder / "sft" / "merged", folder / "grpo")}
    if error := made["sft"]["error"] or made["grpo"]["error"]:
        raise GazalError(error)
    made |= {
        "greedy base": greedy(run, EMBEDDED, "float32"),
        "greedy SFT": greedy(run, folder / "sft" / "merged", "float32"),
        "torch": torch.__version__,
    }
    write_json(run.pack / expected(run.cpu), made)


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
        epochs = (
            steps - 0.5
        ) / parts.sft_steps  # of the same examples in the same order; the warm-up does not depend on what follows
        made, cpus = sft(run, folder / "sft", *overrides, f"sft.epochs={epochs}"), run.expected["sft"]["losses"][:steps]
        found.figures |= {
            "first loss, relative difference": apart(made["losses"][:1], cpus[:1]),
            "last loss": made["losses"][-1],
            "tokens/s": made["tokens/s"],
        }
        beside(found, made["losses"], cpus, bound)
        found.figures |= made["merge"]
        found.expect(not made["error"], made["error"])
    with run.check(f"GRPO, {parts.grpo_steps} steps, beside a CPU's in fp32") as found:
        run.needs(dtype)
        run.needs_folder(folder / "sft" / "merged")
        made, cpus = grpo(run, folder / "sft" / "merged", folder / "grpo", *overrides), run.expected["grpo"]
        shares = [
            same(*pair) for pair in zip(made["kept"], cpus["kept"], strict=True)
        ]  # a step after one that parted may part
        found.figures |= {f"{SHARE}, step {step}": share for step, share in enumerate(shares, 1)}
        found.figures |= {"mean tokens": made["tokens"], "mean reward": made["rewards"][-1]} | made["merge"]
        found.figures["difference of the first mean reward"] = abs(made["rewards"][0] - cpus["rewards"][0])
        found.expect(shares[0] >= alike, f"under {alike:.0%} of the first step's kept completions are a CPU's")
        found.expect(not made["error"], made["error"])
    for name, model in (("base", EMBEDDED), ("SFT", folder / "sft" / "merged")):
        with run.check(f"greedy completions of {parts.greedy} items, {name}") as found:
            run.needs(dtype)
            run.needs_folder(model)
            found.figures[SHARE] = same(greedy(run, model, dtype), run.expected[f"greedy {name}"])
            found.expect(found.figures[SHARE] >= alike, f"under {alike:.0%} are a CPU's")


def beside(found: Found, losses: list[float], others: list[float], bound: float) -> None:
    """Judge the largest relative difference of ``losses`` to ``others``."""
    found.figures[DIFFERENCE] = apart(losses, others)
    found.expect(found.figures[DIFFERENCE] <= bound, f"losses differ by more than {bound:g} (relative)")


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
    trainer = sft_trainer(
        made,
        sft_dataset(sft_items(run), ""),
        load_tokenizer(EMBEDDED, to_train=True),
        run.folder(name),
        [clock],
        save_strategy="no",
    )
    trainer.train()
    return losses(trainer), clock


def report_variant(
    run: Run, what: str, bound: float, made: Callable[[], tuple[list[float], float, int]], module: str = ""
) -> None:
    """One line: losses of a variant, which needs CUDA and ``module``, beside those of a CPU with everything whole."""
    with run.check(what) as found:
        if module:
            run.needs_cuda(module)
        values, seconds, memory = made()
        found.figures |= {"ms/step": 1e3 * seconds, "peak MB": memory / 1e6} if memory else {"ms/step": 1e3 * seconds}
        beside(found, values, run.expected["sft"]["losses"], bound)


def savers(run: Run) -> None:
    """Step 4."""

    def plain(name: str, *overrides: str) -> tuple[list[float], float, int]:
        values, clock = variant(run, name, *overrides)
        return values, median(clock.seconds), clock.memory

    def liger() -> tuple[list[float], float, int]:  # which patches modules of its process
        made = json.loads((run.alone("liger") / "made.json").read_text(encoding="utf-8"))
        return made["losses"], made["seconds"], made["memory"]

    report_variant(run, "SFT, all logits, fused AdamW", LOSS_FP32, lambda: plain("full"))
    report_variant(run, "SFT, logits in chunks", LOSS_FP32, lambda: plain("chunked", "sft.logits=chunked"))
    report_variant(run, "SFT, logits by liger", LOSS_LIGER, liger, "liger_kernel")
    report_variant(
        run, "SFT, 8-bit AdamW", LOSS_8BIT, lambda: plain("8bit", "sft.optimizer=adamw_8bit"), "bitsandbytes"
    )


def liger_alone(run: Run) -> None:
    values, clock = variant(run, "trained", "sft.logits=liger")
    (run.work / "made.json").write_text(
        json.dumps({"losses": values, "seconds": median(clock.seconds), "memory": clock.memory})
    )


class Kill(TrainerCallback):
    """SIGKILL in the middle of training."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Moves(TrainerCallback):
    """What training did to each kind of the adapter's tensors: the share of their elements that moved, and their dtype."""

    KINDS = ("lora_A", "lora_B", "lora_magnitude_vector")

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.moved: dict[str, float] = {}
        self.dtypes: dict[str, str] = {}

    def _now(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {
            name: value.detach().cpu().clone()
            for name, value in model.named_parameters()
            if any(kind in name for kind in self.KINDS)
        }

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self.before = self._now(model)

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        after = self._now(model)
        for kind in self.KINDS:
            names = [name for name in after if kind in name]
            changed = [(after[name] != self.before[name].to(after[name].dtype)).float().flatten() for name in names]
            self.moved[kind] = torch.cat(changed).mean().item() if changed else 0.0
            self.dtypes[kind] = " and ".join(sorted({str(after[name].dtype).removeprefix("torch.") for name in names}))


def four_bit_overrides(run: Run) -> tuple[str, ...]:
    """A 4-bit base where there are CUDA and bitsandbytes; the rest of the step needs neither."""
    return (
        "sft.checkpoint_steps=2",
        *TRAINER,
        *(() if run.cpu or not find_spec("bitsandbytes") else (*BF16, "model.load_in_4bit=true")),
    )


def four_bit(run: Run) -> None:
    """Step 5."""
    overrides, moves, base = four_bit_overrides(run), Moves(), "a 4-bit base"
    if "model.load_in_4bit=true" not in overrides:
        base = "an unquantised base (4-bit needs CUDA and bitsandbytes)"
    whole, folder = [], run.folder("whole")
    with run.check(f"SFT on {base}, {run.sizes.sft_steps} steps, with merge") as found:
        made = sft(run, folder, *overrides, callbacks=[moves])
        whole += made["losses"]
        found.figures |= {"first loss": whole[0], "last loss": whole[-1], "tokens/s": made["tokens/s"]} | made["merge"]
        found.expect(not made["error"], made["error"])
    with run.check(f"each part of DoRA moves on {base}") as found:
        if not moves.moved:
            raise NotHere(UNDONE)
        found.figures |= {
            f"share of {kind} that moved ({moves.dtypes[kind]})": share for kind, share in moves.moved.items()
        }
        for kind, share in moves.moved.items():
            found.expect(
                share >= MOVED,
                f"{kind}: under {MOVED:.0%} of it moved (in bf16 a magnitude near 1 does not move by less than 0.004: trl#7268)",
            )
    with run.check(f"SIGKILL and resume on {base}") as found:
        if not whole:
            raise NotHere(UNDONE)
        cut, again = run.alone("killed", check=False) / "sft", Moves()
        left = checkpoints(cut / CHECKPOINTS)
        found.expect(bool(left) and not (cut / "adapter").exists(), "the killed process left no checkpoint, or ended")
        made = sft(run, cut, *overrides, callbacks=[again])
        found.figures |= {"resumed from": left[0].name if left else "nothing"} | {
            f"{kind} after it": dtype for kind, dtype in again.dtypes.items()
        }
        found.expect(again.dtypes == moves.dtypes, "the resumed run trains other dtypes than the whole one")
        beside(found, made["losses"], whole, RESUMED)
        if (cut / "adapter").exists() and (folder / "adapter").exists():
            found.figures["largest difference of an adapter's weight"] = largest_difference(cut, folder)
    with run.check(f"GRPO on {base}, one step, rollouts through the adapter") as found:
        run.needs_folder(folder / "merged")
        made = grpo(run, folder / "merged", run.folder("grpo"), *overrides, "grpo.steps=1")
        found.figures |= {"mean reward": made["rewards"][-1], "loss": made["losses"][-1]} | made["merge"]
        found.expect(not made["error"], made["error"])


def largest_difference(one: Path, other: Path) -> float:
    """The largest absolute difference of two saved adapters."""
    a, b = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


def killed_alone(run: Run) -> None:
    sft(run, run.work / "sft", *four_bit_overrides(run), callbacks=[Kill(run.sizes.sft_steps // 2 + 1)])


def tests(run: Run) -> None:
    """Step 8."""
    with run.check("tests of options, exactness, generation, preflight") as found:
        root, report = Path(__file__).resolve().parent.parent, run.folder("tests") / "junit.xml"
        words = [
            "-q",
            "--no-header",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *(["-k", run.sizes.tests] if run.sizes.tests else []),
        ]
        words += ["-n", "4", "--dist", "loadfile"] if find_spec("xdist") and not run.cpu else []
        words += ["--timeout=60"] if find_spec("pytest_timeout") and not run.cpu else []
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *(f"tests/{name}" for name in TESTS)], cwd=root, check=False
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
        bad = [
            case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
        ]
        skipped = sum(case.find("skipped") is not None for case in cases)
        found.figures |= {"passed": len(cases) - len(bad) - skipped, "failed": len(bad), "skipped": skipped}
        found.expect(done.returncode == 0, "; ".join(bad) or f"pytest ended with code {done.returncode}")


class Shards(TrainerCallback):
    """Notes what share of the parameters are sharded (DTensor), and their device."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        values = list(model.parameters())
        self.path.write_text(
            json.dumps(
                {
                    "sharded": sum(hasattr(value, "full_tensor") for value in values) / len(values),
                    "device": str(values[0].device),
                }
            )
        )


def fsdp2(run: Run) -> None:
    """Step 9: both stages in one process that ``accelerate launch`` starts, and that shards with nobody."""
    folder = run.folder("run")
    made = recipe(run, *TRAINER, "launch.strategy=fsdp2")
    with atomic_write(folder / "recipe.yaml") as handle:
        handle.write(dump_recipe(made))
    write_items_parquet(folder / "data" / "sft.parquet", sft_items(run))
    write_items_parquet(folder / "data" / "grpo.parquet", grpo_items(run))
    command = launch.launch_command

    def both(
        *arguments: Any,
    ) -> list[str]:  # the same command, whose worker trains both stages and notes what is sharded
        return ["gpu_worker" if word == "gazal.training.worker" else word for word in command(*arguments)]

    error = failed = ""
    for stage in ("sft", "grpo"):
        with run.check(f"{stage.upper()} under FSDP2, one process") as found:
            if stage == "sft":
                error = launched(folder, made, both)
                failed = "grpo" if (folder / "grpo").exists() else "sft"
            elif error and failed == "sft":
                raise NotHere(UNDONE)
            if (folder / stage / "shards.json").is_file():
                noted = json.loads((folder / stage / "shards.json").read_text(encoding="utf-8"))
                found.figures |= {"share of parameters sharded": noted["sharded"], "device": noted["device"]}
                found.expect(noted["sharded"] > 0, "accelerate sharded nothing")
            if (folder / stage / "metrics.jsonl").is_file() and (logged := rows(folder / stage)):
                found.figures |= {"last loss": logged[-1]["loss"]} | merge_errors(folder / stage)
                if stage == "sft" and len(logged) == run.sizes.sft_steps:
                    beside(found, [row["loss"] for row in logged], run.expected["sft"]["losses"], LOSS_FP32)
            found.expect(not error or failed != stage, error)


def launched(folder: Path, made: Recipe, command: Callable[..., list[str]]) -> str:
    """Start the workers by ``command`` and wait; why they failed, with all that they printed in this process's output."""
    try:
        with patch.object(launch, "launch_command", command):
            launch.start_workers("sft", folder, made)
    except GazalError as error:
        log = folder / "sft" / ".workers.log"
        print(log.read_text(encoding="utf-8", errors="replace") if log.is_file() else "", flush=True)
        return str(error)
    return ""


ALONE = {"liger": liger_alone, "killed": killed_alone, "expect": expect}
