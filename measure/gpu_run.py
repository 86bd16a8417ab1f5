"""Run the steps of the GPU check, each under its own time limit (``bash measure/gpu_check.sh``).

Standard library only: what the machine lacks is installed from the pack before anything else is imported. One worker
(gpu_steps.py) imports once and runs step after step. A step that breaks it or outlasts its limit costs a new worker, not the other steps.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACK, WORK, OUT = (ROOT / "build" / name for name in ("gpu", "gpu-work", "gpu-out"))
WHOLE = 530  # seconds for all of it: nine minutes less the time to bring files back
START = 240  # seconds for a worker's imports, from a cold disk
LEAST = 10  # seconds under which no step is begun
PATIENCE = 4  # times as long on a CPU, which may be busy
WORKER = ROOT / "measure" / "gpu_steps.py"
LINES, LOG, HASHES, CODE = "lines.jsonl", "log.txt", "files.json", "code.txt"
NO_CARD = "none"  # what the machine's line says where torch finds no GPU, and none was asked to
NEEDED = ("torch", "transformers", "peft", "accelerate")  # by the interpreter itself


@dataclass(frozen=True)
class Step:
    """``planned`` and ``limit``: seconds on a GPU machine, as expected and at most."""

    name: str
    about: str
    planned: int
    limit: int


STEPS = (
    Step("card", "bandwidth of a copy, rate of a bf16 matrix product", 10, 45),
    Step("fp32", "embedded SFT and GRPO in fp32 against a CPU's losses, merge parity, greedy completions", 50, 80),
    Step("bf16", "the same in bf16", 40, 70),
    Step("savers", "8-bit AdamW, logits in chunks, logits by liger", 45, 75),
    Step("4bit", "4-bit base: SFT, SIGKILL, resume, merge, a GRPO step; does each part of DoRA move?", 70, 100),
    Step(
        "32b",
        "two layers of 32B's widths: memory and step time against the plan, decoding through the adapter and merged",
        60,
        90,
    ),
    Step(
        "8b",
        "four layers of 8B's widths: LoRA, DoRA, DoRA with the norm from its factors; checkpointing on and off",
        50,
        90,
    ),
    Step("tests", "tests of options, exactness, generation and preflight", 100, 130),
    Step("fsdp2", "FSDP2 in one process through accelerate launch", 40, 70),
    Step("smollm2", "SmolLM2-135M: SFT and GRPO steps, tokens a second", 35, 90),
)
MACHINE = Step("machine", "versions and card", 10, 30)  # before whatever is asked for
NAMES = [step.name for step in STEPS]


class Stopped(Exception):
    """A signal asked the check to end."""


class Lines:
    """Writes lines to the disk as they come, and shows each in short."""

    def __init__(self, path: Path) -> None:
        self.path, self.failed, self.card = path, False, ""

    def add(
        self, step: str, what: str, outcome: str, seconds: float, why: str = "", figures: dict[str, Any] | None = None
    ) -> None:
        """``outcome``: pass, missed (right, but short of a goal), fail or skipped."""
        line = {
            "step": step,
            "what": what,
            "outcome": outcome,
            "seconds": round(seconds, 1),
            "why": why,
            "figures": figures or {},
        }
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.failed |= outcome == "fail"
        self.card = (figures or {}).get("card", self.card)
        shown = "; ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in (figures or {}).items()
        )
        print(
            f"{outcome:<7} {step:<8} {seconds:5.1f} s  {what}"
            + (f": {why}" if why else "")
            + (f"  [{shown}]" if shown else ""),
            flush=True,
        )


class Worker:
    """A process that runs steps; ``reply`` brings its lines, everything it prints goes to the log."""

    def __init__(self, options: list[str], log: Path) -> None:
        read, write = os.pipe()
        command = [sys.executable, str(WORKER), *options, "--reply", str(write)]
        with open(log, "a", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                text=True,
                pass_fds=[write],
                start_new_session=True,
            )
        os.close(write)
        self.reply, self.rest = read, b""

    def ask(self, step: str) -> None:
        with suppress(BrokenPipeError):  # it died between two steps: what comes next says so
            print(step, file=self.process.stdin, flush=True)

    def next(self, until: float) -> dict[str, Any] | None:
        """The next message; None when the process has ended. Raises TimeoutError at ``until`` (time.monotonic)."""
        while b"\n" not in self.rest:
            if not select.select([self.reply], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            got = os.read(self.reply, 65_536)
            if not got:
                return None
            self.rest += got
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def end(self) -> None:
        """Kill it with all that it started, in whatever session."""
        for pid in reversed(family(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.reply)


def family(pid: int) -> list[int]:
    """``pid`` and its descendants (Linux)."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def expected(cpu: bool) -> str:
    """The pack's file of what a CPU found, at the sizes of a GPU or of ``--cpu``."""
    return f"expected-{'shrunken' if cpu else 'whole'}.json"


def tree_hash() -> str:
    """SHA-256 of what a check runs: the package, its recipes, the check itself."""
    digest = hashlib.sha256()
    for path in sorted(
        path
        for name, ending in (("src", "*.py"), ("recipes", "*.yaml"), ("measure", "*.py"))
        for path in (ROOT / name).rglob(ending)
    ):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def damaged(pack: Path, cpu: bool) -> str:
    """What is wrong with the pack, empty where nothing is."""
    if not (pack / HASHES).is_file():
        return f"no pack in {pack}: bash measure/gpu_pack.sh where there is a network, then bring that folder along"
    hashes = json.loads((pack / HASHES).read_text(encoding="utf-8"))
    if expected(cpu) not in hashes:
        return f"{pack}: was prepared for the other sizes: bash measure/gpu_pack.sh{' --cpu' if cpu else ''}"
    for name, digest in hashes.items():
        path = pack / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return f"{path}: {'not as it was packed' if path.is_file() else 'not there'}; bring the pack again"
    return ""


def missing_wheels(wheels: Path, site: Path) -> list[Path]:
    """Wheels of the pack whose version is neither on this machine nor in ``site`` already."""
    here = {
        (d.metadata["Name"] or "").replace("-", "_").lower(): d.version
        for d in reversed([*importlib.metadata.distributions(path=[str(site), *sys.path])])
    }
    return [
        wheel
        for wheel in sorted(wheels.glob("*.whl"))
        if here.get(wheel.name.split("-")[0].lower()) != wheel.name.split("-")[1]
    ]


def install(pack: Path, site: Path) -> str:
    """Install what is missing into ``site``; why that cannot be, empty where it was done."""
    if lacking := [name for name in NEEDED if not find_spec(name)]:
        return f"{sys.executable} has no {', '.join(lacking)}: name another interpreter by PYTHON"
    wheels, mine = missing_wheels(pack / "wheels", site), f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if others := [tag for wheel in wheels for tag in re.findall(r"-(cp\d+)-cp\d+-", wheel.name) if tag != mine]:
        return f"the pack's wheels are for {others[0]} and {sys.executable} is {mine}: name another interpreter by PYTHON, or install there what gazal needs"
    if not wheels:
        return ""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--isolated",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
        "--upgrade",
        "--target",
        str(site),
    ]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""


def run(
    steps: tuple[Step, ...], options: list[str], lines: Lines, log: Path, until: float, patience: float = 1
) -> None:
    """Run ``steps`` until ``until`` (time.monotonic), each at most ``patience`` times its limit; a line for each that was cut, died or had no time left."""
    worker = None
    try:
        for step in steps:
            if time.monotonic() > until - LEAST:
                lines.add(
                    step.name, step.about, "skipped", 0.0, f"no time left: bash measure/gpu_check.sh --from {step.name}"
                )
                continue
            worker = worker or Worker(options, log)
            if not run_step(worker, step, lines, until, patience):
                worker.end()
                worker = None
            if lines.card == NO_CARD:
                return
    finally:
        if worker:
            worker.end()


def run_step(worker: Worker, step: Step, lines: Lines, until: float, patience: float) -> bool:
    """Run one step and write its lines; whether the worker can go on with the next."""
    began, limit = time.monotonic(), START * patience
    worker.ask(step.name)
    try:
        while message := worker.next(min(until, began + limit)):
            if "ready" in message:  # its imports are done: the step's own time begins
                began, limit = time.monotonic(), step.limit * patience
            elif "ended" in message:
                return message["ended"] == "well"
            else:
                lines.add(**message)
        code = worker.process.wait()
        why = f"its process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"
    except TimeoutError:
        why = f"cut after {time.monotonic() - began:.0f} s"
    except Stopped:
        lines.add(
            step.name,
            step.about,
            "fail",
            time.monotonic() - began,
            f"stopped; bash measure/gpu_check.sh --from {step.name} goes on",
        )
        raise
    lines.add(step.name, step.about, "fail", time.monotonic() - began, f"{why} (see {LOG})")
    return False


def stop(number: int, frame: Any) -> None:
    """End in order: the worker is killed, the step that was cut has its line."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="measure/gpu_check.sh", description="What a GPU shows of this project, in nine minutes."
    )
    parser.add_argument(
        "--from", dest="start", choices=NAMES, help="go on with this step; lines are added to those of the call before"
    )
    parser.add_argument("--cpu", action="store_true", help="every step in a shrunken form, without a GPU")
    parser.add_argument("--pack", type=Path, default=PACK, help="what measure/gpu_pack.sh made (build/gpu)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for models and packages (build/gpu-work)")
    arguments = parser.parse_args()
    began = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, stop)
    out, pack, work = (path.resolve() for path in (Path(os.environ.get("OUT") or OUT), arguments.pack, arguments.work))
    try:
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)
        lock = open(work / ".lock", "w")  # noqa: SIM115 - held until this process ends
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not arguments.start:
            (out / LINES).unlink(missing_ok=True)
        return check(arguments.start or NAMES[0], arguments.cpu, pack, work, out, began)
    except BlockingIOError:
        return f"{work}: another check is at work there"
    except OSError as error:
        return f"{error.filename}: cannot be written ({error.strerror})"
    except Stopped:
        return "stopped"


def check(start: str, cpu: bool, pack: Path, work: Path, out: Path, began: float) -> int:
    """The whole check; 1 where something failed."""
    lines, site = Lines(out / LINES), work / f"site-{sys.version_info[0]}.{sys.version_info[1]}"
    problem = damaged(pack, cpu) or install(pack, site)
    code, tree = (
        (pack / CODE).read_text(encoding="utf-8").split()
        if (pack / CODE).is_file() and not problem
        else ("unknown", tree_hash())
    )
    code += "" if tree == tree_hash() or code.endswith("+changes") else "+changes"
    told = {
        "command": shlex.join(["bash", "measure/gpu_check.sh", *sys.argv[1:]]),
        "code": code,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    lines.add(
        "pack", "packages and data of the pack", "fail" if problem else "pass", time.monotonic() - began, problem, told
    )
    if problem:
        return 1
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(site), *(str(ROOT / name) for name in ("src", "measure", "tests"))]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    options, patience = ["--pack", str(pack), "--work", str(work), *(["--cpu"] if cpu else [])], PATIENCE if cpu else 1
    run((MACHINE, *STEPS[NAMES.index(start) :]), options, lines, out / LOG, began + WHOLE * patience, patience)
    print(f"{time.monotonic() - began:.0f} s; lines in {os.path.relpath(lines.path)}")
    return int(lines.failed)


if __name__ == "__main__":
    sys.exit(main())
