"""vLLM itself, where it is installed (a GPU, or its CPU build): the completions of the transformers engine, drawn by their own seeds, and its failures in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gazal.common.errors import GazalError
from gazal.engines.load import load_engine
from gazal.engines.reply import Reply
from gazal.evaluation.predict import Prompts
from gazal.items.prompts import SYSTEM
from gazal.knowledge.generate import synthesize
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

pytest.importorskip("vllm")
PROMPTS = Prompts(synthesize(100, 21), 1, Prompting(SYSTEM))
FEW = Prompts(
    PROMPTS.items[:8], 1, Prompting(SYSTEM)
)  # its CPU build cannot draw by seeds where it reads a prompt in parts


@pytest.fixture(scope="module")
def served():
    engine = load_engine("embedded", "float32", engine="vllm", context=1024)
    yield engine
    engine.close()


def ask(engine, prompts, done=(), **settings) -> list[Reply]:
    return sorted(
        reply
        for batch in engine.complete(prompts, EvaluationSection(**{"max_new_tokens": 40, **settings}), 1, done)
        for reply in batch
    )


@pytest.mark.parametrize("cut", [True, False])
def test_completions_are_those_of_the_transformers_engine(served, cut):
    here = load_engine("embedded", "float32")
    pairs = zip(ask(here, PROMPTS, stop_when_answered=cut), ask(served, PROMPTS, stop_when_answered=cut), strict=True)
    assert sum(mine == theirs for mine, theirs in pairs) >= 99
    plain = Prompts(PROMPTS.items[:8], 1, Prompting(style="plain"))
    assert ask(here, plain) == ask(served, plain)


def test_draws_do_not_depend_on_what_is_asked_beside(served):
    sampling = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    replies = ask(served, FEW, **sampling)
    assert replies == ask(served, FEW, **sampling) != ask(served, FEW)
    assert ask(served, FEW, {0, 3, 4}, **sampling) == [reply for reply in replies if reply.index not in (0, 3, 4)]


def test_a_prompt_without_room_is_not_asked_and_an_aborted_one_has_no_answer(served, monkeypatch):
    room = sorted(map(len, served.renderer.token_lists(FEW)))[4]
    generate = served.llm.generate

    def interrupted(*arguments, **options):
        first, *others = generate(*arguments, **options)
        first.outputs = [replace(first.outputs[0], finish_reason="abort")]
        return [first, *others]

    monkeypatch.setattr(served, "context", room)
    monkeypatch.setattr(served.llm, "generate", interrupted)
    replies = ask(served, FEW)
    unasked = [reply for reply in replies if reply[1:] == ("", 0, "length")]
    assert 0 < len(unasked) < 8 and len(replies) == 7


def test_more_context_than_the_model_has_is_one_line():
    with pytest.raises(GazalError, match="^model embedded: vLLM cannot load it ") as caught:
        load_engine("embedded", "float32", engine="vllm", context=1_000_000)
    assert "\n" not in str(caught.value)


def test_a_dead_engine_is_one_line(served):
    """The last: nothing can be asked of it after."""
    served.llm.llm_engine.engine_core.shutdown()
    with pytest.raises(
        GazalError, match="^model embedded: vLLM stopped .*; the same command goes on where this one stopped$"
    ):
        ask(served, FEW)
