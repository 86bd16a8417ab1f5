"""The worker of the GPU check: reads the names of steps, runs them and replies with their lines (gpu_run.py starts it).

A step is a function of :class:`Run`; each of its checks is a block ``with run.check("what is looked at") as found`` that becomes one line.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from gpu_run import NO_CARD, expected

from gazal.common.errors import GazalError
from gazal.models.identity import fast_dtype
from gazal.training.worker import end_with

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "liger-kernel", "numpy")
REASON = "reason.txt"  # why a process of its own failed
NEEDS_CUDA, UNDONE = "needs CUDA, not found here", "the training above did not end"


class NotHere(Exception):
    """A check that cannot be made on this machine; its text says why."""


@dataclass(frozen=True)
class Sizes:
    """What a check is made on; a CPU gets smaller values, and the same code."""

    sft_steps: int = 30
    bf16_steps: int = 30
    sft_rows: int = 8
    grpo_steps: int = 2
    prompts: int = 12
    generations: int = 8
    completion: int = 128  # tokens
    greedy: int = 50  # items
    matrix: int = 8192
    copied: int = 2**32  # bytes
    layers_32b: int = 2
    layers_8b: int = 4
    narrow: dict[str, int] | None = None  # in place of the model's own widths
    rank: int = 256
    row_32b: int = 4096  # tokens
    batch_8b: int = 8
    row_8b: int = 2048  # tokens
    timed: int = 6  # steps, after two that warm up
    decoded: int = 32  # tokens
    decode_rows: tuple[int, int] = (16, 128)
    tests: str = ""  # pytest's -k
    smol_rows: int = 32


WHOLE = Sizes()
NARROW = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 8192,
}
SHRUNKEN = Sizes(
    sft_steps=6,
    bf16_steps=2,
    sft_rows=2,
    grpo_steps=1,
    prompts=4,
    generations=4,
    completion=48,
    greedy=8,
    matrix=256,
    copied=2**24,
    narrow=NARROW,
    rank=8,
    row_32b=128,
    batch_8b=2,
    row_8b=64,
    timed=1,
    decoded=4,
    decode_rows=(2, 8),
    tests="roomy or batches or hash or pad_and_tags or nf4",
    smol_rows=2,
)


class Found:
    """What one check found. ``figures``: name with its unit → value."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.outcome, self.why = "pass", ""

    def expect(self, holds: bool, why: str, outcome: str = "fail") -> None:
        """``outcome`` with ``why`` where it does not hold: ``fail``, or ``missed`` for a goal; the first failure is kept."""
        if not holds and (self.outcome == "pass" or (self.outcome, outcome) == ("missed", "fail")):
            self.outcome, self.why = outcome, why


class Run:
    """Where a check works and how large it is, and what it replies with. ``pack``: folder of data and of a CPU's figures."""

    def __init__(self, pack: Path, work: Path, cpu: bool, send: Callable[[dict[str, Any]], None]) -> None:
        self.pack, self.work, self.cpu, self._send = pack, work, cpu, send
        self.sizes = SHRUNKEN if cpu else WHOLE
        self.device = torch.device("cpu" if cpu else "cuda")
        self.step, self.broken, self.since = "", False, time.monotonic()

    def folder(self, name: str) -> Path:
        """An empty folder of this step."""
        path = self.work / self.step / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @property
    def expected(self) -> dict[str, Any]:
        """What a CPU found at the same sizes."""
        return json.loads((self.pack / expected(self.cpu)).read_text(encoding="utf-8"))

    def needs_cuda(self, module: str = "torch") -> None:
        """Raise NotHere on a CPU, and where ``module`` is not installed."""
        if self.cpu:
            raise NotHere(NEEDS_CUDA)
        if not find_spec(module):
            raise NotHere(f"{module} is not installed")

    def needs(self, dtype: str) -> None:
        """Raise NotHere on a CPU that computes ``dtype`` in software: minutes for what takes seconds."""
        if self.cpu and dtype == "bfloat16" != fast_dtype():
            raise NotHere("this CPU has no bf16 arithmetic")

    def needs_folder(self, folder: Path) -> None:
        """Raise NotHere where an earlier check should have made ``folder``."""
        if not folder.is_dir():
            raise NotHere(UNDONE)

    def synchronize(self) -> float:
        """Seconds of a clock, once the device has done all that it was asked."""
        if not self.cpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def check(self, what: str) -> Iterator[Found]:
        """Reply with one line for the block. An error other than NotHere fails it and costs the next step a new worker."""
        found = Found()
        print(f"-- {what}", flush=True)
        with suppress(
            Exception
        ):  # what the check before left of a trainer; a CUDA error that it left must not end the step
            gc.collect()
            if not self.cpu:
                torch.cuda.empty_cache()
        try:
            yield found
        except NotHere as error:
            found.outcome, found.why = "skipped", str(error)
        except Exception as error:
            traceback.print_exc()
            self.broken |= not isinstance(error, GazalError)
            name = "" if isinstance(error, GazalError) else f"{type(error).__name__}: "
            found.outcome, found.why = "fail", name + " ".join(str(error).split())[:300]
        now = time.monotonic()
        self._send(
            {
                "step": self.step,
                "what": what,
                "outcome": found.outcome,
                "seconds": now - self.since,
                "why": found.why,
                "figures": found.figures,
            }
        )
        self.since = now

    def alone(self, name: str, check: bool = True) -> Path:
        """Call a function of gpu_training.ALONE in a process of its own, which prints where this one does; the folder it was given.
        Raises RuntimeError with its reason."""
        folder = self.folder(name)
        command = [
            sys.executable,
            __file__,
            "--alone",
            name,
            "--pack",
            str(self.pack),
            "--work",
            str(folder),
            *(["--cpu"] if self.cpu else []),
        ]
        done = subprocess.run(command, check=False)
        if check and done.returncode:
            left = folder / REASON
            raise RuntimeError(
                left.read_text(encoding="utf-8")
                if left.is_file()
                else f"{name}: its process ended with code {done.returncode}"
            )
        return folder


def machine(run: Run) -> None:
    """Versions and card."""
    with run.check("versions and card") as found:
        found.figures["Python"] = sys.version.split()[0]
        for name in PACKAGES:
            try:
                found.figures[name] = version(name)
            except PackageNotFoundError:
                found.figures[name] = "none"
        if run.cpu:
            found.figures["card"] = "none (CPU)"
            return
        if not torch.cuda.is_available():
            found.figures["card"] = NO_CARD
            return found.expect(False, "torch finds no NVIDIA GPU (--cpu makes the shrunken check)")
        card = torch.cuda.get_device_properties(0)
        found.figures |= {"card": card.name, "memory in GB": card.total_memory / 1e9, "CUDA": torch.version.cuda}
        if shutil.which("nvidia-smi"):
            asked = subprocess.run(
                ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
            found.figures["driver"] = asked.stdout.strip()


def steps() -> dict[str, Callable[[Run], None]]:
    """The functions of the steps by name."""
    import gpu_speed
    import gpu_training

    return {
        "machine": machine,
        "card": gpu_speed.card,
        "fp32": gpu_training.fp32,
        "bf16": gpu_training.bf16,
        "savers": gpu_training.savers,
        "4bit": gpu_training.four_bit,
        "32b": gpu_speed.widths_32b,
        "8b": gpu_speed.widths_8b,
        "tests": gpu_training.tests,
        "fsdp2": gpu_training.fsdp2,
        "smollm2": gpu_speed.smollm2,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--reply", type=int, help="where lines go: an open file")
    parser.add_argument("--alone", help="call one function and end")
    arguments = parser.parse_args()
    if arguments.alone:
        import gpu_training

        try:
            return gpu_training.ALONE[arguments.alone](Run(arguments.pack, arguments.work, arguments.cpu, print))
        except Exception as error:
            (arguments.work / REASON).write_text(
                " ".join(f"{type(error).__name__}: {error}".split())[:300], encoding="utf-8"
            )
            raise
    end_with(os.getppid(), psutil.Process(os.getppid()).create_time())
    reply = os.fdopen(arguments.reply, "w", encoding="utf-8")

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=reply, flush=True)

    run = Run(arguments.pack, arguments.work, arguments.cpu, send)
    named = steps()
    for line in sys.stdin:
        run.step, run.since = line.strip(), time.monotonic()
        send({"ready": True})
        print(f"== {run.step}", flush=True)
        named[run.step](run)
        send({"ended": "broken" if run.broken else "well"})


if __name__ == "__main__":
    import gpu_steps  # not as __main__: the other files import NotHere from here

    gpu_steps.main()
