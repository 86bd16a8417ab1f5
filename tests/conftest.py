"""Shared fixtures: small items, and a tiny random Qwen3 with its own tokenizer, made in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

# The property tests try the same examples on every machine, and no slow moment fails one; README names the command that tries others.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fixed", settings.get_profile("random"), derandomize=True)
settings.load_profile("fixed")

# The files that take longest, longest first: workers begin with them, so that none is left with one at the end.
LONG = """
trainer/test_resume trainer/test_resume_rest measure/test_gpu_check training/test_launch test_reproduce red_team/test_search
predictions/test_predictions evaluation/test_published scoring/test_scoring scoring/test_faithfulness planning/test_planning
paper/test_paper trainer/test_options training/test_preflight trainer/test_throughput training/test_training
teacher/test_teacher trainer/test_health teacher/test_teacher_serve engines/test_engine_parity notebook/test_browse
knowledge/test_generate_rich knowledge/test_generate knowledge/test_base evaluation/test_evaluation common/test_hub
""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; xdist keeps this order under --no-loadscope-reorder."""
    tests = Path(__file__).parent
    order = {tests / f"{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes name a test by their number: what they hold may differ from worker to worker (a gzip header has the time), and xdist then refuses to run."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture
def gazal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CompletedProcess[str]]:
    """Run a command line in this process, which has imported everything; returns what a process of its own would."""

    from gazal import cli  # not above: the GPU check runs tests without the command line's packages

    def run(*arguments: str | Path) -> CompletedProcess[str]:
        monkeypatch.setattr("sys.argv", ["gazal", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return CompletedProcess(list(arguments), int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random one-layer Qwen3 (hidden 32) and a tokenizer trained on a few items."""

    # Not above: the process that only hands tests to the workers would wait ten seconds for these.
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from gazal.items.prompts import SYSTEM, completion_text, question_text
    from gazal.knowledge.base_tokenizer import train_tokenizer
    from gazal.knowledge.generate import synthesize

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    items = synthesize(40, 1, variety="plain")
    tokenizer = train_tokenizer(
        [SYSTEM, *(question_text(i) + "\n" + completion_text(i, i.reasoning or "") for i in items)], 700
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            intermediate_size=64,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
