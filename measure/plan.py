"""Predicted against measured peak memory: ``python measure/plan.py [SIZE …]``; writes measure/results/plan.md.

Random-weight Qwen3 models of three sizes go through the real stages (``train_sft``, then ``train_grpo`` with merged
rollouts), each in a fresh process. Measured on a CPU: the kernel's high-water mark of resident memory (VmHWM, reset by
``/proc/self/clear_refs``), less the resident size after imports and before the model is loaded; on a GPU
``torch.cuda.max_memory_allocated``. Predicted: :func:`gazal.planning.memory.stage_memory` for the same recipe and the same
longest batch. ``loading``, ``training`` and ``finish`` (merge and parity) are told apart.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from gazal.common.devices import read_devices
from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.items.prompts import build_messages, completion_text, question_text
from gazal.items.reading import read_items
from gazal.items.writing import write_items_jsonl
from gazal.knowledge.base_tokenizer import train_tokenizer
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_tokenizer
from gazal.planning.command import NAMES
from gazal.planning.memory import Tokens, stage_memory
from gazal.planning.model_shapes import base_config
from gazal.recipe.recipe import Recipe
from gazal.training.grpo import train_grpo
from gazal.training.rollouts import encode_prompts
from gazal.training.sft import sft_dataset, train_sft

OUT = Path(__file__).parent / "results" / "plan.md"
SIZES = {  # layers, hidden, intermediate, heads, kv heads, head_dim, vocabulary, tied; the first is the embedded base's shape
    "5M": (4, 256, 768, 4, 2, 64, 6144, True),
    "30M": (8, 512, 1536, 8, 4, 64, 16384, False),
    "135M": (30, 576, 1536, 9, 3, 64, 49152, True),
}
CPU = not torch.cuda.is_available()
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def make_model(size: str, folder: Path) -> None:
    """A random Qwen3 of ``size`` and a tokenizer of 4,096 tokens (ids above it are never used)."""
    layers, hidden, middle, heads, kv, head, vocabulary, tied = SIZES[size]
    items = synthesize(400, 1, variety="plain")
    tokenizer = train_tokenizer([question_text(i) + "\n" + completion_text(i, i.reasoning or "") for i in items], 4096)
    torch.manual_seed(0)
    Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            intermediate_size=middle,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            head_dim=head,
            tie_word_embeddings=tied,
            max_position_embeddings=2048,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_items_jsonl(folder / "items.jsonl", synthesize(24, 3, variety="plain"))


def make_recipe(folder: Path, checkpointing: bool) -> Recipe:
    """Three steps of SFT and two of GRPO, in fp32, with the embedded recipe's adapter."""
    return Recipe.model_validate(
        {
            "model": {"base": str(folder), "system": "", "dtype": "float32"},
            "sft": {"batch_size": 8, "bf16": False, "gradient_checkpointing": checkpointing, "warmup_steps": 0},
            "grpo": {
                "steps": 2,
                "prompts_per_step": 4,
                "num_generations": 4,
                "batch_size": 8,
                "bf16": False,
                "pass_rate_samples": 0,
                "probe_prompts": 0,
                "max_completion_length": 64,
                "warmup_steps": 0,
                "gradient_checkpointing": checkpointing,
                "rewards": {"length_kind": "cosine", "max_tokens": 64},
            },
        }
    )


def status(key: str) -> int:
    """A size of this process in bytes: VmRSS now, VmHWM the highest since the last reset."""
    return int(next(line for line in open("/proc/self/status") if line.startswith(key + ":")).split()[1]) * 1024


class Peaks(TrainerCallback):
    """Peak bytes of loading, training and finish, above what was resident when this was made."""

    def __init__(self) -> None:
        gc.collect()
        if CPU:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the heap that imports freed hides the first megabytes
        self.base, self.peaks = status("VmRSS") if CPU else 0, {}
        self._reset()

    def _reset(self) -> None:
        if CPU:
            Path("/proc/self/clear_refs").write_text("5")
        else:
            torch.cuda.reset_peak_memory_stats()

    def mark(self, phase: str) -> None:
        """End ``phase``."""
        self.peaks[phase] = (status("VmHWM") if CPU else torch.cuda.max_memory_allocated()) - self.base
        self._reset()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.mark("loading")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.mark("training")


def measure(stage: str, model: Path, out: Path, checkpointing: bool) -> None:
    """Run one stage here and print its peaks, and the lengths of its data, as one JSON line."""
    recipe, items = make_recipe(model, checkpointing), read_items(model / "items.jsonl")
    items = items if stage == "sft" else items[: recipe.grpo.steps * recipe.grpo.prompts_per_step]  # each prompt once
    tokenizer = load_tokenizer(model)
    prompts = [len(ids) for ids in encode_prompts(tokenizer, [build_messages(item, "") for item in items])]
    rows = [
        len(ids)
        for ids in tokenizer.apply_chat_template(
            [e["prompt"] + e["completion"] for e in sft_dataset(items, "")], tokenize=True, return_dict=True
        )["input_ids"]
    ]
    peaks = Peaks()
    try:
        if stage == "sft":
            train_sft(recipe, items, out, [peaks], say=lambda line: None)
        else:
            train_grpo(recipe, items, model, out, [peaks], say=lambda line: None)
        peaks.mark("finish")
    except GazalError as error:
        print(error, file=sys.stderr)
    print(json.dumps({"peaks": peaks.peaks, "prompts": prompts, "rows": rows}))


def predict(stage: str, model: Path, checkpointing: bool, found: dict) -> dict[str, float]:
    """Bytes that the plan gives for the same recipe and lengths, by phase."""
    prompt, row = max(found["prompts"]), max(found["rows"])
    tokens = Tokens(row, sum(found["rows"]) / len(found["rows"]), prompt, known=True)
    recipe = make_recipe(model, checkpointing)
    plan = stage_memory(recipe, base_config(recipe.model), stage, tokens, read_devices("cpu" if CPU else "1x80GB"))
    sums = {phase: sum(parts.values()) - (0.0 if CPU else parts["framework"]) for phase, parts in plan.phases.items()}
    return {"training": max(sums["training"], sums.get("rollouts", 0.0)), "finish": sums.get("finish", 0.0)}


def child(stage: str, model: Path, out: Path, checkpointing: bool) -> dict:
    """One measurement in a fresh process; its allocator gives freed memory back at once (see the module's text)."""
    command = [sys.executable, __file__, "--worker", stage, str(model), str(out), str(checkpointing)]
    done = subprocess.run(command, env=os.environ | MALLOC, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure each size in fresh processes, predict, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=[], help="5M, 30M, 135M; all by default")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.worker:
        stage, model, out, checkpointing = arguments.worker
        measure(stage, Path(model), Path(out), checkpointing == "True")
        return
    lines = [
        f"Gradient checkpointing {'on' if arguments.checkpointing else 'off'}, {'resident memory over the baseline (CPU)' if CPU else torch.cuda.get_device_name()}.",
        "",
        "| Model | Stage | Phase | Measured, MB | Predicted, MB | Error |",
        "|---|---|---|--:|--:|--:|",
    ]
    for size in arguments.sizes or SIZES:
        with tempfile.TemporaryDirectory() as temporary:
            model = Path(temporary) / size
            make_model(size, model)
            for stage in ("sft", "grpo"):
                found = child(stage, model, Path(temporary) / stage, arguments.checkpointing)
                expected = predict(stage, model, arguments.checkpointing, found)
                for phase, value in found["peaks"].items():
                    if expected.get(phase):
                        lines.append(
                            f"| {size} | {NAMES[stage]} | {phase} | {value / 1e6:,.0f} | {expected[phase] / 1e6:,.0f} | {100 * (expected[phase] / value - 1):+.1f} % |"
                        )
                        print(lines[-1], flush=True)
    with atomic_write(arguments.out) as handle:
        handle.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
