"""Shared fixtures: small items, and a tiny random Qwen3 with its own tokenizer, made in seconds."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import Qwen3Config, Qwen3ForCausalLM

from gazal.items.prompts import SYSTEM, completion_text, question_text
from gazal.knowledge.base_tokenizer import train_tokenizer
from gazal.knowledge.generate import synthesize

# The property tests try the same examples on every machine, and no slow moment fails one; README names the command that tries others.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fixed", settings.get_profile("random"), derandomize=True)
settings.load_profile("fixed")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes name a test by their number: what they hold may differ from worker to worker (a gzip header has the time), and xdist then refuses to run."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random one-layer Qwen3 (hidden 32) and a tokenizer trained on a few items."""
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
