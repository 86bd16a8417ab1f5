"""Model folders that are none, or not whole: one line that says what to give; and tokenizers of other makers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.items import make_item
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from gazal.common.errors import GazalError
from gazal.engines.load import load_engine
from gazal.evaluation.command import evaluate_command
from gazal.items.prompts import CHATML_TEMPLATE
from gazal.items.writing import write_items_jsonl
from gazal.models.loading import load_config, load_model, load_tokenizer
from gazal.recipe.recipe import Recipe

ALL = (load_engine, load_model, load_config)


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def spoil(folder: Path, **values: object) -> None:
    """Set values of the tokenizer's configuration; None takes one away."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def refusals(folder: Path, loads=ALL) -> str:
    said = set()
    for load in loads:
        with pytest.raises(GazalError) as caught:
            load(folder)
        said.add(str(caught.value))
    (message,) = said
    assert "\n" not in message and str(folder) in message
    return message


def test_a_folder_without_a_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    assert refusals(folder, (load_engine, load_tokenizer)).endswith("no tokenizer in that folder (tokenizer.json)")


def test_a_folder_that_is_no_model(tmp_path):
    assert refusals(tmp_path, (*ALL, load_tokenizer)).endswith("not a model folder (no config.json)")


def test_the_folder_above_a_model_says_where_it_is(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "sft" / "merged")
    assert refusals(tmp_path / "sft").endswith(f"not a model folder (no config.json); {tmp_path}/sft/merged is one")
    assert refusals(tmp_path).endswith(f"{tmp_path}/sft/merged is one")


@pytest.mark.parametrize("merged", [True, False])
def test_an_adapter_alone_names_the_merged_model(folder, merged, tmp_path):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "embedded", "peft_type": "LORA"}')
    if merged:
        (tmp_path / "merged").mkdir()
    wanted = (
        f"give the merged model {tmp_path}/merged"
        if merged
        else "give the merged model, such as the folder merged/ that each stage writes beside it"
    )
    assert refusals(folder).endswith(f"an adapter without its base; {wanted}")


def test_weights_as_pickles_and_none_at_all(folder):
    (folder / "model.safetensors").unlink()
    assert refusals(folder).endswith("no weights (*.safetensors) in that folder")
    torch.save({}, folder / "pytorch_model.bin")
    assert refusals(folder).endswith("its weights are pickles (.bin), which can run code: save them as safetensors")


def test_a_base_model_without_template_gets_chatml_and_a_user_reads_it_once(folder, tmp_path, capsys):
    spoil(folder, chat_template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_items_jsonl(tmp_path / "quiz.jsonl", [make_item(n) for n in range(2)])
    for out in ("one", "two"):
        recipe = Recipe.model_validate({"evaluation": {"max_new_tokens": 8}})
        evaluate_command(
            str(folder),
            [str(tmp_path / "quiz.jsonl")],
            limit=None,
            samples=None,
            out=tmp_path / out,
            recipe=recipe,
            say=lambda line: None,
        )
    line = "gazal: model tiny has no chat template: chats are written in plain ChatML; a base model is better asked with --set evaluation.prompt=plain"
    assert capsys.readouterr().err.splitlines().count(line) == 1
    assert load_tokenizer(folder).chat_template == CHATML_TEMPLATE


def test_a_pad_that_is_eos_is_no_hindrance_to_who_only_asks(folder, tmp_path):
    """As GPT-2 has it: one special token, and no template."""
    plain = Tokenizer(BPE())
    plain.pre_tokenizer = ByteLevel()
    plain.train_from_iterator(
        ["Question: which? A. one B. two Answer: A"] * 9,
        BpeTrainer(special_tokens=["<end>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False),
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>").save_pretrained(folder)
    with pytest.raises(GazalError, match="pad is EOS and no other pad token exists; a model trained so never stops"):
        load_tokenizer(folder, to_train=True)
    assert load_tokenizer(folder).pad_token == "<end>"
    write_items_jsonl(tmp_path / "quiz.jsonl", [make_item(n) for n in range(5)])
    for prompt in ("plain", "chat"):
        made = Recipe.model_validate({"evaluation": {"prompt": prompt, "max_new_tokens": 8}})
        scores = evaluate_command(
            str(folder),
            [str(tmp_path / "quiz.jsonl")],
            limit=None,
            samples=None,
            out=tmp_path / prompt,
            recipe=made,
            say=lambda line: None,
        )
        assert scores["models"]["tiny"]["benchmarks"]["quiz"]["n"] == 5
