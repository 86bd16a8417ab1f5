"""The same model in this process and behind `transformers serve`: the same completions, for the same prompts byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.model_server import needs_serve, serving

from gazal.common.errors import GazalError
from gazal.common.paths import EMBEDDED
from gazal.engines.load import load_engine
from gazal.engines.reply import Reply
from gazal.evaluation.predict import Prompts
from gazal.items.prompts import SYSTEM
from gazal.knowledge.generate import synthesize
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

pytestmark = needs_serve
SETTINGS = EvaluationSection(max_new_tokens=40, concurrency=4)
ITEMS = synthesize(100, 21)
NAME = str(EMBEDDED)  # a server knows a local folder by its path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("serve"), "--dtype", "float32") as url:
        yield f"openai:{url}#{NAME}"


@pytest.fixture(scope="module")
def here():
    return load_engine("embedded", "float32")


def ask(engine, prompts, settings=SETTINGS) -> list[Reply]:
    return sorted(reply for batch in engine.complete(prompts, settings, 1, ()) for reply in batch)


@pytest.mark.slow
def test_chats_are_answered_alike(served, here):
    prompts = Prompts(ITEMS, 1, Prompting(SYSTEM))
    mine, theirs = ask(here, prompts), ask(load_engine(served), prompts)
    assert [reply.index for reply in theirs] == list(range(100))
    assert [a for a, b in zip(mine, theirs, strict=True) if a.text != b.text] == []
    assert mine == theirs


@pytest.mark.slow
def test_plain_text_is_continued_alike(served, here):
    prompts = Prompts(ITEMS[:10], 1, Prompting(style="plain"))
    assert ask(here, prompts) == ask(load_engine(served), prompts)


@pytest.mark.slow
def test_a_server_pinned_to_another_model_is_one_line(served):
    url = served.partition("#")[0]
    with pytest.raises(
        GazalError,
        match=r"^model another: the server failed \(item \d+ of 100, http://127.0.0.1:\d+: refuses the request \(status 400: Server is pinned to ",
    ):
        ask(load_engine(f"{url}#another"), Prompts(ITEMS, 1, Prompting(SYSTEM)))
