"""Several processes train what one does: real gloo processes on this machine's CPU, a tiny real model.

Most start from a fork server that has imported the libraries once; the environment is the one that `accelerate
launch` makes of the shipped configs. Some go through `accelerate launch` itself, as a notebook's cell does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers.cpu_shards import shard_on_cpus
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from gazal.common.errors import GazalError
from gazal.items.writing import write_items_parquet
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_tokenizer
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import LaunchSection
from gazal.runs import RunFolder
from gazal.training.launch import CONFIGS, launch_command, reason, run_stage, started
from gazal.training.worker import REASONS, SAID, train, work

CURVE = 1e-5  # largest difference of a logged loss from the single process's, relative, fp32
ADAPTER = 1e-4  # largest difference of an adapter's weight, absolute; weights are up to about 1
STEPS, CUT = 6, 3
TWO = {"processes": 2}


@pytest.fixture(scope="module")
def values(tiny_model: Path) -> dict:
    return {
        "model": {"base": str(tiny_model)},
        "threads": 1,
        # 23 examples in steps of 8: the last step of an epoch is short, and the two processes' shares of it differ
        "sft": {
            "batch_size": 8,
            "epochs": 2.0,
            "learning_rate": 2e-2,
            "warmup_steps": 0,
            "bf16": False,
            "checkpoint_steps": CUT,
        },
        "grpo": {
            "steps": 2,
            "prompts_per_step": 4,
            "num_generations": 4,
            "batch_size": 4,
            "pass_rate_samples": 0,
            "bf16": False,
            "max_completion_length": 48,
            "rewards": {"max_tokens": 48, "cosine_wrong_short": 0.5, "cosine_wrong_long": -0.5},
        },
    }


@pytest.fixture(scope="module")
def make(values: dict, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """A run folder whose data stage is done; overrides are sections of the recipe."""

    def made(launch: dict | None = None, **sections: dict) -> RunFolder:
        changed = {
            name: value | sections.get(name, {}) if isinstance(value, dict) else value for name, value in values.items()
        }
        run = RunFolder(tmp_path_factory.mktemp("run"), Recipe.model_validate(changed | {"launch": launch or {}}))
        with run.stage("data") as folder:
            items = synthesize(23, 3, variety="plain")
            write_items_parquet(folder / "sft.parquet", items)
            write_items_parquet(folder / "grpo.parquet", items)
        return run

    return made


class Cut(TrainerCallback):
    """Ends training as a kill after the first checkpoint would."""

    def on_save(self, args, state, control, **kwargs) -> None:
        raise KeyboardInterrupt("cut")


class Shards(TrainerCallback):
    """Notes how much of the model each process holds while it trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        sizes = [(value.to_local() if isinstance(value, DTensor) else value).numel() for value in model.parameters()]
        (self.folder / f"shard-{args.process_index}.json").write_text(
            json.dumps([sum(sizes), sum(value.numel() for value in model.parameters())])
        )


def child(
    rank: int,
    environment: dict[str, str],
    log: Path,
    stage: str,
    run: Path,
    launch: LaunchSection,
    callbacks: Sequence[TrainerCallback],
) -> None:
    with open(log, "w", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    shard_on_cpus()
    work(stage, run, launch, callbacks)


@pytest.fixture(scope="module")
def together() -> Callable[..., list[str]]:
    """Runs a stage in two processes; returns what was said. Raises GazalError with the first reason left."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gazal.training.sft", "gazal.training.grpo", "accelerate.utils.fsdp_utils"])

    def two(stage: str, run: RunFolder, launch: dict, callbacks: Sequence[TrainerCallback] = ()) -> list[str]:
        recipe = run.recipe.model_copy(update={"launch": LaunchSection.model_validate(launch)})
        arguments, *_ = _validate_launch_command(
            launch_command_parser().parse_args(launch_command(stage, run.path, recipe)[3:])
        )
        reasons = run / "reasons"
        reasons.mkdir(exist_ok=True)
        environment = prepare_multi_gpu_env(arguments)
        environment |= {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(arguments.main_process_port),
            REASONS: str(reasons),
        }
        logs = [run / f"log-{rank}" for rank in range(2)]
        processes = [
            context.Process(
                target=child, args=(rank, environment, logs[rank], stage, run.path, recipe.launch, callbacks)
            )
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(240)
            process.kill()
        left = sorted(
            (json.loads(path.read_text()) for path in reasons.glob("*.json")), key=lambda reason: reason["time"]
        )
        shutil.rmtree(reasons)
        if any(process.exitcode for process in processes):
            raise GazalError(left[0]["line"] if left else logs[0].read_text()[-1000:])
        return [line.split(SAID, 1)[1].strip() for line in logs[0].read_text().splitlines() if SAID in line]

    return two


def losses(run: RunFolder) -> list[float]:
    rows = [json.loads(line) for line in (run / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def assert_as_alone(run: RunFolder, alone: RunFolder) -> None:
    assert losses(run) == pytest.approx(losses(alone), rel=CURVE) and len(losses(run)) == STEPS
    adapter, expected = (load_file(folder / "sft" / "adapter" / "adapter_model.safetensors") for folder in (run, alone))
    assert adapter.keys() == expected.keys()
    assert max((adapter[name] - expected[name]).abs().max().item() for name in expected) < ADAPTER
    assert max(value.abs().max().item() for value in expected.values()) > 100 * ADAPTER
    assert json.loads((run / "sft" / "parity.json").read_text())["largest_relative_error"]["float32"] < 1e-5


@pytest.fixture(scope="module")
def alone(make) -> RunFolder:
    run = make()
    train("sft", run.path, run.recipe.launch, say=lambda line: None)
    return run


@pytest.fixture(scope="module")
def half_alone(make) -> RunFolder:
    run = make()
    with pytest.raises(KeyboardInterrupt):
        train("sft", run.path, run.recipe.launch, [Cut()], say=lambda line: None)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_and_one_goes_on_from_their_checkpoint(strategy, make, together, alone) -> None:
    run = make(grpo={"rollouts": "trainer"})
    with pytest.raises(GazalError, match="cut"):
        together("sft", run, TWO | {"strategy": strategy}, [Shards(run.path), Cut()])
    held = [json.loads((run / f"shard-{rank}.json").read_text()) for rank in range(2)]
    assert (
        all(own == whole for own, whole in held) if strategy == "ddp" else all(own < 0.6 * whole for own, whole in held)
    )
    assert losses(run) == pytest.approx(losses(alone)[:CUT], rel=CURVE)
    said: list[str] = []
    train("sft", run.path, run.recipe.launch, say=said.append)
    assert f"goes on from checkpoint-{CUT}" in said
    assert_as_alone(run, alone)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_go_on_from_the_checkpoint_of_one(strategy, half_alone, together, alone, tmp_path) -> None:
    run = RunFolder(shutil.copytree(half_alone.path, tmp_path / "run"), half_alone.recipe)
    assert f"goes on from checkpoint-{CUT}" in together("sft", run, TWO | {"strategy": strategy})
    assert_as_alone(run, alone)


@pytest.fixture(scope="module")
def soon_ending(alone: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merged SFT model with a louder EOS: completions end early, each at another length."""
    folder = shutil.copytree(alone / "sft" / "merged", tmp_path_factory.mktemp("soon") / "merged")
    weights = load_file(folder / "model.safetensors")
    (eos,) = {load_tokenizer(folder).eos_token_id}
    weights["model.embed_tokens.weight"][eos] *= 4
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rollouts"), [("ddp", "merged"), ("fsdp2", "trainer")])
def test_grpo_in_two_processes(strategy, rollouts, make, together, soon_ending) -> None:
    run = make(TWO | {"strategy": strategy}, grpo={"rollouts": rollouts})
    shutil.copytree(soon_ending, run / "sft" / "merged")
    said = together("grpo", run, TWO | {"strategy": strategy})
    assert any("merge parity" in line for line in said)
    rows = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(row["reward_std"] > 0 for row in rows)
    assert all(row["completions/min_length"] < row["completions/max_length"] for row in rows)
    kept = pd.read_parquet(run / "grpo" / "completions.parquet")
    assert kept.groupby("step").size().to_list() == [2, 2]  # one of each group of the first process


@pytest.mark.slow
def test_launched_from_a_cell_killed_and_gone_on_with(make, alone) -> None:
    run = make(TWO)
    pids: list[int] = []

    def kill_one(line: str) -> None:
        if line.startswith(f"step {STEPS}/") and not pids:
            workers = [
                p
                for p in psutil.Process().children(recursive=True)
                if "gazal.training.worker" in p.cmdline() and "accelerate.commands.launch" not in p.cmdline()
            ]
            pids.extend(p.pid for p in workers)
            workers[-1].send_signal(signal.SIGKILL)

    reason = "sft: a worker was ended by SIGKILL, perhaps for want of memory .see .*workers.log"
    with pytest.raises(GazalError, match=reason), run.stage("sft", parents=["data"]):
        run_stage("sft", run, say=kill_one)
    assert not run.done("sft") and len(pids) == 2 and not any(psutil.pid_exists(pid) for pid in pids)
    said: list[str] = []
    with run.stage("sft", parents=["data"]):
        last = run_stage("sft", run, say=said.append)
    assert (
        last["step"] == STEPS
        and any(line.startswith("goes on from checkpoint-") for line in said)
        and said[-1].startswith("merge parity")
    )
    assert_as_alone(run, alone)
    assert not (run / "sft" / ".workers.log").exists()


@pytest.mark.slow
def test_a_workers_error_comes_back_as_its_one_line(make) -> None:
    run = make(TWO, sft={"max_length": 16})
    with pytest.raises(GazalError) as caught:
        run_stage("sft", run, say=lambda line: None)
    assert str(caught.value) == "sft.max_length: all 23 examples are longer than 16 tokens"
    assert not (run / "sft" / "adapter").exists() and not (run / "sft" / "manifest.json").exists()


def test_any_other_error_names_its_type_and_the_log(tmp_path) -> None:
    (tmp_path / "log").write_text(
        "Traceback …\n  traceback : Signal 15 (SIGTERM) received by PID 7\n"
    )  # as the launcher ends the others
    (tmp_path / "1.json").write_text(
        json.dumps({"line": "RuntimeError: Connection closed by peer", "clear": False, "time": 2.0})
    )
    (tmp_path / "0.json").write_text(json.dumps({"line": "ValueError: no such thing", "clear": False, "time": 1.0}))
    assert reason("sft", tmp_path, tmp_path / "log").startswith("sft: a worker failed: ValueError: no such thing (see ")


def test_however_the_cell_ends_no_process_is_left() -> None:
    family = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('up', flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt), started([sys.executable, "-c", family], dict(os.environ)) as process:
        assert process.stdout.readline() == "up\n"
        members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        raise KeyboardInterrupt
    assert len(members) == 2 and not any(member.is_running() for member in members)


def test_workers_end_with_the_notebook() -> None:
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(watched.pid).create_time()
    code = f"import time; from gazal.training.worker import end_with; end_with({watched.pid}, {created}); print('up', flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "up\n"
    time.sleep(1.5)
    assert worker.poll() is None
    watched.kill()
    watched.wait()
    assert worker.wait(10) == 1
    worker.stdout.close()


def test_missing_deepspeed_is_one_line_at_once(make) -> None:
    run = make(TWO | {"strategy": "zero3"}, grpo={"rollouts": "trainer"})
    with pytest.raises(
        GazalError, match=r"^launch.strategy=zero3: needs .*deepspeed \(pip install 'gazal\[gpu\]'\), not found here$"
    ):
        run_stage("sft", run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="shards there")
@pytest.mark.slow
def test_what_accelerate_would_not_shard_is_refused(make) -> None:
    run = make(TWO | {"strategy": "fsdp2"}, grpo={"rollouts": "trainer"})
    with pytest.raises(GazalError, match="^launch.strategy=fsdp2: needs an NVIDIA GPU, not found here$"):
        run_stage("sft", run, say=lambda line: None)


def test_several_machines_need_an_address_and_start_from_the_first(make, monkeypatch) -> None:
    run = make({"processes": 4, "machines": 2})
    with pytest.raises(GazalError, match="launch.machines: 2 need GAZAL_MAIN_ADDRESS=host:port"):
        run_stage("sft", run)
    monkeypatch.setenv("GAZAL_MAIN_ADDRESS", "node0:29501")
    monkeypatch.setenv("GAZAL_MACHINE_RANK", "1")
    with pytest.raises(GazalError, match="notebooks run on machine 0; here run `python -m gazal.training.launch sft"):
        run_stage("sft", run)
    arguments, *_ = _validate_launch_command(
        launch_command_parser().parse_args(launch_command("sft", run.path, run.recipe)[3:])
    )
    assert (arguments.num_machines, arguments.num_processes, arguments.machine_rank) == (2, 4, 1)
    environment = prepare_multi_gpu_env(arguments)
    assert (arguments.nproc_per_node, arguments.nnodes, arguments.node_rank, arguments.rdzv_endpoint) == (
        "2",
        "2",
        1,
        "node0:29501",
    )
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"


def test_shipped_configs_are_what_accelerate_reads(make) -> None:
    kinds = {path.stem: load_config_from_file(str(path)) for path in CONFIGS.glob("*.yaml")}
    assert {name: config.distributed_type.value for name, config in kinds.items()} == {
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
        "zero3": "DEEPSPEED",
    }
    assert kinds["fsdp2"].fsdp_config["fsdp_version"] == 2 and kinds["zero3"].deepspeed_config["zero_stage"] == 3
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(kinds["fsdp2"].fsdp_config) <= set(known) and set(kinds["zero3"].deepspeed_config) <= set(known)
    run = make(TWO | {"strategy": "fsdp2"}, grpo={"rollouts": "trainer"}, sft={"bf16": True})
    arguments, *_ = _validate_launch_command(
        launch_command_parser().parse_args(launch_command("sft", run.path, run.recipe)[3:])
    )
    environment = prepare_multi_gpu_env(arguments)
    assert {
        name: environment[name]
        for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION", "FSDP_RESHARD_AFTER_FORWARD", "ACCELERATE_MIXED_PRECISION")
    } == {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "ACCELERATE_MIXED_PRECISION": "bf16",
    }


def test_a_run_goes_on_under_another_launch_only(make) -> None:
    run = make()
    wider = run.recipe.model_copy(update={"launch": LaunchSection(processes=2)})
    assert RunFolder(run.path, wider).done("data")
    with pytest.raises(GazalError, match="holds a run of another recipe .seed: "):
        RunFolder(run.path, wider.model_copy(update={"seed": 2}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"launch": {"processes": 3}}, "launch.processes: 3 do not share the 32 sequences of a step"),
        ({"launch": {"processes": 4, "machines": 3}}, "launch.machines: 3 do not share 4 processes evenly"),
        ({"launch": {"processes": 32}}, "launch.processes: 32 do not divide grpo.prompts_per_step 16"),
        ({"launch": {"processes": 2, "strategy": "fsdp2"}}, "with launch.strategy fsdp2 set grpo.rollouts=trainer"),
    ],
)
def test_impossible_launches_are_refused_by_the_recipe(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(changes)


def test_processes_share_a_step_and_never_change_it() -> None:
    section = Recipe.model_validate({"sft": {"batch_size": 8, "gradient_accumulation": 4}}).sft
    assert [section.per_process(n) for n in (1, 2, 4, 8, 16)] == [(8, 4), (8, 2), (8, 1), (4, 1), (2, 1)]
