"""`gazal teach` against `transformers serve` with the packaged model: a real server, whose answers are no examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.model_server import needs_serve, serving

from gazal.common.errors import GazalError
from gazal.common.paths import EMBEDDED
from gazal.teacher.client import Cap
from gazal.teacher.command import teach

pytestmark = needs_serve
SEEDS = [
    {
        "id": "mi",
        "question": "A man of 62 has chest pain and ST elevation in II, III and aVF. Which artery is occluded?",
        "subject": "cardiology",
        "options": {"A": "Left anterior descending", "B": "Right coronary", "C": "Circumflex"},
        "answer_idx": "B",
    },
    {"id": "gout", "question": "Which dose of colchicine treats a gout flare?", "subject": "pharmacology"},
    {"id": "sepsis", "question": "A woman of 80 with fever is confused and hypotensive. What is the outlook?"},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("serve")) as url:
        yield url


def write_seeds(path: Path) -> Path:
    path.write_text("".join(json.dumps(seed) + "\n" for seed in SEEDS))
    return path


@pytest.mark.slow
def test_a_real_server(served, tmp_path):
    seeds, out = write_seeds(tmp_path / "seeds.jsonl"), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "gazal",
        "teach",
        "--model",
        EMBEDDED,
        "--endpoint",
        served,
        "--seeds",
        seeds,
        "--out",
        out,
        "--max-tokens",
        60,
        "--max-total-tokens",
        20000,
        "--concurrency",
        2,
        "--samples",
        2,
        "--yes",
    ]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=120,
        env={k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    raw = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    report = json.loads((out / "report.json").read_text())
    assert len(raw) == 6 and report["counts"] == {
        "tasks": 3,
        "requests": 6,
        "answered": 6,
        "accepted": 0,
        "rejected": 6,
    }
    assert report["model"] == "embedded_base" and report["served_as"] == [
        "embedded_base@main"
    ]  # never this machine's folders
    assert str(EMBEDDED) not in "".join(path.read_text() for path in out.iterdir())
    assert (
        report["booked"]["tokens"] == sum(line["response"]["usage"]["total_tokens"] for line in raw)
        and report["tokens"]["answers_without_usage"] == 0
    )
    answers = {(line["id"], line["sample"]): line["response"]["choices"][0] for line in raw}
    for line in map(json.loads, (out / "rejected.jsonl").read_text().splitlines()):  # rejected for what is so
        answer = answers[line["id"], line["sample"]]
        assert line["text"] == answer["message"]["content"].strip()[:300]
        assert (line["reasons"] == ["truncated"]) == (answer["finish_reason"] == "length")
        assert answer["finish_reason"] == "length" or {"no_think_block", "empty"} & set(line["reasons"])
    assert (out / "examples.jsonl").read_text() == ""
    said: list[str] = []  # no server, and nothing left to ask
    teach(
        str(EMBEDDED),
        "http://127.0.0.1:9/v1",
        out,
        seeds=seeds,
        samples=2,
        max_tokens=60,
        cap=Cap(tokens=20000),
        say=said.append,
    )
    assert "0 requests to send, 6 of 6 answered before" in said[0]


@pytest.mark.slow
def test_a_real_servers_refusal_is_one_line(served, tmp_path):
    with pytest.raises(
        GazalError, match="refuses the request .status 400: Server is pinned to .*requested 'another-model'"
    ):
        teach(
            "another-model",
            served,
            tmp_path / "out",
            seeds=write_seeds(tmp_path / "seeds.jsonl"),
            cap=Cap(tokens=20000),
        )
    assert not (tmp_path / "out" / "examples.jsonl").exists()
