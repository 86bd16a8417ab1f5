"""`gazal check`: what a model folder or a server is, in plain words, before it is asked anything that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gazal import DISCLAIMER
from gazal.answers.extract import Reason, extract
from gazal.answers.markup import OWN, part
from gazal.engines.load import load_engine
from gazal.evaluation.targets import Target, find_targets
from gazal.items.prompts import Prompt
from gazal.items.schema import Item
from gazal.predictions.prompting import prompting_of
from gazal.recipe.recipe import Recipe

QUESTION = Item(
    id="check",
    question="A sailor with bleeding gums has eaten no fresh fruit for months. Which vitamin does he lack?",
    options={"A": "Vitamin A", "B": "Vitamin B12", "C": "Vitamin C", "D": "Vitamin K"},
    answer_idx="C",
)
SHOWN = 600  # characters of the completion


def check_model(name: str, recipe: Recipe, tokens: int = 512, say: Callable[[str], None] = print) -> None:
    """Load a model, or reach its server; say what its template and EOS are, and how it answers one question, greedily.

    ``name`` is what ``gazal evaluate --model`` takes, ``tokens`` the completion's limit. Raise GazalError for whatever
    the evaluation would refuse.
    """
    [one] = find_targets([name], recipe)
    one = one.changed({"temperature": 0.0, "samples": 1, "method": "generate", "max_new_tokens": tokens})
    settings, prompting = one.recipe.evaluation, prompting_of(one.recipe)
    engine: Any = load_engine(one.spec, one.dtype, one.revision, settings.engine, settings.context)
    prompt = prompting.prompt(QUESTION)
    for topic, text in _facts(one, engine, prompt):
        say(f"{topic + ':':<12}{text}")
    [[reply]] = engine.complete([prompt], settings, one.recipe.seed, ())
    opens = engine.opens_think(prompt)
    think_open = prompting.opens_think if opens is None else opens
    for topic, text in _answered(reply.text, reply.finish_reason, reply.n_tokens, think_open):
        say(f"{topic + ':':<12}{text}")
    say(DISCLAIMER)


def _facts(one: Target, engine: Any, prompt: Prompt) -> Iterator[tuple[str, str]]:
    if one.spec.startswith("openai:"):
        yield "server", f"model {engine.model}; its template and its tokens are its own and cannot be seen"
        return
    model, tokenizer = getattr(engine, "model", None), engine.tokenizer
    if model is None:
        yield "loads", "in vLLM"
    else:
        count = sum(parameter.numel() for parameter in model.parameters())
        kind = f"{type(model).__name__}, {count:,} parameters, {str(model.dtype).removeprefix('torch.')}"
        yield "loads", f"{kind}, every weight from its files"
    text = engine.renderer.text(prompt, one.recipe.evaluation.thinking)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    again = tokenizer.decode(ids, skip_special_tokens=False)
    same = "the same text again" if again == text else "other text: its tokenizer changes what it reads"
    yield "template", f"{len(ids)} tokens, which decode to {same}; it ends with {text[-40:]!r}"
    yield "stops at", ", ".join(map(str, tokenizer.convert_ids_to_tokens(_stops(engine))))


def _stops(engine: Any) -> list[int]:
    from gazal.models.generation import stop_ids

    return list(engine.stops) if hasattr(engine, "stops") else stop_ids(engine.model, engine.tokenizer)


def _answered(text: str, finish_reason: str, count: int, think_open: bool) -> Iterator[tuple[str, str]]:
    parted = part(text, think_open)
    if parted.markup is None:
        marks = "none in this completion"
    else:
        opened = "" if parted.opened else ", which the template opened"
        closed = "open at the end: give it more tokens" if parted.answer is None else "closed"
        training = "" if parted.markup is OWN else "; rewards in training know <think> alone"
        marks = f"{parted.markup.name}{opened}, {closed}{training}"
    yield "thinking", marks
    if think_open and parted.markup is OWN and parted.answer is None and finish_reason == "stop":
        yield "", "model.prompt_opens_think says that the prompt opens the block, and nothing closed it"
    shown = text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} […] {text[-SHOWN // 2 :]}"
    yield "completion", f"{count} tokens, ended by {finish_reason}: {shown!r}"
    letter, reason = extract(text, QUESTION.options, think_open)
    right = ", which is right" if letter == QUESTION.answer_idx else ", which is wrong"
    yield "answer", letter + right if letter else f"none is read ({reason.value}: {Reason(reason).__doc__})"
