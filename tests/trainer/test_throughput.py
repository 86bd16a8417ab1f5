"""Speed without a change of results: merged rollouts, decoding, packing, order, logits in chunks, throughput."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from helpers.formats import check
from peft import PeftModel, get_peft_model
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gazal.common.errors import GazalError
from gazal.knowledge.generate import synthesize
from gazal.models.generation import generate, pick
from gazal.models.loading import load_model, load_tokenizer, lora_config
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import AdapterSection
from gazal.trainer.schemas import SftStep
from gazal.trainer.throughput import attention_flops, flops_per_token, peak_flops, sequence_lengths
from gazal.training.rollouts import MergedModel
from gazal.training.sft import sft_dataset, sft_trainer, train_sft

VARIANTS = [{"dora": True, "rslora": True}, {"dora": False, "rslora": True}, {"dora": False, "rslora": False}]


def tokens(rows: int = 6, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(20, 600, (rows, width), generator=torch.Generator().manual_seed(seed))


def new_policy(folder, **adapter) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(load_model(folder), lora_config(AdapterSection(rank=4, alpha=8, **adapter)))


def train(policy: PeftModel, steps: int, rate: float = 1e-2) -> None:
    """Real optimizer steps on random tokens."""
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        ids = tokens(seed=step)
        policy(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def log_probs(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.log_softmax(-1)


def fresh_merge(policy: PeftModel) -> dict[str, torch.Tensor]:
    """PEFT's own merge of a copy of the policy."""
    return copy.deepcopy(policy).merge_and_unload(safe_merge=True).state_dict()


@pytest.mark.parametrize("adapter", VARIANTS)
def test_rollout_model_follows_the_policy(tiny_model, adapter):
    policy, tokenizer = new_policy(tiny_model, **adapter), load_tokenizer(tiny_model)
    merged = MergedModel(policy)
    start = log_probs(merged.refresh(), tokens())
    for _ in range(3):
        train(policy.train(), 3)
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        stale = log_probs(merged.model, tokens())
        found = log_probs(merged.refresh(), tokens())
        expected = log_probs(policy, tokens())
        assert (found - expected).abs().max() < 1e-4 < (stale - expected).abs().max()
        assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert (found - start).abs().max() > 0.1
    prompts = [row[:8].tolist() for row in tokens(12)]
    made, wanted = (
        sorted(generate(model, tokenizer, prompts, max_new_tokens=16)) for model in (merged.model, policy.eval())
    )
    assert made == wanted


@pytest.mark.parametrize("adapter", VARIANTS)
def test_a_hundred_refreshes_leave_what_one_fresh_merge_gives(tiny_model, adapter):
    policy = new_policy(tiny_model, **adapter)
    pristine = {name: value.clone() for name, value in policy.state_dict().items() if "lora_" not in name}
    merged = MergedModel(policy)
    for _ in range(100):
        train(policy, 1)
        merged.refresh()
    found, expected = merged.model.state_dict(), fresh_merge(policy)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(policy.state_dict()[name], value) for name, value in pristine.items())
    assert not any(layer.merged_adapters or layer._caches for layer, _ in merged.layers)


def test_rollout_model_copies_the_adapted_layers_only(tiny_model):
    policy = new_policy(tiny_model)
    merged = MergedModel(policy)
    own = {p.data_ptr(): p.nbytes for p in merged.model.parameters()}
    for parameter in policy.parameters():
        own.pop(parameter.data_ptr(), None)
    assert sum(own.values()) == merged.copied_bytes == sum(layer.base_layer.weight.nbytes for layer, _ in merged.layers)
    assert merged.model.lm_head.weight is merged.model.model.embed_tokens.weight is policy.get_input_embeddings().weight
    assert not any(p.requires_grad for p in merged.model.parameters())


def test_bias_and_bf16_weights_are_merged_as_peft_does(tiny_model):
    from transformers import Qwen2Config, Qwen2ForCausalLM  # its q, k and v have biases

    torch.manual_seed(0)
    base = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=700,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    policy = get_peft_model(base.to(torch.bfloat16), lora_config(AdapterSection(rank=4, alpha=8)))
    train(policy, 2)
    found, expected = MergedModel(policy).refresh().state_dict(), fresh_merge(policy)
    assert all(torch.equal(found[name], value) and value.dtype == torch.bfloat16 for name, value in expected.items())


def test_what_cannot_be_merged_is_refused(tiny_model):
    policy = new_policy(tiny_model, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(GazalError, match=r"embed_tokens has an adapter on Embedding.*grpo.rollouts=trainer"):
        MergedModel(policy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_greedy_is_transformers_generate(tiny_model, dtype):
    model, tokenizer = load_model(tiny_model, dtype), load_tokenizer(tiny_model)
    ids = tokens(5, 12)
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=tokenizer.pad_token_id
        ),
    )
    made = sorted(generate(model, tokenizer, ids.tolist(), max_new_tokens=24))
    assert [done.ids for done in made] == expected[:, ids.shape[1] :].tolist()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 0.8, 20), (0.7, 0.5, 0), (1.3, 1.0, 5)]
)
def test_pick_draws_from_the_distribution_of_transformers_warpers(temperature, top_p, top_k):
    logits = 3 * torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    warpers = [
        TemperatureLogitsWarper(temperature),
        *([TopKLogitsWarper(top_k)] if top_k else []),
        *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
    ]
    expected = LogitsProcessorList(warpers)(None, logits).softmax(-1)[0].double()
    count = 20_000  # evenly spread draws measure the probabilities themselves, to 1 / count each
    draws = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = torch.bincount(pick(logits.expand(count, -1), draws, temperature, top_p, top_k), minlength=50) / count
    assert (found - expected).abs().max() < 1.5 / count + 1e-6
    edges = pick(logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), temperature, top_p, top_k)
    assert (expected[edges] > 0).all()


def test_a_completion_depends_on_its_own_draws_only(tiny_model, monkeypatch):
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    prompts = tokens(8, 10).tolist()
    options = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3}
    first = list(generate(model, tokenizer, prompts, **options))
    stop = int(np.bincount(np.concatenate([one.ids[:12] for one in first])).argmax())
    monkeypatch.setattr(model.generation_config, "eos_token_id", [stop])  # now rows leave the batch
    second = list(generate(model, tokenizer, prompts, **options))
    assert any(len(one.ids) < 24 for one in second)
    for whole, cut in zip(first, second, strict=True):
        assert cut.ids == whole.ids[: len(cut.ids)] and (cut.finish_reason == "stop") == (
            cut.ids[-1] in (stop, tokenizer.eos_token_id)
        )


@pytest.fixture(scope="module")
def items():
    return synthesize(40, 5, variety="plain")


def trainer_of(tiny_model, items, folder, **sft):
    recipe = Recipe.model_validate(
        {"model": {"base": str(tiny_model)}, "sft": {"batch_size": 4, "bf16": False, "max_length": 600, **sft}}
    )
    torch.manual_seed(0)
    return sft_trainer(recipe, sft_dataset(items, ""), load_tokenizer(tiny_model), folder, [])


def moved(trainer):
    """The trainer's policy with an adapter that does something."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return trainer.model.train()


def test_packed_examples_are_whole_and_see_only_themselves(tiny_model, items, tmp_path):
    packed, plain = (trainer_of(tiny_model, items, tmp_path, packing=on) for on in (True, False))
    model, eos = moved(packed), packed.processing_class.eos_token_id
    seen, several = [], 0
    for batch in packed.get_train_dataloader():
        assert "attention_mask" not in batch
        with torch.no_grad():
            together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[
                0
            ]
        lengths, places = sequence_lengths(batch)
        assert int(lengths.sum()) == places and int(lengths.max()) <= 600
        several = max(several, len(lengths))
        parts = [
            batch["input_ids"][0].split(lengths.tolist()),
            batch["labels"][0].split(lengths.tolist()),
            together.split(lengths.tolist()),
        ]
        count = (batch["labels"] != -100).sum()
        losses = []
        for ids, labels, logits in zip(*parts, strict=True):
            assert eos in ids[labels != -100][-2:]
            alone = model(input_ids=ids[None], labels=labels[None], num_items_in_batch=count, use_cache=False)
            assert torch.allclose(alone.logits[0], logits, rtol=1e-4, atol=1e-4)
            losses.append(alone.loss)
            seen.append(tuple(ids.tolist()))
        loss = packed.compute_loss(model, dict(batch), num_items_in_batch=count)
        assert torch.allclose(loss, sum(losses), rtol=1e-5)
    assert several > 4
    assert sorted(seen) == sorted(tuple(ids) for ids in plain.train_dataset["input_ids"])


def test_grouped_batches_hold_every_example_with_less_padding(tiny_model, items, tmp_path):
    shares = {}
    for sampling in ("random", "grouped"):
        trainer = trainer_of(tiny_model, items, tmp_path, sampling=sampling)
        batches = [sequence_lengths(batch) for batch in trainer.get_train_dataloader()]
        assert sorted(torch.cat([lengths for lengths, _ in batches]).tolist()) == sorted(
            map(len, trainer.train_dataset["input_ids"])
        )
        shares[sampling] = 1 - sum(int(lengths.sum()) for lengths, _ in batches) / sum(places for _, places in batches)
    assert shares["grouped"] < 0.85 * shares["random"]


def test_grouped_and_packed_is_refused():
    with pytest.raises(GazalError, match="sft: sampling: grouped orders examples that are not packed"):
        load_recipe("embedded", ["sft.packing=true", "sft.sampling=grouped"])


@pytest.mark.parametrize("packing", [False, True])
def test_logits_in_chunks_give_the_same_loss_and_gradients(tiny_model, items, tmp_path, packing):
    losses, gradients = [], []
    trainers = [
        trainer_of(tiny_model, items, tmp_path, logits=logits, packing=packing) for logits in ("full", "chunked")
    ]
    batch = next(iter(trainers[0].get_train_dataloader()))
    assert int((batch["labels"] != -100).sum()) > 256  # more than one chunk
    for trainer in trainers:
        model = moved(trainer)
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(500))
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert torch.allclose(*losses, rtol=1e-6)
    full, chunked = gradients
    assert full.keys() == chunked.keys() and max(value.abs().max() for value in full.values()) > 1e-3
    for name, value in full.items():
        assert torch.allclose(value, chunked[name], rtol=1e-4, atol=1e-6), name


def test_each_step_logs_what_it_trained(tiny_model, items, tmp_path):
    recipe = Recipe.model_validate(
        {
            "model": {"base": str(tiny_model), "system": ""},
            "sft": {
                "batch_size": 4,
                "max_length": 600,
                "gradient_accumulation": 2,
                "bf16": False,
                "learning_rate": 1e-2,
            },
        }
    )
    train_sft(recipe, items, tmp_path, say=lambda line: None)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trainer = trainer_of(tiny_model, items, tmp_path)
    lengths = sorted(map(len, trainer.train_dataset["input_ids"]))
    assert rows[-1]["num_tokens"] == sum(lengths)
    for row in rows:
        check(SftStep, row)
        assert row["tokens_per_second"] > 0 and 0 < row["mfu"] < 2
        assert 0 <= row["padding_share"] < 1 - lengths[0] / lengths[-1]
    assert max(row["padding_share"] for row in rows) > 0.05


def test_model_flops_are_those_of_palm_with_frozen_weights(tiny_model):
    policy = new_policy(tiny_model)
    embedding, attention, mlp = (
        700,
        2 * (2 * 16) * 32 + 2 * 16 * 32,
        3 * 32 * 64,
    )  # the tied embedding is the output matrix
    vocabulary = policy.config.vocab_size
    adapter = 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert flops_per_token(policy) == 4 * (vocabulary * 32 + attention + mlp) + 6 * adapter and vocabulary <= embedding
    assert attention_flops(policy, torch.tensor([3, 5])) == 12 * 1 * 2 * 16 * (9 + 25)
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e8


def test_lengths_of_padded_packed_and_grpo_batches():
    padded = {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    packed = {"position_ids": torch.tensor([[0, 1, 2, 0, 1]])}
    grpo = {"prompt_mask": torch.tensor([[0, 1], [1, 1]]), "completion_mask": torch.tensor([[1, 0, 0], [1, 1, 1]])}
    assert [(lengths.tolist(), places) for lengths, places in map(sequence_lengths, (padded, packed, grpo))] == [
        ([2, 3], 6),
        ([3, 2], 5),
        ([2, 5], 10),
    ]
