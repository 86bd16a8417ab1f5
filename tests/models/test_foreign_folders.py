"""Folders of other makers, and broken ones: right numbers or one line, never a traceback and never random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.folders import POINTER, edit_config, edit_weights, split_weights
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from gazal.common.errors import GazalError
from gazal.engines.load import load_engine
from gazal.items.prompts import encode_chats
from gazal.models import generation, loading
from gazal.models.generation import generate
from gazal.models.identity import identity_of
from gazal.models.likelihood import Encoded, score_batch
from gazal.models.loading import load_config, load_model, load_tokenizer, read_config
from gazal.models.rendering import Renderer
from gazal.planning.model_shapes import base_config, meta_model
from gazal.recipe.recipe import Recipe
from gazal.trainer.backend import load_trainable
from gazal.training.preflight import preflight_sft

IDS = torch.tensor([[5, 6, 7, 8, 9]])
CHAT = [{"role": "user", "content": "Which?"}]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model to work on."""
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(GazalError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1500
    return message


def refused(folder: Path, load: Callable[[Path], object] = load_engine) -> str:
    message = refusal(lambda: load(folder))
    assert message.startswith(f"model {folder}: ")
    return message.removeprefix(f"model {folder}: ")


def same(folder: Path, tiny_model: Path) -> bool:
    with torch.no_grad():
        return torch.equal(load_model(folder)(IDS).logits, load_model(tiny_model)(IDS).logits)


# weights that are not there


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "my.own."])
def test_a_prefix_on_every_name_is_named(folder, prefix):
    edit_weights(folder, lambda weights: {prefix + name: value for name, value in weights.items()})
    message = refused(folder)
    assert "missing: model.embed_tokens.weight" in message
    assert f"the stored names begin with {prefix}, which has to be removed" in message
    assert refused(folder, load_model) == message


def test_a_word_within_the_names_is_named(folder):
    edit_weights(folder, lambda weights: {k.replace("layers.0", "layers.0._orig_mod"): v for k, v in weights.items()})
    assert "the stored names contain _orig_mod., which has to be removed" in refused(folder)


@pytest.mark.parametrize("name", ["model.norm.weight", UP, "model.embed_tokens.weight"])
def test_a_tensor_that_is_missing(folder, name):
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != name})
    assert refused(folder) == f"its weights are not those of its config.json; missing: {name}"


def test_a_layer_that_is_missing_five_names_and_a_number(folder):
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if ".layers." not in k})
    message = refused(folder)
    assert message.count("model.layers.0.") == 5 and message.endswith(" and 6 more")


def test_a_head_that_is_missing(folder):
    edit_config(folder, tie_word_embeddings=False)
    assert refused(folder).endswith("missing: lm_head.weight")


def test_what_the_config_does_not_know(folder):
    edit_weights(folder, lambda weights: weights | {UP.replace("layers.0", "layers.1"): weights[UP]})
    assert refused(folder).endswith("unexpected: model.layers.1.mlp.up_proj.weight")


def test_another_size(folder):
    edit_weights(folder, lambda weights: weights | {"model.norm.weight": weights["model.norm.weight"][:16]})
    assert refused(folder).endswith("of another shape: model.norm.weight (16 instead of 32)")
    edit_weights(folder, lambda weights: weights | {"model.norm.weight": torch.zeros(0)})
    assert refused(folder).endswith("of another shape: model.norm.weight (0 instead of 32)")


def test_an_adapter_within_the_weights(folder):
    extra = {f"{UP.removesuffix('.weight')}.lora_A.weight": torch.zeros(2, 32)}
    edit_weights(folder, lambda weights: weights | extra)
    assert refused(folder).endswith("they hold an adapter that is not merged")


def test_no_tensors_at_all(folder):
    edit_weights(folder, lambda weights: {})
    assert refused(folder).endswith("its safetensors hold no tensors: fetch them again")


def test_integers_are_no_weights_without_their_scales(folder):
    edit_weights(folder, lambda weights: weights | {UP: weights[UP].to(torch.int8)})
    assert refused(folder).startswith(f"{UP} in model.safetensors holds integers (I8)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", UP, "model.embed_tokens.weight"])
def test_weights_that_are_no_numbers(folder, name, value):
    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights[name].view(-1)[-1] = value
        return weights

    edit_weights(folder, spoil)
    assert refused(folder, load_model) == f"{name} holds NaN or infinite values in float32"


def test_what_other_makers_store_besides_is_no_fault(folder, tiny_model):
    edit_weights(folder, lambda weights: weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert same(folder, tiny_model)


def test_a_tied_head_is_stored_or_not(folder, tiny_model):
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(folder, lambda weights: weights | {"lm_head.weight": embedding.clone()})
    assert same(folder, tiny_model)
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != "model.embed_tokens.weight"})
    assert same(folder, tiny_model)


def test_a_tied_head_with_other_values_is_refused(folder, tiny_model):
    """transformers would use it, vLLM would not."""
    edit_weights(folder, lambda weights: weights | {"lm_head.weight": -weights["model.embed_tokens.weight"]})
    message = refused(folder)
    assert message.startswith("config.json ties lm_head.weight to model.embed_tokens.weight, but the two are stored")
    edit_config(folder, tie_word_embeddings=False)
    assert not same(folder, tiny_model)


def test_a_tied_head_of_another_shape(folder):
    edit_weights(folder, lambda weights: weights | {"lm_head.weight": torch.ones(4, 32)})
    assert "ties lm_head.weight to model.embed_tokens.weight, but their shapes are [4, 32] and [" in refused(folder)


def test_a_tensor_with_and_without_its_prefix(folder):
    """transformers would take one of them."""
    edit_weights(folder, lambda weights: weights | {"norm.weight": weights["model.norm.weight"] + 1})
    assert refused(folder) == "norm.weight is stored twice, with and without a prefix: remove one"


def test_names_without_the_base_models_prefix(folder, tiny_model):
    edit_weights(folder, lambda weights: {name.removeprefix("model."): value for name, value in weights.items()})
    assert same(folder, tiny_model)


def test_training_refuses_the_same(folder):
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != UP})
    assert f"missing: {UP}" in refused(folder, lambda path: load_trainable(Recipe(), "sft", path, None, 64))


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}, {"temperature": 0.7, "top_p": 0.9}])  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers(tiny_model, sampling, value):
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    model.model.norm.weight.data[:] = value
    message = refusal(lambda: list(generate(model, tokenizer, [[5, 6], [7, 8, 9]], max_new_tokens=6, **sampling)))
    assert message.startswith(f"model {tiny_model}: its logits are no numbers (NaN or infinite) in float32")
    assert refusal(lambda: score_batch(model, [Encoded([5, 6], [[7], [8, 9]], 2)], 0)) == message


def test_logits_that_are_no_numbers_later_on(tiny_model, monkeypatch):
    model, tokenizer, forward, calls = load_model(tiny_model), load_tokenizer(tiny_model), generation.forward, []

    def late(*arguments, **options):
        calls.append(forward(*arguments, **options))
        return calls[-1] * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(generation, "forward", late)
    message = refusal(lambda: list(generate(model, tokenizer, [[5, 6]], max_new_tokens=6)))
    assert "its logits are no numbers" in message


# adapters


def test_an_adapter_left_beside_a_whole_model(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x/y"}')
    for load in (load_engine, load_model, load_config, lambda path: identity_of(path, "float32")):
        message = refused(folder, load)
        assert message.startswith("a whole model and an adapter, which would be added to it: if it is merged, remove ")
    assert refused(folder, lambda path: load_engine(path, engine="vllm")) == message


@pytest.mark.parametrize("base", [{}, {"base_model_name_or_path": None}, {"base_model_name_or_path": ""}])
@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_that_names_no_base(folder, base, config):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **base}))
    if not config:
        (folder / "config.json").unlink()
    assert refused(folder, load_model).endswith("adapter_config.json names no base (base_model_name_or_path)")


def test_an_adapter_on_the_hub(monkeypatch):
    """transformers would load its base as well, and add it."""
    monkeypatch.setattr(loading, "require", lambda path: None)
    monkeypatch.setattr(loading, "find_adapter_config_file", lambda path, revision: "adapter_config.json")
    message = "model owner/name: it has an adapter (adapter_config.json); give the id of a merged model"
    assert refusal(lambda: load_model("owner/name")) == message


# files


@pytest.mark.parametrize(
    "name", "config.json model.safetensors generation_config.json tokenizer.json tokenizer_config.json".split()
)
@pytest.mark.parametrize(
    "content, what",
    [(POINTER, "is a Git LFS pointer, not the file: run git lfs pull"), (b"", "is empty"), (b'{"a', None)],
)
def test_files_that_were_not_fetched_whole(folder, name, content, what):
    (folder / name).write_bytes(content)
    assert refused(folder).startswith(f"{name} {what}" if what else name)


def test_a_template_that_was_not_fetched(folder):
    (folder / "chat_template.jinja").write_bytes(POINTER)
    assert refused(folder).startswith("chat_template.jinja is a Git LFS pointer")


@pytest.mark.parametrize("kept", [1, 7, 8, 60, 0.5, -1])
def test_safetensors_that_are_cut(folder, kept):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert refused(folder).startswith("model.safetensors is cut or damaged")
    file.write_bytes(data + b"more")
    assert refused(folder).startswith("model.safetensors is cut or damaged")


def test_shards(folder, tiny_model):
    shards, index = split_weights(folder), folder / "model.safetensors.index.json"
    assert same(folder, tiny_model)
    shards[1].write_bytes(shards[1].read_bytes()[:-4])
    assert refused(folder).startswith(f"{shards[1].name} is cut or damaged")
    shards[1].unlink()
    assert refused(folder).startswith(f"{shards[1].name} missing, which {index.name} names")
    shutil.copy(tiny_model / "model.safetensors", folder)
    assert refused(folder).startswith(f"both model.safetensors and {index.name}")
    (folder / "model.safetensors").unlink()
    for broken in ("{", "[]", '{"metadata": {}}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}'):
        index.write_text(broken)
        assert refused(folder).startswith(index.name)
    index.unlink()
    assert "no model.safetensors and no model.safetensors.index.json" in refused(folder)


def test_a_tensor_in_two_shards(folder):
    first, second = split_weights(folder)
    name, value = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: value + 1}, second, {"format": "pt"})
    assert refused(folder) == f"{name} is in {first.name} and in {second.name}: remove one"


@pytest.mark.parametrize("content", ["{}", "[]", '{"version": "9.0", "model": {"type": "Fancy"}}', '{"version": "1.0"'])
def test_a_tokenizer_that_is_newer_or_cut(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert refused(folder).startswith("tokenizer.json")
    if content.endswith("}}"):
        assert "needs a newer transformers than" in refused(folder, load_tokenizer)


@pytest.mark.parametrize("content", ["", "{", "not JSON", "[]", "null", '"text"', "{}", '{"model_type": null}', '{"model_type": 3}'])  # fmt: skip
def test_a_config_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    recipe = Recipe.model_validate({"model": {"base": str(folder)}})
    for load in (load_engine, load_model, load_config, read_config, lambda path: base_config(recipe.model)):
        assert refused(folder, load).startswith("config.json")


@pytest.mark.parametrize("eos", ["x", [3, "x"], {}, 1.5])
def test_an_eos_that_is_no_token(folder, eos):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert refused(folder).startswith("generation_config.json: eos_token_id: expected a token id or a list of them")


def test_models_that_need_a_newer_transformers(folder):
    edit_config(folder, model_type="qwen99")
    recipe = Recipe.model_validate({"model": {"base": str(folder)}})
    for load in (load_engine, load_model, lambda path: base_config(recipe.model)):
        assert refused(folder, load).startswith("config.json: model_type: 'qwen99' is unknown to transformers ")


@pytest.mark.parametrize("rope", [{"rope_type": "spiral"}, {"type": "spiral"}])
def test_an_unknown_rope_type(folder, rope):
    edit_config(folder, rope_parameters={"rope_theta": 10000.0, **rope})
    assert refused(folder, load_config).startswith("config.json: rope_type: 'spiral' is unknown to transformers ")


@pytest.mark.parametrize(
    "values",
    [
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": 3},
        {"hidden_size": "wide"},
        {"hidden_act": "magic"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"layer_types": ["no such"]},
        {"model_type": "t5"},
    ],
)
def test_values_that_no_model_can_have(folder, values):
    edit_config(folder, **values)
    refused(folder)
    section = Recipe.model_validate({"model": {"base": str(folder)}}).model
    refusal(lambda: meta_model(base_config(section), "float32"))


@pytest.mark.parametrize(
    "values, what",
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, which needs bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes, which needs bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq, which needs optimum gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "awq, which needs gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors, which needs compressed-tensors"),
    ],
)
def test_quantized_weights_without_their_library(folder, monkeypatch, values, what):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    edit_config(folder, quantization_config=values)
    assert refused(folder).startswith(f"its weights are quantized by {what}: pip install ")


@pytest.mark.parametrize(
    "values", [{"quant_method": "mine"}, {"bits": 4}, "gptq", ["gptq"], {"quant_method": ["gptq"]}]
)
def test_a_quantization_that_nobody_knows(folder, values):
    edit_config(folder, quantization_config=values)
    refused(folder, load_model)


def test_gguf(folder, tmp_path):
    file = folder / "model-q4.gguf"
    file.write_bytes(b"GGUF")
    for load in (load_engine, load_model, load_tokenizer):
        assert "GGUF, which is not read here; give the original model's safetensors, or serve" in refused(file, load)
    (folder / "model.safetensors").unlink()
    assert refused(folder).startswith("GGUF, which is not read here")
    (folder / "config.json").unlink()
    assert refused(folder, load_model).startswith("GGUF, which is not read here")
    assert "GGUF" in refusal(lambda: load_model(tmp_path / "gone.gguf"))


def test_a_file_is_no_folder(folder):
    assert refused(folder / "model.safetensors").startswith("a file; give the folder that it is in")


# tokenizers


def test_more_tokens_than_rows(folder):
    rows = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    load_engine(folder)  # Gemma 3's text models have one that nothing uses
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(folder)
    what = f"its tokenizer has token ids up to {rows + 1}, but its embedding has {rows} rows"
    assert what in refusal(lambda: load_engine(folder))
    recipe = Recipe.model_validate({"model": {"base": str(folder)}})
    assert what in refusal(lambda: preflight_sft(recipe, [], run=False))


def test_fewer_rows_than_tokens(folder):
    name = "model.embed_tokens.weight"
    edit_weights(folder, lambda weights: weights | {name: weights[name][:600]})
    edit_config(folder, vocab_size=600, pad_token_id=0)
    assert "but its embedding has 600 rows" in refusal(lambda: load_engine(folder))
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for ask in (
        lambda: list(generate(model, tokenizer, [[5, 600]], max_new_tokens=2)),
        lambda: score_batch(model, [Encoded([5], [[6], [7, 650]], 1)], 0),
    ):
        assert "a prompt has token id 6" in refusal(ask)


@pytest.mark.parametrize(
    "template, what",
    [
        ("{% for m in messages %}{{ m.content }}", "is no Jinja"),
        ("{{ messages[0].content + }}", "is no Jinja"),
        ("{{ raise_exception('no') }}", "refuses the prompt (no)"),
        ("{{ messages[0].content.nothing.more }}", "refuses the prompt"),
        ("{{ messages[0].content + 1 }}", "fails (TypeError: "),
        ("{{ 1 / 0 }}", "fails (ZeroDivisionError: "),
        ("{{ bos_token }}hello", "leaves out the prompt's last message"),
        (" ", "leaves out the prompt's last message"),
    ],
)
def test_a_chat_template_that_is_broken(folder, template, what):
    (folder / "chat_template.jinja").write_text(template)
    engine = load_engine(folder)
    settings = Recipe.model_validate({"evaluation": {"max_new_tokens": 8}}).evaluation
    message = refusal(lambda: list(engine.complete([CHAT], settings, 0, ())))
    assert message.startswith(f"model tiny: its chat template {what}")
    if "leaves out" not in what:
        assert refusal(lambda: encode_chats(engine.tokenizer, [CHAT])).startswith(f"model {folder}: its chat template")


def test_a_template_may_change_white_space():
    tokenizer = SimpleNamespace(apply_chat_template=lambda messages, **options: "<user>one two")
    assert Renderer(tokenizer, "x").text([{"role": "user", "content": " one\n\ntwo "}]) == "<user>one two"
