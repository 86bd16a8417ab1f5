"""Preflight: real templates against what TRL tokenises, each fault provoked, and a run that is the same with and without it."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import trl
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from gazal.common.errors import GazalError
from gazal.items.prompts import CHATML_TEMPLATE, build_messages, completion_text
from gazal.items.schema import Item
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_tokenizer
from gazal.recipe.recipe import Recipe
from gazal.training.checks import Check
from gazal.training.preflight import (
    EXAMPLE,
    check_end,
    check_lengths,
    check_pad,
    check_tags,
    check_template,
    preflight_grpo,
    preflight_sft,
    print_checks,
)
from gazal.training.probes import judge_rewards, untouched
from gazal.training.sft import sft_dataset, sft_trainer, train_sft

SMOLLM2 = (  # from the GGUF file of SmolLM2-135M-Instruct: it puts a system turn of its own before a user's first turn
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant"
    " named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def shipped(name: str) -> str:
    """A model's own chat template, as TRL ships it."""
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


TEMPLATES = {
    "chatml": CHATML_TEMPLATE,
    "qwen3": shipped("qwen3"),
    "qwen3 for training": shipped("qwen3_training"),
    "smollm2": SMOLLM2,
}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return synthesize(24, 3, variety="plain")


@pytest.fixture
def tokenizer(tiny_model) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def recipe(tiny_model) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"base": str(tiny_model), "system": ""},
            "sft": {"batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0, "bf16": False},
            "grpo": {
                "prompts_per_step": 2,
                "num_generations": 4,
                "batch_size": 4,
                "max_completion_length": 16,
                "bf16": False,
            },
        }
    )


def changed(recipe: Recipe, section: str, **values: object) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


def pairs(items: list[Item], system: str = "") -> list[tuple[list[dict[str, str]], list[dict[str, str]]]]:
    return [
        (build_messages(item, system), [{"role": "assistant", "content": completion_text(item, item.reasoning)}])
        for item in items
    ]


def outcomes(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}


@pytest.mark.parametrize("system", ["", "Think first."])
@pytest.mark.parametrize("name", TEMPLATES)
def test_template_passes_and_trl_trains_what_is_prompted(name, system, tokenizer, items, recipe, tmp_path):
    tokenizer.chat_template = TEMPLATES[name]
    assert check_template(tokenizer, pairs(items, system), False).outcome == "pass"
    trainer = sft_trainer(recipe, sft_dataset(items[:3], system), tokenizer, tmp_path, [])
    for row, (prompt, turn) in zip(trainer.train_dataset, pairs(items[:3], system), strict=True):
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
        trained = [label for label in row["labels"] if label != -100]
        assert row["input_ids"] == asked + trained and row["labels"][: len(asked)] == [-100] * len(asked)
        assert (
            tokenizer.decode(trained) == turn[0]["content"] + "<|im_end|>\n"
        )  # think block once, as written, then EOS


@pytest.mark.parametrize(
    "name, opens, why",
    [
        (
            "deepseek_r1_distill",
            False,
            "opens <think> in the prompt: set model.prompt_opens_think",
        ),  # open-r1#235, trl#6966
        ("deepseek_r1_distill", True, "drops or doubles it"),  # it cuts the block out of the turn
        ("qwen3_5_think", False, "opens <think> in the prompt: set model.prompt_opens_think"),
        ("qwen3_5_nothink", False, "closes the think block in the prompt"),
        ("qwen3", True, "does not open <think>"),
        ("gemma", False, "System role not supported"),
    ],
)
def test_real_templates_that_do_not_fit(name, opens, why, tokenizer, items):
    tokenizer.chat_template = shipped(name)
    check = check_template(tokenizer, pairs(items[:2], "Think first."), opens)
    assert check.outcome == "fail" and why in check.why, check.why


def test_a_template_that_opens_think_passes_when_the_recipe_says_so(tokenizer, items):
    tokenizer.chat_template = shipped("qwen3_5_think")
    assert check_template(tokenizer, pairs(items), True).outcome == "pass"


@pytest.mark.parametrize(
    "template, why",
    [
        (
            CHATML_TEMPLATE.replace(
                "message['content']", "('<think>\\n' if message['role'] == 'assistant' else '') + message['content']"
            ),
            "<think> stands 2 times",
        ),
        (
            CHATML_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]"),
            "<think> stands 0 times",
        ),
        (CHATML_TEMPLATE.replace("message['content']", "message['content'] | upper"), "<think> stands 0 times"),
        (
            CHATML_TEMPLATE.replace("message['content']", "message['content'] | replace('Step', 'Stage')"),
            "changes the completion's text",
        ),
        (
            CHATML_TEMPLATE.replace("'<|im_start|>assistant\\n' }}{% endif %}", "'<|im_start|>model\\n' }}{% endif %}"),
            "does not begin with what is prompted",
        ),
    ],
)
def test_a_changed_template_is_caught(template, why, tokenizer, items):
    assert template != CHATML_TEMPLATE
    tokenizer.chat_template = template
    check = check_template(tokenizer, pairs(items[:2]), False)
    assert check.outcome == "fail" and why in check.why, check.why


def test_tokens_that_merge_across_the_prompt_are_caught(tokenizer, items):
    opening = "Step "  # `Step 1: ` is one token of this tokenizer: a prompt that ends within it is never trained so
    item = items[0].model_copy(update={"reasoning": "Step 1: yes"})
    turn = [{"role": "assistant", "content": "Step 1: <think>\nyes\n</think>\n\n**Answer:** A"}]
    assert len(tokenizer("Step 1: ")["input_ids"]) == 1
    tokenizer.chat_template = CHATML_TEMPLATE.replace(
        "'<|im_start|>assistant\\n' }}", f"'<|im_start|>assistant\\n{opening}' }}}}"
    )
    check = check_template(tokenizer, [(build_messages(item, ""), turn)], False)
    assert check.outcome == "fail" and "tokens merge" in check.why, check.why


def test_end_of_turn_is_the_eos_that_generation_stops_on(tokenizer):
    prompt, turn = build_messages(EXAMPLE, ""), pairs([EXAMPLE])[0][1]
    assert check_end(tokenizer, prompt, turn).outcome == "pass"
    tokenizer.eos_token = "<|im_start|>"  # as transformers reads SmolLM2's GGUF file
    assert "the tokenizer's EOS is <|im_start|>: generation would not stop" in check_end(tokenizer, prompt, turn).why
    tokenizer.chat_template = CHATML_TEMPLATE.replace("+ '<|im_end|>\\n'", "")
    check = check_end(tokenizer, prompt, turn)
    assert check.outcome == "fail" and "writes nothing after a completion" in check.why


def test_pad_and_tags(tokenizer):
    assert check_pad(tokenizer).outcome == check_tags(tokenizer).outcome == "pass"
    tokenizer.pad_token = tokenizer.eos_token
    assert check_pad(tokenizer).outcome == "fail"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    check = check_tags(tokenizer)
    assert check.outcome == "fail" and check.why.startswith("<think> vanish")


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 50), st.integers(1, 50))
def test_length_counts(lengths, limit, context):
    check = check_lengths(lengths, limit, context, "sft.max_length")
    over, beyond = sum(n > limit for n in lengths), sum(context < n <= limit for n in lengths)
    assert check.outcome == ("fail" if beyond or over == len(lengths) else "warn" if over else "pass")
    assert str(beyond or over or max(lengths)) in check.why


def test_sft_preflight_passes_on_a_good_recipe(recipe, items):
    checks = preflight_sft(recipe, items)
    assert set(outcomes(checks).values()) == {"pass"} and len(checks) == 7, checks
    said: list[str] = []
    print_checks(checks, said.append)
    assert len(said) == 7 and all("#" in line for line in said)  # each names a public issue
    assert "8 sequences" in said[5] and "8 × " in said[6] and "GiB" in said[6]


def test_sft_preflight_of_a_packed_recipe_fills_its_rows(recipe, items):
    checks = preflight_sft(changed(recipe, "sft", packing=True, batch_size=2, max_length=1024), items)
    assert set(outcomes(checks).values()) == {"pass"}, checks
    tokens = int(checks[6].why.split("1 × ")[1].split()[0])
    assert 0.95 * 2 * 1024 < tokens <= 2 * 1024, checks


def test_long_examples_warn_and_all_too_long_fails(recipe, items):
    lengths = sorted(
        len(ids)
        for ids in load_tokenizer(recipe.model.base).apply_chat_template(
            [prompt + turn for prompt, turn in pairs(items, recipe.model.system)], tokenize=True, return_dict=True
        )["input_ids"]
    )
    warned = preflight_sft(changed(recipe, "sft", max_length=lengths[-2]), items)
    assert outcomes(warned)["length"] == "warn" and f"× {lengths[-2]} tokens" in warned[-1].why  # the longest that fits
    print_checks(warned, lambda line: None)
    with pytest.raises(
        GazalError, match=r"preflight: length: 24 of 24 \(100.0%\) are longer than sft.max_length \(16 tokens\)"
    ):
        print_checks(preflight_sft(changed(recipe, "sft", max_length=16), items), lambda line: None)


def test_without_a_model_or_data_the_rest_is_skipped(recipe, items):
    assert outcomes(preflight_sft(recipe, items, run=False))["longest batch"] == "skipped"
    assert list(outcomes(preflight_sft(recipe, [])).values()) == ["pass"] * 4 + ["skipped"] * 3
    assert list(outcomes(preflight_grpo(recipe, [], recipe.model.base)).values()) == ["pass"] * 4 + ["skipped"] * 4
    wide = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"processes": 2})})
    assert "launch.processes is 2" in preflight_sft(wide, items)[-1].why


@contextmanager
def little_memory() -> Iterator[None]:
    """256 MiB: on the GPU where there is one, else more than this process has."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + 2**28) / torch.cuda.get_device_properties(0).total_memory
        )
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_does_not_fit_in_memory_fails_at_once(recipe, items):
    huge = changed(recipe, "sft", batch_size=512)
    with little_memory():
        checks = preflight_sft(huge, items)
    assert (
        outcomes(checks)["longest batch"] == "fail" and "do not fit in memory: lower sft.batch_size" in checks[-1].why
    )
    with pytest.raises(GazalError, match=r"preflight: longest batch: 512 × .*\(trl#2688, trl#4585\)"):
        print_checks(checks, lambda line: None)


@pytest.mark.slow
def test_training_after_preflight_is_byte_identical(recipe, items, tmp_path):
    train_sft(recipe, items, tmp_path / "plain", say=lambda line: None)
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    assert outcomes(preflight_sft(recipe, items))["longest batch"] == "pass"
    assert (
        random.getstate() == states[0]
        and np.random.get_state()[1].tobytes() == states[1]
        and torch.equal(torch.get_rng_state(), states[2])
    )
    train_sft(recipe, items, tmp_path / "checked", say=lambda line: None)
    files = ["adapter/adapter_model.safetensors", "merged/model.safetensors"]
    assert all((tmp_path / "plain" / f).read_bytes() == (tmp_path / "checked" / f).read_bytes() for f in files)


def test_grpo_preflight_runs_the_longest_batch_and_reads_a_random_models_rewards(recipe, items):
    state = torch.get_rng_state()
    checks = preflight_grpo(recipe, items, recipe.model.base)
    assert torch.equal(torch.get_rng_state(), state)
    found = outcomes(checks)
    assert found["longest batch"] == "pass" and "4 × " in checks[-1].why
    assert found["answers are found"] == "fail"  # a random model answers nothing: GRPO has nothing to sharpen
    with pytest.raises(GazalError, match="no (answer in 16 completions|gradient)"):
        print_checks(checks, lambda line: None)
    again = preflight_grpo(recipe, items, recipe.model.base)
    assert [check.why for check in again[:-1]] == [check.why for check in checks[:-1]]  # seeded
    quiet = preflight_grpo(changed(recipe, "grpo", probe_prompts=0), items, recipe.model.base)
    assert outcomes(quiet)["rewards differ"] == "skipped" and outcomes(quiet)["longest batch"] == "pass"


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.2, 1.3]), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(0, 12),
)
def test_reward_probe_judges_groups(groups, found):
    rewards = np.array(groups)
    differ, answers = judge_rewards(rewards, 0.5, found)
    advantages = rewards - rewards.mean(axis=1, keepdims=True)
    signal = any((row > 1e-9).any() and (row < -1e-9).any() for row in advantages)
    flat = len(np.unique(rewards)) == 1
    assert differ.outcome == ("fail" if flat else "pass" if signal else "warn")
    assert answers.outcome == ("pass" if found else "fail")


def test_generators_are_put_back_after_an_error():
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    with pytest.raises(KeyError), untouched():
        torch.rand(3), np.random.rand(700), random.random()
        raise KeyError
    assert (
        random.getstate() == states[0]
        and np.random.get_state()[1].tobytes() == states[1]
        and torch.equal(torch.get_rng_state(), states[2])
    )
