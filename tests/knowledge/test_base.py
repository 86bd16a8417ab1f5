"""The packaged base model: what its manifest says is what lies beside it, and it thinks only when taught."""

from __future__ import annotations

import json

import pytest

from gazal.common.files import sha256
from gazal.common.paths import EMBEDDED
from gazal.data.sources import BUCKETS
from gazal.engines.load import load_engine
from gazal.items.prompts import SYSTEM, build_messages
from gazal.knowledge.base_train import BASE_BUCKETS, BaseTraining, probe, train_base
from gazal.knowledge.generate import draw
from gazal.models.generation import generate
from gazal.models.loading import load_model, load_tokenizer
from gazal.training.rollouts import encode_prompts


@pytest.fixture(scope="module")
def base():
    return load_model(EMBEDDED), load_tokenizer(EMBEDDED)


def test_files_are_those_of_the_manifest_and_small_enough_for_the_package():
    manifest = json.loads((EMBEDDED / "manifest.json").read_text(encoding="utf-8"))
    assert {name: sha256(EMBEDDED / name) for name in manifest["sha256"]} == manifest["sha256"]
    assert "model.safetensors" in manifest["sha256"]
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 15e6


def test_it_knows_the_facts(base):
    known = probe(*base, n_diseases=150, n=40)
    assert known["reported"] > 0.95 and known["not_reported"] > 0.95 and known["total"] > 0.95


def test_it_answers_without_thinking_and_stops(base):
    model, tokenizer = base
    items = list(draw("diagnosis", 12, 5, BUCKETS["dev"], variety="plain")) + list(
        draw("treatment", 12, 5, BUCKETS["dev"], variety="plain")
    )
    made = list(
        generate(
            model, tokenizer, encode_prompts(tokenizer, [build_messages(i, SYSTEM) for i in items]), max_new_tokens=64
        )
    )
    assert not any("<think>" in tokenizer.decode(one.ids) for one in made)
    assert sum(one.finish_reason == "stop" for one in made) >= 20


def test_no_split_of_a_run_is_in_its_buckets():
    assert not any(bucket in BASE_BUCKETS for buckets in BUCKETS.values() for bucket in buckets)


@pytest.mark.slow
def test_training_from_nothing_writes_a_loadable_model_and_continues(tmp_path):
    config = BaseTraining(steps=4, rows=2, length=64, hidden=64, layers=1, checkpoint_every=2, warmup=1)
    train_base(tmp_path / "base", config, compile_model=False)
    manifest = json.loads((tmp_path / "base" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["tokens"] == 4 * 2 * 64 and not (tmp_path / "base" / ".checkpoint.pt").exists()
    assert load_engine(tmp_path / "base").name == "base"
