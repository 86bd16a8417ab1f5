"""Engines that run a model themselves: what they ask, what they cut, what they hold; and vLLM as far as it goes without vLLM."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gazal.answers.ending import AnswerEnd
from gazal.common.errors import GazalError
from gazal.common.paths import EMBEDDED
from gazal.engines.load import load_engine
from gazal.engines.local import TransformersEngine
from gazal.engines.vllm import gpus_for, sampling_arguments, to_reply
from gazal.evaluation.predict import Prompts
from gazal.items.prompts import SYSTEM, encode_chats
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_model, load_tokenizer
from gazal.models.rendering import Renderer, TokenLists
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

ITEMS = synthesize(24, 3, variety="plain")
QWEN3 = "{{ messages[-1]['content'] }}<a>{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
OPENS = "{{ messages[-1]['content'] }}<a>{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"


@pytest.fixture(scope="module")
def engine(tiny_model):
    return load_engine(tiny_model, "float32")


@pytest.fixture(scope="module")
def base():
    return load_engine("embedded", "float32")


def ask(engine, prompts, done=(), **settings):
    return list(
        engine.complete(prompts, EvaluationSection(**{"max_new_tokens": 24, "batch_tokens": 1024, **settings}), 7, done)
    )


@given(st.lists(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=4), max_size=4))
def test_token_lists_give_back_what_went_in(chunks):
    lists = TokenLists(iter(chunks))
    assert [ids.tolist() for ids in lists] == [ids for chunk in chunks for ids in chunk]
    assert len(lists) == sum(map(len, chunks))


def test_chats_are_tokenised_as_in_training(engine):
    prompts = Prompts(ITEMS, 1, Prompting(SYSTEM))
    assert [ids.tolist() for ids in engine.renderer.token_lists(prompts)] == encode_chats(
        engine.tokenizer, list(prompts), opening=True
    )


def test_plain_text_gets_the_tokenizers_own_bos_and_no_template(tiny_model):
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(tiny_model)
    text = "Question: x?\nAnswer:"
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert Renderer(tokenizer, "x").token_lists([text])[0].tolist() == bare
    eos, bos = tokenizer.eos_token, tokenizer.pad_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in (bos, eos)]
    )
    chat = [{"role": "user", "content": "x"}]
    lists = Renderer(tokenizer, "x").token_lists([text, chat, text])
    assert lists[0].tolist() == lists[2].tolist() == [tokenizer.pad_token_id, *bare]  # and no EOS behind it
    assert lists[1].tolist() == encode_chats(tokenizer, [chat], opening=True)[0]


def test_thinking_is_the_templates_switch(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    chat, renderer = [{"role": "user", "content": "x"}], Renderer(tokenizer, "tiny")
    for thinking in ("on", "off"):
        with pytest.raises(
            GazalError,
            match="model tiny: its chat template does not know enable_thinking: set evaluation.thinking=template",
        ):
            renderer.text(chat, thinking)
        with pytest.raises(GazalError, match=f"model tiny: evaluation.thinking={thinking} is a chat template's"):
            renderer.text("plain", thinking)
    tokenizer.chat_template = QWEN3
    assert [renderer.text(chat, thinking) for thinking in ("template", "on", "off")] == [
        "x<a>",
        "x<a>",
        "x<a><think>\n\n</think>\n\n",
    ]
    tokenizer.chat_template = OPENS
    assert [renderer.opens_think(chat, thinking) for thinking in ("template", "on", "off")] == [True, True, False]
    assert renderer.opens_think("Answer:") is False and renderer.opens_think("<think>\n") is True


def test_an_engine_asks_with_the_switch(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = QWEN3
    engine = TransformersEngine(load_model(tiny_model), tokenizer)
    prompts = Prompts(ITEMS[:4], 1, Prompting())
    off, by_hand = (
        ask(engine, prompts, thinking="off"),
        ask(engine, [engine.render(prompt, "off") for prompt in prompts], thinking="template"),
    )
    assert off == by_hand != ask(engine, prompts, thinking="on")
    with pytest.raises(GazalError, match="does not know enable_thinking"):
        ask(load_engine(tiny_model, "float32"), prompts, thinking="off")


def test_what_follows_the_answer_is_cut_and_not_made(monkeypatch):
    """The packaged base answers in one line and ends; where EOS is no end for it, it goes on."""
    base = load_engine("embedded", "float32")
    base.tokenizer.eos_token = "<|endoftext|>"
    base.model.generation_config.eos_token_id = base.tokenizer.eos_token_id
    monkeypatch.setattr("gazal.models.generation._template_end", lambda tokenizer: None)
    prompts = Prompts(ITEMS[:8], 1, Prompting(SYSTEM))
    forward, rows = base.model.forward, []
    monkeypatch.setattr(
        base.model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    whole = sorted(
        reply for batch in ask(base, prompts, max_new_tokens=60, stop_when_answered=False) for reply in batch
    )
    before = sum(rows)
    rows.clear()
    cut = sorted(reply for batch in ask(base, prompts, max_new_tokens=60) for reply in batch)
    ending = AnswerEnd(base.tokenizer)
    for full, reply in zip(whole, cut, strict=True):
        assert reply.text == full.text[: ending.at(full.text)]
        assert (reply.n_tokens, reply.finish_reason) == (full.n_tokens, full.finish_reason) or (
            reply.n_tokens < full.n_tokens and reply.finish_reason == "stop"
        )
    closed = sum(reply.n_tokens < full.n_tokens for full, reply in zip(whole, cut, strict=True))
    assert sum(rows) < before if closed else sum(rows) == before
    assert closed >= 2


def test_done_batches_are_not_asked_again_and_the_rest_is_the_same(engine):
    prompts = Prompts(ITEMS, 2, Prompting(SYSTEM))
    options = {"temperature": 1.0, "batch_tokens": 2048}
    batches = ask(engine, prompts, **options)
    assert len(batches) > 3 and sorted(reply.index for batch in batches for reply in batch) == list(range(48))
    done = {reply.index for reply in batches[1]}
    assert ask(engine, prompts, done=done, **options) == [batches[0], *batches[2:]]


@pytest.mark.slow
def test_prompts_are_built_when_needed_and_not_held(engine):
    class Many(Sequence):
        def __len__(self):
            return 20_000

        def __getitem__(self, index):
            if not 0 <= index < len(self):
                raise IndexError(index)
            return f"Question {index}: " + "which of these is it? " * 12

    tracemalloc.start()
    lists = engine.renderer.token_lists(Many())
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lists) == 20_000 and lists.ids.dtype == np.int32
    assert held < 1.3 * lists.ids.nbytes + 2e6 and most < 2.5 * lists.ids.nbytes + 20e6
    assert sum(len(Many()[i]) for i in range(20_000)) > 5e6  # the texts alone are more


def test_a_prompt_that_fills_the_context_gets_what_room_there_is(base):
    long = "word " * 3000
    room = 2048 - 3
    ids = base.tokenizer(long)["input_ids"][:room]
    prompt = base.tokenizer.decode(ids)
    length = len(base.tokenizer(prompt)["input_ids"])
    [batch] = ask(base, [prompt], max_new_tokens=2048, stop_when_answered=False)
    assert batch[0].n_tokens == min(2048 - length, batch[0].n_tokens) > 0
    assert ask(base, [long], max_new_tokens=2048) == [[(0, "", 0, "length")]]


def test_no_prompts_are_no_batches(engine):
    assert ask(engine, []) == []


# vLLM cannot be installed where there is no GPU: these are the parts that do not need it


def test_vllm_sampling_follows_the_settings():
    settings = EvaluationSection(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=2048)
    arguments = [sampling_arguments(settings, 1, index, 3000, [5, 9]) for index in range(50)]
    assert arguments[0] == {
        "n": 1,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "max_tokens": 2048,
        "stop_token_ids": [5, 9],
        "detokenize": False,
        "seed": arguments[0]["seed"],
    }
    assert len({one["seed"] for one in arguments}) == 50 and arguments[3] == sampling_arguments(
        settings, 1, 3, 3000, [5, 9]
    )
    assert sampling_arguments(settings, 2, 3, 3000, [])["seed"] != arguments[3]["seed"]
    assert sampling_arguments(settings, 1, 0, 7, [])["max_tokens"] == 7
    greedy = sampling_arguments(EvaluationSection(top_p=0.8, top_k=20), 1, 0, 3000, [])
    assert (greedy["temperature"], greedy["top_p"], greedy["top_k"], greedy["seed"]) == (0.0, 1.0, 0, None)


def test_vllm_outputs_become_the_replies_of_the_transformers_engine(base):
    tokenizer, ending = base.tokenizer, AnswerEnd(base.tokenizer)
    eos = tokenizer.eos_token_id
    ids = [*tokenizer("**Answer:** C\nand more", add_special_tokens=False)["input_ids"], eos]
    assert to_reply(3, ids, "stop", tokenizer, None) == (3, "**Answer:** C\nand more", len(ids), "stop")
    assert to_reply(3, ids[:-1], "length", tokenizer, None) == (3, "**Answer:** C\nand more", len(ids) - 1, "length")
    kept = ending.cut(ids)[0]
    assert (
        to_reply(3, tuple(ids), "length", tokenizer, ending) == (3, "**Answer:** C", len(kept), "stop")
        and len(kept) < len(ids) - 1
    )


@pytest.mark.parametrize(
    ("heads", "devices", "count"), [(64, 8, 8), (40, 6, 5), (64, 3, 2), (14, 4, 2), (5, 0, 1), (71, 8, 1)]
)
def test_vllm_shares_a_model_over_gpus_that_divide_its_heads(heads, devices, count):
    assert gpus_for(heads, devices) == count


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_without_vllm_one_line_names_the_extra(tiny_model):
    with pytest.raises(
        GazalError, match=r"evaluation.engine=vllm needs vLLM: pip install 'gazal\[gpu\]' \(No module named 'vllm'\)"
    ):
        load_engine(tiny_model, engine="vllm")


def test_vllm_refuses_an_adapter(tiny_model, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    with pytest.raises(GazalError, match=r"vLLM cannot load DoRA adapters \(vllm#6983, vllm#10849\): merge it first"):
        load_engine(folder, engine="vllm")


def test_half_precision_where_the_device_computes_in_it(monkeypatch):
    from gazal.models.identity import fast_dtype

    for able, expected in (
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx2": True}, "float32"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert fast_dtype() == expected
    assert EMBEDDED.is_dir()
