"""`gazal check` on a folder, on a server, and on what is neither."""

from __future__ import annotations

import pytest
from helpers.openai_server import scripted_server

from gazal import DISCLAIMER


@pytest.fixture
def server():
    with scripted_server() as found:
        yield found


def test_a_folder(gazal, tiny_model):
    done = gazal("check", "--model", tiny_model, "--tokens", "8")
    assert done.returncode == 0, done.stderr
    topics = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert topics[:6] == ["loads", "template", "stops at", "thinking", "completion", "answer"]
    assert "Qwen3ForCausalLM" in done.stdout and "the same text again" in done.stdout and "<|im_end|>" in done.stdout
    assert DISCLAIMER in done.stdout and str(tiny_model) not in done.stdout


@pytest.mark.parametrize(
    "text, said",
    [
        ("<think>Scurvy.</think>\n\n**Answer:** C", ("think, closed", "C, which is right")),
        ("[THINK]Scurvy.[/THINK]Answer: A", ("brackets (Mistral), closed; rewards", "A, which is wrong")),
        ("Scurvy.</thinking>Answer: C", ("tags, which the template opened, closed", "C, which is right")),
        ("<think>Scurvy, so", ("open at the end: give it more tokens", "none is read (unclosed_think:")),
        ("It depends.", ("none in this completion", "none is read (no_answer:")),
    ],
)
def test_a_server(gazal, server, text, said):
    url, script = server
    script.text = lambda body: text
    done = gazal("check", "--model", f"openai:{url}#my-model")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("server:     model my-model") and all(one in done.stdout for one in said)
    assert len(script.asked) == 1


def test_what_cannot_be_loaded_is_one_line(gazal, tmp_path):
    done = gazal("check", "--model", tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
