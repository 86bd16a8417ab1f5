"""Training of the embedded base model from random weights: a Qwen3 of 4.7M parameters, on two cores, in an hour."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from gazal.common.files import atomic_write, sha256, write_json
from gazal.common.streams import Stream, generator
from gazal.items.prompts import SYSTEM, build_messages, completion_text
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.base_corpus import Corpus
from gazal.knowledge.base_tokenizer import train_tokenizer
from gazal.knowledge.generate import draw
from gazal.knowledge.hpo import load_phenotypes

BASE_BUCKETS = range(65, 100)


class BaseTraining(BaseModel):
    """The training of the embedded base model; this project chose every value, for two CPU cores."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int = Field(1, description="Seed of weights and corpus. source: chosen, because one must be")
    n_diseases: int = Field(150, description="Diseases in the pool. source: chosen, because 150 are learnt in an hour")
    vocabulary: int = Field(
        6144, description="BPE size. source: chosen, because it holds each entity as about one token"
    )
    hidden: int = Field(256, description="Hidden size. source: chosen, because 4.7M parameters fit the package")
    layers: int = Field(4, description="Layers. source: chosen, because fewer could not look up and add")
    steps: int = Field(
        1500, description="Optimizer steps. source: chosen, because facts reach 0.99 and it takes under an hour"
    )
    rows: int = Field(24, description="Packed rows a step. source: chosen, by CPU throughput")
    length: int = Field(256, description="Tokens a row. source: chosen, because the longest item takes 140")
    learning_rate: float = Field(2e-3, description="Peak of a linear decay. source: chosen, by trials at this size")
    warmup: int = Field(150, description="Warm-up steps. source: chosen, because it prevents early spikes")
    weight_decay: float = Field(0.01, description="AdamW's. source: chosen, because the facts are to be memorised")
    checkpoint_every: int = Field(
        300, description="Steps between checkpoints and probes. source: chosen, about 5 minutes"
    )


def packed_rows(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, config: BaseTraining, start: int
) -> Iterator[torch.Tensor]:
    """Yield (rows, length) int64 batches from step ``start`` on; each document ends with ``<|endoftext|>``."""
    buffer: list[int] = []
    need = config.rows * config.length
    for step in range(start, config.steps):
        documents = corpus.documents(step / config.steps)
        while len(buffer) < need:
            texts = list(itertools.islice(documents, 64))
            for ids in tokenizer(texts)["input_ids"]:
                buffer += [*ids, tokenizer.pad_token_id]
        yield torch.tensor(buffer[:need]).view(config.rows, config.length)
        buffer = buffer[need:]


def tokenizer_texts(corpus: Corpus, n: int = 20_000) -> Iterator[str]:
    """Yield the tokenizer's training texts: ``n`` documents of the base, and completions in the form that SFT teaches.

    The completions make their words whole tokens; the base model itself never reads them.
    """
    yield from itertools.islice(corpus.documents(0.7), n)
    for _ in range(n // 20):
        for kind in REASONING_TYPES:
            item = corpus.item(kind)
            for reasoning in (item.reasoning or "", item.reasoning_brief):
                yield f"{completion_text(item, reasoning)}. {item.options[item.answer_idx]}"


def probe(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, n_diseases: int, n: int = 200
) -> dict[str, float]:
    """Return teacher-forced accuracy: of numbers in ``n`` statements, and of the letter on ``n`` dev items.

    The numbers are levels of reported findings, levels of findings not reported, and totals.
    ``diseases`` is the number of diseases in the pool.
    """
    rng = np.random.default_rng(5)
    corpus = Corpus(n_diseases, 0, BASE_BUCKETS, "", 12345)
    lines = []
    while len(lines) < n:
        text = corpus.statement()
        if "; total: " in text and not text.startswith("Step"):
            lines.append(text.split("\n")[int(rng.integers(3))] + "\n")
    right: dict[str, list[bool]] = {"reported": [], "not_reported": [], "total": [], "letter": []}
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        batch = tokenizer(lines, return_tensors="pt", padding=True, padding_side="right")
        predicted = model(**batch).logits.argmax(-1)
        for row, ids in enumerate(batch["input_ids"].tolist()):
            pieces = tokenizer.convert_ids_to_tokens(ids)
            for at, piece in enumerate(pieces):
                if piece.startswith(":Ġ") and piece[2:3].isdigit():
                    kind = "total" if pieces[at - 1] == "total" else "not_reported" if piece[2] == "0" else "reported"
                    said = tokenizer.convert_ids_to_tokens(int(predicted[row, at - 1])) or ""
                    right[kind].append(said.rstrip("Ċ;Ġ") == piece.rstrip("Ċ;Ġ"))  # without what ends the number
        for kind in REASONING_TYPES:
            for item in draw(kind, n // 4, 9, range(15, 25), n_diseases, variety="plain"):
                text = tokenizer.apply_chat_template(
                    build_messages(item, SYSTEM), tokenize=False, add_generation_prompt=True
                )
                batch = tokenizer(text + "Answer: ", return_tensors="pt")
                letter = tokenizer.decode(int(model(**batch).logits[0, -1].argmax())).strip(". ")
                right["letter"].append(letter == item.answer_idx)
    model.train()
    accuracy = {name: round(float(np.mean(values)), 4) for name, values in right.items() if values}
    return {**accuracy, "diseases": len(load_phenotypes(n_diseases, 0).diseases)}


def train_base(out: Path, config: BaseTraining, compile_model: bool = True) -> None:
    """Train, print progress, and write weights (bf16 safetensors), tokenizer and manifest to ``out``.

    ``out/.checkpoint.pt`` lets an interrupted run continue from its last probe.
    """
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(config.n_diseases, 0, BASE_BUCKETS, SYSTEM, config.seed)
    tokenizer = train_tokenizer(tokenizer_texts(corpus), config.vocabulary)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            intermediate_size=3 * config.hidden,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            tie_word_embeddings=True,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / config.warmup, max(config.steps - s, 1) / (config.steps - config.warmup))
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    checkpoint, start = out / ".checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        corpus.rng = generator(config.seed, Stream.BASE_CORPUS, start)
        print(f"continuing at step {start}", flush=True)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            logits = model.lm_head(hidden)
        return cross_entropy(logits.float(), batch[:, 1:].flatten())

    step_loss = torch.compile(loss_of) if compile_model else loss_of
    began, log, last = time.time(), [], {}
    for step, batch in enumerate(packed_rows(corpus, tokenizer, config, start), start + 1):
        loss = step_loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        log.append(loss.item())
        if step % 50 == 0 or step == config.steps:
            minutes = (time.time() - began) / 60
            rate = (step - start) * config.rows * config.length / (minutes * 60)
            left = minutes / (step - start) * (config.steps - step)
            print(
                f"step {step}/{config.steps} loss {np.mean(log[-50:]):.3f} {rate:,.0f} tok/s "
                f"{minutes:.1f} min, {left:.1f} left",
                flush=True,
            )
        if step % config.checkpoint_every == 0 or step == config.steps:
            last = probe(model, tokenizer, config.n_diseases)
            print(f"  probe {last}", flush=True)
            with atomic_write(checkpoint, "wb") as handle:
                torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, handle)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    files = sorted(f for f in out.iterdir() if f.suffix in {".safetensors", ".json"} and f.name != "manifest.json")
    write_json(
        out / "manifest.json",
        {
            "config": config.model_dump(mode="json"),
            "parameters": model.num_parameters(),
            "tokens": config.steps * config.rows * config.length,
            "minutes": round((time.time() - began) / 60, 1),
            "final_loss": round(float(np.mean(log[-50:])), 4),
            "probe": last,
            "hpo_release": corpus.pool.release,
            "torch": torch.__version__,
            "sha256": {file.name: sha256(file) for file in files},
        },
    )
    checkpoint.unlink()
