"""Log-likelihood scoring: by hand on a bigram model, against one continuation at a time, and through prediction files."""

from __future__ import annotations

import inspect
import json
import math
import os.path
from itertools import pairwise

import pytest
import torch
from helpers.items import make_item
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from gazal.common.errors import GazalError
from gazal.engines.load import load_engine
from gazal.engines.reply import Reply
from gazal.evaluation.loglik import replies
from gazal.evaluation.predict import predict
from gazal.models import likelihood
from gazal.models.likelihood import Encoded, Scored, encode, score_batch
from gazal.predictions.file import read_predictions
from gazal.predictions.folder import save_items
from gazal.predictions.loglik import choices, read_letter, to_completion
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection
from gazal.scoring.score import score_folder

ITEMS = [make_item(n, 2 + n % 5, question=f"Question {n} " + "with a tail " * (7 * n % 11) + "?") for n in range(12)]
STYLES = {"plain": Prompting(style="plain"), "chat": Prompting(system="Be brief.")}


def asked(**fields) -> EvaluationSection:
    return EvaluationSection(method="loglik", **fields)


@pytest.fixture(scope="module")
def engine(tiny_model):
    return load_engine(tiny_model, "float32")


def alone(model, tokenizer, prompt, continuation):
    """lm-eval's way, one continuation at a time: the split of ``_encode_pair``, then the logits of the whole."""
    context = prompt.rstrip()
    start = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    whole = tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logp = model(torch.tensor([whole[:-1]])).logits[0].double().log_softmax(-1)
    return Scored(sum(float(logp[at - 1, whole[at]]) for at in range(start, len(whole))), len(whole) - start)


# Reading


@pytest.mark.parametrize(
    "completion, norm, letter",
    [
        ('{"A": -1.5, "B": -0.5}', "sum", "B"),
        ('{"A": -0.5, "B": -0.5, "C": -0.5}', "sum", "A"),  # ties: the first
        ('{"A": [-3, 3], "B": [-2, 1]}', "characters", "A"),
        ('{"A": [-3, 3], "B": [-2, 2], "C": [-1, 1]}', "tokens", "A"),
        ("", "sum", None),
    ],
)
def test_letter_is_the_first_of_the_largest(completion, norm, letter):
    assert read_letter(completion, norm) == letter


@pytest.mark.parametrize(
    "completion, norm",
    [
        ("The answer is B.", "sum"),
        ("{}", "sum"),
        ("[1]", "sum"),
        ('{"A": [-3, 3]}', "sum"),
        ('{"A": null}', "sum"),
        ('{"A": -3}', "characters"),
        ('{"A": [-3, 0]}', "tokens"),
    ],
)
def test_what_holds_no_log_likelihoods_is_one_line(completion, norm):
    with pytest.raises(GazalError, match="log-likelihoods") as caught:
        read_letter(completion, norm)
    assert "\n" not in str(caught.value)


def test_lengths_are_those_of_the_choice_in_characters_and_of_what_is_scored_in_tokens():
    texts, scored = {"A": "fever", "B": ""}, [Scored(-2.5, 3), Scored(-1.0, 1)]
    assert json.loads(to_completion(texts, scored, "sum")) == {"A": -2.5, "B": -1.0}
    assert json.loads(to_completion(texts, scored, "characters")) == {"A": [-2.5, 5], "B": [-1.0, 1]}
    assert json.loads(to_completion(texts, scored, "tokens")) == {"A": [-2.5, 3], "B": [-1.0, 1]}
    assert [read_letter(to_completion(texts, scored, norm), norm) for norm in ("sum", "characters", "tokens")] == [
        "B",
        "A",
        "A",
    ]
    assert choices(ITEMS[0], "letter") == {"A": "A", "B": "B"} and choices(ITEMS[0], "text") == ITEMS[0].options


# The model


def test_a_bigram_model_by_hand():
    """One-hot embeddings, a block that adds nothing: after RMSNorm token i is √d at place i, and the head holds log P(next | i) / √d."""
    size = 6
    chances = torch.softmax(
        torch.arange(size * size, dtype=torch.float64).reshape(size, size).sin() * 3, -1
    )  # row: the token before
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=size,
            hidden_size=size,
            num_hidden_layers=1,
            intermediate_size=8,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=4,
            tie_word_embeddings=False,
            rms_norm_eps=1e-12,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    with torch.no_grad():
        for name, weight in model.model.layers.named_parameters():
            weight.zero_() if "norm" not in name else weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_((chances.log() / math.sqrt(size)).T)
    rows = [
        Encoded([1, 2, 3], [[4], [5]], 3),
        Encoded([2], [[0, 3, 3], [1]], 1),
        Encoded([5, 4, 1], [[0], [2, 2]], 2),
        Encoded([3, 1], [[0, 5], [0, 4]], 3),
    ]
    after = lambda *ids: sum(math.log(chances[a, b]) for a, b in pairwise(ids))
    wanted = [
        [(after(3, 4), 1), (after(3, 5), 1)],
        [(after(2, 0, 3, 3), 3), (after(2, 1), 1)],
        [(after(4, 1, 0), 2), (after(4, 1, 2, 2), 3)],  # one shared token is scored
        [
            (after(0, 5), 1),
            (after(0, 4), 1),
        ],  # one token of the prompt is not shared, as where it merges with what follows
    ]
    for found, row in zip(score_batch(model, rows, pad=0), wanted, strict=True):
        assert [one.tokens for one in found] == [tokens for _, tokens in row]
        assert [one.loglik for one in found] == pytest.approx([value for value, _ in row], abs=1e-5)


@hypothesis_settings(max_examples=40)
@given(
    prompt=st.from_regex(r"(Answer|fever in|<\|im_start\|>assistant|No)[: \n]{0,3}", fullmatch=True),
    texts=st.lists(st.text("ABd fever,.\n", min_size=1, max_size=12), min_size=2, max_size=5),
)
def test_encoding_is_that_of_the_whole_split_where_the_prompt_ends(engine, prompt, texts):
    row, ids = (
        encode(engine.tokenizer, prompt, texts),
        lambda text: engine.tokenizer(text, add_special_tokens=False)["input_ids"],
    )
    wholes = [ids(prompt + text) for text in texts]
    assert [row.shared + tail for tail in row.tails] == wholes
    assert all(row.tails) and row.start == min(len(ids(prompt.rstrip())), min(map(len, wholes)) - 1)
    assert len(row.shared) == min(len(os.path.commonprefix(wholes)), min(map(len, wholes)) - 1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("choice", ["letter", "text"])
def test_batches_of_any_size_give_what_each_continuation_gives_alone(engine, style, choice):
    rendered = [engine.render(STYLES[style].prompt(item)) for item in ITEMS]
    lead = " " if style == "plain" else ""
    wanted = [
        [alone(engine.model, engine.tokenizer, prompt, lead + text) for text in choices(item, choice).values()]
        for prompt, item in zip(rendered, ITEMS, strict=True)
    ]
    for budget in (256, 700, 32768):
        batches = list(
            replies(
                engine, ITEMS, STYLES[style], asked(loglik_choice=choice, loglik_norm="tokens", batch_tokens=budget), ()
            )
        )
        made = {reply.index: reply for batch in batches for reply in batch}
        assert sorted(made) == list(range(len(ITEMS))) and len(batches) > 1
        for at, row in enumerate(wanted):
            found = json.loads(made[at].text)
            assert list(found) == list(ITEMS[at].options) and made[at][2:] == (0, "stop")
            assert [value for value, _ in found.values()] == pytest.approx([one.loglik for one in row], abs=1e-4)
            assert [tokens for _, tokens in found.values()] == [one.tokens for one in row]


def test_letters_take_one_pass_an_item_and_one_position_of_logits(engine, monkeypatch):
    shapes, forward = [], engine.model.forward

    def watched(*args, **options):
        made = forward(*args, **options)
        shapes.append(tuple(made.logits.shape[:2]))
        return made

    monkeypatch.setattr(engine.model, "forward", watched)
    monkeypatch.setattr(inspect, "signature", lambda _: type("Signature", (), {"parameters": {"logits_to_keep": 1}}))
    list(replies(engine, ITEMS, STYLES["plain"], asked(), ()))
    assert {positions for _, positions in shapes} == {1} and sum(rows for rows, _ in shapes) == len(ITEMS)


def test_training_mode_comes_back(engine):
    engine.model.train()
    score_batch(engine.model, [Encoded([1], [[2], [3, 4]], 1)], 0)
    assert engine.model.training
    engine.model.eval()


# Replies and files


def test_done_items_are_left_out_without_changing_the_rest(engine):
    batches = list(replies(engine, ITEMS, STYLES["plain"], asked(batch_tokens=256), ()))
    done = {reply.index for reply in batches[1]}
    assert list(replies(engine, ITEMS, STYLES["plain"], asked(batch_tokens=256), done)) == [batches[0], *batches[2:]]
    assert list(replies(engine, ITEMS, STYLES["plain"], asked(), range(len(ITEMS)))) == []


def test_a_prompt_beyond_the_context_is_not_asked(engine):
    long = make_item(0, question="very " * 1100 + "long?")
    made = {
        reply.index: reply
        for batch in replies(engine, [ITEMS[0], long, ITEMS[1]], STYLES["plain"], asked(), ())
        for reply in batch
    }
    assert made[1] == Reply(1, "", 0, "length") and read_letter(made[0].text) and read_letter(made[2].text)


def test_what_cannot_be_asked_is_one_line(tiny_model):
    with pytest.raises(GazalError, match="model gpt: log-likelihoods need a model in this process"):
        list(replies(load_engine("openai:http://localhost:1/v1#gpt"), ITEMS, STYLES["chat"], asked(), ()))
    opening = load_engine(tiny_model, "float32")
    opening.tokenizer.chat_template = opening.tokenizer.chat_template.replace("assistant\\n", "assistant\\n<think>\\n")
    with pytest.raises(GazalError, match="opens <think>"):
        list(replies(opening, ITEMS, STYLES["chat"], asked(), ()))
    assert list(replies(opening, ITEMS[:2], STYLES["plain"], asked(), ()))
    broken = load_engine(tiny_model, "float32")
    broken.model.get_input_embeddings().weight.data[:] = math.nan
    with pytest.raises(GazalError, match="no numbers"):
        list(replies(broken, ITEMS, STYLES["plain"], asked(), ()))


@pytest.mark.parametrize("norm", ["sum", "characters", "tokens"])
def test_predictions_are_written_resumed_and_scored(engine, tmp_path, monkeypatch, norm):
    """A run that dies after its second batch goes on; what it wrote is what an uninterrupted one writes, and scoring reads it."""
    settings, asks = asked(loglik_choice="text", loglik_norm=norm, batch_tokens=512), []

    def dying(model, rows, pad):
        if len(asks) == 2:
            raise KeyboardInterrupt
        asks.append(len(rows))
        return score_batch(model, rows, pad)

    whole = predict(
        engine,
        ITEMS,
        settings,
        tmp_path / "whole" / "tiny" / "own.parquet",
        prompting=STYLES["plain"],
        seed=0,
        say=lambda line: None,
    )
    folder = tmp_path / "cut"
    out = folder / "tiny" / "own.parquet"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(likelihood, "score_batch", dying)
        predict(engine, ITEMS, settings, out, prompting=STYLES["plain"], seed=0, say=lambda line: None)
    assert sum(asks) and not out.exists()
    resumed = []
    with monkeypatch.context() as patched:
        patched.setattr(
            likelihood, "score_batch", lambda model, rows, pad: resumed.extend(rows) or score_batch(model, rows, pad)
        )
        predict(engine, ITEMS, settings, out, prompting=STYLES["plain"], seed=0, say=lambda line: None)
    assert len(resumed) == len(ITEMS) - sum(asks)
    frame = read_predictions(out)
    assert frame.equals(read_predictions(whole))
    assert list(frame["letter"]) == [read_letter(text, norm) for text in frame["completion"]]
    assert set(frame["reason"]) == {"ok"} and set(frame["n_tokens"]) == {0}
    save_items(folder, "own", ITEMS)
    cell = score_folder(folder)["models"]["tiny"]["benchmarks"]["own"]
    right = sum(letter == item.answer_idx for letter, item in zip(frame["letter"], ITEMS, strict=True))
    assert (
        cell["n"] == len(ITEMS)
        and cell["accuracy"] == pytest.approx(right / len(ITEMS), abs=1e-6)
        and cell["unparsed"] == 0
    )


def test_the_first_of_two_equal_texts_is_chosen(engine):
    item = make_item(0, options=3)
    item.options.update(A="same", B="same", C="another, far longer text that is less likely than the other two")
    made = next(iter(replies(engine, [item], STYLES["plain"], asked(loglik_choice="text"), ())))[0]
    found = json.loads(made.text)
    assert found["A"] == found["B"] and read_letter(made.text) == "A"
