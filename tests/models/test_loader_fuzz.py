"""Two hundred damaged folders: each gives the numbers of the whole one, or one GazalError of one line. Nothing else."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from helpers.folders import POINTER, edit_config, edit_weights, split_weights
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from gazal.common.errors import GazalError
from gazal.engines.load import load_engine
from gazal.recipe.recipe import Recipe

SETTINGS = Recipe.model_validate({"evaluation": {"max_new_tokens": 8, "temperature": 0.0}}).evaluation
CHATS = [
    [{"role": "user", "content": text}] for text in ("Which dose of amoxicillin?", "Answer with one letter: A or B")
]
JSON = "config.json generation_config.json tokenizer.json tokenizer_config.json".split()
SIZES = (
    "vocab_size hidden_size num_hidden_layers intermediate_size num_attention_heads num_key_value_heads head_dim "
    "model_type architectures layer_types rope_parameters attention_bias quantization_config tie_word_embeddings"
).split()
Change = str  # what was done, for the message of a failure


def outcome(folder: Path) -> tuple[list[tuple], torch.Tensor]:
    engine = load_engine(folder, "float32")
    replies = sorted(reply for batch in engine.complete(CHATS, SETTINGS, 0, ()) for reply in batch)
    with torch.no_grad():
        return replies, engine.model(torch.tensor([[5, 6, 7, 8, 9]])).logits


# Changes that could be meant, such as another rope_theta, are not among these: they may change the numbers.


def drop(folder: Path, rng: random.Random) -> Change:
    def change(weights):
        gone = rng.sample(sorted(weights), rng.randint(1, len(weights)))
        return {name: value for name, value in weights.items() if name not in gone}

    edit_weights(folder, change)
    return "tensors dropped"


def rename(folder: Path, rng: random.Random) -> Change:
    prefix = rng.choice(["module.", "_orig_mod.", "base_model.model.", "model.", "x"])

    def change(weights):
        chosen = set(rng.sample(sorted(weights), rng.choice([1, 2, len(weights)])))
        return {prefix * (name in chosen) + name: value for name, value in weights.items()}

    edit_weights(folder, change)
    return f"renamed to {prefix}"


def shorten_names(folder: Path, rng: random.Random) -> Change:
    chosen = rng.random() < 0.5

    def change(weights):
        return {n.removeprefix("model.") if chosen or rng.random() < 0.5 else n: v for n, v in weights.items()}

    edit_weights(folder, change)
    return "names without model."


def resize(folder: Path, rng: random.Random) -> Change:
    def change(weights):
        name = rng.choice(sorted(weights))
        value = weights[name]
        cuts = [value[:-1], value[:0], torch.cat([value, value]), value[None], value[..., :-1]]
        return weights | {name: rng.choice(cuts)}

    edit_weights(folder, change)
    return "a tensor resized"


def poison(folder: Path, rng: random.Random) -> Change:
    def change(weights):
        value = weights[rng.choice(sorted(weights))].view(-1)
        value[rng.randrange(len(value))] = rng.choice([float("nan"), float("inf"), float("-inf")])
        return weights

    edit_weights(folder, change)
    return "a value that is no number"


def integers(folder: Path, rng: random.Random) -> Change:
    dtype = rng.choice([torch.int8, torch.uint8, torch.int64, torch.bool])

    def change(weights):
        name = rng.choice(sorted(weights))
        return weights | {name: weights[name].to(dtype)}

    edit_weights(folder, change)
    return f"a tensor as {dtype}"


def add(folder: Path, rng: random.Random) -> Change:
    key = rng.choice("rotary_emb.inv_freq lm_head.weight score.weight model.layers.1.mlp.up_proj.weight".split())
    edit_weights(folder, lambda weights: weights | {key: torch.ones(4, 4)})
    return f"{key} added"


def twice(folder: Path, rng: random.Random) -> Change:
    def change(weights):
        name = rng.choice(sorted(weights))
        return weights | {name.removeprefix("model."): weights[name] + 1}

    edit_weights(folder, change)
    return "a tensor with and without its prefix"


def tie(folder: Path, rng: random.Random) -> Change:
    same = rng.random() < 0.5
    source = "model.embed_tokens.weight"
    edit_weights(folder, lambda weights: weights | {"lm_head.weight": weights[source] * (1 if same else 1.01)})
    return f"a tied head stored, the same: {same}"


def set_value(folder: Path, rng: random.Random) -> Change:
    key, value = rng.choice(SIZES), rng.choice([None, 0, -1, 3, 7, "x", [], {}, False, ["x"], {"x": 1}, 1.5])
    if (key, value) not in [("attention_bias", None), ("rope_parameters", None), ("rope_parameters", {})]:
        edit_config(folder, **{key: value})
    return f"{key} = {value!r}"


def remove_value(folder: Path, rng: random.Random) -> Change:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    key = rng.choice([key for key in SIZES if key in config and key != "rope_parameters"])
    del config[key]
    file.write_text(json.dumps(config))
    return f"{key} removed"


def cut(folder: Path, rng: random.Random) -> Change:
    file = folder / rng.choice([*JSON, "model.safetensors"])
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data.rstrip()))])
    return f"{file.name} cut"


def replace(folder: Path, rng: random.Random) -> Change:
    file = folder / rng.choice([*JSON, "model.safetensors"])
    content = rng.choice([POINTER, b"", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\x00", rng.randbytes(100), None])
    file.unlink()
    file.mkdir() if content is None else file.write_bytes(content)
    return f"{file.name} replaced by {content!r}"


def remove(folder: Path, rng: random.Random) -> Change:
    name = rng.choice("config.json generation_config.json tokenizer.json model.safetensors".split())
    (folder / name).unlink()
    return f"{name} removed"


def flip_header(folder: Path, rng: random.Random) -> Change:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    at = rng.randrange(8 + int.from_bytes(data[:8], "little"))
    data[at] = rng.randrange(256) if at < 8 else rng.choice(b'0123456789abkqv_."{}[],:FIU \x00')
    file.write_bytes(data)
    return f"byte {at} of the header changed"


def leftover(folder: Path, rng: random.Random) -> Change:
    base = rng.choice([{}, {"base_model_name_or_path": None}, {"base_model_name_or_path": "x/y"}])
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | base))
    if rng.random() < 0.5:
        save_file({"base_model.model.x.lora_A.weight": torch.ones(4, 4)}, folder / "adapter_model.safetensors")
    return "an adapter left"


def beside(folder: Path, rng: random.Random) -> Change:
    name = rng.choice("old.safetensors model-00002-of-00002.safetensors a.gguf pytorch_model.bin notes.json".split())
    (folder / name).write_bytes(rng.choice([POINTER, b"", (folder / "model.safetensors").read_bytes()]))
    return f"{name} beside"


def shards(folder: Path, rng: random.Random) -> Change:
    first, second = split_weights(folder)
    index = folder / "model.safetensors.index.json"
    what = rng.choice("whole lost renamed twice index single".split())
    if what == "lost":
        rng.choice([first, second]).unlink()
    elif what == "renamed":
        second.rename(folder / "model-00003-of-00003.safetensors")
    elif what == "twice":
        save_file(load_file(second) | {name: value + 1 for name, value in load_file(first).items()}, second)
    elif what == "index":
        index.write_bytes(index.read_bytes()[: rng.randrange(index.stat().st_size)])
    elif what == "single":
        shutil.copy(second, folder / "model.safetensors")
    return f"shards, {what}"


def tokens(folder: Path, rng: random.Random) -> Change:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = rng.random() < 0.5
    tokenizer.add_tokens(["<unseen>"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    return f"a token added, special: {special}"


def template(folder: Path, rng: random.Random) -> Change:
    texts = ["{% if", "{{ 1 / 0 }}", "{{ x.y.z }}", "{{ messages + 1 }}", "no question", POINTER.decode(), ""]
    (folder / "chat_template.jinja").write_text(rng.choice(texts))
    return "another template"


def quantized(folder: Path, rng: random.Random) -> Change:
    method = rng.choice("gptq awq bitsandbytes compressed-tensors aqlm hqq fp8 mxfp4 torchao mine".split())
    edit_config(folder, quantization_config={"quant_method": method} | ({"bits": 4} if rng.random() < 0.5 else {}))
    return f"quantized by {method}"


CHANGES = [
    drop, rename, shorten_names, resize, poison, integers, add, twice, tie, set_value, set_value, remove_value, cut, replace,
    remove, flip_header, leftover, beside, shards, tokens, template, quantized,
]  # fmt: skip


@pytest.mark.slow
def test_two_hundred_damaged_folders(tiny_model, tmp_path):
    replies, logits = outcome(tiny_model)
    found = {"right": 0, "refused": 0}
    for seed in range(200):
        rng = random.Random(seed)
        folder = Path(shutil.copytree(tiny_model, tmp_path / f"{seed}"))
        did = f"seed {seed}: {rng.choice(CHANGES)(folder, rng)}"
        try:
            given, numbers = outcome(folder)
        except GazalError as error:
            message = str(error)
            assert "\n" not in message and message.startswith((f"model {folder}", f"model {seed}:")), (
                f"{did}: {message}"
            )
            found["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{did}: {type(error).__name__}: {error}") from error
        else:
            assert given == replies and torch.equal(numbers, logits), f"{did}: other numbers"
            found["right"] += 1
        shutil.rmtree(folder)
    assert found["right"] >= 15 and found["refused"] >= 120, found
