"""Batched generation against the plain loop, one prompt at a time."""

from __future__ import annotations

import inspect
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from gazal.answers.decoding import Decoder
from gazal.answers.ending import AnswerEnd
from gazal.models import generation
from gazal.models.attention import ROOM, RoomyLayer
from gazal.models.generation import generate, generate_batches, group_by_length, plan_batches, stop_ids
from gazal.models.loading import load_model, load_tokenizer


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load_model(tiny_model), load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def prompts(tiny):
    draw = random.Random(1)
    return [[draw.randrange(10, len(tiny[1]) - 10) for _ in range(draw.randrange(3, 30))] for _ in range(14)]


def plain(model, stops, prompt, limit):
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + limit and not (len(ids) > len(prompt) and ids[-1] in stops):
            ids.append(int(model(torch.tensor([ids], device=model.device)).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def common_stop(model, prompts):
    """A token that ends some completions early: random weights never say EOS."""
    said = [set(plain(model, [], prompt, 12)) for prompt in prompts]
    return max({t for s in said for t in s}, key=lambda t: (abs(sum(t in s for s in said) - len(said) / 2) * -1, t))


@pytest.mark.parametrize("chunk", [5, 16])
def test_greedy_is_the_plain_loop_and_rows_that_end_leave(tiny, prompts, monkeypatch, chunk):
    model, tokenizer = tiny
    monkeypatch.setattr(generation, "CHUNK", chunk)
    stop = common_stop(model, prompts)
    monkeypatch.setattr(model.generation_config, "eos_token_id", [stop])
    stops = stop_ids(model, tokenizer)
    before = model.generation_config.to_dict()
    made = sorted(generate(model, tokenizer, prompts, max_new_tokens=21, batch_tokens=300))
    assert [done.index for done in made] == list(range(len(prompts)))
    assert [done.ids for done in made] == [plain(model, stops, prompt, 21) for prompt in prompts]
    reasons = [done.finish_reason for done in made]
    assert reasons == ["stop" if done.ids[-1] in stops else "length" for done in made]
    assert {"stop", "length"} == set(reasons)
    assert model.generation_config.to_dict() == before


def test_sampling_repeats_with_its_seed_and_leaves_the_global_generator_alone(tiny, prompts):
    options = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "batch_tokens": 200}
    state = torch.get_rng_state()
    first, again, other = (sorted(generate(*tiny, prompts, seed=seed, **options)) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_done_batches_are_left_out_without_changing_the_rest(tiny, prompts):
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 4, "batch_tokens": 100}
    batches = list(generate_batches(*tiny, prompts, **options))
    done = {one.index for one in batches[1]}
    seen = []
    rest = list(
        generate_batches(*tiny, prompts, done=done, progress=lambda at, total: seen.append((at, total)), **options)
    )
    assert len(batches) > 3 and rest == [batches[0], *batches[2:]]
    assert seen[-1] == (len(prompts), len(prompts))


def test_training_mode_comes_back(tiny, prompts):
    model, tokenizer = tiny
    model.train()
    list(generate(model, tokenizer, prompts[:2], max_new_tokens=2))
    assert model.training
    model.eval()


def test_a_prompt_gets_the_room_that_the_context_leaves(tiny):
    model, tokenizer = tiny
    lengths = [5, 1018, 1024, 1023, 1019, 1030]  # the context is 1,024
    prompts = [[20 + i % 50 for i in range(length)] for length in lengths]
    made = sorted(generate(model, tokenizer, prompts, max_new_tokens=9))
    assert [len(done.ids) for done in made] == [9, 6, 0, 1, 5, 0]
    assert [done.ids for done in made if done.ids] == [
        plain(model, [], prompt, room) for prompt, room in zip(prompts, (9, 6, 0, 1, 5, 0), strict=True) if room
    ]
    assert {done.finish_reason for done in made} == {"length"}


class Ending(AnswerEnd):
    """Closed where the text holds ``word``: random weights answer nothing."""

    def __init__(self, tokenizer, word, every=False):
        super().__init__(tokenizer)
        self.word, self.asked = word, 0
        if every:
            self.marks = list(range(len(tokenizer)))

    def at(self, text):
        found = text.find(self.word)
        return None if found < 0 else found + len(self.word)

    def reached(self, ids):
        self.asked += 1
        return self.at(self.text(ids)) is not None


def common_word(tokenizer, made):
    """A piece of text with which about half of the completions come to an end."""
    texts = [tokenizer.decode(done.ids, skip_special_tokens=True) for done in made]
    pieces = {
        text[at : at + 2] for text in texts for at in range(1, len(text) - 2) if not text[at : at + 2].isspace()
    } - {text[:2] for text in texts}
    return min(pieces, key=lambda piece: (abs(sum(piece in text for text in texts) - len(texts) / 2), piece))


def test_rows_end_where_their_text_says_and_the_saving_changes_nothing(tiny, prompts):
    model, tokenizer = tiny
    options = {"max_new_tokens": 40, "batch_tokens": 500, "temperature": 1.0, "seed": 5}
    whole = sorted(generate(model, tokenizer, prompts, **options))
    word = common_word(tokenizer, whole)
    early, late = Ending(tokenizer, word, every=True), Ending(tokenizer, word)
    late.marks = []  # nothing stops early: all is cut afterwards
    made, cut = (sorted(generate(model, tokenizer, prompts, answer_end=ending, **options)) for ending in (early, late))
    assert made == cut != whole and early.asked and not late.asked
    for full, done in zip(whole, made, strict=True):
        texts = [tokenizer.decode(full.ids[:n], skip_special_tokens=True) for n in range(len(full.ids) + 1)]
        fewest = next((n for n, text in enumerate(texts) if word in text), None)
        assert done.ids == full.ids[:fewest]
        assert done.finish_reason == (full.finish_reason if fewest is None else "stop")
    assert 2 < sum(len(done.ids) < len(full.ids) for full, done in zip(whole, made, strict=True)) < len(prompts)


def test_a_closed_row_leaves_the_batch(tiny, prompts, monkeypatch):
    model, tokenizer = tiny
    forward, rows = model.forward, []
    monkeypatch.setattr(model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs))
    whole = list(generate(model, tokenizer, prompts, max_new_tokens=40))
    before, word = sum(rows), common_word(tokenizer, whole)
    rows.clear()
    list(generate(model, tokenizer, prompts, max_new_tokens=40, answer_end=Ending(tokenizer, word, every=True)))
    assert sum(rows) < 0.9 * before


@given(st.lists(st.integers(1, 400), max_size=60), st.integers(1, 200), st.integers(1, 4000))
def test_batches_hold_every_prompt_once_within_the_budget(lengths, new, budget):
    batches = plan_batches(lengths, new, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * (max(lengths[i] for i in b) + new) <= budget for b in batches)
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


def test_prompts_of_other_lengths_are_read_apart_and_answered_as_alone(tiny, prompts, monkeypatch):
    """Short prompts are not computed with the padding of long ones: every pass over prompts is at least ``LEAST_FILL`` full."""
    model, tokenizer = tiny
    draw, shapes, forward = random.Random(2), [], model.forward
    mixed = [
        [draw.randrange(10, len(tokenizer) - 10) for _ in range(length)] for length in (3, 41, 9, 200, 40, 12, 90, 180)
    ]

    def watched(input_ids, attention_mask, **options):
        if input_ids.shape[1] > 1:
            shapes.append((input_ids.numel(), int(attention_mask.sum())))
        return forward(input_ids=input_ids, attention_mask=attention_mask, **options)

    watched.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(model, "forward", watched)
    made = sorted(generate(model, tokenizer, mixed, max_new_tokens=6))
    assert (
        len(shapes) > 3
        and all(real >= 0.8 * computed for computed, real in shapes)
        and sum(real for _, real in shapes) == sum(map(len, mixed))
    )
    monkeypatch.undo()
    assert [one.ids for one in made] == [plain(model, stop_ids(model, tokenizer), prompt, 6) for prompt in mixed]


def test_group_by_length_covers_every_length_once():
    assert [list(range(10))[part] for part in group_by_length([10, 9, 8, 7, 7, 5, 4, 1, 1, 1])] == [
        [0, 1, 2],
        [3, 4],
        [5, 6],
        [7, 8, 9],
    ]
    assert list(group_by_length([3])) == [slice(0, 1)]


def test_a_roomy_layer_holds_what_transformers_own_does():
    """Written in place, grown beyond its room and thinned out, against concatenation."""
    torch.manual_seed(0)
    plain, states = DynamicLayer(), lambda n: (torch.randn(3, 2, n, 4), torch.randn(3, 2, n, 4))
    first = states(5)
    plain.update(*first)
    roomy = RoomyLayer(plain.keys, plain.values)
    for step in range(2 * ROOM + 3):
        new = tuple(one[: len(plain.keys)] for one in states(1))
        for mine, theirs in zip(roomy.update(*new), plain.update(*new), strict=True):
            assert torch.equal(mine, theirs)
        if step in (1, ROOM + 1):
            keep = torch.arange(len(plain.keys) - 1)
            roomy.batch_select_indices(keep), plain.batch_select_indices(keep)
    assert roomy.get_seq_length() == plain.get_seq_length() == 2 * ROOM + 8 and len(roomy.keys) == 1


def test_a_template_that_ends_a_turn_with_another_token_than_eos_stops_there_too(tiny_model, capsys):
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    assert stop_ids(model, tokenizer) == [tokenizer.eos_token_id]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token, model.generation_config.eos_token_id = "<|im_start|>", None
    assert stop_ids(model, tokenizer) == sorted([end, tokenizer.convert_tokens_to_ids("<|im_start|>")])
    assert "ends a turn with <|im_end|>, the EOS is <|im_start|>" in capsys.readouterr().err
    stop_ids(model, tokenizer)
    assert capsys.readouterr().err == ""
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "###")
    assert end not in stop_ids(model, tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert stop_ids(model, tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_start|>")]


def test_marks_of_thinking_that_are_special_tokens_are_kept(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    text = "[THINK]Step 1: x[/THINK]**Answer:** C<|im_end|>"
    assert Decoder(tokenizer)(tokenizer(text)["input_ids"]) == "[THINK]Step 1: x[/THINK]**Answer:** C"
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = tokenizer(text)["input_ids"]
    assert "[THINK]" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert Decoder(tokenizer)(ids) == "[THINK]Step 1: x[/THINK]**Answer:** C"
    assert AnswerEnd(tokenizer).text(ids) == Decoder(tokenizer)(ids)
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    said = "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>C<|return|>"
    assert Decoder(tokenizer)(tokenizer(said)["input_ids"]) == said.removesuffix("<|return|>")
